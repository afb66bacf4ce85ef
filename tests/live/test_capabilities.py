"""Capabilities on a real kernel: held, narrowed, passed on, counted, taken back at once, and kept."""

import json
import os
import signal
from pathlib import Path

import pytest

BOT = """\
version: 1
name: bot
mode: enforce
allow:
  - {file: /, action: read}
  - {file: /state, action: [read, write]}
  - {file: /mem/working, action: write}
  - {spawn: 'kid-*', max: 2}
  - capability://agent/child?action=wait
  - {tool: shell.execute, rate: 2/h}
"""
STATE = "capability://file/state?action=read,write"
TRIED = """
import json, os, sys, time
from agentix import libc
def tried(act, *args, **more):
    try:
        found = act(*args, **more)
    except OSError as error:
        return [error.errno, error.reason.rule if hasattr(error, "reason") else ""]
    return found.decode() if isinstance(found, bytes) else found
def say(**found):
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\nrestart_delay_s = 0.01\n") as kernel:
        yield kernel


@pytest.fixture
def bot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bot.yaml").write_text(BOT)
    return "bot.yaml"


def said(live, agent, key):
    """What an agent has said of something, as JSON lines of one key."""
    def look():
        rows = [json.loads(line) for line in live.ctl("logs", agent, check=0).stdout.splitlines() if line[:1] == "{"]
        return [row[key] for row in rows if key in row]
    return live.until(look)[-1]


FAMILY = TRIED + """
if len(sys.argv) > 1:
    held = [[one.handle, one.capability, one.giver, one.giver_handle] for one in libc.caps()]
    say(held=held, wide=tried(libc.grant, 1, libc.getpid(), "capability://file?action=read"),
        parent=[tried(libc.caps, libc.getppid()), tried(libc.revoke, libc.getppid(), 2),
                tried(libc.grant, 1, libc.getppid())],
        mem=tried(libc.listdir, "mem"),
        wrote=tried(libc.write, libc.open("state/x", libc.O_CREAT | libc.O_WRONLY), b"x"))
    while True:
        time.sleep(1000)
def spawn(name, *capabilities):
    return tried(libc.spawn, [sys.argv[0], "child"], name=name, capabilities=capabilities)
kid = spawn("kid-1", "capability://file/state?action=read,write", "capability://file/policy?action=read",
            "capability://file/mem/working?action=read")
me = libc.getpid()
say(kid=kid, wider=[spawn("kid-2", "capability://file/state?action=read,write", "capability://net/x?action=connect"),
                    spawn("kid-2", "capability://file/state/x?action=read&timeout=1s"),
                    spawn("kid-2", "capability://file/mem?action=write"), spawn("kid-2", "nonsense")],
    given=tried(libc.grant, 2, kid, "capability://file/state/notes?action=read"),
    whole=tried(libc.grant, 3, kid), own=tried(libc.grant, 1, me, "capability://file/policy?action=read"),
    more=tried(libc.grant, 3, kid, "capability://file/mem?action=write"), bad=tried(libc.grant, 3, kid, "nonsense"),
    forged=[tried(libc.grant, 99, kid), tried(libc.grant, 2, 1 << 40), tried(libc.caps, 1 << 40),
            tried(libc.revoke, me, 99), tried(libc.revoke, 1 << 40, 1)],
    theirs=[one.handle for one in libc.caps(kid)])
while not os.path.exists("/agent/self/state/go"):
    time.sleep(0.01)
say(gone=libc.revoke(me, 2), left=[one.handle for one in libc.caps(kid)], rules=libc.getpolicy().rules[0],
    file=open("/agent/self/policy/capabilities").read())
while True:
    time.sleep(1000)
