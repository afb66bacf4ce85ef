"""Messages between agentd, the spawner and the zygotes: a msgpack map and descriptors over SOCK_SEQPACKET.

All ends are ours. What does not fit a packet travels in a sealed memfd of its own.
"""

import array
import fcntl
import os
import socket
from typing import Any, Final

import msgpack

INLINE_MAX_BYTES: Final = 64 << 10
_RECEIVE_BYTES: Final = INLINE_MAX_BYTES + 4096
_packer: Final = msgpack.Packer(unicode_errors="surrogateescape")
FDS_MAX: Final = 200
"""Below SCM_MAX_FD (253)."""
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def pack(value: Any) -> bytes:
    """With surrogateescape: paths, arguments and variables are bytes to Linux."""
    return _packer.pack(value)


def unpack(data: bytes) -> Any:
    """Ours, so trusted; the library takes its limits from the size of the data."""
    return msgpack.unpackb(data, unicode_errors="surrogateescape")


def send(channel: socket.socket, message: dict[str, Any], fds: "tuple[int, ...] | list[int]" = ()) -> None:
    """Raises OSError: BlockingIOError when the socket is non-blocking and full, BrokenPipeError when nobody reads."""
    channel.sendmsg([pack(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [],
                    socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors (close-on-exec, the caller's); None when the other end is gone."""
    try:
        data, fds = receive_bytes(channel)
    except ConnectionResetError:
        return None
    return (unpack(data), fds) if data else None


def receive_bytes(channel: socket.socket) -> tuple[bytes, list[int]]:
    data, fds, flags, _ = socket.recv_fds(channel, _RECEIVE_BYTES, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise OSError(90, "message cut off")  # EMSGSIZE
    return data, fds


def in_memory(data: bytes) -> int:
    """A sealed memfd with this content."""
    fd = os.memfd_create("agentix", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_memory(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    data = bytearray()
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return bytes(data)


def close_all(fds: "list[int] | tuple[int, ...]") -> None:
    for fd in fds:
        os.close(fd)
