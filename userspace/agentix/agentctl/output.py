"""What agents wrote, on its way to a terminal or a pipe: as it came, or line by line with marks before each."""

import heapq
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, NamedTuple

from agentix.agentctl import format as show
from agentix.agentctl.cli import FAILED, Which, complain, explain
from agentix_syscalls.errors import CallError

LOST, STDOUT, STDERR = range(3)
LINE_MAX_BYTES: Final = 65536
"""What is longer becomes several lines: an agent decides neither what we hold nor what else is shown."""
LABEL_MAX: Final = 20
_AHEAD: Final = 256
_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_red")


class Marks(NamedTuple):
    """What stands before each line."""

    label: str = ""
    timestamps: bool = False
    streams: bool = False


class Writer:
    """Puts the output of one agent out. Lines are whole when they have marks; without marks bytes pass as they come."""

    def __init__(self, name: str, marks: Marks) -> None:
        self._name = name
        self._marks = marks
        self._begun: dict[int, tuple[int, bytes]] = {}
        """By stream: the line that has no end yet, and when it began."""

    def feed(self, stream: int, data: bytes, wall_ns: int) -> None:
        """Stream, bytes and time as the kernel sends them."""
        if stream == LOST:
            self.finish()
            complain(f"{self._name}: {show.printable(data.decode('utf-8', 'replace'))}")
        elif any(self._marks):
            self._feed_lines(stream, data, wall_ns)
        else:
            _put(stream, data)

    def finish(self) -> None:
        """No more comes: show what has no end."""
        for stream, (began_ns, line) in self._begun.items():
            _put(stream, self._before(stream, began_ns) + line + b"\n")
        self._begun.clear()

    def _feed_lines(self, stream: int, data: bytes, wall_ns: int) -> None:
        began_ns, rest = self._begun.pop(stream, (wall_ns, b""))
        *lines, rest = (rest + data).split(b"\n")
        whole: list[bytes] = []
        for line in lines:
            whole += [self._before(stream, began_ns), line, b"\n"]
            began_ns = wall_ns
        while len(rest) > LINE_MAX_BYTES:
            whole += [self._before(stream, began_ns), rest[:LINE_MAX_BYTES], b"\n"]
            rest = rest[LINE_MAX_BYTES:]
        if whole:
            _put(stream, b"".join(whole))
        if rest:
            self._begun[stream] = began_ns, rest

    def _before(self, stream: int, wall_ns: int) -> bytes:
        words = [self._marks.label] if self._marks.label else []
        if self._marks.timestamps:
            seconds, rest = divmod(wall_ns, 10**9)
            words.append(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06}Z")
        if self._marks.streams:
            words.append("out" if stream == STDOUT else "err")
        return " ".join([*words, ""]).encode("utf-8", "replace")


def _put(stream: int, data: bytes) -> None:
    file = sys.stdout.buffer if stream == STDOUT else sys.stderr.buffer
    file.write(data)
    file.flush()


class Asked(NamedTuple):
    """What is wanted of each log, as the operation takes it after the agent."""

    follow: bool = False
    tail_lines: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None


def copy(which: Which, agents: Sequence[int | str], asked: Asked, marks: Marks) -> int:
    """Show the logs of agents: of several each line with its agent before it, in the order of time. The exit status."""
    names = [show.cut(show.printable(agent), LABEL_MAX) for agent in agents]
    width = max(map(len, names))
    labels = [show.colour(f"{name:{width}} |", fg=_COLOURS[at % len(_COLOURS)]) for at, name in enumerate(names)]
    writers = [Writer(name, marks._replace(label=label) if len(names) > 1 else marks)
               for name, label in zip(names, labels, strict=True)]
    status = 0
    with ExitStack() as closing:
        logs = [closing.enter_context(which.connect()).stream("logs", agent, *asked) for agent in agents]
        for number, item in _as_they_come(logs) if asked.follow and len(logs) > 1 else _in_order(logs):
            if isinstance(item, CallError):
                complain(explain(item))
                status = FAILED
            elif item is None:
                writers[number].finish()
            else:
                writers[number].feed(*item)
    return status


Item = tuple[int, Any]
"""The number of a log, and what came from it: [stream, bytes, wall_ns], None at its end, a CallError instead of it."""


def _items(number: int, log: Iterator[Any]) -> Iterator[Item]:
    try:
        yield from ((number, item) for item in log)
    except CallError as error:
        yield number, error
    yield number, None


def _in_order(logs: list[Iterator[Any]]) -> Iterator[Item]:
    """All of what there is, by time."""
    latest = [0] * len(logs)

    def at(item: Item) -> int:
        number, what = item
        latest[number] = latest[number] if what is None or isinstance(what, CallError) else what[2]
        return latest[number]
    return heapq.merge(*(_items(number, log) for number, log in enumerate(logs)), key=at)


def _as_they_come(logs: list[Iterator[Any]]) -> Iterator[Item]:
    """All of what comes: a thread waits for each. What ends them before that ends this process."""
    came: queue.Queue[Item] = queue.Queue(_AHEAD)

    def wait_for(number: int, log: Iterator[Any]) -> None:
        with suppress(OSError):  # the connection was closed here: nobody wants more
            for item in _items(number, log):
                came.put(item)
    # A Ctrl-C that went to one of the threads would not wake this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for number, log in enumerate(logs):
        threading.Thread(target=wait_for, args=(number, log), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    left = len(logs)
    while left:
        number, item = came.get()
        left -= item is None
        yield number, item
