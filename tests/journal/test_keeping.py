"""What becomes of closed segments and of keys: nothing is lost on the way, wherever it ends."""

import errno
import os
from contextlib import suppress

import pytest
from journal.building import KEY, SEGMENT_BYTES, judge, open_real, open_sim, step, values
from sim.disk import Inode, SimDisk

from agentix_kernel.journal import format as form
from agentix_kernel.journal import key as keys
from agentix_kernel.journal import packed, read, retention, walk
from agentix_kernel.journal.disk import FRESH, NEXT, RealDisk
from agentix_kernel.journal.errors import JournalDamaged, JournalError, JournalFull, JournalKeyError
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.verify import verify
from agentix_syscalls import records

NEW = Key(b"n" * 32, "/keys/new")
DAY_NS = 86400 * 10**9


def long(disk, count=150, key=KEY):
    """A journal of many segments that is open."""
    journal, _ = open_sim(disk, key)
    for n in range(count):
        step(journal, n)
        journal.publish()
    journal.commit()
    return journal


def sizes(disk):
    return {name: len(inode.now) for name, inode in disk.files.items()}


# --- compression -----------------------------------------------------------------------------------------------------

def test_readers_do_not_see_that_a_segment_is_compressed():
    disk = SimDisk()
    journal = long(disk)
    before = judge(disk)
    for number in range(1, journal.segment - 1):
        retention.compress(disk, number)
        retention.compress(disk, number)  # again is nothing
    assert max(len(disk.files[form.name_of(number)].now) for number in range(1, journal.segment - 1)) < SEGMENT_BYTES
    assert judge(disk) == before
    assert values(disk) == list(range(150))
    assert [record.data[1] for record in read.read(disk, KEY, start_seq=40)] == list(range(39, 150))
    assert [record.data[1] for record in read.tail(disk, KEY, 120)] == list(range(30, 150))
    journal.close()
    journal, opened = open_sim(disk)
    assert (opened.head_seq, opened.torn_bytes) == (150, 0)
    step(journal, 150)
    journal.close()
    assert values(disk) == list(range(151))


@pytest.mark.parametrize("end", [b"", b"\0", b"\0" * 40, b"x"])
def test_what_is_packed_comes_out_as_it_was(end):
    head = form.encode_head(KEY, 3, 1, 2, bytes(16), bytes(32))
    data = head + bytes(form.FIRST_GROUP - len(head)) + os.urandom(5000) + bytes(9000) + end
    small = packed.pack(data)
    assert packed.is_packed(small)
    assert packed.unpack(small) == (data, "")
    assert packed.segment_head(small) == head


def test_a_reader_goes_on_while_segments_are_compressed_and_dropped_under_it():
    disk = SimDisk()
    journal = long(disk)
    reading = read.read(disk, KEY)
    seen = [next(reading).data[1]]
    retention.compress(disk, 1)
    retention.compress(disk, 2)
    seen += [next(reading).data[1] for _ in range(30)]
    for number in (1, 2, 3):
        disk.remove(form.name_of(number))
    seen += [record.data[1] for record in reading]
    kept = walk.start(disk, KEY, 4).next_seq
    assert seen[-1] == 149
    assert seen == sorted(seen)
    assert set(range(kept - 1, 150)) <= set(seen)
    journal.abandon()


def test_a_journal_whose_end_is_compressed_has_lost_what_was_behind():
    disk = SimDisk()
    journal = long(disk)
    retention.compress(disk, 2)
    journal.close()
    for number in range(3, journal.segment + 2):
        disk.files.pop(form.name_of(number), None)
    before = sizes(disk)
    with pytest.raises(JournalDamaged, match=r"00000002\.seg is compressed"):
        open_sim(disk)
    assert any("missing" in problem.what for problem in judge(disk).problems)
    assert sizes(disk) == before


def test_an_earlier_version_would_refuse_a_compressed_segment():
    """It knew version 1 alone, and looked at these fields."""
    disk = SimDisk()
    long(disk).close()
    retention.compress(disk, 1)
    version, _, flags = form.HEAD.unpack_from(disk.files[form.name_of(1)].now)[1:4]
    assert (version, flags) != (form.VERSION, 0)


# --- retention -------------------------------------------------------------------------------------------------------

def drop_now(disk, journal, keep_bytes=SEGMENT_BYTES * 5, keep_ns=0, now_ns=0):
    drop = retention.expired(disk, journal.key, journal.segment, now_ns, keep_ns, keep_bytes)
    if drop is not None:
        journal.append(records.DROPPED, data=drop.data)
        journal.publish()
        journal.commit()
        retention.remove(disk, drop)
    return drop


