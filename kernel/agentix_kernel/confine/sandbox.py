"""The handle of one sandbox: what world.Sandbox promises, on Linux.

Events come from the attendant's task (leash, init, listener, memory); the async methods wait for what they set.
"""

import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio
from attrs import define, evolve, field

from agentix_kernel.cgroups import Group
from agentix_kernel.confine import leash, listener, messages
from agentix_kernel.confine.attendant import Attendant
from agentix_kernel.confine.beside import LinuxProgram, Programs
from agentix_kernel.confine.zygotes import Profile
from agentix_kernel.world import KILL_DEADLINE_S, Confined, Ended, LaunchError, Limits, Usage, Watch
from agentix_syscalls.signals import DOORBELL

_PESTER_S: Final = 0.05
"""While a kill is not proven: how often to answer again what it may wait for, and to send it again."""
_DENIALS_A_TICK: Final = 16
"""Of one sandbox: a flood of refused calls must not starve the others."""


@define(eq=False)
class LinuxSandbox:
    """See world.Sandbox. Made by LinuxSandboxes alone; a spare until `order`.

    `zygote`: the profile and the channel of who was asked to clone it.
    """

    group: Group
    zygote: tuple[Profile, socket.socket]
    _leash: socket.socket
    _attendant: Attendant
    _notified: Mapping[int, tuple[str, bool]]
    _before_kill: Callable[[int], None]
    _what: Confined | None = None
    _watch: Watch | None = None
    _init_pid: int = 0
    _init_pidfd: int = -1
    _agent_pid: int = 0
    _agent_pidfd: int = -1
    _listener: int = -1
    terminal: int = -1
    _programs: Programs = field(init=False)
    _env: Mapping[str, str] = field(factory=dict[str, str])
    _cwd: str = "/"
    _oom_kills: int = 0
    _ended: Ended | None = None
    _error: LaunchError | None = None
    _ready: bool = False
    _closed: bool = False
    _usage: Usage = field(factory=Usage)
    _told: trio.Event = field(factory=trio.Event)
    """Launching is over: it runs, it failed, or the leash is gone."""
    _born: trio.Event = field(factory=trio.Event)
    """The init is known, or there will be none."""
    _ending: trio.Event = field(factory=trio.Event)
    _gone: trio.Event = field(factory=trio.Event)
    """The init is reaped, or was never born."""

    def __attrs_post_init__(self) -> None:
        self._programs = Programs(self._leash, _host_pid)

    def attend(self) -> None:
        self._leash.setblocking(False)
        self._attendant.add(self._leash.fileno(), self._on_leash)
        if self.group.oom_fd >= 0:
            self._attendant.add(self.group.oom_fd, self._on_memory)

    # What the attendant calls.

    def _on_leash(self, _events: int) -> None:
        while True:
            try:
                line, fds = messages.receive_bytes(self._leash)
            except BlockingIOError:
                return
            except ConnectionResetError:  # closed with something unread in it
                line, fds = b"", list[int]()
            if not line:
                self._leash_gone()
                return
            self._understand(line, fds)

    def _understand(self, line: bytes, fds: list[int]) -> None:
        """An init is ours, but it lives beside a hostile agent: what it says may be wrong, and stops nothing."""
        try:
            understood = self._hear(line.decode("utf-8", "replace").split(" ", 3), fds)
        except ValueError:
            understood = False
        messages.close_all(fds)
        if not understood:
            self._error = self._error or LaunchError(errno.EPROTO, "leash", f"not understood: {line[:80]!r}")
            self._told.set()
        if self._ready and self._init_pidfd >= 0:
            self._told.set()

    def _hear(self, words: list[str], fds: list[int]) -> bool:
        """False, or ValueError, when it makes no sense. Takes from `fds` what it keeps."""
        match words:
            case [leash.BORN, pid] if len(fds) == 1 and self._init_pidfd < 0:
                self._init_pid, self._init_pidfd = int(pid), fds.pop()
                self._attendant.add(self._init_pidfd, self._on_init)
                self._born.set()
            case [leash.AGENT, state] if len(fds) in {2, 3} and self._agent_pidfd < 0:
                self._meet_agent(*fds)
                fds.clear()
                self._ready = state == leash.READY
            case [leash.READY]:
                self._ready = True
            case [leash.ERROR, number, stage, message]:
                self._error = LaunchError(int(number), stage, message)
                self._told.set()
            case [leash.ENDED, status]:
                self._end(os.waitstatus_to_exitcode(int(status)))
            case _:
                return self._programs.hear(words, fds)
        return True

    def _meet_agent(self, listener_fd: int, pidfd: int, terminal: int = -1) -> None:
        self._listener, self._agent_pidfd, self.terminal = listener_fd, pidfd, terminal
        self._agent_pid = _host_pid(pidfd)
        self._attendant.add(listener_fd, self._on_denied)

    def _leash_gone(self) -> None:
        self._attendant.drop(self._leash.fileno())
        self._leash.close()
        self._told.set()
        self._born.set()
        self._programs.all_gone()
        if self._init_pidfd < 0:
            self._gone.set()

    def _on_init(self, _events: int) -> None:
        """The init has ended, and with it all that was in its pid namespace: reap it."""
        if self._leash.fileno() >= 0:
            self._on_leash(0)  # its last words came before its end
        result = os.waitid(os.P_PIDFD, self._init_pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        self._attendant.drop(self._init_pidfd)
        by_signal = result.si_code != os.CLD_EXITED
        self._end(-result.si_status if by_signal else result.si_status)
        self._gone.set()

    def _end(self, code: int) -> None:
        if self._ended is None:
            self._ended = Ended(code, None) if code >= 0 else Ended(None, -code)
            self._ending.set()

    def _on_denied(self, events: int) -> None:
        for _ in range(_DENIALS_A_TICK):
            if not events & select.EPOLLIN:
                break
            self._answer(self._listener)
            if self._listener < 0:  # the watcher closed us
                return
            events = _poll_now(self._listener)
        if events & select.EPOLLHUP:  # nobody is left who could call
            self._attendant.drop(self._listener)

    def _answer(self, fd: int) -> None:
        found = listener.receive(fd, self._notified)
        if found is None:
            return
        identity, call = found
        ended = self._watch is not None and self._watch.denied(call)
        if not (ended or call.fatal) and self._listener >= 0:
            listener.refuse(fd, identity)

    def _on_memory(self, _events: int) -> None:
        kills = self.group.usage().oom_kills  # reading makes the descriptor quiet
        if kills > self._oom_kills:
            self._oom_kills = kills
            if self._watch is not None:
                self._watch.out_of_memory()

    # For LinuxSandboxes.

    @property
    def waiting(self) -> bool:
        """It can be ordered, as far as we know: nobody has, and nothing has failed."""
        return self._what is None and not self._told.is_set()

    def order(self, what: Confined, watch: Watch, spec: dict[str, Any], fds: list[tuple[str, int]]) -> bool:
        """Make it `what`; once. False when nobody reads it any more. What is large goes through a memfd.

        Raises OSError.
        """
        assert self._what is None, "a sandbox is ordered once"
        self._what, self._watch, self._env, self._cwd = what, watch, spec["env"], spec["cwd"]
        body = messages.pack(spec)
        large = [("spec", messages.in_memory(body))] if len(body) > messages.INLINE_MAX_BYTES // 2 else []
        message = {"names": [name for name, _ in (*fds, *large)], "spec": None if large else body}
        try:
            messages.send(self._leash, message, [fd for _, fd in (*fds, *large)])  # the first here: there is room
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            messages.close_all([fd for _, fd in large])
        return True

    async def started(self, deadline_s: float) -> bool:
        """Until it runs, once ordered. False: the zygote was lost before it was born. Raises LaunchError."""
        with trio.move_on_after(deadline_s) as scope:
            await self._told.wait()
        if scope.cancelled_caught:
            raise LaunchError(errno.ETIMEDOUT, "child", f"did not run within {deadline_s:.0f} s")
        if self._error is None and not self._ready and self._init_pidfd < 0:
            return False
        if self._error is None and not self._ready:
            await self._gone.wait()
            self._error = LaunchError(errno.EIO, "child", f"died before it ran: {self._ended}")
        if self._error is not None:
            raise self._error
        return True

    async def abort(self) -> None:
        """Undo a launch at any point: nothing is left of it."""
        with trio.CancelScope(shield=True):
            # A zygote that has the message may be about to clone: only its word, or its end, says what there is.
            with trio.move_on_after(KILL_DEADLINE_S):
                await self._born.wait()
            await self.kill()
            await self.aclose()

    # For the kernel.

    @property
    def what(self) -> Confined:
        assert self._what is not None, "nobody's yet"
        return self._what

    @property
    def pid(self) -> int:
        return self._agent_pid

    @property
    def init_pid(self) -> int:
        return self._init_pid

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def ended(self) -> Ended | None:
        return self._ended

    async def wait(self) -> Ended:
        await self._ending.wait()
        assert self._ended is not None
        return self._ended

    async def freeze(self) -> None:
        await self.group.freeze()

    async def thaw(self) -> None:
        await self.group.thaw()

    def signal(self, linux_signal: int) -> bool:
        return _send(self._agent_pidfd, linux_signal)

    def ring_doorbell(self) -> bool:
        return _send(self._agent_pidfd, DOORBELL)

    async def kill(self) -> bool:
        """Kill, and prove it. Killed before it is thawed: what was frozen dies without executing anything more."""
        if self._closed:
            return True
        self.group.lift_cpu()
        self._strike()
        with trio.move_on_after(KILL_DEADLINE_S) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pester)
                await self.group.thaw()
                await self._gone.wait()
                await self.group.emptied()
                nursery.cancel_scope.cancel()
        return not scope.cancelled_caught

    async def _pester(self) -> None:
        while True:
            await trio.sleep(_PESTER_S)
            self._strike()

    def _strike(self) -> None:
        if self._what is not None:
            self._before_kill(self._what.uid)
        self.group.send_kill()
        _send(self._init_pidfd, signal.SIGKILL)

    def set_limits(self, limits: Limits) -> None:
        if not self._closed:
            self.group.set_limits(limits)
            self._what = evolve(self.what, limits=limits)

    def usage(self) -> Usage:
        if not self._closed:
            self._usage = self.group.usage()
        return self._usage

    async def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: str, terminal: tuple[int, int] | None,
                    stdio: Sequence[int]) -> LinuxProgram:
        return await self._programs.start(argv, {**self._env, **env}, cwd or self._cwd, terminal, stdio)

    def pids(self) -> list[int]:
        return [] if self._closed else self.group.pids()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            return
        self.usage()
        self._closed = True
        if self._leash.fileno() >= 0:
            self._attendant.drop(self._leash.fileno())
            self._leash.close()
        if self.group.oom_fd >= 0:
            self._attendant.drop(self.group.oom_fd)
        for fd in (self._init_pidfd, self._agent_pidfd, self._listener, self.terminal):
            if fd >= 0:
                self._attendant.drop(fd)
                os.close(fd)
        self._init_pidfd = self._agent_pidfd = self._listener = self.terminal = -1
        try:
            self.group.remove()
        finally:
            self.group.close()


def _send(pidfd: int, number: int) -> bool:
    if pidfd < 0:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def _host_pid(pidfd: int) -> int:
    """The pid as our own /proc counts; 0 when it has ended already."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Pid:"):
                return max(0, int(line[4:]))
    return 0


def _poll_now(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return next((events for _, events in poll.poll(0)), 0)
