"""Agents that spawn agents: waiting, orphans, zombies, limits that only shrink, and ends that take all along."""

import json

import pytest

PARENT = """
import json, os, sys, time
from agentix import libc
def errno_of(what, *args, **more):
    try:
        return what(*args, **more)
    except OSError as error:
        return [error.errno, error.strerror, error.reason.rule]
"""


def run(kernel, scripts, body, *flags, status=0):
    """Run a parent's script; its last line of output as JSON."""
    done = kernel.ctl("run", *flags, scripts(PARENT + body), check=status)
    return json.loads(done.stdout.splitlines()[-1])


def test_wait_tells_how_each_child_ended(kernel, scripts):
    told = run(kernel, scripts, """
ways = {"exit": ("exit 3", {}), "signal": ("kill -SEGV $$", {}), "timeout": ("sleep 60", {"timeout": 0.2}),
        "policy": ("mkdir ../../state/x", {"mode": "strict", "deny": ["MKDIR"]})}
found = {}
for name, (command, more) in ways.items():
    child = libc.spawn(exec="/bin/bash", args=["-c", command], **more)
    ended = libc.waitpid(child)
    assert ended.agent == child
    found[name] = ended[1:]
killed = libc.spawn(exec="/bin/sleep", args=["60"])
assert libc.waitpid(killed, libc.WNOHANG) is None
libc.kill(killed, libc.SIGKILL)
found["killed"] = libc.wait()[1:]
print(json.dumps(found))
""", "--spawn-max", "9")
    assert told == {"exit": [3, None, "exit"], "signal": [None, "SIGSEGV", "signal"],
                    "timeout": [None, "SIGKILL", "timeout"], "policy": [None, "SIGPOLICY", "policy"],
                    "killed": [None, "SIGKILL", "killed"]}


def test_a_zombie_until_it_is_waited_for(kernel, scripts):
    parent = kernel.spawn("--spawn-max", "1", scripts(PARENT + """
libc.sigprocmask(libc.SIG_BLOCK, [libc.SIGUSR1])
child = libc.spawn(exec="/bin/sh", args=["-c", "exit 5"])
print(child, flush=True)
libc.sigwait([libc.SIGUSR1])
print(libc.waitpid(child).code, errno_of(libc.waitpid, child)[0], flush=True)
libc.sigwait([libc.SIGUSR1])
"""))
    child = int(kernel.until_logged(parent, "\n"))
    row = kernel.until_state(child, "zombie")
    assert (row["parent"], row["code"], row["processes"]) == (parent, 5, 0)
    assert "its parent has not waited" in kernel.ctl("rm", child, check=1).stderr
    assert child in [row["id"] for row in kernel.json("ps")]
    with open(kernel.tree(parent, "proc/status")) as file:
        assert f"Children:\t{child}\n" in file.read()
    kernel.ctl("kill", "-USR1", parent, check=0)
    kernel.until_logged(parent, "5 10\n")
    assert kernel.agent(child)["state"] == "dead"
    kernel.ctl("rm", child, check=0)
    kernel.ctl("rm", "-f", parent, check=0)


def test_sigchld_tells_of_ends_stops_and_continues(kernel, scripts):
    told = run(kernel, scripts, """
heard = []
libc.sigaction(libc.SIGCHLD, lambda signal, info: heard.append([info.sender, info.why]))
child = libc.spawn(exec="/bin/sleep", args=["60"])
for number, count in ((libc.SIGSTOP, 1), (libc.SIGCONT, 2), (libc.SIGKILL, 3)):
    libc.kill(child, number)
    while len(heard) < count:
        time.sleep(0.005)
assert all(sender == child for sender, _ in heard)
print(json.dumps([why.partition(": ")[2] for _, why in heard]))
""", "--spawn-max", "1")
    assert told[:2] == ["stopped", "running"]
    assert len(told) == 3


def test_orphans_live_on(kernel, scripts):
    child = run(kernel, scripts, """
print(json.dumps(libc.spawn(exec="/bin/sleep", args=["600"])))
""", "--spawn-max", "1")
    row = kernel.agent(child)
    assert (row["state"], row["parent"]) == ("running", 0)
    kernel.ctl("kill", "-9", child, check=0)
    kernel.ctl("wait", child, check=137)
    assert kernel.agent(child)["state"] == "dead"


