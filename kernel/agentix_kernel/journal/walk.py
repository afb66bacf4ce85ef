"""Walks the chain: from a head through the groups into the next segment, as far as everything is whole.

Works beside a kernel that appends: what is half written now ends the walk, and the next one sees it whole.
"""

import errno
from collections.abc import Iterator

from attrs import define

from agentix_kernel.journal import format as form
from agentix_kernel.journal import packed
from agentix_kernel.journal.errors import JournalDamaged, JournalKeyError
from agentix_kernel.journal.format import Broken, Group, Head
from agentix_kernel.journal.key import TAG_BYTES, Key
from agentix_kernel.world import Disk


@define
class Cursor:
    """Where the next group is expected, and what it must follow."""

    number: int
    offset: int
    link: bytes
    next_seq: int


def numbers(disk: Disk) -> list[int]:
    """Numbers of the segments that are there, in order."""
    return sorted(number for number in map(form.number_of, disk.names()) if number is not None)


def dropped(disk: Disk, number: int) -> bool:
    """Whether a segment has gone with all before it, as retention drops them: who reads meanwhile goes on behind."""
    there = numbers(disk)
    return bool(there) and there[0] > number


def load(disk: Disk, number: int, offset: int = 0, count: int | None = None) -> bytes:
    """What a segment holds from `offset` on; nothing when it is not there."""
    try:
        file = disk.open(form.name_of(number))
    except FileNotFoundError:
        return b""
    try:
        if packed.is_packed(begin := file.pread(packed.BEGIN, 0)):
            if not offset and count == form.HEAD_BYTES:
                return packed.segment_head(begin)
            content = packed.content(file.pread(file.size(), 0))
            return content[offset:None if count is None else offset + count]
        return file.pread(max(0, file.size() - offset) if count is None else count, offset)
    finally:
        file.close()


def load_raw(disk: Disk, number: int, count: int | None = None) -> bytes:
    """The begin of a segment's file as it lies there, or all of it."""
    file = disk.open(form.name_of(number))
    try:
        return file.pread(file.size() if count is None else count, 0)
    finally:
        file.close()


def head(disk: Disk, key: Key, number: int) -> Head | None:
    """The head of a segment, or None when it is not in use.

    Raises Broken; JournalKeyError for a foreign key, JournalDamaged for a segment that was renamed: no crash does that.
    """
    return decode_head(disk, key, number, load(disk, number, 0, form.HEAD_BYTES))


def decode_head(disk: Disk, key: Key, number: int, data: bytes) -> Head | None:
    """As `head`, of what a segment's content begins with."""
    found = form.decode_head(data) if data else None
    if found is None:
        return None
    if not form.vouch_head(key_of(disk, key, found, number), data):
        raise Broken("the head was not written with the key it names")
    if found.number != number:
        raise JournalDamaged(errno.EUCLEAN, f"journal {disk}: {form.name_of(number)} is segment {found.number} under "
                             "another name; put each where it was, or move the journal away to begin a new one")
    return found


def key_of(disk: Disk, key: Key, of: Head, number: int) -> Key:
    """The key that segment `number` was written with. Raises JournalKeyError."""
    found = key.of(of.key_id)
    if found is None:
        raise JournalKeyError(
            errno.EKEYREJECTED, f"{key.path}: this is key {key.id.hex()}, but {disk}/{form.name_of(number)} was "
            f"written with key {of.key_id.hex()}; put the right key there, or beside it as "
            f"journal-{of.key_id.hex()}.key, or move the journal away for a new one")
    return found


def key_in(disk: Disk, key: Key, number: int) -> Key:
    """The key of a segment in use. Raises Broken, JournalKeyError."""
    found = head(disk, key, number)
    assert found is not None
    return key_of(disk, key, found, number)


def start(disk: Disk, key: Key, number: int) -> Cursor | None:
    """At the first group of a segment; None when the segment is not in use. Raises Broken."""
    found = head(disk, key, number)
    return None if found is None else Cursor(number, form.FIRST_GROUP, found.link, found.first_seq)


def try_start(disk: Disk, key: Key, number: int) -> Cursor | None:
    """As `start`, and None for a broken head, too: what that means is for check_end to say."""
    try:
        return start(disk, key, number)
    except Broken:
        return None


def seek(disk: Disk, key: Key, seq: int) -> Cursor | None:
    """At the first group of the segment that holds record `seq`; of the first one when that is gone; None: no segment.

    Raises JournalDamaged for a segment that is not what it must have been before a later one was begun.
    """
    found: Cursor | None = None
    for number in reversed(numbers(disk)):
        try:
            found = try_start(disk, key, number) if found is None else start_durable(disk, key, number)
        except JournalDamaged:
            if not dropped(disk, number):
                raise
            break
        if found is not None and found.next_seq <= seq:
            break
    if found is None:
        check_end(disk, key, Cursor(0, 0, form.NO_LINK, 1))
    return found


