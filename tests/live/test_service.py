"""What a service manager and the systemd journal hear of a real agentd: real datagram sockets in their places."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest
from attrs import define, field
from emulation import WAIT_S

from agentix_kernel.service import log

BIN = os.path.dirname(sys.executable)

@define
class Ear:
    """A datagram socket; what it has heard, each as a map of its fields."""

    sock: socket.socket
    heard: list[dict[str, str]] = field(factory=list)

    def hear(self) -> dict[str, str]:
        """The next word, within a minute."""
        self.heard.append(parse(self.sock.recv(1 << 18)))
        return self.heard[-1]

    def until(self, **wanted):
        """Hear until a word has these fields."""
        while True:
            word = self.hear()
            if wanted.items() <= word.items():
                return word


def parse(data: bytes) -> dict[str, str]:
    """Lines KEY=value, or KEY, a length of eight bytes and the value: also what notifications look like."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8:8 + size], rest[9 + size:]
        found[key.decode()] = value.decode()
        data = rest
    return found


@contextlib.contextmanager
def listening(path):
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(path)
        sock.settimeout(WAIT_S)
        yield Ear(sock)


@pytest.fixture
def manager(tmp_path):
    with listening(f"{tmp_path}/notify") as ear:
        yield ear


@pytest.fixture
def journald(tmp_path, own_run):
    os.makedirs(f"{tmp_path}/run/systemd/journal")
    with listening(f"{tmp_path}/run/systemd/journal/socket") as ear:
        yield ear


@pytest.fixture
def serve(make_kernel, tmp_path, manager, own_run):
    """Start a private kernel as a service manager would, up to the word that it is ready."""
    def start(*, watchdog_us=0, journal=False, options=()):
        live = make_kernel(start=False)
        with open(f"{live.prefix}/agentd.toml", "w") as file:
            file.write(live.config)
        environment = dict(os.environ, NOTIFY_SOCKET=f"{tmp_path}/notify")
        wrapper = ()
        if watchdog_us:
            environment["WATCHDOG_USEC"] = str(watchdog_us)
        with open(f"{live.prefix}/agentd.log", "wb") as said:
            if journal:
                info = os.fstat(said.fileno())
                environment["JOURNAL_STREAM"] = f"{info.st_dev}:{info.st_ino}"
                wrapper = own_run
            live.process = subprocess.Popen(
                [*wrapper, f"{BIN}/agentd", "--prefix", live.prefix, "--unlisted", *options],
                env=environment, stderr=said)
        manager.until(READY="1")
        return live
    return start


def test_the_manager_hears_of_the_boot_of_agents_and_of_the_end(serve, manager):
    live = serve(watchdog_us=300_000)
    steps = [word["STATUS"].partition(":")[0] for word in manager.heard]
    recorded = [row["data"]["step"] for row in live.rows("trace") if row["kind"] == "step"]
    assert steps == [*recorded, "ready", "0 agents alive"]
    assert len(recorded) > 8
    live.ctl("ps", check=0)
    live.spawn("--", "/bin/sleep", "600")
    manager.until(STATUS="1 agent alive")
    live.process.send_signal(signal.SIGTERM)
    last = manager.until(STOPPING="1")
    assert last["STATUS"] == "shutting down (Linux signal SIGTERM): 1 agent left"
    assert int(last["EXTEND_TIMEOUT_USEC"]) >= 10_000_000
    assert live.process.wait(WAIT_S) == 0


def test_agents_inherit_nothing_of_the_manager(serve):
    live = serve(watchdog_us=600_000_000)
    pids = [int(pid) for pid in live.ctl("run", "--", "/bin/sh", "-c", "env >&2; echo $$", check=0).stdout.split()]
    assert pids == [2]
    with open(f"/proc/{live.process.pid}/task/{live.process.pid}/children") as file:
        children = file.read().split()
    assert children
    for pid in children:
        with open(f"/proc/{pid}/environ") as file:
            assert "NOTIFY_SOCKET" not in file.read()


def test_keep_alives_stop_with_the_daemon(serve, manager):
    live = serve(watchdog_us=300_000)
    for _ in range(3):
        manager.until(WATCHDOG="1")
    live.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, live.process.pid, os.WSTOPPED | os.WNOWAIT)
    manager.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            manager.hear()
    manager.sock.settimeout(0.4)  # four would have come
    with pytest.raises(TimeoutError):
        manager.hear()
    live.process.send_signal(signal.SIGCONT)
    manager.sock.settimeout(WAIT_S)
    manager.until(WATCHDOG="1")


def test_a_daemon_in_the_background_is_named_first(serve, manager):
    live = serve(options=("--daemon",))
    named = manager.heard[0]
    assert list(named) == ["MAINPID"]
    assert live.process.wait(WAIT_S) == 0
    assert live.json("info")["pid"] == int(named["MAINPID"])
    live.ctl("shutdown", check=0)
    live.until(lambda: not os.path.exists(f"/proc/{named['MAINPID']}"))


def test_the_journal_gets_fields_and_a_refusal_is_an_error(serve, journald, tmp_path, own_run):
    live = serve(journal=True)
    first = journald.hear()
    assert first | {"MESSAGE": ""} == {
        "MESSAGE": "", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "agentd", "AGENTIX_STEP": "config"}
    agents = journald.until(AGENTIX_STEP="agents")
    assert agents["AGENTIX_BOOT"] == "1"
    journald.until(AGENTIX_STEP="ready")
    agent = live.spawn("--name", "scout", "--", "/bin/sleep", "600")
    told = journald.until(AGENTIX_AGENT=str(agent))
    assert told["MESSAGE"].startswith(f"agent {agent} (scout): spawned by the operator, uid ")
    live.ctl("kill", "-9", agent, check=0)
    told = journald.until(AGENTIX_AGENT=str(agent))
    assert told["MESSAGE"].startswith(f"agent {agent} (scout): SIGKILL")
    assert not os.path.exists(f"{tmp_path}/run/agentix-kernels")  # it is not to be found
    with open(f"{tmp_path}/stderr", "wb") as said:
        info = os.fstat(said.fileno())
        environment = dict(os.environ, JOURNAL_STREAM=f"{info.st_dev}:{info.st_ino}")
        again = subprocess.run(
            [*own_run, f"{BIN}/agentd", "--prefix", live.prefix], env=environment, stderr=said, timeout=WAIT_S,
            check=False)
    assert again.returncode == 1
    assert f"(pid {live.process.pid})" in journald.until(PRIORITY="3")["MESSAGE"]
    live.process.send_signal(signal.SIGTERM)
    assert journald.until(AGENTIX_STEP="down")["AGENTIX_BOOT"] == "1"
    assert live.process.wait(WAIT_S) == 0
    assert live.log() == ""


def test_a_value_forges_no_field():
    entry = {"MESSAGE": "agent 1 (x): bad\nPRIORITY=0\nAGENTIX_AGENT=2", "AGENTIX_AGENT": "1"}
    assert parse(log.encode(entry)) == entry


def test_what_has_no_room_is_counted(tmp_path):
    path = f"{tmp_path}/socket"
    journal = log.Journald(path)
    journal.say("one")
    journal.say("two")
    with listening(path) as ear:
        journal.say("three")
        journal.say("four")
        assert ear.hear()["MESSAGE"] == "three (and 2 messages before this one were lost)"
        assert ear.hear()["MESSAGE"] == "four"
    journal._socket.close()
