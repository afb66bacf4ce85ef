"""The text of proc/trace: it grows by what is recorded, has bounds, and says what it leaves out."""

import pytest
from journal.building import open_sim
from sim.disk import SimDisk

from agentix_kernel import trail
from agentix_kernel.trail import Trail
from agentix_syscalls import records


@pytest.fixture
def journal():
    made, _ = open_sim(SimDisk(), segment_bytes=1 << 20)
    yield made
    made.close()


def note(made, journal, path="/x", publish=True):
    data = ("open", path, 0, "")
    made.note(journal, journal.append(records.FILE, agent=7, life=1, verdict=records.ALLOWED, data=data))
    if publish:
        journal.publish()


def text(made) -> str:
    return made.read_at(0, 1 << 30).decode()


def test_a_line_for_each_record_and_its_true_size(journal):
    made = Trail(7)
    assert (made.size(), text(made)) == (0, "")
    note(made, journal)
    note(made, journal, "/y", publish=False)
    first, second = text(made).splitlines()
    assert first.split("\t")[0::2] == ["1", "file", "operation='open' path='/x'"]
    assert second.startswith("2\t")
    assert made.size() == len(text(made))
    assert made.read_at(5, 7) == text(made)[5:12].encode()
    assert made.read_at(made.size(), 10) == b""


def test_what_was_said_stays_where_it_is(journal):
    made = Trail(7)
    note(made, journal)
    before = text(made)
    for _ in range(50):
        note(made, journal)
    assert text(made).startswith(before)


def test_what_came_too_fast_is_counted(journal):
    made = Trail(7)
    for _ in range(trail.RECORDS_MAX + 30):
        note(made, journal)
    lines = text(made).splitlines()
    assert lines[0] == "# 30 more records: agentctl trace 7"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(seq) for seq in range(31, trail.RECORDS_MAX + 31)]
    note(made, journal)
    assert "#" not in text(made).splitlines()[-1]


def test_the_older_half_is_cut_at_a_line(journal, monkeypatch):
    monkeypatch.setattr(trail, "TEXT_MAX_BYTES", 4000)
    made = Trail(7)
    for number in range(300):
        note(made, journal, f"/{number}")
        assert made.size() <= 4000
    lines = text(made).splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == list(range(301 - len(lines), 301))
    assert len(lines) > 20


def test_no_line_of_it_can_be_forged_or_steer_a_terminal(journal):
    made = Trail(7)
    note(made, journal, "/a\n99\t1.0\texit\tnone\t\x1b[2J \udcff\u2028\x85")
    assert text(made).count("\n") == 1
    assert "\x1b" not in text(made)
    assert text(made).isprintable() is False  # its own tabs and line end
    assert all(letter.isprintable() or letter in "\t\n" for letter in text(made))
