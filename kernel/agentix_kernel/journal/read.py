"""Reading the journal, also while a kernel appends to it: only whole groups that follow each other are seen."""

import errno
from collections.abc import Callable, Collection, Iterator
from typing import Any

from attrs import frozen

from agentix_kernel.journal import format as form
from agentix_kernel.journal import walk
from agentix_kernel.journal.errors import JournalDamaged
from agentix_kernel.journal.format import Broken, Group
from agentix_kernel.journal.key import Key
from agentix_kernel.world import Disk
from agentix_syscalls import records as table


@frozen
class Record:
    """One record. Times are ns; numbers are those of records.py. `dropped`: its body was dropped after a checkpoint."""

    seq: int
    mono_ns: int
    wall_ns: int
    agent: int
    life: int
    kind: int
    phase: int
    verdict: int
    rule: str
    correlation: int
    data: tuple[Any, ...]
    dropped: bool = False

    def fields(self) -> dict[str, Any]:
        """The data by the names of records.py; positions that this version has no name for by their number."""
        row = table.BY_NUMBER.get(self.kind)
        names = row.fields if row else ()
        return {names[at] if at < len(names) else str(at): value for at, value in enumerate(self.data)}


def decode(data: bytes, group: Group, agent: int | None = None, kinds: Collection[int] | None = None) -> list[Record]:
    """The records of a whole group that match. Raises Broken."""
    found: list[Record] = []
    seq, mono_ns, wall_ns, at = group.first_seq, group.mono_ns, group.wall_ns, group.bodies_at
    for after, who, life, kind, phase, verdict, rule, correlation, values, *body in form.rows(data, group):
        dropped = bool(body) and group.dropped
        if body:
            values = () if dropped else form.unpack(data[at:at + body[0]])  # noqa: PLW2901 - it stands in for the nil
            at += body[0]
        if (agent is None or who == agent) and (kinds is None or kind in kinds):
            found.append(Record(seq, mono_ns + after, wall_ns + after, who, life, kind, phase, verdict, rule,
                                correlation, values, dropped))
        seq += 1
    return found


def one(seq: int, mono_ns: int, wall_ns: int, packed: bytes) -> Record:
    """A record as Journal.latest has it; a body that stands apart is left out."""
    after, agent, life, kind, phase, verdict, rule, correlation, values, *_ = form.unpack(packed)
    return Record(seq, mono_ns + after, wall_ns + after, agent, life, kind, phase, verdict, rule, correlation,
                  values or ())


def read(disk: Disk, key: Key, *, start_seq: int = 0, agent: int | None = None,
         kinds: Collection[int] | None = None) -> Iterator[Record]:
    """Records from `start_seq` on, up to the last whole group.

    Raises JournalDamaged where the journal is, after what stands before that; JournalKeyError, JournalNewer.
    """
    cursor = walk.seek(disk, key, start_seq)
    if cursor is None:
        return
    for data, group in walk.walk(disk, key, cursor):
        if group.next_seq > start_seq:
            for record in _decode(disk, data, group, agent, kinds):
                if record.seq >= start_seq:
                    yield record
    walk.check_end(disk, key, cursor)


def tail(disk: Disk, key: Key, count: int, *, agent: int | None = None, kinds: Collection[int] | None = None,
         wanted: Callable[[Record], bool] | None = None, segments: int | None = None) -> list[Record]:
    """The last `count` records that match and that are `wanted`, oldest first. Raises as `read` does.

    Reads segments from the last one back until it has them; at most `segments` of them.
    """
    found: list[Record] = []
    for number in list(reversed(walk.numbers(disk)))[:segments and segments + 1]:  # the last one is prepared, not used
        cursor = walk.try_start(disk, key, number)
        if cursor is None:
            continue
        data = walk.load(disk, number, cursor.offset)
        if not data:  # dropped meanwhile
            break
        whole = list(walk.chain(data, key, cursor))
        walk.check_end(disk, key, cursor)
        while whole and len(found) < count:
            found.extend(filter(wanted, reversed(_decode(disk, *whole.pop(), agent, kinds))))
        if len(found) >= count:
            break
    return found[:count][::-1]


def _decode(disk: Disk, data: bytes, group: Group, agent: int | None, kinds: Collection[int] | None) -> list[Record]:
    try:
        return decode(data, group, agent, kinds)
    except Broken as broken:
        raise JournalDamaged(errno.EUCLEAN, f"journal {disk}, group of record {group.first_seq}: {broken}") from None
