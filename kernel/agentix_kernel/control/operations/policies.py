"""Policies: reading one as a spawn would, asking it, comparing two, and which one an agent has.

A document is read in a thread, one at a time: it is bounded, but takes longer than the loop may wait.
"""

import errno
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio
from attrs import asdict

from agentix_kernel.authority.policy import compare, warnings
from agentix_kernel.authority.policy.inforce import ASKS, AUDIT, InForce, Source, make, read
from agentix_kernel.authority.policy.reading import BadPolicy
from agentix_kernel.calls.info import checked
from agentix_kernel.tools import TOOLS
from agentix_kernel.world import Bind
from agentix_syscalls import calls, records, spawn
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

READERS: Final = trio.CapacityLimiter(1)
"""Reading holds the interpreter's lock for most of the time: several would only take more of the loop's."""
_Policy = tuple[str, bytes | None]
_T = TypeVar("_T")


async def beside(work: Callable[[], _T]) -> _T:
    return await trio.to_thread.run_sync(work, limiter=READERS)


async def asked(client: "Client", options: dict[str, Any]) -> InForce:
    """The policy that a spawn's options ask for. Raises CallError(EINVAL) with all that is wrong; that is recorded."""
    def work() -> InForce:
        return make(Source(*options.get("policy", ())), mode=options.get("mode"), deny=options.get("deny", ()),
                    spawn_max=options.get("spawn_max"), capabilities=options.get("capabilities"))
    return await recorded(client, options["policy"], work) if "policy" in options else work()


async def recorded(client: "Client", policy: _Policy, work: Callable[[], InForce]) -> InForce:
    """Read a document in a thread. That a bad one was refused is recorded. Raises BadPolicy."""
    try:
        return await beside(work)
    except BadPolicy as bad:
        client.kernel.record(records.POLICY, verdict=records.FAILED, data=(
            sha256(policy[1] or b"").hexdigest(), f"uid {client.peer.uid}: refused: {bad.complaints[0]}"))
        client.kernel.flush()
        raise


def check_binds(policy: InForce, binds: Sequence[Bind]) -> None:
    """What a document shows is opened by who asks, with their rights, never by us. Raises CallError(EINVAL)."""
    there = {(bind.source, bind.target, bind.writable) for bind in binds}
    for one in policy.policy.binds:
        if (one.host, one.at, one.writable) not in there:
            raise CallError(errno.EINVAL, f"{one.mark}: {one} is in the policy, and its descriptor did not come",
                            remedy="agentctl opens it")


async def policy_check(client: "Client", policy: _Policy) -> dict[str, Any]:
    del client
    def work() -> tuple[InForce, list[str]]:
        found = make(Source(*policy))
        return found, [str(one) for one in warnings.warn(found.document, TOOLS)]
    found, told = await beside(work)
    return _told(found) | {"warnings": told}


async def policy_test(client: "Client", policy: _Policy, name: str, path: bytes | None) -> dict[str, Any]:
    del client
    call = calls.find(name)
    if call is None:
        raise CallError(errno.EINVAL, f"policy: no call is named {name[:64]!r}", remedy="agentctl syscalls lists them")
    if path is not None and ASKS[call.name].path and not path.startswith(b"/"):
        raise CallError(errno.EINVAL, "policy: the path must start with '/', the root of the agent's tree")
    found = await beside(lambda: make(Source(*policy)))
    said = checked(found, call.name, () if path is None else (path,))
    return {"allowed": said.allowed or found.mode == AUDIT, "mode": found.mode, "rule": said.rule,
            "message": said.message}


async def policy_diff(client: "Client", policy: _Policy, other: _Policy) -> list[dict[str, Any]]:
    del client
    changes = await beside(lambda: compare.diff(read(Source(*policy)), read(Source(*other))))
    return [asdict(change) for change in changes]


async def policy_show(client: "Client", target: Any, text: bool) -> dict[str, Any]:
    policy = client.kernel.table.find(target).policy
    return _told(policy) | ({"text": policy.source.text} if text else {})


def _told(policy: InForce) -> dict[str, Any]:
    rules = [{"effect": one.effect, "rule": one.text.partition(" ")[2], "file": one.mark.file, "line": one.mark.line}
             for one in policy.policy.rules]
    document, source = policy.policy, policy.source
    binds = [{"host": one.host, "at": one.at, "writable": one.writable, "line": one.mark.line}
             for one in document.binds]
    return {"name": document.name, "source": source.name, "shipped": source.shipped, "hash": source.hash,
            "mode": policy.mode, "spawn_max": policy.spawn_max, "rules": rules, "binds": binds,
            "limits": {name: getattr(document.limits, name) for name in spawn.LIMITS}}
