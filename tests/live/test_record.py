"""The flight record of a living kernel: what is in it, that it is checked, and that it survives the worst."""

import hashlib
import json
import os

FLOW = """
import os
from agentix import libc
libc.mkdir("state/d")
try:
    libc.unlink("state/d/none")
except PermissionError:
    pass
try:
    libc.rmdir("state/d")
except PermissionError:
    pass
os.mkdir("/agent/self/state/by-mount")
libc.kill(libc.getpid(), libc.SIGCHLD)
raise SystemExit(3)
"""


def test_what_an_agent_did_is_there_in_order(kernel, scripts):
    agent = kernel.spawn("--name", "flyer", "--deny", "UNLINK:/state/d", scripts(FLOW))
    kernel.ctl("wait", agent, check=3)
    rows = kernel.record(agent)
    spawned = [row for row in rows if row["kind"] == "spawn"]
    assert [row["phase"] for row in spawned] == ["intent", "outcome"]
    assert len({row["correlation"] for row in spawned}) == 1
    assert spawned[0]["data"]["name"] == "flyer"
    assert "source" not in json.dumps(spawned)
    calls = [(row["data"]["call"], row["verdict"], row["data"]["errno"]) for row in rows if row["kind"] == "call"]
    assert [call for call in calls if call[0] in {"MKDIR", "UNLINK"}] == [
        ("MKDIR", "allowed", 0), ("UNLINK", "denied", 1), ("UNLINK", "denied", 1)]
    denial = next(row for row in rows if row["kind"] == "denial")
    assert (denial["verdict"], denial["rule"]) == ("denied", "deny UNLINK:/state/d")
    assert [row["data"]["path"] for row in rows if row["kind"] == "file"] == ["/state/by-mount"]
    assert [row["data"]["signal"] for row in rows if row["kind"] == "signal"] == ["SIGCHLD"]
    assert rows[-1]["kind"] == "exit"
    assert (rows[-1]["data"]["code"], rows[-1]["data"]["why"]) == (3, "exit")
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    kinds = [row["kind"] for row in rows]
    assert kinds.index("denial") < kinds.index("exit")


def test_trace_for_people(kernel, scripts):
    agent = kernel.spawn("--deny", "MKDIR", scripts("from agentix import libc\nlibc.mkdir('state/x')\n"))
    kernel.ctl("wait", agent, check=1)
    text = kernel.ctl("trace", agent, check=0).stdout
    assert f" {agent}.1 " in text
    assert "denied" in text
    assert 'rule="deny MKDIR"' in text
    assert "exit" in text.splitlines()[-1]
    assert kernel.ctl("trace", "--tail", "2", agent, check=0).stdout.splitlines() == text.splitlines()[-2:]
    with open(kernel.tree(agent, "proc/trace")) as file:
        assert "rule='deny MKDIR'" in file.read()


def test_following_shows_what_comes(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "600")
    wanted = [word for kind in ("spawn", "signal", "exit") for word in ("--kind", kind)]
    with kernel.begin("trace", "-f", "--json", *wanted, agent) as follower:
        try:
            assert json.loads(follower.stdout.readline())["kind"] == "spawn"
            assert json.loads(follower.stdout.readline())["phase"] == "outcome"
            kernel.ctl("kill", "-9", agent, check=0)
            assert json.loads(follower.stdout.readline())["kind"] == "signal"
            assert json.loads(follower.stdout.readline())["kind"] == "exit"
        finally:
            follower.terminate()
    kernel.ctl("ps", check=0)  # a follower that went away disturbs nobody


def test_secrets_and_content_stay_out(kernel, scripts):
    agent = kernel.spawn("--env", "TOKEN=hunter2", scripts("""
from agentix import libc
fd = libc.open("state/f", libc.O_CREAT | libc.O_WRONLY)
libc.write(fd, b"hunter2 in a file")
"""))
    kernel.ctl("wait", agent, check=0)
    assert "hunter2" not in json.dumps(kernel.record(agent))
    assert "hunter2" not in json.dumps(kernel.json("inspect", agent))
    write = next(row for row in kernel.record(agent, "call") if row["data"]["call"] == "WRITE")
    assert write["data"]["args"][1] == 17


