"""Connections of this process to its kernel, and the call that goes through one.

A call takes a connection off the free list, or opens one, and puts it back when it has the whole answer. So frames of
two calls never mix, whether the second call is another thread's or a signal handler's that interrupted the first.
list.pop and list.append are atomic, and the last one put back is the first taken: one thread uses one connection.
A call that an exception cuts short closes its connection, whereupon the kernel cancels the call.
"""

import errno
import os
import socket
from typing import Any, Final

from agentix.libc.abi import SYS_HELLO
from agentix.libc.failure import failed, failure
from agentix_syscalls import wire

SOCKET_DEFAULT: Final = "/run/agentix/kernel.sock"
CLOSED: Final = "the kernel closed the connection"
_RECEIVE_BYTES: Final = 65536


def reach() -> socket.socket:
    """A socket that is connected to the kernel. Raises Error when none is there."""
    path = os.environ.get("AGENTIX_SOCKET", SOCKET_DEFAULT)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(path)
    except OSError as error:
        made.close()
        message = f"no Agentix kernel answers at {path} ({error.strerror or error})"
        raise failed(error.errno or errno.EINVAL, message) from None
    return made


class Connection:
    """One stream to the kernel. At most one call is on it at a time."""

    __slots__ = ("_receive", "_send", "_socket")

    def __init__(self) -> None:
        """Connect and say HELLO. Raises Error when no kernel is there or it speaks another version."""
        self._socket = reach()
        self._send = self._socket.sendall
        self._receive = self._socket.recv
        _open.add(self)
        try:
            result(*self.exchange(wire.request(SYS_HELLO, 0, (wire.PROTOCOL, 0))))
        except BaseException:
            self.close()
            raise

    def exchange(self, frame: bytes) -> tuple[int, Any]:
        """Send one request, receive its reply: (flags, decoded body). Goes on after a signal (PEP 475)."""
        self._send(frame)
        data = self._receive(_RECEIVE_BYTES)
        if len(data) < wire.HEADER_BYTES:
            data = self._rest(data, wire.HEADER_BYTES)
        length, _, flags, _ = wire.HEADER.unpack_from(data)
        if len(data) < wire.HEADER_BYTES + length:
            data = self._rest(data, wire.HEADER_BYTES + length)
        return flags, wire.decode(data[wire.HEADER_BYTES:])

    def _rest(self, begun: bytes, size: int) -> bytes:
        data = bytearray(begun)
        while len(data) < size:
            more = self._receive(size - len(data))
            if not more:
                raise failed(errno.ECONNRESET, CLOSED)
            data += more
        return bytes(data)

    def close(self) -> None:
        _open.discard(self)
        self._socket.close()


_free: Final[list[Connection]] = []
_open: Final[set[Connection]] = set()
"""Every connection, also those in the middle of a call: a forked child must give up all of them."""


def syscall(number: int, *args: Any) -> Any:
    """Make a system call by number (SYS_*) with positional arguments; the result as the table of calls says.

    Raises Error (a subclass of OSError) when the kernel answers with an error, TypeError for an argument that has no
    form on the wire.
    """
    frame = framed(number, 0, args)
    connection = None
    try:
        try:
            connection = _free.pop()
        except IndexError:
            connection = Connection()
        flags, body = connection.exchange(frame)
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    _free.append(connection)
    return result(flags, body)


def framed(number: int, user_data: int, args: tuple[Any, ...]) -> bytes:
    """A request as it travels. Raises Error (EMSGSIZE), and TypeError for an argument that has no form on the wire."""
    frame = wire.request(number, user_data, args)
    if len(frame) > wire.BODY_MAX_BYTES:
        raise failed(errno.EMSGSIZE, f"the arguments are over {wire.BODY_MAX_BYTES} bytes")
    return frame


def result(flags: int, body: Any) -> Any:
    """What a reply says, or the exception that it asks for."""
    if flags & wire.F_ERROR:
        raise failure(body)
    return body


def _forget() -> None:
    """In a forked child: the connections belong to the parent, in whatever state its calls left them."""
    _free.clear()
    for connection in list(_open):
        connection.close()


os.register_at_fork(after_in_child=_forget)

__all__ = ["syscall"]
