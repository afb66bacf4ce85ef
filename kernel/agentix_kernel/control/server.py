"""Serves the control socket: who asks is known by SO_PEERCRED; each request runs as a task of its connection."""

import errno
import grp
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Final

import trio
from attrs import define, field, frozen

from agentix_kernel import descriptors
from agentix_kernel.control import operations
from agentix_kernel.control.answers import Handed
from agentix_kernel.kernel import Kernel
from agentix_syscalls import control as table
from agentix_syscalls import wire
from agentix_syscalls.errors import CallError
from agentix_vfs.incoming import Incoming

RECV_BYTES: Final = 1 << 18

PENDING_MAX_BYTES: Final = 64 << 20
"""What the requests under way of one connection may take; who asks for more without reading is cut off."""
REQUEST_BYTES: Final = 64 << 10
"""What a request takes beside its body, and"""
STREAM_BYTES: Final = 2 << 20
"""what one takes that holds a piece until it is read."""

HELD_MAX: Final = 256
"""Connections of one uid, and descriptors that wait in them, together; root has no such limit."""
ACCEPT_PAUSE_S: Final = 0.1
"""When a connection cannot be taken: as many descriptors are open as there may be."""

SO_PEERGROUPS: Final = 59
"""Missing in the socket module."""
GROUPS_MAX_BYTES: Final = 1024
"""As long as CPython lets a getsockopt be."""
PEERCRED: Final = struct.Struct("3i")


@frozen
class Peer:
    """Who asks: from the socket, never from what they say."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]

    @property
    def shown(self) -> str:
        """As records name who asked."""
        return f"uid {self.uid}, pid {self.pid}"


def peer_of(sock: socket.socket) -> Peer:
    pid, uid, gid = PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_MAX_BYTES)
    except OSError:  # more groups than fit: then it is none of ours that counts, which lets nobody in
        raw = b""
    return Peer(pid, uid, gid, frozenset({gid, *struct.unpack(f"{len(raw) // 4}I", raw)}))


@define(eq=False, repr=False)
class Client:
    """One connection of an operator, with the descriptors that came with its frames and were not used yet."""

    kernel: Kernel
    peer: Peer
    sock: socket.socket
    lock: trio.Lock = field(factory=trio.Lock)
    fds: list[int] = field(factory=list[int])
    greeted: bool = False
    pending: int = 0
    """Bytes that its requests under way may take."""
    incoming: tuple[object, Incoming] | None = None
    """A file of which more is to come, and what it is known by."""

    def drop_incoming(self) -> None:
        """It will not become whole."""
        if self.incoming is not None:
            (_, file), self.incoming = self.incoming, None
            with suppress(CallError):  # a store that refuses this too was told already, or is gone
                file.abandon()

    def take_fds(self, count: int) -> list[int]:
        """The oldest descriptors; the caller owns them. Raises CallError when fewer came."""
        if len(self.fds) < count:
            raise CallError(errno.EINVAL, f"{count} descriptors should have come with the frame, {len(self.fds)} did")
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken

    async def reply(self, operation: int, flags: int, user_data: int, value: Any) -> None:
        fds = value.fds if isinstance(value, Handed) else ()
        value = value.value if isinstance(value, Handed) else value
        data = memoryview(wire.frame(operation, wire.F_REPLY | flags, user_data, wire.pack(value)))
        try:
            async with self.lock:
                while data:
                    try:
                        data = data[socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data):]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self.sock)
                    else:
                        fds = _closed(fds)
        finally:
            _closed(fds)


def _closed(fds: tuple[int, ...]) -> tuple[int, ...]:
    """None is left to send."""
    for fd in fds:
        os.close(fd)
    return ()


async def serve(kernel: Kernel, listener: socket.socket) -> None:
    """Accept until cancelled. A client's error ends its connection only."""
    clients: set[Client] = set()
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            sock, _ = listener.accept()
        except OSError:
            await trio.sleep(ACCEPT_PAUSE_S)
            continue
        sock.setblocking(False)
        kernel.start(_client, kernel, sock, clients)


