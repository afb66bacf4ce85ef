"""Policies on a real kernel: one file through both doors, refused when it is bad, kept by restarts and boots."""

import json
import os
import signal
from pathlib import Path

import pytest

HEAD = "version: 1\nname: a\nmode: enforce\n"
BOT = """\
version: 1
name: bot
mode: enforce
limits: {pids: 20}
allow:
  - {file: /, action: read}
  - {file: /state, action: [read, write]}
  - {signal: SIGUSR2, to: self}
  - {spawn: 'kid-*', max: 4}
  - capability://agent/child?action=wait
deny:
  - {file: /state/held, action: write}
  - {call: MKDIR, path: /state/flat}
"""
SECRET = "bot.yaml:12: deny capability://file/state/held?action=write"
DEFAULT = "bot.yaml: default deny"


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\nrestart_delay_s = 0.01\n") as kernel:
        yield kernel


@pytest.fixture
def bot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bot.yaml").write_text(BOT)
    return "bot.yaml"


BOTH_DOORS = """
import errno, json, os
from agentix import libc
def rule(act, *args):
    try:
        act(*args)
    except OSError as error:
        assert error.errno == errno.EPERM, error
        return error.reason.rule if hasattr(error, "reason") else "EPERM"
    return ""
libc.signal(libc.SIGUSR2, libc.SIG_IGN)
W = libc.O_WRONLY | libc.O_CREAT
me = "/agent/self/"
try:
    libc.open("mem/working/x", W)
except OSError as error:
    asked = error.reason
print(json.dumps({
    "reason": [asked.rule, asked.enforcer, asked.remedy],
    "call": [rule(libc.open, path, W) for path in ("state/held", "state/free", "mem/working/x")],
    "mount": [rule(os.open, me + path, os.O_WRONLY | os.O_CREAT)
              for path in ("state/held", "state/free2", "mem/working/x")],
    "rename": [rule(libc.rename, "state/free", "state/held"), rule(os.rename, me + "state/free2", me + "state/held"),
               rule(libc.rename, "state/free", "mem/working/y"), rule(libc.rename, "state/free", "state/free3")],
    "mkdir": [rule(libc.mkdir, "state/flat"), rule(os.mkdir, me + "state/flat"), rule(libc.mkdir, "state/deep")],
    "signal": [rule(libc.kill, libc.getpid(), libc.SIGUSR1), rule(libc.kill, libc.getpid(), libc.SIGUSR2)],
    "tool": rule(libc.exec_tool, "shell.execute", {"command": "true"}),
    "spawn": [rule(lambda name: libc.spawn(exec="/bin/true", name=name), name) for name in ("other", "kid-1")],
    "check": [libc.checkpolicy("WRITE", "state/held").rule, libc.checkpolicy("WRITE", "state/y").allowed,
              libc.checkpolicy("EXEC").allowed, libc.checkpolicy("SPAWN", "kid-2").allowed],
    "rules": libc.getpolicy().rules,
}))
"""


def test_one_file_holds_at_both_doors(live, bot, scripts):
    done = live.ctl("run", "--policy", bot, "--name", "both", scripts(BOTH_DOORS), check=0)
    told = json.loads(done.stdout)
    assert told["reason"] == [
        DEFAULT, "dispatch", "in bot.yaml, under allow: - capability://file/mem/working/x?action=write"]
    assert told["call"] == [SECRET, "", DEFAULT]
    assert told["mount"] == ["EPERM", "", "EPERM"]
    assert told["rename"] == [SECRET, "EPERM", DEFAULT, ""]
    assert told["mkdir"] == ["bot.yaml:13: deny capability://call/MKDIR/state/flat?action=make", "EPERM", ""]
    assert told["signal"] == [DEFAULT, ""]
    assert told["tool"] == DEFAULT
    assert told["spawn"] == [DEFAULT, ""]
    assert told["check"] == [SECRET, True, False, True]
    assert told["rules"][0] == ["allow capability://file?action=read", "bot.yaml", 6]
    agent = next(row for row in live.json("ps", "-a") if row["name"] == "both")
    rules = {row["rule"] for row in live.record(agent["id"], "denial")}
    assert {SECRET, DEFAULT} <= rules
    assert [row["data"]["detail"] for row in live.record(agent["id"], "policy")] == ["bot.yaml"]
    assert live.json("inspect", "both")["limits"]["pids"] == 20


