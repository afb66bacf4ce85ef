"""Agents that are there get other names and other limits, and dead ones are cleared away."""

import errno
import json
import os

import pytest
from emulation import WAIT_S

from agentix.control import Client, socket_path
from agentix_syscalls.errors import CallError

WAITING = "import signal\nprint('up', flush=True)\nsignal.pause()\n"


@pytest.fixture
def agent(kernel, scripts):
    made = kernel.spawn("--name", "before", scripts(WAITING))
    kernel.until_logged(made, "up")
    yield made
    kernel.ctl("rm", "-f", made, check=0)


def limits(kernel, agent):
    return kernel.json("inspect", agent)["limits"]


def test_another_name(kernel, agent):
    kernel.ctl("rename", "before", "after", check=0)
    assert kernel.agent(agent)["name"] == "after"
    assert "before" not in os.listdir(f"{kernel.prefix}/agent/by-name")
    assert os.readlink(f"{kernel.prefix}/agent/by-name/after") == f"../{agent}"
    assert "Name:\tafter\n" in kernel.ctl("cat", "after:proc/status", check=0).stdout
    assert kernel.ctl("logs", "after", check=0).stdout == "up\n"
    assert kernel.ctl("logs", "before").returncode == 1
    told, = kernel.record(agent, "rename")
    assert (told["data"]["name"], told["data"]["before"]) == ("after", "before")
    assert told["data"]["by"].startswith("uid 0, pid ")


def test_names_that_an_agent_cannot_get(kernel, agent, scripts):
    other = kernel.spawn("--name", "taken", scripts(WAITING))
    for name, why in (("taken", "is taken"), ("before", "is taken"), ("7up", "is not a name"), ("a/b", "is not a name"),
                      ("agent-99", "what the kernel calls"), ("", "is not a name"), ("x" * 64, "is not a name")):
        done = kernel.ctl("rename", agent, name)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    assert "no such agent" in kernel.ctl("rename", 9999, "x", check=1).stderr
    assert kernel.ctl("spawn", "--name", "agent-99", "--", "/bin/true").returncode == 2
    assert kernel.agent(agent)["name"] == "before"
    kernel.ctl("rm", "-f", other, check=0)
    kernel.ctl("rename", agent, "taken", check=0)


def test_a_name_outlives_the_kernel(make_kernel, scripts):
    live = make_kernel()
    agent = live.spawn("--name", "before", "--", "/bin/true")
    live.ctl("wait", agent, check=0)
    live.ctl("rename", agent, "after", check=0)
    live.stop()
    live.start()
    assert live.agent(agent)["name"] == "after"
    assert os.listdir(f"{live.prefix}/agent/by-name") == ["after"]


FORKS = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
while True:
    children = []
    try:
        while len(children) < 30:
            pid = os.fork()
            if not pid:
                signal.pause()
            children.append(pid)
    except BlockingIOError:
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.wait()
    print(len(children), flush=True)
    signal.pause()
