"""Calls that ask: policy, usage, the kernel itself."""

import errno
from typing import Any

from agentix_kernel import about, grants
from agentix_kernel.authority.policy.inforce import ALLOWED, ASKS, AUDIT, InForce, Verdict
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import calls
from agentix_syscalls.errors import CallError


def checkpolicy(kernel: Kernel, process: Process, name: str, path: bytes | None) -> list[Any]:
    call = calls.find(name)
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
    """What a policy says of a call by all its rules: of OPEN that to read, as O_RDONLY asks."""
    if call == "SPAWN":
        said = [policy.decide(call), policy.decide_spawn(
            objects[0].decode("utf-8", "replace") if objects else None)]
    else:
        names = {"OPEN": ("OPEN", "READ"), "TRUNCATE": ("TRUNCATE", "WRITE")}.get(call, (call,))
        said = [policy.decide(name, *objects) for name in names]
    refused = next((one for one in said if not one.allowed), None)
    needs = tuple(need for one in said for need in one.needs if objects)
    return refused or (Verdict(allowed=True, needs=needs) if needs else ALLOWED)


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
