"""Another document for a family: never more than the parent has, whatever is spawned or granted meanwhile."""

import random

import pytest
import trio
import trio.testing
from authority import generate

from agentix_kernel import replacement
from agentix_kernel.authority.policy import succession
from agentix_kernel.authority.policy.inforce import Source, make, shared_out
from agentix_kernel.authority.policy.reading import BadPolicy
from agentix_kernel.dispatch import serve
from agentix_syscalls import calls, records, wire
from agentix_syscalls.errors import CallError

HEAD = "version: 1\nname: tried\nmode: enforce\n"
WIDE = HEAD + "allow:\n  - {file: /, action: [read, write]}\n  - {spawn: '*', max: 9}\n"
NARROW = HEAD + "allow:\n  - {file: /, action: read}\n  - {spawn: '*', max: 9}\n"


def of(text, **more):
    return make(Source("tried.yaml", text.encode()), **more)


def put(bench, process, new):
    planned = replacement.plan(new, replacement.family(bench.kernel, process), {})
    return replacement.put(bench.kernel, process, planned, new, "a test")


async def test_what_is_spawned_while_it_comes_into_force_is_of_it(bench):
    door = await bench.door(policy=of(WIDE))
    serve(door.session, calls.SYS_SPAWN, 0, 1, wire.pack(("exec", ["agent"], {})))
    put(bench, door.process, of(NARROW))
    await trio.testing.wait_all_tasks_blocked()
    child, = (bench.kernel.table.get(agent) for agent in door.process.children)
    assert child.policy.decide("READ", b"/state/x").allowed
    assert not child.policy.decide("WRITE", b"/state/x").allowed


async def test_a_plan_that_was_overtaken_is_made_again(bench):
    door = await bench.door(policy=of(WIDE))
    planned = replacement.plan(of(NARROW), replacement.family(bench.kernel, door.process), {})
    assert await door.finish(calls.SYS_SPAWN, "exec", ["agent"], {}) is None
    done, _ = replacement.put(bench.kernel, door.process, planned, of(NARROW), "a test")
    assert len(done) == 2
    for process, _ in done:
        assert not process.policy.decide("WRITE", b"/state/x").allowed
        assert process.budgets is door.process.budgets


async def test_it_is_recorded_before_and_after_for_each_of_a_family(bench):
    door = await bench.door(policy=of(WIDE))
    assert await door.finish(calls.SYS_SPAWN, "exec", ["agent"], {}) is None
    _, seq = put(bench, door.process, of(NARROW))
    await bench.kernel.settle(seq)
    kept = [(one.agent, one.phase) for one in bench.kept(records.POLICY) if one.correlation]
    assert kept == [(1, records.INTENT), (2, records.INTENT), (1, records.OUTCOME), (2, records.OUTCOME)]


async def test_what_cannot_be_recorded_is_not_done(bench):
    agent = await bench.agent(policy=of(WIDE))
    bench.disk.full = True
    while bench.kernel.journal.failed is None:
        bench.kernel.record(records.STEP, data=("fill", "x" * 4096))
        bench.kernel.flush()
    before = agent.policy
    with pytest.raises(CallError, match="nothing can be recorded"):
        put(bench, agent, of(NARROW))
    assert agent.policy is before
    bench.disk.full = False


def _policy(rng, **more):
    while True:
        try:
            return of(generate.policy(rng, 7), **more)
        except BadPolicy:
            continue


def _asked(rng):
    return {generate.request(rng) for _ in range(60)}


def test_no_child_gains_by_any_change_and_none_has_more_than_its_parent():
    """Seeded: what a child may after a change its parent may, and it might before, unless it had all its parent had."""
    rng, allowed = random.Random(23), 0
    for _ in range(150):
        parent, new = _policy(rng), _policy(rng)
        child = parent.holding(tuple(rule for rule in parent.allows if rng.random() < 0.7)).narrowed(None, (), None)
        after = succession.of_agent(new, parent)
        kid = succession.of_child(after, parent, child)
        for resource, action, obj in _asked(rng):
            if resource == "call" or not kid.compiled.decide(resource, action, obj.encode()).allowed:
                continue
            allowed += 1
            assert after.compiled.decide(resource, action, obj.encode()).allowed, (resource, action, obj)
            held = any(rule.capability.covers(action, obj.encode()) and rule.capability.resource == resource
                       for rule in child.allows)
            assert held or len(child.allows) >= len([*shared_out(parent.allows, None)]), (resource, action, obj)
    assert allowed > 100


def test_what_a_child_keeps_is_what_both_say():
    parent = of(HEAD + "allow:\n  - {file: /, action: [read, write]}\n  - {signal: '*', to: self}\n")
    child = parent.holding(tuple(rule for rule in parent.allows if rule.capability.resource == "file"))
    new = of(HEAD + "allow:\n  - {file: /state, action: write}\n  - {signal: '*', to: self}\n")
    kid = succession.of_child(succession.of_agent(new, parent), parent, child)
    assert [rule.text for rule in kid.allows] == ["allow capability://file/state?action=write"]
    assert kid.allows[0].mark.line == 5


def test_a_mode_of_ones_own_is_kept_when_it_is_stricter():
    soft, hard = of(HEAD.replace("enforce", "audit")), of(HEAD.replace("enforce", "strict"))
    assert succession.of_agent(soft, of(HEAD, mode="strict")).mode == "strict"
    assert succession.of_agent(hard, of(HEAD, mode="audit")).mode == "strict"
    assert succession.of_agent(soft, of(HEAD)).mode == "audit"
    parent = of(HEAD)
    child = parent.narrowed("strict", (), None)
    assert succession.of_child(succession.of_agent(soft, parent), parent, child).mode == "strict"
    child = parent.narrowed(None, (), None)
    assert succession.of_child(succession.of_agent(soft, parent), parent, child).mode == "audit"
