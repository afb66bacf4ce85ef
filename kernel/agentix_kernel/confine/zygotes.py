"""agentd's side of the spawner and the zygotes: made at need, made again when they die."""

import errno
import functools
import importlib.util
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import trio
from attrs import define, field, frozen

from agentix_kernel.confine import filter as call_filter
from agentix_kernel.confine import messages
from agentix_kernel.confine.attendant import Attendant, Handler
from agentix_kernel.world import OWN_RUNTIME, Bind, LaunchError, Runtime

ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_STOP_S: Final = 2.0
_START_DEADLINE_S: Final = 120.0
"""For its imports; large libraries take long on a cold disk."""
RETRY_S: Final = 1.0
"""For so long it is not tried again to make a zygote that could not be made."""


@frozen
class Profile:
    """What agents of one zygote have in common."""

    preload: tuple[str, ...]
    own_netns: bool
    runtime: Runtime = OWN_RUNTIME


def mark(path: str) -> tuple[int, ...]:
    """Device, inode and ctime, which nobody can set; nothing when it is gone."""
    try:
        info = os.stat(path)
    except OSError:
        return ()
    return info.st_dev, info.st_ino, info.st_ctime_ns


def changed(runtime: Runtime) -> tuple[tuple[int, ...], ...]:
    """The marks of today, if they are others than when the runtime was looked at. A few stat calls."""
    now = tuple(mark(path)[:len(then)] for path, then in runtime.marks)
    return now if now != tuple(then for _, then in runtime.marks) else ()


def own_packages() -> tuple[str, ...]:
    """The folders that our own packages, and what they need in a zygote, are imported from."""
    found = (importlib.util.find_spec(name) for name in ("agentix_kernel", "agentix_syscalls", "agentix", "msgpack"))
    return tuple(dict.fromkeys(os.path.dirname(os.path.dirname(spec.origin)) for spec in found if spec and spec.origin))


def command(runtime: Runtime) -> list[str]:
    """What runs its zygote, but for the descriptor. Another interpreter than ours finds our packages after all of its
    own, and writes no bytecode into its folders.
    """
    if not runtime.executable:
        return [sys.executable, "-I", "-m", "agentix_kernel.confine.zygote"]
    begin = f"import sys; sys.path += {list(own_packages())!r}; from agentix_kernel.confine.zygote import main; main()"
    return [runtime.executable, "-IB", "-c", begin]


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
    _making: dict[Profile, trio.Lock] = field(factory=dict[Profile, trio.Lock])
    """One for each profile: who waits for a slow import waits for that profile's."""
    _faults: dict[Profile, tuple[float, LaunchError]] = field(factory=dict[Profile, tuple[float, LaunchError]])
    """When it could not be made, and why."""
    lost: Callable[[], None] = field(default=lambda: None, kw_only=True)
    """Called when a zygote is gone."""
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
            self._spawner = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), env=ENVIRONMENT, cwd="/",
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
        channel = self._zygotes.get(profile)
        if channel is not None:
            await trio.lowlevel.checkpoint()
            return channel
        async with self._making.setdefault(profile, trio.Lock()):
            channel = self._zygotes.get(profile)
            return channel if channel is not None else await self._try_make(profile)

    def retire(self, kept: tuple[Profile, ...]) -> None:
        """End the zygotes of runtimes that are not kept; what they cloned lives on. Ours is always kept."""
        for profile, channel in list(self._zygotes.items()):
            if profile not in kept and profile.runtime != OWN_RUNTIME:
                self.forget(profile, channel)
                self._making.pop(profile, None)
        self._faults = {profile: fault for profile, fault in self._faults.items() if profile in kept}

    def forget(self, profile: Profile, channel: socket.socket) -> None:
        """That zygote does not answer any more."""
        if self._zygotes.get(profile) is channel:
            del self._zygotes[profile]
            self.pids.pop(profile, None)
        if channel.fileno() >= 0:
            trio.lowlevel.notify_closing(channel)
        channel.close()
        self.lost()

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

    async def _try_make(self, profile: Profile) -> socket.socket:
        """Once in a while: one that cannot start costs time that is on no agent's account."""
        when, fault = self._faults.get(profile, (-math.inf, None))
        if fault is not None and trio.current_time() < when + RETRY_S:
            raise LaunchError(fault.number, fault.stage, fault.message)
        self._faults.pop(profile, None)
        try:
            return await self._make(profile)
        except LaunchError as error:
            self._faults[profile] = trio.current_time(), error
            raise

    async def _make(self, profile: Profile) -> socket.socket:
        if changed(profile.runtime):  # and who knows by whom, once it was removed
            raise LaunchError(errno.ESTALE, "zygote", "changed since it was looked at, and not run again before it is")
        ours, theirs = messages.pair()
        ours.setblocking(False)
        fds: list[int] = []
        try:
            with theirs:
                messages.send(ours, {
                    "preload": (*profile.preload, *profile.runtime.preload), "own_netns": profile.own_netns,
                    "tree": self.tree, "sockets": self.sockets, "binds": profile.runtime.binds,
                    "landlock": self.landlock_abi, "filter": call_filter.build().program,
                })
                request = {"do": "zygote", "own_netns": profile.own_netns, "argv": command(profile.runtime)}
                reply, fds = await self._ask(request, [theirs.fileno()], "zygote")
            self._pidfds[fds[0]] = functools.partial(self._reap, profile, ours, fds[0])
            self._attendant.add(fds[0], self._pidfds[fds[0]])
            await _started(ours)
        except BaseException:
            ours.close()
            if fds and fds[0] in self._pidfds:  # not reaped; it may hang in an import
                signal.pidfd_send_signal(fds[0], signal.SIGKILL)
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
    received = None
    with trio.move_on_after(_START_DEADLINE_S) as scope:
        received = await _receive(zygote)
    if scope.cancelled_caught:
        raise LaunchError(errno.ETIMEDOUT, "zygote", f"its modules were not imported within {_START_DEADLINE_S:.0f} s")
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
