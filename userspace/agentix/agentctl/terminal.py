"""A person's terminal: raw while an agent has it and sane again whatever happens; what is typed goes to the agent."""

import contextlib
import errno
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Generator
from types import FrameType
from typing import Final

from agentix.agentctl.cli import AGENTIX_FAILED, Failure, Which
from agentix.control import Client, NoKernelError
from agentix_syscalls.errors import CallError

DETACH: Final = b"\x10\x11"
"""Ctrl-P Ctrl-Q, as people know it from docker."""
_PIECE_BYTES: Final = 32768
_PATIENCE_S: Final = 0.2
"""How long an agent that does not read keeps us from looking at the keyboard."""


def size() -> tuple[int, int]:
    """Rows and columns of the terminal here, or what terminals once had."""
    for stream in (sys.stdout, sys.stdin, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            columns, rows = os.get_terminal_size(stream.fileno())
            if rows and columns:
                return rows, columns
    return 24, 80


def is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison] - closed


def want_terminal() -> None:
    """Raises Failure when stdin is none."""
    if not is_terminal():
        raise Failure("stdin is not a terminal", AGENTIX_FAILED, "leave out -t, and keep -i to feed it from a pipe")


@contextlib.contextmanager
def raw() -> Generator[None, None, None]:
    """Every key goes through as it is; at the end all is as it was. SIGTERM and SIGHUP end it, too."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    old = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal itself is gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in old.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def following_size(tell: Callable[[int, int], None]) -> Generator[None, None, None]:
    """Tell it now and whenever it changes."""
    def changed(_number: int, _frame: FrameType | None) -> None:
        tell(*size())

    old = signal.signal(signal.SIGWINCH, changed)
    try:
        tell(*size())
        yield
    finally:
        signal.signal(signal.SIGWINCH, old)


def resizer(which: Which, agent: int) -> Callable[[int, int], None]:
    """Tells the kernel the size of an agent's terminal. What fails is no reason to end: perhaps the agent has."""
    def tell(rows: int, columns: int) -> None:
        with contextlib.suppress(CallError, NoKernelError), which.connect() as client:
            client.call("resize", agent, rows, columns)
    return tell


class Typing(threading.Thread):
    """Feeds an agent from stdin, over a connection of its own, until the end of stdin, of the agent, or DETACH.

    `output`: the connection that shows the agent's output; shut when the person detaches, or may not type.
    """

    def __init__(self, which: Which, agent: int, output: Client, *, terminal: bool) -> None:
        super().__init__(daemon=True)  # it may be waiting for a key when all is over
        self._which = which
        self._agent = agent
        self._output = output
        self._terminal = terminal
        self._held = b""
        """The begin of DETACH, perhaps."""
        self.detached = False
        self.refused: CallError | None = None

    def run(self) -> None:
        try:
            with self._which.connect() as client:
                self._feed(client)
        except NoKernelError:
            return  # the main flow says it
        except CallError as error:
            if error.number not in {errno.EPIPE, errno.ESRCH, errno.ECONNRESET}:  # it reads no more, or all is over
                self.refused = error
                self._output.shut()

    def _feed(self, client: Client) -> None:
        fd = sys.stdin.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        waiting, ended = b"", False
        while waiting or not ended:
            if not ended and len(waiting) < _PIECE_BYTES and poll.poll(0 if waiting else None):
                read = os.read(fd, _PIECE_BYTES)
                ended = not read
                waiting += self._filter(read)
            if waiting:
                waiting = waiting[client.call("feed", self._agent, waiting[:_PIECE_BYTES], False, _PATIENCE_S):]
            if self.detached:
                self._output.shut()
                return
        client.call("feed", self._agent, b"", True, 1.0)

    def _filter(self, data: bytes) -> bytes:
        """What of it is for the agent."""
        if not self._terminal:
            return data
        data = self._held + data
        self._held = b""
        before, found, _ = data.partition(DETACH)
        if found:
            self.detached = True
        elif data.endswith(DETACH[:1]):
            self._held = DETACH[:1]
            before = data[:-1]
        return before
