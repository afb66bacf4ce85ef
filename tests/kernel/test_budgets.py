"""Budgets of a policy: counted where they are used, refused beyond, and one SIGBUDGET for each exhaustion."""

import errno

import pytest

from agentix_kernel import enforcement, lifecycle
from agentix_kernel.authority.policy.inforce import Source, make
from agentix_kernel.process import Command, State, Why
from agentix_kernel.world import Limits
from agentix_syscalls import calls, records, signals
from agentix_syscalls.signals import bit
from agentix_syscalls.spawn import Restart

HANDLED = (signals.SIGBUDGET, calls.SIG_HANDLE)


def of(budgets, more="", mode="enforce", **options):
    text = (f"version: 1\nname: b\nmode: {mode}\nallow:\n  - {{file: /, action: [read, write]}}\n{more}"
            f"budgets: {budgets}\n")
    return make(Source("b.yaml", text.encode()), **options)


def sent(bench, name="SIGBUDGET"):
    return [record for record in bench.kept(records.SIGNAL) if record.data[0] == name]


async def test_the_call_over_a_lifes_budget_ends_an_agent_that_does_not_handle_it(bench):
    door = await bench.door(policy=of("{calls: 2}"))
    assert [door.call(calls.SYS_GETPID) for _ in range(2)] == [None, None]
    count = len(door.replies)
    door.call(calls.SYS_GETPID)
    assert len(door.replies) == count, "nothing of it is answered"
    end = door.process.doom
    assert (end.why, end.signal, end.rule) == (Why.BUDGET, "SIGBUDGET", "b.yaml: budgets: calls: 2")
    [told] = bench.kept(records.BUDGET)
    assert (told.data, told.verdict, told.rule) == (
        ("calls", "2", "the budget of calls is spent"), records.DENIED, "b.yaml: budgets: calls: 2")


