"""Who holds which capability, from whom: the kernel's handle table. A pure state machine.

A handle is a small integer of one agent: an index into this table, so that there is nothing to forge. Every grant hangs
below the one that it was narrowed from (the root's own have none above), and using one counts against every grant above
it as well: ten children of one rate share that rate. Taking a grant back takes all that hangs below, whoever holds it.
(The idea: the derivation tree of seL4's capabilities.)
"""

import errno
import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from attrs import define, field, frozen

from agentix_kernel.authority import patterns
from agentix_kernel.authority.capability import Capability
from agentix_kernel.authority.constraints import Meter
from agentix_kernel.authority.patterns import Pattern
from agentix_kernel.authority.policy.reading import Mark
from agentix_kernel.authority.policy.rules import ALLOW, Rule
from agentix_syscalls.errors import CallError

ROOT: Final = 0
"""Who grants without holding: the operator and the policy."""
HANDLES_MAX: Final = 256
"""Of one agent, beside what its policy's document gives it: bounds what finding the right one costs."""
DEPTH_MAX: Final = 32
"""Grants below one another: what one use costs, and how long a chain may be."""
SWEPT_MIN: Final = 1024
"""Moments of expiry that are kept whatever became of their grants."""
GIVEN: Final = Mark("root", 0, 0)
"""Of what is given without saying by whom."""


@frozen
class Row:
    """What happened, for the record. `giver` is ROOT or an agent; `parent` the giver's handle, None for the root's.
    `source` is where the rule stands that it comes from, or who gave it.
    """

    change: str
    who: int
    handle: int
    giver: int
    parent: int | None
    capability: str
    source: str


@frozen
class Need:
    """What one operation uses: an action on an object, given in each way in which rules may name it. `whole`: on all
    that is below the object as well.
    """

    resource: str
    action: str
    objects: tuple[bytes, ...]
    whole: bool = False

    def met_by(self, found: Capability) -> bool:
        if found.resource != self.resource or self.action not in found.actions:
            return False
        if self.whole:
            tree = Pattern((*((name,) for name in patterns.split(self.objects[0])), patterns.DEPTH))
            return tree.within(found.path) and found.constraints.allowlist is None
        return any(found.covers(self.action, one) for one in self.objects)


@define
class Start:
    """What each life of an agent begins with, by handle, and which handle is the next. Handles are never given twice to
    one agent, in no life of it: an old number must not mean something new.
    """

    rules: dict[int, Rule] = field(factory=dict[int, Rule])
    next: int = 1
    _meters: dict[int, Meter] = field(init=False, factory=dict[int, Meter])

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> "Start":
        numbered = dict(enumerate(rules, 1))
        return cls(numbered, len(numbered) + 1)

    def meter(self, handle: int, capability: Capability) -> Meter:
        """A number of uses is a life's; a rate goes on through all of them, or ending itself would fill it again."""
        meter = self._meters.setdefault(handle, Meter(capability.constraints))
        meter.used = 0
        return meter


@define(eq=False)
class Grant:
    """One node of the tree. `held` False: its holder has ended, and it only stands for what hangs below. `meter` is
    there if its constraints want one; `rule` is it as what its holder is allowed, with where that is written.
    """

    holder: int
    handle: int
    rule: Rule
    above: "Grant | None"
    meter: Meter | None
    depth: int
    held: bool = True
    below: dict["Grant", None] = field(factory=dict["Grant", None])

    @property
    def capability(self) -> Capability:
        return self.rule.capability

    @property
    def source(self) -> str:
        return source_of(self.rule.mark)

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


def source_of(mark: Mark) -> str:
    """Where a rule comes from, as people read it."""
    return str(mark).rpartition(":")[0] if mark.line else mark.file or "command line"


