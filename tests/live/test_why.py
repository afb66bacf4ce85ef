"""Why, on a real kernel: what is said of calls and paths is held against what a real agent meets."""

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest

from agentix_kernel.confine.absences import BY_NAME

MEMBER = {"user": 4245, "group": 4245, "extra_groups": [65534]}
TEXT = """\
version: 1
name: asked
mode: enforce
limits: {{memory: 128M, pids: 20}}
binds:
  - {{host: {folder}/in, at: /in, mode: ro}}
  - {{host: {folder}/out, at: /out, mode: rw}}
budgets: {{calls: 100000}}
allow:
  - {{file: /, action: read}}
  - {{file: /state, action: [read, write]}}
  - {{signal: SIGUSR2, to: self}}
  - capability://agent/child?action=wait
deny:
  - {{file: /state/held, action: write}}
  - {{call: MKDIR}}
"""
READ = ("/etc/shadow", "/etc/passwd", "/etc/hosts", "/etc", "/etc/ssl", "/root", "/home", "/var/log", "/sys/kernel",
        "/usr/bin/env", "/usr", "/tmp", "/dev/null", "/dev/sda", "/dev", "/proc", "/proc/self/status", "/proc/meminfo",
        "/proc/sys/kernel", "/run", "/run/agentix", "/run/systemd", "/agent", "/agent/self", "/agent/99999/state",
        "/agent/self/state", "/in/note", "/in", "/out", "/", "/boot", "/opt/nothing", "/mnt")
WRITE = ("/etc/x", "/x", "/usr/x", "/tmp/x", "/dev/x", "/in/x", "/out/x", "/run/x", "/agent/x", "/root/x",
         "/agent/self/state/x", "/agent/self/state/held", "/agent/self/mem/working/x", "/agent/self/policy/x")
TRIED = f"""
import json, os, time
def tried(path, flags):
    try:
        os.close(os.open(path, flags, 0o600))
        return 0
    except OSError as error:
        return error.errno
print(json.dumps([{{path: tried(path, os.O_RDONLY) for path in {READ}}},
                  {{path: tried(path, os.O_WRONLY | os.O_CREAT) for path in {WRITE}}}]), flush=True)
time.sleep(10000)
"""


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\n") as kernel:
        os.chmod(kernel.prefix, 0o755)
        yield kernel


@pytest.fixture(scope="module")
def asked(live, scripts):
    """An agent that has tried the paths: its id, and what it met."""
    with tempfile.TemporaryDirectory(prefix="agentix-why-") as folder:
        os.chmod(folder, 0o755)
        for name in ("in", "out"):
            os.mkdir(f"{folder}/{name}")
        Path(folder, "in/note").write_text("seen\n")
        Path(folder, "asked.yaml").write_text(TEXT.format(folder=folder))
        agent = live.spawn("--policy", f"{folder}/asked.yaml", "--cwd", "/tmp", "--name", "asked", scripts(TRIED))
        yield agent, f"{folder}/asked.yaml", json.loads(live.until_logged(agent, "\n"))


def why(live, *args):
    return live.json("why", "asked", *args)["answers"]


def test_what_is_said_of_paths_is_what_an_agent_meets(live, asked):
    _, _, (reads, writes) = asked
    wrong = {}
    for path, met in reads.items():
        said = why(live, "--path", path)[0]["allowed"]
        agrees = met == 0 if said is True else met == errno.ENOENT if said is False else met in {0, errno.EACCES}
        wrong |= {} if agrees else {f"read {path}": (said, met)}
    for path, met in writes.items():
        said = why(live, "--path", path)[1]["allowed"]
        agrees = met != 0 if said is False else met == 0
        wrong |= {} if agrees else {f"write {path}": (said, met)}
    assert wrong == {}


