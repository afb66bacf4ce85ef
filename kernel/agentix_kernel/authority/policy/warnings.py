"""What is probably not meant in a policy that can be enforced as it is written: `policy check` tells it.

What can never be enforced as it is written is refused by document and inforce.
"""

from collections.abc import Collection, Iterator
from typing import Final

from agentix_kernel.authority.capability import nearest
from agentix_kernel.authority.patterns import ANY, DEPTH, Name
from agentix_kernel.authority.policy.document import Policy
from agentix_kernel.authority.policy.reading import Complaint
from agentix_kernel.authority.policy.rules import ALLOW, DENY, Rule
from agentix_syscalls.capabilities import RESOURCE_BY_NAME

COMPARED_MAX: Final = 400
"""Rules that are held against each other: it takes the square of them."""
READ_ONLY: Final = (b"policy", b"ipc")
"""Parts of an agent's tree that nobody writes."""


def warn(policy: Policy, tools: Collection[str]) -> list[Complaint]:
    """In the file's order. `tools` are the names of those there are. Takes as long as reading; from any thread."""
    found = [Complaint(rule.mark, said) for rule in policy.rules for said in _alone(rule, tools)]
    if len(policy.rules) <= COMPARED_MAX:
        found += [Complaint(rule.mark, said) for rule in policy.rules for said in _beside(rule, policy.rules)]
    return sorted(found, key=lambda one: (one.mark.line, one.mark.column))


def _alone(rule: Rule, tools: Collection[str]) -> Iterator[str]:
    capability = rule.capability
    first = capability.path.names[0]
    word = first[0].decode("utf-8", "replace") if len(first) == 1 else None
    if rule.effect == DENY and _everything(capability.path.names):
        yield f"denies {capability.resource}:{','.join(sorted(capability.actions))} altogether, whatever is allowed"
    if rule.effect == ALLOW and capability.resource == "file" and first[:1] in {(one,) for one in READ_ONLY} and (
            "write" in capability.actions):
        yield f"nobody writes below /{word}: that part of the tree is read-only"
    if capability.resource == "tool" and word is not None and word not in tools:
        yield f"no tool of this version is called {word!r}{nearest(word, tools)}"
    if capability.resource == "agent" and "spawn" in capability.actions and first and not (
            first[0] == b"" or first[0][:1].isalpha()):
        yield "no agent has such a name: they begin with a letter"
    allowed, last = capability.constraints.allowlist, capability.path.names[-1]
    if allowed is not None and len(last) == 1 and last[0] not in allowed and (
            len(capability.path.names) == RESOURCE_BY_NAME[capability.resource].depth):
        yield (f"applies to nothing: its allowlist has names of {capability.resource}s, and "
               f"{last[0].decode('utf-8', 'replace')!r} is not among them")


def _everything(names: tuple[Name, ...]) -> bool:
    return all(name in {ANY, DEPTH} for name in names)


def _beside(rule: Rule, rules: tuple[Rule, ...]) -> Iterator[str]:
    mine = rule.capability
    wider = next((one for one in rules if one is not rule and one.effect == rule.effect
                  and mine.within(one.capability) and not one.capability.within(mine)), None)
    if wider is not None:
        yield f"says nothing more than {wider.mark} does"
    if rule.effect == DENY and mine.resource != "call" and not any(
            one.effect == ALLOW and one.capability.resource == mine.resource
            and not one.capability.actions.isdisjoint(mine.actions) and one.capability.path.meets(mine.path)
            for one in rules):
        yield "denies what no rule allows"
