"""agentctl against a small kernel: what it asks, what it prints, its exit statuses."""

import errno
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from agentix.agentctl.cli import VERBS, Which
from agentix.agentctl.listing import COLUMNS
from agentix_syscalls import calls, control, signals, spawn
from agentix_syscalls.errors import CallError

ROW = {
    "id": 7, "life": 1, "name": "scout", "parent": 0, "uid": 70007, "owner": 0, "state": "running", "why": "",
    "code": None,
    "signal": None, "started_wall_ns": 1, "ended_wall_ns": 90_000_000_001, "cpu_us": 1_500_000,
    "memory_bytes": 12 << 20, "processes": 3, "calls": 4, "denials": 0, "kind": "module", "argv": ["bot", "a b"],
    "mode": "enforce", "runtime": "default", "profile": "", "degraded": [], "spent": [], "next": "", "rule": "",
}
RECORD = {
    "seq": 12, "wall_ns": 1, "mono_ns": 1, "agent": 7, "life": 1, "kind": "denial", "phase": "event",
    "verdict": "denied", "rule": "no-net", "correlation": 3,
    "data": {"enforcer": "seccomp", "call": "socket", "object": "", "message": "not \x1b[31mallowed"},
}


def fail(number, message="no", **more):
    def answer(*_args):
        raise CallError(number, message, **more)
    return answer


def test_run(operator, script):
    operator.agent_that((1, b"out\xff\n"), (2, b"err\n"), code=3, status=3)
    result = operator.run("run", "--name", "scout", "--memory", "1G", "--timeout", "5m", "--cpus", ".5", "--pids", "9",
                          "--deny", "OPEN:/state", "--deny", "EXEC", "--env", "A=b=c", "--env", "HOME", "--mode",
                          "strict", "--spawn-max", "0", "--rm", script, "--rm", "-m", "x")
    assert (result.stdout_bytes, result.stderr, result.exit_code) == (b"out\xff\n", "err\n", 3)
    (kind, argv, options), = operator.calls("spawn")
    assert (kind, argv) == ("script", (script, "--rm", "-m", "x"))
    assert options == {
        "name": "scout", "memory_bytes": 1 << 30, "timeout_s": 300.0, "cpus": 0.5, "pids": 9, "spawn_max": 0,
        "deny": ("OPEN:/state", "EXEC"), "env": {"A": "b=c", "HOME": os.environ["HOME"]}, "mode": "strict",
        "source": b"print('hello')"}
    assert operator.calls("logs") == [(7, True, None)]
    assert operator.calls("rm") == [(7,)]
    for name in ("spawn", "logs", "wait", "rm"):
        control.BY_NAME[name].parse(operator.calls(name)[0])


@pytest.mark.parametrize(("words", "kind", "argv"), [
    (["-m", "bot", "--name", "x"], "module", ("bot", "--name", "x")),
    (["--name=a", "--", "ls", "-l", "--"], "exec", ("ls", "-l", "--")),
    (["--rm", "--", "--odd"], "exec", ("--odd",)),
])
def test_the_command_ends_the_options(operator, words, kind, argv):
    operator.agent_that()
    assert operator.run("run", *words).exit_code == 0
    assert operator.calls("spawn")[0][:2] == (kind, argv)


@pytest.mark.parametrize(("why", "signal_name", "status", "detail"), [
    ("policy", "SIGPOLICY", 137, "WRITE of /state/x is denied by rule 3"),
    ("oom", "SIGKILL", 137, "over 512M of memory"),
    ("signal", "SIGTERM", 143, "ended by SIGTERM"),
])
def test_a_violent_end_is_explained(operator, script, why, signal_name, status, detail):
    operator.agent_that(code=None, signal=signal_name, why=why, status=status, detail=detail)
    result = operator.run("run", script)
    assert (result.stderr, result.exit_code) == (f"agentctl: scout: {detail}\n", status)


@pytest.mark.parametrize(("number", "status"), [
    (errno.ENOENT, 127), (errno.ENOEXEC, 126), (errno.EACCES, 126), (errno.EAGAIN, 125), (errno.EEXIST, 125),
    (errno.EINVAL, 2),
])
@pytest.mark.parametrize("verb", ["run", "spawn"])
def test_a_spawn_that_fails(operator, verb, number, status):
    operator.on("spawn", fail(number, "cannot", rule="r1", remedy="try another"))
    result = operator.run(verb, "--", "thing")
    assert (result.stderr, result.exit_code) == ("agentctl: cannot (rule: r1); try another\n", status)


