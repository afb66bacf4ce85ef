"""An agent in the foreground: its output comes out here, the keyboard's signals go to it."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final, NamedTuple, Self

import click

from agentix.agentctl.cli import Which, complain
from agentix.agentctl.format import printable
from agentix.control import Client, NoKernelError
from agentix_syscalls import signals
from agentix_syscalls.errors import CallError

SECOND_PRESS_S: Final = 2.0
_FORWARDED: Final = {signal.SIGINT: signals.SIGINT, signal.SIGTERM: signals.SIGTERM, signal.SIGHUP: signals.SIGTERM}


class Forwarding:
    """While it is entered, Ctrl-C and the like go to the agent, over a connection of their own.

    Nothing is raised in the main flow, which therefore never loses bytes that it has received. A signal from before
    the agent exists is kept for it; the second one then gives up. Connections that are made meanwhile heed signals that
    come just before they wait, when no EINTR would tell of them (the self-pipe of D. J. Bernstein).
    """

    def __init__(self, which: Which, numbers: Iterable[signal.Signals]) -> None:
        self._which = which
        self._numbers = tuple(numbers)
        self._agent: int | None = None
        self._early: int | None = None
        self._pressed_at = float("-inf")
        self._old: dict[signal.Signals, Any] = {}
        self._pipe = (-1, -1)
        self.interrupted = False

    def __enter__(self) -> Self:
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._which.bell = self._pipe[0]
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._forward) for number in self._numbers}
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._which.bell = None
        for fd in self._pipe:
            os.close(fd)

    def attach(self, agent: int) -> None:
        self._agent = agent
        if self._early is not None:
            self.send(self._early)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        sent = _FORWARDED[signal.Signals(number)]
        if sent == signals.SIGINT:
            self.interrupted = True
            sent = self._press()
        if self._agent is not None:
            self.send(sent)
        elif self._early is None:
            self._early = sent
        else:
            raise KeyboardInterrupt

    def _press(self) -> int:
        now = time.monotonic()
        again = now - self._pressed_at < SECOND_PRESS_S
        self._pressed_at = now
        return signals.SIGKILL if again else signals.SIGINT

    def send(self, number: int) -> None:
        assert self._agent is not None
        try:
            with self._which.connect() as client:
                client.call("signal", self._agent, number, False)
        except CallError as error:
            if error.number != errno.ESRCH:  # it has ended in the meantime
                complain(printable(error.message))
        except NoKernelError as error:
            complain(f"no kernel answers at {error.path} any longer")


class Keyboard(NamedTuple):
    """What of this terminal an agent gets: our stdin, and every key as it is."""

    feed: bool = False
    terminal: bool = False


def attend(which: Which, spawn: Callable[[Client], dict[str, Any]], keyboard: Keyboard, *, remove: bool) -> int:
    """Spawn, show the output until the end, wait; the exit status for the shell."""
    with Forwarding(which, _FORWARDED) as forwarding, which.connect() as client:
        agent = spawn(client)["id"]
        forwarding.attach(agent)
        try:
            if not show(which, agent, keyboard, None):
                return 0
        except (BrokenPipeError, SystemExit):
            forwarding.send(signals.SIGTERM)  # nobody reads on, or the terminal is gone: as SIGPIPE or SIGHUP would
            if keyboard.terminal:
                raise
        ended = client.call("wait", agent, None)
        if remove:
            client.call("rm", agent)
    tell(ended, interrupted=forwarding.interrupted)
    status: int = ended["status"]
    return status


def attach(which: Which, agent: int, keyboard: Keyboard) -> int:
    """Show what a living agent writes from now on; its exit status, or 0 when the person left it."""
    with Forwarding(which, (signal.SIGINT,)) as forwarding, which.connect() as client:
        forwarding.attach(agent)
        if not show(which, agent, keyboard, 0):
            return 0
        ended = client.call("wait", agent, None)
    tell(ended, interrupted=forwarding.interrupted)
    status: int = ended["status"]
    return status


def show(which: Which, agent: int, keyboard: Keyboard, tail: int | None) -> bool:
    """Copy what the agent writes to the same of our two streams, as it comes; what is typed goes to it.

    False when the person detached before its end.
    """
    from agentix.agentctl import terminal

    with contextlib.ExitStack() as around:
        client = around.enter_context(which.connect())
        typing = terminal.Typing(which, agent, client, terminal=keyboard.terminal)
        if keyboard.terminal:
            around.enter_context(terminal.raw())
            around.enter_context(terminal.following_size(terminal.resizer(which, agent)))
        pieces = client.stream("logs", agent, True, tail)
        if keyboard.feed:
            typing.start()  # after that request, by which "from now on" is before its answer to what is typed
        try:
            _copy(pieces, agent)
        except CallError:
            if typing.refused is not None:
                raise typing.refused from None
            if not typing.detached:
                raise
    if typing.detached:
        click.echo(err=True)  # the agent's own last line, such as a prompt, has no end
        complain(f"left agent {agent}, which goes on: agentctl attach {agent}")
    return not typing.detached


def _copy(pieces: Iterable[Any], agent: int) -> None:
    from agentix.agentctl.output import Marks, Writer

    writer = Writer(str(agent), Marks())
    for piece in pieces:
        writer.feed(*piece)


def tell(ended: dict[str, Any], *, interrupted: bool = False) -> None:
    """Say on stderr how an agent ended, unless it ended by itself or by the Ctrl-C of this person.

    Also why its restart policy does not run it again.
    """
    if not ended["next"] and (ended["why"] == "exit" or (interrupted and ended["signal"] == "SIGINT")):
        return
    said = "; ".join(filter(None, (ended["detail"] or ended["why"], ended["next"])))
    complain(f"{ended['name'] or ended['id']}: {printable(said)}")
