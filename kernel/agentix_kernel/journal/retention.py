"""What becomes of closed segments: compressed at once, dropped when the operator's limits say so.

The two last segments in use stay as they are: recovery reads and writes them. Nothing here touches what a Journal
appends to, so it runs in a thread beside it. What is dropped was told in the journal before, by a record that the chain
vouches for (`Drop.data`); a crash between the two leaves segments that the next look drops.
"""

import errno
from collections import Counter
from itertools import pairwise
from typing import Any, Final

from attrs import frozen

from agentix_kernel.journal import format as form
from agentix_kernel.journal import packed, walk
from agentix_kernel.journal.errors import JournalDamaged
from agentix_kernel.journal.format import Head
from agentix_kernel.journal.key import Key
from agentix_kernel.world import Disk
from agentix_syscalls import records as table

OPEN_SEGMENTS: Final = 2
"""The last ones, which are neither compressed nor dropped."""


@frozen
class Drop:
    """Segments `first` to `last`, and what is told of them: records in the order of the kind `dropped`."""

    first: int
    last: int
    data: tuple[int, int, dict[str, Any]]


def compress(disk: Disk, number: int) -> None:
    """Compress a closed segment, unless it is. Raises OSError, Broken."""
    if packed.is_packed(walk.load_raw(disk, number, packed.BEGIN)):
        return
    data = walk.load_raw(disk, number)
    small = packed.pack(data)
    assert packed.unpack(small) == (data, "")
    disk.replace(form.name_of(number), small)


def expired(disk: Disk, key: Key, segment: int, now_ns: int, keep_ns: int, keep_bytes: int) -> Drop | None:
    """What is to be dropped while a kernel writes to `segment`: what is older, and then the oldest over that size.

    0 is no limit. Raises JournalDamaged when that is not whole: it is kept to be looked at.
    """
    there = [number for number in walk.numbers(disk) if number <= segment]
    heads = {number: _head(disk, key, number) for number in there}
    sizes = {number: _size(disk, number) for number in there}
    total, last, why = sum(sizes.values()), 0, ""
    for number, following in pairwise(there[:len(there) - OPEN_SEGMENTS + 1]):
        if keep_ns and heads[following].wall_ns < now_ns - keep_ns:
            why = f"older than {keep_ns / 86400e9:g} days"
        elif keep_bytes and total > keep_bytes:
            why = f"over {keep_bytes} bytes"
        else:
            break
        total, last = total - sizes[number], number
    if not last:
        return None
    gone = sum(size for number, size in sizes.items() if number <= last)
    return _told(disk, key, there[0], heads[last + 1], gone, why)


def _told(disk: Disk, key: Key, first: int, following: Head, size: int, why: str) -> Drop:
    """Count what is in the segments before `following`. Raises JournalDamaged."""
    cursor = walk.start_durable(disk, key, first)
    first_seq, kinds, begun_ns = cursor.next_seq, Counter[str](), 0
    while cursor.number < following.number:
        for data, group in walk.chain(walk.load(disk, cursor.number, cursor.offset), key, cursor):
            begun_ns = begun_ns or group.wall_ns
            for _, _, _, kind, *_ in form.rows(data, group):
                kinds[table.BY_NUMBER[kind].name if kind in table.BY_NUMBER else str(kind)] += 1
        behind = walk.start_durable(disk, key, cursor.number + 1)
        if (_head(disk, key, behind.number).previous, behind.next_seq) != (cursor.link, cursor.next_seq):
            raise JournalDamaged(
                errno.EUCLEAN, f"journal {disk}: {form.name_of(cursor.number)} is due to be dropped, but it is damaged "
                f"at {cursor.offset}, and kept; agentctl audit verify tells more")
        cursor = behind
    summary = {"segments": [first, following.number - 1], "records": sum(kinds.values()), "bytes": size,
               "kinds": dict(kinds.most_common()), "from_wall_ns": begun_ns, "to_wall_ns": following.wall_ns,
               "next_segment": following.number, "link": following.previous.hex(), "why": why}
    return Drop(first, following.number - 1, (first_seq, following.first_seq - 1, summary))


def remove(disk: Disk, drop: Drop) -> None:
    """The oldest first, so that what a crash leaves is without a gap."""
    for number in range(drop.first, drop.last + 1):
        disk.remove(form.name_of(number))


def _head(disk: Disk, key: Key, number: int) -> Head:
    walk.start_durable(disk, key, number)
    found = walk.head(disk, key, number)
    assert found is not None
    return found


def _size(disk: Disk, number: int) -> int:
    file = disk.open(form.name_of(number))
    try:
        return file.size()
    finally:
        file.close()
