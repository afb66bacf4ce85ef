"""The mounted tree: from the host, from the agent, the same truth; and rules that no path dodges."""

import json
import os
import subprocess

import pytest
from emulation import WAIT_S

PRELUDE = """
import errno, json, os, sys, time
from agentix import libc
me = "/agent/self/"
def told(what, *args, **more):
    try:
        what(*args, **more)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
"""


@pytest.fixture(scope="module")
def sleeper(kernel):
    agent = kernel.spawn("--name", "dweller", "--", "/bin/sh", "-c", "echo out; echo err >&2; sleep 600")
    kernel.until_logged(agent, "out")
    yield agent
    kernel.ctl("rm", "-f", agent, check=0)


def shell(*words, **more):
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(kernel, scripts, body, *flags):
    done = kernel.ctl("run", *flags, scripts(PRELUDE + body), check=0)
    return json.loads(done.stdout.splitlines()[-1])


def test_ls_and_cat(kernel, sleeper):
    listing = shell("ls", "-lR", kernel.tree(sleeper))
    for word in ("working", "episodic", "state", "policy", "ipc", "proc"):
        assert word in listing, word
    for name in ("status", "limits", "usage", "cmdline", "environ", "fd", "signal", "log", "trace", "wait"):
        assert name in listing, name
    status = dict(line.split(":\t", 1) for line in shell("cat", kernel.tree(sleeper, "proc/status")).splitlines())
    row = kernel.agent(sleeper)
    assert (status["Name"], status["State"], status["Uid"]) == ("dweller", "running", str(row["uid"]))
    with open(f"/proc/{status['Pid']}/cmdline") as file:
        assert file.read() == shell("cat", kernel.tree(sleeper, "proc/cmdline"))
    assert "MemoryBytes:\t536870912" in shell("cat", kernel.tree(sleeper, "proc/limits"))
    assert "Processes:\t" in shell("cat", kernel.tree(sleeper, "proc/usage"))
    assert "Mode:\tenforce" in shell("cat", kernel.tree(sleeper, "policy/effective"))
    assert "spawn" in shell("cat", kernel.tree(sleeper, "proc/trace"))
    assert os.stat(kernel.tree(sleeper)).st_uid == row["uid"]


def test_by_name(kernel, sleeper):
    link = f"{kernel.prefix}/agent/by-name/dweller"
    assert os.readlink(link) == f"../{sleeper}"
    assert "Name:\tdweller" in shell("cat", f"{link}/proc/status")


def test_a_note_both_ways(kernel, scripts):
    agent = kernel.spawn(scripts(PRELUDE + """
fd = libc.open("mem/working/note", libc.O_RDWR | libc.O_CREAT)
print("ready", flush=True)
while not (got := libc.pread(fd, 99, 0)):
    time.sleep(0.005)
print("heard", got.decode().strip(), open(me + "mem/working/note").read().strip(), flush=True)
libc.pwrite(fd, b"from libc\\n", 0)
print("wrote", flush=True)
time.sleep(60)
"""))
    kernel.until_logged(agent, "ready")
    shell("sh", "-c", f"echo hi > {kernel.tree(agent, 'mem/working/note')}")
    assert "heard hi hi" in kernel.until_logged(agent, "wrote")
    assert shell("cat", kernel.tree(agent, "mem/working/note")) == "from libc\n"
    kernel.ctl("rm", "-f", agent, check=0)


def test_tail_follows_the_log(kernel, tmp_path):
    agent = kernel.spawn("--", "/bin/bash", "-c", "echo first; until [ -e /agent/self/state/go ]; do sleep 0.02; done; "
                         "echo second; sleep 60")
    kernel.until_logged(agent, "first")
    path = kernel.tree(agent, "proc/log")
    assert os.stat(path).st_size == 6
    tail = subprocess.Popen(["tail", "-s", "0.05", "-f", path], stdout=subprocess.PIPE, text=True)
    try:
        assert tail.stdout.readline() == "first\n"
        with open(kernel.tree(agent, "state/go"), "w"):
            pass
        assert tail.stdout.readline() == "second\n"
    finally:
        tail.kill()
        tail.wait()
        tail.stdout.close()
    kernel.ctl("rm", "-f", agent, check=0)


