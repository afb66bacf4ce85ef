"""What becomes of the policies of an agent and its children when another document takes the place of theirs.

The document says what the agent holds from then on. What was denied beside the old one stays denied, and a mode that is
stricter stays; what was given beside it ends. A child that held all that its parent did, but for spawning, goes on to
hold that; any other keeps of what it held what its parent still holds.
"""

from collections.abc import Iterator

from attrs import evolve

from agentix_kernel.authority.policy.inforce import InForce, made, shared_out
from agentix_kernel.authority.policy.rules import Rule
from agentix_syscalls.spawn import MODES


def of_agent(new: InForce, before: InForce) -> InForce:
    """The policy of an agent that had `before`; `new` is the document as it is written."""
    own = before.mode if before.mode != before.document.mode else None
    return made(new.source, new.document, _stricter(new.mode, own), before.deny, new.allows)


def of_child(parent: InForce, parent_before: InForce, before: InForce) -> InForce:
    """The policy of a child that had `before`, when its parent's became `parent`."""
    own = before.mode if before.mode != parent_before.mode else None
    count = min(before.spawn_max, parent.spawn_max)
    allows: tuple[Rule, ...] = parent.allows
    if _but_spawning(before) != _but_spawning(parent_before):
        allows = tuple(dict.fromkeys(_common(parent.allows, before.allows)))
    return made(parent.source, parent.document, _stricter(parent.mode, own), parent.deny + before.deny,
                tuple(shared_out(allows, count)))


def _stricter(mode: str, own: str | None) -> str:
    return mode if own is None else min(mode, own, key=MODES.index)


def _but_spawning(policy: InForce) -> tuple[Rule, ...]:
    return tuple(shared_out(policy.allows, None))


def _common(ones: tuple[Rule, ...], others: tuple[Rule, ...]) -> Iterator[Rule]:
    """What both allow, where one of two rules is within the other; what only overlaps is left out, never too much."""
    for one in ones:
        for other in others:
            actions = one.capability.actions & other.capability.actions
            if one.capability.resource != other.capability.resource or not actions:
                continue
            mine, theirs = (evolve(rule.capability, actions=actions) for rule in (one, other))
            if mine.within(theirs):
                yield evolve(one, capability=mine)
            elif theirs.within(mine):
                yield evolve(one, capability=theirs)
