"""Flight records as operators get them while they are made, and the check of their chain."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import trio

from agentix_kernel.history.question import Question
from agentix_kernel.journal.follow import Follower, Missed
from agentix_kernel.journal.format import name_of
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.read import Record


async def stream(journal: Journal, show: Callable[[Record], dict[str, Any]], asked: Question,
                 old: Callable[[], AsyncGenerator[list[dict[str, Any]]]], *,
                 follow: bool) -> AsyncGenerator[dict[str, Any]]:
    """What is in the journal (`old` gives it), then (`follow`) new records as they are published; what was too fast for
    the reader is said.
    """
    follower = journal.follow(wanted=asked)
    try:
        seen = 0
        async with aclosing(old()) as pieces:
            async for piece in pieces:
                for row in piece:
                    seen = row["seq"]
                    yield row  # noqa: ASYNC119 - server.py closes every stream
        while follow and (new := await _next(follower, asked.until_ns)) is not None:
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


def verify(journal: Journal, anchors_path: str) -> dict[str, Any]:
    """Check the whole chain against what was anchored in that file; run in a thread."""
    from agentix_kernel.journal import anchor
    from agentix_kernel.journal.verify import verify as verify_chain

    # Read before the journal: what is anchored meanwhile may be in neither.
    anchors, published = anchor.read(anchors_path, journal.key), journal.published
    report = verify_chain(journal.disk, journal.key, anchors)
    told = report.to_wire()
    problems = told["problems"]
    if report.ok and report.last_seq < published:  # after a crash a torn end; this kernel knows what it wrote
        problems.append({"segment": name_of(journal.segment), "offset": 0, "what": f"records {report.last_seq + 1} to "
                         f"{published} were written by this kernel and are not whole any more"})
    return told | {"ok": not problems}