def test_the_agent_sees_its_own_tree_and_nothing_else(kernel, scripts, sleeper):
    found = ask(kernel, scripts, f"""
mine = os.environ["AGENTIX_ID"]
print(json.dumps([
    sorted(os.listdir("/agent")) == sorted([mine, "self"]),
    told(os.listdir, "/agent/{sleeper}"), told(os.stat, "/agent/by-name/dweller"),
    told(libc.listdir, "/agent/{sleeper}"), told(libc.listdir, "/agent/self/../{sleeper}/state"),
    told(libc.open, "../{sleeper}/proc/status"), told(libc.stat, "/agent"),
    sorted(os.listdir("/agent/self")) == sorted(libc.listdir())]))
""")
    assert found[0] is True
    assert found[1:3] == ["ENOENT", "ENOENT"]
    assert set(found[3:7]) <= {"EACCES", "ENOENT"}
    assert found[7] is True


def test_another_uid_of_the_host_sees_nothing(kernel, sleeper):
    os.chmod(kernel.prefix, 0o755)
    for path in (f"{kernel.prefix}/agent", kernel.tree(sleeper), kernel.tree(sleeper, "state")):
        done = subprocess.run(["ls", path], capture_output=True, user=4242, group=4242, extra_groups=[], check=False)
        assert (done.returncode, done.stdout) == (2, b"")


def test_episodic_memory_only_grows(kernel, scripts):
    agent = kernel.spawn(scripts(PRELUDE + """
path = "mem/episodic/log"
fd = libc.open(path, libc.O_WRONLY | libc.O_CREAT | libc.O_APPEND)
libc.write(fd, b"one\\n")
with open(me + path, "a") as file:
    file.write("two\\n")
libc.pwrite(fd, b"three\\n", 0)
os.symlink(me + path, me + "mem/working/link")
changes = [told(libc.open, path, libc.O_WRONLY), told(libc.truncate, path, 0), told(libc.unlink, path),
           told(libc.rename, path, "mem/episodic/x"), told(open, me + path, "w"), told(open, me + path, "r+"),
           told(os.truncate, me + path, 0), told(os.unlink, me + path), told(os.utime, me + path, (0, 0)),
           told(os.rename, me + path, me + "mem/episodic/x"), told(os.chmod, me + path, 0o777),
           told(os.link, me + path, me + "mem/episodic/alias"), told(open, me + "mem/working/link", "w"),
           told(os.rmdir, me + "mem/episodic")]
print(json.dumps(changes))
"""))
    kernel.ctl("wait", agent, check=0)
    assert set(json.loads(kernel.ctl("logs", agent).stdout)) == {"EPERM"}
    assert shell("cat", kernel.tree(agent, "mem/episodic/log")) == "one\ntwo\nthree\n"


def test_policy_cannot_be_changed(kernel, scripts):
    found = ask(kernel, scripts, """
print(json.dumps([told(open, me + "policy/effective", "w"), told(libc.open, "policy/effective", libc.O_WRONLY),
                  told(os.unlink, me + "policy/effective"), told(os.mkdir, me + "policy/x"),
                  told(os.chmod, me + "policy", 0o777),
                  told(os.rename, me + "policy", me + "p"), told(libc.mkdir, "proc/x"), told(os.mkdir, me + "x")]))
""")
    assert set(found) <= {"EROFS", "EACCES", "EPERM"}


DODGES = """
tree = os.environ["AGENTIX_TREE"]
os.mkdir(me + "state/secret")
os.mkdir(me + "state/way")
os.symlink("secret", me + "state/link")
os.symlink(tree + "/state/secret", me + "mem/working/far")
paths = ["state/secret/f", "state/./secret//f", "state/way/../secret/f", "state/link/f", "mem/working/far/f",
         "/agent/self/state/secret/f", tree + "/state/secret/f", "mem/../state/secret/f"]
calls = [told(libc.open, path, libc.O_WRONLY | libc.O_CREAT) for path in paths]
mount = [told(os.open, path if path[0] == "/" else me + path, os.O_WRONLY | os.O_CREAT) for path in paths]
libc.open("state/slow", libc.O_WRONLY | libc.O_CREAT)
renames = [told(os.rename, me + "state/slow", me + "state/secret/slow"),
           told(libc.rename, "state/slow", "state/secret/s"), told(os.rename, me + "state/secret", me + "state/open")]
print(json.dumps({"calls": calls, "mount": mount, "renames": renames,
                  "check": libc.checkpolicy("WRITE", "state/link/f")[0], "id": libc.getpid()}))
"""


