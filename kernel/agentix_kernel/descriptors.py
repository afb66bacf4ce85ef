"""Descriptors that somebody else has opened.

The file system behind one may be our own mount, where agentd would wait for itself, or one of theirs that never
answers. So nothing is done here that asks it: fstat(2) does, and so does close(2) of a regular file.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import trio
from attrs import frozen

from agentix_kernel.confine import linux
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.kernel import Kernel

CLOSERS: Final = 8
"""Threads that wait for file systems at once."""
_closers: Final = trio.CapacityLimiter(CLOSERS)


@frozen
class Source:
    """What a bind is to show. `identity`: device, inode, owner."""

    mode: int
    identity: tuple[int, int, int]


def source(fd: int, shown: str) -> Source:
    """Raises CallError: EINVAL unless it is open with O_PATH, so that a close asks nothing; EACCES."""
    if not _is_path(fd):
        raise CallError(errno.EINVAL, f"{shown}: its descriptor is not of O_PATH")
    try:
        mode, uid, _, device, inode = linux.look(fd)
    except OSError as error:
        raise CallError(error.errno or errno.EIO, f"{shown}: {error.strerror}, says its file system to root") from None
    return Source(mode, (device, inode, uid))


def close(kernel: "Kernel", fds: Iterable[int]) -> None:
    """What may have to wait for a file system does so in a thread."""
    for fd in fds:
        if _is_quiet(fd):
            os.close(fd)
        else:
            kernel.start(_close, fd)


async def _close(fd: int) -> None:
    await trio.to_thread.run_sync(os.close, fd, limiter=_closers, abandon_on_cancel=True)


def _is_path(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH)


def _is_quiet(fd: int) -> bool:
    """Closing it asks no file system: pipes, sockets, terminals, and what is only a path."""
    if _is_path(fd):
        return True
    try:
        mode = linux.look(fd)[0]
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
