"""Calls that ask: policy, usage, the kernel itself."""

import errno
from typing import Any, Final

from agentix_kernel import about, grants
from agentix_kernel.authority.policy.inforce import ALLOWED, ASKS, AUDIT, InForce, Verdict
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import calls
from agentix_syscalls.errors import CallError

TOGETHER: Final = {"OPEN": ("OPEN", "READ"), "TRUNCATE": ("TRUNCATE", "WRITE")}
"""Calls that are held against the rules of others as well; of OPEN those that O_RDONLY asks."""


def checkpolicy(kernel: Kernel, process: Process, name: str, path: bytes | None) -> list[Any]:
    call = calls.BY_NAME.get(name) or calls.find(name)
    if call is None:
        raise CallError(errno.EINVAL, f"CHECKPOLICY: no call is named {name!r}", remedy="agentctl syscalls lists them")
    objects: tuple[bytes, ...] = ()
    if path is not None:
        objects = (kernel.tree.canonical(process.id, path) if ASKS[call.name].path else path.strip(b"/"),)
    found = checked(process.policy, call.name, objects)
    if found.needs:
        found = grants.left(kernel, process, call.name, found)
    return [found.allowed or process.policy.mode == AUDIT, process.policy.mode, found.rule, found.message]


def checked(policy: InForce, call: str, objects: tuple[bytes, ...]) -> Verdict:
    """What a policy says of a call by all its rules. It needs nothing where no object is given."""
    if call == "SPAWN":
        said = [policy.decide(call), policy.decide_spawn(
            objects[0].decode("utf-8", "replace") if objects else None)]
    else:
        said = [policy.decide(name, *objects) for name in TOGETHER.get(call, (call,))]
    refused = next((one for one in said if not one.allowed), None)
    if refused is not None or not policy.metered or not objects:
        return refused or ALLOWED
    return Verdict(allowed=True, needs=tuple(need for one in said for need in one.needs))


def getpolicy(kernel: Kernel, process: Process) -> list[Any]:
    del kernel
    policy = process.policy
    return [policy.mode, policy.rules(), policy.spawn_max]


def rusage(kernel: Kernel, process: Process) -> list[int]:
    del kernel
    usage = process.usage_now()
    return [usage.cpu_us, usage.memory_bytes, usage.memory_peak_bytes, usage.processes, process.calls,
            process.denials]


def sysinfo(kernel: Kernel, process: Process) -> dict[str, Any]:
    del process
    return about.kernel(kernel)
