"""How a signal gets to an agent. Every one is recorded before it has an effect; who may send it is asked elsewhere."""

import trio

from agentix_kernel import lifecycle, rebirth
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import End, Process, Why
from agentix_kernel.signals import Deed, Pending
from agentix_syscalls import records, signals
from agentix_syscalls.signals import BY_NUMBER

END_WORDS = {
    signals.SIGKILL: Why.KILLED, signals.SIGPOLICY: Why.POLICY, signals.SIGTRUST: Why.TRUST,
    signals.SIGBUDGET: Why.BUDGET, signals.SIGLOOP: Why.LOOP,
}


def send(kernel: Kernel, target: Process, number: int, sender: int, why: str, rule: str = "") -> int:
    """Deliver a signal to a living agent. Returns the sequence of its record; the caller flushes.

    Raises CallError (EAGAIN): it waits for its restart, and the signal would not end it.
    """
    rebirth.check_reaches(target, number)
    deed = target.signals.post(number, sender, why, own=sender == target.id)
    seq = kernel.record(records.SIGNAL, target, verdict=records.ALLOWED, rule=rule,
                        data=(BY_NUMBER[number].name, sender, why, deed.value))
    kernel.flush()  # recorded before it has an effect
    act(kernel, target, deed, Pending(number, sender, why), rule)
    return seq


def end_family(kernel: Kernel, target: Process, number: int, why: str, rule: str) -> None:
    """End an agent, and all it spawned, by SIGPOLICY (it broke its policy) or SIGTRUST (it was not who it seemed)."""
    for member in kernel.table.family(target):
        detail = why if member is target else f"its ancestor, agent {target.id}, ended so: {why}"
        send(kernel, member, number, 0, detail, rule)


def act(kernel: Kernel, target: Process, deed: Deed, what: Pending, rule: str = "") -> None:
    """Do what was decided."""
    row = BY_NUMBER[what.number]
    match deed:
        case Deed.NOTHING | Deed.PENDING:
            pass
        case Deed.DOORBELL:
            if target.sandbox is not None:
                target.sandbox.ring_doorbell()
        case Deed.FORWARD:
            _forward(kernel, target, what)
        case Deed.KILL | Deed.END:
            detail = f"{row.name}: {what.why}" if what.why else row.name
            lifecycle.doom(kernel, target, End(END_WORDS[what.number], signal=row.name, detail=detail, rule=rule))
        case Deed.STOP:
            lifecycle.hold(kernel, target)
        case Deed.DEFER_STOP:
            kernel.start(_stop_later, kernel, target)
        case Deed.CONTINUE:
            lifecycle.resume(kernel, target)
            if target.signals.pending.get(what.number) is not None and target.sandbox is not None:
                target.sandbox.ring_doorbell()
    target.wake()


def released(kernel: Kernel, target: Process, deeds: list[tuple[Deed, Pending]]) -> None:
    """Act on signals that a change of mask or disposition set free."""
    for deed, what in deeds:
        act(kernel, target, deed, what)


def _forward(kernel: Kernel, target: Process, what: Pending) -> None:
    row = BY_NUMBER[what.number]
    if target.waking is not None:
        detail = f"{row.name} while it waited for its restart: {what.why}"
        lifecycle.doom(kernel, target, End(Why.KILLED, signal=row.name, detail=detail))
        return
    linux = row.linux
    assert linux is not None
    if target.sandbox is not None:
        target.sandbox.signal(linux)
    if what.number == signals.SIGTERM and not target.terminating:
        target.terminating = True
        kernel.start(_kill_later, kernel, target)


async def _kill_later(kernel: Kernel, target: Process) -> None:
    """SIGTERM to an agent without a handler is followed by the proven kill."""
    with trio.move_on_after(kernel.config.stop_timeout_s):
        await target.over.wait()
        return
    detail = f"did not end within {kernel.config.stop_timeout_s:g} s of SIGTERM"
    lifecycle.doom(kernel, target, End(Why.KILLED, signal="SIGKILL", detail=detail))


async def _stop_later(kernel: Kernel, target: Process) -> None:
    """A mask defers SIGSTOP for a bounded time; unblocking it stops at once (and takes it from the queue)."""
    waiting = target.signals.pending.get(signals.SIGSTOP)
    await trio.sleep(kernel.config.sigstop_grace_s)
    if waiting is not None and target.signals.pending.get(signals.SIGSTOP) is waiting:
        del target.signals.pending[signals.SIGSTOP]
        lifecycle.hold(kernel, target)
