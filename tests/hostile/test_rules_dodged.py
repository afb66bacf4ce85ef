"""Ways around a rule, a stop and an end: by another call, another door, another moment."""

import errno
import os

import pytest

from agentix_syscalls import calls, signals

W = calls.O_WRONLY | calls.O_CREAT


def put(attacker, path: bytes, data: bytes = b"x") -> None:
    fd = attacker.done("OPEN", path, W)
    attacker.done("WRITE", fd, data)
    attacker.done("CLOSE", fd)


@pytest.mark.parametrize("call", ["READ", "WRITE", "OPEN", "UNLINK", "TRUNCATE", "MKDIR", "STAT"])
def test_nothing_is_moved_out_of_or_into_a_folder_that_a_rule_names(attack, call):
    _, attacker = attack("--deny", f"{call}:/state/held")
    put(attacker, b"state/free")
    if call != "MKDIR":
        attacker.done("MKDIR", b"state/held")
    else:
        assert attacker.call("MKDIR", b"state/held")[1] == errno.EPERM
    if call not in {"WRITE", "OPEN", "MKDIR"}:
        put(attacker, b"state/held/file")
        assert attacker.call("RENAME", b"state/held/file", b"state/out")[1] == errno.EPERM
    inside = b"state/held" if call == "MKDIR" else b"state/held/in"
    assert attacker.call("RENAME", b"state/free", inside)[1] == errno.EPERM


def test_nothing_is_moved_or_linked_out_through_the_mount(kernel, scripts):
    agent = kernel.spawn("--deny", "TRUNCATE:/state/held", "--deny", "UNLINK:/state/held", scripts("""
import errno, os
os.chdir("/agent/self/state")
os.mkdir("held")
open("held/file", "x").write("kept")
for act in (lambda: os.rename("held/file", "out"), lambda: os.link("held/file", "alias"),
            lambda: os.truncate("held/file", 0), lambda: os.unlink("held/file")):
    try:
        act()
        print("done", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
print("end", flush=True)
"""))
    assert kernel.until_logged(agent, "end").split() == ["EPERM"] * 4 + ["end"]


def test_truncate_is_denied_to_an_open_as_well(attack):
    _, attacker = attack("--deny", "TRUNCATE:/state/kept")
    attacker.done("OPEN", b"state/kept", W | calls.O_TRUNC)  # a new file: nothing is cut
    put(attacker, b"state/kept")
    assert attacker.call("OPEN", b"state/kept", calls.O_WRONLY | calls.O_TRUNC)[1] == errno.EPERM
    assert attacker.call("OPEN", b"state/../state//kept", calls.O_RDONLY | calls.O_TRUNC)[1] == errno.EPERM
    assert attacker.done("STAT", b"state/kept")[5] == 1


def test_to_cut_a_file_is_to_write_it_at_both_doors(kernel, scripts):
    agent = kernel.spawn("--deny", "WRITE:/state/kept", scripts("""
import os, time
from agentix import libc
path = "/agent/self/state/kept"
print("up", flush=True)
while not os.path.exists(path):
    time.sleep(0.01)
for truncate in (lambda: os.truncate(path, 0), lambda: libc.truncate("state/kept", 0)):
    try:
        truncate()
    except PermissionError as error:
        print("refused", flush=True)
print("end", flush=True)
"""))
    kernel.until_logged(agent, "up")
    kept, uid = kernel.tree(agent, "state/kept"), kernel.agent(agent)["uid"]
    with open(f"{kept}.new", "w") as file:
        os.fchown(file.fileno(), uid, uid)
        file.write("kept")
    os.rename(f"{kept}.new", kept)
    assert kernel.until_logged(agent, "end").split() == ["up", "refused", "refused", "end"]
    assert os.path.getsize(kept) == 4


def test_stat_of_a_link_is_judged_by_the_links_own_path(kernel, attack):
    agent, attacker = attack("--deny", "STAT:/state/link")
    os.symlink("other", kernel.tree(agent, "state/link"))
    assert attacker.call("STAT", b"state/link", calls.AT_SYMLINK_NOFOLLOW)[1] == errno.EPERM


def test_a_rule_about_signals_holds_for_proc_signal(attack):
    _, attacker = attack("--deny", "SIGNAL")
    me = attacker.done("GETPID")[0]
    assert attacker.call("SIGNAL", me, signals.SIGUSR2)[1] == errno.EPERM
    fd = attacker.done("OPEN", b"proc/signal", calls.O_WRONLY)
    assert attacker.call("WRITE", fd, b"USR2")[1] == errno.EPERM


def test_a_masked_stop_cannot_be_taken_from_the_queue(kernel, attack):
    agent, attacker = attack()
    stop = signals.bit(signals.SIGSTOP)
    attacker.done("SIGPROCMASK", calls.SIG_BLOCK, stop)
    kernel.ctl("kill", "-STOP", agent, check=0)
    assert attacker.call("SIGWAIT", stop, 0)[1] == errno.EAGAIN
    assert attacker.call("SIGWAIT", stop, 0)[1] == errno.EAGAIN
    kernel.until_state(agent, "stopped")


