"""Output of agents: what they wrote to stdout and stderr, in order, rotated by size, two files kept.

`log` holds the bytes as they came; `log.marks` one 16-byte mark for each piece: when, which stream, how long. `log.1`
and `log.marks.1` are the ones before. Places are offsets from the log's beginning in this kernel's life, which a
rotation does not move.
"""

import contextlib
import errno
import os
import struct
from typing import Final

import trio
from attrs import define, field, frozen

MARK: Final = struct.Struct("<QII")
"""wall_ns, stream (1 stdout, 2 stderr; 0: so many bytes before the next piece were lost), length in bytes."""
LOST: Final = 0

MARKS_SHARE: Final = 4
"""Marks take up to this part of what the output may: one that comes byte by byte is rotated sooner."""
MARKS_AT_ONCE: Final = 4096
CHUNK_BYTES: Final = 65536
_LENGTH_MAX: Final = (1 << 32) - 1
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})
"""What the disk or the machine may do to us: it takes a piece of output, never the agent or the kernel."""


@frozen
class Piece:
    """What came at once. `begin`: its place. Of stream LOST: so many bytes are missing before `begin`."""

    wall_ns: int
    stream: int
    begin: int
    length: int


@define
class Part:
    """One file of the log with its marks, open. `serial` counts rotations; `begin` is the place of its first byte."""

    serial: int
    begin: int
    data: int
    marks: int
    size: int = 0
    marked: int = 0
    """Size of the marks."""

    @property
    def end(self) -> int:
        return self.begin + self.size

    def measure(self) -> None:
        """Take what the marks tell for what there is: a crash may have come between the bytes and their mark."""
        self.marked = os.fstat(self.marks).st_size // MARK.size * MARK.size
        raw = os.pread(self.marks, self.marked, 0)
        self.size = sum(length for _, stream, length in MARK.iter_unpack(raw) if stream != LOST)

    def write(self, data: bytes, marks: bytes) -> None:
        """All of it or nothing. Raises OSError."""
        try:
            written = os.pwrite(self.data, data, self.size), os.pwrite(self.marks, marks, self.marked)
            if written != (len(data), len(marks)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self.data, self.size)
            os.ftruncate(self.marks, self.marked)
            raise
        self.size += len(data)
        self.marked += len(marks)

    def close(self) -> None:
        os.close(self.data)
        os.close(self.marks)