def test_scripts_that_cannot_be_run(operator, tmp_path):
    assert operator.run("run", str(tmp_path / "none.py")).exit_code == 127
    assert operator.run("run", str(tmp_path)).exit_code == 126
    shell = tmp_path / "x.sh"
    shell.write_text("#!/bin/sh\n")
    result = operator.run("run", str(shell))
    assert (result.exit_code, "not a Python script" in result.stderr) == (126, True)
    with open(tmp_path / "big.py", "wb") as big:
        big.truncate(17 << 20)
    result = operator.run("run", big.name)
    assert (result.exit_code, "the most that a request" in result.stderr) == (125, True)
    assert operator.calls("spawn") == []


def test_binds_travel_as_descriptors(operator, script, tmp_path):
    operator.agent_that()
    result = operator.run("run", "--bind", f"{tmp_path}:/data", "--bind-ro", f"{script}:/etc/agent.py", script)
    assert result.exit_code == 0, result.stderr
    binds = operator.calls("spawn")[0][2]["binds"]
    assert binds == (("/etc/agent.py", False, script), ("/data", True, str(tmp_path)))
    assert [os.fstat(fd).st_ino for fd in operator.fake.descriptors] == [os.stat(p).st_ino for p in (script, tmp_path)]
    assert operator.run("run", "--bind-ro", "/nope:/x", script).exit_code == 125
    assert operator.run("run", "--bind-ro", "/etc", script).exit_code == 2


def test_a_large_script_with_a_bind_arrives_whole(operator, tmp_path):
    operator.agent_that()
    big = tmp_path / "big.py"
    big.write_bytes(b"#" * (8 << 20))
    assert operator.run("run", "--bind-ro", f"{tmp_path}:/data", str(big)).exit_code == 0
    assert len(operator.calls("spawn")[0][2]["source"]) == 8 << 20


@pytest.mark.parametrize("words", [
    ["run"], ["run", "-m"],
    ["run", "--memory", "1Q", "x"], ["run", "--memory", "1M", "x"], ["run", "--timeout", "x", "y"],
    ["run", "--mode", "lax", "x"], ["run", "--env", "NOT_A_VARIABLE_HERE", "x"], ["run", "--nope", "x"], ["kill"],
    ["kill", "-8", "7"], ["kill", "-NOPE", "7"], ["nope"], ["logs"], ["logs", "--tail", "-1", "7"],
    ["ps", "--filter", "state=runing"], ["ps", "--filter", "size=3"], ["ps", "--filter", "state"],
    ["ps", "--format", "id,nome"], ["ps", "--json", "-q"], ["events", "--filter", "event=birth"],
    ["events", "--filter", "name=x"], ["trace", "--since", "yesterday"],
])
def test_a_wrong_command_line_is_one_line_and_2(operator, words):
    result = operator.run(*words)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "--help" in result.stderr
    assert operator.fake.seen == []


def test_spawn_prints_the_id(operator, script):
    operator.agent_that()
    assert operator.run("spawn", script).stdout == "7\n"
    assert json.loads(operator.run("spawn", "--json", script).stdout)["uid"] == 70007


def test_ps(operator):
    dead = {**ROW, "id": 12, "name": "", "state": "dead", "why": "policy", "signal": "SIGPOLICY", "kind": "exec",
            "argv": ["x\x1b]0;owned\a"], "degraded": ["landlock"]}
    operator.on("ps", [ROW, dead])
    assert operator.run("ps", "-a").stdout.splitlines() == [
        "ID  NAME   STATE      CPU    MEM  PIDS    AGE  WHY                                 COMMAND",
        " 7  scout  running  1.50s  12.0M     3  1m30s  -                                   -m bot 'a b'",
        ("12  -      dead     1.50s  12.0M     3  1m30s  policy SIGPOLICY; without landlock  "
         "-- 'x\\x1b]0;owned\\x07'")]
    assert operator.calls("ps") == [(True, True)]
    assert json.loads(operator.run("ps", "--json").stdout) == [ROW, dead]


def test_ps_says_when_an_agent_restarts(operator):
    operator.on("ps", [{**ROW, "state": "ready", "why": "exit", "code": 3, "next": "restarts in 1.6 s (life 4)"}])
    assert "  exit 3; restarts in 1.6 s (life 4)  " in operator.run("ps").stdout


