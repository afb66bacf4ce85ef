"""Durability among tasks and threads: one sync in flight, everybody who waits is told, also when it fails."""

import errno
import select
import threading

import pytest
import trio
from emulation import WAIT_S
from journal.building import KEY, judge, not_random, open_real, open_sim, step, values
from sim.disk import SimDisk, SimFile

from agentix_kernel.journal.disk import RealClock, RealDisk
from agentix_kernel.journal.errors import JournalFailed
from agentix_kernel.journal.journal import Journal


class Gate:
    """Holds up syncs of a simulated disk until it is opened; counts them."""

    def __init__(self, monkeypatch):
        self.count = 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error = None
        plain = SimFile.datasync

        def datasync(file):
            if threading.current_thread().name == "journal-commit":
                self.count += 1
                self.entered.release()
                assert self.go.acquire(timeout=WAIT_S)
                if self.error:
                    raise self.error
            plain(file)

        monkeypatch.setattr(SimFile, "datasync", datasync)


@pytest.fixture
def journal():
    journal, _ = Journal.open(SimDisk(), RealClock(), random=not_random, key=KEY)
    yield journal
    journal.abandon()


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


async def test_committed_returns_when_it_is(tmp_path):
    journal, _ = open_real(tmp_path)
    seq = step(journal, 0)
    journal.publish()
    journal.request_commit()
    with trio.fail_after(WAIT_S):
        await journal.committed(seq)
        await trio.lowlevel.wait_readable(journal.commit_fd)
    assert journal.durable == seq
    journal.on_commit()
    assert not readable(journal.commit_fd)
    await journal.committed(seq)  # at once
    journal.close()


async def test_requests_coalesce_while_one_is_in_flight(journal, monkeypatch):
    gate = Gate(monkeypatch)
    woken = []

    async def wait(seq):
        await journal.committed(seq)
        woken.append((seq, journal.durable))

    async with trio.open_nursery() as nursery:
        first = step(journal, 0)
        journal.publish()
        journal.request_commit()
        assert gate.entered.acquire(timeout=WAIT_S)
        nursery.start_soon(wait, first)
        for n in range(1, 50):
            nursery.start_soon(wait, step(journal, n))
            journal.publish()
            journal.request_commit()
        await trio.testing.wait_all_tasks_blocked()
        assert (journal.durable, woken) == (0, [])
        gate.go.release()
        gate.go.release()
    assert journal.durable == 50
    assert gate.count == 2
    assert woken[0] == (first, 1) or woken[0][1] == 50
    assert sorted(seq for seq, _ in woken) == list(range(1, 51))


async def test_what_is_published_during_a_sync_waits_for_the_next(journal, monkeypatch):
    gate = Gate(monkeypatch)
    first = step(journal, 0)
    journal.publish()
    journal.request_commit()
    assert gate.entered.acquire(timeout=WAIT_S)
    second = step(journal, 1)
    journal.publish()
    gate.go.release()
    await journal.committed(first)
    assert journal.durable == first
    journal.request_commit()
    gate.go.release()
    await journal.committed(second)


async def test_a_failed_sync_is_told_to_all(journal, monkeypatch):
    gate = Gate(monkeypatch)
    gate.error = OSError(errno.EIO, "Input/output error")
    told = []

    async def wait(seq):
        with pytest.raises(JournalFailed, match="restart agentd"):
            await journal.committed(seq)
        told.append(seq)

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(wait, step(journal, n))
        journal.publish()
        journal.request_commit()
        gate.go.release()
    assert sorted(told) == [1, 2, 3]
    await trio.lowlevel.wait_readable(journal.commit_fd)
    assert isinstance(journal.failed, JournalFailed)
    assert journal.durable == 0
    step(journal, 9)
    with pytest.raises(JournalFailed):
        journal.publish()


async def test_a_waiter_may_be_cancelled(journal):
    seq = step(journal, 0)
    with trio.move_on_after(0):
        await journal.committed(seq)
    journal.publish()
    journal.request_commit()
    await journal.committed(seq)


