"""Changes of agents that are there: their names, their limits."""

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from attrs import evolve

from agentix_kernel import lifecycle
from agentix_kernel import limits as bounds
from agentix_kernel.control import rights
from agentix_kernel.process import Process
from agentix_kernel.world import Limits
from agentix_syscalls import records, spawn
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client


async def rename(client: "Client", target: Any, name: str) -> int:
    kernel = client.kernel
    process, table = kernel.table.find(target), kernel.table
    rights.own(client, process, "rename")
    if name in table.by_name:
        raise CallError(errno.EEXIST, f"rename: the name {name!r} is taken",
                        remedy="choose another, or `agentctl rm` the dead agent that has it")
    seq = kernel.record(records.RENAME, process, data=(name, process.name, client.peer.shown))
    kernel.flush()
    kernel.tree.rename_agent(process.id, name)
    table.rename(process, name)
    kernel.registry.save(process)
    await kernel.settle(seq)
    return process.id


async def update(client: "Client", target: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    kernel = client.kernel
    process = kernel.table.find(target)
    rights.own(client, process, "update")
    changed = spawn.parse_limits(wanted)
    if not process.alive or process.doom is not None or process.sandbox is None:
        raise CallError(errno.ESRCH, f"agent {process.id} ({process.name}) does not run; it has nothing to limit")
    before = process.limits
    limits = evolve(before, **changed)
    if changed.get("timeout_s") is not None:
        limits = evolve(limits, timeout_s=lifecycle.lived_s(kernel, process) + changed["timeout_s"])
    _check_policy(process, limits, changed)
    seq = kernel.record(records.UPDATE, process, data=(_told(limits), _told(before), client.peer.shown))
    kernel.flush()
    bounds.put(kernel, process, limits, "update")
    kernel.registry.save(process)
    await kernel.settle(seq)
    return {"id": process.id, **_told(limits), "used_bytes": process.usage_now().memory_bytes}


def _check_policy(process: Process, limits: Limits, changed: Iterable[str]) -> None:
    """Nothing goes past what the policy's document says. Raises CallError (EPERM)."""
    document = process.policy.document.limits
    for name in changed:
        most, wanted = getattr(document, name), getattr(limits, name)
        if most is not None and (wanted is None or wanted > most):
            raise CallError(errno.EPERM, f"update: {spawn.word(name)}: the policy of agent {process.id} "
                            f"({process.name}) gives {most:.12g} at most", rule=str(document.marks[name]),
                            remedy="choose that or less, or give it another policy with agentctl policy set")


def _told(limits: Limits) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in spawn.LIMITS}
