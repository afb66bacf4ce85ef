"""Another policy for living agents on a real kernel: at once, for all that was begun, and recorded before."""

import hashlib
import json
import os
import signal
import tempfile
from pathlib import Path

import pytest

MEMBER = {"user": 4244, "group": 4244, "extra_groups": [65534]}
HEAD = "version: 1\nname: {name}\nmode: {mode}\n"


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\nrestart_delay_s = 0.01\n") as kernel:
        os.chmod(kernel.prefix, 0o755)
        yield kernel


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="agentix-set-") as path:
        os.chmod(path, 0o755)
        yield path


def document(folder: str, name: str, rules: str, mode: str = "enforce") -> str:
    Path(folder, f"{name}.yaml").write_text(HEAD.format(name=name, mode=mode) + rules)
    return f"{folder}/{name}.yaml"


WIDE = "allow:\n  - {file: /, action: [read, write]}\n  - {signal: '*', to: self}\n  - {tool: '*'}\n"
NARROW = "allow:\n  - {file: /, action: read}\n  - {file: /mem/working, action: write}\n  - {signal: '*', to: self}\n"
ASKED = """
import errno, json, os
from agentix import libc
def told(act, *args):
    try:
        act(*args)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
fd = libc.open("state/held", libc.O_RDWR | libc.O_CREAT)
host = os.open("/agent/self/state/mount", os.O_RDWR | os.O_CREAT)
libc.signal(libc.SIGUSR2, libc.SIG_DFL)
libc.sigprocmask(libc.SIG_BLOCK, {libc.SIGUSR2})
while True:
    print(json.dumps([
        told(libc.pwrite, fd, b"x", 0), told(os.pwrite, host, b"x", 0), told(os.pread, host, 1, 0),
        told(libc.open, "state/new", libc.O_WRONLY | libc.O_CREAT), told(libc.mkdir, "mem/working/d"),
        told(libc.unlink, "state/none"), told(libc.exec_tool, "shell.execute", {"command": "true"})]),
        flush=True)
    libc.sigwait({libc.SIGUSR2})
"""


def said(live, agent):
    return [json.loads(line) for line in live.ctl("logs", agent, check=0).stdout.splitlines()]


def ask_again(live, agent):
    count = len(said(live, agent))
    live.ctl("kill", "-s", "SIGUSR2", agent, check=0)
    return live.until(lambda: len(found := said(live, agent)) > count and found[-1])


def test_what_is_not_allowed_any_more_is_taken_back_at_once(live, folder, scripts):
    wide, narrow = document(folder, "wide", WIDE), document(folder, "narrow", NARROW)
    agent = live.spawn("--policy", wide, "--name", "scout", scripts(ASKED))
    assert live.until(lambda: said(live, agent))[0] == ["ok", "ok", "ok", "ok", "ok", "ENOENT", "ok"]
    row, = live.json("policy", "set", agent, narrow)
    assert (row["id"], row["result"]) == (agent, "set")
    assert row["closed"] == [f"/agent/{agent}/state/{name}" for name in ("held", "mount", "new")]
    assert ask_again(live, agent) == ["EPERM", "EPERM", "ok", "EPERM", "EEXIST", "EPERM", "EPERM"]
    effective = Path(live.tree(agent, "policy/effective")).read_text()
    assert f"Allow:\tcapability://file/mem/working?action=write ({narrow}:6)\n" in effective
    shown = live.json("policy", "show", agent)
    assert (shown["name"], shown["hash"]) == ("narrow", hashlib.sha256(Path(narrow).read_bytes()).hexdigest())
    kept = [(one["phase"], one["data"]["hash"], one["data"]["detail"]) for one in live.record(agent, "policy")]
    assert [phase for phase, _, _ in kept] == ["event", "intent", "outcome"]
    assert kept[-1][1] == shown["hash"]
    assert kept[-1][2].startswith(f"{narrow}: set by uid 0")
    Path(narrow).unlink()
    Path(wide).write_text("nonsense")
    live.ctl("policy", "set", "scout", document(folder, "again", WIDE), check=0)
    assert ask_again(live, agent)[3:] == ["ok", "EEXIST", "ENOENT", "ok"]
    live.ctl("rm", "-f", agent, check=0)


