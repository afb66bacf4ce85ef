"""What happens when a rule is broken, whichever enforcer saw it: recorded, explained, and in strict mode the end."""

import errno
from typing import Final

from agentix_kernel import budgets, delivery
from agentix_kernel.authority.policy.inforce import AUDIT, STRICT, Verdict
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Denial, Process
from agentix_kernel.world import DeniedCall
from agentix_syscalls import records, signals
from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import Signal

SECCOMP: Final = "seccomp"
ASK: Final = "ask with CHECKPOLICY beforehand; read policy/effective"
"""What to do about a refusal that no rule would undo."""


def violate(kernel: Kernel, process: Process, enforcer: str, call: str, about: str,
            said: Verdict) -> CallError | None:
    """A rule that the mode may soften was broken. Returns the error to raise, or None when the mode is audit."""
    if process.policy.mode == AUDIT:
        _note(kernel, process, records.AUDITED, enforcer, call, about, said)
        return None
    return refuse(kernel, process, enforcer, call, about, said)


def refuse(kernel: Kernel, process: Process, enforcer: str, call: str, about: str, said: Verdict) -> CallError:
    """What no mode allows. Returns the error to raise; in strict mode SIGPOLICY has been sent as well."""
    _note(kernel, process, records.DENIED, enforcer, call, about, said)
    if process.policy.mode == STRICT:
        delivery.end_family(kernel, process, signals.SIGPOLICY, f"{said.message} ({said.rule})", said.rule)
    else:
        budgets.count_denial(kernel, process)
    return CallError(errno.EPERM, said.message, rule=said.rule, remedy=said.remedy or ASK, enforcer=enforcer)


def not_to_send(kernel: Kernel, process: Process, row: Signal, agent: int) -> CallError:
    """An agent means to send a signal that the kernel and root alone send. Returns the error to raise."""
    return refuse(kernel, process, "signals", "SIGNAL", f"agent {agent}", Verdict(
        allowed=False, rule=f"signals: {row.name} is not an agent's to send",
        message=f"{row.name} is sent by the kernel or by root alone"))


def unrecorded(kernel: Kernel) -> CallError:
    """What cannot be recorded is not done."""
    failed = kernel.journal.failed
    number = failed.errno if failed is not None and failed.errno else errno.ENOSPC
    return CallError(number, f"nothing can be recorded: {failed}",
                     remedy="the operator must make room on the disk of the journal")


def by_seccomp(kernel: Kernel, process: Process, call: DeniedCall, who: str) -> bool:
    """A process of the agent, or of a tool that works for it (`who` says which), made a Linux call that is refused.

    Returns whether the agent is ending: then the call is never answered, and its caller runs no further.
    """
    said = Verdict(allowed=False, rule=f"seccomp {call.name}", message=f"the Linux call {call.name} is refused")
    if call.fatal:
        _note(kernel, process, records.DENIED, SECCOMP, call.name, who, said)
        delivery.end_family(kernel, process, signals.SIGPOLICY, f"{said.message}, and no honest agent makes it",
                            said.rule)
    else:
        refuse(kernel, process, SECCOMP, call.name, who, said)
    kernel.flush()
    return process.doom is not None


def _note(kernel: Kernel, process: Process, verdict: int, enforcer: str, call: str, about: str, said: Verdict) -> None:
    process.denials += 1
    process.last_denial = Denial(enforcer, call, about, said.message, said.rule, said.file, said.line,
                                 process.policy.mode, said.remedy, kernel.world.clock.wall_ns())
    kernel.sync_to(kernel.record(records.DENIAL, process, verdict=verdict, rule=said.rule,
                                 data=(enforcer, call, about, said.message)))