def test_the_oldest_go_and_the_chain_still_verifies():
    disk = SimDisk()
    journal = long(disk)
    for _ in range(3):  # again and again: each summary takes the place of the one before
        drop = drop_now(disk, journal)
        first_seq, last_seq, summary = drop.data
        assert summary["records"] == last_seq - first_seq + 1
        assert sum(summary["kinds"].values()) == summary["records"]
        assert summary["kinds"]["step"] > 0
        assert summary["next_segment"] == drop.last + 1 == walk.numbers(disk)[0]
        assert bytes.fromhex(summary["link"]) == walk.head(disk, KEY, drop.last + 1).previous
        report = judge(disk)
        assert report.ok, report.problems
        assert (report.first_seq, report.dropped) == (last_seq + 1, last_seq)
        assert f"records up to {last_seq} dropped by retention" in report.text()
        for n in range(100):
            step(journal, n)
            journal.publish()
        journal.commit()
    assert drop_now(disk, journal, 1 << 30) is None
    journal.close()
    assert judge(disk).ok
    open_sim(disk)[0].close()


def test_by_age():
    disk = SimDisk()
    journal = long(disk)
    begun = [walk.head(disk, KEY, number).wall_ns for number in range(1, journal.segment + 1)]
    now = begun[3] + DAY_NS
    assert drop_now(disk, journal, 0, DAY_NS, begun[1] + DAY_NS) is None  # a record of segment 1 is not that old
    drop = drop_now(disk, journal, 0, DAY_NS, now)
    assert (drop.first, drop.last) == (1, 2)
    assert drop.data[2]["why"] == "older than 1 days"
    assert drop_now(disk, journal, 0, DAY_NS, now - 10 * DAY_NS) is None  # the clock jumped back: nothing is old
    assert drop_now(disk, journal, 0, DAY_NS, now + 10**6 * DAY_NS).last == journal.segment - 2
    assert judge(disk).ok
    journal.close()


def test_a_first_segment_that_nobody_dropped_is_missed():
    disk = SimDisk()
    journal = long(disk)
    drop_now(disk, journal)
    first = walk.numbers(disk)[0]
    journal.close()
    del disk.files[form.name_of(first)]
    (problem,) = judge(disk).problems
    assert form.name_of(first) in problem.what
    assert "before it is missing" in problem.what


def test_an_agent_cannot_say_that_something_was_dropped():
    """Its records are its own: neither its words nor a forged group stand for the kernel's."""
    disk = SimDisk()
    journal = long(disk)
    data = (1, 50, {"next_segment": 99})
    journal.append(records.CALL, agent=7, data=("next_segment", [data], 0, ""))
    journal.append(records.DROPPED, agent=7, data=data)
    journal.close()
    del disk.files[form.name_of(1)]
    assert "before it is missing" in judge(disk).problems[0].what


def test_what_is_damaged_is_kept():
    disk = SimDisk()
    journal = long(disk)
    disk.files[form.name_of(1)].now[700] ^= 1
    with pytest.raises(JournalDamaged, match="kept"):
        drop_now(disk, journal)
    assert walk.numbers(disk)[0] == 1
    journal.abandon()


# --- the end at every operation --------------------------------------------------------------------------------------

def household(disk, key=KEY):
    """Some of everything: appending, compressing, dropping, another key, dropping again."""
    model = disk.model = []
    journal, _ = open_sim(disk, key)
    disk.journal = journal
    for turn in range(3):
        for n in range(40):
            model.append(turn * 100 + n)
            step(journal, model[-1])
            journal.publish()
        journal.commit()
        if turn == 1:
            journal.roll(NEW)
        for number in walk.numbers(disk):
            if number <= journal.segment - retention.OPEN_SEGMENTS:
                retention.compress(disk, number)
        drop_now(disk, journal, SEGMENT_BYTES * 3)
    journal.close()


@pytest.mark.parametrize("end", ["crash", "kill"])
def test_the_end_at_every_operation_of_the_disk(end):
    whole = SimDisk()
    household(whole)
    ring = KEY.lead(Key(KEY.secret, others=(NEW,)))
    assert walk.numbers(whole)[0] > 1
    for at in range(whole.operations):
        disk = SimDisk(at)
        disk.fail_after = at
        with suppress(OSError):
            household(disk)
        journal = getattr(disk, "journal", None)
        promised = 0 if journal is None else journal.durable if end == "crash" else journal.published
        if journal is not None:
            journal.abandon()
        disk.crash(at) if end == "crash" else disk.kill()
        journal, opened = open_sim(disk, ring)
        assert opened.head_seq >= promised
        journal.close()
        report = verify(disk, ring)
        assert report.ok, (at, report.problems)
        steps = [record.data[1] for record in read.read(disk, ring, kinds={records.STEP})]
        begin = disk.model.index(steps[0]) if steps else 0
        assert steps == disk.model[begin:begin + len(steps)]
        assert report.dropped or not begin


# --- a new segment on demand, with another key -----------------------------------------------------------------------

def test_a_new_segment_on_demand():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    step(journal, 0)
    assert journal.roll() == 2
    assert journal.roll() == 3  # an empty one is as good as another
    step(journal, 1)
    journal.close()
    assert values(disk) == [0, 1]
    assert judge(disk).ok