def _too_much(client: Client, clients: set[Client]) -> bool:
    """Its user holds more than one may: else one member of the group takes all that agentd can have open."""
    uid = client.peer.uid
    return uid != 0 and sum(1 + len(other.fds) for other in clients if other.peer.uid == uid) > HELD_MAX


def listen(path: str, group: str) -> socket.socket:
    """The control socket: root:<group> 0660, or root alone when there is no such group."""
    if os.path.lexists(path):
        os.unlink(path)  # boot holds the lock of this prefix, so nobody serves it
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(old)
    gid = group_id(group)
    if gid is not None:
        os.chown(path, 0, gid)
        os.chmod(path, 0o660)
    sock.listen(64)
    sock.setblocking(False)
    return sock


def group_id(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


async def _client(kernel: Kernel, sock: socket.socket, clients: set[Client]) -> None:
    with sock:
        peer = peer_of(sock)
        client = Client(kernel, peer, sock)
        gid = group_id(kernel.config.group)
        if peer.uid != 0 and (gid is None or gid not in peer.groups):
            return  # the mode of the socket said so already
        clients.add(client)
        try:
            async with trio.open_nursery() as nursery:
                await _read(client, nursery, clients)
                nursery.cancel_scope.cancel()
        except* (BrokenPipeError, ConnectionResetError, wire.WireError):
            pass
        finally:
            clients.discard(client)
            client.drop_incoming()
            descriptors.close(kernel, client.fds)


async def _read(client: Client, nursery: trio.Nursery, clients: set[Client]) -> None:
    reader = wire.Reader(wire.CONTROL_BODY_MAX_BYTES)
    while not _too_much(client, clients):
        await trio.lowlevel.wait_readable(client.sock)
        try:
            data, fds, flags, _ = socket.recv_fds(client.sock, RECV_BYTES, table.DESCRIPTORS_MAX,
                                                 socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            continue
        client.fds += fds
        if not data or flags & socket.MSG_CTRUNC or len(client.fds) > table.DESCRIPTORS_MAX:
            return  # those of one frame may wait: more are a flood
        reader.feed(data)
        while (frame := reader.next()) is not None:
            cost = _cost(*frame)
            client.pending += cost
            if client.pending > PENDING_MAX_BYTES:
                return
            nursery.start_soon(_account, client, cost, frame)


def _cost(number: int, _flags: int, _user_data: int, body: bytes) -> int:
    operation = table.BY_NUMBER.get(number)
    return len(body) + (STREAM_BYTES if operation is not None and operation.streams else REQUEST_BYTES)


async def _account(client: Client, cost: int, frame: tuple[int, int, int, bytes]) -> None:
    await _serve(client, *frame)
    client.pending -= cost


async def _serve(client: Client, number: int, flags: int, user_data: int, body: bytes) -> None:
    """Serve one request. A bad one is answered; only a frame that is none ends the connection."""
    del flags
    operation = table.BY_NUMBER.get(number)
    try:
        if operation is None:
            raise CallError(errno.ENOSYS, f"control operation {number}: unknown", remedy="this agentctl is newer than "
                            "the kernel; restart the kernel")
        args = operation.parse(wire.decode(body))
        if not client.greeted and operation.name != "hello":
            raise CallError(errno.EPROTO, "the first frame must be hello")
        if operation.root and client.peer.uid != 0:
            raise CallError(errno.EPERM, f"{operation.name}: only root may", remedy="use sudo")
        run = operations.OPERATIONS[operation.name]
        if operation.streams:
            stream: AsyncGenerator[Any] = run(client, *args)
            async with aclosing(stream) as items:
                async for item in items:
                    await client.reply(number, wire.F_MORE, user_data, item)
            await client.reply(number, 0, user_data, None)
        else:
            await client.reply(number, 0, user_data, await run(client, *args))
    except CallError as error:
        await client.reply(number, wire.F_ERROR, user_data, error.reason().to_wire())
    except (BrokenPipeError, ConnectionResetError, wire.WireError):
        raise
    except Exception as error:
        client.kernel.fault(f"control {operation.name if operation else number}", error)
        client.kernel.flush()
        failed = CallError(errno.EIO, "the kernel failed; it was recorded", remedy="see `agentctl trace --kind error`")
        await client.reply(number, wire.F_ERROR, user_data, failed.reason().to_wire())
