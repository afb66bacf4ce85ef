"""What agents hold: listed for all of the group, changed by root and their owners."""

import errno
from typing import TYPE_CHECKING, Any

from attrs import asdict

from agentix_kernel import grants
from agentix_kernel.authority.holdings import ROOT
from agentix_kernel.authority.policy.inforce import COMMAND_LINE, held
from agentix_kernel.control import rights
from agentix_kernel.process import Process
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client


async def caps(client: "Client", target: Any) -> list[dict[str, Any]]:
    holdings = client.kernel.holdings
    found = holdings.tree() if target is None else holdings.held(client.kernel.table.find(target).id)
    return list(grants.rows(client.kernel, found))


async def grant(client: "Client", target: Any, text: str) -> dict[str, Any]:
    kernel = client.kernel
    process = _living(client, target, "grant")
    wanted = held(text, COMMAND_LINE).capability
    row, seq = grants.grant(kernel, process, wanted, f"given by uid {client.peer.uid}")
    await kernel.settle(seq)
    return {"agent": row.who, "handle": row.handle, "capability": row.capability}


async def revoke(client: "Client", target: Any, handle: int) -> dict[str, Any]:
    kernel = client.kernel
    process = _living(client, target, "revoke")
    taken = grants.revoke(kernel, process, handle, ROOT, f"taken back by {client.peer.shown}")
    await kernel.settle(taken.seq)
    gone = [{"agent": row.who, "handle": row.handle, "capability": row.capability, "source": row.source}
            for row in taken.rows]
    return {"gone": gone, "stays": [{"agent": agent, **asdict(left)} for agent, left in taken.stays.items()]}


def _living(client: "Client", target: Any, what: str) -> Process:
    process = client.kernel.table.find(target)
    rights.own(client, process, what)
    if not process.alive or process.doom is not None:
        raise CallError(errno.ESRCH, f"{what}: agent {process.id} ({process.name}) has ended; it holds nothing")
    return process
