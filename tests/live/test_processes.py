"""Running agents: what they get, what bounds them, and how their ends are told apart."""

import os
import stat
import subprocess
import sys

import pytest

BIN = os.path.dirname(sys.executable)
ENDED = ("code", "signal", "why", "detail")
HOG = "x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n"


def ended(kernel, agent, status):
    """Wait; then what ps, the record and proc/status say of the end must agree. Returns the row of ps."""
    kernel.ctl("wait", agent, check=status)
    row = kernel.agent(agent)
    last = kernel.record(agent, "exit")[-1]["data"]
    assert {key: row[key] for key in ENDED} == {key: last[key] for key in ENDED}
    with open(kernel.tree(agent, "proc/status")) as file:
        told = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    assert told["State"] == "dead"
    assert (told["Why"], told["Signal"], told["Rule"]) == (row["why"], row["signal"] or "", row["rule"])
    how = row["code"] if row["signal"] is None else row["signal"]
    with open(kernel.tree(agent, "proc/wait")) as file:
        assert file.read() == f"{agent} {row['why']} {how} {status}\n"
    return row


# --- what an agent gets ----------------------------------------------------------------------------------------------

def test_a_script_with_arguments(kernel, scripts):
    path = scripts("import sys\nprint(sys.argv[1:], __name__, __file__)\nprint('oops', file=sys.stderr)\nsys.exit(7)\n")
    done = kernel.ctl("run", path, "a", "--json", "b c", check=7)
    assert done.stdout == f"['a', '--json', 'b c'] __main__ {path}\n"
    assert done.stderr == "oops\n"


def test_a_module(kernel):
    done = kernel.ctl("run", "-m", "json.tool", "--help", check=0)
    assert "usage" in done.stdout


def test_a_program(kernel):
    assert kernel.ctl("run", "--", "/bin/bash", "-c", "echo $0 $1; exit 9", "x", "y", check=9).stdout == "x y\n"


def test_a_program_by_its_name_alone(kernel):
    assert kernel.ctl("run", "--", "echo", "hi", check=0).stdout == "hi\n"


@pytest.mark.parametrize(("command", "status", "told"), [
    (["/no/such/script.py"], 127, "No such file"), (["-m", "no_such_module"], 127, "not found inside the sandbox"),
    (["--", "/no/such/program"], 127, "--bind-ro"), (["--", "/etc/hostname"], 126, "not executable"),
    (["--", "/data/foreign"], 126, "not an executable of this machine"), (["/data"], 126, ""),
    (["--", "/bin/false"], 1, ""),
])
def test_what_cannot_run_is_told_with_its_status(kernel, tmp_path, command, status, told):
    (tmp_path / "foreign").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(44))
    (tmp_path / "foreign").chmod(0o755)
    tmp_path.chmod(0o755)
    command = [str(tmp_path) if word == "/data" else word for word in command]
    before = {row["id"] for row in kernel.json("ps", "-a")}
    done = kernel.ctl("run", "--bind-ro", f"{tmp_path}:/data", *command, check=status)
    assert told in done.stderr
    assert done.stderr.count("\n") <= 1
    left = {row["id"] for row in kernel.json("ps", "-a")} - before
    assert len(left) == (1 if command[-1] == "/bin/false" else 0)


def test_the_environment_is_clean_but_for_what_was_given(kernel):
    here = os.environ | {"B": "two", "SECRET": "x"}
    done = kernel.ctl("run", "--env", "A=1", "--env", "B", "--", "env", check=0, env=here)
    given = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (given.pop("A"), given.pop("B")) == ("1", "two")
    assert set(given) == {"PATH", "HOME", "LANG", "USER", "AGENTIX_ID", "AGENTIX_SOCKET", "AGENTIX_TREE"}


