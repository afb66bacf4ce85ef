"""Pieces of the journal: some groups that follow each other, cut so that one is read and decoded in a moment."""

import errno
from collections.abc import Collection, Iterator
from typing import Final

from attrs import define, field, frozen

from agentix_kernel.journal import packed, walk
from agentix_kernel.journal.errors import JournalDamaged
from agentix_kernel.journal.format import Broken, Group
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.read import Record, decode
from agentix_kernel.journal.walk import Cursor
from agentix_kernel.world import Disk

BLOCK_BYTES: Final = 64 << 10
BLOCK_RECORDS: Final = 512
"""A block is full when it has so much, or when its segment ends."""

Grouped = tuple[bytes, Group]
"""A group, and the bytes that it stands in."""


@frozen
class Place:
    """Where a block stands: in which segment, from where to where, and what its first group follows."""

    number: int
    begin: int
    end: int
    link: bytes
    first_seq: int
    next_seq: int


@define
class Block:
    """Being put together: it begins at `place` and has these groups so far."""

    place: Place
    groups: list[Grouped] = field(factory=list[Grouped])

    @property
    def full(self) -> bool:
        place = self.place
        return place.end - place.begin >= BLOCK_BYTES or place.next_seq - place.first_seq >= BLOCK_RECORDS


def blocks(disk: Disk, key: Key, cursor: Cursor) -> Iterator[Block]:
    """The journal from the cursor on, in blocks; the last one may not be full. Leaves the cursor behind it."""
    block: Block | None = None
    at = (cursor.number, cursor.offset, cursor.link, cursor.next_seq)
    for data, group in walk.walk(disk, key, cursor):
        if block is not None and (block.full or block.place.number != cursor.number):
            yield block
            block = None
        begin = cursor.offset - (group.end - group.start)
        if block is None:
            link = at[2] if at[0] == cursor.number else _head_link(disk, key, cursor.number)
            block = Block(Place(cursor.number, begin, begin, link, group.first_seq, group.first_seq))
        block.groups.append((data, group))
        place = block.place
        block.place = Place(place.number, place.begin, cursor.offset, place.link, place.first_seq, group.next_seq)
        at = (cursor.number, cursor.offset, cursor.link, cursor.next_seq)
    if block is not None:
        yield block


def _head_link(disk: Disk, key: Key, number: int) -> bytes:
    head = walk.head(disk, key, number)
    assert head is not None, "groups were read behind it"
    return head.link


@define
class Bytes:
    """The bytes of blocks. Of a compressed segment the content is kept, for the next block is often of the same one."""

    disk: Disk
    _number: int = 0
    _content: bytes = b""

    def read(self, place: Place) -> bytes:
        """Raises OSError, JournalDamaged."""
        if place.number != self._number:
            if not packed.is_packed(walk.load_raw(self.disk, place.number, packed.BEGIN)):
                return walk.load(self.disk, place.number, place.begin, place.end - place.begin)
            self._number, self._content = place.number, walk.load(self.disk, place.number)
        return self._content[place.begin:place.end]


def load(held: Bytes, key: Key, place: Place) -> list[Grouped]:
    """The groups of a block that was met before, each vouched for by the key. Raises JournalDamaged when they are not
    there as they were, OSError.
    """
    cursor, disk = Cursor(place.number, place.begin, place.link, place.first_seq), held.disk
    groups = list(walk.chain(held.read(place), key, cursor))
    if (cursor.offset, cursor.next_seq) != (place.end, place.next_seq):
        raise JournalDamaged(
            errno.EUCLEAN, f"journal {disk}: records {cursor.next_seq} to {place.next_seq - 1} are not there as they "
            "were written; agentctl audit verify tells more")
    return groups


def records(disk: Disk, grouped: Grouped, agent: int | None = None,
            kinds: Collection[int] | None = None) -> list[Record]:
    """The records of one group, of one agent and of some kinds only if these are given. Raises JournalDamaged."""
    data, group = grouped
    try:
        return decode(data, group, agent, kinds)
    except Broken as broken:
        raise JournalDamaged(
            errno.EUCLEAN, f"journal {disk}, group of record {group.first_seq}: {broken}") from None
