"""Flight records as operators and proc files get them."""

import time
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import Any, Final

import trio
from attrs import frozen

from agentix_kernel.journal import read
from agentix_kernel.journal.follow import Follower, Missed
from agentix_kernel.journal.format import name_of
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.read import Record
from agentix_syscalls import events, records

PIECE: Final = 1000


def row(record: Record) -> dict[str, Any]:
    """One record by names, as `agentctl trace --json` prints it."""
    kind = records.BY_NUMBER.get(record.kind)
    return {
        "seq": record.seq, "wall_ns": record.wall_ns, "mono_ns": record.mono_ns, "agent": record.agent,
        "life": record.life, "kind": kind.name if kind else str(record.kind), "phase": records.PHASES[record.phase],
        "verdict": records.VERDICTS[record.verdict], "rule": record.rule, "correlation": record.correlation,
        "data": record.fields(),
    }


def line(record: Record) -> str:
    """One record as a line of proc/trace."""
    shown = row(record)
    fields = " ".join(f"{name}={value!r}" for name, value in shown["data"].items() if value not in ("", None, 0, []))
    return (f"{record.seq}\t{record.wall_ns // 10**9}.{record.wall_ns // 10**6 % 1000:03}\t{shown['kind']}"
            f"\t{shown['verdict']}\t{fields}{f' rule={record.rule!r}' if record.rule else ''}")


def last(journal: Journal, count: int, agent: int) -> list[Record]:
    """Of the current segment only: the file is read in the kernel's loop, so it must be quick."""
    return read.tail(journal.disk, journal.key, count, agent=agent, segments=1)


@frozen
class Wanted:
    """Which records are asked for: each part that is not None must hold. `events`: those that are events of these
    names, of any name for none. Called with a record it says whether that is one.
    """

    agents: frozenset[int] | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    events: frozenset[str] | None = None

    @property
    def kinds(self) -> frozenset[int] | None:
        return None if self.events is None else events.KINDS

    def __call__(self, record: Record) -> bool:
        if self.agents is not None and record.agent not in self.agents:
            return False
        if self.since_ns is not None and record.wall_ns < self.since_ns:
            return False
        if self.until_ns is not None and record.wall_ns > self.until_ns:
            return False
        if self.events is None:
            return True
        event = _event(record)
        return event is not None and (not self.events or event.name in self.events)

    @property
    def agent(self) -> int | None:
        """The one agent that is asked for, if it is one: reading knows to skip the others early."""
        return next(iter(self.agents)) if self.agents is not None and len(self.agents) == 1 else None


def _event(record: Record) -> events.Event | None:
    known = record.kind in events.KINDS
    return events.find(record.kind, record.phase, record.verdict, record.fields()) if known else None


def event_row(record: Record, name: str) -> dict[str, Any]:
    """A record that is an event, as `agentctl events --json` prints it. `name`: the agent's, if it still has one."""
    event = _event(record)
    assert event is not None
    fields = record.fields()
    return {"seq": record.seq, "wall_ns": record.wall_ns, "event": event.name, "agent": record.agent, "name": name,
            "life": record.life, "rule": record.rule, "data": {field: fields.get(field) for field in event.fields}}


async def _old(journal: Journal, wanted: Wanted, tail: int | None) -> AsyncGenerator[Record]:
    """What is in the journal, read in a thread, some at a time."""
    disk, key = journal.disk, journal.key
    if tail is not None:
        last_records: list[Record] = await trio.to_thread.run_sync(
            lambda: read.tail(disk, key, tail, agent=wanted.agent, kinds=wanted.kinds, wanted=wanted))
        for record in last_records:
            yield record
        return
    matching = filter(wanted, read.read(disk, key, agent=wanted.agent, kinds=wanted.kinds))
    while some := await trio.to_thread.run_sync(lambda: list(islice(matching, PIECE))):
        for record in some:
            yield record


async def stream(journal: Journal, show: Callable[[Record], dict[str, Any]], wanted: Wanted, *, follow: bool,
                 tail: int | None) -> AsyncGenerator[dict[str, Any]]:
    """Old records, then (`follow`) new ones as they are published; what was too fast for the reader is said."""
    follower = journal.follow(wanted=wanted)
    try:
        seen = 0
        async for record in _old(journal, wanted, tail):
            seen = record.seq
            yield show(record)
        while follow:
            new = await _next(follower, wanted.until_ns)
            if new is None:
                return
            if isinstance(new, Missed):
                yield {"missed": new.count, "first_seq": new.first_seq, "last_seq": new.last_seq}
            elif new.seq > seen:
                yield show(new)
    finally:
        follower.close()


async def _next(follower: Follower, until_ns: int | None) -> Record | Missed | None:
    """None when no more can come."""
    with trio.move_on_after(float("inf") if until_ns is None else max(until_ns - time.time_ns(), 0) / 1e9):
        return await follower.next()
    return None


def verify(journal: Journal) -> dict[str, Any]:
    """Check the whole chain; run in a thread."""
    from agentix_kernel.journal.verify import verify as verify_chain

    published = journal.published
    report = verify_chain(journal.disk, journal.key)
    problems = [{"segment": problem.segment, "offset": problem.offset, "what": problem.what}
                for problem in report.problems]
    if report.ok and report.last_seq < published:  # after a crash a torn end; this kernel knows what it wrote
        problems.append({"segment": name_of(journal.segment), "offset": 0, "what": f"records {report.last_seq + 1} to "
                         f"{published} were written by this kernel and are not whole any more"})
    return {
        "ok": not problems, "records": report.records, "groups": report.groups, "segments": report.segments,
        "first_seq": report.first_seq, "last_seq": report.last_seq, "torn_tail": report.torn_tail,
        "problems": problems,
        "text": report.text(),
    }