def test_cwd(kernel):
    assert kernel.ctl("run", "--cwd", "/tmp", "--", "pwd", check=0).stdout == "/tmp\n"
    kernel.ctl("run", "--", "/bin/sh", "-c", "[ $(pwd) = $AGENTIX_TREE/mem/working ]", check=0)
    refused = kernel.ctl("run", "--cwd", "/no/where", "--", "pwd")
    assert refused.returncode in {125, 126, 127}
    assert "/no/where" in refused.stderr


def test_a_name_is_given_once(kernel):
    agent = kernel.spawn("--name", "only", "--", "/bin/sleep", "60")
    refused = kernel.ctl("spawn", "--name", "only", "--", "/bin/true", check=125)
    assert "'only' is taken" in refused.stderr
    assert "agentctl rm" in refused.stderr
    kernel.ctl("rm", "-f", "only", check=0)
    assert not os.path.exists(kernel.tree(agent))
    again = kernel.spawn("--name", "only", "--", "/bin/true")
    assert again > agent
    assert kernel.ctl("wait", "only", check=0)


def test_rm_refuses_the_living_and_keeps_the_record(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "60")
    refused = kernel.ctl("rm", agent, check=1)
    assert "is running" in refused.stderr
    kernel.ctl("kill", "-9", agent, check=0)
    kernel.ctl("wait", agent, check=137)
    kernel.ctl("rm", agent, check=0)
    assert "no such agent" in kernel.ctl("inspect", agent, check=1).stderr
    assert [row["kind"] for row in kernel.rows("trace") if row["agent"] == agent][-1] == "remove"


# --- binds -----------------------------------------------------------------------------------------------------------

def test_a_folder_to_read(kernel, tmp_path):
    (tmp_path / "file").write_text("hello")
    tmp_path.chmod(0o755)
    done = kernel.ctl("run", "--bind-ro", f"{tmp_path}:/data", "--", "/bin/sh", "-c",
                      "cat /data/file; touch /data/new; rm /data/file; grep ' /data ' /proc/self/mountinfo")
    assert done.stdout.startswith("hello")
    assert " ro," in done.stdout
    assert done.stderr.count("Read-only file system") == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_to_write_belongs_to_its_owner(kernel, tmp_path):
    tmp_path.chmod(0o755)
    folder = tmp_path / "mine"
    folder.mkdir()
    os.chown(folder, 4242, 4242)
    done = kernel.ctl("run", "--bind", f"{folder}:/data", "--", "/bin/sh", "-c",
                      "echo made > /data/new && stat -c %u /data/new && id -u; "
                      "grep ' /data ' /proc/self/mountinfo")
    shown, own = done.stdout.split()[:2]
    assert shown == own
    assert (folder / "new").read_text() == "made\n"
    assert os.stat(folder / "new").st_uid == 4242
    assert "nosuid" in done.stdout
    assert "nodev" in done.stdout


@pytest.mark.parametrize(("target", "told"), [
    ("/proc/x", "/proc"), ("/agent/x", "/agent"), ("/dev/x", "/dev"), ("/sys", "/sys"), ("/", "/"),
    ("/usr/../etc/x", "'..'"), ("/run/agentix", "/run/agentix"), ("relative", "HOST:PATH"),
])
def test_where_nothing_may_be_bound(kernel, tmp_path, target, told):
    refused = kernel.ctl("run", "--bind-ro", f"{tmp_path}:{target}", "--", "/bin/true")
    assert refused.returncode in {2, 125}, refused.stderr
    assert told in refused.stderr


def test_what_is_not_there_cannot_be_bound(kernel):
    refused = kernel.ctl("run", "--bind-ro", "/no/such:/data", "--", "/bin/true", check=125)
    assert "/no/such" in refused.stderr


LIAR = """
import os, sys
from agentix.control import Client, socket_path
from agentix_syscalls.errors import CallError
with Client(socket_path(sys.argv[1])) as client:
    folder = os.open(sys.argv[1] + "/open", os.O_PATH)
    try:
        client.call("spawn", "exec", ["true"], {"binds": [["/data", True, "/mine"]]}, descriptors=[folder])
    except CallError as error:
        print(error.message)
"""