@define
class AgentLog:
    """One agent's output. `folder` None keeps it in memory (simulation)."""

    folder: str | None
    limit_bytes: int
    ended: bool = False
    grown: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    mtime_ns: int = 0
    lost: int = 0
    """Bytes that a full disk took since the last piece that was kept."""
    _told: bool = False
    _parts: list[Part] = field(factory=list[Part])
    """Oldest first, at most two; the last one is written to."""

    def append(self, stream: int, data: bytes, wall_ns: int) -> bool:
        """Keep a piece of output. True when this is the first that a full disk takes."""
        try:
            part = self._room()
            noted = MARK.pack(wall_ns, LOST, min(self.lost, _LENGTH_MAX)) if self.lost else b""
            part.write(data, noted + MARK.pack(wall_ns, stream, len(data)))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.lost += len(data)
            first, self._told = not self._told, True
            return first
        self.lost = 0
        self.mtime_ns = wall_ns
        self.grown.unpark_all()
        return False

    def parts(self) -> list[Part]:
        """What is kept, oldest first."""
        if not self._parts:
            self._open()
        return self._parts

    @property
    def end(self) -> int:
        return self.parts()[-1].end

    def size(self) -> int:
        """Of the current file, as `read_at` reads it."""
        return self.parts()[-1].size

    def read_at(self, offset: int, count: int) -> bytes:
        part = self.parts()[-1]
        return os.pread(part.data, max(min(count, part.size - offset), 0), offset)

    def read(self, begin: int, count: int) -> bytes:
        """At most `count` bytes from a place on, less at the end of a file; nothing when they are kept no more."""
        for part in self.parts():
            if part.begin <= begin < part.end:
                return os.pread(part.data, min(count, part.end - begin), begin - part.begin)
        return b""

    def last_lines(self, count: int, end: int) -> int:
        """The place where the last so many lines before `end` begin."""
        first = self.parts()[0].begin
        if count == 0 or end <= first:
            return end
        at = end - 1 if self.read(end - 1, 1) == b"\n" else end
        while at > first:
            begin = max(at - CHUNK_BYTES, first)
            chunk = self.read(begin, at - begin)
            if begin + len(chunk) < at:  # it ends with a file
                begin += len(chunk)
                chunk = self.read(begin, at - begin)
            found = len(chunk)
            while count and (found := chunk.rfind(b"\n", 0, found)) >= 0:
                count -= 1
            if not count:
                return begin + found + 1
            at = begin
        return first

    def finish(self) -> None:
        """No more will come: wakes those who follow."""
        self.ended = True
        self.grown.unpark_all()

    def close(self) -> None:
        """Give the descriptors back; reading opens them again. What was in memory only is gone."""
        self.finish()
        for part in self._parts:
            part.close()
        self._parts = []

    def _room(self) -> Part:
        """The part to write to. Raises OSError."""
        part = self.parts()[-1]
        if part.size < self.limit_bytes and part.marked < self.limit_bytes // MARKS_SHARE:
            return part
        for name in () if self.folder is None else ("log", "log.marks"):
            with contextlib.suppress(FileNotFoundError):  # moved by an attempt that failed after that
                os.replace(f"{self.folder}/{name}", f"{self.folder}/{name}.1")
        fresh = self._open_part("", part.serial + 1, part.end)
        for old in self._parts[:-1]:
            old.close()
        self._parts = [part, fresh]
        return fresh

    def _open(self) -> None:
        before = None
        if self.folder is not None and os.path.lexists(f"{self.folder}/log.1"):
            before = self._open_part(".1", 0, 0)
        current = self._open_part("", 1, before.end if before else 0)
        self.mtime_ns = os.fstat(current.data).st_mtime_ns
        self._parts = [before, current] if before else [current]

    def _open_part(self, suffix: str, serial: int, begin: int) -> Part:
        if self.folder is None:
            data, marks = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("log", "marks"))
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            data = os.open(f"{self.folder}/log{suffix}", flags, 0o600)
            try:
                marks = os.open(f"{self.folder}/log.marks{suffix}", flags, 0o600)
            except OSError:
                os.close(data)
                raise
        part = Part(serial, begin, data, marks)
        part.measure()
        return part


@define
class Reader:
    """Reads along, from what is kept on, piece by piece; a rotation loses it nothing that is still kept."""

    log: AgentLog
    _serial: int = -1
    _mark: int = 0
    """Where its next mark stands in that part."""
    _at: int = 0

    def next(self) -> tuple[int, list[Piece]]:
        """How many bytes were dropped before it came to them, and the pieces after those; none when it has them all."""
        parts = self.log.parts()
        missed = 0
        if self._serial < parts[0].serial:
            missed = parts[0].begin - self._at if self._serial >= 0 else 0
            self._enter(parts[0])
        for part in parts:
            if part.serial < self._serial:
                continue
            if part.serial > self._serial:
                self._enter(part)
            if raw := os.pread(part.marks, min(MARKS_AT_ONCE * MARK.size, part.marked - self._mark), self._mark):
                return missed, self._pieces(raw)
        return missed, []

    def _enter(self, part: Part) -> None:
        self._serial, self._mark, self._at = part.serial, 0, part.begin

    def _pieces(self, raw: bytes) -> list[Piece]:
        self._mark += len(raw)
        found: list[Piece] = []
        for wall_ns, stream, length in MARK.iter_unpack(raw):
            found.append(Piece(wall_ns, stream, self._at, length))
            self._at += length if stream != LOST else 0
        return found