def test_a_call_that_waits_and_a_tool_that_runs_are_ended(live, folder, scripts):
    agent = live.spawn("--policy", document(folder, "wide", WIDE), scripts("""
from agentix import libc
print("begun", flush=True)
try:
    libc.exec_tool("shell.execute", {"command": "sleep 1000"})
except OSError as error:
    print(error.errno, error.reason.rule, flush=True)
"""))
    live.until_logged(agent, "begun\n")
    live.until(lambda: any(row["phase"] == "intent" for row in live.record(agent, "tool")))
    row, = live.json("policy", "set", agent, document(folder, "narrow", NARROW))
    assert row["ended"] == ["EXEC"]
    assert live.until_logged(agent, "default deny") == f"begun\n1 {folder}/narrow.yaml: default deny\n"


def test_children_have_at_most_what_their_parent_has_at_once(live, folder, scripts):
    wide = document(folder, "wide", WIDE + "  - {spawn: '*', max: 3}\n")
    agent = live.spawn("--policy", wide, scripts(f"""
from agentix import libc
with open("/tmp/child.py", "w") as file:
    file.write({ASKED!r})
print(libc.spawn("/tmp/child.py", deny=["UNLINK"], spawn_max=1), flush=True)
while True:
    libc.sigwait({{libc.SIGUSR2}})
"""))
    kid = int(live.until_logged(agent, "\n"))
    assert live.until(lambda: said(live, kid))[0][5] == "EPERM"
    only_state = "allow:\n  - {file: /state, action: [read, write]}\n  - {signal: '*', to: self}\n"
    assert "has what its parent has" in live.ctl("policy", "set", kid, "strict", check=1).stderr
    row, = live.json("policy", "set", agent, kid, document(folder, "state", only_state))
    assert [one["id"] for one in row["children"]] == [kid]
    assert ask_again(live, kid) == ["ok", "ok", "ok", "ok", "EPERM", "EPERM", "EPERM"]
    child = live.json("policy", "show", kid)
    assert (child["name"], child["spawn_max"]) == ("state", 0)
    assert [one["rule"] for one in child["rules"] if not one["line"]] == ["UNLINK"]
    assert live.record(kid, "policy")[-1]["data"]["detail"].startswith(
        f"{folder}/state.yaml: set with agent {agent} by uid 0")
    live.ctl("rm", "-f", kid, agent)


def test_denials_and_a_stricter_mode_of_the_spawn_stay(live, folder):
    soft = document(folder, "soft", WIDE, mode="audit")
    agent = live.spawn("--mode", "strict", "--deny", "MKDIR", "--spawn-max", "5", "--", "/bin/sleep", "1000")
    live.ctl("policy", "set", agent, soft, check=0)
    told = live.json("policy", "show", agent)
    assert (told["mode"], told["spawn_max"]) == ("strict", 0)
    assert [one["rule"] for one in told["rules"] if not one["line"]] == ["MKDIR"]
    live.ctl("rm", "-f", agent, check=0)


def test_limits_of_the_document_are_set_at_once(live, folder):
    agent = live.spawn("--policy", document(folder, "a", "limits: {memory: 128M, pids: 30}\n" + WIDE), "--pids", "20",
                       "--", "/bin/sleep", "1000")
    tighter = document(folder, "b", "limits: {memory: 96M, pids: 25, cpus: 0.5}\n" + WIDE)
    live.ctl("policy", "set", agent, tighter, check=0)
    limits = live.json("inspect", agent)["limits"]
    assert (limits["memory_bytes"], limits["pids"], limits["cpus"]) == (96 << 20, 20, 0.5)
    assert {row["layer"]: row["state"] for row in live.json("verify", agent)["layers"]}["limits"] == "on"
    live.ctl("policy", "set", agent, document(folder, "c", "limits: {timeout: 10ms}\n" + WIDE), check=0)
    live.ctl("wait", agent, check=137)
    assert live.agent(agent)["why"] == "timeout"


