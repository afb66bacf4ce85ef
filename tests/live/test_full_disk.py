"""A disk that fills up under a kernel: told, nothing lost, and all goes on once there is room."""

import contextlib
import os
import subprocess
import sys
import tempfile

import pytest
from emulation import WAIT_S

FILL = """
import errno, json, os, time
from agentix import libc
fd = libc.open("state/big", libc.O_CREAT | libc.O_WRONLY)
libc.write(fd, b"begun")
told = []
try:
    while True:
        libc.write(fd, bytes(1 << 20))
except OSError as error:
    told.append(errno.errorcode[error.errno])
try:
    for _ in range(9):
        libc.fsync(fd)
except OSError as error:
    told.append(errno.errorcode[error.errno])
os.write(1, json.dumps(told).encode() + b"\\n")
time.sleep(60)
"""


def test_an_agent_fills_the_disk(disk, scripts):
    live, folder, _ = disk
    agent = live.spawn(scripts(FILL))
    live.until(lambda: os.statvfs(folder).f_bavail < 300)
    full = live.ctl("spawn", "--", "/bin/true")
    assert full.returncode in {0, 125}
    assert "Traceback" not in full.stderr
    os.truncate(f"{folder}/state/agents/{agent}/state/big", 5)
    live.until(lambda: live.ctl("spawn", "--", "/bin/true").returncode == 0)
    other = live.spawn("--", "/bin/sh", "-c", "echo works")
    live.ctl("wait", other, check=0)
    assert live.ctl("logs", other).stdout == "works\n"
    live.ctl("kill", "-9", agent, check=0)
    live.ctl("wait", agent, check=137)
    assert live.json("audit", "verify")["ok"]


def test_a_record_that_cannot_be_written_holds_everything_up_and_loses_nothing(disk):
    live, folder, fill = disk
    agent = live.spawn("--name", "before", "--", "/bin/sleep", "600")
    fill()
    from agentix_syscalls import calls, wire

    answered, refused = 0, b""
    with live.connect(agent) as sock:
        sock.sendall(wire.request(calls.SYS_HELLO, 0, (1,)))
        assert sock.recv(4096)
        reader = wire.Reader()
        while not refused:
            sock.sendall(wire.request(calls.SYS_CHECKPOLICY, 1, ("OPEN", "state/" + "x" * 200)))
            while (frame := reader.next()) is None:
                try:
                    sock.settimeout(2)
                    reader.feed(sock.recv(1 << 16))
                except TimeoutError:
                    sock.sendall(wire.request(calls.SYS_GETPID, 2, ()))  # the answer before waits; this is refused
            if frame[1] & wire.F_ERROR:
                refused = frame[3]
            else:
                answered += 1
    number, message, _, remedy = wire.decode(refused)[:4]
    assert (number, "nothing can be recorded" in message, "make room" in remedy) == (28, True, True)
    assert "no new work is taken" in live.log()
    assert live.json("ps")
    os.unlink(f"{folder}/ballast")
    live.until(lambda: live.ctl("spawn", "--", "/bin/true").returncode == 0)
    recorded = [row for row in live.record(agent, "call") if row["data"]["call"] == "CHECKPOLICY"]
    assert len(recorded) >= answered > 0
    live.ctl("kill", "-9", agent, check=0)
    live.ctl("wait", agent, check=137)
    live.stop()
    live.start()
    assert live.json("audit", "verify")["ok"]
    assert live.agent(agent)["name"] == "before"


SPIN = """
while True:
    pass
"""
MAKE = """
import os, time
for turn in ("full", "room"):
    while not os.path.exists(f"/data/{turn}"):
        time.sleep(0.05)
    try:
        os.mkdir("/agent/self/state/by-mount")
        said = "made"
    except OSError as error:
        said = f"errno {error.errno}"
    with open(f"/data/{turn}.said.new", "w") as file:
        file.write(f"{said} {os.listdir('/agent/self/state')}")
    os.rename(f"/data/{turn}.said.new", f"/data/{turn}.said")
"""


