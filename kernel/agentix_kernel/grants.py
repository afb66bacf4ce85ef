"""What agents hold, and that it is in force: every change of it is recorded, kept, and put in force at once.

Holdings know who holds what from whom; the policy in force of an agent is made of what it holds and what is denied to
it. Nothing here awaits: what is taken back is gone before anybody's next call is judged.
"""

import errno
from collections.abc import Iterable, Iterator
from typing import Final

import trio
from attrs import field, frozen

from agentix_kernel import denials, enforcement
from agentix_kernel.authority.capability import Capability
from agentix_kernel.authority.holdings import ROOT, Grant, Need, Row, Start
from agentix_kernel.authority.policy.inforce import AUDIT, InForce, Verdict
from agentix_kernel.authority.policy.reading import Mark
from agentix_kernel.enforcement import Stays
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import records
from agentix_syscalls.errors import CallError

WATCH_S: Final = 0.5
"""Wall time may jump: so often it is looked at while something may expire."""
METERS: Final = "meters"
"""The enforcer of rates and numbers, as refusals name it."""


@frozen
class Taken:
    """What a revocation took: the rows of what is gone, givers first, and by agent what it left and closed."""

    rows: tuple[Row, ...] = ()
    stays: dict[int, Stays] = field(factory=dict[int, Stays])
    seq: int = 0


# --- lives ---------------------------------------------------------------------------------------------------------

def begin(kernel: Kernel, process: Process, sources: tuple[Grant, ...] | None = None) -> None:
    """The first life: it holds what its policy allows, from the root, or from these grants of its parent's."""
    process.lives.start = Start.of(process.policy.allows)
    rows = kernel.holdings.begin(process.id, process.lives.start, kernel.world.clock.wall_ns(), sources)
    _record(kernel, rows, process.parent)
    _watch(kernel)


def renew(kernel: Kernel, process: Process) -> None:
    """A further life: it holds what each of its lives begins with."""
    rows = kernel.holdings.begin(process.id, process.lives.start, kernel.world.clock.wall_ns())
    process.policy = _held(kernel, process)
    _record(kernel, rows, ROOT)
    _watch(kernel)


def close(kernel: Kernel, process: Process) -> None:
    """A life has ended: it holds nothing. What it gave its children they keep."""
    kernel.holdings.close(process.id)


def _held(kernel: Kernel, process: Process) -> InForce:
    """What is held twice is in force once."""
    return process.policy.holding(tuple(dict.fromkeys(one.rule for one in kernel.holdings.held(process.id))))


# --- giving and taking ---------------------------------------------------------------------------------------------

def grant(kernel: Kernel, process: Process, wanted: Capability, source: str) -> tuple[Row, int]:
    """An operator gives, for this life and those to come: on record before it is kept, or a kernel that ends between
    the two leaves what nobody gave. Raises CallError: EMFILE, or why nothing can be recorded; then nothing is given.
    """
    row = kernel.holdings.grant(process.id, wanted, Mark(source, 0, 0))
    seq = _record(kernel, [row], ROOT, source)
    kernel.flush()
    if kernel.journal.failed is not None:
        _record(kernel, kernel.holdings.revoke(process.id, row.handle), ROOT, "could not be recorded")
        raise denials.unrecorded(kernel)
    _put(kernel, [row])
    return row, seq


def pass_on(kernel: Kernel, giver: Process, handle: int, to: Process, wanted: Capability | None) -> tuple[Row, int]:
    """An agent narrows what it holds for itself, or gives it to an own child. Raises CallError: EBADF, ECHILD, EPERM,
    EMFILE.
    """
    holdings = kernel.holdings
    if to is giver:
        held = holdings.find(giver.id, handle).capability
        row = holdings.attenuate(giver.id, handle, wanted or held)
    else:
        row = holdings.delegate(giver.id, handle, to.id, wanted)
    return row, _changed(kernel, [row], giver.id, f"agent {giver.id}")[0]


def revoke(kernel: Kernel, process: Process, handle: int, by: int, source: str) -> Taken:
    """Take back a grant and all that hangs below it, at once. Raises CallError: EBADF, EPERM."""
    rows = kernel.holdings.revoke(process.id, handle, by)
    seq, stays = _changed(kernel, rows, by, source)
    return Taken(rows, stays, seq)


def replace(kernel: Kernel, process: Process, policy: InForce, who: str) -> Stays:
    """Another policy for an agent, and for those that descend from it after it: it holds what that allows, as far as
    its parent does. What is allowed by both keeps its handle and what was used of it.
    """
    rows = kernel.holdings.replace(process.id, policy.allows, kernel.table.parent_of(process.id))
    _record(kernel, rows, ROOT, f"policy set by {who}")
    _watch(kernel)
    process.policy = policy
    return enforcement.put(kernel, process, _held(kernel, process) if process.alive else policy)


def _changed(kernel: Kernel, rows: Iterable[Row], by: int, source: str) -> tuple[int, dict[int, Stays]]:
    """Record it, then put it in force and keep it for each agent that it changed."""
    rows = tuple(rows)
    return _record(kernel, rows, by, source), _put(kernel, rows)


def _put(kernel: Kernel, rows: Iterable[Row]) -> dict[int, Stays]:
    """Put it in force and keep it for each agent that it changed."""
    stays: dict[int, Stays] = {}
    for agent in dict.fromkeys(row.who for row in rows):
        process = kernel.table.by_id.get(agent)
        if process is not None and process.alive:
            stays[agent] = enforcement.put(kernel, process, _held(kernel, process))
            kernel.registry.save(process)
    _watch(kernel)
    return stays