def test_long_content_is_recorded_by_its_hash(kernel, scripts):
    """Whoever has the content can prove that it was written; who has the record alone cannot read it."""
    content = b"a secret that is long: " + b"hunter2 " * 1000
    agent = kernel.spawn(scripts(f"""
from agentix import libc
fd = libc.open("state/f", libc.O_CREAT | libc.O_WRONLY)
libc.write(fd, {content!r})
libc.write(fd, {content[:256]!r})
try:
    libc.exec_tool("none", {{"text": {content.decode()!r}}})
except OSError:
    pass
"""))
    kernel.ctl("wait", agent, check=0)
    long = f"sha256:{hashlib.sha256(content).hexdigest()}"
    rows = kernel.record(agent, "call")
    assert [row["data"]["args"][1] for row in rows if row["data"]["call"] == "WRITE"] == [[len(content), long], 256]
    (tool,) = [row["data"]["args"] for row in rows if row["data"]["call"] == "EXEC"]
    assert tool[1]["text"] == f"{len(content)} characters, {long}"
    kernel.ctl("audit", "verify", check=0)
    folder = f"{kernel.prefix}/state/journal"
    for name in os.listdir(folder):
        with open(f"{folder}/{name}", "rb") as file:
            assert b"hunter2" not in file.read(), name


def test_tools_are_recorded(kernel, scripts):
    agent = kernel.spawn(scripts("""
from agentix import libc
told = libc.exec_tool("shell.execute", {"command": "id -u; ls /agent; echo oops >&2; exit 3"})
print(told["status"], told["stdout"].decode().split()[0], told["stderr"])
try:
    libc.exec_tool("shell.execute", {"command": "sleep 60"}, 0.2)
except TimeoutError as error:
    print(error.strerror)
"""))
    kernel.ctl("wait", agent, check=0)
    said = kernel.ctl("logs", agent).stdout.splitlines()
    status, uid, _ = said[0].split(" ", 2)
    assert status == "3"
    assert int(uid) != kernel.agent(agent)["uid"]
    assert "was killed" in said[1]
    rows = kernel.record(agent, "tool")
    assert [(row["phase"], row["verdict"]) for row in rows] == [
        ("intent", "none"), ("outcome", "allowed"), ("intent", "none"), ("outcome", "failed")]


def test_a_flipped_byte_is_found(make_kernel):
    live = make_kernel()
    agent = live.spawn("--", "/bin/true")
    live.ctl("wait", agent, check=0)
    assert live.json("audit", "verify")["ok"]
    folder = f"{live.prefix}/state/journal"
    path = max((f"{folder}/{name}" for name in os.listdir(folder)), key=os.path.getsize)
    with open(path, "r+b") as file:
        data = file.read()
        at = data.index(b"/bin/true")
        file.seek(at)
        file.write(b"/bin/trux")
    try:
        found = live.ctl("audit", "verify")
        assert found.returncode == 1
        assert os.path.basename(path) in found.stdout
    finally:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"/bin/true")
    live.ctl("audit", "verify", check=0)


def test_what_was_answered_survives_kill_9(make_kernel, scripts):
    """Every acknowledged write of an agent is in the record, whenever the kernel dies."""
    live = make_kernel()
    folder = f"{live.prefix}/shared"
    os.mkdir(folder)
    agent = live.spawn("--bind", f"{folder}:/data", scripts("""
import os
from agentix import libc
fd = os.open("/data/count", os.O_WRONLY | os.O_CREAT)
count = 0
while True:
    libc.checkpolicy("OPEN", f"state/{count}")
    count += 1
    os.pwrite(fd, b"%d" % count, 0)
"""))

    def count():
        try:
            with open(f"{folder}/count") as file:
                return int(file.read() or 0)
        except FileNotFoundError:
            return 0

    live.until(lambda: count() > 200)
    pid = live.json("inspect", agent)["pid"]
    live.process.kill()
    live.process.wait()
    live.until(lambda: not os.path.exists(f"/proc/{pid}"))
    acknowledged = count()
    live.start()
    recorded = [row for row in live.record(agent, "call") if row["data"]["call"] == "CHECKPOLICY"]
    assert len(recorded) >= acknowledged > 200
    assert live.json("audit", "verify")["ok"]
    assert live.record(agent, "lost")