def flooded(live, agent):
    """Calls of an agent until they cannot be recorded."""
    from agentix_syscalls import calls, wire

    with live.connect(agent) as sock:
        sock.sendall(wire.request(calls.SYS_HELLO, 0, (1,)))
        assert sock.recv(4096)
        sock.setblocking(False)
        frames = b"".join(wire.request(calls.SYS_CHECKPOLICY, n, ("OPEN", "state/" + "x" * 200)) for n in range(100))

        def more():
            with contextlib.suppress(BlockingIOError):
                sock.recv(1 << 20)
            with contextlib.suppress(BlockingIOError):
                sock.sendall(frames)
            return "no new work is taken" in live.log()
        live.until(more)


@pytest.mark.parametrize("disk", ["disk_full = 'stop'\n"], indirect=True)
def test_the_world_stops_while_nothing_can_be_recorded_and_goes_on_by_itself(disk, scripts):
    live, folder, fill = disk
    busy, asleep = live.spawn(scripts(SPIN)), live.spawn("--", "/bin/sleep", "600")
    live.ctl("stop", asleep)
    live.until_state(asleep, "stopped")
    fill()
    flooded(live, busy)
    live.until_state(busy, "stopped")
    pid = live.json("inspect", busy)["pid"]

    def ran():
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[11:13]
    before = ran()
    with live.begin("cont", busy) as continuing:  # is not what it waits for; its record waits for room as well
        assert live.agent(busy)["state"] == "stopped"
        assert ran() == before
        os.unlink(f"{folder}/ballast")
        assert continuing.wait(WAIT_S) == 0
    live.until_state(busy, "running")
    assert live.agent(asleep)["state"] == "stopped"  # an operator wants that
    states = [row["data"] for row in live.record(busy, "state")]
    assert [state["state"] for state in states] == ["stopped", "running"]
    assert "disk_full" in states[0]["why"]
    live.ctl("cont", asleep)
    live.until_state(asleep, "running")
    assert live.json("audit", "verify")["ok"]


def test_the_mount_refuses_what_cannot_be_recorded(disk, scripts, tmp_path):
    live, folder, fill = disk
    tmp_path.chmod(0o755)

    def asked(turn):
        (tmp_path / turn).touch()
        live.until((tmp_path / f"{turn}.said").exists)
        return (tmp_path / f"{turn}.said").read_text()
    agent = live.spawn("--bind", f"{tmp_path}:/data", scripts(MAKE))
    other = live.spawn("--", "/bin/sleep", "600")
    fill()
    flooded(live, other)
    assert asked("full") == "errno 28 []"
    os.unlink(f"{folder}/ballast")
    live.until(lambda: live.ctl("spawn", "--", "/bin/true").returncode == 0)
    assert asked("room") == "made ['by-mount']"
    live.ctl("wait", agent, check=0)
    assert [(row["data"]["path"], row["verdict"]) for row in live.record(agent, "file")
            if row["data"]["path"] == "/state/by-mount"] == [("/state/by-mount", "allowed")]


def test_no_boot_without_room(make_kernel):
    folder = tempfile.mkdtemp(prefix="agentix-disk-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "agentix-test", folder], check=True)
    try:
        live = make_kernel(f"state_dir = '{folder}/state'\n", start=False)
        with open(f"{live.prefix}/agentd.toml", "w") as file:
            file.write(live.config)
        command = [f"{os.path.dirname(sys.executable)}/agentd", "--prefix", live.prefix]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert refused.returncode == 1
        assert "No space left" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)


def test_a_key_cannot_be_changed_without_room(disk):
    """Nothing was changed then, and with room it is."""
    live, folder, fill = disk
    for _ in range(3):  # until no segment is ready any more
        fill()
        told = live.ctl("audit", "rotate")
        if told.returncode:
            break
    assert "No space left" in told.stderr
    assert "Traceback" not in live.log()
    refused = live.ctl("audit", "rotate-key")
    assert refused.returncode == 1
    assert "No space left" in refused.stderr
    os.unlink(f"{folder}/ballast")
    live.until(lambda: live.ctl("audit", "rotate-key").returncode == 0)
    assert live.json("audit", "verify")["ok"]
