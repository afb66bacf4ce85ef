"""The real ground of the journal: a folder of preallocated files, and Linux's clocks."""

import errno
import fcntl
import os
import time
from contextlib import suppress
from typing import Final

from agentix_kernel.world import File

FRESH: Final = ".fresh"
"""A file being made. It gets its name when it is whole, so that no segment of a wrong size is ever seen."""
NEXT: Final = ".next"
"""Likewise: the content that is to take the place of another."""

_ZEROS: Final = bytes(1 << 16)
"""Written at a time into a new file, which also sets how large the folios of the page cache become: a small write into
a larger one walks all of its blocks (measured on ext4, Linux 6.18: 1.3 us at 64 KiB, 3.4 at 1 MiB, 5.6 at 8 MiB)."""


class RealClock:
    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


class RealFile:
    """world.File on a descriptor. Its methods may be called from several threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pwrite(self, data: bytes, offset: int) -> int:
        return os.pwrite(self._fd, data, offset)

    def pread(self, count: int, offset: int) -> bytes:
        return os.pread(self._fd, count, offset)

    def datasync(self) -> None:
        os.fdatasync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class RealDisk:
    """world.Disk on a folder, made with mode 0700 when it is not there, unless not to. `str(disk)` is the folder.

    Its own lock is an flock on the folder: it ends with the process, whatever ends that.
    """

    def __init__(self, folder: str, *, make: bool = True) -> None:
        if make:
            os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        self.folder = folder
        self._dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._lock_fd = -1

    def __str__(self) -> str:
        return self.folder

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; files that are open stay so."""
        self.unlock()
        # An instance whose __init__ raised has no descriptors yet.
        fd, self._dir_fd = getattr(self, "_dir_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def lock(self) -> None:
        if self._lock_fd >= 0:
            raise BlockingIOError(errno.EAGAIN, "locked already", self.folder)
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._dir_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self._lock_fd = fd

    def unlock(self) -> None:
        fd, self._lock_fd = getattr(self, "_lock_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self._dir_fd) if name not in {FRESH, NEXT})

    def create(self, name: str, size_bytes: int) -> File:
        fd = self._make(FRESH)
        try:
            _fill(fd, size_bytes)
            os.link(FRESH, name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        except OSError:
            os.close(fd)
            raise
        finally:
            self._forget(FRESH)
        os.fsync(self._dir_fd)
        return RealFile(fd)

    def open(self, name: str, *, write: bool = False) -> File:
        mode = os.O_RDWR if write else os.O_RDONLY
        return RealFile(os.open(name, mode | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir_fd))

    def truncate(self, name: str, size_bytes: int) -> None:
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir_fd)
        try:
            os.ftruncate(file, size_bytes)
            os.fsync(file)
        finally:
            os.close(file)

    def replace(self, name: str, data: bytes) -> None:
        fd = self._make(NEXT)
        try:
            _write_all(fd, data, 0)
            os.fsync(fd)
            os.rename(NEXT, name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        except OSError:
            self._forget(NEXT)
            raise
        finally:
            os.close(fd)
        os.fsync(self._dir_fd)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._dir_fd)
        os.fsync(self._dir_fd)

    def _make(self, name: str) -> int:
        """An empty file in place of what a crash may have left under the name."""
        self._forget(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._dir_fd)

    def _forget(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._dir_fd)


def _fill(fd: int, size_bytes: int) -> None:
    """Allocate, and write zeros: into blocks that were written once, fdatasync has no metadata to write.

    That takes a third off its cost (measured on ext4: 148 us instead of 232).
    """
    os.posix_fallocate(fd, 0, size_bytes)
    for at in range(0, size_bytes, len(_ZEROS)):
        _write_all(fd, _ZEROS[:size_bytes - at], at)
    os.fsync(fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
