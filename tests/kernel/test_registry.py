"""What outlives a kernel about agents: ids never twice, uids one agent's, files that a crash or a full disk spares."""

import errno
import json
import os

import pytest
from attrs import evolve

from agentix_kernel.authority.holdings import Start
from agentix_kernel.authority.policy.inforce import Source, make
from agentix_kernel.config import Config, ConfigError, load
from agentix_kernel.process import Command, Denial, End, Lives, Process, State, Why
from agentix_kernel.registry import Registry, claim_range
from agentix_kernel.world import Bind, Limits
from agentix_syscalls.control import STATES
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import Restart


@pytest.fixture
def root(tmp_path):
    (tmp_path / "agents").mkdir()
    return str(tmp_path / "agents")


def agent(registry, **more):
    number = registry.next_id()
    policy = make(mode="strict", deny=("WRITE:/state",), spawn_max=3)
    made = Process(number, 1, f"agent-{number}", registry.claim_uid(), 0, Command("exec", ("sleep", "1")),
                   Limits(timeout_s=2.5), policy, 1234)
    made.lives.start = Start.of(policy.allows)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_an_agent_comes_back_as_it_was(root):
    registry = Registry(root, 5000)
    end = End(Why.POLICY, None, "SIGPOLICY", "WRITE is denied", "deny WRITE:/state")
    last = Denial("mount", "WRITE", "/state", "WRITE /state is denied", "p.yaml:7: deny x", "p.yaml", 7, "strict", "",
                  98)
    registry.save(agent(registry, state=State.DEAD, end=end, ended_wall_ns=99, calls=7, denials=2, last_denial=last))
    found, = Registry(root, 5000).load()
    assert found.last_denial == last
    assert (found.id, found.uid, found.name, found.state, found.end) == (1, 5000, "agent-1", State.DEAD, end)
    assert (found.limits.timeout_s, found.policy.mode, found.policy.spawn_max) == (2.5, "strict", 3)
    assert found.policy.deny == ("WRITE:/state",)
    assert (found.calls, found.denials, found.ended_wall_ns) == (7, 2, 99)


def test_what_a_restart_needs_comes_back_and_is_roots_alone(root):
    bind = Bind(9, "/data", True, "/srv/data", (1, 2, 3))
    command = Command("script", ("bot.py",), b"print(1)", {"KEY": "secret"}, "/data", (bind,), owner=1000,
                      stdin=True, terminal=(24, 80))
    registry = Registry(root, 5000)
    made = agent(registry, command=command, lives=Lives(Restart("on-failure", 3), wanted=True))
    registry.save(made)
    registry.keep_source(made)
    again = Registry(root, 5000)
    found, = again.load()
    assert found.command == evolve(command, source=None, binds=(evolve(bind, source_fd=-1),))
    assert (found.lives.policy, found.lives.wanted, found.origin) == (Restart("on-failure", 3), True, found.id)
    assert again.source(found.id) == b"print(1)"
    modes = {name: os.stat(f"{root}/1/{name}").st_mode & 0o777 for name in os.listdir(f"{root}/1")}
    assert modes == {"agent.json": 0o600, "source": 0o600}


def test_a_script_that_was_not_kept(root):
    registry = Registry(root, 5000)
    registry.save(agent(registry))
    with pytest.raises(CallError, match="the script of agent 1 was not kept") as caught:
        registry.source(1)
    assert caught.value.number == errno.ENOENT


def test_ids_are_never_given_twice(root):
    registry = Registry(root, 5000)
    last = [registry.next_id() for _ in range(3)][-1]
    again = Registry(root, 5000)
    assert again.load() == []
    assert again.next_id() == last + 1  # also those whose agents left nothing
    assert os.listdir(f"{root}/{last + 1}") == []


def test_a_half_made_agent_is_swept(root):
    registry = Registry(root, 5000)
    registry.save(agent(registry))
    registry.next_id()
    again = Registry(root, 5000)
    assert len(again.load()) == 1
    assert again.unborn == [2]
    again.drop_unborn()
    assert again.unborn == []
    assert sorted(os.listdir(root)) == ["1", "last-id"]


