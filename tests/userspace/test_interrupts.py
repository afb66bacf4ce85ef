"""The keyboard's signals, given to agentctl while it waits."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from emulation import WAIT_S

from agentix_syscalls import signals

FUTEX = {"x86_64": "202", "aarch64": "98"}


def until_the_main_thread_waits():
    """In the kernel, and not for the interpreter's lock."""
    place = Path(f"/proc/self/task/{os.getpid()}/syscall")
    for _ in range(100_000):
        if place.read_text().split()[0] not in {"running", FUTEX[os.uname().machine]}:
            return
    raise AssertionError("it does not wait")


class Interrupted:
    """An agent that ends when it is signalled `times` times; `agentctl run` of it gets `number` each time."""

    def __init__(self, operator, times, number):
        self.got = threading.Semaphore(0)
        self.times = times
        self.number = number
        operator.agent_that(code=None, signal="SIGINT", why="signal", status=130, detail="ended by SIGINT")
        operator.on("logs", self.logs)
        operator.on("signal", lambda agent, *_rest: self.got.release() or [agent])

    def logs(self, *_args):
        yield [1, b"begun\n", 0]
        for _ in range(self.times):
            until_the_main_thread_waits()
            # To this thread: no EINTR tells the one that waits, as when a signal comes just before a wait begins.
            signal.pthread_kill(threading.get_ident(), self.number)
            assert self.got.acquire(timeout=WAIT_S)
        yield [1, b"ended\n", 0]


@pytest.mark.parametrize(("number", "times", "sent"), [
    (signal.SIGINT, 1, [signals.SIGINT]), (signal.SIGINT, 2, [signals.SIGINT, signals.SIGKILL]),
    (signal.SIGTERM, 1, [signals.SIGTERM]),
])
def test_ctrl_c_goes_to_the_agent(operator, script, number, times, sent):
    Interrupted(operator, times, number)
    before = signal.getsignal(signal.SIGINT)
    result = operator.run("run", script)
    assert [args[1] for args in operator.calls("signal")] == sent
    assert (result.stdout, result.exit_code) == ("begun\nended\n", 130)
    assert result.stderr == ("" if number == signal.SIGINT else "agentctl: scout: ended by SIGINT\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_quiet(operator):
    gate = threading.Event()

    def logs(*_args):
        yield [1, b"begun\n", 0]
        gate.wait(10)
    operator.on("logs", logs)
    with subprocess.Popen([sys.executable, "-m", "agentix.agentctl", "logs", "-f", "7"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGINT)
        _, complaint = child.communicate(timeout=WAIT_S)
    gate.set()
    assert (child.returncode, complaint) == (130, b"\n")
