"""Capabilities in the kernel: races with calls under way, forged handles, clocks that jump, lives that begin again."""

import errno

import pytest
import trio
from attrs import define
from sim.machine import LAUNCH_ERRORS
from trio.testing import wait_all_tasks_blocked

from agentix_kernel import grants, lifecycle
from agentix_kernel.authority import capability
from agentix_kernel.authority.holdings import DEPTH_MAX, HANDLES_MAX, ROOT
from agentix_kernel.authority.policy.inforce import Source, make
from agentix_kernel.process import End, Why
from agentix_kernel.world import LaunchError
from agentix_syscalls import calls, records
from agentix_syscalls.errors import CallError

STATE = "capability://file/state?action=read,write"
WORKING = "capability://file/mem/working?action=read"


def of(*rules, mode="enforce"):
    text = f"version: 1\nname: tried\nmode: {mode}\nallow:\n" + "".join(f"  - {rule}\n" for rule in rules)
    return make(Source("tried.yaml", text.encode()))


ALL = ("{file: /, action: [read, write]}", "{spawn: '*', max: 3}")


def heir(parent, **more):
    return parent.policy.narrowed(None, (), more.get("spawn_max"), more.get("capabilities"))


def value(door):
    return door.replies[-1][2]


async def test_a_child_holds_from_its_parent_and_loses_with_it(bench):
    door = await bench.door(policy=of(*ALL))
    child = await bench.agent(policy=heir(door.process, capabilities=(STATE, WORKING)), parent=door.process)
    inside = bench.connect(child).greet()
    assert inside.call(calls.SYS_OPEN, "state/x", calls.O_RDWR | calls.O_CREAT) is None
    assert inside.call(calls.SYS_OPEN, "mem/working/x", calls.O_RDWR | calls.O_CREAT) == errno.EPERM
    assert door.call(calls.SYS_REVOKE, door.process.id, 1) is None
    assert value(door) == ((door.process.id, 1), (child.id, 1), (child.id, 2))
    assert inside.call(calls.SYS_WRITE, 3, b"x") == errno.EPERM
    assert [row.data[2:5] for row in bench.kept(records.REVOKE)] == [
        ("revoke", 1, 0), ("revoke", 1, door.process.id), ("revoke", 2, door.process.id)]


async def test_a_spawn_under_way_when_its_leave_is_taken_back_does_not_happen(bench):
    door = await bench.door(policy=of(*ALL))
    calls_before = bench.machine.launched
    door.call(calls.SYS_SPAWN, "exec", ["x"], user_data=4)
    grants.revoke(bench.kernel, door.process, 2, ROOT, "a test")
    await wait_all_tasks_blocked()
    assert (door.error(), bench.machine.launched) == (errno.EPERM, calls_before)
    assert value(door)[1].startswith("no more: it may spawn no agents")


async def test_what_a_child_was_to_hold_may_be_taken_back_before_it_is_made(bench):
    door = await bench.door(policy=of(*ALL))
    door.call(calls.SYS_SPAWN, "exec", ["x"], {"capabilities": [STATE, WORKING]}, user_data=4)
    grants.revoke(bench.kernel, door.process, 1, ROOT, "a test")
    await wait_all_tasks_blocked()
    assert (door.error(), "is more than all that may be given" in value(door)[1]) == (errno.EPERM, True)
    assert len(bench.kernel.table.by_id) == 1


async def test_a_spawn_compares_no_more_than_others_can_wait_for(bench):
    """Each of many long capabilities would be held against each of many long ones that it gave itself."""
    door = await bench.door(policy=of("{file: /mem, action: read}", "{file: /state, action: read}", ALL[1]))
    deep = ["capability://file/state/" + "/".join(["*a*"] * 60) + f"/{number}?action=read" for number in range(100)]
    assert [door.call(calls.SYS_GRANT, 2, door.process.id, one) for one in deep] == [None] * 100
    assert door.call(calls.SYS_SPAWN, "exec", ["x"], {"capabilities": deep}) == errno.E2BIG
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"], {"capabilities": [WORKING]}) is None