def test_a_full_disk_leaves_the_segment_and_the_key():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    step(journal, 0)
    disk.full = True
    with pytest.raises(JournalFull):
        journal.roll(NEW)
    assert (journal.key.id, journal.segment) == (KEY.id, 1)
    disk.full = False
    assert journal.roll(NEW) == 2
    assert journal.key.id == NEW.id
    assert journal.key.of(KEY.id) is not None
    step(journal, 1)
    journal.close()
    ring = NEW.lead(Key(NEW.secret, others=(KEY,)))
    assert values(disk, ring) == [0, 1]
    assert verify(disk, ring).ok


def test_each_segment_is_verified_with_its_own_key():
    disk = SimDisk()
    journal = long(disk)
    journal.roll(NEW)
    begun = journal.segment
    for n in range(150, 200):
        step(journal, n)
        journal.publish()
    journal.close()
    ring = NEW.lead(Key(NEW.secret, others=(KEY,)))
    assert values(disk, ring) == list(range(200))
    assert verify(disk, ring).ok
    told = {problem.segment: problem.what for problem in verify(disk, NEW).problems}
    assert set(told) == {form.name_of(number) for number in range(1, begun)}
    assert KEY.id.hex() in told[form.name_of(1)]
    assert f"journal-{KEY.id.hex()}.key" in told[form.name_of(1)]
    told = {problem.segment for problem in verify(disk, KEY).problems}
    assert form.name_of(begun) in told
    assert form.name_of(1) not in told


def test_a_key_takes_over_on_disk(tmp_path):
    journal, _ = open_real(tmp_path, threaded=False)
    path = str(tmp_path / "keys" / "journal.key")
    old = journal.key
    new = keys.make_key(path, os.urandom)
    assert keys.read_keys(path).id == old.id  # not before it is adopted
    journal.roll(new)
    keys.adopt(path, new)
    keys.adopt(path, new)  # again is nothing
    step(journal, 1)
    journal.close()
    ring = keys.read_keys(path)
    assert ring.id == new.id
    assert ring.of(old.id) is not None
    assert sorted(os.listdir(tmp_path / "keys")) == sorted(
        ["journal.key", *(f"journal-{key.id.hex()}.key" for key in (old, new))])
    assert verify(RealDisk(str(tmp_path / "journal")), ring).ok


def test_a_crash_between_the_first_segment_of_a_key_and_its_file(tmp_path):
    journal, _ = open_real(tmp_path, threaded=False)
    path = str(tmp_path / "keys" / "journal.key")
    new = keys.make_key(path, os.urandom)
    journal.roll(new)
    step(journal, 1)
    journal.publish()
    journal.abandon()
    journal.disk.close()
    journal, opened = open_real(tmp_path, threaded=False)
    assert opened.head_seq == 1
    assert journal.key.id == new.id
    assert keys.read_keys(path).id == new.id
    journal.close()


def test_keys_that_others_may_read_or_that_are_none(tmp_path):
    journal, _ = open_real(tmp_path)
    journal.close()
    beside = tmp_path / "keys" / f"journal-{'0' * 16}.key"
    beside.write_bytes(b"k" * 32)
    beside.chmod(0o644)
    with pytest.raises(JournalKeyError, match=f"{beside.name}: the key of the journal must be a file of mode 0600"):
        open_real(tmp_path)
    beside.chmod(0o600)
    beside.write_bytes(b"short")
    with pytest.raises(JournalKeyError, match="32 bytes"):
        open_real(tmp_path)


# --- the real disk ---------------------------------------------------------------------------------------------------

@pytest.fixture(params=["real", "sim"])
def disk(request, tmp_path):
    return RealDisk(str(tmp_path / "journal")) if request.param == "real" else SimDisk()


def test_a_file_is_replaced_at_once(disk):
    disk.create("a", 10).close()
    old = disk.open("a")
    disk.replace("a", b"new content")
    assert disk.open("a").pread(100, 0) == b"new content"
    assert disk.open("a").size() == 11
    assert old.pread(100, 0) in {bytes(10), b"new content"[:10]}
    assert disk.names() == ["a"]


def test_a_file_is_removed(disk):
    disk.create("a", 10).close()
    disk.remove("a")
    assert disk.names() == []
    with pytest.raises(FileNotFoundError):
        disk.remove("a")


def test_what_a_crash_left_is_not_seen_and_goes(tmp_path):
    disk = RealDisk(str(tmp_path / "journal"))
    for name in (FRESH, NEXT):
        (tmp_path / "journal" / name).write_bytes(b"half")
    assert disk.names() == []
    disk.create("a", 10).close()
    disk.replace("a", b"whole")
    assert os.listdir(tmp_path / "journal") == ["a"]


def test_a_segment_of_another_kernel_at_the_end_is_no_torn_tail():
    disk = SimDisk()
    long(disk).close()
    last = max(walk.numbers(disk))
    content = bytes(disk.files[form.name_of(1)].now)
    disk.files[form.name_of(last + 1)] = Inode(bytearray(content), bytearray(content))
    with pytest.raises(JournalError, match="under another name") as refused:
        open_sim(disk)
    assert refused.value.errno == errno.EUCLEAN
    assert bytes(disk.files[form.name_of(last + 1)].now) == content
