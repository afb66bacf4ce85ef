"""What happens when a rule is broken, whichever enforcer saw it: recorded, explained, and in strict mode the end."""

import errno

from agentix_kernel import delivery
from agentix_kernel.authority.policy.inforce import AUDIT, STRICT
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.world import DeniedCall
from agentix_syscalls import records
from agentix_syscalls.errors import CallError


def violate(kernel: Kernel, process: Process, enforcer: str, call: str, about: str, message: str,
            rule: str) -> CallError | None:
    """A rule that the mode may soften was broken. Returns the error to raise, or None when the mode is audit."""
    if process.policy.mode == AUDIT:
        _note(kernel, process, records.AUDITED, enforcer, call, about, message, rule)
        return None
    return refuse(kernel, process, enforcer, call, about, message, rule)


def refuse(kernel: Kernel, process: Process, enforcer: str, call: str, about: str, message: str,
           rule: str) -> CallError:
    """What no mode allows. Returns the error to raise; in strict mode SIGPOLICY has been sent as well."""
    _note(kernel, process, records.DENIED, enforcer, call, about, message, rule)
    if process.policy.mode == STRICT:
        delivery.sigpolicy(kernel, process, f"{message} ({rule})", rule)
    return CallError(errno.EPERM, message, rule=rule, remedy="ask with CHECKPOLICY beforehand; read policy/effective")


def by_seccomp(kernel: Kernel, process: Process, call: DeniedCall, who: str) -> None:
    """A process of the agent, or of a tool that works for it (`who` says which), made a Linux call that is refused."""
    message, rule = f"the Linux call {call.name} is refused", f"seccomp {call.name}"
    if call.fatal:
        _note(kernel, process, records.DENIED, "seccomp", call.name, who, message, rule)
        delivery.sigpolicy(kernel, process, f"{message}, and no honest agent makes it", rule)
    else:
        refuse(kernel, process, "seccomp", call.name, who, message, rule)
    kernel.flush()


def _note(kernel: Kernel, process: Process, verdict: int, enforcer: str, call: str, about: str, message: str,
          rule: str) -> None:
    process.denials += 1
    process.last_denial = f"{message}\nRule:\t{rule}\nEnforcer:\t{enforcer}\nMode:\t{process.policy.mode}\n"
    kernel.sync_to(kernel.record(records.DENIAL, process, verdict=verdict, rule=rule,
                                 data=(enforcer, call, about, message)))
