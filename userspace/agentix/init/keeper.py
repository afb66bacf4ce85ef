"""The init's own work: look after the agent and what is started beside it, until the agent has ended."""

import contextlib
import os
import select
import signal
import socket
import types
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from agentix.init import program

_PANIC: Final = 128 + signal.SIGKILL
_AGENT: Final = 0
"""The serial of the agent itself; what is started later has those that the kernel gave."""

Receive = Callable[[Any], tuple[dict[str, Any], list[int]] | None]
"""The next order from the leash and its descriptors; None when the kernel is gone."""


def look_after(agent: int, leash: int, told: int, listener: int, terminal: tuple[int, int], *, waiting: bool,
               receive: Receive) -> NoReturn:
    """Tell the kernel of the agent, with its seccomp listener; then reap, start and wait until its end.

    `told`: where the agent says why it cannot become its program, if it is to become one (`waiting`). `terminal`: both
    ends of its terminal, or -1: the kernel gets the first one, and the agent's is held, so that the terminal lives
    while nobody in the sandbox has it open.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _nothing)  # for the wake-up alone
    channel = socket.socket(fileno=leash)
    master, slave = terminal
    _tell(channel, b"agent waiting" if waiting else b"agent ready",
          [fd for fd in (listener, os.pidfd_open(agent), master) if fd >= 0])
    _close_others(*(fd for fd in (leash, told, wake_read, wake_write, slave) if fd >= 0))
    keeper = _Keeper(channel, wake_read, receive)
    keeper.programs[agent] = _Program(_AGENT)
    if waiting:
        keeper.starting[told] = agent
    else:
        os.close(told)
    keeper.run()


class _Program(NamedTuple):
    """A process that was started: its serial, and what descriptors the kernel gets when it has become its program."""

    serial: int
    fds: tuple[int, ...] = ()


class _Keeper:
    def __init__(self, channel: socket.socket, wake: int, receive: Receive) -> None:
        self._channel = channel
        self._wake = wake
        self._receive = receive
        self._poll = select.poll()
        self.programs: dict[int, _Program] = {}
        """By pid."""
        self.starting: dict[int, int] = {}
        """Pid by the pipe that closes with its exec."""

    def run(self) -> NoReturn:
        for fd in (self._channel.fileno(), self._wake, *self.starting):
            self._poll.register(fd, select.POLLIN)
        while True:
            self._reap()
            for fd, _ in self._poll.poll():
                if fd in self.starting:
                    self._started(fd)
                elif fd == self._channel.fileno():
                    self._obey()
                elif fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 512)

    def _obey(self) -> None:
        received = self._receive(self._channel)
        if received is None:
            os._exit(_PANIC)
        order, fds = received
        try:
            self._start(order, fds)
        except OSError as error:
            _tell(self._channel, b"failed %d %d %s" % (order["serial"], error.errno or 0, str(error.strerror).encode()))
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, order: dict[str, Any], stdio: list[int]) -> None:
        """Raises OSError: as many processes, terminals or descriptors as there may be. Nothing is left open then."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            kept: tuple[int, ...] = ()
            if order["tty"]:
                master, slave = program.open_terminal(order["tty"])
                ours.callback(os.close, master)
                theirs.callback(os.close, slave)
                kept, stdio = (master,), [slave] * 3
            told, tell = os.pipe()
            ours.callback(os.close, told)
            theirs.callback(os.close, tell)
            pid = os.fork()
            if pid == 0:
                self._become(order, stdio, tell)
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:  # the agent may lower our limits: then nothing runs that nobody watches
                os.kill(pid, signal.SIGKILL)
                raise
            ours.pop_all()
        self.programs[pid] = _Program(order["serial"], (pidfd, *kept))
        self.starting[told] = pid
        self._poll.register(told, select.POLLIN)

    def _become(self, order: dict[str, Any], stdio: Sequence[int], tell: int) -> NoReturn:
        try:
            program.prepare(stdio, tell, lambda: None, terminal=bool(order["tty"]))
            os.chdir(order["cwd"])
            program.become(order["argv"], order["env"], program.TELL)
        except OSError as error:
            program.report(program.TELL, error.errno or 0, f"{error.filename}: {error.strerror}")
        finally:
            os._exit(127)

    def _started(self, told: int) -> None:
        """It has become its program (end of file), or has said why it cannot."""
        report = os.read(told, 4096)
        self._poll.unregister(told)
        os.close(told)
        pid = self.starting.pop(told)
        serial, fds = self.programs[pid]
        if not report:
            _tell(self._channel, b"ready" if serial == _AGENT else b"started %d" % serial, fds)
        elif serial == _AGENT:
            number, _, message = report.partition(b" ")
            _tell(self._channel, b"error %s exec %s" % (number, message))
            os._exit(127)
        else:
            _tell(self._channel, b"failed %d %s" % (serial, report))
            del self.programs[pid]
        for fd in fds:
            os.close(fd)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended(*ended)

    def _ended(self, pid: int, status: int) -> None:
        for told in [fd for fd, starting in self.starting.items() if starting == pid]:
            self._started(told)
        known = self.programs.pop(pid, None)
        if known is None:  # orphaned
            return
        if known.serial != _AGENT:
            _tell(self._channel, b"done %d %d" % (known.serial, status))
            return
        _tell(self._channel, b"ended %d" % status)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


def _terminated(_signal: int, _frame: types.FrameType | None) -> None:
    os._exit(128 + signal.SIGTERM)


def _nothing(_signal: int, _frame: types.FrameType | None) -> None:
    """A signal must have a handler for the wake-up descriptor to be written."""


def _tell(channel: socket.socket, line: bytes, fds: "list[int] | tuple[int, ...]" = ()) -> None:
    try:
        socket.send_fds(channel, [line], list(fds))
    except OSError:  # nobody holds the other end: the kernel is gone
        os._exit(_PANIC)


def _close_others(*kept: int) -> None:
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
