"""Programs beside an agent, and what is typed to it."""

import errno
import signal
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import frozen

from agentix_kernel import descriptors
from agentix_kernel.control import rights
from agentix_kernel.control.answers import Handed
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.stdin import Stdin
from agentix_kernel.world import Ended, LaunchError, Program
from agentix_syscalls import records, types
from agentix_syscalls import spawn as table
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

FEED_MAX_S: Final = 10.0
GONE: Final = "who asked went away"
HANG_UP_S: Final = 2.0
"""From SIGHUP to SIGKILL, when who asked for a program went away."""


@frozen
class _Wanted:
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    terminal: tuple[int, int] | None


_OPTIONS: Final = {"env": types.environ, "cwd": table.absolute, "terminal": table.terminal}


def _wanted(argv: tuple[str, ...], options: Mapping[str, Any]) -> _Wanted:
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _OPTIONS:
            raise CallError(errno.EINVAL, f"exec: unknown option {name!r}", remedy="options: " + ", ".join(_OPTIONS))
        try:
            checked[name] = _OPTIONS[name](value)
        except types.BadArgument as bad:
            raise CallError(errno.EINVAL, f"exec: {name}: {bad}") from None
    return _Wanted(argv, checked.get("env", {}), checked.get("cwd", ""), checked.get("terminal"))


async def execute(client: "Client", target: Any, argv: tuple[str, ...],
                  options: dict[str, Any]) -> AsyncGenerator[Any]:
    kernel = client.kernel
    process = _running(kernel, target)
    rights.own(client, process, "exec")
    wanted = _wanted(argv, options)
    fds = client.take_fds(0 if wanted.terminal else 3)
    who, correlation = client.peer.shown, kernel.next_correlation()
    seq = kernel.record(records.EXEC, process, phase=records.INTENT, correlation=correlation, data=(argv[:64], who))
    try:
        await kernel.settle(seq)
        program = await _start(process, wanted, fds)
    except BaseException as error:
        why = error.message if isinstance(error, CallError) else GONE
        kernel.record(records.EXEC, process, phase=records.OUTCOME, verdict=records.FAILED, correlation=correlation,
                      data=(argv[:64], who, None, why))
        kernel.flush()
        raise
    finally:
        descriptors.close(kernel, fds)
    ended: Ended | None = None
    try:
        terminal = program.take_terminal()
        yield Handed({"pid": program.pid}, (terminal,) if terminal >= 0 else ())
        ended = await program.wait()
    finally:
        if ended is None:
            kernel.start(_hang_up, program)
        else:
            program.close()
        told = _told(ended)
        kernel.record(records.EXEC, process, phase=records.OUTCOME, verdict=records.ALLOWED, correlation=correlation,
                      data=(argv[:64], who, told["status"], "" if ended is not None else GONE))
        kernel.flush()
    yield told


def _running(kernel: Kernel, target: Any) -> Process:
    process = kernel.table.find(target)
    if not process.alive or process.sandbox is None or process.doom is not None:
        raise CallError(errno.ESRCH, f"agent {process.id} ({process.name}) does not run",
                        remedy=f"agentctl restart {process.id} runs it again")
    if process.held:
        raise CallError(errno.EBUSY, f"agent {process.id} ({process.name}) is stopped, with all that is in its sandbox",
                        remedy=f"agentctl cont {process.id} first")
    return process


async def _start(process: Process, wanted: _Wanted, fds: list[int]) -> Program:
    assert process.sandbox is not None
    try:
        return await process.sandbox.start(wanted.argv, wanted.env, wanted.cwd, wanted.terminal, fds)
    except LaunchError as error:
        raise CallError(error.number, f"exec: {error.message}") from error


def _told(ended: Ended | None) -> dict[str, Any]:
    if ended is None:
        return {"code": None, "signal": None, "status": None}
    return {"code": ended.code, "signal": ended.signal_name, "status": ended.status}


async def _hang_up(program: Program) -> None:
    """As when a terminal closes, and then for certain."""
    program.signal(signal.SIGHUP)
    with trio.move_on_after(HANG_UP_S):
        await program.wait()
    program.signal(signal.SIGKILL)
    program.close()


async def feed(client: "Client", target: Any, data: bytes, end: bool, timeout_s: float | None) -> int:
    stdin = _stdin(client, target)
    sent = await stdin.write(data, min(FEED_MAX_S if timeout_s is None else timeout_s, FEED_MAX_S))
    if end and sent == len(data):
        await stdin.end()
    return sent


async def resize(client: "Client", target: Any, rows: int, columns: int) -> None:
    try:
        size = table.terminal([rows, columns])
    except types.BadArgument as bad:
        raise CallError(errno.EINVAL, f"resize: {bad}") from None
    _stdin(client, target).resize(*size)


def _stdin(client: "Client", target: Any) -> Stdin:
    process = client.kernel.table.find(target)
    rights.own(client, process, "attach")
    if not process.alive:
        raise CallError(errno.ESRCH, f"agent {process.id} ({process.name}) does not run")
    if process.stdin is None:
        raise CallError(errno.ENOTTY, f"agent {process.id} ({process.name}) has neither stdin nor a terminal",
                        remedy="spawn it with -i or -it")
    return process.stdin
