"""Landlock, the kernel's own access control for the unprivileged: what a sandbox may touch whatever its uid may.

Bits and versions: Documentation/userspace-api/landlock.rst of Linux.
"""

import os
from collections.abc import Iterable
from typing import Final

from agentix_kernel.confine import linux

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
NET_BIND_TCP, NET_CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1, 2

_FS_BITS: Final = ((1, 13), (2, 14), (3, 15), (5, 16))
"""(version, bits known from it on)."""
READ: Final = EXECUTE | READ_FILE | READ_DIR
CHANGE: Final = (1 << 16) - 1 & ~(MAKE_CHAR | MAKE_BLOCK)
DEVICE: Final = WRITE_FILE | TRUNCATE | IOCTL_DEV | READ_FILE
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


def handled(abi: int) -> tuple[int, int, int]:
    """What a kernel of this version can rule: bits of (fs, net, scopes)."""
    bits = max((bits for version, bits in _FS_BITS if abi >= version), default=0)
    net = NET_BIND_TCP | NET_CONNECT_TCP if abi >= 4 else 0
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= 6 else 0
    return (1 << bits) - 1, net, scopes


def restrict(abi: int, writable: Iterable[tuple[str, bool]]) -> None:
    """Everything may be read and executed, `writable` (path, is it a directory) changed, /dev used; no TCP; scopes as
    far as known.

    After the mounts: rules hold for the inodes that the paths lead to now. Does nothing when `abi` is 0.
    """
    if abi < 1:
        return
    fs, net, scopes = handled(abi)
    ruleset = linux.landlock_ruleset(fs, net, scopes)
    try:
        _allow(ruleset, "/", READ & fs)
        _allow(ruleset, "/dev", DEVICE & fs)
        for path, is_dir in writable:
            _allow(ruleset, path, fs & (CHANGE if is_dir else CHANGE & _OF_FILES))
        linux.landlock_restrict(ruleset)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        linux.landlock_allow(ruleset, access, fd)
    finally:
        os.close(fd)