def test_nobody_continues_itself(kernel, attack):
    agent, attacker = attack()
    attacker.done("SIGPROCMASK", calls.SIG_BLOCK, signals.bit(signals.SIGSTOP))
    kernel.ctl("kill", "-STOP", agent, check=0)
    attacker.done("SIGNAL", agent, signals.SIGCONT)
    kernel.until_state(agent, "stopped")


def test_a_flood_of_writes_to_proc_signal_does_not_undo_a_stop(kernel, scripts):
    agent = kernel.spawn(scripts("""
import os, threading
fd = os.open("/agent/self/proc/signal", os.O_WRONLY)
def flood():
    while True:
        os.write(fd, b"CONT")
for _ in range(4):
    threading.Thread(target=flood).start()
print("up", flush=True)
"""))
    kernel.until_logged(agent, "up")
    for _ in range(3):
        kernel.ctl("kill", "-STOP", agent, check=0)
        kernel.until_state(agent, "stopped")
        cpu = [kernel.agent(agent)["cpu_us"] for _ in range(2)]
        assert cpu[0] == cpu[1]
        kernel.ctl("kill", "-CONT", agent, check=0)
        kernel.until_state(agent, "running")
    kernel.ctl("kill", "-9", agent, check=0)


def test_a_child_that_was_asked_for_in_the_same_breath_does_not_outlive_sigpolicy(kernel, attack, scripts):
    agent, attacker = attack("--mode", "strict", "--deny", "UNLINK", "--spawn-max", 8)
    spawns = [attacker.frame("SPAWN", "exec", ["/bin/sleep", "300"]) for _ in range(4)]
    attacker.send(*spawns, attacker.frame("UNLINK", b"state/x"))
    assert kernel.until_state(agent, "dead")["why"] == "policy"
    marker = kernel.spawn(scripts("print('after')"))  # what was queued before it has come to pass
    kernel.until_state(marker, "dead")
    kernel.until(lambda: [row for row in kernel.json("ps") if "sleep" in str(row["argv"])] == [])


@pytest.mark.parametrize("policy", ["audit", "standard", ["mine.yaml", b"version: 1\nname: mine\nmode: audit\n"]])
def test_nobody_chooses_a_policy_for_its_children(kernel, attack, policy):
    agent, attacker = attack("--spawn-max", 3)
    assert attacker.call("SPAWN", "exec", ["/bin/sleep", "60"], {"policy": policy})[1] == errno.EPERM
    assert kernel.json("inspect", agent)["children"] == []


def test_spawn_max_bounds_the_whole_family(kernel, attack):
    """Whoever of the family spawns, it counts against what the first one may spawn."""
    _, attacker = attack("--spawn-max", 3)
    sleep, another = ("exec", ["/bin/sleep", "60"]), type(attacker)
    assert attacker.call("SPAWN", *sleep, {"spawn_max": 4})[1] == errno.EPERM
    child = another(kernel.connect(attacker.done("SPAWN", *sleep, {"spawn_max": 3})))
    grandchild = another(kernel.connect(child.done("SPAWN", *sleep, {"spawn_max": 3})))
    grandchild.done("SPAWN", *sleep, {"spawn_max": 3})
    for one in (grandchild, child, attacker):
        assert one.call("SPAWN", *sleep)[1] == errno.EDQUOT
    grandchild.sock.close()
    child.sock.close()


def test_a_tool_does_what_its_agent_may_not_and_both_end(kernel, attack):
    agent, attacker = attack("--mode", "strict")
    attacker.send(attacker.frame("EXEC", "shell.execute", {"command": "unshare -U true; sleep 60"}))
    assert kernel.until_state(agent, "dead")["why"] == "policy"


def test_nothing_is_read_or_written_through_the_mount_after_the_violation(kernel, scripts):
    """In strict mode the other threads of the agent hold open files; their next operation is refused or never ends."""
    agent = kernel.spawn("--mode", "strict", "--deny", "UNLINK", scripts("""
import os, threading
path = "/agent/self/state/count"
fd = os.open(path, os.O_RDWR | os.O_CREAT)
def spin():
    for number in range(1 << 30):
        os.pwrite(fd, b"%020d" % number, 0)
threading.Thread(target=spin).start()
while os.pread(fd, 20, 0) < b"%020d" % 1000:
    pass
os.unlink(path)
"""))
    assert kernel.until_state(agent, "dead")["why"] == "policy"
    denial = next(row for row in kernel.record(agent) if row["kind"] == "denial")
    with open(kernel.tree(agent, "state/count"), "rb") as file:
        assert int(file.read()) > 1000
    changed = os.stat(kernel.tree(agent, "state/count")).st_mtime_ns
    assert changed <= denial["wall_ns"] + 1_000_000
