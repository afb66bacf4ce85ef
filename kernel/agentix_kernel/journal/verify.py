"""Judges a whole journal: every head and group is as it was written, follows the one before, and none is missing.

Works beside a kernel that appends, compresses and drops. What it cannot see alone: records that were cut off at the
end, group by group. That takes anchors, heads of the chain kept elsewhere.
"""

import math
from collections.abc import Iterable
from typing import Any, Final

from attrs import define, field, frozen

from agentix_kernel.journal import format as form
from agentix_kernel.journal import packed, walk
from agentix_kernel.journal.anchor import Anchor
from agentix_kernel.journal.errors import JournalError, JournalKeyError, JournalNewer
from agentix_kernel.journal.format import Broken, Group, Head
from agentix_kernel.journal.key import LINK_BYTES, Key
from agentix_kernel.journal.read import decode
from agentix_kernel.world import Disk
from agentix_syscalls import records as table

PROBLEMS_MAX: Final = 1000
LINKS_MAX: Final = 16
DROP_MARK: Final = b"next_segment"
"""Stands in every record of what retention dropped: where to look for one."""


@frozen
class Problem:
    """`segment` is the name of the file, `offset` in bytes; `group` the sequence of the first record concerned."""

    segment: str
    offset: int
    group: int
    what: str


@frozen
class Report:
    """`torn_tail`: bytes at the end that are not whole, as a crash leaves them; opening the journal cuts them.

    `anchor`: the last one that the journal agrees with; `unanchored_s`: from it to the last record, None without one.
    `dropped`: the last record that retention dropped, 0 for none.
    """

    records: int
    groups: int
    segments: int
    first_seq: int
    last_seq: int
    problems: list[Problem]
    torn_tail: int = 0
    anchor: Anchor | None = None
    unanchored_s: float | None = None
    dropped: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def text(self) -> str:
        span = f"{self.first_seq} to {self.last_seq}"
        what = f"{_count(self.records, 'record')} ({span}) in {_count(self.groups, 'group')}, "
        what += _count(self.segments, "segment")
        if self.dropped:
            what += f", records up to {self.dropped} dropped by retention"
        if self.problems:
            more = ", and more" if len(self.problems) >= PROBLEMS_MAX else ""
            return f"{what}: {_count(len(self.problems), 'problem')}{more}"
        tail = f"; {self.torn_tail} bytes at the end are not whole, as after a crash" if self.torn_tail else ""
        return f"{what}: whole{tail}. {self._anchored()}"

    def to_wire(self) -> dict[str, Any]:
        """As `audit verify --json` prints it."""
        problems = [{"segment": problem.segment, "offset": problem.offset, "group": problem.group, "what": problem.what}
                    for problem in self.problems]
        return {"ok": self.ok, "records": self.records, "groups": self.groups, "segments": self.segments,
                "first_seq": self.first_seq, "last_seq": self.last_seq, "torn_tail": self.torn_tail,
                "dropped": self.dropped, "anchored_seq": self.anchor.seq if self.anchor else 0,
                "anchored_wall_ns": self.anchor.wall_ns if self.anchor else 0, "unanchored_s": self.unanchored_s,
                "problems": problems, "text": self.text()}

    def _anchored(self) -> str:
        if self.anchor is None or self.unanchored_s is None:
            return "Without anchors, records cut off at the end would not be missed"
        if self.anchor.seq == self.last_seq:
            return f"Anchored to the last record, {self.last_seq}"
        return (f"Anchored to record {self.anchor.seq}; the last {self.unanchored_s:.3f} s are not, and would not be "
                "missed if cut off")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def verify(disk: Disk, key: Key, anchors: Iterable[Anchor] = ()) -> Report:
    """Raises OSError only for a disk that cannot be read; a wrong key is a problem like others."""
    anchors = tuple(anchors)
    while True:
        audit = _Audit(disk, key, anchors)
        audit.folder()
        for number in audit.used:
            audit.segment(number)
        report = audit.report()
        if report.ok or not audit.used or not walk.dropped(disk, audit.used[0]):
            return report


