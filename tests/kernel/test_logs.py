"""Output of agents: byte for byte, bounded, in order; what rotation keeps, and what a full disk takes of it."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentix_kernel.logs import LOST, AgentLog, Piece, Reader


@pytest.fixture(params=["disk", "memory"])
def log(request, tmp_path):
    made = AgentLog(str(tmp_path) if request.param == "disk" else None, 1000)
    yield made
    made.close()


def kept(log):
    """All that is kept, as (stream, bytes), piece by piece."""
    reader, found = Reader(log), []
    while pieces := reader.next()[1]:
        found += [(piece.stream, log.read(piece.begin, piece.length)) for piece in pieces]
    return found


def test_pieces_keep_stream_order_and_time(log):
    for at, (stream, data) in enumerate([(1, b"out"), (2, b"err\xff\0"), (1, b"more")]):
        log.append(stream, data, 1000 + at)
    assert Reader(log).next() == (0, [Piece(1000, 1, 0, 3), Piece(1001, 2, 3, 5), Piece(1002, 1, 8, 4)])
    assert log.read_at(0, 99) == b"outerr\xff\0more"
    assert log.read_at(3, 3) == b"err"
    assert log.read_at(99, 3) == b""
    assert (log.size(), log.end, log.mtime_ns) == (12, 12, 1002)


def test_rotation_bounds_the_size_and_keeps_two_files(log, tmp_path):
    for number in range(50):
        log.append(1, b"%0100d" % number, number)
    assert 0 < log.size() <= 1000
    numbers = [int(data) for _, data in kept(log)]
    assert numbers == list(range(50 - len(numbers), 50))  # the newest, whole
    assert 10 <= len(numbers) <= 20
    if log.folder is not None:
        assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.marks", "log.marks.1"]
        assert len(log.parts()) == 2


def test_one_that_reads_along_loses_nothing_that_is_kept(log):
    reader, seen = Reader(log), []
    for number in range(50):
        log.append(1, b"%0100d" % number, number)
        if number % 7 == 0:
            missed, pieces = reader.next()
            while pieces:
                assert missed == 0
                seen += [int(log.read(piece.begin, piece.length)) for piece in pieces]
                missed, pieces = reader.next()
    assert seen == list(range(50))


def test_one_that_is_too_slow_hears_how_much_it_missed(log):
    reader = Reader(log)
    log.append(1, b"x" * 100, 0)
    assert reader.next()[0] == 0
    for number in range(50):
        log.append(1, b"%0100d" % number, number)
    missed, pieces = reader.next()
    first = int(log.read(pieces[0].begin, 100))
    assert (missed, missed % 100) == (first * 100, 0)
    assert missed > 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab\n", min_size=1, max_size=60), max_size=60), st.integers(0, 12))
def test_the_last_lines_over_a_rotation(texts, count):
    log = AgentLog(None, 400)
    for text in texts:
        log.append(1, text.encode(), 0)
    whole = b"".join(data for _, data in kept(log))
    begin = log.last_lines(count, log.end)
    lines = whole.splitlines(keepends=True)
    assert whole[begin - log.parts()[0].begin:] == b"".join(lines[len(lines) - count:] if count < len(lines) else lines)
    log.close()


def test_closing_gives_descriptors_back_and_reading_goes_on(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    log = AgentLog(str(tmp_path), 10)
    log.append(1, b"kept before", 5)
    log.append(2, b"kept", 6)
    log.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert (log.ended, log.read_at(0, 9), log.size()) == (True, b"kept", 4)
    log.close()
    found = AgentLog(str(tmp_path), 1000, ended=True)
    assert kept(found) == [(1, b"kept before"), (2, b"kept")]
    found.close()


def test_bytes_without_a_mark_are_none(tmp_path):
    """A crash came between the two writes."""
    log = AgentLog(str(tmp_path), 1000)
    log.append(1, b"whole", 1)
    log.close()
    with open(tmp_path / "log", "ab") as file:
        file.write(b"torn")
    log.append(2, b"next", 2)
    assert kept(log) == [(1, b"whole"), (2, b"next")]
    log.close()


def full(*_args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["pwrite", "open"])
def test_a_full_disk_takes_the_piece_and_no_more(tmp_path, monkeypatch, what):
    log = AgentLog(str(tmp_path), 10)
    log.append(1, b"before this", 1)
    works = getattr(os, what)
    monkeypatch.setattr(os, what, full)
    assert [log.append(1, b"lost", 2), log.append(1, b"this too", 3)] == [True, False]  # told once
    assert log.lost == 12
    monkeypatch.setattr(os, what, works)
    assert not log.append(2, b"after", 4)
    reader = Reader(log)
    found = reader.next()[1] + reader.next()[1]
    assert [(piece.stream, piece.length) for piece in found] == [(1, 11), (LOST, 12), (2, 5)]
    assert (log.lost, log.read(11, 99)) == (0, b"after")
    log.close()


def test_a_piece_that_is_half_written_is_taken_back(tmp_path, monkeypatch):
    log = AgentLog(str(tmp_path), 1000)
    log.append(1, b"before", 1)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:2], at))
    log.append(1, b"lost", 2)
    monkeypatch.setattr(os, "pwrite", write)
    assert kept(log) == [(1, b"before")]
    assert (tmp_path / "log").read_bytes() == b"before"
    assert os.path.getsize(tmp_path / "log.marks") == 16
    log.close()


def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path):
    os.symlink("/etc/passwd", tmp_path / "log")
    log = AgentLog(str(tmp_path), 1000)
    with pytest.raises(OSError, match="symbolic links"):
        log.append(1, b"x", 1)
    log.close()
