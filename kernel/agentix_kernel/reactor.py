"""The kernel's doors to agents: their system-call sockets and their output, all in one epoll of one task.

One nested epoll descriptor serves every agent, so that trio wakes once a tick and not once an agent (0.85 us a
connection against 6). `tick` is synchronous and complete: the task form calls it, and a host loop can as well.
"""

import errno
import os
import select
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from attrs import define, field

from agentix_kernel import identity
from agentix_kernel.dispatch import Session, fault, serve
from agentix_kernel.kernel import Given, Kernel
from agentix_kernel.process import Process
from agentix_kernel.stdin import Stdin
from agentix_syscalls import records, wire

RECV_BYTES: Final = 65536
"""At most 128 KiB, or CPython's buffer goes through mmap at every call."""
FRAMES_A_TICK: Final = 64
"""Frames of one connection served before others get their turn."""
SLICE_NS: Final = 5_000_000
"""Time of one agent in a tick, over all its connections; the call that oversteps it is its last in this tick."""
UNSENT_MAX_BYTES: Final = 1 << 20
"""Replies that a connection may leave unread; beyond, its requests are neither read nor served."""
OUTPUT_A_TICK_BYTES: Final = 65536
PEERCRED: Final = struct.Struct("3i")
EVENTS_A_TICK: Final = 256
TERMINAL: Final = 0
STDOUT: Final = 1
"""Streams of output. What comes out of a terminal is kept as stdout."""


