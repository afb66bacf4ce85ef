"""What was written down: agents' output, the flight record, its chain."""

import errno
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from agentix_kernel import denials, recordkeeping
from agentix_kernel.control import flight
from agentix_kernel.control.answers import Handed
from agentix_kernel.history import rows
from agentix_kernel.history.asking import History
from agentix_kernel.history.question import question
from agentix_kernel.journal.read import Record
from agentix_kernel.logs import LOST, AgentLog, Piece, Reader
from agentix_syscalls import events, records
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client
    from agentix_kernel.kernel import Kernel

_VERIFYING: Final = trio.CapacityLimiter(1)
"""It reads all of the journal: who asks while another's is read waits for that."""
LOG_PIECE_BYTES: Final = 256 * 1024


async def logs(client: "Client", target: Any, follow: bool, tail_lines: int | None, since_ns: int | None,
               until_ns: int | None) -> AsyncGenerator[list[Any]]:
    """Pieces in order. A slow reader holds up nobody: what was rotated away before it came there is told as missing."""
    log = client.kernel.table.find(target).log
    if log is None:
        return
    begin = 0
    if tail_lines is not None:
        begin = log.last_lines(tail_lines, log.end if until_ns is None else await _end_before(log, until_ns))
    stop, reader = log.end, Reader(log)
    while True:
        missed, pieces = reader.next()
        if missed:
            yield [LOST, b"%d bytes were dropped by rotation before they could be shown" % missed, time.time_ns()]
        for piece in pieces:
            if (since_ns or 0) <= piece.wall_ns <= (until_ns or piece.wall_ns):
                async for shown in _shown(log, piece, begin):
                    yield shown
        if not follow and (not pieces or pieces[-1].begin >= stop):
            break
        if not pieces and (log.ended or not await _grown(log, until_ns)):
            break
    if log.lost:
        yield [LOST, b"%d bytes were lost: the disk is full" % log.lost, time.time_ns()]


async def _grown(log: AgentLog, until_ns: int | None) -> bool:
    """Wait for more; False when the time is over."""
    with trio.move_on_after(float("inf") if until_ns is None else max(until_ns - time.time_ns(), 0) / 1e9) as waiting:
        await log.grown.park()
    return not waiting.cancelled_caught


async def _shown(log: AgentLog, piece: Piece, begin: int) -> AsyncGenerator[list[Any]]:
    """What is to be sent of a piece: that behind `begin`."""
    at, end = max(piece.begin, begin), piece.begin + piece.length
    if piece.stream == LOST:
        if piece.begin >= begin:
            yield [LOST, b"%d bytes were lost: the disk was full" % piece.length, piece.wall_ns]
        return
    while at < end:
        data = log.read(at, min(LOG_PIECE_BYTES, end - at))
        if not data:
            yield [LOST, b"%d bytes were dropped by rotation before they could be shown" % (end - at), piece.wall_ns]
            return
        at += len(data)
        yield [piece.stream, data, piece.wall_ns]


async def _end_before(log: AgentLog, until_ns: int) -> int:
    """The place of the first piece that came later."""
    reader = Reader(log)
    while pieces := reader.next()[1]:
        for piece in pieces:
            if piece.wall_ns > until_ns:
                return piece.begin
        await trio.lowlevel.checkpoint()
    return log.end