"""


def test_a_family_passes_on_narrows_and_takes_back(live, bot, scripts):
    agent = live.spawn("--policy", bot, "--name", "family", scripts(FAMILY))
    live.until_logged(said(live, agent, "kid"), "wrote")
    Path(live.tree(agent, "state/go")).touch()
    told = {key: said(live, agent, key) for key in ("kid", "wider", "given", "whole", "own", "more", "bad", "forged",
                                                    "theirs", "gone", "left", "rules", "file")}
    kid = told["kid"]
    assert [row[0] for row in told["wider"]] == [22, 22, 1, 22]
    assert (told["given"], told["whole"], told["own"], told["theirs"]) == (4, 5, 7, [1, 2, 3, 4, 5])
    assert told["more"] == [1, "what is given is at most what is held"]
    assert told["bad"][0] == 22
    assert [row[0] for row in told["forged"]] == [9, 10, 10, 9, 9]
    assert told["gone"] == [[agent, 2], [kid, 3], [kid, 4]]
    assert told["left"] == [1, 2, 5]
    assert told["rules"] == ["allow capability://file?action=read", "bot.yaml", 5]
    assert "7\tcapability://file/policy?action=read\tbot.yaml:5\tfrom agent" in told["file"]
    held = said(live, kid, "held")
    assert [row[1:] for row in held[:3]] == [
        ["capability://file/policy?action=read", agent, 1], ["capability://file/mem/working?action=read", agent, 1],
        [STATE, agent, 2]]
    assert said(live, kid, "wide") == [1, "what is given is at most what is held"]
    assert [row[0] for row in said(live, kid, "parent")] == [10, 9, 10]
    assert said(live, kid, "mem") == [1, "bot.yaml: default deny"]
    assert said(live, kid, "wrote") == 1
    rows = [(row["kind"], row["data"]["change"], row["data"]["capability"], row["data"]["giver"], row["data"]["by"])
            for row in live.record(kid) if row["kind"] in {"grant", "revoke"}]
    assert ("grant", "begin", STATE, agent, agent) in rows
    assert ("grant", "delegate", "capability://file/state/notes?action=read", agent, agent) in rows
    assert ("revoke", "revoke", STATE, agent, agent) in rows
    assert [row["rule"] for row in live.record(agent, "denial")] == ["what is given is at most what is held"]
    tree = live.ctl("caps", "--tree", "family", check=0).stdout.splitlines()
    assert tree[0] == "family:1 capability://file?action=read, bot.yaml:5"
    assert "  kid-1:1 capability://file/policy?action=read" in tree
    assert {row["agent"] for row in live.json("caps", "family")} == {agent}
    assert {agent, kid} <= {row["agent"] for row in live.json("caps")}
    live.ctl("kill", "-9", agent, kid, check=0)


HOLDER = TRIED + """
handle = libc.open("state/f", libc.O_RDWR | libc.O_CREAT)
libc.write(handle, b"text")
fd, folder = os.open("/agent/self/state/f", os.O_RDWR), os.open("/agent/self/state", os.O_RDONLY)
while True:
    say(now=[tried(libc.pread, handle, 4, 0), tried(libc.pwrite, handle, b"x", 9), tried(os.pread, fd, 4, 0),
             tried(os.pwrite, fd, b"y", 9), tried(os.listdir, folder), tried(os.listdir, "/agent/self/state")])
    time.sleep(0.02)