"""


def test_limits_hold_at_once(kernel, scripts):
    agent = kernel.spawn("--pids", "10", scripts(FORKS))
    fewer = int(kernel.until_logged(agent, "\n"))
    assert fewer < 10
    kernel.ctl("update", "--pids", "64", "--cpus", "2", "--memory", "600M", agent, check=0)
    kernel.ctl("kill", "-USR1", agent, check=0)
    kernel.until_logged(agent, "30\n")
    assert limits(kernel, agent) == {"memory_bytes": 600 << 20, "cpus": 2.0, "pids": 64, "timeout_s": None}
    assert "Pids:\t64\n" in kernel.ctl("cat", f"{agent}:proc/limits", check=0).stdout
    layers = kernel.json("verify", agent)["layers"]
    assert [row["state"] for row in layers if row["layer"] == "limits"] == ["on"]
    told, = kernel.record(agent, "update")
    assert (told["data"]["limits"]["pids"], told["data"]["before"]["pids"]) == (64, 10)
    kernel.ctl("rm", "-f", agent, check=0)


def test_time_is_counted_from_now(kernel, agent):
    kernel.ctl("update", "--timeout", "1h", agent, check=0)
    assert 3600 < limits(kernel, agent)["timeout_s"] < 7200
    kernel.ctl("update", "--timeout", "none", agent, check=0)
    assert limits(kernel, agent)["timeout_s"] is None
    kernel.ctl("update", "--timeout", "0.1", agent, check=0)
    kernel.ctl("wait", agent, check=137)
    assert kernel.agent(agent)["why"] == "timeout"
    assert "it has nothing to limit" in kernel.ctl("update", "--pids", "9", agent, check=1).stderr


HOLDS = "held = bytearray(b'x') * (100 << 20)\nimport signal\nprint('up', flush=True)\nsignal.pause()\n"


def test_less_memory_than_is_in_use(kernel, scripts):
    """v1 refuses and nothing has changed; v2 ends the agent. Either way it is told."""
    agent = kernel.spawn("--memory", "300M", scripts(HOLDS))
    kernel.until_logged(agent, "up")
    done = kernel.ctl("update", "--memory", "20M", "--pids", "9", agent)
    if done.returncode:
        assert "bytes of memory are in use, and Linux cannot take them back" in done.stderr
        assert (limits(kernel, agent)["memory_bytes"], limits(kernel, agent)["pids"]) == (300 << 20, 64)
    else:
        kernel.ctl("wait", agent, check=137)
        assert kernel.agent(agent)["why"] == "memory"
    kernel.ctl("rm", "-f", agent, check=0)


PARENT = """
from agentix import libc
child = libc.spawn(exec="/bin/sleep", args=["600"], pids=20)
print(child, flush=True)
libc.waitpid(child)
"""


def test_children_keep_their_limits(kernel, scripts):
    parent = kernel.spawn("--spawn-max", "1", "--pids", "30", scripts(PARENT))
    child = int(kernel.until_logged(parent, "\n"))
    kernel.ctl("update", "--pids", "100", parent, check=0)
    assert (limits(kernel, parent)["pids"], limits(kernel, child)["pids"]) == (100, 20)
    kernel.ctl("kill", "-9", "-g", parent, check=0)
    kernel.ctl("wait", parent, child)
    kernel.ctl("rm", parent, child, check=0)


def test_what_is_no_limit(kernel, agent):
    for words, why in (((), "missing: --memory, --cpus, --pids, --timeout"), (("--pids", "1"), "--pids: 1 is not"),
                       (("--memory", "1M"), "too few"), (("--cpus", "0"), "above 0"),
                       (("--timeout", "soon"), "is not a duration")):
        done = kernel.ctl("update", *words, agent, check=2)
        assert why in done.stderr
    with Client(socket_path(kernel.prefix)) as client:
        for wrong in ({}, {"binds": []}, {"pids": None}, {"memory_bytes": "1G"}, {"spawn_max": 9}):
            with pytest.raises(CallError) as caught:
                client.call("update", agent, wrong)
            assert caught.value.number == errno.EINVAL
    assert kernel.record(agent, "update") == []


def test_prune(make_kernel, scripts, tmp_path):
    live = make_kernel()
    parent = live.spawn("--spawn-max", "1", scripts("""
from agentix import libc
import signal
libc.spawn(exec="/bin/true")
print('up', flush=True)
signal.pause()
"""))
    live.until_logged(parent, "up")
    dead = [live.spawn("--name", name, "--", "/bin/true") for name in ("one", "two")]
    zombie = live.until(lambda: [row["id"] for row in live.json("ps") if row["state"] == "zombie"])
    live.ctl("wait", *dead, check=0)
    (tmp_path / "f").write_bytes(b"x" * 5000)
    live.ctl("cp", str(tmp_path / "f"), "one:state", check=0)
    assert "say -f" in live.ctl("prune", check=1).stderr
    assert json.loads(live.ctl("prune", "--older-than", "1h", "-f", "--json", check=0).stdout) == []
    would = live.ctl("prune", "--dry-run", check=0).stdout
    assert ("one" in would, "2 dead agents would be removed, 4.9K" in would) == (True, True)
    assert len(live.json("ps", "-a")) == 4
    rows = json.loads(live.ctl("prune", "-f", "--json", check=0).stdout)
    assert [(row["name"], row["bytes"], row["files"]) for row in rows] == [("one", 5000, 1), ("two", 0, 0)]
    assert [row["id"] for row in live.json("ps", "-a")] == [parent, *zombie]
    assert "0 dead agents removed, 0 bytes freed" in live.ctl("prune", "-f", check=0).stdout


def test_prune_asks_on_a_terminal(make_kernel):
    import pty
    import subprocess

    live = make_kernel()
    live.ctl("wait", live.spawn("--", "/bin/true"), check=0)
    for answer, status, left in ((b"n\n", 1, 1), (b"y\n", 0, 0)):
        ours, theirs = pty.openpty()
        try:
            os.write(ours, answer)
            done = subprocess.run(live.words("prune"), stdin=theirs, capture_output=True, check=False, timeout=WAIT_S)
        finally:
            os.close(ours)
            os.close(theirs)
        assert b"Remove 1 dead agent with 0 bytes of files?" in done.stderr
        assert (done.returncode, len(live.json("ps", "-a"))) == (status, left)
