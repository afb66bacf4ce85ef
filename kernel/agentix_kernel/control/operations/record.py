"""What was written down: agents' output, the flight record, its chain."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

import trio

from agentix_kernel.control import flight

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

LOG_PIECE_BYTES: Final = 256 * 1024


async def logs(client: "Client", target: Any, follow: bool, tail_lines: int | None) -> AsyncGenerator[list[Any]]:
    """Pieces in order; a rotation while following starts again at the new file's beginning."""
    log = client.kernel.table.find(target).log
    if log is None:
        return
    sent, rotations = 0, log.rotations
    start = _tail_start(log.read_at(0, log.size()), tail_lines) if tail_lines is not None else 0
    while True:
        ended = log.ended
        if log.rotations != rotations:
            sent, start, rotations = 0, 0, log.rotations
        pieces = log.pieces()
        for _, stream, offset, length in pieces[sent:]:
            begin = max(offset, start)
            while begin < offset + length:
                data = log.read_at(begin, min(LOG_PIECE_BYTES, offset + length - begin))
                if not data:
                    break
                begin += len(data)
                yield [stream, data]
        sent = len(pieces)
        if not follow or ended:
            return
        if log.rotations == rotations and len(log.pieces()) == sent and not log.ended:
            await log.grown.park()


def _tail_start(data: bytes, lines: int) -> int:
    """Where the last so many lines begin."""
    at = len(data)
    if data.endswith(b"\n"):
        at -= 1
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1 if lines else len(data)


def trace(client: "Client", target: Any, follow: bool, tail: int | None) -> AsyncGenerator[dict[str, Any]]:
    kernel = client.kernel
    # By its id also a removed agent is asked for: its record stays.
    known = target is None or (type(target) is int and 0 < target <= kernel.registry.last_id)
    agent = target if known else kernel.table.find(target).id
    return flight.stream(kernel.journal, agent=agent, follow=follow, tail=tail)


async def audit_verify(client: "Client") -> dict[str, Any]:
    return await trio.to_thread.run_sync(flight.verify, client.kernel.journal)
