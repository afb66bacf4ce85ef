"""top: agents as they live, again and again; or once, for a program.

Plain escape sequences instead of curses: so few are needed that every terminal has them, and what goes out is ours to
say, also when the terminal goes away in the middle.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, Final, NamedTuple

import click
from attrs import define, frozen

from agentix.agentctl import format as show
from agentix.agentctl.cli import Which, json_option, verb
from agentix.agentctl.listing import command_line
from agentix.control import Client

Row = dict[str, Any]
DELAY_S: Final = 2.0
DELAY_ONCE_S: Final = 0.5
DELAY_MIN_S: Final = 0.1
"""Below that the watching would be most of what is watched."""
UNCUT: Final = 100_000
"""Columns of what is no terminal."""


@frozen
class Column:
    """One column. `key` sorts by it, largest first; text and ids from the beginning."""

    name: str
    title: str
    value: Callable[[Row], Any]
    show: Callable[[Any], object] = str
    key: str = ""
    ascending: bool = False
    number: bool = True


COLUMNS: Final = (
    Column("id", "ID", lambda row: row["id"], key="i", ascending=True),
    Column("name", "NAME", lambda row: row["name"], key="n", ascending=True, number=False),
    Column("state", "STATE", lambda row: row["state"], number=False),
    Column("cpu", "CPU%", lambda row: row["cpu_percent"], lambda value: f"{value:.1f}", key="c"),
    Column("memory", "MEM", lambda row: row["memory_bytes"], show.size, key="m"),
    Column("pids", "PIDS", lambda row: row["processes"], key="p"),
    Column("calls", "CALLS/S", lambda row: row["calls_per_s"], lambda value: f"{value:.1f}", key="r"),
    Column("denials", "DENIALS", lambda row: row["denials"], key="d"),
    Column("time", "TIME", lambda row: row["cpu_us"], lambda value: show.duration(value / 1e6), key="t"),
    Column("command", "COMMAND", command_line, number=False),
)
SORTS: Final = {column.name: column for column in COLUMNS if column.key}
KEYS: Final = {column.key: column for column in SORTS.values()}
HELP: Final = "q quits, space looks again; sort by " + ", ".join(f"{key} {column.name}" for key, column in KEYS.items())


class Sample(NamedTuple):
    """What there was at a moment of the monotonic clock."""

    at_s: float
    rows: list[Row]
    kernel: Row


def take(client: Client) -> Sample:
    return Sample(time.monotonic(), client.call("ps", False), client.call("info"))


@frozen
class Picture:
    """What happened between two samples: the later one's rows and kernel, with rates."""

    rows: list[Row]
    kernel: Row

    def lines(self, sort: Column, rows: int, columns: int) -> list[str]:
        """The whole screen, at most so many lines of so many columns."""
        room = max(rows - 5, 0)
        shown = sorted(self.rows, key=lambda row: row["id"])
        shown.sort(key=sort.value, reverse=not sort.ascending)
        cells = [[column.show(column.value(row)) for column in COLUMNS] for row in shown[:room]]
        titles = [f"{column.title}*" if column is sort else column.title for column in COLUMNS]
        right = [title for title, column in zip(titles, COLUMNS, strict=True) if column.number]
        titled, *listed = show.lay_out(titles, cells, right, columns)
        below = f"... and {len(shown) - room} more; {HELP}" if len(shown) > room else HELP
        lines = [*(show.cut(line, columns) for line in self.header()), show.colour(f"{titled:{columns}}", reverse=True),
                 *listed]
        return [*lines[:rows - 1], show.cut(below, columns)]

    def header(self) -> list[str]:
        kernel = self.kernel
        counts = Counter(row["state"] for row in self.rows)
        states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
        return [
            f"agentix {kernel['version']}, up {show.duration(kernel['uptime_s'])}; "
            f"{len(self.rows)} agent{'s' * (len(self.rows) != 1)}"
            + (f": {states}" if states else ""),
            (f"agentd: {kernel['cpu_percent']:.1f}% CPU, {show.size(kernel['memory_bytes'])}, "
             f"{kernel['calls_per_s']:.1f} calls/s; agents: {sum(row['cpu_percent'] for row in self.rows):.1f}% CPU, "
             f"{show.size(sum(row['memory_bytes'] for row in self.rows))}, "
             f"{sum(row['denials'] for row in self.rows)} denials"),
            ""]


def compare(before: Sample, now: Sample) -> Picture:
    """Rates of what is in both; an agent's life that has just begun has none yet."""
    seconds = max(now.at_s - before.at_s, 1e-3)
    old = {(row["id"], row["life"]): row for row in before.rows}
    rows: list[Row] = []
    for row in now.rows:
        was = old.get((row["id"], row["life"]), row)
        rows.append({**row, "cpu_percent": round((row["cpu_us"] - was["cpu_us"]) / seconds / 1e4, 1),
                     "calls_per_s": round((row["calls"] - was["calls"]) / seconds, 1)})
    used_us = now.kernel["cpu_us"] - before.kernel["cpu_us"]
    return Picture(rows, {**now.kernel, "cpu_percent": round(used_us / seconds / 1e4, 1),
                          "calls_per_s": round(sum(row["calls_per_s"] for row in rows), 1)})


