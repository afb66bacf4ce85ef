"""What each control operation does. Each gets the client and its checked arguments."""

import errno
import os
import stat
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from agentix_kernel import about, delivery, lifecycle
from agentix_kernel.calls.processes import command_of, limits_of, rules_of
from agentix_kernel.control import flight
from agentix_kernel.policy import DEFAULT_MODE, Policy
from agentix_kernel.process import Process, State
from agentix_kernel.world import Bind
from agentix_syscalls import records, spawn, types, wire
from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import BY_NUMBER

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

LOG_PIECE_BYTES: Final = 256 * 1024


async def hello(client: "Client", version: int) -> dict[str, Any]:
    if version != wire.PROTOCOL:
        raise CallError(errno.EPROTO, f"protocol {version}; this kernel speaks {wire.PROTOCOL}",
                        remedy="use the agentctl that was installed with it")
    client.greeted = True
    config = client.kernel.config
    return {"version": wire.PROTOCOL, "pid": os.getpid(), "prefix": config.prefix, "mount": config.mount,
            "state": config.state_dir, "boot": client.kernel.boot, "root": client.peer.uid == 0}


async def spawn_(client: "Client", kind: str, argv: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    kernel = client.kernel
    wanted = options.get("binds", ())
    fds = client.take_fds(len(wanted) if type(wanted) in {list, tuple} else 0)
    try:
        checked = spawn.parse_options(options, by_agent=False)
        binds = tuple(_bind(client, fd, row) for fd, row in zip(fds, wanted, strict=True))
        policy = Policy(checked.get("mode", DEFAULT_MODE), rules_of(checked), checked.get("spawn_max", 0))
        command = command_of(kind, argv, checked, binds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    process, seq = await lifecycle.spawn(kernel, command, limits_of(checked, kernel.config), policy,
                                         checked.get("name"), None)
    await kernel.settle(seq)
    return {"id": process.id, "life": process.life, "name": process.name, "uid": process.uid}


def _bind(client: "Client", fd: int, row: Any) -> Bind:
    """Check one bind: [target, writable, source path to show]. Writable ones only for who owns the folder."""
    if type(row) not in {list, tuple} or len(row) != 3:
        raise CallError(errno.EINVAL, "spawn: binds: wants [target, writable, source path] for each")
    try:
        target, writable, source = spawn.absolute(row[0]), types.boolean(row[1]), types.text(row[2])
    except types.BadArgument as bad:
        raise CallError(errno.EINVAL, f"spawn: binds: {bad}") from None
    owner = os.fstat(fd).st_uid
    if writable and client.peer.uid not in {0, owner}:
        raise CallError(errno.EPERM, f"spawn: --bind {source}: you (uid {client.peer.uid}) do not own it (uid {owner} "
                        "does)", remedy="bind it read-only with --bind-ro, or ask its owner")
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        raise CallError(errno.EINVAL, f"spawn: --bind {source}: a symbolic link cannot be bound",
                        remedy="name what it points to")
    return Bind(fd, target, writable, source)


async def ps(client: "Client", all_: bool) -> list[dict[str, Any]]:
    kernel = client.kernel
    return [about.row(kernel, process) for _, process in sorted(kernel.table.by_id.items())
            if all_ or process.state is not State.DEAD]


async def signal(client: "Client", target: Any, number: int, group: bool) -> list[int]:
    kernel = client.kernel
    process = kernel.table.find(target)
    row = BY_NUMBER.get(number)
    if row is None:
        raise CallError(errno.EINVAL, f"signal {number}: no such signal", remedy="agentctl signals lists them")
    if row.operator_only and client.peer.uid != 0:
        raise CallError(errno.EPERM, f"{row.name} is sent by the kernel or by root alone")
    if not process.alive:
        raise CallError(errno.ESRCH, f"agent {process.id} ({process.name}) has ended: {_how(process)}")
    whole = group or number in {BY_NUMBER[8].number, BY_NUMBER[9].number}
    family = kernel.table.family(process) if whole else [process]
    who = f"uid {client.peer.uid}, pid {client.peer.pid}"
    seq = 0
    for member in family:
        seq = delivery.send(kernel, member, number, 0, f"sent by the operator ({who})")
    await kernel.settle(seq)
    return [member.id for member in family]


def _how(process: Process) -> str:
    return process.end.detail if process.end else "never ran"


async def wait(client: "Client", target: Any, timeout_s: float | None) -> dict[str, Any]:
    process = client.kernel.table.find(target)
    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
        await process.gone.wait()
        return about.row(client.kernel, process)
    raise CallError(errno.ETIMEDOUT, f"agent {process.id} ({process.name}) is still {process.state.value}")


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


async def rm(client: "Client", target: Any) -> int:
    kernel = client.kernel
    process = kernel.table.find(target)
    if process.state is not State.DEAD:
        raise CallError(errno.EBUSY, f"agent {process.id} ({process.name}) is {process.state.value}",
                        remedy="agentctl kill it first, or `agentctl rm -f`" if process.alive
                        else "its parent has not waited for it yet")
    if process.log is not None:
        process.log.close()
    lifecycle.forget(kernel, process)
    await kernel.settle(kernel.record(records.REMOVE, process, data=(process.name,)))
    return process.id


async def inspect(client: "Client", target: Any) -> dict[str, Any]:
    return about.inspect(client.kernel, client.kernel.table.find(target))


async def verify(client: "Client", target: Any) -> dict[str, Any]:
    kernel = client.kernel
    process = kernel.table.find(target)
    if process.sandbox is None or not process.alive:
        raise CallError(errno.EINVAL, f"agent {process.id} ({process.name}) is not alive; nothing confines it")
    rows = await trio.to_thread.run_sync(kernel.world.sandboxes.verify, process.sandbox)
    return {"layers": rows, "processes": len(process.sandbox.pids()),
            "ok": all(row["state"] != "off" for row in rows)}


async def doctor(client: "Client") -> list[dict[str, Any]]:
    return client.kernel.layers


def trace(client: "Client", target: Any, follow: bool, tail: int | None) -> AsyncGenerator[dict[str, Any]]:
    kernel = client.kernel
    # By its id also a removed agent is asked for: its record stays.
    known = target is None or (type(target) is int and 0 < target <= kernel.registry.last_id)
    agent = target if known else kernel.table.find(target).id
    return flight.stream(kernel.journal, agent=agent, follow=follow, tail=tail)


async def audit_verify(client: "Client") -> dict[str, Any]:
    return await trio.to_thread.run_sync(flight.verify, client.kernel.journal)


async def info(client: "Client") -> dict[str, Any]:
    kernel = client.kernel
    config = kernel.config
    return about.kernel(kernel) | {
        "pid": os.getpid(), "prefix": config.prefix, "mount": config.mount, "state_dir": config.state_dir,
        "config": config.source, "records": kernel.journal.published, "durable": kernel.journal.durable,
        "faults": kernel.faults}


async def shutdown(client: "Client", why: str) -> None:
    client.kernel.stop(why or f"asked by uid {client.peer.uid}")


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "hello": hello, "spawn": spawn_, "ps": ps, "signal": signal, "wait": wait, "logs": logs, "rm": rm,
    "inspect": inspect, "verify": verify, "doctor": doctor, "trace": trace, "audit_verify": audit_verify,
    "info": info, "shutdown": shutdown,
}

