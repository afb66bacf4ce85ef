"""Calls about files of the own tree: thin, since the tree judges paths and rights itself."""

import errno
from typing import Any, Final

from agentix_kernel.kernel import Kernel
from agentix_kernel.process import OpenFile, Process
from agentix_syscalls import calls, types
from agentix_syscalls.errors import CallError
from agentix_vfs.who import Who

FIRST_HANDLE: Final = 3
"""0 to 2 are stdin, stdout and stderr in everybody's fingers, so no handle has these numbers."""


def who(process: Process) -> Who:
    return Who(process.uid, process.uid, process.id)


def file_of(process: Process, fd: int) -> OpenFile:
    found = process.handles.get(fd)
    if found is None:
        raise CallError(errno.EBADF, f"handle {fd} is not open")
    return found


def open_(kernel: Kernel, process: Process, path: bytes, flags: int, mode: int) -> int:
    if flags & ~calls.OPEN_FLAGS or flags & calls.O_ACCMODE == calls.O_ACCMODE:
        raise CallError(errno.EINVAL, f"OPEN: unknown flags {flags & ~calls.OPEN_FLAGS:#o}")
    if mode & ~0o7777:
        raise CallError(errno.EINVAL, f"OPEN: mode {mode:#o} has bits that are no permissions")
    handles = process.handles
    if len(handles) >= kernel.config.handles_max:
        raise CallError(errno.EMFILE, f"OPEN: {len(handles)} handles are open", remedy="close some")
    handle = kernel.tree.open(who(process), path, flags, mode)
    fd = FIRST_HANDLE
    while fd in handles:
        fd += 1
    handles[fd] = OpenFile(handle)
    return fd


def close(kernel: Kernel, process: Process, fd: int) -> None:
    del kernel
    file = file_of(process, fd)
    del process.handles[fd]
    file.handle.close()


def read(kernel: Kernel, process: Process, fd: int, count: int, offset: int) -> bytes:
    del kernel
    if count > calls.READ_MAX_BYTES:
        raise CallError(errno.EINVAL, f"READ: count {count} is over {calls.READ_MAX_BYTES}")
    file = file_of(process, fd)
    if offset < 0:
        if offset != calls.CURRENT:
            raise CallError(errno.EINVAL, f"READ: offset {offset} is negative")
        data = file.handle.read(count, file.position)
        file.position += len(data)
        return data
    return file.handle.read(count, offset)


def write(kernel: Kernel, process: Process, fd: int, data: bytes, offset: int) -> int:
    del kernel
    file = file_of(process, fd)
    if offset < 0:
        if offset != calls.CURRENT:
            raise CallError(errno.EINVAL, f"WRITE: offset {offset} is negative")
        append = bool(file.handle.flags & calls.O_APPEND)
        count = file.handle.write(data, file.position, append=append)
        file.position = file.handle.size if append else file.position + count
        return count
    return file.handle.write(data, offset)


def seek(kernel: Kernel, process: Process, fd: int, offset: int, whence: int) -> int:
    del kernel
    file = file_of(process, fd)
    match whence:
        case 0:
            position = offset
        case 1:
            position = file.position + offset
        case 2:
            position = file.handle.size + offset
        case _:
            raise CallError(errno.EINVAL, f"SEEK: whence {whence} is none of 0, 1 and 2")
    if not 0 <= position <= types.I63_MAX:
        raise CallError(errno.EINVAL, f"SEEK: position {position} is before the start or over 2^63-1")
    file.position = position
    return position


def stat(kernel: Kernel, process: Process, path: bytes, flags: int) -> list[int]:
    if flags & ~calls.AT_SYMLINK_NOFOLLOW:
        raise CallError(errno.EINVAL, f"STAT: unknown flags {flags:#x}")
    a = kernel.tree.stat(who(process), path, follow=not flags & calls.AT_SYMLINK_NOFOLLOW)
    return [a.mode, a.ino, a.nlink, a.uid, a.gid, a.size, a.blocks, a.atime_ns, a.mtime_ns, a.ctime_ns]


def readdir(kernel: Kernel, process: Process, path: bytes) -> list[Any]:
    return [list(entry) for entry in kernel.tree.readdir(who(process), path)]


def mkdir(kernel: Kernel, process: Process, path: bytes, mode: int) -> None:
    if mode & ~0o7777:
        raise CallError(errno.EINVAL, f"MKDIR: mode {mode:#o} has bits that are no permissions")
    kernel.tree.mkdir(who(process), path, mode)


def unlink(kernel: Kernel, process: Process, path: bytes, flags: int) -> None:
    if flags & ~calls.AT_REMOVEDIR:
        raise CallError(errno.EINVAL, f"UNLINK: unknown flags {flags:#x}")
    if flags:
        kernel.tree.rmdir(who(process), path)
    else:
        kernel.tree.unlink(who(process), path)


def rename(kernel: Kernel, process: Process, old: bytes, new: bytes, flags: int) -> None:
    if flags not in {0, calls.RENAME_NOREPLACE, calls.RENAME_EXCHANGE}:
        raise CallError(errno.EINVAL, f"RENAME: flags {flags:#x} are none of NOREPLACE and EXCHANGE")
    kernel.tree.rename(who(process), old, new, flags)


def truncate(kernel: Kernel, process: Process, path: bytes, size: int) -> None:
    kernel.tree.truncate(who(process), path, size)


def sync(kernel: Kernel, process: Process, fd: int) -> None:
    del kernel
    file_of(process, fd).handle.sync()
