"""Two policies side by side: what differs, and whether one gives at most what the other gives."""

from collections.abc import Iterator
from typing import Final

from attrs import frozen

from agentix_kernel.authority.constraints import Constraints
from agentix_kernel.authority.policy.document import BOUNDS, BindRule, Policy
from agentix_kernel.authority.policy.rules import ALLOW, DENY, Rule
from agentix_syscalls.spawn import MODES

WIDER: Final = "wider"
NARROWER: Final = "narrower"
OTHER: Final = "other"


@frozen
class Change:
    """One difference. `before` or `after` is empty where there is nothing; `effect` is WIDER, NARROWER or OTHER."""

    key: str
    before: str
    after: str
    effect: str


def diff(a: Policy, b: Policy) -> tuple[Change, ...]:
    """What becomes different when `b` takes the place of `a`."""
    return (*_scalars(a, b), *_limits(a, b), *_binds(a, b), *_rules(a, b), *_budgets(a, b), *_loops(a, b))


def narrower(a: Policy, b: Policy) -> bool:
    """Whether `a` gives at most what `b` gives. May say no when unsure, never yes wrongly."""
    return (MODES.index(a.mode) <= MODES.index(b.mode)
            and all(_at_most(mine, theirs) for _, mine, theirs in _pairs(a, b))
            and all(any(_bind_within(mine, theirs) for theirs in b.binds) for mine in a.binds)
            and all(_budget_within(dict(a.budgets).get(name), limit) for name, limit in b.budgets)
            and _allows_within(a, b) and _denials_kept(a, b))


def _rules_of(policy: Policy, effect: str) -> list[Rule]:
    return [rule for rule in policy.rules if rule.effect == effect]


def _allows_within(a: Policy, b: Policy) -> bool:
    """Whether each thing allowed is within one that b allows. What b counts stands for one rule only: two rules of the
    same rate would come to twice as much.
    """
    left = _rules_of(b, ALLOW)
    for mine in _rules_of(a, ALLOW):
        their = next((one for one in left if mine.capability.within(one.capability)), None)
        if their is None:
            return False
        if their.capability.constraints.rate is not None or their.capability.constraints.max is not None:
            left.remove(their)
    return True


def _denials_kept(a: Policy, b: Policy) -> bool:
    """Whether what b denies is denied by a as well, or never allowed by it."""
    mine, allows = _rules_of(a, DENY), _rules_of(a, ALLOW)
    return all(any(theirs.capability.within(no.capability) for no in mine) or (
        theirs.capability.resource != "call" and not any(_meet(theirs, yes) for yes in allows))
        for theirs in _rules_of(b, DENY))


def _meet(one: Rule, other: Rule) -> bool:
    return (one.capability.resource == other.capability.resource
            and not one.capability.actions.isdisjoint(other.capability.actions)
            and one.capability.path.meets(other.capability.path))


def _pairs(a: Policy, b: Policy) -> Iterator[tuple[str, float | None, float | None]]:
    for key, name in BOUNDS:
        yield f"limits.{key}", getattr(a.limits, name), getattr(b.limits, name)


def _at_most(mine: float | None, theirs: float | None) -> bool:
    return theirs is None or (mine is not None and mine <= theirs)


def _bind_within(mine: BindRule, theirs: BindRule) -> bool:
    return mine.host == theirs.host and mine.at == theirs.at and mine.writable <= theirs.writable


def _budget_within(mine: Constraints | None, theirs: Constraints) -> bool:
    return mine is not None and mine.within(theirs)


def _scalars(a: Policy, b: Policy) -> Iterator[Change]:
    if a.name != b.name:
        yield Change("name", a.name, b.name, OTHER)
    if a.mode != b.mode:
        yield Change("mode", a.mode, b.mode, NARROWER if MODES.index(b.mode) < MODES.index(a.mode) else WIDER)


def _limits(a: Policy, b: Policy) -> Iterator[Change]:
    for key, before, after in _pairs(a, b):
        if before != after:
            yield Change(key, _shown(before), _shown(after), NARROWER if _at_most(after, before) else WIDER)


def _shown(value: float | None) -> str:
    return f"{value:.12g}" if value is not None else ""


def _binds(a: Policy, b: Policy) -> Iterator[Change]:
    for bind in a.binds:
        if bind not in b.binds:
            yield Change("binds", str(bind), "", NARROWER)
    for bind in b.binds:
        if bind not in a.binds:
            wider = not any(_bind_within(bind, old) for old in a.binds)
            yield Change("binds", "", str(bind), WIDER if wider else NARROWER)


def _rules(a: Policy, b: Policy) -> Iterator[Change]:
    """Rules that went and rules that came. One that came within what was there before widens nothing."""
    before, after = {rule.text for rule in a.rules}, {rule.text for rule in b.rules}
    for rule in a.rules:
        if rule.text not in after:
            yield Change(rule.effect, rule.text, "", _effect(rule, b, gone=True))
    for rule in b.rules:
        if rule.text not in before:
            yield Change(rule.effect, "", rule.text, _effect(rule, a, gone=False))


def _effect(rule: Rule, there: Policy, *, gone: bool) -> str:
    if any(rule.capability.within(one.capability) for one in _rules_of(there, rule.effect)):
        return OTHER  # said by another rule as well
    return WIDER if gone == (rule.effect == DENY) else NARROWER


def _budgets(a: Policy, b: Policy) -> Iterator[Change]:
    old, new = dict(a.budgets), dict(b.budgets)
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before != after:
            wider = before is not None and not _budget_within(after, before)
            yield Change(f"budgets.{name}", _budget_text(before), _budget_text(after), WIDER if wider else NARROWER)


def _loops(a: Policy, b: Policy) -> Iterator[Change]:
    if a.loops != b.loops:
        yield Change("loops", str(a.loops or ""), str(b.loops or ""), OTHER)


def _budget_text(budget: Constraints | None) -> str:
    return budget.written()[0][1] if budget is not None else ""