def test_a_path_says_which_structure_and_what_would_show_it(live, asked):
    _, file, _ = asked
    read, write = why(live, "--path", "/etc/shadow")
    assert (read["enforcer"], read["rule"]) == ("mount namespace", "absent by structure")
    assert read["remedy"].startswith(
        "in its policy, under binds: - {host: /etc/shadow, at: /host/etc/shadow, mode: ro}; or at its spawn --bind-ro ")
    assert write["allowed"] is False
    read, write = why(live, "--path", "/in/note")
    assert "/in of the host" in read["message"]
    assert write["enforcer"] == "read-only mount, Landlock"
    assert write["remedy"].endswith("/in:/in, for a folder of your own")
    assert " --bind /" in write["remedy"]
    read, write = why(live, "--path", "/agent/self/state/../state/held")
    assert (read["rule"], read["line"]) == (f"{file}:10: allow capability://file?action=read", 10)
    assert why(live, "--path", "/agent/self/state/free")[1]["line"] == 11
    assert (write["allowed"], write["line"], write["file"]) == (False, 15, file)
    assert write["remedy"] == f"deny beats allow: only a change of {file}:15 would permit it"
    assert why(live, "--path", "/agent/self/policy/effective")[1]["rule"].endswith("default deny")
    assert why(live, "--path", "/agent/self/state/none/below/it")[1]["line"] == 11
    assert why(live, "--call", "WRITE", "/state/held/none/below")[0]["line"] == 15
    assert "does not exist" in live.ctl("why", "asked", "--call", "WRITE", "/state/none/../x", check=1).stderr
    assert "does not begin with" in live.ctl("why", "asked", "--path", "etc", check=1).stderr


def test_a_call_says_its_rule_and_the_line_that_would_allow_it(live, asked):
    _, file, _ = asked
    answer, = why(live, "--call", "write", "/mem/working/a b")
    assert (answer["allowed"], answer["enforcer"], answer["rule"]) == (
        False, "dispatch, mount", f"{file}: default deny")
    assert answer["remedy"] == f"in {file}, under allow: - capability://file/mem/working/a%20b?action=write"
    assert why(live, "--call", "MKDIR", "/state/x")[0]["line"] == 16
    assert why(live, "--call", "SIGNAL", "self/SIGUSR2")[0]["rule"].startswith(f"{file}:12: allow")
    assert why(live, "--call", "SPAWN", "kid")[0]["allowed"] is False
    assert why(live, "--call", "EXEC", "shell.execute")[0]["remedy"].endswith(
        "- capability://tool/shell.execute?action=exec")
    assert [one["allowed"] for one in why(live, "--call", "OPEN", "/proc/status")] == [True, False]
    assert why(live, "--call", "GETPID")[0]["allowed"] is True
    assert "no call is named" in live.ctl("why", "asked", "--call", "nonsense", check=1).stderr
    told = live.ctl("why", "asked", "--call", "WRITE", "/state/held", check=0).stdout
    assert "WRITE /state/held: refused\n" in told
    assert f"to allow it: deny beats allow: only a change of {file}:15" in told


def test_a_linux_call_is_explained_from_seccomp_or_from_what_is_missing(live, asked):
    answer, = why(live, "--call", "ptrace")
    assert (answer["allowed"], answer["enforcer"], answer["rule"]) == (False, "seccomp", "seccomp ptrace")
    assert "ended by SIGPOLICY" in answer["message"]
    refused = why(live, "--call", "clone")
    assert len([one for one in refused if one["enforcer"] == "seccomp" and not one["allowed"]]) == 7
    assert refused[-1]["allowed"] is True
    assert [one["asked"] for one in why(live, "--call", "socket")] == [
        "Linux call socket, when argument 1 is 0x0, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9 or over 0xa",
        "Linux call socket otherwise"]
    assert "ENOSYS" in why(live, "--call", "clone3")[0]["message"]
    assert why(live, "--call", "chown")[0]["enforcer"] == "no capability (CAP_CHOWN)"
    assert why(live, "--call", "getuid")[0]["allowed"] is True


ABSENT = """
import errno, json, os, resource, socket
def met(act, *args):
    try:
        act(*args)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
open("/tmp/f", "w").close()
stream = socket.socket()
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def raw(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "")
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
def raised():
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (hard + 1, hard + 1))
        return "ok"
    except ValueError as error:
        return "EPERM" if "not allowed" in str(error) else str(error)
print(json.dumps({
    "chown": met(os.chown, "/tmp/f", 0, 0), "setuid": met(os.setuid, 0), "setgroups": met(os.setgroups, [0]),
    "mknod": met(os.mknod, "/tmp/d", 0o020600, os.makedev(1, 3)),
    "setpriority": met(os.setpriority, os.PRIO_PROCESS, 0, -5),
    "sched_setscheduler": met(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
    "setrlimit": raised(),
    "mlock": met(raw, 149, ctypes.create_string_buffer(1 << 20), 1 << 20),
    "kill": met(os.kill, 900000, 0), "connect": met(stream.connect, ("127.0.0.1", 9)),
    "bind": met(stream.bind, ("127.0.0.1", 8080)),
}), flush=True)
"""


