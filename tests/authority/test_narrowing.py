"""The whole of it: whatever is given, narrowed, passed on and taken back in a family, what the policy made of it allows
a child is at most what it allows its parent, and what nobody holds nobody may.
"""

import pytest
import strategies
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agentix_kernel.authority.constraints import Constraints
from agentix_kernel.authority.holdings import ROOT, Holdings, Need
from agentix_kernel.authority.policy.inforce import Source, make
from agentix_syscalls.errors import CallError

PARENTS = {1: ROOT, 2: 1, 3: 1, 4: 2, 5: 4}
DENIED = b"version: 1\nname: x\nmode: enforce\nallow: []\ndeny:\n  - {file: /state/a, action: write}\n"
CALLS = ("READ", "WRITE", "READDIR", "STAT", "RENAME", "UNLINK", "TRUNCATE")


@st.composite
def narrower(draw, found):
    """A capability that is mostly within this one, in a way that is not only the same again."""
    actions = draw(st.frozensets(st.sampled_from(sorted(found.actions)), min_size=1))
    limits = draw(st.just(found.constraints) | strategies.constraints())
    merged = Constraints(**{name: getattr(limits, name) if getattr(limits, name) is not None
                            else getattr(found.constraints, name)
                            for name in ("timeout_ns", "rate", "max", "allowlist", "expires_ns")})
    path = draw(st.just(found.path) | strategies.patterns())
    return evolve(found, actions=actions, path=path, constraints=merged)


class Family(RuleBasedStateMachine):
    """Agent 1 is given to; the others have what they have from their parents."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Holdings(lambda agent: PARENTS[agent])
        self.base = make(Source("x.yaml", DENIED))
        self.ended: set[int] = set()

    def in_force(self, agent: int):
        more = () if agent < 4 else ("UNLINK:/state",)
        return evolve(self.base, deny=more).holding(tuple(one.rule for one in self.table.held(agent)))

    @initialize(wanted=strategies.capabilities("file"))
    def begin(self, wanted) -> None:
        self.table.grant(1, wanted)

    @rule(wanted=strategies.capabilities("file"))
    def give(self, wanted) -> None:
        if 1 not in self.ended:
            self.table.grant(1, wanted)

    @precondition(lambda self: any(self.table.held(agent) for agent in PARENTS))
    @rule(data=st.data())
    def pass_on(self, data) -> None:
        giver = data.draw(st.sampled_from([agent for agent in PARENTS if self.table.held(agent)]))
        to = data.draw(st.sampled_from([giver, *(one for one in PARENTS if PARENTS[one] == giver)]))
        grant = data.draw(st.sampled_from(self.table.held(giver)))
        wanted = data.draw(st.just(grant.capability) | narrower(grant.capability) | strategies.capabilities("file"))
        try:
            if to == giver:
                self.table.attenuate(giver, grant.handle, wanted)
            elif to not in self.ended:
                self.table.delegate(giver, grant.handle, to, wanted)
        except CallError:
            pass

    @precondition(lambda self: any(self.table.held(agent) for agent in PARENTS))
    @rule(data=st.data())
    def take_back(self, data) -> None:
        agent = data.draw(st.sampled_from([agent for agent in PARENTS if self.table.held(agent)]))
        self.table.revoke(agent, data.draw(st.sampled_from(self.table.held(agent))).handle)

    @rule(agent=st.sampled_from([3, 5, 4, 2, 1]))
    def end(self, agent) -> None:
        if agent not in self.ended and self.table.held(agent):
            self.table.close(agent)
            self.ended.add(agent)

    @rule(obj=strategies.objects, call=st.sampled_from(CALLS))
    def ask(self, obj, call) -> None:
        """At every step of a family: allowed below means allowed above, and free below means free above."""
        path = b"/" + obj
        said = {agent: self.in_force(agent).decide(call, path) for agent in PARENTS if agent not in self.ended}
        for agent, verdict in said.items():
            above = said.get(PARENTS[agent])
            if verdict.allowed and above is not None:
                assert above.allowed, (agent, call, path)
                assert above.needs == () or verdict.needs, "what is counted above is counted below"
            if verdict.allowed and call in {"READ", "WRITE"}:
                self.held_by_somebody(agent, call.lower(), path)

    def held_by_somebody(self, agent, action, path) -> None:
        need = Need("file", action, (path,))
        held = [one for one in self.table.held(agent) if need.met_by(one.capability)]
        assert held, "what nobody holds nobody may"
        for one in held:
            assert all(need.met_by(above.capability) for above in one.chain())


TestFamily = Family.TestCase
TestFamily.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("text", [
    "capability://file/state?action=read,write&max=3", "capability://file/state/*.txt?action=write",
    "capability://file/**/x?action=read&rate=1/s", "capability://file/state?action=read&allowlist=a,b"])
def test_what_is_counted_decides_as_what_is_not(text) -> None:
    """A meter changes nothing of what a capability covers, whatever the mount and calls ask."""
    counted, free = (make(capabilities=(one,)) for one in (text, text.split("&")[0]))
    for path in (b"/state", b"/state/a", b"/state/b.txt", b"/state/c/x", b"/mem"):
        for call in CALLS:
            one, other = counted.decide(call, path), free.decide(call, path)
            assert one.allowed <= other.allowed, (call, path)
            assert "allowlist" in text or one.allowed == other.allowed, (call, path)
            if one.allowed and call != "STAT":
                assert bool(one.needs) is ("max" in text or "rate" in text), (call, path)
