"""What the next boot makes of a registry and a record that a crash has left at odds."""

import pytest

from agentix_kernel import aftermath
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.process import Command, Lives, Process, ProcessTable, State, Why
from agentix_kernel.registry import Registry
from agentix_kernel.world import Limits
from agentix_syscalls import records
from agentix_syscalls.spawn import Restart
from agentix_vfs.tree import Tree


@pytest.fixture
def adopting(bench, tmp_path):
    """Adopt agents that were saved in this state, of which these ends are recorded; gives the kernel's table."""
    def adopt(state, *ends, restart="always"):
        root = f"{tmp_path}/agents"
        (tmp_path / "agents").mkdir()
        before = Registry(root, 5000)
        agent, uid = before.next_id(), before.claim_uid()
        process = Process(agent, 2, "scout", uid, 0, Command("exec", ("x",)), Limits(), make(), 0,
                          lives=Lives(Restart(restart), wanted=True), state=state)
        before.save(process)
        for life, end in ends:
            bench.kernel.journal.append(records.EXIT, agent=agent, life=life, data=end)
        bench.kernel.journal.publish()
        bench.kernel.registry = Registry(root, 5000)
        lost = aftermath.adopt(bench.kernel)
        return lost, bench.kernel.table.by_id[agent]
    return adopt


def reboot(bench, registry):
    bench.kernel.registry, bench.kernel.table, bench.kernel.tree = registry, ProcessTable(), Tree(None)


@pytest.mark.parametrize("state", [State.RUNNING, State.STOPPED, State.READY])
async def test_what_ran_is_lost(bench, adopting, state):
    lost, process = adopting(state)
    assert (lost, process.state, process.end.why) == (1, State.DEAD, Why.LOST)
    assert state.value in process.end.detail
    assert [(record.agent, record.life) for record in bench.kept(records.LOST)] == [(process.id, 2)]
    assert bench.kernel.journal.durable == bench.kernel.journal.published
    assert process.lives.wanted


async def test_an_end_that_reached_the_record_alone_is_that_end(bench, adopting):
    lost, process = adopting(State.RUNNING, (1, (9, None, "exit", "before", [])), (2, (3, None, "exit", "three", [])))
    assert (lost, process.end.why, process.end.code, process.end.detail) == (0, Why.EXIT, 3, "three")
    assert bench.kept(records.LOST) == []
    assert process.lives.wanted  # its policy names that end


async def test_an_earlier_life_that_ended_says_nothing_of_the_last(adopting):
    lost, process = adopting(State.RUNNING, (1, (9, None, "exit", "before", [])))
    assert (lost, process.end.why) == (1, Why.LOST)


@pytest.mark.parametrize(("why", "restart", "wanted"), [
    ("policy", "always", False), ("budget", "always", False), ("exit", "on-failure", False),
    ("shutdown", "always", True),
])
async def test_what_no_policy_restarts_is_not_restarted_because_its_kernel_died(adopting, why, restart, wanted):
    _, process = adopting(State.RUNNING, (2, (0, None, why, "", [])), restart=restart)
    assert process.lives.wanted is wanted


async def test_a_loss_is_recorded_once_however_often_the_boot_dies_before_the_registry_knows(bench, adopting):
    _, process = adopting(State.RUNNING)
    process.state = State.RUNNING
    again = Registry(bench.kernel.registry.root, 5000)
    again.save(process)  # as if that had been the last thing it saved
    reboot(bench, again)
    assert aftermath.adopt(bench.kernel) == 0
    assert bench.kernel.table.by_id[process.id].end.why is Why.LOST
    assert len(bench.kept(records.LOST)) == 1


async def test_an_agent_that_was_being_made_is_lost_too_and_its_folder_goes(bench, adopting, tmp_path):
    adopting(State.DEAD)
    unborn = bench.kernel.registry.next_id()
    reboot(bench, Registry(bench.kernel.registry.root, 5000))
    aftermath.adopt(bench.kernel)
    assert [(record.agent, record.data[1]) for record in bench.kept(records.LOST)] == [(unborn, "being made")]
    assert not (tmp_path / "agents" / str(unborn)).exists()
    assert bench.kernel.registry.next_id() == unborn + 1
