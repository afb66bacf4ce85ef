"""Decisions: a policy's rules turned once into one automaton for each action, and asked many times.

An object is walked name by name. A state is the set of places in the rules' patterns where one may be by then; it is
made when it is first met and remembers where each name leads, so that the cost of an answer depends on how deep an
object lies and not on how many rules there are (Thompson 1968; a lazy subset construction); where folders lead is
remembered, so that it is one step for what lies in one that was met. What an agent asks about cannot grow anything
without bound: a state remembers only names that are in rules, states are made anew when there are too many of them, and
answers and folders are forgotten when there are CACHE_MAX of an action.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from attrs import define, evolve, field, frozen

from agentix_kernel.authority.constraints import FREE, Constraints
from agentix_kernel.authority.patterns import ANY, DEPTH, Name, Pattern, name_covers, split
from agentix_kernel.authority.policy.document import Policy
from agentix_kernel.authority.policy.rules import ALLOW, DENY, Rule
from agentix_syscalls.capabilities import RESOURCE_BY_NAME

CACHE_MAX: Final = 2048
OBJECT_CACHED_MAX: Final = 256
"""Bytes: answers about longer objects are not remembered."""
DECISIONS_MAX: Final = 8192
"""Rules whose decisions are kept: about as many as the longest document has."""
STATES_MAX: Final = 1024
"""For each action, beside as many as its patterns have names."""

NO_NAME: Final = b"\0"
"""Stands for a name that no pattern spells out."""

Places = frozenset[tuple[int, int]]
"""Where one may be: a rule's index, and a place in its pattern."""


@frozen
class Decision:
    """What the rules say; the mode is the caller's business. `line` 0: no rule is about it.

    `constraints` are of the rule that allows: its meters are the caller's to ask.
    """

    allowed: bool
    rule: str = ""
    file: str = ""
    line: int = 0
    message: str = ""
    remedy: str = ""
    constraints: Constraints = FREE

    @property
    def denies(self) -> bool:
        """A rule denies it, rather than that none allows it."""
        return not self.allowed and self.rule.startswith(f"{DENY} ")

    @property
    def shown(self) -> str:
        """The rule as people read it, with its file and line if it stands in one."""
        if not self.file:
            return self.rule
        return f"{self.file}:{self.line}: {self.rule}" if self.line else f"{self.file}: {self.rule}"


NOT_CANONICAL: Final = Decision(allowed=False, rule="canonical objects only", message="'.' or '..' in an object",
                                remedy="name it by where it leads")


Globs = tuple[tuple[int, dict[bytes, tuple[tuple[int, Name | None], ...]]], ...]
"""Names with stars, a bit for each, by what they begin with; these by their lengths. None: that is all of it."""


@define(eq=False)
class _State:
    """`decision` None: it depends on the last name (an allowlist), and `candidates` are tried in order.

    A name leads on by `moves` if a pattern spells it out, else to `other` if no name with a star is ahead (None until
    it is known), else by `branches`, by which of these names match.
    """

    places: Places
    decision: Decision | None
    candidates: tuple[tuple[Constraints, Decision], ...]
    known: frozenset[bytes]
    globs: Globs
    moves: dict[bytes, "_State"] = field(factory=dict[bytes, "_State"])
    other: "_State | None" = None
    entered: bool = False
    branches: dict[int, "_State"] = field(factory=dict[int, "_State"])


def _by_head(names: Iterable[Name]) -> Globs:
    found: dict[int, dict[bytes, tuple[tuple[int, Name | None], ...]]] = {}
    for place, name in enumerate(names):
        heads = found.setdefault(len(name[0]), {})
        heads[name[0]] = (*heads.get(name[0], ()), (1 << place, name if name != (name[0], b"") else None))
    return tuple(found.items())