def test_a_child_has_at_most_what_its_parent_has(kernel, scripts):
    told = run(kernel, scripts, """
child = libc.spawn(exec="/bin/true")
print(json.dumps({
    "mode": errno_of(libc.spawn, exec="/bin/true", mode="audit"),
    "spawn_max": errno_of(libc.spawn, exec="/bin/true", spawn_max=3),
    "binds": errno_of(libc.syscall, libc.SYS_SPAWN, "exec", ["/bin/true"], {"binds": []}),
    "last": [libc.spawn(exec="/bin/true"), errno_of(libc.spawn, exec="/bin/true")],
}))
""", "--spawn-max", "2")
    assert [told[key][0] for key in ("mode", "spawn_max", "binds")] == [1, 1, 1]
    assert "softer" in told["mode"][1]
    assert "a child has at most" in told["spawn_max"][2]
    assert told["last"][1][::2] == [122, "command line: allow capability://agent/*?action=spawn&max=2"]


def test_limits_of_a_child(kernel, scripts):
    limits = ("--memory", "128M", "--cpus", "0.5", "--pids", "20", "--deny", "MKDIR")
    parent = kernel.spawn("--spawn-max", "2", *limits, scripts(PARENT + """
child = libc.spawn(exec="/bin/sleep", args=["60"], memory=1 << 40, cpus=64, pids=4000, timeout=9000, deny=["UNLINK"])
print(child, flush=True)
libc.waitpid(child)
"""))
    child = kernel.json("inspect", int(kernel.until_logged(parent, "\n")))
    assert child["limits"] == {"memory_bytes": 128 << 20, "cpus": 0.5, "pids": 20, "timeout_s": 9000}
    assert child["deny"] == ["MKDIR", "UNLINK"]
    assert (child["spawn_max"], child["parent"]) == (0, parent)
    told = kernel.json("verify", child["id"])
    assert told["ok"], told
    kernel.ctl("kill", "-9", "-g", parent, check=0)
    kernel.ctl("wait", parent, child["id"], check=137)


@pytest.mark.parametrize(("how", "survives"), [(("-9",), True), (("-9", "-g"), False), (("-s", "POLICY"), False)])
def test_who_falls_with_a_parent(kernel, scripts, how, survives):
    parent = kernel.spawn("--spawn-max", "2", scripts(PARENT + """
child = libc.spawn(sys.argv[0], spawn_max=1) if len(sys.argv) < 2 and libc.getppid() == 0 else None
child = child or libc.spawn(exec="/bin/sleep", args=["600"])
print(child, flush=True)
libc.waitpid(child)
"""))
    child = int(kernel.until_logged(parent, "\n"))
    grandchild = int(kernel.until_logged(child, "\n"))
    kernel.ctl("kill", *how, parent, check=0)
    kernel.ctl("wait", parent, check=137)
    if survives:
        assert [kernel.agent(agent)["state"] for agent in (child, grandchild)] == ["running", "running"]
        kernel.ctl("kill", "-9", "-g", child, check=0)
    kernel.ctl("wait", child, grandchild, check=137)


def test_a_violation_takes_the_family_along(kernel, scripts):
    parent = kernel.spawn("--spawn-max", "1", "--mode", "strict", "--deny", "MKDIR:/state", scripts(PARENT + """
print(libc.spawn(exec="/bin/sleep", args=["600"]), flush=True)
libc.mkdir("state/x")
print("survived", flush=True)
"""))
    kernel.ctl("wait", parent, check=137)
    child = int(kernel.ctl("logs", parent).stdout)
    kernel.ctl("wait", child, check=137)
    assert kernel.agent(child)["why"] == "policy"


def test_signals_to_strangers_are_refused_and_recorded(kernel, scripts):
    stranger = kernel.spawn("--", "/bin/sleep", "600")
    told = run(kernel, scripts, f"""
print(json.dumps([errno_of(libc.kill, {stranger}, libc.SIGKILL), errno_of(libc.kill, libc.getpid(), libc.SIGPOLICY),
                  errno_of(libc.kill, 1 << 40, libc.SIGTERM), libc.getrusage().denials, libc.getpid()]))
""")
    assert [row[0] for row in told[:3]] == [1, 1, 3]
    assert "itself and own children" in told[0][2]
    assert told[3] == 2
    assert [denial["data"]["enforcer"] for denial in kernel.record(told[4], "denial")] == ["signals"] * 2
    assert kernel.agent(stranger)["state"] == "running"
    kernel.ctl("rm", "-f", stranger, check=0)


def test_a_child_has_no_more_time_than_its_parent_has_left(kernel, scripts):
    limits = run(kernel, scripts, """
time.sleep(0.2)
child = libc.spawn(exec="/bin/sleep", args=["60"], timeout=9000)
print(json.dumps(child))
""", "--spawn-max", "1", "--timeout", "30")
    left = kernel.json("inspect", limits)["limits"]["timeout_s"]
    assert 20 < left < 29.9
