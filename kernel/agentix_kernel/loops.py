"""Loops: an agent that makes the same call again and again, answered alike each time, gets SIGLOOP.

What counts is what brings an agent no further. A call that asks is alike when its answer is; one that changes or moves
something gets on by succeeding, and is alike only when it fails, each time in the same way. What waits (WAIT, SIGWAIT)
is never counted, nor what libraries ask before each step (GETPID, CHECKPOLICY), nor a READ that succeeds: that is how
a file is followed that grows.
"""

from typing import Final

from agentix_kernel import delivery
from agentix_kernel.authority.policy.document import Loops
from agentix_kernel.authority.policy.inforce import AUDIT
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.repeats import Repeat
from agentix_syscalls import records, signals
from agentix_syscalls.calls import Call

ASKING: Final = frozenset({"STAT", "READDIR", "EXEC", "GETPOLICY", "CAPS"})
"""Calls that are alike when they are answered alike."""
PATIENT: Final = frozenset({"HELLO", "EXIT", "CANCEL", "WAIT", "SIGWAIT"})
"""Calls that are never alike: they wait, or there is no more than one."""
COMPARED_BYTES: Final = 4096
"""Of a call's arguments and of its answer: of longer ones so many, and the length."""


def bound(kernel: Kernel, process: Process) -> Loops:
    """What is a loop for this agent: as its policy says, else as the configuration does."""
    said = process.policy.policy.loops
    return kernel.loops if said is None else said


def count(kernel: Kernel, process: Process, call: Call, asked: bytes, answer: bytes) -> Repeat | None:
    """Count a call by the body of its frame and by its answer, or what stands for that. Returns what is known of such
    calls when that has just become a loop.
    """
    most = bound(kernel, process)
    if not most.calls:
        return None
    kind = hash((call.number, len(asked), asked[:COMPARED_BYTES], len(answer), answer[:COMPARED_BYTES]))
    return process.repeats.add(kind, kernel.world.clock.monotonic_ns(), most.calls, most.window_ns)


def tell(kernel: Kernel, process: Process, what: str, found: Repeat) -> None:
    """Record a loop and send SIGLOOP; in mode audit it is recorded, and that is all. `what`: the call, as people read
    it, and how it was answered.
    """
    most = bound(kernel, process)
    lasted_s = (kernel.world.clock.monotonic_ns() - found.begun_ns) / 1e9
    why = f"{found.count} times in {lasted_s:.3g} s: {what}"
    where = "agentd.toml" if process.policy.policy.loops is None else process.policy.policy.file
    rule = f"{where}: loops: {most}"
    if process.policy.mode == AUDIT:
        kernel.record(records.LIMIT, process, verdict=records.AUDITED, rule=rule, data=("loop", why))
    else:
        delivery.send(kernel, process, signals.SIGLOOP, 0, why, rule)
