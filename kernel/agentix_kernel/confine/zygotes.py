"""agentd's side of the spawner and the zygotes: made at need, made again when they die."""

import errno
import functools
import os
import signal
import socket
import subprocess
import sys
from typing import Any, Final

import trio
from attrs import define, field, frozen

from agentix_kernel.confine import filter as call_filter
from agentix_kernel.confine import messages
from agentix_kernel.confine.attendant import Attendant, Handler
from agentix_kernel.world import Bind, LaunchError

_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_STOP_S: Final = 2.0


@frozen
class Profile:
    """What agents of one zygote have in common."""

    preload: tuple[str, ...]
    own_netns: bool
    executable: str = sys.executable


@define(eq=False)
class Zygotes:
    """`tree`: the mount point of the agents' trees, `sockets`: the directory of their sockets; absolute, or None."""

    tree: str | None
    sockets: str | None
    landlock_abi: int
    _attendant: Attendant
    _spawner: "subprocess.Popen[bytes] | None" = None
    _channel: socket.socket | None = None
    _requests: int = 0
    _asking: trio.Lock = field(factory=trio.Lock)
    _making: trio.Lock = field(factory=trio.Lock)
    _zygotes: dict[Profile, socket.socket] = field(factory=dict[Profile, socket.socket])
    _pidfds: dict[int, Handler] = field(factory=dict[int, Handler])
    """Of every zygote that is not reaped, with what reaps it."""
    pids: dict[Profile, int] = field(factory=dict[Profile, int])

    def start_spawner(self) -> None:
        """Blocks for a fork, no longer. In the main thread: what it makes dies with the thread that made it."""
        self._forget_spawner()
        ours, theirs = messages.pair()
        with theirs:
            argv = [sys.executable, "-I", "-m", "agentix_kernel.confine.spawner", str(theirs.fileno())]
            self._spawner = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), env=_ENVIRONMENT, cwd="/",
                                             start_new_session=True)
        ours.setblocking(False)
        self._channel = ours

    @property
    def spawner_pid(self) -> int:
        return self._spawner.pid if self._spawner else 0

    async def mount(self, bind: Bind, uid: int) -> tuple[bool, int]:
        """Is it a directory; and a descriptor of a mount of it. Raises LaunchError at "bind"."""
        request = {"do": "mount", "writable": bind.writable, "uid": uid, "source": bind.source}
        reply, fds = await self._ask(request, [bind.source_fd], "bind")
        return reply["directory"], fds[0]

    async def zygote(self, profile: Profile) -> socket.socket:
        """The channel of a living zygote. Raises LaunchError at "zygote"."""
        async with self._making:
            channel = self._zygotes.get(profile)
            return channel if channel is not None else await self._make(profile)

    def forget(self, profile: Profile, channel: socket.socket) -> None:
        """That zygote does not answer any more."""
        if self._zygotes.get(profile) is channel:
            del self._zygotes[profile]
            self.pids.pop(profile, None)
        channel.close()

    async def aclose(self) -> None:
        """Agents that still live go on; what is closed here ends by itself."""
        for pidfd in self._pidfds:
            self._attendant.drop(pidfd)  # or it reaps, and closes, what is waited for below
        for profile, channel in list(self._zygotes.items()):
            self.forget(profile, channel)
        self._close_channel()
        for pidfd, reap in list(self._pidfds.items()):
            await _ended(pidfd)
            reap(0)
        if self._spawner is not None:
            pidfd = os.pidfd_open(self._spawner.pid)
            await _ended(pidfd)
            os.close(pidfd)
            self._forget_spawner()

    async def _make(self, profile: Profile) -> socket.socket:
        ours, theirs = messages.pair()
        ours.setblocking(False)
        try:
            with theirs:
                messages.send(ours, {
                    "preload": profile.preload, "own_netns": profile.own_netns, "tree": self.tree,
                    "sockets": self.sockets, "landlock": self.landlock_abi, "filter": call_filter.build().program,
                })
                request = {"do": "zygote", "own_netns": profile.own_netns, "executable": profile.executable}
                reply, fds = await self._ask(request, [theirs.fileno()], "zygote")
            self._pidfds[fds[0]] = functools.partial(self._reap, profile, ours, fds[0])
            self._attendant.add(fds[0], self._pidfds[fds[0]])
            await _started(ours)
        except BaseException:
            ours.close()
            raise
        self._zygotes[profile] = ours
        self.pids[profile] = reply["pid"]
        return ours

    def _reap(self, profile: Profile, channel: socket.socket, pidfd: int, _events: int) -> None:
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None:
            self._attendant.drop(pidfd)
            del self._pidfds[pidfd]
            os.close(pidfd)
            self.forget(profile, channel)

    async def _ask(self, request: dict[str, Any], fds: list[int], stage: str) -> tuple[dict[str, Any], list[int]]:
        async with self._asking:
            reply = await self._try_ask(request, fds) or await self._try_ask(request, fds)
        if reply is None:
            raise LaunchError(errno.EIO, stage, "the spawner ended twice while it was asked")
        if reply[0]["error"]:
            raise LaunchError(reply[0]["error"], stage, reply[0]["message"])
        return reply

    async def _try_ask(self, request: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]] | None:
        """None when the spawner is lost; the next try makes a new one."""
        if self._channel is None:
            self.start_spawner()
        assert self._channel is not None
        self._requests += 1
        number = self._requests
        try:
            messages.send(self._channel, {**request, "id": number}, fds)
            while (reply := await _receive(self._channel)) is not None:
                if reply[0]["id"] == number:
                    return reply
                messages.close_all(reply[1])  # the answer to a question whose asker was cancelled
        except BrokenPipeError:
            pass
        self._close_channel()
        return None

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _forget_spawner(self) -> None:
        self._close_channel()
        if self._spawner is not None:
            self._spawner.kill()
            self._spawner.wait()  # killed and idle: no time at all
            self._spawner = None


async def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    while True:
        try:
            return messages.receive(channel)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(channel.fileno())


async def _started(zygote: socket.socket) -> None:
    """Its first message says whether it could prepare itself. Raises LaunchError."""
    received = await _receive(zygote)
    if received is None:
        raise LaunchError(errno.EIO, "zygote", "ended while it started")
    if received[0]["error"]:
        raise LaunchError(received[0]["error"], "zygote", received[0]["message"])


async def _ended(pidfd: int) -> None:
    """Its channel is closed, so it ends; one that does not is killed."""
    with trio.move_on_after(_STOP_S) as scope:
        await trio.lowlevel.wait_readable(pidfd)
    if scope.cancelled_caught:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await trio.lowlevel.wait_readable(pidfd)