def test_who_does_not_own_a_folder_cannot_give_it_to_write(make_kernel):
    """Asked by a member of the group, with their rights and not the kernel's."""
    import grp

    group = next(row for row in grp.getgrall() if row.gr_gid == 4)  # adm: any group that every Debian has
    live = make_kernel(f"group = '{group.gr_name}'\n")
    os.chmod(live.prefix, 0o755)
    os.mkdir(f"{live.prefix}/secret", 0o700)
    os.mkdir(f"{live.prefix}/open", 0o755)
    member = {"user": 4242, "group": 4242, "extra_groups": [4]}
    refused = live.ctl("run", "--bind", f"{live.prefix}/open:/data", "--", "/bin/true", check=125, **member)
    assert "bind it with --bind-ro" in refused.stderr
    lying = subprocess.run([sys.executable, "-c", LIAR, live.prefix], capture_output=True, check=True, **member)
    assert b"you (uid 4242) do not own it (uid 0 does)" in lying.stdout
    refused = live.ctl("run", "--bind-ro", f"{live.prefix}/secret/x:/data", "--", "/bin/true", check=125, **member)
    assert "Permission denied" in refused.stderr
    live.ctl("run", "--bind-ro", f"{live.prefix}/open:/data", "--", "ls", "/data", check=0, **member)
    agent = live.spawn("--", "/bin/sleep", "60")
    refused = live.ctl("kill", "-s", "POLICY", agent, check=1, **member)
    assert "root alone" in refused.stderr
    assert "only root" in live.ctl("shutdown", check=1, **member).stderr
    stranger = live.ctl("ps", user=4243, group=4243, extra_groups=[])
    assert stranger.returncode == 1
    assert stranger.stdout == ""


# --- ends ------------------------------------------------------------------------------------------------------------

def test_a_plain_exit(kernel):
    row = ended(kernel, kernel.spawn("--", "/bin/sh", "-c", "exit 3"), 3)
    assert (row["why"], row["code"], row["signal"]) == ("exit", 3, None)


def test_exit_by_the_call_ends_all_processes(kernel, scripts):
    agent = kernel.spawn(scripts("""
import os, time
from agentix import libc
if os.fork() == 0:
    time.sleep(60)
libc.exit(5)
"""))
    assert (ended(kernel, agent, 5)["why"], kernel.agent(agent)["processes"]) == ("exit", 0)


def test_a_traceback_is_status_1(kernel, scripts):
    done = kernel.ctl("run", scripts("def f():\n    raise KeyError('gone')\nf()\n"), check=1)
    assert "in f\n    raise KeyError('gone')" in done.stderr
    assert "agentix/init" not in done.stderr


def test_out_of_memory(kernel, scripts):
    path = scripts(HOG)
    done = kernel.ctl("run", "--name", "hog", "--memory", "64M", path, check=137)
    assert "out of memory" in done.stderr
    row = kernel.agent(kernel.json("inspect", "hog")["id"])
    assert (row["why"], row["signal"]) == ("memory", "SIGKILL")
    assert "memory SIGKILL" in kernel.ctl("ps", "-a", check=0).stdout
    assert [limit["data"]["limit"] for limit in kernel.record(row["id"], "limit")] == ["memory"]
    ended(kernel, row["id"], 137)


def test_timeout(kernel):
    done = kernel.ctl("run", "--name", "slow", "--timeout", "0.3", "--", "/bin/sleep", "60", check=137)
    assert "longer than its 0.3 s" in done.stderr
    agent = kernel.json("inspect", "slow")["id"]
    assert ended(kernel, agent, 137)["why"] == "timeout"
    assert [limit["data"]["limit"] for limit in kernel.record(agent, "limit")] == ["timeout"]


def test_pids(kernel, scripts):
    done = kernel.ctl("run", "--name", "forker", "--pids", "8", scripts("""
import os, time
count = 2  # the init and this
try:
    while os.fork():
        count += 1
    time.sleep(60)
except BlockingIOError:
    print(count)
"""), check=0)
    assert done.stdout == "8\n"
    assert kernel.agent(kernel.json("inspect", "forker")["id"])["processes"] == 0


