"""Keep-alives: only while the commit thread answers and its syncs do not fail."""

import errno
import socket
import threading
from types import SimpleNamespace

import pytest
import trio

from agentix_kernel.journal.disk import RealClock, RealDisk
from agentix_kernel.journal.errors import JournalFailed
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.key import Key
from agentix_kernel.service.notify import Manager, attend


@pytest.fixture
def ear(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{tmp_path}/notify")
        sock.setblocking(False)
        yield sock


@pytest.fixture
def journal(tmp_path):
    made, _ = Journal.open(RealDisk(f"{tmp_path}/journal"), RealClock(), key=Key(bytes(32)), random=bytes)
    yield made
    made.abandon()


@pytest.fixture
def manager(tmp_path, monkeypatch, ear):
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "6000000")
    made = Manager.from_environment(lambda *_, **__: None)
    yield made
    made.close()


async def turned(journal, turns):
    """Until the commit thread has done so many requests: it is no task of trio's."""
    def wait():
        for _ in range(10_000):
            if journal.commit_turns >= turns:
                return
            threading.Event().wait(0.001)
        raise AssertionError("the commit thread does not answer")
    await trio.to_thread.run_sync(wait)


def words(ear):
    found = []
    while True:
        try:
            found += ear.recv(4096).decode().splitlines()
        except BlockingIOError:
            return found


async def test_keep_alives_need_the_commit_thread(manager, journal, ear, nursery, mock_clock):
    kernel = SimpleNamespace(journal=journal, shutting=False, stop_why="", table=SimpleNamespace(alive=list))
    assert manager.interval_s == 2.0
    nursery.start_soon(attend, manager, kernel)
    commit, go_on = journal._committer.commit, threading.Event()

    async def tick(turns=0):
        await turned(journal, turns)
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked()
        return words(ear)

    await trio.testing.wait_all_tasks_blocked()
    assert await tick(1) == ["WATCHDOG=1", "STATUS=0 agents alive"]
    await turned(journal, 2)  # what that tick has asked for; from here on the thread hangs
    journal._committer.commit = lambda: (go_on.wait(10), commit())
    assert await tick() == ["WATCHDOG=1"]
    assert await tick() == await tick() == []
    journal._committer.commit = commit
    go_on.set()
    await turned(journal, 4)  # the request in which it hung, and those that came meanwhile as one
    await tick()
    assert await tick(5) == ["WATCHDOG=1"]
    journal._committer.failed = JournalFailed(errno.EIO, "the disk is gone")
    await tick()  # the request of before
    assert [word for word in await tick() if "WATCHDOG" in word] == []
    nursery.cancel_scope.cancel()


def test_without_a_manager_nothing_is_said(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    manager = Manager.from_environment(print)
    manager.tell(READY=1)
    assert (manager.there, manager._unsent) == (False, {})


def test_a_manager_that_is_gone_is_told_of_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/nobody")
    manager = Manager.from_environment(lambda text, **_: said.append(text))
    manager.tell(READY=1)
    manager.tell(STATUS="x")
    assert said == ["notify: the service manager cannot be told of us: No such file or directory"]


def test_what_has_no_room_goes_with_the_next_word(manager, ear):
    count = 0
    while not manager._unsent:
        manager.tell(STATUS=count)
        count += 1
    manager.tell(READY=1, STATUS="last")
    assert len(words(ear)) == count - 1
    manager.tell(STOPPING=1)
    assert words(ear) == ["STATUS=last", "READY=1", "STOPPING=1"]


def test_the_watchdog_of_another_process_is_not_ours(manager, monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", "@agentix-test")
    monkeypatch.setenv("WATCHDOG_USEC", "6000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    other = Manager.from_environment(print)
    assert (other.address, other.watchdog_s) == ("\0agentix-test", None)
    other.close()