"""


def test_what_operators_take_back_is_gone_at_both_doors_and_what_stays_is_named(live, bot, scripts, tmp_path):
    agent = live.spawn("--policy", bot, "--name", "holder", "--bind-ro", f"{tmp_path}:/data", scripts(HOLDER))
    assert said(live, agent, "now") == ["text", 1, "text", 1, ["f"], ["f"]]
    told = live.ctl("revoke", "holder", 2, check=0).stdout.splitlines()
    assert told == [f"agent {agent}: 2 {STATE} is taken back",
                    f"agent {agent}: /agent/{agent}/state/f, which is open: what is not allowed any more is refused",
                    f"agent {agent}: stays as it is, shown by a mount: /data (ro, {tmp_path})"]
    default = [1, "bot.yaml: default deny"]
    live.until(lambda: said(live, agent, "now") == ["text", default, "text", [1, ""], ["f"], ["f"]])
    taken = json.loads(live.ctl("revoke", "holder", 1, "--json", check=0).stdout)
    assert [row["handle"] for row in taken["gone"]] == [1]
    assert taken["stays"][0]["closed"] == [f"/agent/{agent}/state", f"/agent/{agent}/state/f"]
    live.until(lambda: said(live, agent, "now") == [default, default, [1, ""], [1, ""], [1, ""], [1, ""]])
    assert live.agent(agent)["state"] == "running"
    given = live.ctl("grant", "holder", "capability://file/state?action=read", check=0).stdout
    assert given == "7\n"
    live.until(lambda: said(live, agent, "now") == [default, default, [1, ""], [1, ""], [1, ""], ["f"]])
    live.ctl("kill", "-9", agent, check=0)


@pytest.mark.parametrize(("text", "why"), [
    ("capability://net/x?action=connect", "not in this version"),
    ("capability://call/OPEN?action=make", "can only be denied"),
    ("capability://file/state?action=read&timeout=3s", "only tools have one"),
    ("capability://file/nowhere?action=read", "nothing is at /nowhere"),
    ("capability://file/state?action=raed", "did you mean 'read'"), ("file:read", "begins with capability://"),
    ("capability://file/state?action=read&max=0", "not a number"), ("", "begins with")])
def test_what_nobody_can_hold_is_refused_by_name(live, bot, text, why):
    agent = live.spawn("--policy", bot, "--", "/bin/sleep", "1000")
    done = live.ctl("grant", agent, text, check=1)
    assert why in done.stderr
    assert len(live.json("caps", agent)) == 6
    live.ctl("kill", "-9", agent, check=0)


def test_only_root_and_its_owner_change_what_an_agent_holds(live, bot, tmp_path):
    os.chmod(live.prefix, 0o755)
    member = {"user": 4244, "group": 4244, "extra_groups": [65534]}
    agent = live.spawn("--policy", bot, "--", "/bin/sleep", "1000")
    theirs = int(live.ctl("spawn", "--", "/bin/sleep", "1000", check=0, **member).stdout)
    assert len(json.loads(live.ctl("caps", agent, "--json", check=0, **member).stdout)) == 6
    for verb in (("grant", agent, STATE), ("revoke", agent, 1)):
        assert "uid 0's, not yours" in live.ctl(*verb, check=1, **member).stderr
    assert [row["handle"] for row in live.json("caps", agent)] == [1, 2, 3, 4, 5, 6]
    denied = [row["data"]["call"] for row in live.record(agent, "denial")]
    assert denied == ["grant", "revoke"]
    given = live.ctl("grant", theirs, STATE, check=0, **member).stdout.strip()
    live.ctl("revoke", theirs, given, check=0, **member)
    live.ctl("kill", "-9", agent, theirs, check=0)


def test_who_has_ended_is_given_nothing(live, bot):
    agent = live.spawn("--policy", bot, "--", "/bin/true")
    live.ctl("wait", agent, check=0)
    assert live.json("caps", agent) == []
    for verb in (("grant", agent, STATE), ("revoke", agent, 1)):
        assert "has ended" in live.ctl(*verb, check=1).stderr
    assert "holds no capability 77" in live.ctl("revoke", live.spawn("--", "/bin/sleep", "9"), 77, check=1).stderr


COUNTED = """\
version: 1
name: counted
mode: {mode}
allow:
  - {{file: /state, action: [read, write], max: 3}}
  - {{file: /mem/working, action: read}}
  - {{file: /mem/working/held, action: read, rate: 1/day}}
  - {{signal: SIGUSR2, to: self, max: 1}}
"""
COUNTS = TRIED + """
libc.signal(libc.SIGUSR2, libc.SIG_IGN)
me = "/agent/self/"
def mount(path, flags):
    fd = os.open(me + path, flags)
    for _ in range(5):
        os.write(fd, b"x")
    os.close(fd)