def test_a_linux_signal_to_itself(kernel):
    agent = kernel.spawn("--", "/bin/bash", "-c", "kill -SEGV $$")
    row = ended(kernel, agent, 139)
    assert (row["why"], row["signal"]) == ("signal", "SIGSEGV")


def test_killed(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "60")
    kernel.ctl("kill", "-9", agent, check=0)
    row = ended(kernel, agent, 137)
    assert (row["why"], row["signal"]) == ("killed", "SIGKILL")
    assert "operator" in row["detail"]


def test_a_rule_in_strict_mode(kernel):
    done = kernel.ctl("run", "--name", "outlaw", "--mode", "strict", "--deny", "MKDIR:/state", "--", "/bin/sh", "-c",
                      "mkdir ../../state/x; echo survived", check=137)
    assert "survived" not in done.stdout
    assert "deny MKDIR:/state" in done.stderr
    row = ended(kernel, kernel.json("inspect", "outlaw")["id"], 137)
    assert (row["why"], row["signal"], row["rule"]) == ("policy", "SIGPOLICY", "deny MKDIR:/state")
    assert "policy SIGPOLICY" in kernel.ctl("ps", "-a", check=0).stdout


def test_a_linux_call_that_no_honest_agent_makes(kernel, scripts):
    agent = kernel.spawn(scripts("""
import ctypes, os
status = open('/proc/self/status').read()
assert os.getuid() != 0 and int(status.split('CapEff:')[1].split()[0], 16) == 0, 'not confined'
from agentix import libc
ctypes.CDLL(None).ptrace(0, 0, 0, 0)
print('survived')
"""))
    row = ended(kernel, agent, 137)
    assert (row["why"], row["rule"]) == ("policy", "seccomp ptrace")
    assert kernel.ctl("logs", agent).stdout == ""
    assert [denial["rule"] for denial in kernel.record(agent, "denial")] == ["seccomp ptrace"]


def test_output_is_kept_byte_for_byte(kernel, scripts):
    data = bytes(range(256)) * 2000
    agent = kernel.spawn(scripts("""
import os
data = bytes(range(256)) * 2000
while data:
    data = data[os.write(1, data):]
os.write(2, bytes([255, 0]) + b"err")
"""))
    kernel.ctl("wait", agent, check=0)
    command = [f"{BIN}/agentctl", "--prefix", kernel.prefix, "logs", str(agent)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (data, b"\xff\x00err")
    tail = kernel.ctl("logs", "--tail", "0", agent, check=0)
    assert tail.stdout == ""


def test_verify_finds_each_layer_on(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "60")
    told = kernel.json("verify", agent)
    assert told["ok"]
    assert told["processes"] == 2
    assert {"seccomp", "capabilities"} & {row["layer"] for row in told["layers"]}
    kernel.ctl("rm", "-f", agent, check=0)
    dead = kernel.spawn("--", "/bin/true")
    kernel.ctl("wait", dead, check=0)
    assert "not alive" in kernel.ctl("verify", dead, check=1).stderr


def test_run_rm_leaves_nothing(kernel):
    before = {row["id"] for row in kernel.json("ps", "-a")}
    kernel.ctl("run", "--rm", "--", "/bin/sh", "-c", "exit 6", check=6)
    assert {row["id"] for row in kernel.json("ps", "-a")} == before


def test_the_sandbox_of_a_dead_agent_is_gone(kernel):
    agent = kernel.spawn("--", "/bin/true")
    kernel.ctl("wait", agent, check=0)
    assert not os.path.exists(f"{kernel.prefix}/run/agents/{agent}.1")
    assert not any(f"/{agent}.1" in folder for folder in kernel.cgroups())
    assert stat.S_IMODE(os.stat(f"{kernel.prefix}/state/agents/{agent}").st_mode) == 0o700
