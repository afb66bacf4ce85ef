"""Restarts on a real kernel: policies, agentctl restart, and what a dead kernel left running."""

import json
import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest
from emulation import WAIT_S

from agentix_syscalls import control, wire

CRASH = ("--", "/bin/sh", "-c", "echo life $(sed -n 's/Life:.//p' /agent/self/proc/status); exit 3")
SLEEP = ("--", "/bin/sleep", "1000")


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\nrestart_delay_s = 0.01\n") as kernel:
        yield kernel


def test_run_stays_until_the_last_end(live):
    done = live.ctl("run", "--restart", "on-failure:2", *CRASH, check=3)
    assert done.stdout == "life 1\nlife 2\nlife 3\n"


def test_ps_says_why_an_agent_is_not_restarted(live):
    agent = live.spawn("--restart", "always:1", "--", "/bin/true")
    live.ctl("wait", agent, check=0)
    assert live.agent(agent)["next"] == "not restarted: restarted once, the most its policy allows"
    assert "exit 0; not restarted: restarted once" in live.ctl("ps", "-a", check=0).stdout
    assert "Restart:\talways:1\nRestarts:\t1\n" in Path(live.tree(agent, "proc/status")).read_text()
    assert [row["data"]["next_life"] for row in live.record(agent, "restart")] == [2]


def test_a_life_keeps_files_and_loses_its_place_in_the_world(live, scripts):
    agent = live.spawn("--restart", "on-failure", scripts(
        "import os, signal, time\n"
        "if os.path.exists('mark'):\n"
        "    print('again', os.getuid(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, flush=True)\n"
        "    time.sleep(1000)\n"
        "open('mark', 'w').close()\n"
        "os.abort()\n"))
    live.until_logged(agent, f"again {live.agent(agent)['uid']} True\n")
    row = live.until_state(agent, "running")
    assert (row["life"], row["restarts"], row["why"]) == (2, 1, "")
    assert live.json("inspect", agent)["last_end"] == "ended by the Linux signal SIGABRT"
    assert any(folder.endswith(f"/{agent}.2") for folder in live.cgroups())
    assert not any(folder.endswith(f"/{agent}.1") for folder in live.cgroups())
    live.ctl("kill", agent, check=0)
    live.ctl("wait", agent, check=143)
    assert live.agent(agent)["life"] == 2


def test_an_agent_that_broke_its_policy_waits_for_an_operator(live, scripts):
    agent = live.spawn("--restart", "always", "--mode", "strict", "--deny", "UNLINK", scripts(
        "from agentix import libc\nlibc.unlink('state/x')\n"))
    live.ctl("wait", agent, check=137)
    assert live.record(agent, "restart") == []
    live.ctl("restart", agent, check=0)
    live.ctl("wait", agent, check=137)
    assert live.agent(agent)["life"] == 2


def test_a_restart_opens_binds_anew(live, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "version").write_text("one\n")
    agent = live.spawn("--bind-ro", f"{folder}:/data", "--env", "A=b", "--", "/bin/sh", "-c",
                       "cat /data/version; echo $A; exec sleep 1000")
    live.until_logged(agent, "one\nb\n")
    folder.rename(tmp_path / "old")
    folder.mkdir()
    (folder / "version").write_text("two\n")
    live.ctl("restart", agent, check=0)
    live.until_logged(agent, "two\nb\n")
    assert live.agent(agent)["life"] == 2
    folder.rename(tmp_path / "gone")
    refused = live.ctl("restart", agent, check=1)
    assert refused.stderr == f"agentctl: {folder}: No such file or directory\n"
    assert live.agent(agent)["state"] == "running"
    live.ctl("rm", "-f", agent, check=0)


NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}
"""A member of the kernel's group who owns nothing."""


