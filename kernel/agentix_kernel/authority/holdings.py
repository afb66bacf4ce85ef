"""Who holds which capability, from whom: the kernel's handle table. A pure state machine.

A handle is a small integer of one agent: an index into this table, so that there is nothing to forge. Every grant hangs
below the one that it was narrowed from (the root's own have none above), and using one counts against every grant above
it as well: ten children of one rate share that rate. Taking a grant back takes all that hangs below, whoever holds it.
(The idea: the derivation tree of seL4's capabilities.)
"""

import errno
from collections.abc import Callable, Iterator
from typing import Final

from attrs import define, field, frozen

from agentix_kernel.authority.capability import Capability
from agentix_kernel.authority.constraints import Meter
from agentix_syscalls.errors import CallError

ROOT: Final = 0
"""Who grants without holding: the operator and the policy."""
HANDLES_MAX: Final = 256
"""Of one agent: bounds what finding the right one costs."""
DEPTH_MAX: Final = 32
"""Grants below one another: what one use costs, and how long a chain may be."""


@frozen
class Row:
    """What happened, for the record. `giver` is ROOT or an agent; `parent` the giver's handle, None for the root's."""

    change: str
    who: int
    handle: int
    giver: int
    parent: int | None
    capability: str


@define(eq=False)
class Grant:
    """One node of the tree. `held` False: its holder has ended, and it only stands for what hangs below."""

    holder: int
    handle: int
    capability: Capability
    above: "Grant | None"
    meter: Meter
    depth: int
    held: bool = True
    below: list["Grant"] = field(factory=list["Grant"])

    def chain(self) -> Iterator["Grant"]:
        """Itself and all above it."""
        grant: Grant | None = self
        while grant is not None:
            yield grant
            grant = grant.above

    def subtree(self) -> Iterator["Grant"]:
        """Itself and all below it, the givers before what they gave."""
        stack: list[Grant] = [self]
        while stack:
            grant = stack.pop()
            yield grant
            stack.extend(reversed(grant.below))