say(asked=[libc.checkpolicy("WRITE", "state/f").allowed for _ in range(9)][-1], stat=[
        tried(libc.stat, "state")[0] > 0, os.stat(me + "state").st_mode > 0],
    call=tried(libc.open, "state/f", libc.O_RDWR | libc.O_CREAT), mount=tried(mount, "state/g", os.O_CREAT | os.O_RDWR),
    move=tried(libc.rename, "state/g", "state/h"), over=[
        tried(libc.rename, "state/h", "state/i"), tried(os.rename, me + "state/h", me + "state/j"),
        tried(libc.open, "state/f"), tried(os.open, me + "state/f", os.O_RDONLY), tried(os.listdir, me + "state")],
    free=[tried(libc.listdir, "mem/working") for _ in range(9)][-1], told=libc.checkpolicy("WRITE", "state/f"),
    signal=[tried(libc.kill, libc.getpid(), libc.SIGUSR2) for _ in range(2)])
"""
SPENT = "counted.yaml:5: allow capability://file/state?action=read,write&max=3"


@pytest.mark.parametrize("mode", ["enforce", "strict", "audit"])
def test_uses_are_counted_alike_at_both_doors_and_are_no_violation(live, scripts, tmp_path, monkeypatch, mode):
    monkeypatch.chdir(tmp_path)
    Path("counted.yaml").write_text(COUNTED.format(mode=mode))
    done = live.ctl("run", "--policy", "counted.yaml", "--name", f"counted-{mode}", scripts(COUNTS), check=0)
    told = json.loads(done.stdout)
    assert (told["asked"], told["stat"], told["call"], told["mount"], told["move"]) == (
        True, [True, True], 3, None, None)
    spent = [[122, SPENT], [122, ""]] * 2 + [[122, ""]] if mode != "audit" else None
    if spent is not None:
        assert told["over"] == [spent[0], spent[1], spent[0], spent[1], spent[1]]
        assert told["told"][:1] + told["told"][2:3] == [False, SPENT]
        assert told["signal"][1][0] == 122
    else:
        assert [row for row in told["over"] if isinstance(row, list) and row[:1] == [122]] == []
    assert told["free"] == []
    agent = next(row for row in live.json("ps", "-a") if row["name"] == f"counted-{mode}")
    audited = [row for row in live.record(agent["id"], "denial") if row["rule"] == SPENT]
    assert (agent["code"], bool(audited)) == (0, mode == "audit")


def test_what_has_expired_is_taken_back_by_the_clock(live, bot):
    agent = live.spawn("--policy", bot, "--", "/bin/sleep", "1000")
    live.ctl("grant", agent, "capability://file/state?action=write&expires=2020-01-01T00:00:00Z", check=0)
    live.until(lambda: [row["handle"] for row in live.json("caps", agent)][-1] != 7)
    last = live.record(agent, "revoke")[-1]["data"]
    assert (last["change"], last["handle"], last["source"]) == ("expire", 7, "expired")
    live.ctl("kill", "-9", agent, check=0)


def test_what_operators_give_and_take_outlasts_lives_and_kernels(make_kernel, bot):
    kernel = make_kernel("restart_delay_s = 0.01\n")
    agent = kernel.spawn("--restart", "always", "--policy", bot, "--", "/bin/sleep", "1000")
    given = int(kernel.ctl("grant", agent, "capability://tool?action=exec&max=5", check=0).stdout)
    kernel.ctl("revoke", agent, 2, check=0)
    before = kernel.json("caps", agent)
    assert [row["handle"] for row in before] == [1, 3, 4, 5, 6, given]
    kernel.ctl("restart", agent, check=0)
    assert kernel.json("caps", agent) == before
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait()
    kernel.start()
    kernel.until_state(agent, "running")
    assert kernel.json("caps", agent) == before
    assert int(kernel.ctl("grant", agent, STATE, check=0).stdout) == given + 1, "no number is given twice"
    rules = [row["rule"] for row in kernel.json("policy", "show", agent)["rules"]]
    assert "capability://tool/*?action=exec&max=5" in rules