async def test_an_agent_that_handles_it_is_told_once_and_refused_from_then_on(bench):
    door = await bench.door(policy=of("{calls: 3}"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    assert [door.call(calls.SYS_GETPID) for _ in range(6)] == [None] * 3 + [errno.EDQUOT] * 3
    assert len(sent(bench)) == len(bench.kept(records.BUDGET)) == 1
    _, _, rule, remedy, *_ = door.replies[-1][2]
    assert (rule, remedy) == ("b.yaml: budgets: calls: 3", "an operator can give it more: agentctl policy set")
    assert door.call(999) == errno.ENOSYS
    assert await door.finish(calls.SYS_SIGWAIT, bit(signals.SIGBUDGET), 0) is None, "it can still hear of it"
    assert door.replies[-1][2][0] == signals.SIGBUDGET
    door.call(calls.SYS_EXIT, 3)
    assert door.process.doom.code == 3


async def test_a_rate_says_when_and_is_told_anew_only_after_it_recovered(bench, mock_clock):
    door = await bench.door(policy=of("{calls: 2/s}"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    assert [door.call(calls.SYS_GETPID) for _ in range(3)] == [None, None, errno.EAGAIN]
    assert door.replies[-1][2][3] == "try again in 500 ms"
    mock_clock.jump(0.5)
    assert [door.call(calls.SYS_GETPID) for _ in range(3)] == [None, errno.EAGAIN, errno.EAGAIN]
    assert len(sent(bench)) == 1
    mock_clock.jump(1)
    assert [door.call(calls.SYS_GETPID) for _ in range(3)] == [None, None, errno.EAGAIN]
    assert len(sent(bench)) == len(bench.kept(records.BUDGET)) == 2


async def test_malformed_calls_count(bench):
    door = await bench.door(policy=of("{calls: 1}"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    assert [door.call(calls.SYS_OPEN, 1) for _ in range(2)] == [errno.EINVAL, errno.EDQUOT]


async def test_tools_are_counted_as_they_are_asked_for(bench):
    door = await bench.door(policy=of("{tools: 1}", "  - {tool: '*'}\n"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    run = (calls.SYS_EXEC, "shell.execute", {"command": "true"}, 1)
    assert await door.finish(calls.SYS_EXEC, "none", {}) == errno.ENOENT, "which is no run"
    await door.finish(*run)
    assert await door.finish(*run) == errno.EDQUOT
    assert len(sent(bench)) == 1


async def test_a_family_has_one_budget_and_only_who_asks_for_too_much_is_told(bench):
    door = await bench.door(policy=of("{children: 1, calls: 20}", "  - {spawn: '*', max: 5}\n"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    assert await door.finish(calls.SYS_SPAWN, "exec", ["kid"], {"spawn_max": 2}) is None
    kid = bench.kernel.table.get(door.replies[-1][2])
    other = bench.connect(kid).greet()
    assert await other.finish(calls.SYS_SPAWN, "exec", ["grandchild"]) is None
    assert kid.doom.why is Why.BUDGET
    assert door.process.doom is None
    assert [record.agent for record in sent(bench)] == [kid.id]
    assert await door.finish(calls.SYS_SPAWN, "exec", ["kid"]) == errno.EDQUOT
    assert [record.agent for record in sent(bench)] == [kid.id, door.process.id]
    assert door.process.budgets["calls"].used == 3


async def test_denials_are_counted_and_stay_denials(bench):
    door = await bench.door(policy=of("{denials: 1}", deny=("GETPOLICY",)))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    assert [door.call(calls.SYS_GETPOLICY) for _ in range(3)] == [errno.EPERM] * 3
    assert len(sent(bench)) == 1


async def test_a_violation_in_strict_mode_ends_by_sigpolicy_whatever_budgets_say(bench):
    door = await bench.door(policy=of("{denials: 1}", mode="strict", deny=("GETPOLICY",)))
    for _ in range(2):
        door.call(calls.SYS_GETPOLICY)
    assert door.process.doom.why is Why.POLICY
    assert sent(bench) == []


async def test_audit_records_and_lets_pass(bench):
    door = await bench.door(policy=of("{calls: 1}", mode="audit"))
    assert [door.call(calls.SYS_GETPID) for _ in range(3)] == [None] * 3
    assert [record.verdict for record in bench.kept(records.BUDGET)] == [records.AUDITED]
    assert sent(bench) == []


@pytest.mark.parametrize("disposition", [calls.SIG_IGN, calls.SIG_HANDLE])
async def test_a_masked_or_ignored_signal_gives_nothing_back(bench, disposition):
    door = await bench.door(policy=of("{calls: 1}"))
    door.call(calls.SYS_SIGACTION, signals.SIGBUDGET, disposition)
    door.call(calls.SYS_SIGPROCMASK, calls.SIG_BLOCK, bit(signals.SIGBUDGET))
    assert [door.call(calls.SYS_GETPID) for _ in range(3)] == [None, errno.EDQUOT, errno.EDQUOT]


async def test_another_life_has_a_new_budget_but_no_new_rate(bench, autojump_clock):
    policy = of("{calls: 2, denials: 3/h}", deny=("GETPOLICY",))
    process, _ = await lifecycle.spawn(bench.kernel, Command("exec", ("agent",)), Limits(), policy, None, None,
                                       Restart("always"))
    door = bench.connect(process).greet()
    assert [door.call(calls.SYS_GETPOLICY) for _ in range(2)] == [errno.EPERM] * 2
    door.call(calls.SYS_EXIT, 0)
    await process.over.wait()
    following = bench.kernel.table.latest(process)
    while following.state is not State.RUNNING:
        await following.changed.park()
    assert following.life == 2
    now = bench.kernel.world.clock.monotonic_ns()
    assert {what: meter.left(now) for what, meter in following.budgets.items()} == {"calls": 2, "denials": 1}


@pytest.mark.parametrize(("after", "left"), [("{calls: 5}", 2), ("{calls: 3}", 0), ("{calls: 2, tools: 1}", 0)])
async def test_another_policy_gives_its_budgets_less_what_was_used(bench, after, left):
    door = await bench.door(policy=of("{calls: 3}"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    assert [door.call(calls.SYS_GETPID) for _ in range(4)] == [None, None, None, errno.EDQUOT]
    enforcement.put(bench.kernel, door.process, of(after))
    assert [door.call(calls.SYS_GETPID) for _ in range(3)] == [None] * left + [errno.EDQUOT] * (3 - left)


async def test_another_policy_with_the_same_budgets_fills_no_bucket_and_keeps_the_familys(bench):
    door = await bench.door(policy=of("{calls: 2/h}"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    shared = door.process.budgets["calls"]
    assert [door.call(calls.SYS_GETPID) for _ in range(3)] == [None, None, errno.EAGAIN]
    enforcement.put(bench.kernel, door.process, of("{calls: 2/h}", mode="strict"))
    assert door.process.budgets["calls"] is shared
    assert door.call(calls.SYS_GETPID) == errno.EAGAIN
    assert len(sent(bench)) == 1
