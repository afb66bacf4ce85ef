"""Verbs that put a person into an agent's sandbox: exec and attach."""

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from agentix.agentctl import foreground, terminal
from agentix.agentctl.cli import (
    AGENTIX_FAILED,
    NOT_EXECUTABLE,
    NOT_FOUND,
    Failure,
    Verb,
    Which,
    explain,
    read_agent,
    verb,
)
from agentix.agentctl.launch import variable
from agentix.control import Client
from agentix_syscalls.errors import CallError

_STATUSES: Final = {errno.ENOENT: NOT_FOUND, errno.ENOEXEC: NOT_EXECUTABLE, errno.EACCES: NOT_EXECUTABLE}
_PIECE_BYTES: Final = 65536
_REST_PIECES: Final = 16
"""A pipe holds one, and a mebibyte at most."""


class ExecVerb(Verb):
    """AGENT, then the command: options end before it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.allow_interspersed_args = False


@verb(cls=ExecVerb, name="exec", failure=AGENTIX_FAILED, examples=(
    ("agentctl exec scout -- ls -l /agent/self/state", "one command beside it, as it sees the world"),
    ("agentctl exec -it 7 -- bash", "a shell in its sandbox"),
    ("echo 3 | agentctl exec -i 7 -- python3 -c 'print(int(input()) + 1)'", "with stdin"),
))
@click.option("-i", "interactive", is_flag=True, help="Give it this stdin (else its stdin is empty).")
@click.option("-t", "tty", is_flag=True, help="Give it a terminal.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Environment variable, beside those of the agent.")
@click.option("--cwd", metavar="DIR", help="Working directory inside the sandbox.")
@click.argument("agent", type=read_agent)
@click.argument("command", nargs=-1, required=True, metavar="[--] CMD [ARGS]...", type=click.UNPROCESSED)
def exec_(which: Which, agent: int | str, command: tuple[str, ...], *, interactive: bool, tty: bool,
          env: tuple[str, ...], cwd: str | None) -> int:
    """Run a program beside an agent: in its sandbox, under its limits, as its user.

    It ends with the agent, and when agentctl goes away (SIGHUP). The exit status is its own.
    """
    variables = dict(map(variable, env))
    options: dict[str, Any] = {"cwd": cwd} if cwd is not None else {}
    words = list(command[1:] if command[0] == "--" else command)
    if not words:
        raise click.UsageError("What to run is missing.")
    with which.connect() as client:
        if not tty:
            return _with_pipes(client, agent, words, {**options, "env": variables}, feed=interactive)
        terminal.want_terminal()
        variables.setdefault("TERM", os.environ.get("TERM", "dumb"))
        options |= {"env": variables, "terminal": terminal.size()}
        return _with_terminal(client, agent, words, options, feed=interactive)


def _begin(client: Client, agent: int | str, words: list[str], options: dict[str, Any],
           fds: tuple[int, ...]) -> Iterator[Any]:
    """The stream, of which the first answer has come: it runs. Raises Failure."""
    try:
        stream = client.stream("execute", agent, words, options, descriptors=fds)
        next(stream)
    except CallError as error:
        raise Failure(explain(error), _STATUSES.get(error.number, AGENTIX_FAILED)) from None
    return stream


def _with_pipes(client: Client, agent: int | str, words: list[str], options: dict[str, Any], *, feed: bool) -> int:
    with contextlib.ExitStack() as files:
        (stdin, fed), (out, stdout), (err, stderr) = (_pipe(files) for _ in range(3))
        stream = _begin(client, agent, words, options, (stdin.fd, stdout.fd, stderr.fd))
        for theirs in (stdin, stdout, stderr):
            theirs.close()
        if not feed:
            fed.close()
        relay = _Relay(client, stream, {out.fd: 1, err.fd: 2}, fed)
        return relay.run()


def _with_terminal(client: Client, agent: int | str, words: list[str], options: dict[str, Any], *, feed: bool) -> int:
    import fcntl
    import struct
    import termios

    stream = _begin(client, agent, words, options, ())
    with contextlib.ExitStack() as files:
        master = _End(client.take_descriptor(), files)

        def resize(rows: int, columns: int) -> None:
            fcntl.ioctl(master.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

        files.enter_context(terminal.raw())
        files.enter_context(terminal.following_size(resize))
        typed = _End(os.dup(master.fd), files)
        if not feed:
            typed.close()
        return _Relay(client, stream, {master.fd: 1}, typed).run()


class _End:
    """A descriptor of ours, closed once."""

    def __init__(self, fd: int, files: contextlib.ExitStack) -> None:
        self.fd = fd
        files.callback(self.close)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _pipe(files: contextlib.ExitStack) -> tuple[_End, _End]:
    reader, writer = os.pipe()
    return _End(reader, files), _End(writer, files)


class _Relay:
    """Copies between this process's descriptors and those of a program, until the kernel says that it has ended.

    `outputs`: where each of its outputs goes. `fed`: what stdin goes into, or closed.
    """

    def __init__(self, client: Client, stream: Iterator[Any], outputs: dict[int, int], fed: _End) -> None:
        self._client = client
        self._stream = stream
        self._outputs = outputs
        self._fed = fed
        self._waiting = b""
        self._stdin = sys.stdin.fileno() if fed.fd >= 0 else -1
        self._poll = select.poll()

    def run(self) -> int:
        """The exit status for the shell."""
        for fd in (self._client.fileno(), *self._outputs):
            self._poll.register(fd, select.POLLIN)
        if self._stdin >= 0:
            os.set_blocking(self._fed.fd, False)
            self._poll.register(self._stdin, select.POLLIN)
        while not self._client.pending:
            ready = dict(self._poll.poll())
            if self._client.fileno() in ready:
                break
            self._copy(ready)
        ended = next(self._stream)
        self._rest()
        status: int = ended["status"]
        return status

    def _copy(self, ready: dict[int, int]) -> None:
        for fd in [fd for fd in self._outputs if fd in ready]:
            if not self._take(fd):
                self._poll.unregister(fd)
                del self._outputs[fd]
        if self._stdin in ready:
            self._read_stdin()
        elif self._fed.fd in ready:
            self._give()

    def _take(self, fd: int) -> bool:
        """Some of its output. False at the end."""
        try:
            data = os.read(fd, _PIECE_BYTES)
        except OSError:  # EIO: nobody has the terminal any more
            return False
        sink = memoryview(data)
        while sink:
            sink = sink[os.write(self._outputs[fd], sink):]
        return bool(data)

    def _rest(self) -> None:
        """What it left behind, as much as a pipe may hold; who still writes there is not waited for."""
        for fd in self._outputs:
            os.set_blocking(fd, False)
            for _ in range(_REST_PIECES):
                if not self._take(fd):
                    break

    def _read_stdin(self) -> None:
        """One piece at a time: it is given before more is read."""
        self._waiting = os.read(self._stdin, _PIECE_BYTES)
        self._poll.unregister(self._stdin)
        if self._waiting:
            self._poll.register(self._fed.fd, select.POLLOUT)
        else:
            self._fed.close()

    def _give(self) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                self._waiting = self._waiting[os.write(self._fed.fd, self._waiting):]
            except (BrokenPipeError, ConnectionError):
                self._poll.unregister(self._fed.fd)
                self._fed.close()
                return
        if not self._waiting:
            self._poll.unregister(self._fed.fd)
            self._poll.register(self._stdin, select.POLLIN)


@verb(failure=AGENTIX_FAILED, examples=(
    ("agentctl attach scout", "what it writes from now on; and type to it if it listens"),
    ("agentctl attach box", "spawned with -it: leave with Ctrl-P Ctrl-Q, come back so"),
))
@click.option("-i", "interactive", is_flag=True, help="Insist on feeding it: fail if its stdin is not open.")
@click.option("-t", "tty", is_flag=True, help="Insist on its terminal: fail if it has none.")
@click.option("--no-stdin", is_flag=True, help="Only look.")
@click.argument("agent", type=read_agent)
def attach(which: Which, agent: int | str, *, interactive: bool, tty: bool, no_stdin: bool) -> int:
    """Look at an agent's output from now on and type to it, until it ends, or Ctrl-P Ctrl-Q if it has a terminal.

    To one without a terminal Ctrl-C sends SIGINT, a second one within two seconds SIGKILL; agentctl logs -f only looks.
    The exit status is the agent's, or 0 when you left it.
    """
    with which.connect() as client:
        known = client.call("inspect", agent)
    if known["state"] in {"zombie", "dead"}:
        raise Failure(f"agent {known['id']} ({known['name']}) has ended", AGENTIX_FAILED,
                      f"agentctl logs {known['id']} shows its output")
    open_stdin = known["stdin"] or known["terminal"]
    if (interactive and not open_stdin) or (tty and not known["terminal"]):
        what = "no terminal" if tty and not known["terminal"] else "no open stdin"
        raise Failure(f"agent {known['id']} has {what}", AGENTIX_FAILED, "spawn it with -i or -it")
    if tty:
        terminal.want_terminal()
    return foreground.attach(which, known["id"], foreground.Keyboard(
        open_stdin and not no_stdin, known["terminal"] and not no_stdin and terminal.is_terminal()))
