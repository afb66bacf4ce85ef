"""Output of agents: byte for byte, bounded, in order; and what a full disk takes of it."""

import os

import pytest

from agentix_kernel.logs import AgentLog


@pytest.fixture(params=["disk", "memory"])
def log(request, tmp_path):
    made = AgentLog(str(tmp_path) if request.param == "disk" else None, 1000)
    yield made
    made.close()


def test_pieces_keep_stream_order_and_time(log):
    for at, (stream, data) in enumerate([(1, b"out"), (2, b"err\xff\0"), (1, b"more")]):
        log.append(stream, data, 1000 + at)
    assert log.pieces() == [(1000, 1, 0, 3), (1001, 2, 3, 5), (1002, 1, 8, 4)]
    assert log.read_at(0, 99) == b"outerr\xff\0more"
    assert log.read_at(3, 3) == b"err"
    assert log.read_at(99, 3) == b""
    assert (log.size(), log.mtime_ns) == (12, 1002)


def test_rotation_bounds_the_size(log, tmp_path):
    for number in range(50):
        log.append(1, b"%0100d" % number, number)
    assert log.rotations >= 4
    assert 0 < log.size() <= 1000
    pieces = log.pieces()
    assert [number for number, _, _, _ in pieces] == list(range(50 - len(pieces), 50))  # the newest, whole
    assert log.read_at(0, 100) == b"%0100d" % pieces[0][0]
    if log.folder is not None:
        assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.marks", "log.marks.1"]
        assert (tmp_path / "log.1").read_bytes().endswith(b"%0100d" % (pieces[0][0] - 1))


def test_closing_gives_descriptors_back_and_reading_goes_on(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    log = AgentLog(str(tmp_path), 1000)
    log.append(1, b"kept", 5)
    log.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert (log.ended, log.read_at(0, 9), log.size()) == (True, b"kept", 4)
    log.close()
    found = AgentLog(str(tmp_path), 1000, ended=True)
    assert found.pieces() == [(5, 1, 0, 4)]
    found.close()


def test_a_full_disk_takes_the_piece_and_no_more(tmp_path, monkeypatch):
    log = AgentLog(str(tmp_path), 1000)
    log.append(1, b"before", 1)
    write = os.write

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.append(1, b"lost", 2)
    monkeypatch.setattr(os, "write", write)
    log.append(2, b"after", 3)
    assert log.read_at(0, 99) == b"beforeafter"
    assert log.pieces() == [(1, 1, 0, 6), (3, 2, 6, 5)]
    log.close()


def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path):
    os.symlink("/etc/passwd", tmp_path / "log")
    log = AgentLog(str(tmp_path), 1000)
    with pytest.raises(OSError, match="symbolic links"):
        log.append(1, b"x", 1)
    log.close()
