"""Every way to tamper that needs no key is seen, and told at its place; what is whole raises no alarm."""

import random

import pytest
from journal.building import KEY, SEGMENT_BYTES, grouped, judge, open_sim, step, values
from sim.disk import Inode, SimDisk

from agentix_kernel.journal import format as form
from agentix_kernel.journal import walk
from agentix_kernel.journal.errors import JournalDamaged, JournalError
from agentix_kernel.journal.key import Key

GROUPS = 60
FIRST, SECOND = form.name_of(1), form.name_of(2)


@pytest.fixture
def disk():
    return grouped(GROUPS)


def content_of(disk, name=SECOND):
    return disk.files[name].now


def groups_of(disk, name=SECOND):
    number = form.number_of(name)
    cursor = walk.start(disk, KEY, number)
    data = walk.load(disk, number, form.FIRST_GROUP)
    return [(group.start + form.FIRST_GROUP, group.end + form.FIRST_GROUP, group.first_seq)
            for _, group in walk.chain(data, KEY, cursor)]


def put(disk, name, content):
    disk.files[name] = Inode(bytearray(content), bytearray(content))


def places(report):
    return [(problem.segment, problem.offset) for problem in report.problems]


def refused(disk):
    """Damage is not a torn tail: a reader stops with it. (Opening reads the last two segments.)"""
    with pytest.raises(JournalDamaged):
        values(disk)


def test_no_false_alarm(disk):
    report = judge(disk)
    assert report.ok
    assert (report.records, report.groups, report.first_seq, report.last_seq) == (120, GROUPS + 1, 1, 120)
    assert report.segments == len(disk.files) >= 3
    assert report.torn_tail == 0
    assert "whole" in report.text()
    assert "anchors" in report.text()


@pytest.mark.parametrize("count", range(12))
def test_no_false_alarm_at_any_length(count):
    disk = grouped(count)
    assert judge(disk).ok
    journal, _ = open_sim(disk)
    assert judge(disk).ok
    step(journal, 1)
    journal.publish()
    report = judge(disk)
    assert report.ok
    assert report.last_seq == count * 2 + 1
    journal.abandon()


def test_an_empty_folder_is_whole():
    report = judge(SimDisk())
    assert (report.ok, report.records, report.segments) == (True, 0, 0)


def test_every_flipped_byte_of_a_segment_is_told_at_its_place(disk):
    content = content_of(disk)
    groups = groups_of(disk)
    end = groups[-1][1]
    for at in range(SEGMENT_BYTES):
        content[at] ^= 1 + at % 255
        report = judge(disk)
        assert report.problems, at
        problem = report.problems[0]
        assert problem.segment == SECOND
        if at < form.HEAD_BYTES:
            assert problem.offset == 0
        elif at < form.FIRST_GROUP:
            assert problem.offset == form.HEAD_BYTES
        elif at < end:
            begin, stop, seq = next(group for group in groups if group[0] <= at < group[1])
            assert begin <= problem.offset <= stop
            assert problem.group == seq
            assert len(report.problems) == 1
        else:
            assert problem.offset == end
        content[at] ^= 1 + at % 255
    assert judge(disk).ok


def test_flipped_bytes_of_the_last_segment_are_seen(disk):
    """In the seal and behind it this cannot be told from a torn tail; everything before it is damage."""
    last = max(disk.files)
    content, groups = content_of(disk, last), groups_of(disk, last)
    seal = groups[-1][0]
    chance = random.Random(1)
    for at in [*range(form.HEAD_BYTES), *(chance.randrange(form.FIRST_GROUP, SEGMENT_BYTES) for _ in range(500))]:
        content[at] ^= 0x40
        report = judge(disk)
        assert report.problems or (at >= seal and report.torn_tail), at
        if at < seal:
            assert report.problems[0].segment == last
            before = bytes(content)
            with pytest.raises(JournalError):
                open_sim(disk)
            assert bytes(content) == before
        content[at] ^= 0x40


@pytest.mark.parametrize("name", [FIRST, SECOND])
@pytest.mark.parametrize("index", [0, 1, 5, -2, -1])
def test_a_deleted_group(disk, name, index):
    begin, end, seq = groups_of(disk, name)[index]
    content = content_of(disk, name)
    put(disk, name, content[:begin] + content[end:] + bytes(end - begin))
    report = judge(disk)
    assert len(report.problems) == 1
    problem = report.problems[0]
    assert problem.group == seq
    if index == -1:
        assert (problem.segment, problem.offset) == (form.name_of(form.number_of(name) + 1), 0)
    else:
        assert (problem.segment, problem.offset) == (name, begin)
    assert f"records {seq} to {seq + 1}" in problem.what
    refused(disk)


def test_a_zeroed_group(disk):
    begin, end, seq = groups_of(disk)[4]
    content_of(disk)[begin:end] = bytes(end - begin)
    (problem,) = judge(disk).problems
    assert (problem.segment, problem.offset, problem.group) == (SECOND, begin, seq)
    refused(disk)


def test_an_inserted_copy_of_a_group(disk):
    groups = groups_of(disk)
    content = content_of(disk)
    begin, end, seq = groups[3]
    at = groups[6][0]
    put(disk, SECOND, (content[:at] + content[begin:end] + content[at:])[:SEGMENT_BYTES + 4096])
    report = judge(disk)
    assert places(report) == [(SECOND, at)]
    assert f"record {seq}" in report.problems[0].what
    refused(disk)


def test_swapped_groups(disk):
    groups = groups_of(disk)
    content = content_of(disk)
    (a, b, _), (_, c, _) = groups[3], groups[4]
    content[a:c] = content[b:c] + content[a:b]
    report = judge(disk)
    assert places(report)[0] == (SECOND, a)
    assert {offset for _, offset in places(report)} <= {a, a + c - b, c}
    refused(disk)


