"""Another document for agents and their descendants: planned beside the kernel's thread, put in force within it.

What is planned is looked at again before it is used: an agent may spawn meanwhile. A family changes in one step,
without an await; what is recorded of it has left before.
"""

import errno
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from attrs import frozen

from agentix_kernel import grants, limits
from agentix_kernel.authority.policy import succession
from agentix_kernel.authority.policy.document import BindRule
from agentix_kernel.authority.policy.inforce import InForce
from agentix_kernel.enforcement import Stays
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.world import Bind, Limits
from agentix_syscalls import records
from agentix_syscalls.errors import CallError

SET: Final = "policy set"


@frozen
class Change:
    """One agent's policy before and after."""

    process: Process
    before: InForce
    after: InForce


Family = tuple[tuple[Process, InForce], ...]
"""An agent and its living descendants, parents first, with their policies at a moment."""


Done = tuple[tuple[Process, Stays], ...]
"""Of each agent of a family, what was taken back and what stays."""


def family(kernel: Kernel, process: Process) -> Family:
    return tuple((one, one.policy) for one in kernel.table.family(process))


def plan(new: InForce, members: Family, known: dict[object, InForce]) -> tuple[Change, ...]:
    """What each is to have. Takes long when rules are many; from any thread. `known` has what was made before."""
    (first, before), *others = members
    key = before.mode, before.document.mode, before.deny
    if key not in known:
        known[key] = succession.of_agent(new, before)
    changes = {first.id: Change(first, before, known[key])}
    for process, policy in others:
        above = changes[process.parent]
        changes[process.id] = Change(process, policy, succession.of_child(above.after, above.before, policy))
    return tuple(changes.values())


def check(kernel: Kernel, process: Process) -> None:
    """Whether it may get another document. Raises CallError: EPERM for a child, EBUSY, ESRCH."""
    named = f"{SET}: agent {process.id} ({process.name})"
    if kernel.table.by_id.get(process.id) is not process:
        raise CallError(errno.ESRCH, f"{named} was removed")
    parent = kernel.table.by_id.get(process.parent)
    if parent is not None and parent.alive:
        raise CallError(errno.EPERM, f"{named} has what its parent has, and at most that",
                        remedy=f"set the policy of agent {parent.id} ({parent.name})")
    if process.alive and process.doom is not None:
        raise CallError(errno.ESRCH, f"{named} is ending")
    if process.alive and process.sandbox is None and process.waking is None:
        raise CallError(errno.EBUSY, f"{named} is being started", remedy="try again in a moment")


def built_in(process: Process, new: InForce) -> list[str]:
    """What differs and is built into its sandbox: binds that come and go, as people read them."""
    def shown(rules: Sequence[BindRule], others: Sequence[BindRule], word: str) -> list[str]:
        return [f"{one} {word} ({one.mark.file}:{one.mark.line})" for one in rules if one not in others]

    old = process.policy.document.binds
    return shown(new.document.binds, old, "comes") + shown(old, new.document.binds, "goes")


def beside(process: Process) -> tuple[Bind, ...]:
    """What it is shown that its document does not name."""
    named = {(one.host, one.at, one.writable) for one in process.policy.document.binds}
    return tuple(bind for bind in process.command.binds if (bind.source, bind.target, bind.writable) not in named)


def put(kernel: Kernel, root: Process, planned: tuple[Change, ...], new: InForce, who: str) -> tuple[Done, int]:
    """Put it in force for a family. Returns the record to wait for, too. Raises CallError when Linux refuses a limit or
    nothing can be recorded; nothing has changed then.
    """
    correlation, members = kernel.next_correlation(), family(kernel, root)
    if tuple((one.process, one.before) for one in planned) != members:
        planned = plan(new, members, {})

    def record(phase: int, verdict: int, why: str = "") -> int:
        seq = 0
        for change in planned:
            told = "set" if change.process is root else f"set with agent {root.id}"
            seq = kernel.record(records.POLICY, change.process, phase=phase, verdict=verdict, correlation=correlation,
                                data=(new.source.hash, f"{new.source.name}: {told} by {who}{why}"))
        return seq

    record(records.INTENT, records.NONE)
    kernel.flush()  # it has left before anything is done; the outcome leaves when who asked waits for it
    if kernel.journal.failed is not None:
        raise CallError(errno.ENOSPC, f"{SET}: nothing can be recorded: {kernel.journal.failed}",
                        remedy="make room on the disk of the journal")
    try:
        _limit(kernel, planned)
    except CallError as error:
        record(records.OUTCOME, records.FAILED, f": {error.message}")
        raise
    done = tuple((change.process, grants.replace(kernel, change.process, change.after, who)) for change in planned)
    for process, _ in done:
        process.budgets = root.budgets  # one for all of them, as before
        kernel.registry.save(process)
    return done, record(records.OUTCOME, records.ALLOWED)


def _limit(kernel: Kernel, planned: Sequence[Change]) -> None:
    """All of them or none."""
    default = Limits(kernel.config.memory_bytes, kernel.config.cpus, kernel.config.pids)
    old: list[tuple[Process, Limits]] = []
    try:
        for change in planned:
            process, now = change.process, change.process.limits
            wanted = limits.following(now, change.before.document.limits, change.after.document.limits, default)
            if wanted != now:
                limits.put(kernel, process, wanted, SET)
                old.append((process, now))
    except CallError:
        for process, before in old:
            with suppress(CallError):
                limits.put(kernel, process, before, SET)
        raise