def test_restart_opens_what_is_bound_anew(operator, tmp_path):
    binds = [{"target": "/a", "source": str(tmp_path), "writable": True},
             {"target": "/b", "source": "/", "writable": False}]
    operator.on("inspect", lambda agent: {"binds": binds if agent == "scout" else []})
    operator.on("restart", {"id": 7, "life": 2, "name": "scout", "uid": 70007})
    assert operator.run("restart", "scout", "8").exit_code == 0
    assert operator.calls("restart") == [("scout", 2), (8, 0)]
    assert [os.fstat(fd).st_ino for fd in operator.fake.descriptors] == [tmp_path.stat().st_ino, os.stat("/").st_ino]


def test_a_bind_that_is_gone_keeps_no_other_agent_from_its_restart(operator):
    operator.on("inspect", lambda agent: {"binds": [{"target": "/a", "source": "/none", "writable": False}] * agent})
    operator.on("restart", {"id": 0, "life": 2, "name": "scout", "uid": 70007})
    result = operator.run("restart", "1", "0")
    assert (result.exit_code, result.stderr) == (1, "agentctl: /none: No such file or directory\n")
    assert operator.calls("restart") == [(0, 0)]


_HERD = (
    (1, 0, "root", "running", ""), (2, 1, "web-1", "running", ""), (3, 0, "lone", "dead", "policy"),
    (4, 2, "web-2", "stopped", ""), (5, 1, "db", "dead", "exit"), (6, 99, "orphan", "running", ""))
HERD = [{**ROW, **dict(zip(("id", "parent", "name", "state", "why"), row, strict=True))} for row in _HERD]


@pytest.mark.parametrize(("words", "asked", "shown"), [
    (["-q"], (False, False), ["1", "2", "3", "4", "5", "6"]),
    (["-q", "--filter", "name=web-*", "--filter", "state=running"], (True, False), ["2"]),
    (["-q", "--filter", "parent=1"], (False, False), ["2", "5"]),
    (["-q", "--filter", "why=pol*"], (True, False), ["3"]),
    (["--format", "name,id", "--filter", "state=dead"], (True, False), ["NAME  ID", "lone   3", "db     5"]),
    (["--format", "id, memory", "--no-header", "--filter", "name=db"], (False, True), ["5  12.0M"]),
    (["-f", "--format", "id,name"], (False, False),
     ["ID  NAME", " 1  root", r" 2  \_ web-1", r" 4     \_ web-2", r" 5  \_ db", " 3  lone", " 6  orphan"]),
    (["--filter", "name=none", "--no-header"], (False, True), []),
])
def test_ps_in_other_shapes(operator, words, asked, shown):
    operator.on("ps", HERD)
    assert operator.run("ps", *words).stdout.splitlines() == shown
    assert operator.calls("ps") == [asked]


def test_ps_long_and_as_a_tree(operator):
    operator.on("ps", HERD)
    assert operator.run("ps", "-f").stdout.split()[:10] == [
        "ID", "PARENT", "NAME", "STATE", "CPU", "MEM", "PIDS", "AGE", "WHY", "COMMAND"]
    long = operator.run("ps", "-l").stdout.split()
    assert long[:len(COLUMNS)] == ["MEM" if name == "memory" else name.upper() for name in COLUMNS]


@pytest.mark.parametrize(("words", "sent"), [
    (["kill", "7"], (7, signals.SIGTERM, False)), (["kill", "-9", "-g", "scout"], ("scout", signals.SIGKILL, True)),
    (["kill", "-s", "usr1", "7"], (7, signals.SIGUSR1, False)),
    (["kill", "-POLICY", "7"], (7, signals.SIGPOLICY, False)),
    (["stop", "7"], (7, signals.SIGSTOP, False)), (["cont", "-g", "7"], (7, signals.SIGCONT, True)),
])
def test_signals_are_sent(operator, words, sent):
    operator.on("signal", [7])
    assert operator.run(*words).exit_code == 0
    assert operator.calls("signal") == [sent]


def test_one_that_fails_does_not_keep_the_others(operator):
    operator.on("signal", lambda agent, *_rest: fail(errno.ESRCH, "no such agent")() if agent == 7 else [agent])
    result = operator.run("kill", "7", "8")
    assert (result.exit_code, result.stderr) == (1, "agentctl: no such agent\n")
    assert len(operator.calls("signal")) == 2


