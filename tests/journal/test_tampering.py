"""Thousands of logs, each altered without the key in one of the ways that are promised to be found: all are, at their
place, in journals of every shape; and none of those shapes raises an alarm by itself.
"""

import hashlib
import random

import pytest
from attrs import define
from journal.building import KEY, open_sim, step
from sim.disk import Inode, SimDisk

from agentix_kernel.journal import format as form
from agentix_kernel.journal import packed, retention, walk
from agentix_kernel.journal.anchor import Anchor
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.verify import verify
from agentix_syscalls import records

MUTATIONS = 60
"""Of each way, for each shape."""
NEW = Key(b"n" * 32)


@define
class Shape:
    """A journal to be tampered with: its files, what reads them, where they are anchored, where its groups are."""

    files: dict[str, bytes]
    key: Key
    anchors: tuple[Anchor, ...]
    groups: dict[str, list[tuple[int, int, int]]]
    """Begin, end and first sequence of each group, by the file they lie in plainly."""
    packed: frozenset[str]

    def disk(self, changed: dict[str, bytes] | None = None, gone: str = "") -> SimDisk:
        disk = SimDisk()
        for name, data in (self.files | (changed or {})).items():
            if name != gone:
                disk.files[name] = Inode(bytearray(data), bytearray(data))
        return disk


def shape(kind: str, seed: int = 1, key: Key = KEY) -> Shape:
    """A journal of some 50 groups in 6 segments or more; the last group is anchored."""
    disk, chance = SimDisk(seed), random.Random(seed)
    journal, _ = open_sim(disk, key)
    for n in range(48):
        for index in range(chance.randrange(1, 5)):
            journal.append(records.STEP, agent=n % 3, data=("x" * chance.randrange(300), index))
        journal.publish()
        if n % 2:
            journal.commit()
        if kind == "keys" and n == 20:
            journal.roll(NEW)
    if kind in {"packed", "dropped"}:
        for number in range(1, journal.segment - 1):
            retention.compress(disk, number)
    if kind == "dropped":
        room = sum(len(disk.files[form.name_of(number)].now) for number in range(2, journal.segment + 1))
        drop = retention.expired(disk, journal.key, journal.segment, 0, 0, room - 1)
        journal.append(records.DROPPED, data=drop.data)
        journal.publish()
        journal.commit()
        retention.remove(disk, drop)
    if kind == "crashed":
        journal.commit()
        anchors = (journal.anchor(),)
        step(journal, 1)
        journal.publish()
        journal.abandon()
        last = disk.files[form.name_of(journal.segment)].now
        last[journal._offset - 7:journal._offset] = bytes(7)
    else:
        journal.close()
        anchors = (journal.anchor(),)
    for number in walk.numbers(disk):  # prepared ones hold nothing to tamper with
        if walk.head(disk, journal.key, number) is None:
            del disk.files[form.name_of(number)]
    files = {name: bytes(inode.now) for name, inode in disk.files.items()}
    plain = {name for name, data in files.items() if not packed.is_packed(data)}
    places = {name: _groups(disk, journal.key, form.number_of(name)) for name in plain}
    return Shape(files, journal.key, anchors, places, frozenset(files) - plain)


def _groups(disk: SimDisk, key: Key, number: int) -> list[tuple[int, int, int]]:
    cursor = walk.start(disk, key, number)
    data = walk.load(disk, number, form.FIRST_GROUP)
    return [(group.start + form.FIRST_GROUP, group.end + form.FIRST_GROUP, group.first_seq)
            for _, group in walk.chain(data, key, cursor) if group.count]