@frozen
class _Place:
    """What was known at a place: what follows may not count."""

    number: int
    offset: int
    next_seq: int
    records: int
    groups: int


@define
class _Audit:
    disk: Disk
    keys: Key
    anchors: tuple[Anchor, ...]
    anchored: frozenset[int] = field(init=False)
    used: list[int] = field(factory=list[int])
    problems: list[Problem] = field(factory=list[Problem])
    foreign: list[Problem] = field(factory=list[Problem])
    records: int = 0
    groups: int = 0
    first_seq: int = 0
    next_seq: int = 1
    wall_ns: int = 0
    """Of the last group."""
    heads: dict[int, set[bytes]] = field(factory=dict[int, set[bytes]])
    """Links behind the records that anchors name."""
    drops: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    """What the journal says of itself that retention dropped."""
    links: list[bytes] = field(factory=lambda: [form.NO_LINK])
    """What the next head or group may follow: one link, more after a problem."""
    astray: bool = False
    """The last place was broken and told: how the next whole group or head follows is no problem of its own."""
    before: "_Place | None" = None
    """Where the first problem is, or the end that is not whole."""
    proof: float = -1
    """The highest sequence that something behind the first problem knows durable: only up to that it is no crash."""

    def __attrs_post_init__(self) -> None:
        self.anchored = frozenset(anchor.seq for anchor in self.anchors)

    def tell(self, number: int, offset: int, what: str, *, crash: bool = True) -> None:
        """`crash`: a power loss may have done it, if nothing behind it says otherwise."""
        self._mark(number, offset)
        if not crash:
            self.proof = math.inf
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(form.name_of(number), offset, self.next_seq, what))

    def report(self) -> Report:
        at = self.before
        if at is None or self.proof >= at.next_seq:
            at, problems, torn = _Place(0, 0, self.next_seq, self.records, self.groups), self.problems, 0
        else:
            problems = []
            torn = sum(form.span(walk.load(self.disk, number, at.offset if number == at.number else 0))
                       for number in self.used if number >= at.number)
        last_seq = at.next_seq - 1
        problems = [*self.foreign, *self._begin(), *problems, *self._contradicted(last_seq)]
        agreed = max((anchor for anchor in self.anchors if self._agrees(anchor) and anchor.seq <= last_seq),
                     key=lambda anchor: (anchor.seq, anchor.wall_ns), default=None)
        open_s = None if agreed is None else max(0, self.wall_ns - agreed.wall_ns) / 1e9 * (agreed.seq != last_seq)
        return Report(at.records, at.groups, len(self.used), self.first_seq, last_seq, problems, torn, agreed, open_s,
                      max((drop["last_seq"] for drop in self.drops), default=0))

    def _begin(self) -> list[Problem]:
        """The first segment is the first of all, or retention says that it dropped what was before."""
        first = self.used[0] if self.used else 1
        if first == 1 or any(drop["next_segment"] >= first for drop in self.drops):
            return []
        return [Problem(form.name_of(first), 0, self.first_seq, f"{_names(1, first - 1)} before it is missing")]

    def _agrees(self, anchor: Anchor) -> bool:
        return anchor.link in self.heads.get(anchor.seq, ())

    def _contradicted(self, last_seq: int) -> list[Problem]:
        """By anchors: the end is missing, or the chain is another one."""
        lost = [anchor for anchor in self.anchors if anchor.seq > last_seq]
        other = [anchor for anchor in self.anchors
                 if self.first_seq <= anchor.seq <= last_seq and not self._agrees(anchor)]
        found = [Problem(form.name_of(anchor.segment), 0, anchor.seq, f"the anchor of record {anchor.seq} was taken of "
                         "another chain") for anchor in other[:PROBLEMS_MAX]]
        if lost:
            furthest = max(lost, key=lambda anchor: anchor.seq)
            found.append(Problem(form.name_of(furthest.segment), 0, last_seq + 1, f"records {last_seq + 1} to "
                                 f"{furthest.seq} at the end are missing: they were there when they were anchored"))
        return found

    def _mark(self, number: int, offset: int) -> None:
        if self.before is None:
            self.before = _Place(number, offset, self.next_seq, self.records, self.groups)

    # --- the folder ----------------------------------------------------------------------------------------------

    def folder(self) -> None:
        names = self.disk.names()
        for name in names:
            if form.number_of(name) is None:
                self.foreign.append(Problem(name, 0, 0, "not a file of a journal"))
        there = walk.numbers(self.disk)
        while there and not walk.load(self.disk, there[-1], 0, form.HEAD_BYTES).strip(b"\0"):
            self._unused(there.pop())
        self.used = there

    def _unused(self, number: int) -> None:
        content = walk.load(self.disk, number)
        still = not walk.load(self.disk, number, 0, form.HEAD_BYTES).strip(b"\0")  # not taken into use meanwhile
        if still and form.span(content):
            self.tell(number, 0, "the head is gone, but groups are there", crash=False)

    # --- one segment ---------------------------------------------------------------------------------------------

    def segment(self, number: int) -> None:
        before = self.used.index(number)
        last = before == len(self.used) - 1
        if before and number != self.used[before - 1] + 1:
            self.tell(number, 0, f"{_names(self.used[before - 1] + 1, number - 1)} before it is missing", crash=False)
        data = self._load(number, last=last)
        held = self._head(number, data)
        if held is not None:
            self._groups(number, data, held, last=last)

    def _load(self, number: int, *, last: bool) -> bytes:
        """The content of a segment; what is wrong with a compressed file is told."""
        try:
            data = walk.load_raw(self.disk, number)
        except FileNotFoundError:
            return b""
        if not packed.is_packed(data):
            return data
        try:
            data, wrong = packed.unpack(data)
        except JournalNewer as newer:
            data, wrong = b"", _said(newer)
        if wrong:
            self.tell(number, 0, wrong, crash=False)
        if last and walk.try_start(self.disk, self.keys, number + 1) is None:
            self.tell(number, 0, "it is compressed, so later segments were there, and are missing", crash=False)
        return data

    def _head(self, number: int, data: bytes) -> Key | None:
        """Judge a segment's head; returns the key of its groups, None when they cannot be judged."""
        try:
            head = walk.decode_head(self.disk, self.keys, number, data)
        except (Broken, JournalError) as error:
            # Told as no crash only when groups stand behind it: heads are durable before those are written.
            held = next((key for key in (self.keys, *self.keys.others)
                         if form.find(data, form.FIRST_GROUP, key.tag(number), key) is not None), None)
            self.tell(number, 0, _said(error), crash=held is None and isinstance(error, Broken))
            self._allow(data[form.HEAD_BYTES - LINK_BYTES:form.HEAD_BYTES])
            self.astray = True
            return None if isinstance(error, JournalKeyError) else held or self.keys
        if head is None:
            self.tell(number, 0, "the segment is empty, but later ones are in use", crash=False)
            self.astray = True
            return None
        self._follows(number, head)
        self.first_seq = self.first_seq or head.first_seq
        self.links = [head.link]
        if data[form.HEAD_BYTES:form.FIRST_GROUP].strip(b"\0"):
            self.tell(number, form.HEAD_BYTES, "bytes between the head and the first group", crash=False)
        return walk.key_of(self.disk, self.keys, head, number)

    def _follows(self, number: int, head: Head) -> None:
        first = number == self.used[0] != 1
        if not first and self._out_of_order(head.first_seq):
            self.tell(number, 0, self._order(head.first_seq, "segment"))
        elif not first and head.previous not in self.links and not self.astray:
            self.tell(number, 0, "the segment does not follow the one before it")
        self.next_seq = max(self.next_seq, head.first_seq)
        self._anchorable(head.link)
        self.astray = False

    def _anchorable(self, link: bytes) -> None:
        """Note the link behind the last record, if an anchor names that."""
        seq = self.next_seq - 1
        if seq in self.anchored:
            self.heads.setdefault(seq, set()).add(link)

    def _groups(self, number: int, data: bytes, key: Key, *, last: bool) -> None:
        tag, at = key.tag(number), form.FIRST_GROUP
        marked = self.used[0] != 1 and DROP_MARK in data
        while True:
            group, what = _parse(data, at, tag, key)
            if group is None and last:
                # A kernel may have been writing here while it was read.
                data = data[:at] + walk.load(self.disk, number, at)
                group, what = _parse(data, at, tag, key)
            if group is not None:
                if self._group(number, group, key) and marked and DROP_MARK in data[at:group.end]:
                    self._dropped(data, group)
                at = group.end
                continue
            span = form.span(data, at)
            if not span:
                return
            found = form.find(data, at + 1, tag, key)
            if found is None and last:
                self._mark(number, at)
                return
            self.tell(number, at, what or "bytes that belong to no group")
            self._past(data[at + form.DIGEST_AT:at + form.LINK_AT], data[at + form.LINK_AT:at + form.GROUP_BYTES], key)
            if found is None:
                return
            at = found.start

    def _group(self, number: int, group: Group, key: Key) -> bool:
        """Judge a whole group; whether it follows what is before it, and so was written by whoever has the key."""
        follows = False
        for link in self.links:
            follows = follows or key.link(link, group.digest) == group.link
        if self._out_of_order(group.first_seq):
            self.tell(number, group.start, self._order(group.first_seq, "group"))
        elif not follows and not self.astray:
            self.tell(number, group.start, "the group does not follow the one before it")
        if follows:
            self.links = [group.link]
        else:
            self._past(group.digest, group.link, key)
        self.proof = max(self.proof, group.durable if self.before else -1)
        self.records += group.count
        self.groups += 1
        self.next_seq, self.wall_ns = max(self.next_seq, group.next_seq), group.wall_ns
        self._anchorable(group.link)
        self.astray = not follows
        return follows

    def _dropped(self, data: bytes, group: Group) -> None:
        """Take what the kernel recorded of its retention; an agent's words count for nothing."""
        for record in decode(data, group, 0, {table.DROPPED}):
            fields = record.fields()
            self.drops.append({"last_seq": fields["last_seq"], "next_segment": fields["summary"]["next_segment"]})

    def _past(self, digest: bytes, link: bytes, key: Key) -> None:
        """What may follow a group with a problem: the link that stands in it, or the one that belongs there."""
        for before in list(self.links):
            self._allow(key.link(before, digest))
        self._allow(link)
        self.astray = True

    def _allow(self, link: bytes) -> None:
        self.links = [*self.links, link][-LINKS_MAX:]

    def _out_of_order(self, seq: int) -> bool:
        return seq < self.next_seq or (seq > self.next_seq and not self.astray)

    def _order(self, seq: int, what: str) -> str:
        if seq > self.next_seq:
            return f"records {self.next_seq} to {seq - 1} before this {what} are missing"
        return f"this {what} of record {seq} stands behind record {self.next_seq - 1}"


def _names(first: int, last: int) -> str:
    """A range of segments."""
    return form.name_of(first) + f" to {form.name_of(last)}" * (last > first)


def _parse(data: bytes, at: int, tag: bytes, key: Key) -> tuple[Group | None, str]:
    try:
        return form.parse(data, at, tag, key), ""
    except (Broken, JournalNewer) as error:
        return None, _said(error)


def _said(error: Broken | JournalError) -> str:
    return str(error) if isinstance(error, Broken) else str(error.strerror)
