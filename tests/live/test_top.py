"""agentctl top: once for programs, and on a real terminal, which is left as it was whatever happens."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from emulation import WAIT_S

from agentix.agentctl import top

BIN = os.path.dirname(sys.executable)
ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"


class Terminal:
    """A pty with agentctl on it, in a session of its own; what it says is kept."""

    def __init__(self, prefix, *args, shell="", **environment):
        self.ours, self.theirs = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.theirs)
        self.said = b""
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", shell] if shell else [f"{BIN}/agentctl", "--prefix", prefix, *args], stdin=self.theirs,
            stdout=self.theirs, stderr=self.theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one ioctl, and no threads here
            env={**os.environ, "TERM": "xterm", **environment})

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.ours, self.theirs):
            if fd >= 0:
                os.close(fd)

    def resize(self, rows, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def until(self, wanted, seconds=30):
        """Read on until it is said; what was said from the last such moment on."""
        deadline, begin = time.monotonic() + seconds, len(self.said)
        while wanted not in self.said[begin:]:
            ready = select.select([self.ours], [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"{wanted} was not said: {self.said[begin:]}"
            self.said += os.read(self.ours, 65536)
        return self.said[begin:]

    def press(self, keys):
        os.write(self.ours, keys)

    def ended(self):
        """The exit status; the terminal must be as it was."""
        status = self.process.wait(WAIT_S)
        assert termios.tcgetattr(self.theirs) == self.before
        while select.select([self.ours], [], [], 0)[0]:
            self.said += os.read(self.ours, 65536)
        assert self.said.count(ENTER) == self.said.count(LEAVE) > 0
        return status


@pytest.fixture(scope="module")
def busy(kernel):
    """An agent that works, and one that is stopped."""
    worker = kernel.spawn("--name", "topper", "--", "/bin/sh", "-c", "while :; do :; done")
    idle = kernel.spawn("--name", "idler", "--", "/bin/sleep", "600")
    kernel.ctl("stop", idle, check=0)
    kernel.until_state(idle, "stopped")
    yield worker, idle
    kernel.ctl("rm", "-f", worker, idle, check=0)


def test_once_for_a_program(kernel, busy):
    found = kernel.json("top")
    rows = {row["id"]: row for row in found["agents"]}
    assert rows[busy[0]]["cpu_percent"] > rows[busy[1]]["cpu_percent"] == 0
    assert found["kernel"]["memory_bytes"] > 1 << 20
    assert found["kernel"]["cpu_us"] > 0


def test_once_as_text(kernel, busy):
    lines = kernel.ctl("top", "--sort", "name", check=0).stdout.splitlines()
    assert lines[0].startswith("agentix ")
    assert "1 stopped" in lines[0]
    assert lines[3].split()[1] == "NAME*"
    names = [line.split()[1] for line in lines[4:]]  # others may live there, too
    assert names == sorted(names)
    assert {"idler", "topper"} <= set(names)
    assert kernel.ctl("top", "-d", "0.01").returncode == 2


def test_on_a_terminal(kernel, busy):
    with Terminal(kernel.prefix, "top", "-d", "0.2", NO_COLOR="1") as terminal:
        first = terminal.until(b"q quits")
        assert first.index(b"topper") > first.index(b"CPU%*")
        terminal.press(b"n")
        sorted_by_name = terminal.until(b"NAME*") + terminal.until(b"q quits")
        assert sorted_by_name.rindex(b"idler") < sorted_by_name.rindex(b"topper")
        assert b"\x1b[7m" not in terminal.said
        assert b"\x1b[3" not in terminal.said.replace(b"\x1b[?25", b"")
        terminal.resize(8, 40)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        terminal.until("…".encode())
        terminal.press(b"q")
        assert terminal.ended() == 0


@pytest.mark.parametrize(("number", "status"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129),
])
def test_the_terminal_is_sane_after_a_signal(kernel, busy, number, status):
    with Terminal(kernel.prefix, "top") as terminal:
        terminal.until(b"q quits")
        if number == signal.SIGINT:
            terminal.press(b"\x03")
        else:
            terminal.process.send_signal(number)
        assert terminal.ended() == status


def test_ctrl_z_gives_the_terminal_back_and_fg_goes_on(kernel, busy):
    shell = f"set -m; {BIN}/agentctl --prefix {kernel.prefix} top; echo stopped $?; read line; fg; exit $?"
    with Terminal(kernel.prefix, shell=shell) as terminal:
        terminal.until(b"q quits")
        terminal.press(b"\x1a")
        left = terminal.until(b"stopped 148")
        assert LEAVE in left
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        terminal.press(b"\n")
        terminal.until(ENTER)
        terminal.until(b"q quits")
        terminal.press(b"q")
        assert terminal.ended() == 0


def test_the_terminal_is_closed(kernel, busy):
    with Terminal(kernel.prefix, "top", "-d", "0.1") as terminal:
        terminal.until(b"q quits")
        os.close(terminal.theirs)
        os.close(terminal.ours)
        terminal.ours = terminal.theirs = -1
        assert terminal.process.wait(WAIT_S) in {-signal.SIGHUP, 129, 141, 0}


def test_the_kernel_dies_under_it(make_kernel):
    live = make_kernel()
    with Terminal(live.prefix, "top", "-d", "0.1") as terminal:
        terminal.until(b"0 agents")
        live.process.kill()
        live.process.wait()
        terminal.until(b"agentctl: the kernel closed the connection")
        assert terminal.ended() == 1
    live.start()


def test_more_agents_than_lines():
    row = {"life": 1, "name": "n", "state": "running", "cpu_us": 0, "memory_bytes": 0, "processes": 1, "calls": 0,
           "denials": 0, "kind": "exec", "argv": ["x" * 200]}
    sample = top.Sample(1.0, [{**row, "id": agent} for agent in range(100)],
                        {"version": "1", "uptime_s": 5, "cpu_us": 0, "memory_bytes": 0})
    rows = [{**shown, "cpu_us": 20_000 * shown["id"], "calls": 4} for shown in sample.rows]
    later = sample._replace(at_s=3.0, rows=rows)
    lines = top.compare(sample, later).lines(top.SORTS["cpu"], 24, 80)
    assert len(lines) == 24
    assert max(map(len, lines)) <= 80
    assert lines[4].split()[0] == "99"
    assert lines[-1].startswith("... and 81 more; q quits")
    assert lines[4].split()[3:7] == ["99.0", "0", "1", "2.0"]