def test_a_rule_holds_at_both_doors_and_by_every_path(kernel, scripts):
    found = ask(kernel, scripts, DODGES, "--deny", "WRITE:/state/secret")
    assert set(found["calls"]) == {"EPERM"}
    assert set(found["mount"]) == {"EPERM"}
    assert set(found["renames"]) == {"EPERM"}
    assert found["check"] is False
    denials = kernel.record(found["id"], "denial")
    assert {row["data"]["enforcer"] for row in denials} == {"dispatch", "mount"}
    assert {row["rule"] for row in denials} == {"deny WRITE:/state/secret"}
    assert kernel.agent(found["id"])["denials"] == len(denials) >= 17
    with open(kernel.tree(found["id"], "policy/last-denial")) as file:
        assert "Rule:\tdeny WRITE:/state/secret" in file.read()


@pytest.mark.parametrize("call", ["UNLINK", "RENAME", "MKDIR", "TRUNCATE"])
def test_each_rule_at_both_doors(kernel, scripts, call):
    deeds = {"UNLINK": ("libc.unlink, 'state/f'", "os.unlink, me + 'state/f'"),
             "RENAME": ("libc.rename, 'state/f', 'state/g'", "os.rename, me + 'state/f', me + 'state/g'"),
             "MKDIR": ("libc.mkdir, 'state/x'", "os.mkdir, me + 'state/x'"),
             "TRUNCATE": ("libc.truncate, 'state/f', 0", "os.truncate, me + 'state/f', 0")}[call]
    body = f"libc.open('state/f', libc.O_CREAT)\nprint(json.dumps([told({deeds[0]}), told({deeds[1]})]))\n"
    found = ask(kernel, scripts, body, "--deny", f"{call}:/state")
    assert found == ["EPERM", "EPERM"]


def test_audit_allows_and_records(kernel, scripts):
    body = "print(json.dumps([told(libc.mkdir, 'state/x'), told(os.mkdir, me + 'state/y'), libc.getpid()]))\n"
    found = ask(kernel, scripts, body, "--mode", "audit", "--deny", "MKDIR")
    assert found[:2] == ["ok", "ok"]
    assert [row["verdict"] for row in kernel.record(found[2], "denial")] == ["audited", "audited"]


def test_strict_kills_at_the_mount_too(kernel):
    agent = kernel.spawn("--mode", "strict", "--deny", "UNLINK:/state", "--", "/bin/bash", "-c",
                         "echo x > /agent/self/state/f; rm /agent/self/state/f; echo survived")
    kernel.ctl("wait", agent, check=137)
    assert kernel.ctl("logs", agent).stdout == ""
    assert os.listdir(kernel.tree(agent, "state")) == ["f"]
    assert [row["data"]["signal"] for row in kernel.record(agent, "signal")] == ["SIGPOLICY"]


def test_the_tree_of_the_dead(kernel):
    agent = kernel.spawn("--name", "late", "--", "/bin/sh", "-c", "echo bye; echo kept > ../../state/f; exit 4")
    kernel.ctl("wait", agent, check=4)
    status = shell("cat", kernel.tree(agent, "proc/status"))
    assert "State:\tdead\n" in status
    assert "Why:\texit\nCode:\t4\n" in status
    assert shell("cat", kernel.tree(agent, "proc/log")) == "bye\n"
    assert shell("cat", kernel.tree(agent, "state/f")) == "kept\n"
    assert "Processes:\t0" in shell("cat", kernel.tree(agent, "proc/usage"))
    assert "exit" in shell("cat", kernel.tree(agent, "proc/trace"))
    with pytest.raises(ProcessLookupError), open(kernel.tree(agent, "proc/signal"), "w") as file:
        file.write("TERM")


def test_an_open_file_whose_name_is_gone(kernel, scripts):
    agent = kernel.spawn("--deny", "WRITE:/state/secret", scripts(PRELUDE + """
fd = libc.open("state/f", libc.O_CREAT | libc.O_RDWR)
libc.unlink("state/f")
print(libc.write(fd, b"still"), libc.pread(fd, 9, 0), flush=True)
time.sleep(60)
"""))
    assert kernel.until_logged(agent, "\n") == "5 b'still'\n"
    assert list(kernel.json("inspect", agent)["handles"].values()) == ["(deleted)"]
    assert "(deleted)" in shell("cat", kernel.tree(agent, "proc/fd"))
    kernel.ctl("rm", "-f", agent, check=0)


@pytest.mark.parametrize(("path", "number"), [
    ("a" * 256, "ENAMETOOLONG"), ("a/" * 2100, "ENAMETOOLONG"), ("nul\\0", "EINVAL"), ("", "ENOENT"),
    ("state/../../../etc/passwd", "ENOENT"), ("/etc/passwd", "EACCES"), ("state/none/", "ENOENT"),
])
def test_paths_that_are_none(kernel, scripts, path, number):
    assert ask(kernel, scripts, f"print(json.dumps(told(libc.open, '{path}')))\n") == number
