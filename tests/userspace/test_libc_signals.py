"""Handlers of libc: the doorbell rings while the agent sleeps, waits for a call or does nothing at all."""

import collections
import os
import signal
import threading
import time

import pytest
from emulation import WAIT_S

from agentix import libc
from agentix.libc import connection
from agentix_syscalls.errors import CallError


class Pending:
    """The kernel's side of signals, as far as libc sees it: a queue, dispositions, a mask, a doorbell."""

    def __init__(self, kernel):
        self.queue = collections.deque()
        self.handled = set()
        self.mask = 0
        kernel.on(libc.SYS_SIGACTION, self.sigaction)
        kernel.on(libc.SYS_SIGWAIT, self.sigwait)
        kernel.on(libc.SYS_SIGPROCMASK, self.sigprocmask)

    def sigaction(self, number, disposition):
        old = libc.SIG_HANDLE if number in self.handled else libc.SIG_DFL
        (self.handled.add if disposition == libc.SIG_HANDLE else self.handled.discard)(number)
        return old

    def sigwait(self, mask, _timeout, flags):
        assert flags == libc.SIGWAIT_DELIVERABLE
        for item in self.queue:
            bit = 1 << (item[0] - 1)
            if item[0] in self.handled and bit & mask and not bit & self.mask:
                self.queue.remove(item)
                return item
        return None

    def sigprocmask(self, how, mask):
        old = self.mask
        self.mask = {libc.SIG_BLOCK: old | mask, libc.SIG_UNBLOCK: old & ~mask, libc.SIG_SETMASK: mask}[how]
        return old

    def send(self, number, sender=0, why=""):
        self.queue.append([int(number), sender, why])
        os.kill(os.getpid(), libc.DOORBELL)


@pytest.fixture
def pending(kernel):
    return Pending(kernel)


def test_a_sleep_is_interrupted_and_goes_on(pending):
    seen = []
    libc.signal(libc.SIGUSR2, lambda number, info: seen.append((number, info, time.monotonic())))
    begun = time.monotonic()
    sender = threading.Timer(0.05, pending.send, (libc.SIGUSR2, 9, "hello"))
    sender.start()
    time.sleep(0.3)
    ended = time.monotonic()
    sender.join()
    (number, info, at), = seen
    assert number is libc.SIGUSR2
    assert info == libc.SigInfo(9, "hello")
    assert at < ended - 0.1
    assert ended - begun >= 0.3


def test_a_handler_calls_while_a_call_waits(kernel, pending):
    release = threading.Event()

    def wait(_agent, _flags, _timeout):
        pending.send(libc.SIGTERM)
        assert release.wait(10)
        return [6, 0, None, "exit"]
    kernel.on(libc.SYS_WAIT, wait)
    kernel.on(libc.SYS_GETPID, [5, 2])
    seen = []

    def handler(*_args):
        seen.append(libc.getpid())
        release.set()
    libc.signal("TERM", handler)
    assert libc.wait().agent == 6
    assert seen == [5]
    assert kernel.accepted == 2


def test_what_a_handler_raises_ends_the_call_and_its_connection(kernel, pending):
    release = threading.Event()

    def wait(_agent, _flags, _timeout):
        pending.send(libc.SIGTERM)
        assert release.wait(10)
        return

    def handler(*_args):
        raise KeyError("from the handler")
    kernel.on(libc.SYS_WAIT, wait)
    kernel.on(libc.SYS_GETPID, [5, 2])
    libc.signal(libc.SIGTERM, handler)
    with pytest.raises(KeyError):
        libc.wait()
    release.set()
    kernel.closed.get(timeout=WAIT_S)
    assert libc.getpid() == 5
    assert len(connection._open) == 1


def test_a_signal_from_before_the_doorbell_is_not_lost(pending):
    seen = []
    pending.queue.append([libc.SIGTERM, 0, "early"])
    libc.signal(libc.SIGTERM, lambda number, info: seen.append(info.why))
    assert seen == ["early"]


def test_a_handler_is_not_entered_twice(pending):
    depth, deepest, seen = [], [], []

    def handler(number, _info):
        depth.append(number)
        deepest.append(len(depth))
        if number is libc.SIGUSR1 and not seen:
            pending.send(libc.SIGUSR1)
            pending.send(libc.SIGUSR2)
            signal.raise_signal(libc.DOORBELL)
        seen.append(number)
        depth.pop()
    libc.signal("USR1", handler)
    libc.signal("USR2", handler)
    pending.send(libc.SIGUSR1)
    assert seen == [libc.SIGUSR2, libc.SIGUSR1, libc.SIGUSR1]
    assert deepest == [1, 2, 1]


def test_one_handler_that_raises_does_not_hold_back_another(pending):
    seen = []

    def bad(*_args):
        raise KeyError("bad")
    libc.signal("USR1", bad)
    libc.signal("USR2", lambda number, _info: seen.append(number))
    pending.queue.extend([[libc.SIGUSR1, 0, ""], [libc.SIGUSR2, 0, ""]])
    with pytest.raises(KeyError):
        signal.raise_signal(libc.DOORBELL)
    assert seen == [libc.SIGUSR2]


def test_unblocking_delivers_before_it_returns(pending):
    seen = []
    libc.signal("USR1", lambda number, _info: seen.append(number))
    libc.sigprocmask(libc.SIG_BLOCK, [libc.SIGUSR1])
    pending.send(libc.SIGUSR1)
    assert seen == []
    assert libc.sigprocmask(libc.SIG_UNBLOCK, ["SIGUSR1"]) == {libc.SIGUSR1}
    assert seen == [libc.SIGUSR1]


def test_dispositions(kernel, pending):
    def handler(*_args):
        return None
    assert libc.getsignal("INT") == libc.SIG_DFL
    assert libc.signal("INT", handler) == libc.SIG_DFL
    assert libc.sigaction("INT", libc.SIG_IGN) is handler
    assert libc.signal("INT", libc.SIG_DFL) == libc.SIG_IGN
    assert [args[1] for args in kernel.calls(libc.SYS_SIGACTION)] == [libc.SIG_HANDLE, libc.SIG_IGN, libc.SIG_DFL]


def test_a_refused_handler_is_not_kept(kernel, pending):
    def refuse(*_args):
        raise CallError(22, "not a signal that can be caught")
    kernel.on(libc.SYS_SIGACTION, refuse)
    with pytest.raises(libc.Error, match="caught"):
        libc.signal("KILL", lambda *_args: None)
    assert libc.getsignal("KILL") == libc.SIG_DFL


def test_linux_signals_are_refused_by_name(kernel):
    with pytest.raises(TypeError, match=r"write libc\.SIGTERM"):
        libc.kill(1, signal.SIGTERM)
    with pytest.raises(TypeError, match="SIGSEGV is not a signal of Agentix"):
        libc.signal(signal.SIGSEGV, libc.SIG_IGN)
    with pytest.raises(ValueError, match="77"):
        libc.kill(1, 77)
    with pytest.raises(KeyError):
        libc.kill(1, "NOPE")
    assert kernel.seen == []


def test_handlers_are_set_in_the_main_thread(kernel, pending):
    caught = []

    def elsewhere():
        try:
            libc.signal("TERM", lambda *_args: None)
        except ValueError as error:
            caught.append(str(error))
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in caught[0]


def test_sigtimedwait_gives_none_when_time_is_over(kernel):
    def none(*_args):
        raise CallError(11, "none came in time")
    kernel.on(libc.SYS_SIGWAIT, none)
    assert libc.sigtimedwait(libc.Signals, 0.01) is None
