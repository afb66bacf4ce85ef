"""Freeze, kill and membership by the v1 freezer, where there is no v2.

Weaker than v2 in two ways: nothing tells of changes, so waiting is asking again; and what is frozen does not die of
a SIGKILL until it is thawed, so a child cannot be killed while its parent's group is frozen.
"""

import os
import time
from collections.abc import Callable
from typing import Final

import trio
from attrs import define, frozen

from agentix_kernel.cgroups import kernfs

_FIRST_PAUSE_S: Final = 0.0005
_LONGEST_PAUSE_S: Final = 0.02
_KILL_WAIT_S: Final = 0.02
"""How long `send_kill` holds up the daemon for stragglers that do not freeze (those that wait for FUSE never do)."""


@define(eq=False)
class FreezerCore:
    """One directory of the freezer, at `path` below `tree_fd`."""

    tree_fd: int
    path: str
    tasks_fds: tuple[int, ...]
    fd: int = -1

    async def freeze(self) -> None:
        with kernfs.unless_gone():
            self._write("FROZEN")
        await self._until(lambda: self._state() != "FREEZING")

    def thaw(self) -> None:
        with kernfs.unless_gone():
            self._write("THAWED")

    def send_kill(self) -> None:
        """Freeze, so that nothing forks away; SIGKILL all; thaw, so that they die of it."""
        with kernfs.unless_gone():
            self._write("FROZEN")
            deadline = time.monotonic() + _KILL_WAIT_S
            while self._state() == "FREEZING" and time.monotonic() < deadline:
                kernfs.kill_below(self.tree_fd, self.path)
                time.sleep(_FIRST_PAUSE_S)
            kernfs.kill_below(self.tree_fd, self.path)
        self.thaw()

    async def emptied(self) -> None:
        await self._until(lambda: not self.populated())

    def populated(self) -> bool:
        return bool(self.pids())

    def pids(self) -> list[int]:
        return kernfs.pids_below(self.tree_fd, self.path)

    def cpu_us(self) -> int:
        return 0

    def remove(self) -> None:
        kernfs.remove_below(self.tree_fd, self.path)

    def close(self) -> None:
        kernfs.close_all(self.tasks_fds)
        self.tasks_fds = ()

    def _write(self, state: str) -> None:
        kernfs.write_at(self.tree_fd, f"{self.path}/freezer.state", state)

    def _state(self) -> str:
        with kernfs.unless_gone():
            return kernfs.read_at(self.tree_fd, f"{self.path}/freezer.state").strip()
        return "FROZEN"

    async def _until(self, reached: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        pause = _FIRST_PAUSE_S
        while not reached():
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)


@frozen
class FreezerTree:
    """Our directory in the freezer, open."""

    fd: int

    def create(self, path: str) -> FreezerCore:
        os.mkdir(path, 0o755, dir_fd=self.fd)
        return FreezerCore(self.fd, path, (kernfs.open_tasks(path, self.fd),))

    def adopt(self, path: str) -> FreezerCore:
        return FreezerCore(self.fd, path, ())

    def tags(self) -> list[str]:
        return kernfs.children(self.fd, ".")

    def close(self) -> None:
        os.close(self.fd)
