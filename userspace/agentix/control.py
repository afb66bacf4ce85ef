"""A client of the control socket: what agentctl, and any tool of an operator, asks of a kernel.

Synchronous; one request at a time on a connection. The operations are those of agentix_syscalls.control.
"""

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from agentix_syscalls import control, wire
from agentix_syscalls.errors import CallError, Reason

SYSTEM_SOCKET: Final = "/run/agentix/control.sock"
RECV_BYTES: Final = 1 << 18
SOCKET_PATH_MAX_BYTES: Final = 107
"""sun_path of Linux, without its closing NUL."""
_PEERCRED: Final = struct.Struct("3i")


class NoKernelError(Exception):
    """Nobody answers at the control socket. `number` is the errno of connect(2); `absent`: nobody is there at all."""

    def __init__(self, path: str, number: int) -> None:
        super().__init__(path, number)
        self.path = path
        self.number = number
        self.absent = number in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR}


def socket_path(prefix: str | None) -> str:
    """The control socket of the private kernel under `prefix`, or of the system's. Raises CallError (ENAMETOOLONG)."""
    if prefix is None:
        return SYSTEM_SOCKET
    path = os.path.join(os.path.abspath(prefix), "run", "control.sock")
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise CallError(errno.ENAMETOOLONG, f"{path}: a socket's path has {SOCKET_PATH_MAX_BYTES} bytes at most",
                        remedy="choose a shorter --prefix")
    return path


def private_kernels() -> list[str]:
    """The prefixes of the private kernels that run now, are listed, and let this person in.

    An entry that root did not make counts as little as a socket that root does not serve; one of a kernel that was
    killed is known by that nobody listens.
    """
    found: list[str] = []
    try:
        info = os.stat(control.KERNELS_DIR)
        if info.st_uid != 0 or info.st_mode & 0o022:
            return []
        links = [entry for entry in os.scandir(control.KERNELS_DIR) if entry.is_symlink()]
    except FileNotFoundError:
        return []
    for link in links:
        with contextlib.suppress(OSError, NoKernelError, CallError):
            prefix = os.readlink(link.path)
            if link.stat(follow_symlinks=False).st_uid == 0:
                _connected(socket_path(prefix)).close()
                found.append(prefix)
    return sorted(found)


def _connected(path: str) -> socket.socket:
    """A connection to whom root serves, or the caller. Raises NoKernelError, CallError EPERM (another serves it)."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(path)
        _, uid, _ = _PEERCRED.unpack(made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    except OSError as error:
        made.close()
        raise NoKernelError(path, error.errno or errno.EINVAL) from None
    if uid not in {0, os.geteuid()}:
        made.close()
        raise CallError(errno.EPERM, f"{path}: served by uid {uid}, not by root: that is no kernel",
                        remedy="somebody means to be taken for one; ask who that is")
    return made


def _gone() -> CallError:
    return CallError(errno.ECONNRESET, "the kernel closed the connection",
                     remedy="it was shut down or has died; what it wrote is kept, and agentctl info tells if one runs")


AT_ONCE: Final = 256
"""Requests under way; their replies fit the socket's buffer."""


def _error(body: Any) -> CallError:
    reason = Reason.from_wire(body)
    return CallError(reason.errno, reason.message, rule=reason.rule, remedy=reason.remedy)


def pieces(name: str, fd: int) -> Iterator[Any]:
    """The pieces of an answer that a descriptor gives, which is closed at the end. Raises CallError, also EPIPE for an
    answer that breaks off.
    """
    reader = wire.Reader(wire.CONTROL_BODY_MAX_BYTES)
    with open(fd, "rb", buffering=0) as file:
        while data := file.read(RECV_BYTES):
            reader.feed(data)
            while (frame := reader.next()) is not None:
                _, flags, _, body = frame
                if flags & wire.F_ERROR:
                    raise _error(wire.decode(body))
                if not flags & wire.F_MORE:
                    return
                yield wire.decode(body)
    raise CallError(errno.EPIPE, f"{name}: the answer broke off, and is not complete", remedy="ask again; agentctl "
                    "kernel-log tells what happened to the kernel")


