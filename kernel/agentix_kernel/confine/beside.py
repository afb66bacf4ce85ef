"""Programs that are started in a sandbox beside its agent: by its init, so that every wall of the agent is theirs."""

import errno
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio
from attrs import define, field

from agentix_kernel.confine import leash, messages
from agentix_kernel.world import Ended, LaunchError

PROGRAMS_MAX: Final = 64
"""Beside one agent at once."""


@define(eq=False)
class LinuxProgram:
    """See world.Program."""

    pid: int = 0
    _pidfd: int = -1
    _terminal: int = -1
    _error: LaunchError | None = None
    _ended: Ended | None = None
    _abandoned: bool = False
    _told: trio.Event = field(factory=trio.Event)
    """It runs, or it never will."""
    _ending: trio.Event = field(factory=trio.Event)

    async def started(self) -> None:
        await self._told.wait()
        if self._error is not None:
            raise self._error

    async def wait(self) -> Ended:
        await self._ending.wait()
        assert self._ended is not None
        return self._ended

    def signal(self, linux_signal: int) -> bool:
        if self._pidfd < 0 or self._ended is not None:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, linux_signal)
        except ProcessLookupError:
            return False
        return True

    def take_terminal(self) -> int:
        fd, self._terminal = self._terminal, -1
        return fd

    def close(self) -> None:
        messages.close_all([fd for fd in (self._pidfd, self._terminal) if fd >= 0])
        self._pidfd = self._terminal = -1

    def abandon(self) -> None:
        """Nobody waits for it any more: it is killed, if need be as soon as it is known."""
        self._abandoned = True
        self.signal(signal.SIGKILL)
        self.close()

    # What the leash says of it.

    def met(self, pid: int, fds: list[int]) -> None:
        self.pid, (self._pidfd, *terminal) = pid, fds
        self._terminal = terminal[0] if terminal else -1
        self._told.set()
        if self._abandoned:
            self.abandon()

    def failed(self, error: LaunchError) -> None:
        self._error = error
        self.ended(Ended(127, None))

    def ended(self, how: Ended) -> None:
        if self._ended is None:
            self._ended = how
        self._told.set()
        self._ending.set()


@define(eq=False)
class Programs:
    """Those of one sandbox. `host_pid` tells the pid, as the host counts, of a pidfd."""

    _leash: socket.socket
    _host_pid: Callable[[int], int]
    _last: int = 0
    _by_serial: dict[int, LinuxProgram] = field(factory=dict[int, LinuxProgram])

    async def start(self, argv: Sequence[str], env: dict[str, str], cwd: str, terminal: tuple[int, int] | None,
                    stdio: Sequence[int]) -> LinuxProgram:
        """See world.Sandbox.start."""
        if len(self._by_serial) >= PROGRAMS_MAX:
            raise LaunchError(errno.EAGAIN, "exec", f"{PROGRAMS_MAX} programs run beside the agent already")
        self._last += 1
        order = {"serial": self._last, "argv": argv, "env": env, "cwd": cwd, "tty": terminal}
        if len(messages.pack(order)) > messages.INLINE_MAX_BYTES:
            raise LaunchError(errno.E2BIG, "exec", "arguments and environment are too long")
        found = self._by_serial[self._last] = LinuxProgram()
        try:
            messages.send(self._leash, order, list(stdio))
        except OSError as error:
            del self._by_serial[self._last]
            message = f"its init does not listen: {error.strerror}"
            raise LaunchError(error.errno or errno.EIO, "exec", message) from error
        try:
            await found.started()
        except BaseException:
            found.abandon()
            raise
        return found

    def hear(self, words: list[str], fds: list[int]) -> bool:
        """Understand a line of the leash; False when it makes no sense. Takes from `fds` what it keeps."""
        match words:
            case [leash.STARTED, serial] if len(fds) in {1, 2} and int(serial) in self._by_serial:
                self._by_serial[int(serial)].met(self._host_pid(fds[0]), fds)
                fds.clear()
            case [leash.FAILED, serial, number, why] if int(serial) in self._by_serial:
                self._by_serial.pop(int(serial)).failed(LaunchError(int(number), "exec", why))
            case [leash.DONE, serial, status] if int(serial) in self._by_serial:
                code = os.waitstatus_to_exitcode(int(status))
                how = Ended(code, None) if code >= 0 else Ended(None, -code)
                self._by_serial.pop(int(serial)).ended(how)
            case _:
                return False
        return True

    def all_gone(self) -> None:
        """The init has ended, and they with it."""
        programs, self._by_serial = self._by_serial, {}
        for found in programs.values():
            if found.pid:
                found.ended(Ended(None, signal.SIGKILL))
            else:
                found.failed(LaunchError(errno.ESRCH, "exec", "the agent ended"))