@define
class Holdings:
    """The table. `parent_of` says who an agent's parent is (ROOT for none), and is asked at a delegation."""

    parent_of: Callable[[int], int]
    _held: dict[int, dict[int, Grant]] = field(init=False, factory=dict[int, dict[int, Grant]])
    _starts: dict[int, Start] = field(init=False, factory=dict[int, Start])
    _living: set[int] = field(init=False, factory=set[int])
    _roots: dict[Grant, None] = field(init=False, factory=dict[Grant, None])
    _expiring: list[tuple[int, int, int]] = field(init=False, factory=list[tuple[int, int, int]])
    """A heap of wall time, agent and handle. What is gone meanwhile is skipped, and swept when the heap has doubled."""
    _sweep_at: int = field(init=False, default=SWEPT_MIN)

    # Lives

    def begin(self, agent: int, start: Start, wall_ns: int,
              above: "tuple[Grant, ...] | None" = None) -> tuple[Row, ...]:
        """A life begins, with all that it starts with, from the root; or, with `above`, each from one of these.

        What has expired is gone for good.
        """
        assert agent not in self._living, "one life after the other"
        self._living.add(agent)
        for handle, one in list(start.rules.items()):
            if above is None and (one.capability.constraints.expires_ns or wall_ns + 1) <= wall_ns:
                del start.rules[handle]
        self._starts[agent] = start
        sources: Iterable[Grant | None] = above if above is not None else (None for _ in start.rules)
        grants = [self._enter(agent, handle, one, source)
                  for (handle, one), source in zip(start.rules.items(), sources, strict=True)]
        return tuple(_row("begin", one) for one in grants)

    def sources(self, agent: int, wanted: Iterable[Rule]) -> tuple[Grant, ...]:
        """From which of its own an agent can give each of these, the lowest handles first.

        Raises CallError: EPERM when one is more than all it holds, EMFILE when it was passed on too often.
        """
        find = self._finder(agent)
        return tuple(find(one) for one in wanted)

    def _finder(self, agent: int) -> Callable[[Rule], Grant]:
        held = self.held(agent)
        same = {one.capability: one for one in reversed(held)}

        def find(wanted: Rule) -> Grant:
            source = same.get(wanted.capability) or next(
                (one for one in held if wanted.capability.within(one.capability)), None)
            if source is None:
                raise CallError(errno.EPERM, f"agent {agent} does not hold {wanted.capability}",
                                rule="a child has at most what its parent has")
            _check_depth(source)
            return source
        return find

    def replace(self, agent: int, rules: tuple[Rule, ...], parent: int) -> tuple[Row, ...]:
        """Hold these and nothing else from now on: from the root, or what the parent holds of them if it is not ROOT.
        Of an agent that has ended it is what its next life begins with.
        """
        start, wanted = self.start(agent), {one.capability: one for one in rules}
        rows: list[Row] = []
        kept: dict[Capability, Grant] = {}
        for grant in self.held(agent):
            if grant.capability in wanted and grant.capability not in kept and (
                    (grant.above is None) == (parent == ROOT)):
                kept[grant.capability] = grant
            elif grant.handle in self._held[agent]:  # not gone with one before it
                rows += self._remove(grant, "revoke", ROOT)
        start.rules = {}
        find = self._finder(parent) if parent != ROOT else None
        for capability, one in wanted.items():
            known = kept.get(capability)
            if known is not None:
                known.rule = one
                start.rules[known.handle] = one
            else:
                rows += self._hold(agent, one, find)
        return tuple(rows)

    def _hold(self, agent: int, one: Rule, find: Callable[[Rule], Grant] | None) -> tuple[Row, ...]:
        """From now on, or with its next life; nothing when its parent has none of it."""
        start = self._starts[agent]
        try:
            above = find(one) if find is not None else None
        except CallError:
            return ()
        handle, start.next = start.next, start.next + 1
        start.rules[handle] = one
        return (_row("begin", self._enter(agent, handle, one, above)),) if agent in self._living else ()

    def forget(self, agent: int) -> None:
        """An agent that has ended is removed."""
        assert agent not in self._living
        self._starts.pop(agent, None)

    def start(self, agent: int) -> Start:
        """What its lives begin with: to be kept by who keeps agents."""
        return self._starts.setdefault(agent, Start())

    # Giving and taking

    def grant(self, agent: int, capability: Capability, mark: Mark = GIVEN) -> Row:
        """Give from the root, for this life and all that follow. Raises CallError(EMFILE)."""
        return self._add("grant", agent, Rule(ALLOW, capability, mark), None)

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
        return self._remove(grant, "revoke", by)

    def expire(self, wall_ns: int) -> tuple[Row, ...]:
        """Take back what has expired by then, and all below it, which expires no later."""
        rows: list[Row] = []
        while self._expiring and self._expiring[0][0] <= wall_ns:
            _, agent, handle = heapq.heappop(self._expiring)
            grant = self._held.get(agent, {}).get(handle)
            if grant is not None:
                rows += self._remove(grant, "expire", ROOT)
        return tuple(rows)

    @property
    def expires_ns(self) -> int | None:
        """Wall time at which the next one may expire."""
        return self._expiring[0][0] if self._expiring else None

    def close(self, agent: int) -> tuple[Row, ...]:
        """An agent has ended: it holds nothing more. What it delegated stays, under the same limits as before."""
        rows: list[Row] = []
        self._living.discard(agent)
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
                            remedy="SYS_CAPS and `agentctl caps` list what is held")
        return grant

    def held(self, agent: int) -> tuple[Grant, ...]:
        """What an agent holds, by handle."""
        return tuple(self._held.get(agent, {}).values())

    def tree(self) -> Iterator[Grant]:
        """Every grant, givers before what they gave; `depth` says how far down each hangs."""
        for grant in self._roots:
            yield from grant.subtree()

    def spend(self, agent: int, needs: Iterable[Need], monotonic_ns: int, wall_ns: int, *,
              take: bool = True) -> tuple[Grant, ...]:
        """Use what is metered once for one operation; all of which something was taken, for give_back(). `take` False:
        only ask.

        For each need the lowest handle that meets it and has something left; one grant that meets several is used once.
        Raises CallError: EPERM when none meets one or it has expired, EDQUOT or EAGAIN when used up, then nothing is
        counted.
        """
        chosen: dict[int, Grant] = {}
        metered = [grant for grant in self.held(agent) if grant.meter is not None]
        for need in needs:
            for one in self._choose(metered, need, monotonic_ns, wall_ns).chain():
                chosen[id(one)] = one
        used = tuple(chosen.values())
        for one in used if take else ():
            if one.meter is not None:
                one.meter.take(monotonic_ns)
        return used

    def give_back(self, used: tuple[Grant, ...]) -> None:
        """What was used of a number was for nothing. Of a rate nothing comes back."""
        for one in used:
            if one.meter is not None:
                one.meter.used = max(0, one.meter.used - 1)

    def _choose(self, metered: list[Grant], need: Need, monotonic_ns: int, wall_ns: int) -> Grant:
        refused: CallError | None = None
        for grant in metered:
            if need.met_by(grant.capability):
                try:
                    _check_meters(grant, monotonic_ns, wall_ns)
                except CallError as error:
                    refused = error
                else:
                    return grant
        raise refused or CallError(errno.EPERM, f"no capability {need.resource}:{need.action} for "
                                   f"{need.objects[0].decode('utf-8', 'replace')} is held",
                                   remedy="SYS_CAPS lists what is held")

    def _derive(self, change: str, agent: int, handle: int, to: int, capability: Capability | None) -> Row:
        grant = self.find(agent, handle)
        wanted = capability if capability is not None else grant.capability
        if not wanted.within(grant.capability):
            raise CallError(errno.EPERM, f"{wanted} is more than {grant.capability}, which handle {handle} is",
                            rule="what is given is at most what is held",
                            remedy="give no more actions and paths than it has, and say each of its limits again")
        _check_depth(grant)
        return self._add(change, to, Rule(ALLOW, wanted, grant.rule.mark), grant)

    def _add(self, change: str, agent: int, rule: Rule, above: Grant | None) -> Row:
        assert agent > ROOT
        start = self.start(agent)
        beside = sum(not (one.rule.mark.line and one.handle in start.rules) for one in self.held(agent))
        if beside >= HANDLES_MAX:
            raise CallError(errno.EMFILE, f"agent {agent} holds {HANDLES_MAX} capabilities beside those of its policy")
        handle, start.next = start.next, start.next + 1
        if above is None:
            start.rules[handle] = rule
        return _row(change, self._enter(agent, handle, rule, above))

    def _enter(self, agent: int, handle: int, rule: Rule, above: Grant | None) -> Grant:
        limits = rule.capability.constraints
        meter = None
        if limits.metered:
            start = self._starts[agent]
            meter = start.meter(handle, rule.capability) if handle in start.rules else Meter(limits)
        grant = Grant(agent, handle, rule, above, meter, above.depth + 1 if above else 0)
        (above.below if above is not None else self._roots)[grant] = None
        self._held.setdefault(agent, {})[handle] = grant
        if limits.expires_ns is not None:
            self._expect(limits.expires_ns, agent, handle)
        return grant

    def _expect(self, expires_ns: int, agent: int, handle: int) -> None:
        """Remember when it expires. An agent may have grants made and taken back without an end: what is gone goes."""
        heapq.heappush(self._expiring, (expires_ns, agent, handle))
        if len(self._expiring) > self._sweep_at:
            self._expiring = [one for one in self._expiring if one[2] in self._held.get(one[1], ())]
            heapq.heapify(self._expiring)
            self._sweep_at = max(SWEPT_MIN, 2 * len(self._expiring))

    def _remove(self, grant: Grant, change: str, by: int) -> tuple[Row, ...]:
        gone = list(grant.subtree())
        for one in gone:
            if one.held:
                del self._held[one.holder][one.handle]
            if by != one.holder:  # what it gave up itself comes back with its next life
                self._starts.get(one.holder, Start()).rules.pop(one.handle, None)
        self._detach(grant)
        return tuple(_row(change, one) for one in gone if one.held)

    def _detach(self, grant: Grant) -> None:
        del (grant.above.below if grant.above is not None else self._roots)[grant]
        if grant.above is not None:
            self._forget(grant.above)

    def _forget(self, grant: Grant) -> None:
        """Drop what nobody holds and nothing hangs below of."""
        if not grant.held and not grant.below:
            self._detach(grant)


def _check_depth(grant: Grant) -> None:
    if grant.depth + 1 >= DEPTH_MAX:
        raise CallError(errno.EMFILE, f"handle {grant.handle} was passed on {DEPTH_MAX - 1} times already")


def _check_meters(grant: Grant, monotonic_ns: int, wall_ns: int) -> None:
    """Raises CallError, with the rule that the meter is of, when one of the chain has nothing left."""
    for one in grant.chain():
        if one.meter is None:
            continue
        try:
            one.meter.check(monotonic_ns, wall_ns)
        except CallError as over:
            raise CallError(over.number, over.message, rule=f"{one.source}: {one.rule.text}",
                            remedy=over.remedy) from None


def _row(change: str, grant: Grant) -> Row:
    above = grant.above
    return Row(change, grant.holder, grant.handle, above.holder if above is not None else ROOT,
               above.handle if above is not None else None, grant.rule.text.removeprefix(f"{ALLOW} "), grant.source)
