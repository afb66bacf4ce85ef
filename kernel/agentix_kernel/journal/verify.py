"""Judges a whole journal: every head and group is as it was written, follows the one before, and none is missing.

Works beside a kernel that appends. What it cannot see alone: records that were cut off at the end, group by group.
That takes an anchor, the head of the chain kept elsewhere.
"""

import math
from typing import Final

from attrs import define, field, frozen

from agentix_kernel.journal import format as form
from agentix_kernel.journal import walk
from agentix_kernel.journal.errors import JournalKeyError, JournalNewer
from agentix_kernel.journal.format import Broken, Group, Head
from agentix_kernel.journal.key import LINK_BYTES, Key
from agentix_kernel.world import Disk

PROBLEMS_MAX: Final = 1000
LINKS_MAX: Final = 16


@frozen
class Problem:
    """`segment` is the name of the file, `offset` in bytes; `group` the sequence of the first record concerned."""

    segment: str
    offset: int
    group: int
    what: str


@frozen
class Report:
    """`torn_tail`: bytes at the end that are not whole, as a crash leaves them; opening the journal cuts them."""

    records: int
    groups: int
    segments: int
    first_seq: int
    last_seq: int
    problems: list[Problem]
    torn_tail: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def text(self) -> str:
        span = f"{self.first_seq} to {self.last_seq}"
        what = f"{_count(self.records, 'record')} ({span}) in {_count(self.groups, 'group')}, "
        what += _count(self.segments, "segment")
        if self.problems:
            more = ", and more" if len(self.problems) >= PROBLEMS_MAX else ""
            return f"{what}: {_count(len(self.problems), 'problem')}{more}"
        tail = f"; {self.torn_tail} bytes at the end are not whole, as after a crash" if self.torn_tail else ""
        return f"{what}: whole{tail}. Records cut off at the end are found by anchors only"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def verify(disk: Disk, key: Key) -> Report:
    """Raises OSError only for a disk that cannot be read; a wrong key is a problem like others."""
    audit = _Audit(disk, key)
    audit.folder()
    for number in audit.used:
        audit.segment(number)
    return audit.report()


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
    key: Key
    used: list[int] = field(factory=list[int])
    problems: list[Problem] = field(factory=list[Problem])
    foreign: list[Problem] = field(factory=list[Problem])
    records: int = 0
    groups: int = 0
    first_seq: int = 0
    next_seq: int = 1
    links: list[bytes] = field(factory=lambda: [form.NO_LINK])
    """What the next head or group may follow: one link, more after a problem."""
    astray: bool = False
    """The last place was broken and told: how the next whole group or head follows is no problem of its own."""
    before: "_Place | None" = None
    """Where the first problem is, or the end that is not whole."""
    proof: float = -1
    """The highest sequence that something behind the first problem knows durable: only up to that it is no crash."""

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
            return Report(self.records, self.groups, len(self.used), self.first_seq, self.next_seq - 1,
                          [*self.foreign, *self.problems])
        torn = sum(form.span(walk.load(self.disk, number, at.offset if number == at.number else 0))
                   for number in self.used if number >= at.number)
        return Report(at.records, at.groups, len(self.used), self.first_seq, at.next_seq - 1, self.foreign, torn)

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
        expected = self.used[before - 1] + 1 if before else 1
        if number != expected:
            gone = f"{form.name_of(expected)}{f' to {form.name_of(number - 1)}' * (number - 1 > expected)}"
            self.tell(number, 0, f"{gone} before it is missing", crash=False)
        data = walk.load(self.disk, number)
        self._head(number, data)
        self._groups(number, data, last=before == len(self.used) - 1)

    def _head(self, number: int, data: bytes) -> None:
        try:
            head = walk.head(self.disk, self.key, number)
        except (Broken, JournalKeyError, JournalNewer) as error:
            # Told as no crash only when groups stand behind it: heads are durable before those are written.
            grouped = form.find(data, form.FIRST_GROUP, self.key.tag(number), self.key) is not None
            self.tell(number, 0, str(error), crash=not grouped and isinstance(error, Broken))
            self._allow(data[form.HEAD_BYTES - LINK_BYTES:form.HEAD_BYTES])
            self.astray = True
            return
        if head is None:
            self.tell(number, 0, "the segment is empty, but later ones are in use", crash=False)
            self.astray = True
            return
        self._follows(number, head)
        self.first_seq = self.first_seq or head.first_seq
        self.links = [head.link]
        if data[form.HEAD_BYTES:form.FIRST_GROUP].strip(b"\0"):
            self.tell(number, form.HEAD_BYTES, "bytes between the head and the first group", crash=False)

    def _follows(self, number: int, head: Head) -> None:
        if self._out_of_order(head.first_seq):
            self.tell(number, 0, self._order(head.first_seq, "segment"))
        elif head.previous not in self.links and not self.astray:
            self.tell(number, 0, "the segment does not follow the one before it")
        self.next_seq = max(self.next_seq, head.first_seq)
        self.astray = False

    def _groups(self, number: int, data: bytes, *, last: bool) -> None:
        tag, at = self.key.tag(number), form.FIRST_GROUP
        while True:
            group, what = _parse(data, at, tag, self.key)
            if group is None and last:
                # A kernel may have been writing here while it was read.
                data = data[:at] + walk.load(self.disk, number, at)
                group, what = _parse(data, at, tag, self.key)
            if group is not None:
                self._group(number, group)
                at = group.end
                continue
            span = form.span(data, at)
            if not span:
                return
            found = form.find(data, at + 1, tag, self.key)
            if found is None and last:
                self._mark(number, at)
                return
            self.tell(number, at, what or "bytes that belong to no group")
            self._past(data[at + form.DIGEST_AT:at + form.LINK_AT], data[at + form.LINK_AT:at + form.GROUP_BYTES])
            if found is None:
                return
            at = found.start

    def _group(self, number: int, group: Group) -> None:
        follows = False
        for link in self.links:
            follows = follows or self.key.link(link, group.digest) == group.link
        if self._out_of_order(group.first_seq):
            self.tell(number, group.start, self._order(group.first_seq, "group"))
        elif not follows and not self.astray:
            self.tell(number, group.start, "the group does not follow the one before it")
        if follows:
            self.links = [group.link]
        else:
            self._past(group.digest, group.link)
        self.proof = max(self.proof, group.durable if self.before else -1)
        self.records += group.count
        self.groups += 1
        self.next_seq = max(self.next_seq, group.next_seq)
        self.astray = not follows

    def _past(self, digest: bytes, link: bytes) -> None:
        """What may follow a group with a problem: the link that stands in it, or the one that belongs there."""
        for before in list(self.links):
            self._allow(self.key.link(before, digest))
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


def _parse(data: bytes, at: int, tag: bytes, key: Key) -> tuple[Group | None, str]:
    try:
        return form.parse(data, at, tag, key), ""
    except (Broken, JournalNewer) as error:
        return None, str(error)