async def test_leave_to_spawn_that_came_to_nothing_is_given_back(bench):
    door = await bench.door(policy=of("{file: /, action: [read, write]}", "{spawn: '*', max: 1}"))
    good = type(bench.machine).launch

    async def fails(*_):
        raise LaunchError(*LAUNCH_ERRORS[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bench.machine), "launch", fails)
        assert await door.finish(calls.SYS_SPAWN, "exec", ["x"]) == errno.ENOENT
    assert type(bench.machine).launch is good
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"]) is None
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"]) == errno.EDQUOT


async def test_grandchildren_count_against_all_above_them(bench):
    door = await bench.door(policy=of("{file: /, action: [read, write]}", "{spawn: '*', max: 2}"))
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"], {"spawn_max": 3}) == errno.EPERM
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"], {"spawn_max": 2}) is None
    child = bench.connect(bench.kernel.table.get(value(door))).greet()
    assert await child.finish(calls.SYS_SPAWN, "exec", ["x"]) is None
    for one in (child, door):
        assert await one.finish(calls.SYS_SPAWN, "exec", ["x"]) == errno.EDQUOT


async def test_the_dying_are_given_nothing(bench):
    door = await bench.door(policy=of(*ALL))
    child = await bench.agent(policy=heir(door.process), parent=door.process)
    assert door.call(calls.SYS_GRANT, 1, child.id) is None
    lifecycle.doom(bench.kernel, child, End(Why.KILLED, signal="SIGKILL"))
    assert door.call(calls.SYS_GRANT, 1, child.id) == errno.ECHILD
    await child.over.wait()
    assert door.call(calls.SYS_GRANT, 1, child.id) == errno.ECHILD
    assert door.call(calls.SYS_REVOKE, child.id, 1) == errno.EBADF
    assert bench.kernel.holdings.held(child.id) == ()


async def test_what_an_operator_gives_is_on_record_before_it_is_kept(bench, monkeypatch):
    """Else a kernel that ends between the two leaves a next life with what nobody gave."""
    door = await bench.door(policy=of(*ALL))
    journal, published = bench.kernel.journal, []
    monkeypatch.setattr(type(bench.kernel.registry), "save", lambda *_: published.append(journal.published))
    _, seq = grants.grant(bench.kernel, door.process, capability.parse(WORKING), "a test")
    assert published == [seq]


async def test_what_cannot_be_recorded_is_not_given(bench):
    door = await bench.door(policy=of(*ALL))
    held, before = bench.kernel.holdings.held(door.process.id), dict(door.process.lives.start.rules)
    bench.disk.full = True
    while bench.kernel.journal.failed is None:
        bench.kernel.record(records.STEP, data=("fill", "x" * 4096))
        bench.kernel.flush()
    with pytest.raises(CallError, match="nothing can be recorded"):
        grants.grant(bench.kernel, door.process, capability.parse(WORKING), "a test")
    assert (bench.kernel.holdings.held(door.process.id), door.process.lives.start.rules) == (held, before)
    bench.disk.full = False


async def test_nobody_takes_back_what_somebody_else_gave(bench):
    door = await bench.door(policy=of(*ALL))
    child = await bench.agent(policy=heir(door.process), parent=door.process)
    row, _ = grants.grant(bench.kernel, child, capability.parse(STATE), "given by uid 0")
    assert door.call(calls.SYS_REVOKE, child.id, row.handle) == errno.EPERM
    other = await bench.door(policy=of(*ALL))
    answers = [other.call(calls.SYS_REVOKE, agent, handle) for agent in (1, 2, 3, 99) for handle in (1, row.handle, 9)]
    assert set(answers[:6] + answers[9:]) == {errno.EBADF}, "of others nothing is told"