def test_wait(operator):
    operator.on("wait", lambda agent, _timeout: {**operator.ENDED, "status": agent})
    result = operator.run("wait", "--timeout", "2s", "3", "4", "--json")
    assert (result.exit_code, [ended["status"] for ended in json.loads(result.stdout)]) == (4, [3, 4])
    assert json.loads(operator.run("wait", "3", "--json").stdout)["status"] == 3
    assert 0 < operator.calls("wait")[1][1] <= 2
    operator.on("wait", fail(errno.ETIMEDOUT, "still there"))
    assert operator.run("wait", "3").exit_code == 124
    operator.on("wait", fail(errno.ESRCH, "no such agent"))
    assert operator.run("wait", "3").exit_code == 125


def test_logs(operator):
    operator.on("logs", lambda *_args: ([n, b"%d\n" % n, 0] for n in (1, 2, 1)))
    result = operator.run("logs", "-f", "--tail", "3", "scout")
    asked = operator.calls("logs")
    assert (result.stdout, result.stderr, asked) == ("1\n1\n", "2\n", [("scout", True, 3, None, None)])
    operator.on("logs", fail(errno.ESRCH, "no such agent"))
    assert operator.run("logs", "9").exit_code == 1


PIECES = {7: [[1, b"one\ntw", 10**9], [2, b"bad\n", 2 * 10**9], [1, b"o\nend", 3 * 10**9]],
          8: [[1, b"\xff\n", 15 * 10**8], [0, b"5 bytes were lost", 4 * 10**9]]}


def pieces(agent, *_asked):
    if agent not in PIECES:
        fail(errno.ESRCH, f"agent {agent}: no such agent")()
    yield from PIECES[agent]


def test_logs_with_marks_are_whole_lines(operator):
    operator.on("logs", pieces)
    result = operator.run("logs", "-t", "--streams", "7")
    assert result.stdout.splitlines() == [
        "1970-01-01T00:00:01.000000Z out one", "1970-01-01T00:00:01.000000Z out two",
        "1970-01-01T00:00:03.000000Z out end"]
    assert result.stderr == "1970-01-01T00:00:02.000000Z err bad\n"


@pytest.mark.parametrize("words", [[], ["-f"]])
def test_logs_of_several(operator, words):
    operator.on("logs", pieces)
    result = operator.run("logs", *words, "7", "8", "9")
    lines = [b"7 | one", b"8 | \xff", b"7 | two", b"7 | end"]
    assert sorted(result.stdout_bytes.splitlines()) == sorted(lines)
    if not words:
        assert result.stdout_bytes.splitlines() == lines
    assert sorted(result.stderr.splitlines()) == [
        "7 | bad", "agentctl: 8: 5 bytes were lost", "agentctl: agent 9: no such agent"]
    assert result.exit_code == 1


def test_a_line_without_an_end_is_not_held_for_ever(operator):
    operator.on("logs", lambda *_args: ([1, b"x" * 50_000, 0] for _ in range(4)))
    result = operator.run("logs", "--streams", "7")
    assert [len(line) for line in result.stdout.splitlines()] == [4 + 65536] * 3 + [4 + 200_000 - 3 * 65536]


def test_rm(operator):
    operator.agent_that()
    assert operator.run("rm", "7").stdout == "7\n"
    assert operator.calls("signal") == []
    assert operator.run("rm", "-f", "7").exit_code == 0
    assert operator.calls("signal") == [(7, signals.SIGKILL, False)]
    operator.on("rm", fail(errno.EBUSY, "not dead", remedy="kill it first"))
    result = operator.run("rm", "7")
    assert (result.exit_code, result.stderr) == (1, "agentctl: not dead; kill it first\n")