def test_what_is_said_to_be_missing_is_missing(live, asked, scripts):
    done = live.ctl("run", "--rm", scripts(ABSENT), check=0)
    met = json.loads(done.stdout)
    wrong = {name: answer for name, answer in met.items() if answer not in BY_NAME[name].answers.split(" or ")}
    assert (wrong, len(met)) == ({}, 11)


def test_the_last_denial_is_told_to_operator_and_agent_alike(live, asked):
    agent, _, _ = asked
    answer, = why(live)
    assert answer == why(live, "--last")[0]
    text = Path(live.tree(agent, "policy/last-denial")).read_text()
    assert f"Rule:\t{answer['rule']}\n" in text
    assert f"Remedy:\t{answer['remedy']}\n" in text
    assert f"Enforcer:\t{answer['enforcer']}\n" in text
    fresh = live.spawn("--", "/bin/sleep", "1000")
    assert "nothing was refused so far" in live.ctl("why", fresh, check=0).stdout
    live.ctl("rm", "-f", fresh, check=0)
    assert live.ctl("why", "asked", "--last", "--call", "READ", check=2).stderr


def test_who_does_not_own_it_is_not_told_where_its_links_lead(live, asked):
    agent, _, _ = asked
    os.symlink("/agent/self/state/held", live.tree(agent, "state/link"))
    theirs = json.loads(live.ctl(
        "why", "asked", "--path", "/agent/self/state/link", "--json", check=0, **MEMBER).stdout)
    assert [one["asked"] for one in theirs["answers"]] == ["READ /state/link", "WRITE /state/link"]
    assert why(live, "--path", "/agent/self/state/link")[1]["asked"] == "WRITE /state/held"
    assert live.ctl("why", "asked", "--call", "READ", "/state/link", check=0, **MEMBER).stdout.startswith(
        "READ /state/link: allowed")


@pytest.mark.parametrize("words", [
    ("--path", "/\udcff"), ("--path", "/agent/self/\udcff"), ("--path", "/a\nb\x1b[2J"), ("--path", "/" + "a/" * 2000),
    ("--call", "READ", "/\udcff"), ("--call", "SPAWN", "\udcff"), ("--call", "x" * 5000), ("--call", "\udcff"),
    ("--call", "read\u00e9"), ("--call", "SIGNAL", "self/\udcff"), ("--call", "EXEC", "\udcff"),
    ("--path", "/agent/self/../../etc/shadow"), ("--path", "//etc//shadow"), ("--call", ""), ("--path", ""),
])
def test_odd_words_are_answered_or_refused_and_fail_nothing(live, asked, words):
    done = live.ctl("why", "asked", *words, errors="surrogateescape")
    assert done.returncode in {0, 1, 2}
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "the kernel failed" not in done.stderr


def test_explain_says_which_enforcer_holds_which_line(live, asked):
    agent, file, _ = asked
    rows = live.json("policy", "explain", agent)
    assert rows == live.json("policy", "explain", "asked") == live.json("policy", "explain", file)
    found = {(row["part"], row["line"]): row for row in rows if row["line"]}
    assert found["allow", 11]["enforcers"] == ["dispatch", "mount"]
    assert found["allow", 12]["enforcers"] == ["dispatch", "signals"]
    assert found["deny", 16]["how"] == "asked by MKDIR"
    assert found["limits", 4]["enforcers"] == ["cgroup"]
    assert found["binds", 7]["enforcers"] == ["mount namespace", "Landlock"]
    assert {"seccomp", "Landlock", "pid namespace"} <= {
        row["enforcers"][0] for row in rows if row["part"] == "always"}
    assert [row["what"] for row in rows if row["part"] == "budgets"] == ["calls 100000"]
    told = live.ctl("policy", "explain", "strict", check=0).stdout
    assert "strict.yaml:6" in told
    assert "no such agent" in live.ctl("policy", "explain", "nobody", check=1).stderr
