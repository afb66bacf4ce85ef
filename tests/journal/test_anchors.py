"""Anchors as lines of text: found again in whatever they went through, and made by nobody without the key."""

import os

import pytest
from journal.building import KEY, grouped, open_sim, step
from sim.disk import SimDisk

from agentix_kernel.journal import anchor, verify
from agentix_kernel.journal.anchor import Anchor, CommandWitness, FileWitness
from agentix_kernel.journal.key import Key

OTHER = Key(b"o" * 32)
LINK = bytes(range(32))
MADE = Anchor.of(KEY, 7, 2, 1_700_000_000_000_000_000, LINK)


@pytest.mark.parametrize("around", [b"%s", b"<85>agentd[7]: %s", b"Nov 21 host agentd[7]: %s\n", b"\0\xff%s\r\n"])
def test_a_line_is_found_in_what_it_went_through(around):
    assert list(anchor.find(around.replace(b"%s", MADE.line().encode()), KEY)) == [MADE]


def test_who_has_another_key_finds_nothing():
    assert list(anchor.find(MADE.line().encode(), OTHER)) == []
    ring = OTHER.lead(Key(OTHER.secret, others=(KEY,)))
    assert list(anchor.find(MADE.line().encode(), ring)) == [MADE]


@pytest.mark.parametrize("forge", [
    lambda line: line.replace("seq=7", "seq=8"), lambda line: line.replace("segment=2", "segment=3"),
    lambda line: line.replace("wall_ns=17", "wall_ns=18"), lambda line: line.replace("link=00", "link=01"),
    lambda line: line[:-1] + ("0" if line[-1] != "0" else "1"), lambda line: line[:-1], lambda line: line + "0",
    lambda line: line.rpartition(" ")[0], lambda line: line.replace("anchor 1", "anchor 2")], ids=range(9))
def test_a_forged_or_torn_line_is_none(forge):
    assert forge(MADE.line()) != MADE.line()
    assert list(anchor.find(forge(MADE.line()).encode(), KEY)) == []


def test_a_file_takes_lines_after_a_torn_one_and_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(anchor, "FILE_MAX_BYTES", 400)
    path = str(tmp_path / "anchors")
    kept = [Anchor.of(KEY, seq, 1, seq, LINK) for seq in range(1, 8)]
    for one in kept[:2]:
        FileWitness(path).keep(one)
    with open(path, "ab") as file:
        file.write(kept[2].line()[:50].encode())
    for one in kept[3:]:
        FileWitness(path).keep(one)
    assert sorted(os.listdir(tmp_path)) == ["anchors", "anchors.1"]
    found = anchor.read(path, KEY)
    assert found == sorted(found, key=lambda one: one.seq)
    assert kept[-1] in found
    assert kept[2] not in found
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert anchor.read(str(tmp_path / "none"), KEY) == []


@pytest.mark.parametrize(("path", "says"), [("/dev/null", "not a regular file"), ("/none/such", "No such file")])
def test_a_file_that_cannot_be(path, says):
    with pytest.raises(OSError, match=says):
        FileWitness(path).keep(MADE)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "anchors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileWitness(str(tmp_path / "anchors")).keep(MADE)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("argv", "says"), [
    (("/bin/sh", "-c", "echo no such place >&2; exit 4"), "status 4: no such place"),
    (("/bin/sleep", "60"), "took longer"), (("/none/such",), "No such file")])
def test_a_command_that_fails_is_told(argv, says):
    with pytest.raises(OSError, match=says):
        CommandWitness(argv, timeout_s=0.2).keep(MADE)


def test_a_rewritten_journal_is_found_though_the_key_was_stolen():
    """Its own chain is whole; the anchors of the first one stand against it."""
    disk = grouped(20)
    journal, _ = open_sim(disk)
    anchored = journal.anchor()
    journal.close()
    other = SimDisk()
    journal, _ = open_sim(other)
    for n in range(anchored.seq):
        step(journal, n + 1)
        journal.publish()
    journal.close()
    assert verify.verify(disk, KEY, [anchored]).ok
    assert verify.verify(other, KEY).ok
    (problem,) = verify.verify(other, KEY, [anchored]).problems
    assert "another chain" in problem.what
    assert problem.group == anchored.seq