@define(eq=False)
class _Automaton:
    """One action of one resource."""

    rules: tuple[Rule, ...]
    default: Decision
    answers: dict[bytes, Decision] = field(init=False, factory=dict[bytes, Decision])
    folders: dict[bytes, _State] = field(init=False, factory=dict[bytes, _State])
    """Where what stands before the last name of an object leads: what is asked for anew is mostly beside what was."""
    states: dict[Places, _State] = field(init=False, factory=dict[Places, _State])
    start: _State = field(init=False)
    decisions: tuple[Decision, ...] = field(init=False)
    patterns: tuple[Pattern, ...] = field(init=False)
    states_max: int = field(init=False)
    dead: _State = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.decisions = tuple(_decision(rule) for rule in self.rules)
        self.patterns = tuple(rule.capability.path for rule in self.rules)
        self.states_max = STATES_MAX + sum(len(pattern.names) for pattern in self.patterns)
        self.dead = _State(frozenset(), NOT_CANONICAL, (), frozenset(), ())
        self.dead.other = self.dead
        self.start = self._begin()

    def walk(self, obj: bytes) -> _State:
        state = self.start
        for name in obj.split(b"/"):
            state = state.moves.get(name) or state.other or self.move(state, name)
        return state

    def enter(self, folder: bytes) -> _State:
        """The same, of what stands before an object's last name; remembered, as its own folder's state may be."""
        parent, _, name = folder.rpartition(b"/")
        above = self.folders.get(parent)
        state = (above.moves.get(name) or above.other or self.move(above, name)) if above else self.walk(folder)
        if len(folder) <= OBJECT_CACHED_MAX and self.states.get(state.places) is state:  # not of those made before
            if len(self.folders) >= CACHE_MAX:
                self.folders.clear()
            self.folders[folder] = state
        return state

    def choose(self, state: _State, obj: bytes) -> Decision:
        """Of a state without a decision of its own."""
        names = split(obj)
        return next((said for limits, said in state.candidates if limits.admit(names)), self.default)

    def decide_tree(self, obj: bytes) -> Decision:
        """Of an object with all that is or may come to be below it."""
        state = self.walk(obj)
        if state is self.dead:
            return NOT_CANONICAL
        denied = min((i for i, _ in state.places if self.rules[i].effect == DENY), default=None)
        if denied is not None:
            return self.decisions[denied]
        found = min((i for i, place in state.places if self._covers_all(i, place)), default=None)
        return self.decisions[found] if found is not None else self.default

    def leads(self, obj: bytes) -> bool:
        """Whether something at or below an object may be allowed: a denial that has been reached has all below it."""
        places = self.walk(obj).places
        return any(self.rules[i].effect == ALLOW for i, _ in places) and not any(
            self.rules[i].effect == DENY and place == len(self.patterns[i].names) for i, place in places)

    def _covers_all(self, i: int, place: int) -> bool:
        """Whether any names may follow: a `**` stands here, and nothing behind it."""
        names = self.rules[i].capability.path.names
        return place == len(names) - 1 and names[place] == DEPTH and (
            self.rules[i].capability.constraints.allowlist is None)

    def _begin(self) -> _State:
        self.states.clear()
        self.folders.clear()
        return self._state(frozenset((i, place) for i, pattern in enumerate(self.patterns)
                                     for place in pattern.rest({0})))

    def _state(self, places: Places) -> _State:
        state = self.states.get(places)
        if state is None:
            if len(self.states) >= self.states_max:
                self.start = self._begin()
            self.states[places] = state = self._make(places)
        return state

    def _make(self, places: Places) -> _State:
        ahead = [self.patterns[i].names[place] for i, place in places if place < len(self.patterns[i].names)]
        reached = sorted(i for i, place in places if place == len(self.patterns[i].names))
        denials = [i for i in reached if self.rules[i].effect == DENY]
        candidates = [(self.rules[i].capability.constraints, self.decisions[i]) for i in denials[:1] or reached]
        decision: Decision | None = candidates[0][1] if candidates else self.default
        if candidates and candidates[0][0].allowlist is not None:
            decision = None
        state = _State(places, decision, tuple(candidates), frozenset(name[0] for name in ahead if len(name) == 1),
                       _by_head({name for name in ahead if len(name) > 1 and name != ANY}))
        state.moves.update({b"": state, b".": self.dead, b"..": self.dead})
        return state

    def move(self, state: _State, name: bytes) -> _State:
        """Where a name leads from a state that was not left yet, or has names with stars ahead."""
        if not state.entered:  # all at once: `other` may only be there when what is known leads elsewhere already
            state.entered = True
            state.moves.update({known: self._after(state, known) for known in state.known})
            state.other = None if state.globs else self._after(state, NO_NAME)
            return state.moves.get(name) or state.other or self.move(state, name)
        matched = 0
        for length, heads in state.globs:
            for bit, glob in heads.get(name[:length], ()):
                if glob is None or name_covers(glob, name):
                    matched |= bit
        after = state.branches.get(matched)
        if after is None:
            state.branches[matched] = after = self._after(state, name)
        return after

    def _after(self, state: _State, name: bytes) -> _State:
        by_rule: dict[int, set[int]] = {}
        for i, place in state.places:
            by_rule.setdefault(i, set()).add(place)
        return self._state(frozenset((i, place) for i, places in by_rule.items()
                                     for place in self.patterns[i].step(frozenset(places), name)))


@lru_cache(maxsize=DECISIONS_MAX)
def _decision(rule: Rule) -> Decision:
    """Kept: an agent that narrows what it holds has all its other rules compiled again, as often as it likes."""
    if not rule.mark.line:
        return Decision(rule.effect == ALLOW, rule.text, message="denied", constraints=rule.capability.constraints,
                        remedy="" if rule.effect == ALLOW else "said when it or an ancestor was spawned: only without "
                        f"{rule.text} would it be permitted")
    if rule.effect == ALLOW:
        return Decision(True, rule.text, rule.mark.file, rule.mark.line, constraints=rule.capability.constraints)
    return Decision(False, rule.text, rule.mark.file, rule.mark.line, f"denied by {rule.mark}",
                    f"deny beats allow: only a change of {rule.mark.file}:{rule.mark.line} would permit it")


