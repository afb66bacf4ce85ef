"""System calls that Python 3.11 does not wrap. Each raises OSError as os.* does."""

import ctypes
import os
from typing import Final

from agentix_syscalls.calls import RENAME_EXCHANGE

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOATIME: Final = 1024
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)


def exchange(first_folder: int, first: bytes, second_folder: int, second: bytes) -> None:
    """Swap two names, atomically."""
    _check(_libc.renameat2(first_folder, first, second_folder, second, RENAME_EXCHANGE), os.fsdecode(second))


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    _check(_libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()),
           target)


def umount(target: str, flags: int) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), target)


def _check(result: int, path: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
