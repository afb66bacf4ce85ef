"""Whatever the moment of a crash: what was said to be durable is there, the rest is a prefix, and it goes on."""

import errno
import random
from collections import Counter
from contextlib import suppress

import pytest
from journal.building import KEY, fill, grouped, judge, open_sim, step, values
from sim.disk import SimDisk

from agentix_kernel.journal.errors import JournalError, JournalFailed, JournalFull
from agentix_kernel.journal.journal import BUFFERED_MAX, Journal
from agentix_kernel.journal.recover import Opened
from agentix_syscalls import records

HISTORIES = 4000
BOOTS = 4
LIVES = range(5, 13)


def live(journal: Journal, seed: int | random.Random, model: list[int]) -> None:
    """Some records, groups and commits. `model` is what was appended, by sequence."""
    chance = random.Random(seed) if isinstance(seed, int) else seed
    for _ in range(chance.randrange(1, 40)):
        act = chance.random()
        if act < 0.5:
            value = chance.randrange(1 << 30)
            kind = records.REDO if chance.random() < 0.2 else records.STEP
            seq = journal.append(kind, data=("x" * chance.randrange(200), value))
            model.append(value)
            assert seq == len(model)
        elif act < 0.9:
            journal.publish()
        else:
            journal.commit()


def check(disk: SimDisk, model: list[int], at_least: int) -> Opened:
    """Reopen after a crash: a prefix of the model, not shorter than what was promised."""
    journal, opened = open_sim(disk)
    try:
        assert at_least <= opened.head_seq <= len(model)
        assert journal.published == journal.durable == opened.head_seq
        del model[opened.head_seq:]
        assert values(disk) == model
        report = judge(disk)
        assert report.ok, report
        assert report.torn_tail == 0
        return opened
    finally:
        journal.abandon()


@pytest.mark.parametrize("part", range(10))
def test_power_loss(part):
    seen = Counter()
    for seed in range(part, HISTORIES, 10):
        chance = random.Random(seed)
        disk, model = SimDisk(seed), []
        for boot in range(BOOTS):
            journal, _ = open_sim(disk)
            live(journal, chance, model)
            durable = journal.durable
            journal.abandon()
            disk.crash(seed * BOOTS + boot)
            appended = len(model)
            opened = check(disk, model, durable)
            seen["torn"] += opened.torn_bytes > 0
            seen["lost"] += opened.head_seq < appended
            seen["more than promised"] += opened.head_seq > durable
            seen["torn and more than promised"] += opened.torn_bytes > 0 and opened.head_seq > durable
            seen["several segments"] += opened.segments > 1
    assert min(seen.values()) > 20, seen  # else these histories test nothing
    assert len(seen) == 5


def test_end_of_the_process():
    for seed in range(200):
        chance = random.Random(seed)
        disk, model = SimDisk(seed), []
        for _ in range(BOOTS):
            journal, _ = open_sim(disk)
            live(journal, chance, model)
            published = journal.published
            journal.abandon()
            disk.kill()
            check(disk, model, published)


@pytest.mark.parametrize("end", ["crash", "kill"])
def test_the_end_at_every_operation_of_the_disk(end):
    """Also in the middle of opening, cutting, rolling and closing; and again while that is being repaired."""
    whole = SimDisk()
    journal, _ = open_sim(whole)
    model: list[int] = []
    for seed in LIVES:
        live(journal, seed, model)
    journal.close()
    for at in range(whole.operations):
        disk, model, promised = SimDisk(at), [], 0
        disk.fail_after = at
        journal = None
        try:
            journal, _ = open_sim(disk)
            for seed in LIVES:
                live(journal, seed, model)
            journal.close()
        except (JournalError, OSError):
            pass
        if journal is not None:
            promised = journal.durable if end == "crash" else journal.published
            journal.abandon()
        _end(disk, end, at)
        for again in range(3):
            disk.fail_after = again
            with suppress(OSError):
                open_sim(disk)[0].abandon()
            _end(disk, end, at + 1000 * again)
        check(disk, model, promised)


def _end(disk: SimDisk, end: str, seed: int) -> None:
    if end == "crash":
        disk.crash(seed)
    else:
        disk.kill()


def test_what_was_found_at_opening_is_durable():
    """It was in Linux's memory only; whoever acts on it must not lose it to a power loss."""
    disk = SimDisk()
    journal, _ = open_sim(disk)
    for n in range(100):
        step(journal, n)
        journal.publish()
    journal.abandon()
    disk.kill()
    journal, opened = open_sim(disk)
    assert journal.durable == opened.head_seq == 100
    journal.abandon()
    for seed in range(5):
        disk.crash(seed)
        assert values(disk) == list(range(100))


