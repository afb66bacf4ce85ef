"""One sandbox prepared ahead of its launch: cgroups made, process cloned, its root built, waiting for its order.

It makes a launch shorter by what every launch begins with. A hint says whose it will be, since a cgroup's name and
so the clone depends on the tag; whatever goes wrong with a spare, the launch makes its own.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import define, field

from agentix_kernel.confine.sandbox import LinuxSandbox
from agentix_kernel.confine.zygotes import Profile
from agentix_kernel.world import Confined, LaunchError

_PAUSE_S: Final = 0.005
"""The agent that was just launched comes first: it is about to run its first statement."""


@define(eq=False)
class Spare:
    """At most one. `_lock` is held while one is made, given up or handed over; `_tag` is of the one there or made."""

    _prepare: Callable[[str], Awaitable[LinuxSandbox | None]]
    _expected: str = ""
    _tag: str = ""
    sandbox: LinuxSandbox | None = None
    _closed: bool = False
    _changed: trio.Event = field(factory=trio.Event)
    _lock: trio.Lock = field(factory=trio.Lock)

    def expect(self, tag: str) -> None:
        """Make the spare of this tag soon; any other is given up."""
        if tag != self._expected:
            self._expected = tag
            self._changed.set()

    async def take(self, what: Confined, profile: Profile) -> LinuxSandbox | None:
        """The spare, if it fits: the caller's from here on. None also promises that no group has that tag for it."""
        if what.tag == self._expected:
            self._expected = ""
        if what.tag != self._tag:
            return None
        async with self._lock:
            sandbox, self.sandbox, self._tag = self.sandbox, None, ""
            if sandbox is None or _fits(sandbox, what, profile):
                return sandbox
            await _give_up(sandbox)
            return None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make what is expected, until cancelled; then there is none."""
        task_status.started()
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                await trio.sleep(_PAUSE_S)
                await self._renew()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Give it up, and make none from here on."""
        self._closed = True
        with trio.CancelScope(shield=True):
            async with self._lock:
                await self._drop()

    async def _renew(self) -> None:
        async with self._lock:
            tag = self._expected
            if self._closed or not tag or tag == self._tag:
                return
            self._tag = tag  # a launch of it waits from here on, for the group has that name soon
            await self._drop()
            with contextlib.suppress(LaunchError, OSError):  # the launch will meet it, and say it
                self.sandbox = await self._prepare(tag)

    async def _drop(self) -> None:
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await _give_up(sandbox)


def _fits(sandbox: LinuxSandbox, what: Confined, profile: Profile) -> bool:
    return sandbox.waiting and what.parent is None and sandbox.zygote[0] == profile


async def _give_up(sandbox: LinuxSandbox) -> None:
    """Kill it, proven. What Linux cannot kill keeps its group, for the sweep of the next boot."""
    with contextlib.suppress(OSError):
        await sandbox.abort()