def start_durable(disk: Disk, key: Key, number: int) -> Cursor:
    """The start of a segment that was durable before a later one was begun: no crash excuses its head."""
    try:
        cursor = start(disk, key, number)
        what = "it is empty"
    except Broken as broken:
        cursor, what = None, str(broken)
    if cursor is None:
        raise JournalDamaged(
            errno.EUCLEAN, f"journal {disk}: {form.name_of(number)} is damaged at its head: {what}; agentctl audit "
            "verify tells more; keep a copy of the folder, then move it away to begin a new one")
    return cursor


def walk(disk: Disk, key: Key, cursor: Cursor) -> Iterator[tuple[bytes, Group]]:
    """Every whole group from the cursor on, each with the bytes it stands in. Leaves the cursor behind the last.

    What retention drops meanwhile is passed over.
    """
    while True:
        yield from _unbroken(disk, key, cursor)
        if not dropped(disk, cursor.number):
            return
        kept = start_durable(disk, key, numbers(disk)[0])
        cursor.number, cursor.offset, cursor.link, cursor.next_seq = kept.number, kept.offset, kept.link, kept.next_seq


def _unbroken(disk: Disk, key: Key, cursor: Cursor) -> Iterator[tuple[bytes, Group]]:
    while True:
        # Asked before loading: once the next segment is in use, this one is complete.
        following = _following(disk, key, cursor)
        before = cursor.offset
        yield from chain(load(disk, cursor.number, cursor.offset), key, cursor)
        if following is None:
            if cursor.offset == before:
                return
        elif (following.previous, following.first_seq) == (cursor.link, cursor.next_seq):
            cursor.number, cursor.offset, cursor.link = following.number, form.FIRST_GROUP, following.link
        else:
            return


def _following(disk: Disk, key: Key, cursor: Cursor) -> Head | None:
    try:
        return head(disk, key, cursor.number + 1)
    except Broken:
        return None


def chain(data: bytes, key: Key, cursor: Cursor) -> Iterator[tuple[bytes, Group]]:
    """Groups of `data`, which begins at the cursor's offset, as far as each is whole and follows the one before."""
    key, at = key.of_tag(cursor.number, data[:TAG_BYTES]), 0
    tag = key.tag(cursor.number)
    while True:
        try:
            group = form.parse(data, at, tag, key)
        except Broken:
            return
        if group is None or group.first_seq != cursor.next_seq or key.link(cursor.link, group.digest) != group.link:
            return
        cursor.offset += group.end - at
        cursor.link, cursor.next_seq, at = group.link, group.next_seq, group.end
        yield data, group


def contradiction(disk: Disk, key: Key, cursor: Cursor) -> str | None:
    """Why the end of a walk cannot be the end of the journal, or None when it is one, torn or not.

    The records from the cursor on are lost. No crash did that when a later whole group knows them durable, or stands
    behind a head that is not whole: heads are durable before groups are written.
    """
    for number in numbers(disk):
        if number < cursor.number:
            continue
        here = number == cursor.number
        data, at = load(disk, number), cursor.offset if here else form.FIRST_GROUP
        for one in (key, *key.others):
            why = _contradicts(number, data, at, cursor.next_seq, one, headed=here or _headed(disk, key, number))
            if why is not None:
                return why
    return None


def _contradicts(number: int, data: bytes, at: int, seq: int, key: Key, *, headed: bool) -> str | None:
    """Why a group of this segment, from `at` on, shows record `seq` to have been there."""
    while (group := form.find(data, at, key.tag(number), key)) is not None:
        if not headed:
            return f"{form.name_of(number)} has groups, but its head is not as it was written"
        if group.durable >= seq:
            where = f"{form.name_of(number)} at {group.start}"
            return f"record {seq} was durable, says the group of record {group.first_seq} in {where}"
        at = group.end
    return None


def _headed(disk: Disk, key: Key, number: int) -> bool:
    try:
        return head(disk, key, number) is not None
    except Broken:
        return False


def check_end(disk: Disk, key: Key, cursor: Cursor) -> None:
    """Raise JournalDamaged when the end of a walk is not where the journal can have ended."""
    why = contradiction(disk, key, cursor)
    # A kernel that appends meanwhile may have filled the hole since: then it was none.
    if why is not None and next(walk(disk, key, cursor), None) is None:
        raise JournalDamaged(
            errno.EUCLEAN, f"journal {disk}: {form.name_of(cursor.number)} is damaged at {cursor.offset}: {why}; "
            "agentctl audit verify tells more; keep a copy of the folder, then move it away to begin a new one")
