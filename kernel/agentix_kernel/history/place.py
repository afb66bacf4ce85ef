"""Where one record stands in the journal, and whether that place is as it was written."""

import errno
from typing import Any, NamedTuple

from agentix_kernel.history.index import Index
from agentix_kernel.journal import format as form
from agentix_kernel.journal import read, walk
from agentix_kernel.journal.errors import JournalDamaged, JournalError
from agentix_kernel.journal.format import Group
from agentix_kernel.journal.read import Record
from agentix_syscalls.errors import CallError


class Place(NamedTuple):
    """A group: in which segment, from which byte on, and whether its chain is whole from the segment's head on."""

    number: int
    offset: int
    data: bytes
    group: Group
    fault: str


def find(index: Index, seq: int) -> tuple[dict[str, Any], Record]:
    """The place of a record, as it is told, and the record. Raises CallError ENOENT."""
    found = _chained(index, seq) or _astray(index, seq)
    if found is None:
        raise CallError(errno.ENOENT, f"the journal has no record {seq}",
                        remedy="it is not made yet, or gone by retention; agentctl audit verify tells which there are")
    group = found.group
    record = next(one for one in read.decode(found.data, group) if one.seq == seq)
    told = {"segment": form.name_of(found.number), "offset": found.offset, "first_seq": group.first_seq,
            "records": group.count, "wall_ns": group.wall_ns, "link": group.link.hex(), "whole": not found.fault,
            "fault": found.fault}
    return told, record


def _chained(index: Index, seq: int) -> Place | None:
    """By the chain from the head of its segment on: then the key vouches for it."""
    try:
        cursor = walk.seek(index.disk, index.key, seq)
    except JournalDamaged:
        return None
    if cursor is None or cursor.next_seq > seq:
        return None
    number, data = cursor.number, walk.load(index.disk, cursor.number, cursor.offset)
    for whole, group in walk.chain(data, index.key, cursor):
        if group.next_seq > seq:
            return Place(number, cursor.offset - (group.end - group.start), whole, group, "")
    return None


def _astray(index: Index, seq: int) -> Place | None:
    """By its own digest alone: something before it is not as it was written."""
    for number in _candidates(index, seq):
        data = walk.load(index.disk, number)
        for key in (index.key, *index.key.others):
            at = form.FIRST_GROUP
            while (group := form.find(data, at, key.tag(number), key)) is not None:
                if group.first_seq <= seq < group.next_seq:
                    return Place(number, group.start, data, group, "it does not follow what stands before it, or that "
                                 "is damaged; agentctl audit verify tells where")
                at = group.end
    return None


def _candidates(index: Index, seq: int) -> list[int]:
    """The segments that may hold a record by what their heads say, and those whose heads say nothing."""
    there = walk.numbers(index.disk)
    firsts = [_first(index, number) for number in there]
    following = [*firsts[1:], None]
    return [number for number, first, behind in zip(there, firsts, following, strict=True)
            if first is None or (first <= seq and (behind is None or seq < behind))]


def _first(index: Index, number: int) -> int | None:
    try:
        cursor = walk.try_start(index.disk, index.key, number)
    except JournalError:
        return None
    return None if cursor is None else cursor.next_seq
