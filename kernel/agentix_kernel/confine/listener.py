"""The kernel's side of seccomp user notification: each refused call is told and answered EPERM.

A call that ends its agent (no honest one makes it, or the policy is strict) is never answered: its caller waits in it
until the kill, and runs no more.

Never SECCOMP_USER_NOTIF_FLAG_CONTINUE: an agent can change what a pointer leads to after we looked. Layouts:
linux/seccomp.h.
"""

import errno
import fcntl
import struct
from collections.abc import Mapping
from typing import Final

from agentix_kernel.world import DeniedCall

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
"""id, pid, flags; then seccomp_data: number, architecture, instruction pointer, six arguments."""
_RESPONSE: Final = struct.Struct("=QqiI")


def receive(fd: int, notified: Mapping[int, tuple[str, bool]]) -> tuple[int, DeniedCall] | None:
    """Take the call that waits, with the number by which it is answered. None when its caller is gone already."""
    notification = bytearray(_NOTIFICATION.size)  # all zero, or Linux answers EINVAL
    try:
        fcntl.ioctl(fd, _RECEIVE, notification)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identity, pid, _, number, *_ = _NOTIFICATION.unpack(notification)
    name, fatal = notified.get(number, (f"call {number}", False))
    return identity, DeniedCall(name, pid, fatal)


def refuse(fd: int, identity: int) -> None:
    """EPERM."""
    try:
        fcntl.ioctl(fd, _SEND, _RESPONSE.pack(identity, 0, -errno.EPERM, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:  # killed since
            raise
