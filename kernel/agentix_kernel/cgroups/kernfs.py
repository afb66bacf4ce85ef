"""Reading, writing and removing cgroup directories, relative to descriptors of directories opened beforehand.

Errors of things that went away meanwhile (ENOENT; ENODEV and ESRCH of a file whose cgroup was removed while it was
open) are no news here: whatever is gone is empty.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Generator, Iterable
from typing import Final

GONE: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH})

SMALL_BYTES: Final = 4096
LINKS_OF_A_LEAF: Final = 2
"""A cgroup's directory has one link more for each cgroup in it."""

_REMOVE_TRIES: Final = 50
_REMOVE_PAUSE_S: Final = 0.001


@contextlib.contextmanager
def unless_gone() -> Generator[None]:
    """Ignore that the cgroup, or the process, is gone already."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


def read_at(dir_fd: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        parts = list(iter(lambda: os.read(fd, 1 << 16), b""))
    finally:
        os.close(fd)
    return b"".join(parts).decode()


def write_at(dir_fd: int, name: str, value: object) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def read_small_at(dir_fd: int, name: str) -> str:
    """A file that Linux gives whole in one read: a number, or some lines. A thousand agents make each call count."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return os.read(fd, SMALL_BYTES).decode()
    finally:
        os.close(fd)


def number_at(dir_fd: int, name: str) -> int:
    """A file of one number; 0 when it is gone or was never there."""
    with unless_gone():
        return int(read_small_at(dir_fd, name))
    return 0


def keyed_at(dir_fd: int, name: str) -> dict[str, int]:
    """A file of lines `key number`; empty when it is gone or was never there."""
    with unless_gone():
        return keyed(read_small_at(dir_fd, name))
    return {}


def keyed(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {key: int(value) for key, value in pairs}


def exists_at(dir_fd: int, name: str) -> bool:
    return os.access(name, os.F_OK, dir_fd=dir_fd)


def open_dir(path: str, dir_fd: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)


def open_tasks(path: str, dir_fd: int) -> int:
    return os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def children(dir_fd: int, path: str) -> list[str]:
    """Names of the cgroups directly below; none when it is gone."""
    with unless_gone():
        if os.stat(path, dir_fd=dir_fd).st_nlink == LINKS_OF_A_LEAF:
            return []
        fd = open_dir(path, dir_fd)
        try:
            with os.scandir(fd) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        finally:
            os.close(fd)
    return []


def pids_below(dir_fd: int, path: str) -> list[int]:
    """Host process ids in the cgroup and in all below."""
    pids: list[int] = []
    with unless_gone():
        pids = [int(line) for line in read_at(dir_fd, f"{path}/cgroup.procs").split()]
    for child in children(dir_fd, path):
        pids += pids_below(dir_fd, f"{path}/{child}")
    return pids


def remove_below(dir_fd: int, path: str) -> None:
    """Remove the cgroup and all below. Raises OSError EBUSY when something lives there."""
    for child in children(dir_fd, path):
        remove_below(dir_fd, f"{path}/{child}")
    for tried in range(_REMOVE_TRIES):
        try:
            with unless_gone():
                os.rmdir(path, dir_fd=dir_fd)
        except OSError as error:
            # The last process leaves the lists a moment before the cgroup may be removed.
            if error.errno != errno.EBUSY or tried + 1 == _REMOVE_TRIES or pids_below(dir_fd, path):
                raise
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return


def kill_below(dir_fd: int, path: str) -> None:
    """SIGKILL, once, to every process in the cgroup and below: where Linux has no cgroup.kill.

    A number may have been given to a stranger between reading it and signalling it: so each is pinned by a pidfd
    first, and signalled only if it is found in the cgroup again.
    """
    pinned: dict[int, int] = {}
    try:
        for pid in pids_below(dir_fd, path):
            with unless_gone():
                pinned[pid] = os.pidfd_open(pid)
        for pid in set(pids_below(dir_fd, path)) & pinned.keys():
            with unless_gone():
                signal.pidfd_send_signal(pinned[pid], signal.SIGKILL)
    finally:
        close_all(pinned.values())
