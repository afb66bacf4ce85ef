"""Why something is refused or allowed, and which part of a policy is held by what."""

import errno
from typing import TYPE_CHECKING, Any

from attrs import asdict

from agentix_kernel import enforcers, reasons
from agentix_kernel.authority.policy.inforce import InForce, Source, make
from agentix_kernel.control import rights
from agentix_kernel.control.operations import policies
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client


async def why(client: "Client", target: Any, call: str | None, obj: bytes | None,
              path: bytes | None) -> dict[str, Any]:
    """Links of an agent's tree are followed for root and its owner alone: where they lead is in the answer."""
    kernel = client.kernel
    process = kernel.table.find(target)
    if (path is not None and (call is not None or obj is not None)) or (obj is not None and call is None):
        raise CallError(errno.EINVAL, "why: asks about a call, or about a path")
    look = rights.owns(client, process)
    if call is not None:
        found = reasons.of_call(kernel, process, call, obj, look=look)
    elif path is not None:
        found = reasons.of_path(kernel, process, path, look=look)
    else:
        found = reasons.last(process)
    return {"id": process.id, "name": process.name, "mode": process.policy.mode,
            "answers": [asdict(answer) for answer in found]}


async def policy_explain(client: "Client", target: Any,
                         policy: tuple[str, bytes | None] | None) -> list[dict[str, Any]]:
    if (target is None) == (policy is None):
        raise CallError(errno.EINVAL, "policy_explain: of an agent, or of a document")

    def read() -> InForce:
        assert policy is not None
        return make(Source(*policy))
    found = client.kernel.table.find(target).policy if policy is None else await policies.beside(read)
    return await policies.beside(lambda: enforcers.rows(found))
