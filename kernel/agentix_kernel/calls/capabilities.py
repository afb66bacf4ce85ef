"""Calls on capabilities: what is held is narrowed, passed on, taken back and listed."""

import errno
from typing import Any

from agentix_kernel import denials, grants
from agentix_kernel.authority.policy.inforce import COMMAND_LINE, Verdict, held
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls.errors import CallError


def grant(kernel: Kernel, process: Process, handle: int, agent: int, capability: str | None) -> int:
    """To itself or to an own child that lives."""
    to = process if agent == process.id else _child(kernel, process, agent, "GRANT")
    if not to.alive or to.doom is not None:
        raise CallError(errno.ECHILD, f"GRANT: agent {agent} is ending")
    wanted = held(capability, COMMAND_LINE).capability if capability is not None else None
    try:
        row, _ = grants.pass_on(kernel, process, handle, to, wanted)
    except CallError as error:
        if error.number != errno.EPERM:
            raise
        raise denials.refuse(kernel, process, "capabilities", "GRANT", f"agent {agent}", Verdict(
            allowed=False, rule=error.rule, message=error.message, remedy=error.remedy)) from None
    return row.handle


def revoke(kernel: Kernel, process: Process, agent: int, handle: int) -> list[list[int]]:
    """Of others it learns nothing: only of itself and who descends from it is told more than EBADF."""
    family = {member.id for member in kernel.table.family(process)}
    try:
        taken = grants.revoke(kernel, kernel.table.get(agent), handle, process.id, f"agent {process.id}")
    except CallError as error:
        if agent in family and error.number == errno.EPERM:
            raise
        raise CallError(errno.EBADF, f"REVOKE: agent {agent} holds no capability {handle} of yours",
                        remedy="SYS_CAPS lists what you and your children hold") from None
    return [[row.who, row.handle] for row in taken.rows]


def caps(kernel: Kernel, process: Process, agent: int) -> list[list[Any]]:
    holder = process if agent in {0, process.id} else _child(kernel, process, agent, "CAPS")
    return [[row["handle"], row["capability"], row["source"], row["from"], row["from_handle"], row["left"]]
            for row in grants.rows(kernel, kernel.holdings.held(holder.id))]


def _child(kernel: Kernel, process: Process, agent: int, call: str) -> Process:
    if agent not in process.children:
        raise CallError(errno.ECHILD, f"{call}: agent {agent} is not a child of agent {process.id}")
    return kernel.table.get(agent)
