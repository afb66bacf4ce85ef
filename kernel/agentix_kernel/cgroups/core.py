"""Freeze, kill and membership by cgroup v2, which needs no controller: its core files are in every directory."""

import math
import os
import select
from collections.abc import Callable

import trio
from attrs import define, field, frozen

from agentix_kernel.cgroups import kernfs


@define(eq=False)
class UnifiedCore:
    """One v2 directory, at `path` below `tree_fd`; `fd` is for who clones into it."""

    tree_fd: int
    path: str
    fd: int
    tasks_fds: tuple[int, ...] = ()
    _freezing: set[trio.CancelScope] = field(factory=set[trio.CancelScope])

    async def freeze(self) -> None:
        """Freeze by cgroup.freeze: cannot be undone from inside, and the frozen still die of a SIGKILL."""
        with trio.move_on_after(math.inf) as scope:
            self._freezing.add(scope)
            try:
                with kernfs.unless_gone():
                    self._write("cgroup.freeze", 1)
                await self._until(lambda events: events["frozen"] == 1)
            finally:
                self._freezing.discard(scope)

    def thaw(self) -> None:
        with kernfs.unless_gone():
            self._write("cgroup.freeze", 0)
        # The events file says nothing when a freeze is taken back before it was complete: wake the waiters here.
        for scope in self._freezing:
            scope.cancel()

    def send_kill(self) -> None:
        with kernfs.unless_gone():
            self._write("cgroup.kill", 1)

    async def emptied(self) -> None:
        await self._until(lambda events: events["populated"] == 0)

    def populated(self) -> bool:
        return kernfs.keyed_at(self.tree_fd, f"{self.path}/cgroup.events").get("populated", 0) == 1

    def pids(self) -> list[int]:
        return kernfs.pids_below(self.tree_fd, self.path)

    def cpu_us(self) -> int:
        return kernfs.keyed_at(self.tree_fd, f"{self.path}/cpu.stat").get("usage_usec", 0)

    def remove(self) -> None:
        kernfs.remove_below(self.tree_fd, self.path)

    def close(self) -> None:
        kernfs.close_all((self.fd,))
        self.fd = -1

    def _write(self, name: str, value: int) -> None:
        kernfs.write_at(self.tree_fd, f"{self.path}/{name}", value)

    async def _until(self, reached: Callable[[dict[str, int]], bool]) -> None:
        """Wait until cgroup.events says so, or is gone.

        kernfs files are readable at all times; a change is told as EPOLLPRI to each open file until it is read
        again. So every wait has its own descriptor, inside an epoll of its own that trio can wait for.
        """
        await trio.lowlevel.checkpoint()
        with kernfs.unless_gone():
            events_fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.tree_fd)
            try:
                with select.epoll() as changed:
                    changed.register(events_fd, select.EPOLLPRI)
                    while not reached(kernfs.keyed(os.pread(events_fd, 4096, 0).decode())):
                        await trio.lowlevel.wait_readable(changed.fileno())
            finally:
                os.close(events_fd)


@frozen
class UnifiedTree:
    """Our v2 directory, open."""

    fd: int

    def create(self, path: str) -> UnifiedCore:
        os.mkdir(path, 0o755, dir_fd=self.fd)
        return UnifiedCore(self.fd, path, kernfs.open_dir(path, self.fd))

    def adopt(self, path: str) -> UnifiedCore:
        return UnifiedCore(self.fd, path, -1)

    def tags(self) -> list[str]:
        return kernfs.children(self.fd, ".")

    def close(self) -> None:
        os.close(self.fd)
