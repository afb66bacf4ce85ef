"""Opens what the last kernel left: finds the head of the chain, cuts a torn tail, refuses what is no crash's work."""

import errno
from itertools import pairwise

from attrs import frozen

from agentix_kernel.journal import format as form
from agentix_kernel.journal import packed, walk
from agentix_kernel.journal.errors import JournalDamaged
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.walk import Cursor
from agentix_kernel.world import Disk, File


@frozen
class Opened:
    """What was found, and what was done about it. `torn_bytes` were cut, from `torn_at` on."""

    head_seq: int
    first_seq: int
    segments: int
    torn_bytes: int = 0
    torn_at: str = ""

    def text(self) -> str:
        if not self.segments:
            return "new"
        count = self.head_seq - self.first_seq + 1
        told = f"{_many(count, 'record')} in {_many(self.segments, 'segment')}"
        return told + (f", cut {self.torn_bytes} torn bytes of {self.torn_at}" if self.torn_bytes else ", whole")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def recover(disk: Disk, key: Key) -> tuple[Cursor | None, Opened]:
    """The place where appending goes on (None: there is no segment yet). Everything before it is durable on return.

    Only the last two segments are read: the ones before were durable when those were begun.
    Raises JournalDamaged and JournalKeyError, having changed nothing.
    """
    there = walk.numbers(disk)
    _check_gaps(disk, there)
    last = _last(disk, key, there)
    if last is None:
        _refuse_headless(disk, key, there)
        torn = sum(_wipe(disk, number) for number in reversed(there))
        return None, Opened(0, 1, 0, torn, form.name_of(1) if torn else "")
    _refuse_closed(disk, last)
    first = walk.start_durable(disk, key, there[0])
    cursor = walk.start_durable(disk, key, max(first.number, last - 1))
    begun = cursor.number
    for _ in walk.walk(disk, key, cursor):
        pass
    walk.check_end(disk, key, cursor)
    torn = sum(_wipe(disk, number) for number in reversed(there) if number > cursor.number)
    torn += _zero_from(disk, cursor.number, cursor.offset)
    for number in range(begun, cursor.number + 1):
        _sync(disk, number)
    at = f"{form.name_of(cursor.number)} at {cursor.offset}" if torn else ""
    return cursor, Opened(cursor.next_seq - 1, first.next_seq, cursor.number - first.number + 1, torn, at)


def _check_gaps(disk: Disk, there: list[int]) -> None:
    for number, following in pairwise(there):
        if following != number + 1:
            raise JournalDamaged(
                errno.EUCLEAN, f"journal {disk}: {form.name_of(number + 1)} is missing; put it back from a copy, or "
                "move the journal away to begin a new one")


def _last(disk: Disk, key: Key, there: list[int]) -> int | None:
    """The last segment with a good head; behind it are prepared ones, and one whose head may have been torn."""
    for number in reversed(there):
        if walk.try_start(disk, key, number) is not None:
            return number
    return None


def _refuse_closed(disk: Disk, last: int) -> None:
    """A segment is compressed when two later ones are in use: as the last one it is what a lost tail leaves."""
    if packed.is_packed(walk.load_raw(disk, last, packed.BEGIN)):
        raise JournalDamaged(
            errno.EUCLEAN, f"journal {disk}: {form.name_of(last)} is compressed, so later segments were there, and are "
            "missing; put them back from a copy, or move the journal away to begin a new one")


def _refuse_headless(disk: Disk, key: Key, there: list[int]) -> None:
    """No good head at all: a first segment whose head was torn holds no group."""
    if there:
        walk.check_end(disk, key, Cursor(0, 0, form.NO_LINK, 1))


def _wipe(disk: Disk, number: int) -> int:
    """Make a segment unused again; returns how many bytes it had. Groups go first: a head alone is harmless."""
    return _zero_from(disk, number, form.FIRST_GROUP) + _zero_from(disk, number, 0)


def _zero_from(disk: Disk, number: int, offset: int) -> int:
    """Zero, durably, what is not zero from `offset` on; returns how many bytes that spans."""
    span = form.span(walk.load(disk, number, offset))
    if span:
        file = disk.open(form.name_of(number), write=True)
        try:
            write_all(file, bytes(span), offset)
            file.datasync()
        finally:
            file.close()
    return span


def write_all(file: File, data: bytes, offset: int) -> None:
    """As much as `data` is: a short write is followed by the error that made it short."""
    while data:
        done = file.pwrite(data, offset)
        data, offset = data[done:], offset + done


def _sync(disk: Disk, number: int) -> None:
    file = disk.open(form.name_of(number), write=True)
    try:
        file.datasync()
    finally:
        file.close()
