"""Answers to questions, from journals made for them: boots, the kernel's log, one record, the last ones."""

import errno

import pytest
from history.recording import KEY, filled, index_of, made
from journal.building import open_sim
from sim.disk import SimDisk

from agentix_kernel.history import answers
from agentix_kernel.history.boots import boots
from agentix_kernel.journal import format as form
from agentix_kernel.journal.read import read
from agentix_syscalls import records
from agentix_syscalls.errors import CallError


def boot(journal, number, *later):
    """Records of one boot; each of `later` is (kind, data), of an agent for what happens to agents."""
    journal.append(records.BOOT, data=(number, "1.0", "here", []))
    for kind, data in later:
        agent = 0 if kind in {records.STEP, records.SHUTDOWN, records.PANIC, records.ERROR} else 7
        journal.append(kind, agent=agent, life=1, data=data)
    journal.publish()


@pytest.fixture
def index(tmp_path):
    """Four boots: killed, panicked, ended in order, running."""
    disk = SimDisk()
    journal, _ = open_sim(disk)
    boot(journal, 1, (records.STEP, ("sweep", "nothing was left")), (records.STATE, ("stopped", "")))
    boot(journal, 2, (records.STEP, ("journal", "x: 3 records in 1 segment, cut 9 torn bytes of y")),
         (records.STEP, ("sweep", "2 cgroups, 1 mounts, 0 sockets of a dead kernel")), (records.LOST, ("a", "running")),
         (records.LOST, ("b", "running")), (records.RESTART, ("its kernel died", 0.0, 2)),
         (records.STEP, ("restarts", "1 of 1 agents restarted")), (records.RESTART, ("exited", 0.1, 3)),
         (records.PANIC, ("run", "AssertionError: no", "/e")))
    boot(journal, 3, (records.LOST, ("a", "running")), (records.SHUTDOWN, ("asked by uid 0",)))
    boot(journal, 5, (records.ERROR, ("here", "Traceback")))
    journal.close()
    made_index = index_of(disk, tmp_path)
    filled(made_index)
    return made_index


def seqs(pieces):
    return [row["seq"] for _, rows in pieces for row in rows]


def test_boots(index):
    rows = list(boots(index, True))
    assert [(row["boot"], row["end"], row["why"], row["lost"], row["restarted"]) for row in rows] == [
        (1, "killed", "", 2, 0), (2, "panicked", "run: AssertionError: no", 1, 1),
        (3, "in order", "asked by uid 0", 0, 0), (5, "running", "", 0, 0)]
    assert [len(row["repaired"]) for row in rows] == [0, 2, 0, 0]
    whole = {record.seq: record for record in read(index.disk, KEY)}
    assert rows[0]["ended_ns"] == whole[rows[1]["seq"] - 1].wall_ns
    assert rows[-1]["ended_ns"] is None
    assert list(boots(index, False))[-1]["end"] == "killed"


@pytest.mark.parametrize(("wanted", "number"), [(0, 5), (-1, 3), (-3, 1), (5, 5), (2, 2)])
def test_the_log_of_one_boot(index, wanted, number):
    shown = [row for _, rows in answers.kernel_log(index, wanted) for row in rows]
    assert (shown[0]["kind"], shown[0]["data"]["boot"]) == ("boot", number)
    assert [row["kind"] for row in shown].count("boot") == 1
    assert {row["agent"] for row in shown} == {0}


@pytest.mark.parametrize("wanted", [4, 6, -4, -100])
def test_no_such_boot(index, wanted):
    with pytest.raises(CallError) as refused:
        list(answers.kernel_log(index, wanted))
    assert refused.value.number == errno.ENOENT


def test_the_last_ones(tmp_path):
    disk = made(20)
    index = index_of(disk, tmp_path)
    filled(index)
    mine = [record.seq for record in read(disk, KEY) if record.agent == 2]
    for count in (0, 1, 3, len(mine), len(mine) + 5):
        told = [row["seq"] for rows in answers.trace(index, {"agents": (2,)}, None, count) for row in rows]
        assert told == mine[len(mine) - count if count < len(mine) else 0:]


def test_a_query_ends_at_its_limit(tmp_path):
    disk = made(21)
    index = index_of(disk, tmp_path)
    whole = [record.seq for record in read(disk, KEY)]
    for newest, expected in ((False, whole), (True, whole[::-1])):
        assert seqs(answers.query(index, {}, 7, newest)) == expected[:7]
        assert seqs(answers.query(index, {}, 0, newest)) == expected
    assert seqs(answers.export(index, {"verdicts": ("denied",)})) == [
        record.seq for record in read(disk, KEY) if record.verdict == records.DENIED]


def test_one_record_of_a_damaged_journal(tmp_path):
    disk = made(22)
    index = index_of(disk, tmp_path)
    whole = list(read(disk, KEY))
    some = next(record for record in whole[150:] if record.correlation)
    [told] = answers.show(index, some.seq, 2)
    assert [row["seq"] for row in told["before"] + told["after"]] == [some.seq + step for step in (-2, -1, 1, 2)]
    assert {row["correlation"] for row in told["partners"]} == {some.correlation}
    assert told["place"]["whole"]
    inode = disk.files[told["place"]["segment"]]
    inode.now[form.FIRST_GROUP + 20] ^= 1  # the first group of its segment
    [told] = answers.show(index, some.seq, 0)
    assert told["record"]["seq"] == some.seq
    assert not told["place"]["whole"]
    inode.now[told["place"]["offset"] + form.GROUP_BYTES + 2] ^= 1  # its own
    with pytest.raises(CallError, match=f"no record {some.seq}"):
        list(answers.show(index, some.seq, 0))
