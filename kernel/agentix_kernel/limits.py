"""Changing what a living agent may use."""

import errno
from contextlib import suppress
from typing import Any

from attrs import evolve

from agentix_kernel import lifecycle
from agentix_kernel.authority.policy.document import Bounds
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.world import Limits
from agentix_syscalls import spawn
from agentix_syscalls.errors import CallError


def put(kernel: Kernel, process: Process, limits: Limits, what: str) -> None:
    """Change the cgroups, all of it or nothing, and its time. Raises CallError with what Linux said, after `what`."""
    before = process.limits
    if process.sandbox is not None and process.alive:
        try:
            process.sandbox.set_limits(limits)
        except OSError as error:
            with suppress(OSError):  # what was in force can be set again; if not, it is what Linux has now
                process.sandbox.set_limits(before)
            raise _explained(process, error, what) from error
        if limits.timeout_s != before.timeout_s:
            left = None if limits.timeout_s is None else max(0.0, limits.timeout_s - lifecycle.lived_s(kernel, process))
            lifecycle.set_timeout(process, left)
    process.limits = limits


def _explained(process: Process, error: OSError, what: str) -> CallError:
    number = error.errno or errno.EIO
    used = process.usage_now().memory_bytes
    why = f"{used} bytes of memory are in use, and Linux cannot take them back" if number == errno.EBUSY else error
    return CallError(number, f"{what}: agent {process.id} ({process.name}): {why}",
                     remedy="stop it, or choose a higher limit" if number == errno.EBUSY else "")


def following(now: Limits, before: Bounds, after: Bounds, default: Limits) -> Limits:
    """What is in force when another document says what is at most: what the old one gave, or nobody, the new one gives;
    what was narrowed beside it stays narrow. What the new one does not name stays as it is.
    """
    changed: dict[str, Any] = {}
    for name in spawn.LIMITS:
        most, value = getattr(after, name), getattr(now, name)
        if most is not None:
            given = value in {getattr(before, name), getattr(default, name)}
            changed[name] = most if given or value is None else min(value, most)
    return evolve(now, **changed)