@pytest.mark.parametrize("at_end", [False, True])
def test_a_forged_group_made_with_another_key(disk, at_end):
    name = max(disk.files) if at_end else SECOND
    groups = groups_of(disk, name)
    begin, end, seq = groups[-2 if at_end else 5]
    content = content_of(disk, name)
    original = form.parse(bytes(content), begin, KEY.tag(form.number_of(name)), KEY)
    rows = bytes(content[original.records_at:original.bodies_at]).replace(b"step", b"stop")
    forged, _ = form.encode_group(KEY.tag(form.number_of(name)), Key(b"x" * 32), form.NO_LINK, 2, seq, original.durable,
                                  0, 0, rows, b"")
    content[begin:end] = forged
    report = judge(disk)
    assert places(report) == [(name, begin)]
    assert "does not follow" in report.problems[0].what
    refused(disk)


def test_a_deleted_segment(disk):
    del disk.files[SECOND]
    (problem,) = judge(disk).problems[:1]
    assert problem.segment == form.name_of(3)
    assert f"{SECOND} before it is missing" in problem.what
    refused(disk)
    with pytest.raises(JournalDamaged, match=SECOND):
        open_sim(disk)


def test_the_first_segment_deleted(disk):
    del disk.files[FIRST]
    assert FIRST in judge(disk).problems[0].what


def test_the_last_segment_deleted_is_for_anchors(disk):
    last = max(disk.files)
    kept = groups_of(disk, form.name_of(len(disk.files) - 1))[-1][2] + 1
    del disk.files[last]
    report = judge(disk)
    assert report.ok
    assert report.last_seq == kept < 120
    assert "anchors" in report.text()


def test_swapped_segments(disk):
    disk.files[FIRST], disk.files[SECOND] = disk.files[SECOND], disk.files[FIRST]
    report = judge(disk)
    assert {(FIRST, 0), (SECOND, 0)} <= set(places(report))
    assert "under another name" in report.problems[0].what
    refused(disk)


def test_a_renamed_segment(disk):
    disk.files[form.name_of(9)] = disk.files.pop(SECOND)
    report = judge(disk)
    assert any("under another name" in problem.what for problem in report.problems)
    assert any(SECOND in problem.what for problem in report.problems)


def test_a_segment_of_another_journal_with_the_same_key(disk):
    other = grouped(GROUPS, of=3)
    disk.files[SECOND] = other.files[SECOND]
    report = judge(disk)
    assert places(report)[0] == (SECOND, 0)
    refused(disk)


def test_an_emptied_segment(disk):
    put(disk, SECOND, bytes(SEGMENT_BYTES))
    report = judge(disk)
    assert places(report) == [(SECOND, 0)]
    assert "empty" in report.problems[0].what


@pytest.mark.parametrize("name", ["notes.txt", "00000001.seg.bak", "1.seg"])
def test_a_foreign_file(disk, name):
    put(disk, name, b"hello")
    report = judge(disk)
    assert [(problem.segment, problem.what) for problem in report.problems] == [(name, "not a file of a journal")]
    journal, _ = open_sim(disk)  # it stands in nobody's way
    journal.abandon()


def test_a_prepared_segment_with_something_in_it(disk):
    content = bytearray(SEGMENT_BYTES)
    content[700] = 1
    put(disk, form.name_of(len(disk.files) + 1), content)
    report = judge(disk)
    assert [problem.offset for problem in report.problems] == [0]


def test_the_wrong_key(disk):
    wrong = Key(b"w" * 32, "/keys/journal.key")
    report = judge(disk, wrong)
    assert not report.ok
    assert "/keys/journal.key" in report.problems[0].what
    before = {name: bytes(inode.now) for name, inode in disk.files.items()}
    for refuse in (lambda: open_sim(disk, wrong), lambda: values(disk, wrong)):
        with pytest.raises(JournalError, match=r"/keys/journal\.key"):
            refuse()
    assert before == {name: bytes(inode.now) for name, inode in disk.files.items()}


def test_a_head_that_claims_another_key(disk):
    """Its checksum is right, its link is not."""
    content = content_of(disk)
    old = form.decode_head(bytes(content))
    head = form.encode_head(Key(b"x" * 32), 2, old.first_seq, old.wall_ns, old.boot_id, old.previous)
    content[:form.HEAD_BYTES] = head
    assert places(judge(disk))[0] == (SECOND, 0)


def test_a_torn_tail_is_no_problem_but_told(disk):
    last = max(disk.files)
    content = content_of(disk, last)
    end = groups_of(disk, last)[-1][1]
    content[end:end + 50] = KEY.tag(form.number_of(last)) + bytes(41) + b"!"
    report = judge(disk)
    assert report.ok
    assert report.torn_tail == 50
    assert "50 bytes at the end are not whole" in report.text()


def test_random_damage_is_always_seen():
    chance = random.Random(3)
    pristine = grouped(GROUPS)
    names = sorted(pristine.files)[:-1]
    for _ in range(300):
        disk = SimDisk()
        for name, inode in pristine.files.items():
            put(disk, name, inode.now)
        name = chance.choice(names)
        content = content_of(disk, name)
        begin = chance.randrange(SEGMENT_BYTES - 100)
        size = chance.randrange(1, 100)
        new = chance.randbytes(size)
        if content[begin:begin + size] == new:
            continue
        content[begin:begin + size] = new
        report = judge(disk)
        assert report.problems, (name, begin, size)
        assert name in {problem.segment for problem in report.problems} | {report.problems[0].segment}
