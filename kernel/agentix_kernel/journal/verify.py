"""Judges a whole journal: every head and group is as it was written, follows the one before, and none is missing.

Works beside a kernel that appends. What it cannot see alone: records that were cut off at the end, group by group.
That takes an anchor, the head of the chain kept elsewhere.
"""

import hashlib
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
        what = f"{self.records} records ({span}) in {self.groups} groups, {self.segments} segments"
        if self.problems:
            return f"{what}: {len(self.problems)} problems{', and more' * (len(self.problems) >= PROBLEMS_MAX)}"
        tail = f"; {self.torn_tail} bytes at the end are not whole, as after a crash" if self.torn_tail else ""
        return f"{what}: whole{tail}. Records cut off at the end are found by anchors only"


def verify(disk: Disk, key: Key) -> Report:
    """Raises OSError only for a disk that cannot be read; a wrong key is a problem like others."""
    audit = _Audit(disk, key)
    audit.folder()
    for number in audit.used:
        audit.segment(number)
    return audit.report()


@define
class _Audit:
    disk: Disk
    key: Key
    used: list[int] = field(factory=list[int])
    problems: list[Problem] = field(factory=list[Problem])
    records: int = 0
    groups: int = 0
    first_seq: int = 0
    next_seq: int = 1
    links: list[bytes] = field(factory=lambda: [form.NO_LINK])
    """What the next head or group may follow: one link, more after a problem."""
    broken_seq: int = 0
    """The sequence expected at the first problem; 0 without one."""
    proof: float = -1
    """The highest sequence that something behind the first problem knows durable: only up to that it is no crash."""
    torn: int = 0

    def tell(self, number: int, offset: int, what: str, *, crash: bool = True) -> None:
        """`crash`: a power loss may have done it, if nothing behind it says otherwise."""
        if not self.problems:
            self.broken_seq = self.next_seq
        if not crash:
            self.proof = math.inf
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(form.name_of(number), offset, self.next_seq, what))

    def report(self) -> Report:
        problems = self.problems
        if problems and self.proof < self.broken_seq:
            problems = []
        last = self.next_seq - 1 if problems or not self.broken_seq else self.broken_seq - 1
        torn = 0 if problems else self.torn
        return Report(self.records, self.groups, len(self.used), self.first_seq, last, problems, torn)

    # --- the folder ----------------------------------------------------------------------------------------------

    def folder(self) -> None:
        names = self.disk.names()
        for name in names:
            if form.number_of(name) is None:
                self.problems.append(Problem(name, 0, 0, "not a file of a journal"))
                self.proof = math.inf
        there = walk.numbers(self.disk)
        while there and not walk.load(self.disk, there[-1], 0, form.HEAD_BYTES).strip(b"\0"):
            self._unused(there.pop())
        self.used = there

    def _unused(self, number: int) -> None:
        content = walk.load(self.disk, number)
        still = not walk.load(self.disk, number, 0, form.HEAD_BYTES).strip(b"\0")  # not taken into use meanwhile
        if still and content.strip(b"\0"):
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
            grouped = form.find(data, form.FIRST_GROUP, self.key.tag(number)) is not None
            self.tell(number, 0, str(error), crash=not grouped and isinstance(error, Broken))
            self._allow(data[form.HEAD_BYTES - LINK_BYTES:form.HEAD_BYTES])
            return
        if head is None:
            self.tell(number, 0, "the segment is empty, but later ones are in use", crash=False)
            return
        self._follows(number, head)
        self.first_seq = self.first_seq or head.first_seq
        self.links = [head.link]

    def _follows(self, number: int, head: Head) -> None:
        if head.first_seq != self.next_seq:
            self.tell(number, 0, self._order(head.first_seq, "segment"))
            self.next_seq = max(self.next_seq, head.first_seq)
        elif head.previous not in self.links:
            self.tell(number, 0, "the segment does not follow the one before it")

    def _groups(self, number: int, data: bytes, *, last: bool) -> None:
        tag, at = self.key.tag(number), form.FIRST_GROUP
        while True:
            group, what = _parse(data, at, tag)
            if group is None and last:
                # A kernel may have been writing here while it was read.
                data = data[:at] + walk.load(self.disk, number, at)
                group, what = _parse(data, at, tag)
            if group is not None:
                self._group(number, data, group)
                at = group.end
                continue
            span = len(data[at:].rstrip(b"\0"))
            if not span:
                return
            found = form.find(data, at + 1, tag)
            if found is None and last:
                self.torn += span
                self.broken_seq = self.broken_seq or self.next_seq
                return
            self.tell(number, at, what or "bytes that belong to no group")
            self._past(data, at)
            if found is None:
                return
            at = found.start

    def _group(self, number: int, data: bytes, group: Group) -> None:
        follows = any(self.key.link(link, group.digest) == group.link for link in self.links)
        if group.first_seq != self.next_seq:
            self.tell(number, group.start, self._order(group.first_seq, "group"))
        elif not follows:
            self.tell(number, group.start, "the group does not follow the one before it")
        if follows:
            self.links = [group.link]
        else:
            self._allow(group.link)
        self.proof = max(self.proof, group.durable if self.problems else -1)
        self.records += group.count
        self.groups += 1
        self.next_seq = max(self.next_seq, group.next_seq)
        if group.end > group.bodies_at:
            self._bodies(number, data, group)

    def _bodies(self, number: int, data: bytes, group: Group) -> None:
        """Bodies may be gone after a checkpoint, and are zeros then; else each is what its record says."""
        at = group.bodies_at
        for index, row in enumerate(form.rows(data, group)):
            if len(row) < 11:
                continue
            size, digest = row[9:11]
            body = data[at:at + size]
            if body.strip(b"\0") and hashlib.sha256(body).digest() != digest:
                self.tell(number, at, f"the body of record {group.first_seq + index} is not as it was written",
                          crash=False)
            at += size

    def _past(self, data: bytes, at: int) -> None:
        """What may follow a broken group: the link that stands in it, or the one that belongs there."""
        digest, link = data[at + form.DIGEST_AT:at + form.LINK_AT], data[at + form.LINK_AT:at + form.GROUP_BYTES]
        for before in list(self.links):
            self._allow(self.key.link(before, digest))
        self._allow(link)

    def _allow(self, link: bytes) -> None:
        self.links = [*self.links, link][-LINKS_MAX:]

    def _order(self, seq: int, what: str) -> str:
        if seq > self.next_seq:
            return f"records {self.next_seq} to {seq - 1} before this {what} are missing"
        return f"this {what} of record {seq} stands behind record {self.next_seq - 1}"


def _parse(data: bytes, at: int, tag: bytes) -> tuple[Group | None, str]:
    try:
        return form.parse(data, at, tag), ""
    except (Broken, JournalNewer) as error:
        return None, str(error)