def test_trace(operator, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    boot = {**RECORD, "agent": 0, "kind": "boot", "data": {}}
    operator.on("trace", lambda *_args: (record for record in [RECORD, boot]))
    result = operator.run("trace", "--tail", "5", "scout")
    assert result.stdout.splitlines()[0] == (
        "00:00:00.000000     12 7.1     denial        denied enforcer=seccomp call=socket "
        'message="not \\x1b[31mallowed" rule=no-net')
    assert "kernel  boot" in result.stdout
    assert operator.calls("trace") == [(None, False, 5, None, None, None, {"agents": ("scout",)})]
    operator.on("trace", lambda *_args: (record for record in [RECORD, {"missed": 3, "first_seq": 13, "last_seq": 15}]))
    assert operator.run("trace", "-f").stdout.splitlines()[1] == "3 records (13 to 15) missed: they came too fast"
    first, missed = (json.loads(line) for line in operator.run("trace", "--json").stdout.splitlines())
    assert missed["missed"] == 3
    assert first == RECORD


def test_events(operator):
    operator.on("trace", lambda *_args: (row for row in [
        {"seq": 1, "wall_ns": 5_000_000, "event": "denial", "agent": 7, "name": "scout", "life": 1, "rule": "r 1",
         "data": {"call": "OPEN", "message": "\x1b]0;x", "object": ""}},
        {"seq": 2, "wall_ns": 1, "event": "boot", "agent": 0, "name": "", "life": 0, "rule": "", "data": {"boot": 3}},
        {"missed": 3, "first_seq": 13, "last_seq": 15}]))
    result = operator.run("events", "--filter", "agent=scout", "--filter", "event=denial", "--filter", "agent=8")
    denial, boot, missed = result.stdout.splitlines()
    assert denial.endswith('.005     7 scout            denial       call=OPEN message=\\x1b]0;x rule="r 1"')
    assert boot.endswith("    - kernel           boot         boot=3")
    assert "missed" in missed
    assert operator.calls("trace") == [(("scout", 8), False, None, None, None, ("denial",))]
    control.BY_NAME["trace"].parse(operator.calls("trace")[0])


def test_inspect_and_info(operator):
    for name, words, first in (("inspect", ["inspect", "7"], ""), ("info", ["info"], "kernel: the system's\n")):
        operator.on(name, {"id": 7, "limits": {"pids": 64, "memory_bytes": 1 << 29, "timeout_s": None}, "deny": [],
                           "binds": [{"target": "/d"}], "env": ["A", "B\x1b"], "text": b"\xff", "why": "x\ny"})
        assert operator.run(*words).stdout == first + (
            'id:     7\nlimits:\n  pids:         64\n  memory_bytes: 512M\n  timeout_s:    -\ndeny:   -\n'
            'binds:  {"target": "/d"}\nenv:    A, B\\x1b\ntext:   "\\\\xff"\nwhy:\n  x\n  y\n')
        assert json.loads(operator.run(*words, "--json").stdout)["limits"]["memory_bytes"] == 1 << 29


def test_several_at_once(operator):
    operator.on("inspect", lambda agent: {"id": agent} if agent != 9 else fail(errno.ESRCH, "agent 9: no such agent")())
    result = operator.run("inspect", "7", "9", "8", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, [{"id": 7}, {"id": 8}])
    assert result.stderr == "agentctl: agent 9: no such agent\n"
    assert operator.run("inspect", "7", "8").stdout == "id: 7\n\nid: 8\n"
    operator.on("verify", lambda agent: {"layers": [], "processes": 2, "ok": agent == 7})
    result = operator.run("verify", "7", "8")
    assert (result.exit_code, result.stdout.splitlines()[1::2]) == (1, [
        "agent 7: 2 processes checked: confined", "agent 8: 2 processes checked: NOT as it should be"])
    assert [row["agent"] for row in json.loads(operator.run("verify", "7", "8", "--json").stdout)] == [7, 8]


@pytest.mark.parametrize(("state", "status"), [("running", 0), ("stopped", 0), ("zombie", 1), ("dead", 1)])
def test_signal_0_only_looks(operator, state, status):
    operator.on("inspect", {"id": 7, "name": "scout", "state": state, "detail": "exited with 0"})
    result = operator.run("kill", "-0", "7")
    assert (result.exit_code, result.stdout) == (status, "")
    assert ("has ended: exited with 0" in result.stderr) == bool(status)


def test_the_names_of_signals(operator):
    assert operator.run("kill", "-l").stdout.split() == [row.name[3:] for row in signals.SIGNALS]
    assert operator.fake.seen == []


@pytest.mark.parametrize("ok", [True, False])
def test_verify(operator, ok):
    layers = [{"layer": "seccomp", "state": "on", "detail": "mode 2"}]
    operator.on("verify", {"layers": layers, "processes": 2, "ok": ok})
    result = operator.run("verify", "7")
    assert result.stdout.splitlines()[1] == "seccomp  on     mode 2"
    assert result.exit_code == operator.run("verify", "--json", "7").exit_code == (0 if ok else 1)


@pytest.mark.parametrize(("state", "required", "accepted", "status"), [
    ("on", True, False, 0), ("off", True, False, 1), ("off", True, True, 0), ("off", False, False, 0),
])
def test_doctor(operator, state, required, accepted, status):
    operator.on("doctor", [{"layer": "landlock", "state": state, "detail": "ABI 6", "remedy": "boot a newer kernel",
                            "required": required, "accepted": accepted}])
    result = operator.run("doctor")
    assert result.exit_code == operator.run("doctor", "--json").exit_code == status
    assert "ABI 6; boot a newer kernel" in result.stdout


@pytest.mark.parametrize("ok", [True, False])
def test_audit_verify(operator, ok):
    problems = [] if ok else [{"segment": "j-1", "offset": 64, "what": "a link does not match"}]
    operator.on("audit_verify", {"ok": ok, "problems": problems, "text": "12 records"})
    result = operator.run("audit", "verify")
    assert result.exit_code == operator.run("audit", "verify", "--json").exit_code == (0 if ok else 1)
    assert result.stdout == ("" if ok else "j-1:64: a link does not match\n") + "12 records\n"


def test_shutdown(operator, monkeypatch):
    ours, theirs = os.pipe()
    monkeypatch.setattr(os, "pidfd_open", lambda _pid: ours)
    operator.on("shutdown", lambda _why: os.close(theirs))  # which makes the other end readable, as a pidfd is then
    assert operator.run("shutdown", "--why", "done").exit_code == 0
    assert operator.calls("shutdown") == [("done",)]


def test_tables_need_no_kernel(operator):
    listed = json.loads(operator.run("syscalls", "--json").stdout)
    assert [row["name"] for row in listed] == [call.name for call in calls.CALLS]
    assert "needs branches" in operator.run("syscalls", "SYS_FORK").stdout
    assert operator.run("syscalls", "nope").exit_code == 1
    assert len(operator.run("syscalls").stdout.splitlines()) == 1 + len(calls.CALLS)
    assert "SIGPOLICY" in operator.run("signals").stdout
    assert [row["caught"] for row in json.loads(operator.run("signals", "--json").stdout)[:4]] == [
        "deferred", "yes", "yes", "never"]
    one = json.loads(operator.run("syscalls", "--json", "open").stdout)
    assert {row["name"] for row in one["errors"]} > {name for name, _ in calls.EVERY_CALL}
    assert operator.fake.seen == []


@pytest.mark.parametrize("name", [*VERBS, "audit verify", "policy check", "policy test", "policy diff", "policy show"])
def test_each_help_is_narrow_and_has_examples(operator, name):
    result = operator.run(*name.split(), "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert name in {"audit", "policy"} or "Examples:" in result.stdout


def test_the_help_of_all(operator):
    result = operator.run("--help")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert all(f"\n  {name} " in result.stdout for name in VERBS)
    assert "Exit status:" in result.stdout


def test_each_option_of_a_spawn_is_a_flag(operator):
    text = operator.run("run", "--help").stdout
    for option in spawn.OPTIONS:
        assert all(flag in text for flag in filter(None, option.flag.split(", ")))


@pytest.mark.parametrize(("words", "status"), [(["ps"], 1), (["wait", "1"], 125), (["spawn", "--", "x"], 125)])
def test_no_kernel(operator, words, status, tmp_path):
    result = operator.run(words[0], "--prefix", str(tmp_path / "other"), *words[1:])
    assert result.exit_code == status
    assert result.stderr.startswith(f"agentctl: no kernel is running at {tmp_path}/other/run/control.sock; ")
    assert operator.run("--prefix", str(tmp_path / "other"), "ps").exit_code == 1


def test_a_socket_path_that_is_too_long(operator):
    result = operator.run("ps", "--prefix", "/" + "x" * 100)
    assert (result.exit_code, "107 bytes" in result.stderr) == (1, True)


def test_a_closed_pipe_and_ctrl_c_are_quiet(operator):
    operator.on("logs", lambda *_args: ([1, b"x" * 65536, 0] for _ in range(50)))
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-m", "agentix.agentctl", "logs", "7"], stdout=writing,
                           stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_descriptor_too_many_is_refused(operator):
    with (Which(os.environ["AGENTIX_PREFIX"]).connect() as client, socket.socket() as many,
          pytest.raises(CallError, match="binds")):
        client.call("info", descriptors=[many.fileno()] * (control.DESCRIPTORS_MAX + 1))


def test_the_help_imports_no_tables():
    code = "import sys, agentix.agentctl; print(sorted({'attr', 'msgpack', 'json', 'subprocess'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_version(operator):
    result = operator.run("--version")
    assert (result.exit_code, result.stdout.startswith("agentctl ")) == (0, True)
