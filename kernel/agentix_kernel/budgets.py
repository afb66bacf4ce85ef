"""Budgets: what an agent and all it spawns may come to by their policy, and what happens when one is exhausted.

Each use is counted where it is asked for. What is over the budget is refused (EDQUOT for a life's number, EAGAIN for a
rate), the exhaustion is recorded, and whoever asked gets SIGBUDGET: once, until that budget has recovered and is
exhausted anew. Mode audit records it, and lets it pass.
"""

from contextlib import suppress
from typing import Any, Final

from agentix_kernel import delivery
from agentix_kernel.authority.constraints import Constraints, Meter
from agentix_kernel.authority.policy.inforce import AUDIT
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import records, signals
from agentix_syscalls.errors import CallError

UNCOUNTED: Final = frozenset({"HELLO", "CANCEL", "EXIT", "SIGACTION", "SIGPROCMASK", "SIGWAIT"})
"""Calls by which an agent hears of signals, and ends: answered even when its calls are spent."""


def charge(kernel: Kernel, process: Process, what: str) -> None:
    """Count one use of the budget of that name, if there is one. Raises CallError: EDQUOT, or EAGAIN with the time
    to wait; then SIGBUDGET was sent as well, if it was not before.
    """
    meter = process.budgets.get(what)
    if meter is None:
        return
    now_ns = kernel.world.clock.monotonic_ns()
    _recover(process, what, meter, now_ns)
    try:
        meter.check(now_ns, 0)
    except CallError as over:
        limit = _limit(meter.limits)
        message = f"the budget of {what} is spent"
        rule = f"{process.policy.policy.file}: budgets: {what}: {limit}"
        if what not in process.spent:
            process.spent.add(what)
            _tell(kernel, process, (what, limit, message), rule)
        if process.policy.mode != AUDIT:
            remedy = over.remedy or "an operator can give it more: agentctl policy set"
            raise CallError(over.number, message, rule=rule, remedy=remedy, enforcer="budgets") from None
    else:
        meter.take(now_ns)


def count_denial(kernel: Kernel, process: Process) -> None:
    """What is denied is refused already; one denial more than the budget has is a signal as well."""
    with suppress(CallError):
        charge(kernel, process, "denials")


def follow(process: Process) -> None:
    """Another policy came into force: its budgets hold, less what was used of those of the same name."""
    before = process.budgets
    process.budgets = {what: _amended(before.get(what), limit) for what, limit in process.policy.policy.budgets}
    process.spent &= {what for what, meter in process.budgets.items() if meter is before.get(what)}


def _amended(meter: Meter | None, limit: Constraints) -> Meter:
    if meter is None or meter.limits == limit:
        return meter or Meter(limit)
    return Meter(limit, meter.used)


def _tell(kernel: Kernel, process: Process, data: tuple[str, str, str], rule: str) -> None:
    audit = process.policy.mode == AUDIT
    verdict = records.AUDITED if audit else records.DENIED
    kernel.sync_to(kernel.record(records.BUDGET, process, verdict=verdict, rule=rule, data=data))
    if not audit:
        delivery.send(kernel, process, signals.SIGBUDGET, 0, f"{data[-1]} ({rule})", rule)


def _recover(process: Process, what: str, meter: Meter, now_ns: int) -> None:
    if what in process.spent and meter.full(now_ns):
        process.spent.discard(what)


def _limit(limits: Constraints) -> str:
    return limits.written()[0][1]


# --- what is shown -------------------------------------------------------------------------------------------------

def spent(kernel: Kernel, process: Process) -> list[str]:
    """Names of the budgets that are exhausted for it."""
    now_ns = kernel.world.clock.monotonic_ns()
    for what, meter in process.budgets.items():
        _recover(process, what, meter, now_ns)
    return sorted(process.spent)


def rows(kernel: Kernel, process: Process) -> list[dict[str, Any]]:
    """What each budget says, what was used of it, and what is left now."""
    exhausted, now_ns = spent(kernel, process), kernel.world.clock.monotonic_ns()
    return [{"budget": what, "limit": _limit(meter.limits), "used": meter.used, "left": meter.left(now_ns),
             "spent": what in exhausted} for what, meter in process.budgets.items()]


def text(kernel: Kernel, process: Process) -> str:
    """The file policy/budgets: a line for each."""
    return "".join(f"{row['budget'].capitalize()}:\t{row['limit']}, {row['used']} used, {row['left']} left"
                   f"{', spent' if row['spent'] else ''}\n" for row in rows(kernel, process))
