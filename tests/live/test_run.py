"""agentctl run as people use it: with no kernel there, with Ctrl-C, and its exit statuses."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest
from emulation import WAIT_S

from agentix.control import Client
from agentix_syscalls.errors import CallError

BIN = os.path.dirname(sys.executable)


@pytest.fixture
def prefix():
    folder = tempfile.mkdtemp(prefix="agentix-test-")
    yield folder
    with open("/proc/self/mountinfo") as file:
        assert folder not in file.read()
    shutil.rmtree(folder)


def agentctl(*args, **more):
    return subprocess.run([f"{BIN}/agentctl", *args], capture_output=True, text=True, timeout=2 * WAIT_S, check=False,
                          **more)


def test_without_a_kernel_a_private_one_is_started(prefix):
    done = agentctl("--prefix", prefix, "run", "--", "/bin/sh", "-c", "echo hi; exit 3")
    assert (done.returncode, done.stdout) == (3, "hi\n")
    told = done.stderr.splitlines()
    assert "starting a private one under" in told[0]
    assert "kernel ready after" in told[1]
    assert f"its record stays under {prefix}" in told[-1]
    assert not os.path.exists(f"{prefix}/run/control.sock")
    assert os.listdir(f"{prefix}/state/journal")
    assert agentctl("--prefix", prefix, "ps").returncode == 1


def test_a_private_kernel_after_ctrl_c(prefix):
    command = [f"{BIN}/agentctl", "--prefix", prefix, "run", "--", "/bin/sh", "-c", "echo up; exec sleep 60"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout.readline() == "up\n"
        run.send_signal(signal.SIGINT)
        assert run.wait(WAIT_S) == 130
        assert "record stays" in run.stderr.read()


def test_without_a_kernel_others_than_root_are_told(prefix):
    os.chmod(prefix, 0o755)
    done = agentctl("--prefix", prefix, "run", "--", "/bin/true", user=4242, group=4242, extra_groups=[])
    assert done.returncode == 125
    assert "only root can start one" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_is_sigint(kernel):
    with kernel.begin("run", "--", "/bin/bash", "-c",
                      "trap 'echo INT; exit 7' INT; echo ready; while :; do sleep 0.05; done") as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGINT)
        assert run.wait(WAIT_S) == 7
        assert run.stdout.read() == "INT\n"


def test_ctrl_c_twice_kills(kernel):
    with kernel.begin("run", "--name", "deaf", "--", "/bin/bash", "-c",
                      "trap 'echo again' INT; trap '' TERM; echo ready; while :; do sleep 0.05; done") as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGINT)
        assert run.stdout.readline() == "again\n"
        run.send_signal(signal.SIGINT)
        assert run.wait(WAIT_S) == 137
    assert kernel.agent(kernel.json("inspect", "deaf")["id"])["why"] == "killed"


def test_sigterm_is_passed_on(kernel):
    with kernel.begin("run", "--", "/bin/sh", "-c", "echo ready; exec sleep 60") as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGTERM)
        assert run.wait(WAIT_S) == 143


def test_nobody_reads_on(kernel):
    """As SIGPIPE would: the agent is asked to end."""
    with kernel.begin("run", "--name", "chatter", "--", "/bin/bash", "-c",
                      "while :; do echo line; sleep 0.01; done") as run:
        assert run.stdout.readline() == "line\n"
        run.stdout.close()
        run.wait(WAIT_S)
    kernel.until_state(kernel.json("inspect", "chatter")["id"], "dead")


BAD = [
    ((), 2, "What to run is missing"), (("--memory", "lots"), 2, "lots"), (("--name", "1st"), 2, "'1st'"),
    (("--mode", "mild"), 2, "strict, enforce, audit"), (("--deny", "NOPE"), 2, "no system call is named"),
    (("--pids", "1"), 2, "from 3"), (("--cwd", "here"), 2, "absolute"), (("--timeout", "-3"), 2, "-3"),
    (("--deny", "OPEN:../x"), 2, "must start with '/'"), (("--nope",), 2, "No such option"),
    (("--memory", "1"), 2, "--memory: "),
    (("--env", "NOT_SET_ANYWHERE"), 2, "NAME=VALUE"),
]


@pytest.mark.parametrize(("flags", "status", "told"), BAD)
def test_bad_options(kernel, flags, status, told):
    done = kernel.ctl("run", *flags, *(("--", "true") if flags else ()))
    assert told in done.stderr, done.stderr
    assert done.returncode == status
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("args", "status", "told"), [
    (("run", "--", "sh", "-c", "x" * 131_000, "x" * 9_999), 125, "over"), (("wait", "99999"), 125, "no such agent"),
    (("rm", "99999"), 1, "no such agent"), (("logs", "nobody"), 1, "'nobody'"), (("stop", "99999"), 1, "no such agent"),
    (("verify", "99999"), 1, "no such agent"), (("trace", "99999"), 1, "no such agent"),
    (("inspect", "9" * 99), 1, "no such agent"), (("logs", ""), 1, "named by its id"),
    (("rm", "x" * 131_000), 1, "no such agent"), (("kill", "\x1b[31m\n"), 1, r"'\x1b[31m\n'"),
    (("run", "--memory", "9" * 131_000, "x"), 2, "..."),
])
def test_one_clear_error(kernel, args, status, told):
    done = kernel.ctl(*args)
    assert told in done.stderr, done.stderr
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert (done.stdout, done.stderr.count("\n"), len(done.stderr) < 1500) == ("", 1, True)


def test_the_beginning_of_a_name(kernel):
    names = [f"herd-{letter}" for letter in "abcdefghij"]
    agents = [kernel.spawn("--name", name, "--", "/bin/sleep", "60") for name in ("herd", *names)]
    try:
        assert kernel.json("inspect", "herd")["id"] == agents[0]
        assert kernel.json("inspect", "herd-c")["name"] == "herd-c"
        kernel.ctl("rm", "-f", agents[0], check=0)
        several = kernel.ctl("kill", "herd", check=1).stderr
        assert "'herd': 10 names begin so: herd-a, herd-b, " in several
        assert "herd-h and 2 more; write more of the name" in several
        kernel.ctl("rm", "-f", *names[1:], check=0)
        assert kernel.json("inspect", "her")["id"] == agents[1]
        with Client(f"{kernel.prefix}/run/control.sock") as client, pytest.raises(CallError) as caught:
            client.call("inspect", "her" + "\0" * (1 << 20))
        assert (caught.value.number, len(caught.value.message) < 500) == (errno.ESRCH, True)
    finally:
        kernel.ctl("rm", "-f", *agents)


def test_waiting_with_a_limit(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "60")
    late = kernel.ctl("wait", "--timeout", "0.1", agent, check=124)
    assert "still running" in late.stderr
    kernel.ctl("rm", "-f", agent, check=0)


def test_listings_as_json(kernel):
    assert {row["name"] for row in kernel.json("signals")} >= {"SIGPOLICY", "SIGTERM"}
    assert {row["name"] for row in kernel.json("syscalls")} >= {"OPEN", "SPAWN"}
    doctor = kernel.json("doctor")
    assert all(row["state"] == "on" or row["remedy"] for row in doctor)
    info = kernel.json("info")
    assert (info["prefix"], info["faults"], info["pid"]) == (kernel.prefix, 0, kernel.process.pid)


def test_doctor_looks_the_same_without_a_kernel(kernel, tmp_path):
    alone = kernel.ctl("doctor", "--prefix", str(tmp_path), check=0).stdout.splitlines()
    asked = kernel.ctl("doctor", check=0).stdout.splitlines()
    assert [line.split()[:3] for line in alone] == [line.split()[:3] for line in asked]


TWIG = """
import time
from agentix import libc
libc.spawn(exec="/bin/sleep", args=["60"], name="twig")
time.sleep(60)
"""


def test_ps_of_a_family(kernel, scripts):
    parent = kernel.spawn("--name", "stem", "--spawn-max", "1", scripts(TWIG))
    child = kernel.until(lambda: [row["id"] for row in kernel.json("ps") if row["name"] == "twig"])[0]
    assert kernel.ctl("ps", "-q", "--filter", f"parent={parent}", check=0).stdout == f"{child}\n"
    try:
        tree = kernel.ctl("ps", "--forest", "--format", "parent,name,state,memory,pids", "--no-header", check=0).stdout
        lines = tree.splitlines()
        at = next(number for number, line in enumerate(lines) if " stem " in line)
        assert lines[at + 1].split()[:4] == [str(parent), r"\_", "twig", "running"]
        assert all(line.split()[-2] != "0" and line.split()[-1] != "0" for line in lines[at:at + 2])
    finally:
        kernel.ctl("rm", "-f", parent)
        kernel.until(lambda: kernel.ctl("rm", "-f", child).returncode == 0)