def test_children_have_the_same_document_and_never_more(live, bot, scripts):
    agent = live.spawn("--policy", bot, scripts("""
import json, time
from agentix import libc
def refused(**more):
    try:
        libc.spawn(exec="/bin/true", name="kid-x", **more)
    except OSError as error:
        return error.reason.message
kid = libc.spawn(exec="/bin/sleep", args=["1000"], name="kid-held", deny=["UNLINK"], spawn_max=1)
print(json.dumps([kid, refused(mode="audit"), refused(spawn_max=5)]), flush=True)
while True:
    time.sleep(1000)
"""))
    live.until_logged(agent, "]")
    kid, softer, more = json.loads(live.ctl("logs", agent, check=0).stdout)
    assert "softer" in softer
    assert "over the parent's" in more
    parent, child = (live.json("policy", "show", one) for one in (agent, kid))
    assert (child["mode"], child["spawn_max"], parent["spawn_max"]) == ("enforce", 1, 4)
    spawning = {"effect": "allow", "rule": "capability://agent/kid-*?action=spawn&max={}", "file": "bot.yaml",
                "line": 9}
    assert [row for row in child["rules"] if row not in parent["rules"]] == [
        spawning | {"rule": spawning["rule"].format(1)}, {"effect": "deny", "rule": "UNLINK", "file": "", "line": 0}]
    assert [row for row in parent["rules"] if row not in child["rules"]] == [
        spawning | {"rule": spawning["rule"].format(4)}]
    live.ctl("kill", "-9", agent, kid, check=0)


@pytest.mark.parametrize(("text", "complaints"), [
    ("", ["bad.yaml:1:1: "]),
    (HEAD + "allow: [&a {file: /, action: read}, *a]\n", ["bad.yaml:4:9: "]),
    ("version: 1\nname: a\nname: b\nmode: enforce\n", ["bad.yaml:3:1: key 'name' again"]),
    ("version: 2\nmode: lax\nalow: []\n", ["bad.yaml:1:10: ", "bad.yaml:2:7: ", "bad.yaml:3:1: no key 'alow'"]),
    (HEAD + "allow:\n  - {net: example.org, port: 1}\n", ["bad.yaml:5:5: net"]),
    (HEAD + "allow:\n  - {file: /nowhere, action: read}\n", ["bad.yaml:5:5: nothing is at"]),
    (HEAD + "budgets: {calls: 0}\n", ["bad.yaml:4:18: '0' is not a number"]),
    (HEAD + "# " + "x" * 70000, ["bad.yaml:1:1: 65,537 bytes"]),
    ("version: 1\nname: a\x1b[2J\nmode: enforce\n", ["bad.yaml:2:8: a character that YAML does not allow"]),
])
def test_a_bad_file_refuses_the_spawn_and_says_all_that_is_wrong(live, tmp_path, monkeypatch, text, complaints):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    before = live.json("ps", "-a")
    done = live.ctl("spawn", "--policy", "bad.yaml", "--", "/bin/true", check=2)
    assert all(one in done.stderr for one in complaints), done.stderr
    assert "\x1b" not in done.stderr
    assert [row["id"] for row in live.json("ps", "-a")] == [row["id"] for row in before]
    told = [row["data"]["detail"] for row in live.rows("trace", "--tail", 20)
            if (row["kind"], row["verdict"]) == ("policy", "failed")]
    assert told[-1].startswith("uid 0: refused: bad.yaml:")
    checked = live.ctl("policy", "check", "bad.yaml", check=1)
    assert checked.stderr == done.stderr


def test_a_file_that_is_not_there_or_not_ones_own_is_refused_before_anything_runs(live, tmp_path):
    assert "nope.yaml: No such file" in live.ctl("spawn", "--policy", "nope.yaml", "--", "/bin/true", check=1).stderr
    assert "Is a directory" in live.ctl("spawn", "--policy", str(tmp_path), "--", "/bin/true", check=1).stderr


def test_strict_kills_with_file_and_line(live, bot):
    done = live.ctl("run", "--name", "outlaw", "--mode", "strict", "--policy", bot, "--", "/bin/sh", "-c",
                    "echo x > /agent/self/state/held; echo never", check=137)
    assert (done.stdout, SECRET in done.stderr) == ("", True)
    row = next(row for row in live.json("ps", "-a") if row["name"] == "outlaw")
    assert (row["why"], row["signal"], row["rule"]) == ("policy", "SIGPOLICY", SECRET)
    assert "bot.yaml:12" in live.ctl("ps", "-a", "--filter", "name=outlaw", check=0).stdout
    assert Path(live.tree(row["id"], "policy/last-denial")).read_text() == (
        f"WRITE /state/held is denied\nRule:\t{SECRET}\nEnforcer:\tmount\nMode:\tstrict\n"
        "Remedy:\tdeny beats allow: only a change of bot.yaml:12 would permit it\n")
    assert "Deny:\tcapability://file/state/held?action=write (bot.yaml:12)\n" in Path(
        live.tree(row["id"], "policy/effective")).read_text()


