"""A follower sees what was published after it began, in order, and is told what it missed."""

import trio
from journal.building import open_sim, step
from sim.disk import SimDisk

from agentix_kernel.journal.follow import Missed
from agentix_syscalls import records


def drain(follower):
    found = []
    while (item := follower.next_nowait()) is not None:
        found.append(item)
    return found


def test_published_records_come_and_others_do_not():
    journal, _ = open_sim(SimDisk())
    step(journal, 0)
    journal.publish()
    with journal.follow() as all_of_them, journal.follow(wanted=lambda record: record.agent == 2) as of_two:
        step(journal, 1)
        assert drain(all_of_them) == []
        step(journal, 2, agent=2)
        journal.append(records.REDO, agent=2, data=("body", 3))
        journal.publish()
        step(journal, 4)
        journal.publish()
        assert [(r.seq, r.data[1]) for r in drain(all_of_them)] == [(2, 1), (3, 2), (4, 3), (5, 4)]
        assert [r.data[1] for r in drain(of_two)] == [2, 3]
    step(journal, 5)
    journal.publish()
    assert drain(all_of_them) == []
    assert journal._followers == []
    journal.close()


def test_pieces_of_a_large_group_come_in_order():
    journal, _ = open_sim(SimDisk())
    with journal.follow() as follower:
        for n in range(500):
            step(journal, n)
        journal.publish()
        assert [r.data[1] for r in drain(follower)] == list(range(500))
    journal.close()


def test_a_slow_follower_is_told_what_it_missed():
    journal, _ = open_sim(SimDisk())
    with journal.follow(limit=3) as follower:
        for n in range(10):
            step(journal, n)
            journal.publish()
        first = follower.next_nowait()
        step(journal, 10)
        journal.publish()
        rest = drain(follower)
        assert [first.seq, *(r.seq for r in rest[:2])] == [1, 2, 3]
        assert rest[2] == Missed(4, 11, 8)
        step(journal, 11)
        journal.publish()
        assert [r.seq for r in drain(follower)] == [12]
    journal.close()


async def test_waiting_for_the_next():
    journal, _ = open_sim(SimDisk())
    found = []

    async def read(follower):
        while (record := await follower.next()) is not None:
            found.append(record.seq)

    async with trio.open_nursery() as nursery:
        follower = journal.follow()
        nursery.start_soon(read, follower)
        for n in range(5):
            await trio.testing.wait_all_tasks_blocked()
            step(journal, n)
            journal.publish()
        await trio.testing.wait_all_tasks_blocked()
        assert found == [1, 2, 3, 4, 5]
        journal.close()  # ends the stream
    assert found == [1, 2, 3, 4, 5]


async def test_a_follower_may_be_cancelled_while_it_waits():
    journal, _ = open_sim(SimDisk())
    with journal.follow() as follower:
        with trio.move_on_after(0):
            await follower.next()
        step(journal, 0)
        journal.publish()
        assert (await follower.next()).seq == 1
    journal.close()
