"""About agents that are there: the table of them, signals, their ends, their removal."""

import errno
from typing import TYPE_CHECKING, Any, Final

import trio

from agentix_kernel import about, delivery, lifecycle, rebirth
from agentix_kernel.process import Process, State
from agentix_syscalls import records
from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import BY_NUMBER, SIGPOLICY, SIGTRUST

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

ROWS_AT_ONCE: Final = 50


async def ps(client: "Client", all_: bool, usage: bool) -> list[dict[str, Any]]:
    kernel = client.kernel
    shown = [process for _, process in sorted(kernel.table.by_id.items()) if all_ or process.state is not State.DEAD]
    rows: list[dict[str, Any]] = []
    for number, process in enumerate(shown, 1):
        rows.append(about.row(kernel, process, usage=usage))
        if number % ROWS_AT_ONCE == 0:  # reading what a thousand use takes a tenth of a second: agents go between
            await trio.lowlevel.checkpoint()
    return rows


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
    whole = group or number in {SIGPOLICY, SIGTRUST}
    family = kernel.table.family(process) if whole else [process]
    seq = 0
    for member in family:
        rebirth.check_reaches(member, number)
    for member in family:
        rebirth.dismiss(kernel, member, number)
        seq = delivery.send(kernel, member, number, 0, f"sent by the operator ({client.peer.shown})")
    await kernel.settle(seq)
    return [member.id for member in family]


def _how(process: Process) -> str:
    return process.end.detail if process.end else "never ran"


async def wait(client: "Client", target: Any, timeout_s: float | None) -> dict[str, Any]:
    kernel = client.kernel
    process = kernel.table.find(target)
    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
        while not process.gone.is_set():
            await process.gone.wait()
            process = kernel.table.latest(process)  # an operator may have restarted it in that moment
    if process.gone.is_set():
        return about.row(kernel, process)
    raise CallError(errno.ETIMEDOUT, f"agent {process.id} ({process.name}) is still {process.state.value}")


async def rm(client: "Client", target: Any) -> int:
    kernel = client.kernel
    process = kernel.table.find(target)
    if process.state is not State.DEAD:
        raise CallError(errno.EBUSY, f"agent {process.id} ({process.name}) is {process.state.value}",
                        remedy="agentctl kill it first, or `agentctl rm -f`" if process.alive
                        else "its parent has not waited for it yet")
    if process.log is not None:
        process.log.close()
    seq = kernel.record(records.REMOVE, process, data=(process.name,))
    kernel.flush()  # before it is done: whatever ends us, nothing is gone without a record
    lifecycle.forget(kernel, process)
    await kernel.settle(seq)
    await lifecycle.sweep(kernel)
    if left := [path for path in kernel.tree.aside() if path.endswith(f"/{process.id}")]:
        raise CallError(errno.EIO, f"agent {process.id}: not all of its files are erased", remedy=f"look at {left[0]}")
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
