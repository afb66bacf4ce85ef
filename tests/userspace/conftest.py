"""A small kernel in threads that speaks the wire, for tests of clients alone."""

import contextlib
import errno
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from agentix.agentctl import cli
from agentix.libc import abi, connection, signals
from agentix_syscalls import control, wire
from agentix_syscalls.errors import CallError


def unforeseen(*_args: Any) -> None:
    raise CallError(errno.ENOSYS, "the test said nothing of this operation")


class FakeKernel:
    """Answers each operation with what its function returns; a generator is a stream; CallError is an error reply."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.operations: dict[int, Callable[..., Any]] = {}
        self.seen: list[tuple[int, tuple[Any, ...]]] = []
        self.descriptors: list[int] = []
        self.accepted = 0
        self.closed: queue.Queue[int] = queue.Queue()
        """One item for each connection that the client has closed."""
        self.failed: list[BaseException] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def on(self, number: int, answer: Any) -> None:
        self.operations[number] = answer if callable(answer) else lambda *_args: answer

    def calls(self, number: int) -> list[tuple[Any, ...]]:
        return [args for seen, args in self.seen if seen == number]

    def close(self) -> None:
        self._shut(self._listener)
        self._join(self._threads[0])  # it makes no more connections from here on
        for made in self._connections:
            self._shut(made)
        for thread in self._threads[1:]:
            self._join(thread)
        for fd in self.descriptors:
            os.close(fd)
        for error in self.failed:
            raise error

    def _shut(self, made: socket.socket) -> None:
        with contextlib.suppress(OSError):
            made.shutdown(socket.SHUT_RDWR)
        made.close()

    def _join(self, thread: threading.Thread) -> None:
        thread.join(10)
        assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._connections.append(made)
            thread = threading.Thread(target=self._serve, args=(made, self.accepted))
            self._threads.append(thread)
            thread.start()

    def _serve(self, made: socket.socket, number: int) -> None:
        reader = wire.Reader(wire.CONTROL_BODY_MAX_BYTES)
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(made, 65536, 64)
                self.descriptors += fds
                if not data:
                    return
                reader.feed(data)
                while (frame := reader.next()) is not None:
                    self._answer(made, frame)
        except OSError:
            return
        except BaseException as error:  # ours to raise at the end; the client must not wait for its answer for ever
            self.failed.append(error)
            self._shut(made)
        finally:
            self.closed.put(number)

    def _answer(self, made: socket.socket, frame: tuple[int, int, int, bytes]) -> None:
        operation, _, user_data, body = frame
        args = wire.decode(body)
        self.seen.append((operation, args))
        flags = wire.F_REPLY
        try:
            result = self.operations.get(operation, unforeseen)(*args)
            if isinstance(result, GeneratorType):
                for item in result:
                    made.sendall(wire.frame(operation, flags | wire.F_MORE, user_data, wire.pack(item)))
                result = None
        except CallError as error:
            flags |= wire.F_ERROR
            result = error.reason(7).to_wire()
        made.sendall(wire.frame(operation, flags, user_data, wire.pack(result)))


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeKernel]:
    made = FakeKernel(tmp_path / "kernel.sock")
    yield made
    made.close()


@pytest.fixture
def kernel(fake: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """A fake kernel that libc, in this process, is an agent of."""
    monkeypatch.setenv("AGENTIX_SOCKET", fake.path)
    fake.on(abi.SYS_HELLO, [1, 0, 5, 1, "tester"])
    yield fake
    signal.signal(abi.DOORBELL, signal.SIG_IGN)
    connection._forget()
    signals._handlers.clear()


class Operator:
    """A fake kernel's control socket, and agentctl run against it in this process."""

    def __init__(self, fake: FakeKernel) -> None:
        self.fake = fake
        self.on("hello", {"version": "0", "pid": 1, "prefix": "", "mount": "", "state": "", "boot": "", "root": True})

    def on(self, name: str, answer: Any) -> None:
        self.fake.on(control.BY_NAME[name].number, answer)

    def calls(self, name: str) -> list[tuple[Any, ...]]:
        return self.fake.calls(control.BY_NAME[name].number)

    ENDED: ClassVar = {"id": 7, "name": "scout", "state": "dead", "code": 0, "signal": None, "why": "exit",
                       "detail": "", "status": 0, "next": ""}

    def agent_that(self, *frames: tuple[int, bytes], **ended: Any) -> None:
        """The next agent spawned writes `frames` and then ends so."""
        self.on("spawn", {"id": 7, "life": 1, "name": "scout", "uid": 70007})
        self.on("logs", lambda *_args: ([*frame, 0] for frame in frames))
        self.on("wait", {**self.ENDED, **ended})
        self.on("signal", [7])
        self.on("rm", 7)

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(cli, list(args))


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("AGENTIX_PREFIX", str(tmp_path))
    made = FakeKernel(tmp_path / "run/control.sock")
    yield Operator(made)
    made.close()


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "agent.py"
    path.write_text("print('hello')")
    return str(path)