def test_a_hole_before_groups_that_nobody_promised_is_cut():
    """Later groups arrived, an earlier one did not: that is what a power loss may do."""
    disk = SimDisk()
    journal, _ = open_sim(disk)
    step(journal, 0)
    journal.publish()
    journal.commit()
    begin = journal._offset
    step(journal, 1)
    journal.publish()
    end = journal._offset
    step(journal, 2)
    journal.publish()
    journal.abandon()
    disk.files["00000001.seg"].now[begin:end] = bytes(end - begin)
    report = judge(disk)
    assert report.ok
    assert report.torn_tail == end - begin + end - begin
    assert report.last_seq == 1
    journal, opened = open_sim(disk)
    assert opened.head_seq == 1
    assert opened.torn_bytes == report.torn_tail
    assert "cut" in opened.text()
    step(journal, 3)
    journal.close()
    assert values(disk) == [0, 3]


def test_a_hole_in_what_was_durable_is_damage_and_nothing_is_changed():
    disk = grouped(3)
    content = disk.files["00000001.seg"].now
    content[600] ^= 1
    before = bytes(content)
    with pytest.raises(JournalError, match="damaged at 512") as damaged:
        open_sim(disk)
    assert damaged.value.errno == errno.EUCLEAN
    with pytest.raises(JournalError, match="damaged"):
        values(disk)
    assert bytes(content) == before


def test_opened_tells_what_there_is():
    disk = SimDisk()
    journal, opened = open_sim(disk)
    assert opened.text() == "new"
    step(journal, 0)
    journal.close()
    journal, opened = open_sim(disk)
    assert (opened.head_seq, opened.first_seq, opened.segments, opened.torn_bytes) == (1, 1, 1, 0)
    assert opened.text() == "1 record in 1 segment, whole"
    journal.close()


def test_no_space_for_the_next_segment_loses_nothing():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    disk.full = True
    with pytest.raises(JournalFull) as full:
        fill(journal)
    appended = journal._seq
    assert full.value.errno == errno.ENOSPC
    assert "free space" in str(full.value)
    assert journal.failed is full.value
    step(journal, appended)
    with pytest.raises(JournalFull):
        journal.publish()
    disk.full = False
    assert journal.publish() == appended + 1
    assert journal.failed is None
    journal.close()
    assert values(disk) == list(range(appended + 1))
    assert judge(disk).ok


def test_a_write_that_failed_half_way_is_written_over():
    for at in range(12):
        disk = SimDisk(at)
        journal, _ = open_sim(disk)
        step(journal, 0)
        journal.publish()
        step(journal, 1)
        disk.fail_after, disk.fail_with = 0, errno.ENOSPC
        with pytest.raises(JournalFull):
            journal.publish()
        disk.fail_after = None
        for n in range(2, 2 + at * 20):  # from a group that fits to several segments
            step(journal, n)
        journal.publish()
        journal.close()
        assert values(disk) == list(range(max(2, 2 + at * 20)))
        report = judge(disk)
        assert report.ok, report


def test_what_the_disk_refuses_is_not_buffered_for_ever():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    disk.fail_after = 0
    step(journal, 0)
    with pytest.raises(JournalFailed):
        journal.publish()
    for n in range(1, BUFFERED_MAX):
        step(journal, n)
    with pytest.raises(JournalFailed):
        step(journal, BUFFERED_MAX)
    disk.fail_after = None
    assert journal.publish() == BUFFERED_MAX
    assert step(journal, BUFFERED_MAX) == BUFFERED_MAX + 1
    journal.close()


def test_a_failed_sync_is_for_good():
    """The Linux kernel forgets pages that it could not write; a later sync would lie."""
    disk = SimDisk()
    journal, _ = open_sim(disk)
    step(journal, 0)
    journal.publish()
    disk.fail_after = 0
    with pytest.raises(JournalFailed, match="restart"):
        journal.commit()
    disk.fail_after = None
    step(journal, 1)
    for refused in (journal.publish, journal.commit):
        with pytest.raises(JournalFailed):
            refused()
    journal.request_commit()
    assert journal.durable == 0
    assert isinstance(journal.failed, JournalFailed)
    with pytest.raises(JournalFailed):
        journal.close()
    journal, opened = open_sim(disk)
    assert opened.head_seq == 1
    journal.close()


def test_the_segment_size_may_change_between_boots():
    disk = SimDisk()
    for boot, size in enumerate((4096, 16384, 4096, 8192)):
        journal, _ = open_sim(disk, segment_bytes=size)
        for n in range(150):
            step(journal, boot * 150 + n)
            journal.publish()
        journal.close()
    assert values(disk) == list(range(600))
    assert judge(disk, KEY).ok