async def test_closing_tells_who_still_waits(journal):
    async def wait():
        with pytest.raises(JournalFailed, match="closed"):
            await journal.committed(99)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        journal.close()


async def test_without_threads_a_request_commits_at_once():
    before = threading.active_count()
    journal, _ = open_sim(SimDisk())
    seq = step(journal, 0)
    journal.publish()
    assert journal.durable == 0
    journal.request_commit()
    assert journal.durable == seq
    assert readable(journal.commit_fd)
    await journal.committed(seq)
    assert threading.active_count() == before
    journal.close()


async def test_without_threads_waiters_wake_in_the_same_run():
    journal, _ = open_sim(SimDisk())
    seq = step(journal, 0)
    order = []

    async def wait():
        await journal.committed(seq)
        order.append("woken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        journal.publish()
        journal.request_commit()
        order.append("asked")
    assert order == ["asked", "woken"]
    journal.close()


def test_a_host_loop_wakes_tasks_of_a_guest_run(tmp_path):
    """The kernel's loop may be the host of trio: news come from outside of every task then."""
    journal, _ = open_real(tmp_path)
    todo, done, ready = [], [], threading.Semaphore(0)

    def soon(call):
        todo.append(call)
        ready.release()

    async def main():
        seq = step(journal, 0)
        with journal.follow() as follower, trio.fail_after(WAIT_S):
            todo.append(journal.publish)  # by the host
            todo.append(journal.request_commit)
            ready.release(2)
            record = await follower.next()
            await journal.committed(seq)
            return record.seq, journal.durable

    trio.lowlevel.start_guest_run(main, run_sync_soon_threadsafe=soon, done_callback=done.append)
    while not done:
        assert ready.acquire(timeout=WAIT_S)
        todo.pop(0)()
    assert done[0].unwrap() == (1, 1)
    journal.close()


def test_many_segments_with_threads(tmp_path):
    journal, _ = open_real(tmp_path, segment_bytes=8192)
    for n in range(3000):
        step(journal, n)
        if n % 3 == 0:
            journal.publish()
        if n % 50 == 0:
            journal.request_commit()
    journal.close()
    assert journal.durable == 3000
    journal, opened = open_real(tmp_path, segment_bytes=8192)
    assert (opened.head_seq, opened.torn_bytes) == (3000, 0)
    assert opened.segments > 20
    assert values(journal.disk, journal.key) == list(range(3000))
    journal.close()


def test_closing_twice_and_after_a_failure(tmp_path):
    journal, _ = open_real(tmp_path)
    step(journal, 0)
    journal.close()
    journal.close()
    journal.abandon()
    assert journal.durable == 1


def test_readers_beside_a_writer_raise_no_false_alarm(tmp_path):
    """Half-written groups, segments that are begun just now: none of it is damage."""
    journal, _ = open_real(tmp_path, segment_bytes=16384)
    found, stop, looked = [], threading.Event(), threading.Event()

    def look():
        disk = RealDisk(journal.disk.folder)
        while not stop.is_set():
            seen = values(disk, journal.key)
            report = judge(disk, journal.key)
            found.append((seen == list(range(len(seen))), report.problems, report.last_seq))
            looked.set()

    reader = threading.Thread(target=look)
    reader.start()
    n = 0
    for _ in range(20):
        looked.clear()
        for _ in range(60):  # while it looks, and no more: a slow reader is not to be run away from
            step(journal, n)
            n += 1
            journal.publish()
        journal.request_commit()
        assert looked.wait(60)
    stop.set()
    reader.join()
    journal.close()
    assert len(found) >= 20
    assert {(whole, tuple(problems)) for whole, problems, _ in found} == {(True, ())}
    report = judge(journal.disk, journal.key)
    assert (report.ok, report.torn_tail, report.last_seq) == (True, 0, n)