async def test_strict_kills_for_the_attempt_to_hold_more(bench):
    door = await bench.door(policy=of(*ALL, mode="strict"))
    door.call(calls.SYS_GRANT, 1, door.process.id, "capability://tool?action=exec")
    assert door.process.doom is not None
    assert door.process.doom.rule == "what is given is at most what is held"


async def test_who_gives_more_hears_what_to_say_again(bench):
    door = await bench.door(policy=of("capability://file?action=read&rate=5/min"))
    door.call(calls.SYS_GRANT, 1, door.process.id, "capability://file/state?action=read&max=2")
    assert "each of its limits again" in door.process.last_denial.remedy
    again = "capability://file/state?action=read&rate=5/min&max=2"
    assert door.call(calls.SYS_GRANT, 1, door.process.id, again) is None


async def test_as_many_as_one_may_hold_and_as_deep_as_one_may_pass_on(bench):
    door = await bench.door(policy=of(*ALL))
    handle = 1
    for _ in range(DEPTH_MAX - 1):
        assert door.call(calls.SYS_GRANT, handle, 1) is None
        handle = value(door)
    assert door.call(calls.SYS_GRANT, handle, 1) == errno.EMFILE
    for _ in range(HANDLES_MAX - DEPTH_MAX + 1):
        assert door.call(calls.SYS_GRANT, 1, 1) is None
    assert door.call(calls.SYS_GRANT, 1, 1) == errno.EMFILE
    assert door.call(calls.SYS_REVOKE, 1, 1) is None
    assert len(value(door)) == 1 + HANDLES_MAX
    assert door.call(calls.SYS_STAT, "state") == errno.EPERM


async def test_a_child_of_too_many_generations_is_not_made(bench, monkeypatch):
    monkeypatch.setattr("agentix_kernel.authority.holdings.DEPTH_MAX", 2)
    door = await bench.door(policy=of(*ALL))
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"], {"spawn_max": 1}) is None
    child = bench.connect(bench.kernel.table.get(value(door))).greet()
    assert await child.finish(calls.SYS_SPAWN, "exec", ["x"]) == errno.EMFILE
    assert len(bench.kernel.table.by_id) == 2


@define
class Wall:
    """A world whose wall clock is the test's."""

    now_ns: int = 10**18

    def wall_ns(self):
        return self.now_ns

    def monotonic_ns(self):
        return int(trio.current_time() * 1e9)


async def test_a_wall_clock_that_jumps_ends_what_expires_and_brings_nothing_back(bench, autojump_clock):
    del autojump_clock
    clock = Wall()
    object.__setattr__(bench.kernel.world, "clock", clock)
    door = await bench.door(policy=of("{file: /, action: [read, write], expires: 2001-09-10T00:00:00Z}"))
    assert door.call(calls.SYS_OPEN, "state/x", calls.O_RDWR | calls.O_CREAT) is None
    clock.now_ns += 10**15
    assert door.call(calls.SYS_STAT, "state/x") is None, "attributes are no use of it"
    assert door.call(calls.SYS_OPEN, "state/x") == errno.EPERM
    assert "expired at 2001-09-10" in value(door)[1]
    assert door.call(calls.SYS_READ, 3, 1) is None, "until the kernel's clock has seen it"
    await trio.sleep(1)
    assert bench.kernel.holdings.held(1) == ()
    assert door.call(calls.SYS_READ, 3, 1) == errno.EPERM
    clock.now_ns -= 10**16
    await trio.sleep(1)
    assert door.call(calls.SYS_OPEN, "state/x") == errno.EPERM
    assert (bench.kernel.holdings.expires_ns, bench.kernel.expiring) == (None, False)