@define
class Screen:
    """The other screen of a terminal, keys as they are pressed. Left whatever happens, and for Ctrl-Z meanwhile."""

    fd: int
    before: list[Any]
    wake: socket.socket

    def enter(self) -> None:
        import tty

        tty.setcbreak(self.fd)
        self._say("\x1b[?1049h\x1b[?25l")

    def leave(self) -> None:
        import termios

        with contextlib.suppress(OSError):  # the terminal itself may be gone
            self._say("\x1b[?25h\x1b[?1049l")
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self.before)

    def draw(self, lines: list[str]) -> None:
        self._say("\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")

    def pressed(self, seconds: float) -> str:
        """A key; nothing when the time is over, or the screen has to be drawn again. Raises EOFError at its end."""
        ready, _, _ = select.select([self.fd, self.wake.fileno()], [], [], max(seconds, 0))
        if self.wake.fileno() in ready:
            self.wake.recv(4096)
        if self.fd not in ready:
            return ""
        keys = os.read(self.fd, 64)
        if not keys:
            raise EOFError
        return keys[-1:].decode("ascii", "replace")

    def suspend(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the terminal is given back; `fg` goes on after the kill."""
        self.leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self.suspend)
        self.enter()

    def _say(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def full_screen() -> Generator[Screen, None, None]:
    import termios

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def changed(_number: int, _frame: FrameType | None) -> None:
        """Its wake-up is all that is wanted."""

    fd = sys.stdin.fileno()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    screen = Screen(fd, termios.tcgetattr(fd), ours)
    handlers = {signal.SIGTERM: leave, signal.SIGHUP: leave, signal.SIGWINCH: changed, signal.SIGTSTP: screen.suspend}
    with contextlib.ExitStack() as undo:
        undo.enter_context(ours)
        undo.enter_context(theirs)
        undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False))
        undo.callback(screen.leave)
        for number, handler in handlers.items():
            undo.callback(signal.signal, number, signal.signal(number, handler))
        screen.enter()
        yield screen


def watch(client: Client, sort: Column, delay_s: float) -> None:
    """Until q: look, show, wait for a key."""
    from agentix.agentctl.terminal import size

    with full_screen() as screen, contextlib.suppress(EOFError):
        before = take(client)
        picture, due_s = compare(before, before), before.at_s + DELAY_MIN_S  # rates come soon, not after delay_s only
        while True:
            screen.draw(picture.lines(sort, *size()))
            key = screen.pressed(due_s - time.monotonic())
            if key == "q":
                return
            sort = KEYS.get(key, sort)
            if key == " " or time.monotonic() >= due_s:
                now = take(client)
                picture, before, due_s = compare(before, now), now, now.at_s + delay_s


def read_delay(word: str) -> float:
    """Seconds. Raises BadParameter."""
    delay_s = show.read_duration(word)
    if delay_s < DELAY_MIN_S:
        raise click.BadParameter(f"{word!r} is less than {DELAY_MIN_S:g} s.")
    return delay_s


@verb(examples=(
    ("agentctl top", "until q is pressed"),
    ("agentctl top --sort memory -d 5", "the largest first, every five seconds"),
    ("agentctl top -b", "once, as text; so it is in a pipe, too"),
    ("agentctl top --json | jq '.agents[].cpu_percent'", "once, for a program"),
))
@click.option("-b", "--batch", is_flag=True, help="Once, as text.")
@click.option("-d", "--delay", "delay_s", type=read_delay, metavar="TIME",
              help="From one look to the next: 2s, and 0.5s when it looks only once more.")
@click.option("--sort", type=click.Choice(list(SORTS)), default="cpu", metavar="COLUMN", show_default=True,
              help=f"By one of {', '.join(SORTS)}; on the screen also by the keys {', '.join(KEYS)}.")
@json_option
def top(which: Which, *, batch: bool, delay_s: float | None, sort: str, as_json: bool) -> None:
    """Show agents as they live: state, CPU, memory, processes, calls a second, denials; and the kernel's own load."""
    with which.connect() as client:
        if not (batch or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
            watch(client, SORTS[sort], delay_s or DELAY_S)
            return
        before = take(client)
        time.sleep(delay_s or DELAY_ONCE_S)
        picture = compare(before, take(client))
    if as_json:
        show.print_json({"kernel": picture.kernel, "agents": picture.rows})
        return
    width = show.terminal_columns() or UNCUT
    click.echo("\n".join(line.rstrip() for line in picture.lines(SORTS[sort], len(picture.rows) + 5, width)[:-1]))
