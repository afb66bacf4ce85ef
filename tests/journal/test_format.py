"""What is written is read back, and what a later version wrote is refused."""

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal.building import KEY, SEGMENT_BYTES, grouped, judge, open_sim, step, values
from sim.disk import SimDisk

from agentix_kernel.journal import format as form
from agentix_kernel.journal.errors import JournalError, JournalNewer
from agentix_kernel.journal.format import Broken
from agentix_kernel.journal.read import read, tail
from agentix_syscalls import records

scalars = (st.none() | st.booleans() | st.integers(-2**63, 2**64 - 1) | st.text() | st.binary()
           | st.floats(allow_nan=False))
data = st.lists(st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple)
                             | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3), max_leaves=6),
                max_size=4).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(sorted(records.BY_NUMBER)), st.integers(0, 2**32), st.integers(0, 2),
                          st.text(max_size=20), data), max_size=12), st.integers(1, 5))
def test_round_trip(rows, group):
    disk = SimDisk()
    journal, _ = open_sim(disk, segment_bytes=1 << 16)
    for at, (kind, agent, phase, rule, content) in enumerate(rows):
        assert journal.append(kind, agent=agent, life=3, phase=phase, verdict=1, rule=rule, correlation=at,
                              data=content) == at + 1
        if at % group == 0:
            journal.publish()
    journal.close()
    found = [(r.kind, r.agent, r.phase, r.rule, r.data) for r in read(disk, KEY)]
    assert found == rows
    assert [(r.seq, r.correlation, r.life, r.verdict) for r in read(disk, KEY)] == [
        (at + 1, at, 3, 1) for at in range(len(rows))]
    assert judge(disk).ok


def test_times_are_those_of_the_append():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    for n in range(3):
        step(journal, n)
    journal.publish()
    step(journal, 3)
    journal.publish()
    first, second, third, fourth = read(disk, KEY)
    assert second.mono_ns - first.mono_ns == 2000  # the wall clock was looked at between
    assert third.mono_ns - second.mono_ns == 1000
    assert third.wall_ns - first.wall_ns == third.mono_ns - first.mono_ns
    assert fourth.mono_ns > third.mono_ns
    assert fourth.wall_ns > 1_700_000_000_000_000_000
    journal.close()


def test_fields_have_the_names_of_the_table():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    journal.append(records.EXIT, agent=4, data=(0, None, "exited"))
    journal.append(records.SHUTDOWN, data=("asked", "more"))
    journal.close()
    first, second = read(disk, KEY)
    assert first.fields() == {"code": 0, "signal": None, "why": "exited"}
    assert second.fields() == {"why": "asked", "1": "more"}


def test_names_that_are_no_utf8_come_back():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    name = os.fsdecode(b"caf\xe9")
    journal.append(records.FILE, data=("open", name, 0))
    journal.close()
    assert next(read(disk, KEY)).data == ("open", name, 0)


def test_a_body_may_be_dropped_and_the_chain_still_verifies():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    journal.append(records.REDO, data=(b"redo" * 20,))
    step(journal, 7)
    journal.append(records.AHEAD, data=(b"ahead" * 20, 1))
    journal.close()
    assert [record.data for record in read(disk, KEY)] == [(b"redo" * 20,), ("step", 7), (b"ahead" * 20, 1)]
    content = disk.files["00000001.seg"].now
    begin, end = content.index(b"redo") - 3, content.index(b"ahead" * 20) + 101  # with the marks of array and bytes
    group = form.parse(bytes(content), form.FIRST_GROUP, KEY.tag(1), KEY)
    assert (group.bodies_at, group.end) == (begin, end)
    whole = bytes(content[begin:end])
    content[begin:end] = form.drop_mark(KEY, group.link) + bytes(end - begin - 32)
    report = judge(disk)
    assert report.ok
    assert report.torn_tail == 0
    assert [(record.data, record.dropped) for record in read(disk, KEY)] == [
        ((), True), (("step", 7), False), ((), True)]
    for unlike in (bytes(end - begin), whole[:-1] + b"!"):  # dropped by somebody without the key; altered
        content[begin:end] = unlike
        (problem,) = judge(disk).problems
        assert "bodies" in problem.what
        assert problem.offset == form.FIRST_GROUP


def test_what_is_larger_than_a_segment_goes_into_several_groups():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    for n in range(500):
        if n % 10:
            step(journal, n)
        else:
            journal.append(records.REDO, data=("step", n))
    assert journal.publish() == 500
    journal.close()
    report = judge(disk)
    assert report.ok
    assert report.segments > 2
    assert values(disk) == list(range(500))


def test_a_record_larger_than_a_segment_is_refused():
    journal, _ = open_sim(SimDisk())
    for kind in (records.STEP, records.REDO):
        with pytest.raises(JournalError) as refused:
            journal.append(kind, data=(b"x" * SEGMENT_BYTES,))
        assert refused.value.errno == errno.EMSGSIZE
    assert step(journal, 0) == 1
    journal.publish()
    journal.close()
    assert values(journal.disk) == [0]


def test_the_longest_record_fits():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    longest = SEGMENT_BYTES - form.FIRST_GROUP - form.OVERHEAD_MAX_BYTES
    sizes = {}
    for kind in (records.STEP, records.REDO):
        for size in range(longest, 0, -1):
            try:
                journal.append(kind, data=(b"x" * size,))
            except JournalError:
                continue
            sizes[kind] = size
            break
        journal.publish()
    journal.close()
    assert [len(record.data[0]) for record in read(disk, KEY)] == list(sizes.values())
    assert sizes[records.STEP] > longest - 40
    assert judge(disk).ok