@define
class Holdings:
    """The table. `parent_of` says who an agent's parent is (ROOT for none), and is asked at a delegation."""

    parent_of: Callable[[int], int]
    _held: dict[int, dict[int, Grant]] = field(init=False, factory=dict[int, dict[int, Grant]])
    _next: dict[int, int] = field(init=False, factory=dict[int, int])
    """Handles are never given twice to one agent, in no life of it: an old number must not mean something new."""
    _roots: list[Grant] = field(init=False, factory=list[Grant])

    def grant(self, agent: int, capability: Capability) -> Row:
        """Give from the root. Raises CallError(EMFILE)."""
        return self._add("grant", agent, capability, None)

    def attenuate(self, agent: int, handle: int, capability: Capability) -> Row:
        """Narrow a held one into another of one's own. Raises CallError: EBADF, EPERM, EMFILE."""
        return self._derive("attenuate", agent, handle, agent, capability)

    def delegate(self, agent: int, handle: int, child: int, capability: Capability | None = None) -> Row:
        """Give a held one, narrowed or as it is, to an own child. Raises CallError: EBADF, ECHILD, EPERM, EMFILE."""
        if child == agent or self.parent_of(child) != agent:
            raise CallError(errno.ECHILD, f"agent {child} is not a child of agent {agent}",
                            remedy="a capability is delegated to own children only")
        return self._derive("delegate", agent, handle, child, capability)

    def revoke(self, agent: int, handle: int, by: int = ROOT) -> tuple[Row, ...]:
        """Take back a grant and all below it; the rows of what is gone, givers first.

        `by` is ROOT, the holder itself, or who holds a grant above it; raises CallError EPERM otherwise, EBADF when
        the agent has no such handle.
        """
        grant = self.find(agent, handle)
        if by != ROOT and all(above.holder != by or not above.held for above in grant.chain()):
            raise CallError(errno.EPERM, f"agent {by} did not give handle {handle} to agent {agent}",
                            remedy="whoever gave it, directly or through others, may take it back")
        return self._remove(grant)

    def close(self, agent: int) -> tuple[Row, ...]:
        """An agent has ended: it holds nothing more. What it delegated stays, under the same limits as before."""
        rows: list[Row] = []
        for grant in self._held.pop(agent, {}).values():
            grant.held = False
            rows.append(_row("close", grant))
            self._forget(grant)
        return tuple(rows)

    def find(self, agent: int, handle: int) -> Grant:
        """Raises CallError(EBADF)."""
        grant = self._held.get(agent, {}).get(handle)
        if grant is None:
            raise CallError(errno.EBADF, f"agent {agent} holds no capability {handle}",
                            remedy="SYS_CAPS lists what is held")
        return grant

    def held(self, agent: int) -> tuple[Grant, ...]:
        """What an agent holds, by handle."""
        return tuple(self._held.get(agent, {}).values())

    def tree(self) -> Iterator[Grant]:
        """Every grant, givers before what they gave; `depth` says how far down each hangs."""
        for grant in self._roots:
            yield from grant.subtree()

    def use(self, agent: int, handle: int, action: str, obj: bytes, monotonic_ns: int, wall_ns: int) -> Grant:
        """Use one held capability once. Raises CallError: EBADF; EPERM when it does not cover or has expired;
        EDQUOT, EAGAIN when it or one above it is used up; then nothing is counted anywhere.
        """
        grant = self.find(agent, handle)
        if not grant.capability.covers(action, obj):
            raise CallError(errno.EPERM, f"handle {handle} ({grant.capability}) does not cover {action} "
                            f"of {obj.decode('utf-8', 'replace')}")
        _spend(grant, monotonic_ns, wall_ns)
        return grant

    def authorise(self, agent: int, resource: str, action: str, obj: bytes, monotonic_ns: int, wall_ns: int) -> Grant:
        """Use whichever held capability covers it and has something left, the lowest handle first.

        Raises CallError: EPERM when none covers, else what the last one that covers said.
        """
        refused: CallError | None = None
        for grant in self._held.get(agent, {}).values():
            if grant.capability.resource == resource and grant.capability.covers(action, obj):
                try:
                    _spend(grant, monotonic_ns, wall_ns)
                except CallError as error:
                    refused = error
                else:
                    return grant
        raise refused or CallError(errno.EPERM, f"no capability {resource}:{action} for "
                                   f"{obj.decode('utf-8', 'replace')} is held", remedy="SYS_CAPS lists what is held")

    def _derive(self, change: str, agent: int, handle: int, to: int, capability: Capability | None) -> Row:
        grant = self.find(agent, handle)
        wanted = capability if capability is not None else grant.capability
        if not wanted.within(grant.capability):
            raise CallError(errno.EPERM, f"{wanted} is more than {grant.capability}, which handle {handle} is",
                            rule="what is given is at most what is held")
        if grant.depth + 1 >= DEPTH_MAX:
            raise CallError(errno.EMFILE, f"handle {handle} was passed on {DEPTH_MAX - 1} times already")
        return self._add(change, to, wanted, grant)

    def _add(self, change: str, agent: int, capability: Capability, above: Grant | None) -> Row:
        assert agent > ROOT
        table = self._held.setdefault(agent, {})
        if len(table) >= HANDLES_MAX:
            raise CallError(errno.EMFILE, f"agent {agent} holds {HANDLES_MAX} capabilities already")
        handle = self._next.get(agent, 1)
        self._next[agent] = handle + 1
        grant = Grant(agent, handle, capability, above, Meter(capability.constraints), above.depth + 1 if above else 0)
        (above.below if above is not None else self._roots).append(grant)
        table[handle] = grant
        return _row(change, grant)

    def _remove(self, grant: Grant) -> tuple[Row, ...]:
        gone = list(grant.subtree())
        for one in gone:
            if one.held:
                del self._held[one.holder][one.handle]
        self._detach(grant)
        return tuple(_row("revoke", one) for one in gone if one.held)

    def _detach(self, grant: Grant) -> None:
        (grant.above.below if grant.above is not None else self._roots).remove(grant)
        if grant.above is not None:
            self._forget(grant.above)

    def _forget(self, grant: Grant) -> None:
        """Drop what nobody holds and nothing hangs below of."""
        if not grant.held and not grant.below:
            self._detach(grant)


def _spend(grant: Grant, monotonic_ns: int, wall_ns: int) -> None:
    """Count one use in the whole chain, or nowhere."""
    for one in grant.chain():
        one.meter.check(monotonic_ns, wall_ns)
    for one in grant.chain():
        one.meter.take(monotonic_ns)


def _row(change: str, grant: Grant) -> Row:
    above = grant.above
    return Row(change, grant.holder, grant.handle, above.holder if above is not None else ROOT,
               above.handle if above is not None else None, str(grant.capability))
