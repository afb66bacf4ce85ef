"""The connection of a trio run to its kernel, and the calls that are under way on it, each of a task that waits.

A frame's user data says whose answer it is. A system task receives and wakes; another sends what the socket would not
take at once, so that large writes of many tasks and their answers never wait for each other. Cancelling a task that
waits sends CANCEL and lets it wait on for the answer that the kernel then owes, as trio.lowlevel describes for
operations that end asynchronously: ECANCELED becomes Cancelled, anything else was done and is returned.

Nothing here awaits between the taking of a serial number and the queueing of its frame, and all of it runs in the
run's thread: frames leave in the order of their numbers, and an answer always finds its task.
"""

import errno
import functools
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import trio
from attrs import define, field

from agentix.libc.abi import SYS_CANCEL, SYS_HELLO
from agentix.libc.connection import CLOSED, framed, reach, result
from agentix.libc.failure import failed
from agentix_syscalls import wire

if TYPE_CHECKING:
    from agentix.libc.request import Call

P = ParamSpec("P")
T = TypeVar("T")

_RECEIVE_BYTES: Final = 65536
_ANSWER_MAX_BYTES: Final = 2 * wire.BODY_MAX_BYTES
"""The cap is on requests: what READ gives at most is a frame somewhat longer."""
_HELLO_SERIAL: Final = 0


@define(eq=False)
class _Waiting:
    """A call under way: whose it is, and what has become of it when its task is woken."""

    task: trio.lowlevel.Task
    raise_cancel: "trio.lowlevel.RaiseCancelT | None" = None
    """Set once the task was cancelled; the kernel has been told."""
    flags: int = wire.F_ERROR
    body: Any = None

    def wake(self, flags: int, body: Any) -> None:
        self.flags, self.body = flags, body
        trio.lowlevel.reschedule(self.task)

    def result(self) -> Any:
        """Raises Cancelled when the call was given up, Error when it failed."""
        if self.raise_cancel is not None and self.flags & wire.F_ERROR and self.body[0] == errno.ECANCELED:
            self.raise_cancel()
        return result(self.flags, self.body)


@define(eq=False)
class _Connection:
    """One stream to the kernel, for all tasks of one run."""

    socket: socket.socket
    serial: int = _HELLO_SERIAL
    waiting: dict[int, _Waiting] = field(factory=dict[int, _Waiting])
    cancels: dict[int, int] = field(factory=dict[int, int])
    """By the serial of a CANCEL: that of the call it is about."""
    unsent: bytearray = field(factory=bytearray)
    congested: trio.Event = field(factory=trio.Event)

    @trio.lowlevel.enable_ki_protection
    async def call(self, number: int, args: tuple[Any, ...]) -> Any:
        """Ask, and wait for the answer. Raises what libc's does, and Cancelled."""
        frame = framed(number, self.serial + 1, args)
        self.serial += 1
        serial = self.serial
        call = self.waiting[serial] = _Waiting(trio.lowlevel.current_task())
        self.send(frame)

        def cancel(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            call.raise_cancel = raise_cancel
            self._cancel(serial)
            return trio.lowlevel.Abort.FAILED  # not yet: the kernel's answer decides
        await trio.lowlevel.wait_task_rescheduled(cancel)
        return call.result()

    def _cancel(self, serial: int) -> None:
        self.serial += 1
        self.cancels[self.serial] = serial
        self.send(wire.request(SYS_CANCEL, self.serial, (serial,)))

    def send(self, frame: bytes) -> None:
        """Send now what the socket takes, the rest when it takes more. A socket that is closed is the receiver's to
        notice.
        """
        self.unsent += frame
        if not self.congested.is_set():
            self._send_more()
        if self.unsent:
            self.congested.set()

    def _send_more(self) -> None:
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self.unsent)
        del self.unsent[:sent]

    async def transmit(self) -> None:
        while True:
            await self.congested.wait()
            while self.unsent:
                await trio.lowlevel.wait_writable(self.socket)
                self._send_more()
            self.congested = trio.Event()

    async def receive(self) -> Any:
        """Give answers to their tasks until the connection ends; why it did, as the body of an error."""
        reader = wire.Reader(_ANSWER_MAX_BYTES)
        try:
            while True:
                await trio.lowlevel.wait_readable(self.socket)
                try:
                    data = self.socket.recv(_RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                if not data:
                    return failed(errno.ECONNRESET, CLOSED).wire
                reader.feed(data)
                while (frame := reader.next()) is not None:
                    _, flags, serial, raw = frame
                    if serial == _HELLO_SERIAL and flags & wire.F_ERROR:
                        return wire.decode(raw)
                    self._answered(serial, flags, wire.decode(raw))
        except OSError:
            return failed(errno.ECONNRESET, CLOSED).wire
        except wire.WireError as error:
            return failed(errno.EPROTO, f"the kernel's answer is none: {error}").wire

    def _answered(self, serial: int, flags: int, body: Any) -> None:
        target = self.cancels.pop(serial, None)
        if target is not None:
            # After nil or ESRCH the call's own answer comes for certain. A kernel that refuses to cancel leaves the
            # call where it is: its task goes, and a late answer finds nobody.
            if flags & wire.F_ERROR and body[0] != errno.ESRCH and target in self.waiting:
                self.waiting.pop(target).wake(wire.F_ERROR, failed(errno.ECANCELED, "given up").wire)
        elif serial in self.waiting:
            self.waiting.pop(serial).wake(flags, body)

    async def run(self) -> None:
        """The system task."""
        why = failed(errno.ECANCELED, "the trio run has ended").wire
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.transmit)
                why = await self.receive()
                nursery.cancel_scope.cancel()
        finally:
            _current.set(None)
            self.socket.close()
            for call in self.waiting.values():
                cancelled = call.raise_cancel is not None
                call.wake(wire.F_ERROR, failed(errno.ECANCELED, CLOSED).wire if cancelled else why)


_current: Final[trio.lowlevel.RunVar[_Connection | None]] = trio.lowlevel.RunVar("agentix.aio connection", None)


def _connection() -> _Connection:
    """This run's connection, opened by its first call, and anew by the first after its end. Raises Error."""
    found = _current.get()
    if found is None:
        found = _Connection(reach())
        found.socket.setblocking(False)
        found.send(wire.request(SYS_HELLO, _HELLO_SERIAL, (wire.PROTOCOL, 0)))
        trio.lowlevel.spawn_system_task(found.run, name="agentix.aio")
        _current.set(found)
    return found


async def syscall(number: int, *args: Any) -> Any:
    """Make a system call by number (SYS_*) with positional arguments; the result as the table of calls says.

    Raises Error (a subclass of OSError) when the kernel answers with an error, TypeError for an argument that has no
    form on the wire.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    return await _connection().call(number, args)


def awaitable(call: "Call[P, T]") -> Callable[P, Coroutine[Any, Any, T]]:
    """The function of libc, to be awaited."""
    ask = call.__wrapped__

    @functools.wraps(ask)
    async def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        request = ask(*args, **kwargs)
        return request.read(await syscall(request.number, *request.args))
    return asked


__all__ = ["syscall"]