@pytest.mark.parametrize(("kind", "content", "error"), [
    (records.STEP, (object(),), TypeError), (records.STEP, (1 << 65,), OverflowError),
    (records.REDO, ({1},), TypeError), (99, (), KeyError),
])
def test_a_record_that_cannot_be_packed_leaves_nothing(kind, content, error):
    disk = SimDisk()
    journal, _ = open_sim(disk)
    step(journal, 0)
    with pytest.raises(error):
        journal.append(kind, data=content)
    assert step(journal, 1) == 2
    journal.close()
    assert [record.data for record in read(disk, KEY)] == [("step", 0), ("step", 1)]


def test_a_later_format_is_refused_and_left_alone():
    disk = grouped(3)
    content = disk.files["00000001.seg"].now
    struct.pack_into("<H", content, 8, 2)
    before = bytes(content)
    with pytest.raises(JournalNewer, match="format 2"):
        open_sim(disk)
    with pytest.raises(JournalNewer):
        list(read(disk, KEY))
    assert bytes(content) == before
    assert "newer" in judge(disk).problems[0].what


def test_a_group_with_a_later_flag_is_refused_and_left_alone():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    step(journal, 0)
    journal.publish()
    offset = journal._offset
    data, _ = form.encode_group(KEY.tag(1), KEY, journal._link, 0, 2, 0, 0, 0, b"", b"")
    import hashlib
    fields = data[:8] + struct.pack("<H", 2) + data[10:form.DIGEST_AT]
    digest = hashlib.sha256(fields).digest()
    journal._file.pwrite(fields + digest + KEY.link(journal._link, digest), offset)
    journal.abandon()
    before = bytes(disk.files["00000001.seg"].now)
    with pytest.raises(JournalNewer, match="flags 0x2"):
        open_sim(disk)
    assert bytes(disk.files["00000001.seg"].now) == before


def test_names_of_segments():
    assert form.number_of(form.name_of(12)) == 12
    others = ("1.seg", "00000000.seg", "00000001.seg2", "journal.key", "0000000a.seg")
    assert [form.number_of(name) for name in others] == [None] * 5


def test_content_cannot_look_like_a_group():
    """What an agent wrote is searched over when a place is broken; it cannot know the tag."""
    disk = SimDisk()
    journal, _ = open_sim(disk)
    step(journal, 0)
    journal.publish()
    forged, _ = form.encode_group(b"\1" * 8, KEY, form.NO_LINK, 1, 1, 99, 0, 0, b"\x90", b"")
    journal.append(records.STEP, data=(forged,))
    journal.publish()
    journal.abandon()
    content = disk.files["00000001.seg"].now
    at = content.index(forged)
    content[at - 20] ^= 1  # now the group around it is torn
    journal, opened = open_sim(disk)
    assert opened.head_seq == 1
    assert opened.torn_bytes > 0
    journal.close()


def test_a_broken_group_says_what():
    data = bytearray(SEGMENT_BYTES)
    tag = KEY.tag(1)
    data[:form.GROUP_BYTES], _ = form.encode_group(tag, KEY, form.NO_LINK, 0, 1, 0, 0, 0, b"", b"")
    assert form.parse(bytes(data), 0, tag, KEY)
    with pytest.raises(Broken, match="no group"):
        form.parse(bytes(data), 0, KEY.tag(2), KEY)
    with pytest.raises(Broken, match="longer"):
        form.parse(bytes(data[:12]) + b"\xff\xff\xff\x7f" + bytes(data[16:]), 0, tag, KEY)
    assert form.parse(bytes(data), form.GROUP_BYTES, tag, KEY) is None


@pytest.mark.parametrize("count", [0, 1, 5, 40, 300])
def test_tail(count):
    disk = grouped(60)
    found = [record.data[1] for record in tail(disk, KEY, count)]
    assert found == list(range(120))[-count:] if count else found == []


def test_tail_of_an_agent_goes_back_as_far_as_told():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    for n in range(100):
        step(journal, n, agent=7 if n in {1, 2, 98} else 1)
        journal.publish()
    assert [r.data[1] for r in tail(disk, KEY, 2, agent=7)] == [2, 98]
    assert [r.data[1] for r in tail(disk, KEY, 2, agent=7, segments=1)] == [98]
    assert tail(disk, KEY, 2, kinds={records.BOOT}) == []
    journal.close()


def test_reading_from_a_sequence_begins_in_its_segment():
    disk = grouped(60)
    assert [r.seq for r in read(disk, KEY, start_seq=100)] == list(range(100, 121))
    assert [r.seq for r in read(disk, KEY, start_seq=500)] == []
    assert [r.seq for r in read(disk, KEY, agent=2)] == []
    assert len(list(read(disk, KEY, kinds={records.STEP}))) == 120
    loads = []
    real = disk.open
    disk.open = lambda name, **how: loads.append(name) or real(name, **how)
    assert next(read(disk, KEY, start_seq=120)).seq == 120
    assert "00000001.seg" not in loads


def test_reading_beside_the_writer_sees_all_that_is_published():
    disk = SimDisk()
    journal, _ = open_sim(disk)
    reader = read(disk, KEY)
    step(journal, 0)
    step(journal, 1)
    journal.publish()
    assert next(reader).data == ("step", 0)
    for n in range(2, 200):
        step(journal, n)
        journal.publish()
    assert [record.data[1] for record in reader] == list(range(1, 200))
    journal.close()