async def test_ten_thousand_grants_are_taken_back_in_one(bench):
    holdings = bench.kernel.holdings
    wanted = capability.parse(STATE)
    holdings.parent_of = lambda agent: agent // 10
    holdings.grant(1, wanted)
    families = [agent for agent in range(10, 20000) if str(agent)[0] == "1"]
    for agent in families[:10000]:
        holdings.delegate(agent // 10, 1, agent)
    assert len(list(holdings.tree())) == 10001
    assert len(holdings.revoke(1, 1)) == 10001
    assert list(holdings.tree()) == []


async def test_an_unchanged_agent_shares_what_was_compiled(bench):
    policy = of(*ALL)
    first = await bench.agent(policy=policy)
    child = await bench.agent(policy=heir(first), parent=first)
    other = await bench.agent(policy=heir(first), parent=first)
    assert child.policy.compiled is other.policy.compiled
    handle = grants.grant(bench.kernel, child, capability.parse(STATE), "given by uid 0")[0].handle
    assert child.policy.compiled is not other.policy.compiled
    grants.revoke(bench.kernel, child, handle, ROOT, "taken back")
    assert child.policy.compiled is other.policy.compiled


async def test_who_asks_for_less_than_nothing_gets_an_error(bench):
    door = await bench.door(policy=of(*ALL))
    both = {"capabilities": [STATE], "spawn_max": 1}
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"], both) == errno.EINVAL
    with pytest.raises(CallError, match="more than all"):
        make(capabilities=("capability://agent?action=spawn",))
    assert [str(one.capability) for one in make(capabilities=(STATE, STATE)).allows] == [STATE]


async def test_another_policy_keeps_what_both_allow_and_its_uses(bench):
    door = await bench.door(policy=of(ALL[0], "{tool: '*', max: 3}", ALL[1]))
    child = await bench.agent(policy=heir(door.process), parent=door.process)
    tool = bench.kernel.holdings.find(door.process.id, 2)
    tool.meter.used = 2
    given = grants.grant(bench.kernel, door.process, capability.parse(STATE), "given by uid 0")[0].handle
    new = make(Source("new.yaml", b"version: 1\nname: new\nmode: enforce\nallow:\n"
                      b"  - {tool: '*', max: 3}\n  - {file: /state, action: read}\n  - {file: /mem, action: read}\n"))
    grants.replace(bench.kernel, door.process, new, "a test")
    grants.replace(bench.kernel, child, new.narrowed(None, (), None), "a test")
    held = bench.kernel.holdings.held(door.process.id)
    assert [(one.handle, one.source) for one in held] == [(2, "new.yaml:5"), (given + 1, "new.yaml:6"),
                                                         (given + 2, "new.yaml:7")]
    assert (held[0] is tool, tool.meter.used) == (True, 2)
    theirs = bench.kernel.holdings.held(child.id)
    assert [(one.above, one.source) for one in theirs] == [(one, one.source) for one in held]
    assert {str(one.capability) for one in child.policy.allows} == {str(one.capability) for one in new.allows}
    for one in held:
        grants.revoke(bench.kernel, door.process, one.handle, ROOT, "a test")
    assert bench.kernel.holdings.held(child.id) == ()
    assert door.process.lives.start.rules == {}


async def test_a_new_life_holds_what_the_last_one_began_with_and_what_operators_changed(bench):
    door = await bench.door(policy=of(*ALL))
    process = door.process
    given = grants.grant(bench.kernel, process, capability.parse(STATE), "given by uid 0")[0].handle
    assert door.call(calls.SYS_GRANT, 1, process.id, STATE) is None
    assert door.call(calls.SYS_REVOKE, process.id, 1) is None
    grants.revoke(bench.kernel, process, 2, ROOT, "a test")
    grants.close(bench.kernel, process)
    following = process.following(0, 0)
    grants.renew(bench.kernel, following)
    assert [one.handle for one in bench.kernel.holdings.held(process.id)] == [1, given]
    assert (following.policy.spawn_max, following.policy.decide("WRITE", b"/mem/x").allowed) == (0, True)