def test_uids_of_the_dead_are_theirs_until_they_are_removed(root):
    registry = Registry(root, 5000, 3)
    made = [agent(registry) for _ in range(3)]
    for one in made:
        registry.save(one)
    assert {one.uid for one in made} == {5000, 5001, 5002}
    again = Registry(root, 5000, 3)
    found = again.load()
    with pytest.raises(CallError, match="all 3 uids are taken") as caught:
        again.claim_uid()
    assert caught.value.number == errno.EAGAIN
    again.forget(found[1])
    assert again.claim_uid() == found[1].uid
    assert not os.path.exists(f"{root}/{found[1].id}")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": 1}'])
def test_a_record_that_is_none_stops_the_boot_by_name(root, content):
    os.mkdir(f"{root}/1")
    with open(f"{root}/1/agent.json", "w") as file:
        file.write(content)
    with pytest.raises(ConfigError, match=r"1/agent.json: not an agent's record"):
        Registry(root, 5000).load()


def test_a_full_disk_puts_saving_off(root, monkeypatch):
    registry = Registry(root, 5000)
    one, two = agent(registry), agent(registry)
    registry.save(one)
    room = False
    replace = os.replace

    def full(old, new):
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), new)
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    for process in (one, two):
        process.state = State.DEAD
        registry.save(process)
    registry.forget(two)
    room = True
    registry.retry()
    with open(f"{root}/1/agent.json") as file:
        assert json.load(file)["state"] == "dead"
    assert not os.path.exists(f"{root}/2")


def test_no_room_for_another_agent(root, monkeypatch):
    registry = Registry(root, 5000)
    monkeypatch.setattr(os, "mkdir", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(CallError, match="no room for another agent") as caught:
        registry.next_id()
    assert caught.value.number == errno.ENOSPC
    assert "make room" in caught.value.remedy


def config_of(folder, **more):
    given = load(str(folder))
    os.makedirs(given.state_dir, exist_ok=True)
    return Config(given.prefix, given.source, given.values | more)


def test_two_kernels_never_share_a_range(tmp_path):
    one, two = (claim_range(config_of(tmp_path / name)) for name in ("one", "two"))
    try:
        assert one.first != two.first
        assert one.first % 65536 == two.first % 65536 == 0
        with pytest.raises(ConfigError, match="in use by another kernel"):
            claim_range(config_of(tmp_path / "one"))
    finally:
        one.release()
        two.release()
    again = claim_range(config_of(tmp_path / "one"))
    assert again.first == one.first
    again.release()
    assert claim_range(config_of(tmp_path / "three", uid_first=77)).first == 77


def test_states_have_the_names_that_the_contract_tells():
    assert tuple(state.value for state in State) == STATES


def test_an_agent_whose_policy_is_no_policy_any_more_stops_the_boot(root):
    registry = Registry(root, 5000)
    text = b"version: 1\nname: kept\nmode: strict\nallow: [{spawn: '*', max: 3}]\n"
    registry.save(agent(registry, state=State.DEAD, policy=make(Source("kept.yaml", text), deny=("OPEN:/state",))))
    found, = Registry(root, 5000).load()
    assert (found.policy.source, found.policy.deny, found.policy.spawn_max, found.policy.mode) == (
        Source("kept.yaml", text), ("OPEN:/state",), 3, "strict")
    path = f"{root}/1/agent.json"
    with open(path) as file:
        row = json.load(file)
    with open(path, "w") as file:
        json.dump(row | {"policy": ["kept.yaml", "version: 9"]}, file)
    with pytest.raises(ConfigError, match=r"kept\.yaml:1:10"):
        Registry(root, 5000).load()
    del row["policy"], row["start"]  # of an earlier version
    with open(path, "w") as file:
        json.dump(row | {"spawn_max": 3}, file)
    found, = Registry(root, 5000).load()
    assert (found.policy.source.name, found.policy.deny, found.policy.spawn_max) == ("standard", ("OPEN:/state",), 3)
