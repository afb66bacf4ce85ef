"""Calls on files of the agent's own tree, named as in POSIX and in Python's os module."""

import errno
import io
import os
from typing import IO, Any, Final, Literal, NamedTuple, overload

from agentix.libc import abi
from agentix.libc.failure import failed
from agentix.libc.request import Request, call
from agentix_syscalls.wire import BODY_MAX_BYTES

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_WRITE_MAX_BYTES: Final = BODY_MAX_BYTES - 64
"""A frame's body at most, without what the other arguments take."""


class DirEntry(NamedTuple):
    """One name in a directory. `mode` has the type bits too, as in stat."""

    name: str
    mode: int
    inode: int


@call
def open(path: Path, flags: int = abi.O_RDONLY, mode: int = 0o644) -> Request[int]:  # noqa: A001 - POSIX's name
    """Open a file: a handle of this kernel, not a file descriptor of Linux."""
    return Request(abi.SYS_OPEN, os.fspath(path), flags, mode)


@call
def close(fd: int) -> Request[None]:
    return Request(abi.SYS_CLOSE, fd)


@call
def read(fd: int, count: int) -> Request[bytes]:
    """At most `count` bytes (1 MiB a call) from the handle's position; empty at the end."""
    return Request(abi.SYS_READ, fd, min(count, abi.READ_MAX_BYTES))


@call
def pread(fd: int, count: int, offset: int) -> Request[bytes]:
    return Request(abi.SYS_READ, fd, min(count, abi.READ_MAX_BYTES), _offset(offset))


@call
def write(fd: int, data: "bytes | bytearray | memoryview") -> Request[int]:
    """Write at the handle's position; how many bytes were written, which is fewer for more than about 1 MiB."""
    return Request(abi.SYS_WRITE, fd, bytes(data[:_WRITE_MAX_BYTES]))


@call
def pwrite(fd: int, data: "bytes | bytearray | memoryview", offset: int) -> Request[int]:
    return Request(abi.SYS_WRITE, fd, bytes(data[:_WRITE_MAX_BYTES]), _offset(offset))


def _offset(offset: int) -> int:
    """On the wire -1 means the handle's position; POSIX refuses it here."""
    if offset < 0:
        raise failed(errno.EINVAL, f"offset {offset} is before the start of the file")
    return offset


@call
def lseek(fd: int, offset: int, whence: int = os.SEEK_SET) -> Request[int]:
    return Request(abi.SYS_SEEK, fd, offset, whence)


@call
def stat(path: Path, *, follow_symlinks: bool = True) -> Request[os.stat_result]:
    """Attributes, in the shape that os.stat gives; st_dev is 0."""
    return Request(abi.SYS_STAT, os.fspath(path), 0 if follow_symlinks else abi.AT_SYMLINK_NOFOLLOW, read=_attributes)


def _attributes(answer: Any) -> os.stat_result:
    mode, ino, nlink, uid, gid, size, blocks, *times = answer
    seconds = [ns // 1_000_000_000 for ns in times]
    names = ("st_atime", "st_mtime", "st_ctime")
    more = {name: ns / 1e9 for name, ns in zip(names, times, strict=True)}
    more |= {f"{name}_ns": ns for name, ns in zip(names, times, strict=True)}
    return os.stat_result((mode, ino, 0, nlink, uid, gid, size, *seconds), {**more, "st_blocks": blocks})


def _entries(answer: Any) -> list[DirEntry]:
    return [DirEntry(os.fsdecode(name), mode, inode) for name, mode, inode in answer]


def _names(answer: Any) -> list[str]:
    return [os.fsdecode(name) for name, _, _ in answer]


@call
def scandir(path: Path = ".") -> Request[list[DirEntry]]:
    return Request(abi.SYS_READDIR, os.fspath(path), read=_entries)


@call
def listdir(path: Path = ".") -> Request[list[str]]:
    return Request(abi.SYS_READDIR, os.fspath(path), read=_names)


@call
def mkdir(path: Path, mode: int = 0o755) -> Request[None]:
    return Request(abi.SYS_MKDIR, os.fspath(path), mode)


@call
def unlink(path: Path) -> Request[None]:
    return Request(abi.SYS_UNLINK, os.fspath(path))


@call
def rmdir(path: Path) -> Request[None]:
    return Request(abi.SYS_UNLINK, os.fspath(path), abi.AT_REMOVEDIR)


@call
def rename(old: Path, new: Path, flags: int = 0) -> Request[None]:
    """Rename, replacing `new`; or with RENAME_NOREPLACE or RENAME_EXCHANGE."""
    return Request(abi.SYS_RENAME, os.fspath(old), os.fspath(new), flags)


@call
def truncate(path: Path, size: int) -> Request[None]:
    return Request(abi.SYS_TRUNCATE, os.fspath(path), size)


@call
def fsync(fd: int) -> Request[None]:
    """On return the file's content and the record so far are on stable storage."""
    return Request(abi.SYS_SYNC, fd)


class RawFile(io.RawIOBase):
    """A handle as an unbuffered Python file."""

    def __init__(self, path: Path, flags: int) -> None:
        super().__init__()
        self.name = path
        self._access = flags & abi.O_ACCMODE
        self._fd = open(path, flags)

    def readable(self) -> bool:
        return self._access != abi.O_WRONLY

    def writable(self) -> bool:
        return self._access != abi.O_RDONLY

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = read(self._fd, len(buffer))
        buffer[:len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        return write(self._fd, memoryview(data).cast("B"))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return lseek(self._fd, offset, whence)

    def close(self) -> None:
        if not self.closed:
            super().close()
            close(self._fd)


_FLAGS: Final = {
    "r": abi.O_RDONLY, "w": abi.O_WRONLY | abi.O_CREAT | abi.O_TRUNC,
    "a": abi.O_WRONLY | abi.O_CREAT | abi.O_APPEND, "x": abi.O_WRONLY | abi.O_CREAT | abi.O_EXCL,
}


@overload
def openfile(path: Path, mode: Literal["r", "w", "a", "x"] = "r") -> IO[str]: ...
@overload
def openfile(path: Path, mode: Literal["rb", "wb", "ab", "xb"]) -> IO[bytes]: ...
def openfile(path: Path, mode: str = "r") -> IO[Any]:
    """Open a file as Python's open does: buffered, bytes with "b" in the mode and UTF-8 text without."""
    kind = mode.removesuffix("b")
    if kind not in _FLAGS:
        raise ValueError(f"mode {mode!r}: one of {', '.join(_FLAGS)}, with b for bytes")
    raw = RawFile(path, _FLAGS[kind])
    buffered = io.BufferedReader(raw) if kind == "r" else io.BufferedWriter(raw)
    return buffered if mode.endswith("b") else io.TextIOWrapper(buffered, encoding="utf-8")


__all__ = [
    "DirEntry", "RawFile", "close", "fsync", "listdir", "lseek", "mkdir", "open", "openfile", "pread", "pwrite", "read",
    "rename", "rmdir", "scandir", "stat", "truncate", "unlink", "write",
]