class Client:
    """A connection to one kernel. `kernel` is what it said of itself, as the table has it for hello."""

    def __init__(self, path: str, bell: int | None = None) -> None:
        """Connect and say hello. Raises NoKernelError, or CallError when the kernel turns the caller away.

        What comes on `bell`, the reading end of the pipe of signal.set_wakeup_fd, ends a wait for a moment, so that
        the signal's handler runs.
        """
        self._socket = _connected(path)
        self._bell = bell
        self._reader = wire.Reader(wire.CONTROL_BODY_MAX_BYTES)
        self._serial = 0
        self._descriptors: list[int] = []
        try:
            self.kernel: dict[str, Any] = self.call("hello", wire.PROTOCOL)
        except BaseException:
            self.close()
            raise

    def watch(self) -> int:
        """A pidfd of the kernel's process, readable once that has ended; the caller's. Raises OSError."""
        pid, _, _ = _PEERCRED.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        return os.pidfd_open(pid)

    def call(self, name: str, *args: Any, descriptors: Sequence[int] = ()) -> Any:
        """Ask for one operation; its result as control.py says. Raises CallError with the kernel's reason."""
        self._request(name, args, descriptors)
        return self._reply()[1]

    def calls(self, name: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Ask for one operation many times, all under way at once: each one's result, or the CallError that it raised.

        What the kernel makes durable for one it makes durable for all that come with it.
        """
        results: list[Any] = []
        for first in range(0, len(arguments), AT_ONCE):
            results += self._calls(name, arguments[first:first + AT_ONCE])
        return results

    def _calls(self, name: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        begun = self._serial + 1
        for args in arguments:
            self._request(name, args, ())
        results: dict[int, Any] = {}
        while len(results) < len(arguments):
            serial, flags, body = self._next()
            if serial >= begun:
                results[serial] = _error(body) if flags & wire.F_ERROR else body
        return [results[begun + at] for at in range(len(arguments))]

    def stream(self, name: str, *args: Any, descriptors: Sequence[int] = ()) -> Iterator[Any]:
        """Ask for a streaming operation, at once; what it sends, as it comes."""
        self._request(name, args, descriptors)
        return self._streamed()

    def _streamed(self) -> Iterator[Any]:
        more, body = self._reply()
        while more:
            yield body
            more, body = self._reply()

    def answer(self, name: str, *args: Any) -> Iterator[Any]:
        """Ask what is answered beside the connection; the pieces as they come. The connection may be used meanwhile."""
        self.call(name, *args)
        return pieces(name, self.take_descriptor())

    def _request(self, name: str, args: Sequence[Any], descriptors: Sequence[int]) -> None:
        self._serial += 1
        frame = wire.request(control.BY_NAME[name].number, self._serial, list(args))
        if len(frame) > wire.CONTROL_BODY_MAX_BYTES:
            raise CallError(errno.EMSGSIZE, f"{name}: {len(frame)} bytes; a request has 16 MiB at most")
        if len(descriptors) > control.DESCRIPTORS_MAX:
            raise CallError(errno.EINVAL, f"{name}: {len(descriptors)} binds; at most {control.DESCRIPTORS_MAX}")
        try:
            sent = socket.send_fds(self._socket, [frame], list(descriptors)) if descriptors else 0
            self._socket.sendall(memoryview(frame)[sent:])
        except ConnectionError:
            raise _gone() from None

    def _reply(self) -> tuple[bool, Any]:
        """The next reply of the request under way: (whether more follow, body)."""
        while True:
            serial, flags, body = self._next()
            if serial != self._serial:
                continue  # the rest of a stream that was not read to its end
            if flags & wire.F_ERROR:
                raise _error(body)
            return bool(flags & wire.F_MORE), body

    def _next(self) -> tuple[int, int, Any]:
        """Serial, flags and body of the next reply to whatever was asked."""
        while (frame := self._reader.next()) is None:
            self._fill()
        _, flags, serial, raw = frame
        return serial, flags, wire.decode(raw)

    def take_descriptor(self) -> int:
        """The oldest that came beside a reply and was not taken yet; the caller's from here on."""
        return self._descriptors.pop(0)

    def _heed_bell(self, bell: int) -> None:
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        while bell in (ready := [fd for fd, _ in poll.poll()]):
            with contextlib.suppress(BlockingIOError):
                os.read(bell, 4096)
            if len(ready) > 1:
                return

    def _fill(self) -> None:
        if self._bell is not None:
            self._heed_bell(self._bell)
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, RECV_BYTES, control.DESCRIPTORS_MAX,
                                              socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            data, fds = b"", []
        self._descriptors += fds
        if not data:
            raise _gone()
        self._reader.feed(data)

    def fileno(self) -> int:
        """To wait for what comes, unless some of it is here (`pending`)."""
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Some of a reply has been received, and not been read."""
        return not self._reader.empty

    def shut(self) -> None:
        """From another thread: whoever waits for a reply here is told that the connection has ended."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
