"""agentctl events: what happened and what happens, derived from the record by one table."""

import json

import pytest
from emulation import WAIT_S

from agentix.control import Client
from agentix_syscalls import events, records
from agentix_syscalls.errors import CallError


def names(kernel, agent):
    return [row["event"] for row in kernel.rows("events", "--filter", f"agent={agent}")]


def test_a_life_as_events(kernel):
    agent = kernel.spawn("--name", "mayfly", "--deny", "WRITE", "--", "/bin/sh", "-c",
                         "echo x > /agent/self/state/y; sleep 60")
    kernel.until(lambda: "denial" in names(kernel, agent))
    kernel.ctl("stop", agent, check=0)
    kernel.until(lambda: "stop" in names(kernel, agent))
    kernel.ctl("cont", agent, check=0)
    kernel.until(lambda: "continue" in names(kernel, agent))
    kernel.ctl("kill", "-9", agent, check=0)
    kernel.ctl("wait", agent, check=137)
    kernel.ctl("rm", agent, check=0)
    told = list(dict.fromkeys(names(kernel, agent)))
    assert set(told[:2]) == {"spawn", "denial"}  # a process may act before its kernel has heard that it runs
    assert told[2:] == ["signal", "stop", "continue", "exit", "remove"]
    last = kernel.rows("events", "--filter", f"agent={agent}", "--filter", "event=exit", "--filter", "event=spawn")
    assert [(row["event"], row["life"], set(row["data"])) for row in last] == [
        ("spawn", 1, {"name", "parent", "uid"}), ("exit", 1, {"code", "signal", "why", "detail"})]
    shown = kernel.ctl("events", "--filter", f"agent={agent}", "--tail", "2", check=0).stdout.splitlines()
    assert "exit" in shown[0]
    assert "signal=SIGKILL why=killed" in shown[0]
    assert shown[1].split()[2:4] == [str(agent), "agent"]
    assert shown[1].endswith("remove       name=mayfly")


def test_a_spawn_that_fails_is_one(kernel):
    kernel.ctl("spawn", "--name", "stillborn", "--", "/no/such", check=127)
    row = kernel.rows("events", "--filter", "event=spawn-failed", "--tail", "1")[0]
    assert row["data"]["name"] == "stillborn"
    assert row["data"]["failure"].startswith("exec: ")


def test_following_with_a_filter(kernel):
    with kernel.begin("events", "-f", "--json", "--filter", "event=exit", "--filter", "event=spawn") as watch:
        agent = kernel.spawn("--name", "brief", "--", "/bin/true")
        rows = map(json.loads, watch.stdout)
        assert next(row for row in rows if row["name"] == "brief")["event"] == "spawn"
        assert next(row for row in rows if row["agent"] == agent)["event"] == "exit"
        watch.terminate()


def test_time_bounds_what_is_told(kernel):
    agent = kernel.spawn("--", "/bin/true")
    kernel.ctl("wait", agent, check=0)
    spawned, *_, ended = kernel.rows("events", "--filter", f"agent={agent}")
    socket = f"{kernel.prefix}/run/control.sock"
    with Client(socket) as client:
        until = list(client.stream("trace", agent, False, None, None, spawned["wall_ns"], ()))
        assert [row["event"] for row in until] == ["spawn"]
        since = list(client.stream("trace", [agent], False, None, ended["wall_ns"], None, ()))
        assert [row["event"] for row in since] == ["exit"]
        assert not list(client.stream("trace", agent, True, None, ended["wall_ns"] + 1, ended["wall_ns"] + 2, ()))
        with pytest.raises(CallError, match="no event is called"):
            list(client.stream("trace", None, False, None, None, None, ["births"]))
    assert kernel.rows("trace", "--until", "1h", agent) == []
    assert kernel.rows("trace", "--since", "1h", agent) == kernel.rows("trace", agent)


def test_two_agents_and_not_a_third(kernel):
    first, second, third = (kernel.spawn("--", "/bin/true") for _ in range(3))
    kernel.ctl("wait", first, second, third, check=0)
    assert {row["agent"] for row in kernel.rows("trace", first, second)} == {first, second}


def test_the_kernel_dies_under_it(make_kernel):
    live = make_kernel()
    with live.begin("events", "-f", "--json") as watch:
        assert json.loads(watch.stdout.readline())["event"] == "boot"
        live.process.kill()
        live.process.wait()
        said = watch.communicate(timeout=WAIT_S)[1]
    assert (watch.returncode, said.count("\n")) == (1, 1)
    assert said.startswith("agentctl: the kernel closed the connection; ")
    live.start()


@pytest.mark.parametrize("event", events.EVENTS, ids=lambda event: event.name)
def test_each_row_is_about_a_record_that_has_its_fields(event):
    kind = records.BY_NUMBER[event.kind]
    assert set(event.fields) <= set(kind.fields)
    assert event.where is None or event.where[0] in kind.fields
    fields = dict([event.where] if event.where else [])
    verdict = records.NONE if event.verdict is None else event.verdict
    assert events.find(event.kind, event.phase, verdict, fields) is event
    assert events.find(event.kind, records.INTENT if event.phase != records.INTENT else records.EVENT, verdict,
                       fields) in {None, *(row for row in events.EVENTS if row.kind == event.kind and row is not event)}