def _record(kernel: Kernel, rows: Iterable[Row], by: int, source: str = "") -> int:
    """Who has what, from whom. Durable with the next flush; the sequence of the last."""
    seq = 0
    for row in rows:
        kind = records.GRANT if row.change in GIVING else records.REVOKE
        seq = kernel.record(kind, kernel.table.by_id.get(row.who), data=(
            row.capability, source or row.source, row.change, row.handle, row.giver, row.parent, by))
    kernel.sync_to(seq)
    return seq


GIVING: Final = frozenset({"begin", "grant", "attenuate", "delegate"})
"""Changes that give; the others take."""


# --- meters --------------------------------------------------------------------------------------------------------

def spend(kernel: Kernel, process: Process, call: str, about: str, needs: tuple[Need, ...], *,
          take: bool = True) -> tuple[Grant, ...]:
    """Count one operation against what allows it; what it was counted against. `take` False: only ask.

    Raises CallError: EAGAIN when it comes too soon (with when to try again), EDQUOT when it is used up, EPERM when it
    has expired. Mode audit records it, and lets it pass.
    """
    if not needs:
        return ()
    clock = kernel.world.clock
    try:
        return kernel.holdings.spend(process.id, needs, clock.monotonic_ns(), clock.wall_ns(), take=take)
    except CallError as over:
        said = Verdict(allowed=False, rule=over.rule, message=f"{call} {about}: {over.message}".strip(),
                       remedy=over.remedy)
        if process.policy.mode == AUDIT or over.number == errno.EPERM:
            refused = denials.violate(kernel, process, METERS, call, about, said)
            if refused is None:
                return ()
            raise refused from None
        raise CallError(over.number, said.message, rule=over.rule, remedy=over.remedy, enforcer=METERS) from None


def left(kernel: Kernel, process: Process, call: str, said: Verdict) -> Verdict:
    """What is said of a call that is allowed, once its meters are asked as well. Takes nothing."""
    clock = kernel.world.clock
    try:
        kernel.holdings.spend(process.id, said.needs, clock.monotonic_ns(), clock.wall_ns(), take=False)
    except CallError as over:
        return Verdict(allowed=False, rule=over.rule, message=f"{call}: {over.message}", remedy=over.remedy)
    return said


def leave_to_spawn(kernel: Kernel, parent: Process, name: str | None, *, take: bool = True) -> tuple[Grant, ...]:
    """Count a spawn against what allows it; what it was counted against. Raises CallError as spend() does."""
    said = parent.policy.decide_spawn(name)
    if not said.allowed:  # no violation: it was allowed when it was asked for
        raise CallError(errno.EPERM, f"no more: {said.message}", rule=said.rule, remedy=said.remedy)
    return spend(kernel, parent, "SPAWN", name or "", said.needs, take=take)


def leave_to_run(kernel: Kernel, process: Process, tool: str) -> float | None:
    """Count a run of a tool against what allows it; how many seconds that gives it at most. Raises CallError."""
    needs = process.policy.decide("EXEC", tool.encode("utf-8", "surrogateescape")).needs
    used = spend(kernel, process, "EXEC", tool, needs)
    if not used:
        return process.policy.tool_timeout_s(tool)
    limits = [one.capability.constraints.timeout_ns for one in used]
    return min((found / 1e9 for found in limits if found is not None), default=None)


# --- the clock -----------------------------------------------------------------------------------------------------

def _watch(kernel: Kernel) -> None:
    """See to it that what expires is taken back."""
    if kernel.holdings.expires_ns is not None and not kernel.expiring:
        kernel.expiring = True
        kernel.start(_expire, kernel)


async def _expire(kernel: Kernel) -> None:
    """Until nothing is left that may expire. Wall time is looked at again and again, since it may jump."""
    try:
        while (at := kernel.holdings.expires_ns) is not None:
            await trio.sleep(min(WATCH_S, max(0, at - kernel.world.clock.wall_ns()) / 1e9))
            taken = kernel.holdings.expire(kernel.world.clock.wall_ns())
            if taken:
                _changed(kernel, taken, ROOT, "expired")
                kernel.flush()
    finally:
        kernel.expiring = False


# --- what is shown -------------------------------------------------------------------------------------------------

def text(kernel: Kernel, agent: int) -> str:
    """The file policy/capabilities: a line for each that is held."""
    return "".join(
        f"{row['handle']}\t{row['capability']}\t{row['source']}"
        + (f"\tfrom agent {row['from']}" if row["from"] else "") + (f"\t{row['left']} left" if row["left"] is not None
                                                                     else "") + "\n"
        for row in rows(kernel, kernel.holdings.held(agent)))


def rows(kernel: Kernel, grants: Iterable[Grant]) -> Iterator[dict[str, object]]:
    """Grants as operators and agents see them. `left` is what a number has left, in the whole chain."""
    for one in grants:
        process = kernel.table.by_id.get(one.holder)
        left = [above.meter.limits.max - above.meter.used for above in one.chain()
                if above.meter is not None and above.meter.limits.max is not None]
        above = one.above
        yield {"agent": one.holder, "name": process.name if process is not None else "", "handle": one.handle,
               "capability": str(one.capability), "source": one.source, "from": above.holder if above else ROOT,
               "from_handle": above.handle if above else None, "depth": one.depth, "held": one.held,
               "left": max(0, min(left)) if left else None}
