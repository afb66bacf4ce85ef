"""Output of agents: what they wrote to stdout and stderr, in order, rotated by size, two files kept.

`log` holds the bytes as they came; `log.marks` one 16-byte mark for each piece: when, which stream, how long.
"""

import os
import struct
from typing import Final

import trio
from attrs import define, field

MARK: Final = struct.Struct("<QII")
"""wall_ns, stream (1 stdout, 2 stderr), length in bytes."""

MARKS_SHARE: Final = 4
"""Marks take up to this part of what the output may: one that comes byte by byte is rotated sooner."""


@define
class AgentLog:
    """One agent's output. `folder` None keeps it in memory (simulation)."""

    folder: str | None
    limit_bytes: int
    ended: bool = False
    grown: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    rotations: int = 0
    mtime_ns: int = 0
    _data: int = -1
    _marks: int = -1
    _size: int = 0
    _marked: int = 0
    """Size of the marks."""

    def append(self, stream: int, data: bytes, wall_ns: int) -> None:
        """Keep a piece of output. A full disk loses the piece, never the agent or the kernel."""
        self._open()
        if self._size >= self.limit_bytes or self._marked >= self.limit_bytes // MARKS_SHARE:
            self._rotate()
        try:
            os.pwrite(self._data, data, self._size)
            self._marked += os.write(self._marks, MARK.pack(wall_ns, stream, len(data)))
        except OSError:
            os.ftruncate(self._data, self._size)
            return
        self._size += len(data)
        self.mtime_ns = wall_ns
        self.grown.unpark_all()

    def size(self) -> int:
        self._open()
        return self._size

    def read_at(self, offset: int, count: int) -> bytes:
        self._open()
        return os.pread(self._data, count, offset)

    def pieces(self) -> list[tuple[int, int, int, int]]:
        """(wall_ns, stream, offset, length) of what the current file holds."""
        self._open()
        raw = os.pread(self._marks, os.fstat(self._marks).st_size, 0)
        found: list[tuple[int, int, int, int]] = []
        offset = 0
        for wall_ns, stream, length in MARK.iter_unpack(raw[:len(raw) // MARK.size * MARK.size]):
            found.append((wall_ns, stream, offset, length))
            offset += length
        return found

    def finish(self) -> None:
        """No more will come: wakes those who follow."""
        self.ended = True
        self.grown.unpark_all()

    def close(self) -> None:
        """Give the descriptors back; reading opens them again. What was in memory only is gone."""
        self.finish()
        for fd in (self._data, self._marks):
            if fd >= 0:
                os.close(fd)
        self._data = self._marks = -1

    def _open(self) -> None:
        if self._data >= 0:
            return
        if self.folder is None:
            self._data, self._marks = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("log", "marks"))
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._data = os.open(f"{self.folder}/log", flags, 0o600)
        self._marks = os.open(f"{self.folder}/log.marks", flags | os.O_APPEND, 0o600)
        self._size, self._marked = (os.fstat(fd).st_size for fd in (self._data, self._marks))
        self.mtime_ns = os.fstat(self._data).st_mtime_ns

    def _rotate(self) -> None:
        self.rotations += 1
        if self.folder is None:
            os.ftruncate(self._data, 0)
            os.ftruncate(self._marks, 0)
            os.lseek(self._marks, 0, os.SEEK_SET)
            self._size = self._marked = 0
            return
        os.close(self._data)
        os.close(self._marks)
        self._data = self._marks = -1
        for name in ("log", "log.marks"):
            os.replace(f"{self.folder}/{name}", f"{self.folder}/{name}.1")
        self._open()
