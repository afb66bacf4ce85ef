"""Calls that ask: policy, usage, the kernel itself."""

import errno
from typing import Any

from agentix_kernel import about
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import calls
from agentix_syscalls.errors import CallError


def checkpolicy(kernel: Kernel, process: Process, name: str, path: bytes | None) -> list[Any]:
    call = calls.find(name)
    if call is None:
        raise CallError(errno.EINVAL, f"CHECKPOLICY: no call is named {name!r}", remedy="agentctl syscalls lists them")
    policy = process.policy
    if call.name == "SPAWN" and process.spawned >= policy.spawn_max:
        return [False, policy.mode, f"spawn at most {policy.spawn_max}", "no (more) children"]
    canonical = None if path is None else kernel.tree.canonical(process.id, path)
    decision = policy.decide(call.name, canonical)
    allowed = decision.allowed or policy.mode == "audit"
    return [allowed, policy.mode, decision.rule, decision.message]


def getpolicy(kernel: Kernel, process: Process) -> list[Any]:
    del kernel
    policy = process.policy
    return [policy.mode, [rule.text for rule in policy.rules], policy.spawn_max]


def rusage(kernel: Kernel, process: Process) -> list[int]:
    del kernel
    usage = process.usage_now()
    return [usage.cpu_us, usage.memory_bytes, usage.memory_peak_bytes, usage.processes, process.calls,
            process.denials]


def sysinfo(kernel: Kernel, process: Process) -> dict[str, Any]:
    del process
    return about.kernel(kernel)