@pytest.mark.parametrize("mode", ["strict", "enforce"])
def test_an_agent_that_may_not_enter_its_working_folder_is_not_run(live, tmp_path, mode):
    text = f"version: 1\nname: s\nmode: {mode}\nallow: [{{file: /state, action: read}}]\n"
    (tmp_path / "state.yaml").write_text(text)
    done = live.ctl("spawn", "--policy", str(tmp_path / "state.yaml"), "--", "/bin/true")
    assert (done.returncode, "does not let it enter its working directory" in done.stderr) == (125, True)
    told = live.ctl("run", "--policy", str(tmp_path / "state.yaml"), "--cwd", "/tmp", "--", "/bin/ls",
                    "/agent/self/state", check=0)
    assert told.stdout == ""


def test_what_is_asked_beyond_the_documents_limits_is_cut(live, bot):
    agent = live.spawn("--policy", bot, "--pids", "64", "--memory", "64M", "--", "/bin/true")
    limits = live.json("inspect", agent)["limits"]
    assert (limits["pids"], limits["memory_bytes"]) == (20, 64 << 20)


def test_profiles_name_policies(live, bot):
    policy, profile = Path(live.prefix, "bot.yaml"), Path(live.prefix, "profiles", "bot.toml")
    policy.write_text(BOT)
    profile.parent.mkdir(exist_ok=True)
    profile.write_text(f'policy = "{policy}"\ndeny = ["UNLINK"]\n')
    live.ctl("reload", check=0)
    agent = live.spawn("--profile", "bot", "--deny", "MKDIR", "--", "/bin/true")
    told = live.json("policy", "show", agent)
    assert (told["name"], told["source"]) == ("bot", str(policy))
    assert [row["rule"] for row in told["rules"] if not row["line"]] == ["UNLINK", "MKDIR"]
    assert live.json("profiles", "bot")["options"]["policy"] == str(policy)
    policy.write_text("nonsense")
    assert f"{policy}:1:1" in live.ctl("reload", check=1).stderr
    policy.chmod(0o666)
    assert "what agents may do" in live.ctl("reload", check=1).stderr
    profile.unlink()
    live.ctl("reload", check=0)


def test_policies_are_tested_and_compared(live, bot):
    refused = live.ctl("policy", "test", bot, "--call", "write", "--path", "/state/held/x", check=1)
    assert refused.stdout == f"refused: WRITE /state/held/x is denied ({SECRET})\n"
    assert live.ctl("policy", "test", bot, "--call", "SYS_READ", "--path", "/mem", check=0).stdout == "allowed\n"
    assert live.ctl("policy", "test", "strict", "--call", "EXEC", "--path", "shell.execute", check=1)
    assert live.ctl("policy", "test", "audit", "--call", "EXEC", "--path", "shell.execute", check=0)
    assert "no call is named" in live.ctl("policy", "test", bot, "--call", "NOPE", check=1).stderr
    assert "must start with" in live.ctl("policy", "test", bot, "--call", "READ", "--path", "x", check=1).stderr
    Path("odd.yaml").write_text(HEAD + "deny:\n  - {tool: shell.exec}\n")
    told = live.ctl("policy", "check", "odd.yaml", check=0).stdout.splitlines()
    tool = "no tool of this version is called 'shell.exec'; did you mean 'shell.execute'?"
    assert told == [f"warning: odd.yaml:5:5: {tool}", "warning: odd.yaml:5:5: denies what no rule allows",
                    "odd.yaml: a, mode enforce, 1 rules"]
    Path("new.yaml").write_text(BOT.replace("max: 4", "max: 5"))
    assert ("wider", "allow capability://agent/kid-*?action=spawn&max=5") in {
        (change["effect"], change["after"]) for change in live.json("policy", "diff", bot, "new.yaml")}


def test_a_restart_and_a_boot_keep_the_policy(make_kernel, bot):
    kernel = make_kernel("restart_delay_s = 0.01\n")
    agent = kernel.spawn("--restart", "always", "--policy", bot, "--deny", "UNLINK", "--", "/bin/sh", "-c",
                         "echo x > /agent/self/state/held || echo refused; exec sleep 1000")
    kernel.until_logged(agent, "refused\n")
    before = kernel.json("policy", "show", agent)
    Path(bot).unlink()
    kernel.ctl("restart", agent, check=0)
    kernel.until_logged(agent, "refused\nrefused\n")
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait()
    kernel.start()
    kernel.until_logged(agent, "refused\nrefused\nrefused\n")
    assert kernel.json("policy", "show", agent) == before
    assert kernel.agent(agent)["life"] == 3
