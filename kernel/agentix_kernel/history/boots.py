"""The boots of a state directory: when each began, how it ended, what it lost, what it had to repair as it began."""

from collections.abc import Iterator
from typing import Any, Final

from attrs import asdict, define, field, frozen

from agentix_kernel.history.index import Index
from agentix_kernel.history.question import Question
from agentix_kernel.history.search import search
from agentix_kernel.journal.read import Record
from agentix_syscalls import records

_ENDS: Final = {"shutdown": "in order", "panic": "panicked"}
_KINDS: Final = frozenset(records.BY_NAME[name].number for name in ("boot", "lost", "restart", "step", *_ENDS))
_REPAIRS: Final = {"sweep": "of a dead kernel", "journal": ", cut "}
"""Steps of a boot that may tell of repairs, and what they say then."""


@frozen
class Begun:
    """The record of a boot, and its number."""

    seq: int
    boot: int


def begun(index: Index) -> list[Begun]:
    """All that are in the journal, in order."""
    found = search(index, Question(kinds=frozenset({records.BOOT})))
    return [Begun(record.seq, record.data[0]) for _, some in found for record in some]


@define
class Boot:
    """One row. Times are ns; `ended_ns` is when the last record was made, None while it runs.

    `end`: "in order", "panicked", "killed", or "running". `lost`: agents that ran when it died, as the next boot found
    them. `restarted`: those that it ran again as it began. `repaired`: what a dead kernel had left, in its own words.
    """

    boot: int
    seq: int
    version: str
    began_ns: int
    ended_ns: int | None = None
    end: str = "running"
    why: str = ""
    lost: int = 0
    restarted: int = 0
    repaired: list[str] = field(factory=list[str])

    def take(self, record: Record, name: str) -> None:
        """What is recorded while it runs."""
        if name in _ENDS:
            self.end, self.ended_ns = _ENDS[name], record.wall_ns
            self.why = ": ".join(map(str, record.data[:2]))
        elif name == "step":
            step, detail = map(str, record.data[:2])
            if step in _REPAIRS and _REPAIRS[step] in detail:
                self.repaired.append(detail)


def boots(index: Index, running: bool) -> Iterator[dict[str, Any]]:
    """Rows of all boots, the oldest first. `running`: the last one still runs."""
    found: list[Boot] = []
    reviving = False
    for _, some in search(index, Question(kinds=_KINDS)):
        for record in some:
            name = records.BY_NUMBER[record.kind].name
            if name == "boot":
                found.append(Boot(record.data[0], record.seq, str(record.data[1]), record.wall_ns))
                reviving = True
            elif name == "lost" and len(found) > 1:
                found[-2].lost += 1
            elif name == "restart" and found:
                found[-1].restarted += reviving
            elif found:
                found[-1].take(record, name)
                reviving = reviving and not (name == "step" and record.data[0] == "restarts")
    _end(index, found, running=running)
    return map(asdict, found)


def _end(index: Index, found: list[Boot], *, running: bool) -> None:
    """Whoever says nothing of its end was killed, at some time after its last record."""
    for at, boot in enumerate(found):
        if boot.ended_ns is None and not (running and at == len(found) - 1):
            boot.end, boot.ended_ns = "killed", boot.began_ns
            last = found[at + 1].seq - 1 if at + 1 < len(found) else None
            newest = search(index, Question(from_seq=boot.seq, to_seq=last), newest=True)
            boot.ended_ns = next((record.wall_ns for _, some in newest for record in some), boot.began_ns)
