"""What the index finds is what reading everything finds, whatever state the index is in."""

import random
import sqlite3

import pytest
from history.recording import KEY, filled, found, index_of, linear, made, question, record
from journal.building import open_sim
from sim.disk import SimDisk

from agentix_kernel.history import blocks, fill
from agentix_kernel.history.index import connected, position
from agentix_kernel.history.question import Question
from agentix_kernel.history.question import question as question_of
from agentix_kernel.journal import format as form
from agentix_kernel.journal import packed, retention, walk
from agentix_kernel.journal.errors import JournalDamaged
from agentix_kernel.journal.read import read
from agentix_syscalls import records


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks and transactions of a few groups, so that a short journal has many."""
    monkeypatch.setattr(blocks, "BLOCK_RECORDS", 9)
    monkeypatch.setattr(fill, "AT_ONCE", 3)


def held_together(disk, index, rnd, count=40):
    whole = list(read(disk, KEY))
    for _ in range(count):
        asked = question(rnd, whole)
        expected = linear(disk, asked)
        assert found(index, asked) == expected, asked
        assert found(index, asked, newest=True) == expected[::-1], asked


@pytest.mark.parametrize("seed", range(6))
def test_answers_equal_the_linear_read(seed, tmp_path):
    rnd, disk = random.Random(seed), made(seed)
    for name, count in (("none", 0), ("some", rnd.randrange(1, 6)), ("all", None)):
        index = index_of(disk, tmp_path / name)
        if name != "none":
            filled(index, count)
        held_together(disk, index, rnd)


def test_the_index_spares_reading(tmp_path, monkeypatch):
    disk = made(1)
    index = index_of(disk, tmp_path)
    filled(index)
    opened = []
    monkeypatch.setattr(blocks, "load", lambda *args, real=blocks.load: opened.append(1) or real(*args))
    some = list(read(disk, KEY))[200]
    assert found(index, Question(from_seq=some.seq, to_seq=some.seq)) == [some]
    assert found(index, Question(agents=frozenset({12345}))) == []
    assert len(opened) == 1


def test_no_more_is_read_than_was_there_when_it_was_asked(tmp_path, monkeypatch):
    """Else who reads slower than records are made would read for ever."""
    disk = made(1)
    index, taken = index_of(disk, tmp_path), []
    monkeypatch.setattr(blocks, "blocks", lambda *args, real=blocks.blocks: (
        taken.append(block) or block for block in real(*args)))
    some = list(read(disk, KEY))[:20]
    assert found(index, question_of({"to_seq": some[-1].seq})) == some
    assert len(taken) < 6


def test_more_words_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "WORDS_MAX", 2)
    disk = made(3)
    index = index_of(disk, tmp_path)
    filled(index)
    held_together(disk, index, random.Random(3))


def test_it_goes_on_where_it_was(tmp_path):
    rnd, disk = random.Random(4), made(4)
    index = index_of(disk, tmp_path)
    filler = filled(index)
    journal, _ = open_sim(disk)
    for _ in range(200):
        record(journal, rnd)
        journal.publish()
    held_together(disk, index, rnd, 5)
    while filler.advance():
        pass
    with connected(index.path) as db:
        assert position(db, disk).next_seq > 500
    held_together(disk, index, rnd)
    journal.close()


def test_two_that_fill_it_do_no_harm(tmp_path):
    disk = made(5)
    index = index_of(disk, tmp_path)
    one, other = filled(index, 1), filled(index, 1)
    while one.advance() | other.advance():
        pass
    held_together(disk, index, random.Random(5))
    with connected(index.path) as db:
        rows = db.execute("SELECT first_seq, next_seq FROM blocks ORDER BY first_seq").fetchall()
    assert [row[0] for row in rows[1:]] == [row[1] for row in rows[:-1]]


@pytest.mark.parametrize("harm", ["deleted", "emptied", "foreign", "flipped", "older"])
def test_a_damaged_index_is_made_anew_and_says_so(harm, tmp_path):
    disk = made(6)
    index = index_of(disk, tmp_path)
    filled(index)
    with open(index.path, "r+b") as file:
        if harm == "emptied":
            file.truncate(0)
        elif harm == "foreign":
            file.write(b"something else altogether" * 1000)
        elif harm == "flipped":
            data = file.read()
            file.seek(4096)
            file.write(bytes(byte ^ 0x5A for byte in data[4096:]))
    if harm == "deleted":
        (tmp_path / "index" / "index.sqlite").unlink()
    if harm == "older":
        with connected(index.path) as db:
            db.execute("PRAGMA user_version = 99")
    filler = fill.Filler(index)
    said = filler.open()
    assert (harm == "deleted") == (said == "")
    assert harm == "deleted" or "made anew" in said
    while filler.advance():
        pass
    held_together(disk, index, random.Random(6), 10)
    with connected(index.path) as db:
        assert position(db, disk).next_seq > 300


def test_an_index_that_breaks_while_it_is_used_is_no_wrong_answer(tmp_path):
    disk = made(7)
    index = index_of(disk, tmp_path)
    filled(index)
    with connected(index.path) as db:
        db.execute("DROP TABLE seen")
    asked = Question(agents=frozenset({1}))
    assert found(index, asked) == linear(disk, asked)
    with connected(index.path) as db:
        db.execute("DELETE FROM position")
    with pytest.raises(sqlite3.DatabaseError):
        fill.Filler(index).advance()
    assert "made anew" in fill.Filler(index).open()
    filled(index)
    held_together(disk, index, random.Random(7), 5)


def test_what_a_loss_of_power_took_leaves_the_index(tmp_path):
    """Indexed when it was written, and not durable then: other records have these numbers now."""
    rnd, disk = random.Random(8), SimDisk(8)
    journal, _ = open_sim(disk, segment_bytes=1 << 16)
    for _ in range(100):
        record(journal, rnd)
        journal.publish()
    journal.commit()
    for _ in range(100):
        record(journal, rnd)
        journal.publish()
    index = index_of(disk, tmp_path)
    filled(index)
    journal.abandon()
    for inode in disk.files.values():  # nothing of what was not synced
        inode.now[:] = inode.stable
        inode.writes.clear()
    assert len(list(read(disk, KEY))) == 100
    journal, _ = open_sim(disk, segment_bytes=1 << 16)
    for _ in range(150):
        record(journal, rnd)
        journal.publish()
    journal.close()
    filled(index)
    held_together(disk, index, rnd)


def test_dropped_segments_leave_the_index(tmp_path):
    disk = made(9)
    index = index_of(disk, tmp_path)
    filled(index)
    for number in walk.numbers(disk)[:4]:
        del disk.files[form.name_of(number)]
    held_together(disk, index, random.Random(9), 10)  # not yet heard of it
    filled(index)
    held_together(disk, index, random.Random(9), 10)
    with connected(index.path) as db:
        segments = {row[0] for row in db.execute("SELECT segment FROM blocks")}
        left = db.execute("SELECT count(*) FROM seen WHERE block NOT IN (SELECT first_seq FROM blocks)").fetchone()[0]
    assert min(segments) == walk.numbers(disk)[0]
    assert left == 0


def test_compressed_segments_are_unpacked_once(tmp_path, monkeypatch):
    disk = made(14)
    index = index_of(disk, tmp_path)
    filled(index, 4)
    closed = walk.numbers(disk)[:-2]
    for number in closed:
        retention.compress(disk, number)
    filled(index)
    held_together(disk, index, random.Random(14))
    unpacked, whole = [], linear(disk, Question())
    monkeypatch.setattr(packed, "content", lambda data, real=packed.content: unpacked.append(1) or real(data))
    assert found(index, Question()) == whole
    assert len(unpacked) == len(closed) > 5


def test_a_damaged_block_is_no_missing_answer(tmp_path):
    disk = made(10)
    index = index_of(disk, tmp_path)
    filled(index)
    some = list(read(disk, KEY))[150]
    place = next(iter(index.plan(Question(from_seq=some.seq, to_seq=some.seq), newest=False).places))
    disk.files[form.name_of(place.number)].now[place.begin + form.GROUP_BYTES + 3] ^= 1
    with pytest.raises(JournalDamaged, match="agentctl audit verify"):
        found(index, Question(from_seq=some.seq, to_seq=some.seq))


def test_a_new_journal_in_the_place_of_an_old_one(tmp_path):
    old = made(11)
    filled(index_of(old, tmp_path))
    disk = made(12, 300)
    index = index_of(disk, tmp_path)
    filled(index)
    held_together(disk, index, random.Random(12))


def test_events_are_found_by_their_kinds(tmp_path):
    disk = made(13)
    index = index_of(disk, tmp_path)
    filled(index)
    asked = Question(kinds=frozenset({records.DENIAL}), events=frozenset({"denial"}))
    expected = [one for one in read(disk, KEY)
                if (one.kind, one.verdict, one.phase) == (records.DENIAL, records.DENIED, records.EVENT)]
    assert found(index, asked) == expected != []