def test_what_is_built_in_needs_a_restart_and_gets_it_on_demand(live, folder):
    for name in ("one", "two"):
        os.mkdir(f"{folder}/{name}")
        Path(folder, name, "note").write_text(f"{name}\n")
    plain = document(folder, "plain", WIDE)
    bound = document(folder, "bound", f"binds:\n  - {{host: {folder}/one, at: /in, mode: ro}}\n{NARROW}")
    other = document(folder, "other", f"binds:\n  - {{host: {folder}/two, at: /in, mode: ro}}\n{NARROW}")
    agent = live.spawn("--policy", plain, "--bind-ro", f"{folder}/two:/mine", "--", "/bin/sh", "-c",
                       "exec 2>&1; cat /in/note /mine/note; exec sleep 1000")
    live.until_logged(agent, "two\n")
    refused = live.ctl("policy", "set", agent, bound, check=3)
    assert f"{folder}/one at /in ro comes ({bound}:5)" in refused.stdout
    assert live.json("policy", "show", agent)["name"] == "plain"
    done = live.ctl("policy", "set", "--now", agent, bound, check=0)
    assert "restarted" in done.stdout
    live.until_logged(agent, "one\ntwo\n")
    assert live.json("policy", "show", agent)["name"] == "bound"
    assert live.agent(agent)["life"] == 2
    live.ctl("policy", "set", "--now", agent, other, check=0)
    live.until_logged(agent, "one\ntwo\ntwo\ntwo\n")
    assert live.json("policy", "set", "--now", agent, plain.replace("plain", "other"))[0]["result"] == "set"
    assert sorted(bind["source"] for bind in live.json("inspect", agent)["binds"]) == [f"{folder}/two"] * 2
    live.ctl("policy", "set", "--now", agent, plain, check=0)
    live.until_logged(agent, "/in/note: No such file or directory\n")
    live.ctl("rm", "-f", agent, check=0)


def test_who_may_and_what_is_refused_changes_nothing(live, folder):
    agent = live.spawn("--", "/bin/sleep", "1000")
    theirs = int(live.ctl("spawn", "--", "/bin/sleep", "1000", check=0, **MEMBER).stdout)
    before = live.json("policy", "show", agent), live.json("policy", "show", theirs)
    told = live.ctl("policy", "set", theirs, agent, "strict", check=1, **MEMBER).stderr
    assert f"agent {agent} (agent-{agent}) is uid 0's, not yours" in told
    assert (live.json("policy", "show", agent), live.json("policy", "show", theirs)) == before
    assert live.record(agent, "denial")[-1]["data"]["enforcer"] == "control"
    bad = document(folder, "bad", "alow: []\n")
    assert f"{bad}:4:1: no key 'alow'; did you mean 'allow'?" in live.ctl("policy", "set", agent, bad, check=1).stderr
    assert "no such agent" in live.ctl("policy", "set", agent, 99999, "strict", check=1).stderr
    assert live.json("policy", "show", agent) == before[0]
    refused = [row["data"]["detail"] for row in live.rows("trace", "--tail", 20)
               if (row["kind"], row["verdict"]) == ("policy", "failed")]
    assert refused[-1] == f"uid 0: refused: {bad}:4:1: no key 'alow'; did you mean 'allow'?"
    live.ctl("policy", "set", theirs, "strict", check=0, **MEMBER)
    assert live.json("policy", "show", theirs)["mode"] == "strict"
    live.ctl("rm", "-f", agent, theirs, check=0)


def test_a_set_policy_outlasts_restart_and_boot_and_can_be_given_to_the_dead(make_kernel, folder):
    kernel = make_kernel("restart_delay_s = 0.01\n")
    narrow = document(folder, "narrow", NARROW)
    agent = kernel.spawn("--restart", "always", "--", "/bin/sh", "-c",
                         "echo x > /agent/self/state/held || echo refused; exec sleep 1000")
    dead = kernel.spawn("--mode", "strict", "--deny", "MKDIR", "--", "/bin/mkdir", "/agent/self/state/x")
    kernel.ctl("policy", "set", agent, narrow, check=0)
    kernel.ctl("restart", agent, check=0)
    kernel.until_logged(agent, "refused\n")
    kernel.ctl("wait", dead, check=137)
    kernel.ctl("policy", "set", dead, narrow, check=0)
    os.unlink(narrow)
    before = kernel.json("policy", "show", agent), kernel.json("policy", "show", dead)
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait()
    kernel.start()
    kernel.until(lambda: kernel.ctl("logs", agent, check=0).stdout.count("refused\n") == 2)
    assert (kernel.json("policy", "show", agent), kernel.json("policy", "show", dead)) == before