def test_a_member_of_the_group_restarts_their_own_agents_alone(live):
    os.chmod(live.prefix, 0o755)
    roots = live.spawn(*SLEEP)
    own = int(live.ctl("spawn", *SLEEP, check=0, **NOBODY).stdout)
    refused = live.ctl("restart", roots, check=1, **NOBODY)
    assert f"restart: agent {roots} (agent-{roots}) is uid 0's, not yours" in refused.stderr
    assert live.record(roots, "denial")[-1]["data"]["call"] == "restart"
    live.ctl("restart", own, check=0, **NOBODY)
    live.ctl("restart", own, check=0)
    assert (live.agent(own)["life"], live.agent(own)["owner"], live.agent(roots)["life"]) == (3, 65534, 1)
    live.ctl("rm", "-f", roots, own, check=0)


def test_a_folder_that_is_its_owners_no_more_is_not_bound_writable_again(live):
    """Also past agentctl, which says it by itself: the kernel asks who owns what came."""
    os.chmod(live.prefix, 0o755)
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        agent = int(live.ctl("spawn", "--bind", f"{folder}:/data", *SLEEP, check=0, **NOBODY).stdout)
        os.chown(folder, 0, 0)
        fd = os.open(folder, os.O_PATH)
        try:
            os.setegid(65534)
            os.seteuid(65534)
            told = asked(live, agent, [fd])
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.close(fd)
        assert "do not own it" in told
        assert live.agent(agent)["life"] == 1
        live.ctl("rm", "-f", agent, check=0)


def asked(live, agent, fds):
    """What the kernel answers to a restart with these descriptors, as text."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(f"{live.prefix}/run/control.sock")
        sock.sendall(wire.request(control.BY_NAME["hello"].number, 1, [wire.PROTOCOL]))
        sock.recv(65536)
        frame = wire.request(control.BY_NAME["restart"].number, 2, [agent, len(fds)])
        socket.send_fds(sock, [frame], fds) if fds else sock.sendall(frame)
        return repr(wire.decode(sock.recv(65536)[wire.HEADER_BYTES:]))


def test_binds_that_do_not_match_are_refused(live, tmp_path):
    agent = live.spawn("--bind-ro", f"{tmp_path}:/data", *SLEEP)
    assert "has 1 binds, 0 came" in asked(live, agent, [])
    assert live.agent(agent)["life"] == 1
    live.ctl("rm", "-f", agent, check=0)


def test_what_ran_when_a_kernel_died_runs_again(make_kernel, scripts, tmp_path):
    live = make_kernel()
    (tmp_path / "kept").mkdir()
    (tmp_path / "moved").mkdir()
    kept = live.spawn("--restart", "always", "--env", "A=b", "--bind-ro", f"{tmp_path}/kept:/data", scripts(
        "import os, time\nprint('hello', os.environ['A'], os.listdir('/data'), flush=True)\ntime.sleep(1000)\n"))
    moved = live.spawn("--restart", "on-failure", "--bind-ro", f"{tmp_path}/moved:/data", *SLEEP)
    plain = live.spawn(*SLEEP)
    ended = live.spawn("--restart", "always", *SLEEP)
    live.ctl("kill", ended, check=0)
    live.ctl("wait", ended)
    live.until_logged(kept, "hello")
    (tmp_path / "moved").rename(tmp_path / "old")
    (tmp_path / "moved").mkdir()
    live.process.send_signal(signal.SIGKILL)
    live.process.wait()
    live.start()
    assert "restarts: 1 of 1 agents restarted" in live.log(live.begun)
    row = live.until_state(kept, "running")
    assert (row["life"], row["restart"]) == (2, "always")
    live.until_logged(kept, "hello b []\nhello b []\n")
    assert live.agent(moved)["next"] == f"not restarted: {tmp_path}/moved is not what was bound"
    assert [live.agent(agent)["state"] for agent in (moved, plain, ended)] == ["dead"] * 3
    live.ctl("shutdown", check=0)
    live.process.wait()
    live.start()
    assert live.until_state(kept, "running")["life"] == 3
    assert "restarts: 1 of 1" in live.log(live.begun)
    assert json.loads(live.ctl("inspect", kept, "--json").stdout)["environment"] == ["A"]