KINDS = ("plain", "packed", "keys", "dropped", "crashed")
SHAPES = {kind: shape(kind) for kind in KINDS}
OTHERS = (shape("plain", 2, NEW), shape("plain", 2))
"""Of other kernels, with another key and with this one."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_shape_raises_an_alarm(kind):
    for seed in range(2, 12):
        made = shape(kind, seed)
        report = verify(made.disk(), made.key, made.anchors)
        assert report.ok, report.problems
        assert report.anchor == made.anchors[0]
        assert (report.torn_tail > 0) == (kind == "crashed")
        assert (report.dropped > 0) == (kind == "dropped")
        assert len(made.files) >= 4


def _place(chance, made):
    name = chance.choice(sorted(made.groups))
    return name, chance.choice(made.groups[name])


def alter(chance, made):
    """Some bytes of a group, at any place of it."""
    name, (begin, end, seq) = _place(chance, made)
    at = chance.randrange(begin, end)
    data = bytearray(made.files[name])
    data[at] ^= chance.randrange(1, 256)
    return {name: data}, "", name, seq


def rewrite(chance, made):
    """A group with other records, and the digest that belongs to them: all that can be done without the key."""
    name, (begin, end, seq) = _place(chance, made)
    data = bytearray(made.files[name])
    at = chance.randrange(begin + form.GROUP_BYTES, end)
    data[at] ^= 1
    content = data[begin:begin + form.DIGEST_AT] + data[begin + form.GROUP_BYTES:end]
    data[begin + form.DIGEST_AT:begin + form.LINK_AT] = hashlib.sha256(content).digest()
    return {name: data}, "", name, seq


def delete_groups(chance, made):
    name = chance.choice(sorted(made.groups))
    places = made.groups[name]
    first = chance.randrange(len(places))
    last = chance.randrange(first, len(places))
    begin, end, data = places[first][0], places[last][1], made.files[name]
    return {name: data[:begin] + data[end:] + bytes(end - begin)}, "", "", places[first][2]


def insert_group(chance, made):
    source, (begin, end, _) = _place(chance, made)
    name, (at, _, _) = _place(chance, made)
    data = made.files[name]
    return {name: data[:at] + made.files[source][begin:end] + data[at:]}, "", name, None


def reorder_groups(chance, made):
    name = chance.choice(sorted(name for name, places in made.groups.items() if len(places) > 2))
    one, other = sorted(chance.sample(range(len(made.groups[name])), 2))
    (a, b, seq), (c, d, _) = made.groups[name][one], made.groups[name][other]
    data = made.files[name]
    return {name: data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]}, "", name, seq


def truncate(chance, made):
    name, (begin, end, seq) = _place(chance, made)
    return {name: made.files[name][:chance.randrange(begin, end)]}, "", "", seq


def truncate_packed(chance, made):
    name = chance.choice(sorted(made.packed))
    return {name: made.files[name][:chance.randrange(1, len(made.files[name]))]}, "", name, None


def alter_packed(chance, made):
    name = chance.choice(sorted(made.packed))
    data = bytearray(made.files[name])
    data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    return {name: data}, "", name, None


def repack(chance, made):
    """A packed segment with another content, whole by its own checksum."""
    name = chance.choice(sorted(made.packed))
    content = bytearray(packed.unpack(made.files[name])[0])
    content[chance.randrange(form.FIRST_GROUP, len(content) - 1)] ^= 1
    return {name: packed.pack(bytes(content))}, "", name, None


def delete_segment(chance, made):
    names = sorted(made.files)
    gone = chance.choice(names)
    return {}, gone, "", None


def swap_segments(chance, made):
    one, other = chance.sample(sorted(made.files), 2)
    return {one: made.files[other], other: made.files[one]}, "", min(one, other), None


def replay_segment(chance, made):
    """An old segment under the name of another one, or as one more at the end."""
    old, name = chance.sample(sorted(made.files), 2)
    new = chance.choice((name, form.name_of(form.number_of(max(made.files)) + 1)))
    return {new: made.files[old]}, "", new, None


def foreign_segment(chance, made):
    other = chance.choice(OTHERS)
    name = chance.choice(sorted(made.files.keys() & other.files.keys()))
    return {name: other.files[name]}, "", name, None


def zero(chance, made):
    name, (begin, end, seq) = _place(chance, made)
    data = made.files[name]
    return {name: data[:begin] + bytes(end - begin) + data[end:]}, "", "", seq


def head(chance, made):
    name = chance.choice(sorted(made.groups))
    data = bytearray(made.files[name])
    data[chance.randrange(form.FIRST_GROUP)] ^= chance.randrange(1, 256)
    return {name: data}, "", name, None


WAYS = (alter, rewrite, delete_groups, insert_group, reorder_groups, truncate, delete_segment, swap_segments,
        replay_segment, foreign_segment, zero, head)
PACKED_WAYS = (alter_packed, truncate_packed, repack)


@pytest.mark.parametrize(("kind", "way"), [
    *((kind, way) for kind in KINDS for way in WAYS),
    *((kind, way) for kind in ("packed", "dropped") for way in PACKED_WAYS)],
    ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_what_was_tampered_with_is_found_at_its_place(kind, way):
    made = SHAPES[kind]
    chance = random.Random(f"{kind} {way.__name__}")
    for at in range(MUTATIONS):
        changed, gone, name, seq = way(chance, made)
        assert gone or any(made.files.get(name) != data for name, data in changed.items())
        report = verify(made.disk(changed, gone), made.key, made.anchors)
        if not report.problems:  # whole to the anchor, and behind it what opening cuts: nothing was lost or forged
            assert way is insert_group, at
            assert report.anchor == made.anchors[0], at
            assert report.torn_tail, at
            continue
        told = {problem.segment for problem in report.problems}
        if name:  # a segment that belongs to another chain is told where the two part
            following = form.name_of(form.number_of(name) + 1) if way is foreign_segment else name
            assert told & {name, following}, (at, name, seq, report)
        if seq is not None:
            assert min(problem.group for problem in report.problems) <= seq, (at, seq, report.problems)
            assert seq in {problem.group for problem in report.problems}, (at, seq, report.problems)