@define(eq=False, repr=False)
class Connection:
    """The socket of one session: cuts bytes into frames, keeps what cannot be sent at once."""

    reactor: "Reactor"
    door: "Door"
    sock: socket.socket
    fd: int
    session: Session = field(init=False)
    unread: bytearray = field(factory=bytearray)
    unsent: bytearray = field(factory=bytearray)
    mask: int = select.EPOLLIN

    def ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._send_more()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._receive()

    def _receive(self) -> None:
        process = self.session.process
        if process.held or self.reactor.spent.get(process.id, 0) > SLICE_NS:
            return  # stopped since this tick's events were read, or it had its time: it stays in the socket
        try:
            data = self.sock.recv(RECV_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if not self.unread and len(data) >= wire.HEADER_BYTES:
            length, operation, flags, user_data = wire.HEADER.unpack_from(data, 0)
            if len(data) == wire.HEADER_BYTES + length:  # the usual case: exactly one frame, no buffering
                self._serve(operation, flags, user_data, data[wire.HEADER_BYTES:])
                return
        self.unread += data
        self.serve_buffered()

    def _serve(self, operation: int, flags: int, user_data: int, body: bytes) -> None:
        reactor, agent = self.reactor, self.session.process.id
        begun = reactor.now()
        serve(self.session, operation, flags, user_data, body)
        reactor.spent[agent] = reactor.spent.get(agent, 0) + reactor.now() - begun

    def serve_buffered(self) -> None:
        """Serve whole frames that are here, some at a time; the rest comes in the next tick."""
        unread = self.unread
        start, served = 0, 0
        while not self.session.closed and not self.session.process.held and len(unread) - start >= wire.HEADER_BYTES:
            length, operation, flags, user_data = wire.HEADER.unpack_from(unread, start)
            if length > wire.BODY_MAX_BYTES:
                fault(self.session, operation, user_data, errno.EMSGSIZE,
                      f"a body of {length} bytes is over the cap of {wire.BODY_MAX_BYTES}")
                return
            end = start + wire.HEADER_BYTES + length
            if len(unread) < end:
                break
            if len(self.unsent) > UNSENT_MAX_BYTES:
                break  # goes on when the agent has read
            if (served == FRAMES_A_TICK or self.session.owed > UNSENT_MAX_BYTES
                    or self.reactor.spent.get(self.session.process.id, 0) > SLICE_NS):
                self.reactor.backlog.add(self)
                break
            body = bytes(unread[start + wire.HEADER_BYTES:end])
            start, served = end, served + 1
            self._serve(operation, flags, user_data, body)
        del unread[:start]

    def send(self, data: bytes) -> None:
        """Send now, or keep and send when the agent reads. Never waits for an agent."""
        if self.unsent:
            self.unsent += data
        else:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:  # its end is closed; the next read says so and ends the session
                return
            if sent == len(data):
                return
            self.unsent += data[sent:]
        self._want()

    def _send_more(self) -> None:
        try:
            sent = self.sock.send(self.unsent)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self.unsent[:sent]
        self._want()
        if self.unread and len(self.unsent) <= UNSENT_MAX_BYTES:
            self.reactor.backlog.add(self)

    def _want(self) -> None:
        """Read only while the agent reads its replies and is not stopped; write only while there is something."""
        held = self.session.process.held
        mask = 0 if held or len(self.unsent) > UNSENT_MAX_BYTES else select.EPOLLIN
        if self.unsent and not held:
            mask |= select.EPOLLOUT
        if mask != self.mask and not self.session.closed:
            self.mask = mask
            self.reactor.epoll.modify(self.fd, mask)

    def hold(self) -> None:
        self._want()

    def resume(self) -> None:
        self.session.resume()
        self._want()
        if self.unread:
            self.reactor.backlog.add(self)

    def close(self) -> None:
        if not self.session.closed:
            self.session.close()
            self.door.connections.discard(self)
            self.reactor.backlog.discard(self)
            self.reactor.unwatch(self.fd)
            self.sock.close()


@define(eq=False, repr=False)
class Door:
    """What one agent's life has here."""

    folder: str
    listener: socket.socket
    readers: dict[int, int]
    """Where its output comes from: stream 1, 2 or TERMINAL."""
    theirs: tuple[int, ...]
    """Descriptors for the sandbox, until it has them."""
    connections: set[Connection] = field(factory=set[Connection])


@define(eq=False, repr=False)
class Reactor:
    """All agents' sockets and pipes. Implements kernel.Doors."""

    kernel: Kernel
    epoll: select.epoll = field(factory=select.epoll)
    callbacks: dict[int, Callable[[int], None]] = field(factory=dict[int, Callable[[int], None]])
    backlog: set[Connection] = field(factory=set[Connection])
    doors: dict[str, Door] = field(factory=dict[str, Door])
    spent: dict[int, int] = field(factory=dict[int, int])
    """Nanoseconds of this tick by agent."""
    now: Callable[[], int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.now = self.kernel.world.clock.monotonic_ns

    async def run(self) -> None:
        """The task form: one trio wake a tick. An error in a tick is the kernel's fault and never ends the loop."""
        fd = self.epoll.fileno()
        self.watch(self.kernel.journal.commit_fd, select.EPOLLIN, self._committed)
        while True:
            if self.backlog:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(fd)
            self.tick(self.epoll.poll(0, EVENTS_A_TICK))

    def tick(self, events: list[tuple[int, int]]) -> None:
        callbacks = self.callbacks
        self.spent.clear()
        for fd, event in events:
            callback = callbacks.get(fd)
            if callback is None:
                continue  # closed by an event before it in this tick
            try:
                callback(event)
            except Exception as error:
                self.kernel.fault("reactor", error)
        if self.backlog:
            waiting, self.backlog = self.backlog, set()
            for connection in waiting:
                if not connection.session.closed:
                    connection.serve_buffered()
        self.kernel.flush()

    def watch(self, fd: int, mask: int, callback: Callable[[int], None]) -> None:
        self.callbacks[fd] = callback
        self.epoll.register(fd, mask)

    def unwatch(self, fd: int) -> None:
        del self.callbacks[fd]
        self.epoll.unregister(fd)

    def _committed(self, events: int) -> None:
        del events
        self.kernel.journal.on_commit()
        self.kernel.committed()

    # --- doors ---------------------------------------------------------------------------------------------------

    def open(self, process: Process) -> Given:
        folder = f"{self.kernel.config.sockets_dir}/{process.tag}"
        os.mkdir(folder, 0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        path = f"{folder}/kernel.sock"
        listener.bind(path)
        os.chmod(path, 0o666)  # who may connect is decided by who can see it, and by SO_PEERCRED below
        listener.listen(64)
        pipes = {stream: os.pipe2(os.O_CLOEXEC) for stream in (1, 2)}
        for reader, _ in pipes.values():
            os.set_blocking(reader, False)
        door = Door(folder, listener, {stream: reader for stream, (reader, _) in pipes.items()},
                    tuple(writer for _, writer in pipes.values()))
        self.doors[process.tag] = door
        self.watch(listener.fileno(), select.EPOLLIN, lambda _: self._accept(process, door))
        for stream, reader in door.readers.items():
            self.watch(reader, select.EPOLLIN, partial(self._output_ready, process, door, stream))
        stdin = -1
        if process.command.stdin and process.command.terminal is None:
            stdin, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(writer, False)
            process.stdin = Stdin(writer, terminal=False)
            door.theirs += (stdin,)
        return Given(folder, stdin, pipes[1][1], pipes[2][1])

    def given(self, process: Process) -> None:
        door = self.doors[process.tag]
        for fd in door.theirs:
            os.close(fd)
        door.theirs = ()
        if process.sandbox is not None and process.sandbox.terminal >= 0:
            self._open_terminal(process, door, os.dup(process.sandbox.terminal))

    def _open_terminal(self, process: Process, door: Door, master: int) -> None:
        os.set_blocking(master, False)
        door.readers[TERMINAL] = master
        self.watch(master, select.EPOLLIN, partial(self._output_ready, process, door, TERMINAL))
        process.stdin = Stdin(os.dup(master), terminal=True)

    def hold(self, process: Process) -> None:
        for connection in list(self.doors[process.tag].connections):
            connection.hold()

    def resume(self, process: Process) -> None:
        for connection in list(self.doors[process.tag].connections):
            connection.resume()

    def close(self, process: Process) -> None:
        door = self.doors.pop(process.tag, None)
        if door is None:
            return
        for connection in list(door.connections):
            connection.close()
        self.unwatch(door.listener.fileno())
        door.listener.close()
        for stream in list(door.readers):
            while self._output(process, door, stream):
                pass
            reader = door.readers.pop(stream, None)
            if reader is not None:
                self.unwatch(reader)
                os.close(reader)
        if process.stdin is not None:
            process.stdin.close()
        shutil.rmtree(door.folder, ignore_errors=True)

    def _accept(self, process: Process, door: Door) -> None:
        try:
            sock, _ = door.listener.accept()
        except OSError:
            return
        pid, uid, _ = PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size))
        kernel = self.kernel
        if uid != process.uid:
            identity.mistaken(kernel, process, uid, pid)
            sock.close()
            return
        if len(door.connections) >= kernel.config.connections_max or process.doom is not None:
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(self, door, sock, sock.fileno())
        connection.session = Session(kernel, process, connection.send, connection.close)
        process.sessions.add(connection.session)
        door.connections.add(connection)
        self.watch(connection.fd, select.EPOLLIN, connection.ready)
        if process.held:
            connection.hold()

    def _output_ready(self, process: Process, door: Door, stream: int, events: int) -> None:
        del events
        self._output(process, door, stream)

    def _output(self, process: Process, door: Door, stream: int) -> bool:
        """Take some output of an agent. False at the end, or when nothing is there."""
        reader = door.readers.get(stream)
        if reader is None:
            return False
        try:
            data = os.read(reader, OUTPUT_A_TICK_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has its terminal any more
            data = b""
        if not data:
            del door.readers[stream]
            self.unwatch(reader)
            os.close(reader)
            return False
        if process.log is not None:
            full = process.log.append(stream or STDOUT, data, self.kernel.world.clock.wall_ns())
            if full:
                self.kernel.record(records.LIMIT, process, verdict=records.FAILED,
                                   data=("log", "the disk is full: output of it is lost, and it runs on"))
        return True


def clear_sockets(folder: str) -> int:
    """Remove what a dead kernel left in the folder of agents' sockets; returns how many agents had some."""
    os.makedirs(folder, 0o700, exist_ok=True)
    left = [entry for entry in os.scandir(folder) if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode)]
    for entry in left:
        shutil.rmtree(entry.path)
    return len(left)