def trace(client: "Client", target: Any, follow: bool, tail: int | None, since_ns: int | None, until_ns: int | None,
          names: tuple[str, ...] | None, where: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    kernel = client.kernel
    unknown = [name for name in names or () if name not in events.BY_NAME]
    if unknown:
        raise CallError(errno.EINVAL, f"trace: no event is called {unknown[0][:80]!r}",
                        remedy=f"events: {', '.join(events.BY_NAME)}")
    targets = target if type(target) in {list, tuple} else () if target is None else (target,)
    given = {"agents": targets or None, "since_ns": since_ns, "until_ns": until_ns}
    where = _resolved(client, where | {key: value for key, value in given.items() if value is not None})

    def shown(record: Record) -> dict[str, Any]:
        return rows.row(record) if names is None else rows.event_row(record)

    def old() -> AsyncGenerator[list[dict[str, Any]]]:
        return _history(client).pieces(client.peer.uid, "trace", _until_now(client, where), names, tail)

    stream = flight.stream(kernel.journal, shown, question(where, names), old, follow=follow)
    return stream if names is None else _named(client, stream)


async def _named(client: "Client", stream: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[dict[str, Any]]:
    """Events with the names that their agents have now."""
    async with aclosing(stream) as told:
        async for event in told:
            process = client.kernel.table.by_id.get(event.get("agent", 0))
            yield event | {"name": process.name} if process is not None else event  # noqa: ASYNC119 - server.py closes


def _resolved(client: "Client", where: dict[str, Any]) -> dict[str, Any]:
    """Conditions with agents by their ids."""
    known = {"agents": tuple(_recorded(client, one) for one in where["agents"])} if "agents" in where else {}
    return where | known


def _until_now(client: "Client", where: dict[str, Any]) -> dict[str, Any]:
    """Nothing that is recorded from now on: who reads slower than agents make records would read for ever."""
    return where | {"to_seq": client.kernel.journal.published}


def _recorded(client: "Client", target: Any) -> int:
    """An agent's id; 0 is the kernel. By its id also a removed one is asked for: its record stays."""
    kernel = client.kernel
    known = type(target) is int and 0 <= target <= kernel.registry.last_id
    return target if known else kernel.table.find(target).id


def _history(client: "Client") -> History:
    history = client.kernel.history
    assert history is not None, "boot sets it before anybody is served"
    return history


def _ask(client: "Client", name: str, *args: Any) -> Handed:
    """Hand on the descriptor that the answer comes from: however long it is, it takes nothing of agentd's time."""
    return Handed(None, (_history(client).ask(client.peer.uid, name, *args),))


async def audit_query(client: "Client", where: dict[str, Any], limit: int, newest: bool) -> Handed:
    return _ask(client, "audit_query", _until_now(client, _resolved(client, where)), limit, newest)


async def audit_show(client: "Client", seq: int, around: int) -> Handed:
    return _ask(client, "audit_show", seq, around)


async def audit_export(client: "Client", where: dict[str, Any]) -> Handed:
    return _ask(client, "audit_export", _until_now(client, _resolved(client, where)))


async def boots(client: "Client") -> Handed:
    return _ask(client, "boots", True)


async def kernel_log(client: "Client", boot: int) -> Handed:
    return _ask(client, "kernel_log", boot)


async def audit_verify(client: "Client") -> dict[str, Any]:
    kernel = client.kernel
    return await trio.to_thread.run_sync(flight.verify, kernel.journal, kernel.config.anchors_path, limiter=_VERIFYING)


async def audit_anchor(client: "Client") -> dict[str, Any]:
    kernel = client.kernel
    assert kernel.anchoring is not None
    with _recording(kernel):
        anchor, rows = await kernel.anchoring.now()
    kernel.record(records.ANCHOR, verdict=records.ALLOWED, data=(
        anchor.link.hex(), anchor.seq, "", f"asked for by uid {client.peer.uid}"))
    kernel.flush()
    return {"line": anchor.line(), "witnesses": rows}


async def audit_rotate(client: "Client") -> int:
    with _recording(client.kernel):
        return await recordkeeping.rotate(client.kernel)


async def audit_rotate_key(client: "Client") -> dict[str, str]:
    with _recording(client.kernel):
        old, new = await recordkeeping.rotate_key(client.kernel, f"uid {client.peer.uid}")
    return {"key": new.id.hex(), "before": old.id.hex()}


@contextmanager
def _recording(kernel: "Kernel") -> Generator[None]:
    """Raises CallError for what the disk refuses, and beforehand while nothing can be recorded: else it would wait."""
    if kernel.journal.failed is not None:
        raise denials.unrecorded(kernel)
    try:
        yield
    except OSError as error:
        raise CallError(error.errno or errno.EIO, error.strerror or str(error)) from error
