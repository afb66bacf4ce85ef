"""Another document for agents that are there. One is read in a thread, put in force for all, and shared by them."""

import errno
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import evolve

from agentix_kernel import descriptors, lifecycle, rebirth, replacement
from agentix_kernel.authority.policy.inforce import InForce, Source, make
from agentix_kernel.control import rights
from agentix_kernel.control.operations import launch, policies
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.world import Bind
from agentix_syscalls import control
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

SET, RESTARTED, NEEDS_RESTART, REFUSED = control.SET_RESULTS
AT_ONCE: Final = 20
"""Agents that get another document in one turn of the loop."""


async def policy_set(client: "Client", targets: Sequence[Any], policy: tuple[str, bytes | None], now: bool,
                     binds: Sequence[Any]) -> list[dict[str, Any]]:
    """Of each agent a row. What cannot be done for one does not keep the others from it."""
    kernel = client.kernel
    fds = client.take_fds(len(binds))
    try:
        new = await policies.recorded(client, policy, lambda: make(Source(*policy)))
        shown = tuple(launch.bind(client, fd, row) for fd, row in zip(fds, binds, strict=True))
        if now:
            policies.check_binds(new, shown)
        wanted: dict[int, Process] = {}
        for number, target in enumerate(targets):
            process = kernel.table.find(target)
            rights.own(client, process, replacement.SET)
            wanted[process.id] = process
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        found = [one for _, one in sorted(wanted.items()) if not _with_another(kernel, one, wanted)]
        families = [replacement.family(kernel, one) for one in found]
        known: dict[object, InForce] = {}
        planned = await policies.beside(lambda: [replacement.plan(new, family, known) for family in families])
        rows, seq = list[dict[str, Any]](), 0
        for number, (process, changes) in enumerate(zip(found, planned, strict=True), 1):
            row, last = await _set(client, process, changes, new, shown if now else None)
            rows.append(row)
            seq = max(seq, last)
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        await kernel.settle(seq)
        return rows
    finally:
        descriptors.close(kernel, fds)


async def _set(client: "Client", process: Process, changes: tuple[replacement.Change, ...], new: InForce,
               shown: tuple[Bind, ...] | None) -> tuple[dict[str, Any], int]:
    """One agent's row, and the record to wait for. `shown`: the document's binds, if it may be restarted for them."""
    kernel = client.kernel
    row: dict[str, Any] = {"id": process.id, "name": process.name, "result": SET}
    try:
        process = kernel.table.latest(process)
        replacement.check(kernel, process)
        if needs := replacement.built_in(process, new):
            if shown is None:
                return row | {"result": NEEDS_RESTART, "needs": needs}, 0
            seq = await _restarted(kernel, process, changes, new, shown, client.peer.shown)
            return row | {"result": RESTARTED, "needs": needs}, seq
        done, seq = replacement.put(kernel, process, changes, new, client.peer.shown)
    except CallError as error:
        return row | {"result": REFUSED, "message": error.message, "remedy": error.remedy}, 0
    (_, stays), *others = done
    return row | {
        "closed": stays.closed, "ended": stays.ended, "stays": [bind.target for bind in replacement.beside(process)],
        "children": [{"id": one.id, "name": one.name, "closed": its.closed, "ended": its.ended} for one, its in others],
    }, seq


async def _restarted(kernel: Kernel, process: Process, changes: tuple[replacement.Change, ...], new: InForce,
                     shown: tuple[Bind, ...], who: str) -> int:
    """What can be changed at once is; its next life has the rest. Returns the record to wait for. Raises CallError."""
    rebirth.check_restart(kernel, process)
    lifecycle.check_cwd(process.command, changes[0].after)  # as planned; what is put in force may only be narrower
    others = replacement.beside(process)
    if any(bind.source_fd < 0 for bind in others):
        raise CallError(errno.EBUSY, f"agent {process.id} ({process.name}) has ended, and with it what its spawn bound",
                        remedy="agentctl restart it first, which opens that again")
    wanted = (*shown, *others)
    _, seq = replacement.put(kernel, process, changes, new, who)
    again = _copies(wanted)
    lifecycle.show(process, _copies(wanted))
    kernel.registry.save(process)
    await rebirth.restart(kernel, process, again)
    return seq


def _copies(binds: tuple[Bind, ...]) -> tuple[Bind, ...]:
    return tuple(evolve(bind, source_fd=os.dup(bind.source_fd)) for bind in binds)


def _with_another(kernel: Kernel, process: Process, found: Collection[int]) -> bool:
    """Whether it descends from another one of them, whose change is its own as well."""
    while (parent := kernel.table.by_id.get(process.parent)) is not None and parent.alive:
        if parent.id in found:
            return True
        process = parent
    return False