def _default(resource: str, action: str, policy: Policy) -> Decision:
    if not RESOURCE_BY_NAME[resource].held:
        return Decision(allowed=True)
    return Decision(False, "default deny", policy.file, 0,
                    f"no rule of policy {policy.name} allows {resource}:{action} of this")


ALLOWED: Final = Decision(allowed=True)
UNKNOWN: Final = Decision(allowed=False, rule="default deny", message="no such action of such a resource")


@define(eq=False)
class Compiled:
    """A policy that answers. One may serve many agents: it holds no state of theirs."""

    policy: Policy
    _automata: dict[str, dict[str, _Automaton]] = field(init=False)
    """By resource and action; a pair as the key would cost a fifth of an answer."""

    _named: _Automaton = field(init=False)
    """Of all paths of the tree that denials name, by whichever call or action."""

    def __attrs_post_init__(self) -> None:
        self._named = _Automaton(tuple(filter(None, map(_naming, self.policy.rules))), Decision(allowed=True))
        self._automata = {
            row.name: {action: _Automaton(_about(self.policy, row.name, action),
                                          _default(row.name, action, self.policy)) for action in row.action_names}
            for row in RESOURCE_BY_NAME.values()}

    def decide(self, resource: str, action: str, obj: bytes) -> Decision:
        """Whether the rules allow it, and which one says so. `obj` is canonical: names with `/` between."""
        try:
            automaton = self._automata[resource][action]
        except KeyError:
            return UNKNOWN
        found = automaton.answers.get(obj)
        if found is not None:
            return found
        folder, _, name = obj.rpartition(b"/")
        state = automaton.folders.get(folder) or automaton.enter(folder)
        state = state.moves.get(name) or state.other or automaton.move(state, name)
        found = state.decision or automaton.choose(state, obj)
        if len(obj) <= OBJECT_CACHED_MAX:
            if len(automaton.answers) >= CACHE_MAX:
                automaton.answers.clear()  # cheaper over all than to keep an order, and seldom
            automaton.answers[obj] = found
        return found

    def decide_tree(self, resource: str, action: str, obj: bytes) -> Decision:
        """The same of an object and all that is or may come to be below it: allowed when all of it is.

        A move asks this of both its ends, for read and for write, and then decide_move().
        """
        automaton = self._automata.get(resource, {}).get(action)
        return automaton.decide_tree(obj) if automaton is not None else UNKNOWN

    def decide_move(self, obj: bytes) -> Decision:
        """Whether a path may be an end of a rename: it may neither carry off what a denial names by its path, nor move
        anything out of a folder that one names or into it. It would be out of the rule's reach, or come there past it.
        """
        return self._named.decide_tree(obj)

    @property
    def names_paths(self) -> bool:
        """Whether decide_move() may ever refuse."""
        return bool(self._named.rules)

    def decide_way(self, obj: bytes) -> Decision:
        """Whether the attributes of a path may be asked for: if it may be read or written, or is on the way to what
        may. Otherwise nothing below a folder that no rule allows could be reached by name.
        """
        read = self.decide("file", "read", obj)
        if read.allowed or self.decide("file", "write", obj).allowed:
            return ALLOWED
        return ALLOWED if any(one.leads(obj) for one in self._automata["file"].values()) else read

    def allows_any(self, resource: str, action: str) -> bool:
        return any(rule.effect == ALLOW for rule in self._automata[resource][action].rules)

    def allows_all(self, resource: str, action: str, space: Pattern) -> bool:
        """Whether all objects of a pattern are allowed without constraints. May say no when unsure."""
        rules = self._automata[resource][action].rules
        return not any(rule.effect == DENY for rule in rules) and any(
            space.within(rule.capability.path) and rule.capability.constraints == FREE for rule in rules)

    def default(self, resource: str, action: str) -> Decision:
        """What holds when no rule is about it."""
        return self._automata[resource][action].default

    def starting(self) -> tuple[Rule, ...]:
        """The rules whose capabilities an agent is given at its start, in the file's order."""
        return tuple(rule for rule in self.policy.rules if rule.effect == ALLOW)


def _naming(rule: Rule) -> Rule | None:
    """A denial with its path alone, without the call that it is of; None if it names no path."""
    capability = rule.capability
    names = capability.path.names
    if capability.resource == "call":
        names = names[1:] if names[0] != DEPTH else names
    elif capability.resource != "file":
        return None
    if rule.effect != DENY or names == (DEPTH,):
        return None
    return evolve(rule, capability=evolve(capability, path=Pattern(names)))


def _about(policy: Policy, resource: str, action: str) -> tuple[Rule, ...]:
    """The rules of an action, those that no meter counts first: where one allows it, nothing is used up."""
    found = [rule for rule in policy.rules
             if rule.capability.resource == resource and action in rule.capability.actions]
    return tuple(sorted(found, key=lambda rule: rule.capability.constraints.metered))
