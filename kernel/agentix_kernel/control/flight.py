"""Flight records as operators and proc files get them."""

from collections.abc import AsyncGenerator
from itertools import islice
from typing import Any, Final

import trio

from agentix_kernel.journal import read
from agentix_kernel.journal.follow import Missed
from agentix_kernel.journal.format import name_of
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.read import Record
from agentix_syscalls import records

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


async def _old(journal: Journal, agent: int | None, tail: int | None) -> AsyncGenerator[Record]:
    """What is in the journal, read in a thread, some at a time."""
    disk, key = journal.disk, journal.key
    if tail is not None:
        last_records: list[Record] = await trio.to_thread.run_sync(lambda: read.tail(disk, key, tail, agent=agent))
        for record in last_records:
            yield record
        return
    records_from_the_start = read.read(disk, key, agent=agent)
    while some := await trio.to_thread.run_sync(lambda: list(islice(records_from_the_start, PIECE))):
        for record in some:
            yield record


async def stream(journal: Journal, *, agent: int | None, follow: bool,
                 tail: int | None) -> AsyncGenerator[dict[str, Any]]:
    """Old records, then (`follow`) new ones as they are published; what was too fast for the reader is said."""
    follower = journal.follow(agent=agent)
    try:
        seen = 0
        async for record in _old(journal, agent, tail):
            seen = record.seq
            yield row(record)
        while follow:
            new = await follower.next()
            if new is None:
                return
            if isinstance(new, Missed):
                yield {"missed": new.count, "first_seq": new.first_seq, "last_seq": new.last_seq}
            elif new.seq > seen:
                yield row(new)
    finally:
        follower.close()


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
