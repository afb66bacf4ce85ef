"""Limits by the v2 controllers memory, cpu and pids, in the same directory that freezes and kills."""

import contextlib
import errno
import os
import select
from collections.abc import Iterable

from attrs import define, field, frozen

from agentix_kernel.cgroups import kernfs
from agentix_kernel.cgroups.contract import CPU_PERIOD_US, Bounds, cpu_quota_us
from agentix_kernel.world import Limits, Usage


@define(eq=False)
class V2Bounds:
    """The limits of the directory `tag` below `tree_fd`; none when `controllers` is empty (a child's)."""

    tree_fd: int
    tag: str
    controllers: frozenset[str]
    oom_fd: int = -1
    tasks_fds: tuple[int, ...] = field(default=(), init=False)
    _events_fd: int = field(default=-1, init=False)

    def set(self, limits: Limits) -> None:
        if "memory" in self.controllers:
            self._write("memory.max", "max" if limits.memory_bytes is None else limits.memory_bytes)
        if "cpu" in self.controllers:
            self._write("cpu.max", f"{cpu_quota_us(limits) or 'max'} {CPU_PERIOD_US}")
        if "pids" in self.controllers:
            self._write("pids.max", "max" if limits.pids is None else limits.pids)

    def lift_cpu(self) -> None:
        if "cpu" in self.controllers:
            with kernfs.unless_gone():
                self._write("cpu.max", "max")

    def usage(self) -> Usage:
        if not self.controllers:
            return Usage()
        return Usage(
            memory_bytes=self._number("memory.current"),
            memory_peak_bytes=self._number("memory.peak"),
            oom_kills=self._memory_events().get("oom_kill", 0),
            pids_refused=self._keyed("pids.events").get("max", 0),
        )

    def share(self) -> "V2Bounds":
        """The child's directory lies in this one, where no controller is switched on: it has none."""
        return V2Bounds(self.tree_fd, self.tag, frozenset())

    def remove(self) -> None:
        """The core's directory is ours too: it removes it."""

    def close(self) -> None:
        kernfs.close_all((self.oom_fd, self._events_fd))
        self.oom_fd = self._events_fd = -1

    def bound_memory(self) -> None:
        """No swap; the whole group dies of the out-of-memory killer, not one of its processes; watch for that."""
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            self._write("memory.swap.max", 0)
        self._write("memory.oom.group", 1)
        events = f"{self.tag}/memory.events"
        self._events_fd = os.open(events, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.tree_fd)
        # Always readable, like every file here; changes are told as EPOLLPRI: so the owner waits for an epoll.
        os.pread(self._events_fd, 4096, 0)
        with contextlib.closing(select.epoll()) as changed:
            changed.register(self._events_fd, select.EPOLLPRI)
            self.oom_fd = os.dup(changed.fileno())

    def _memory_events(self) -> dict[str, int]:
        if self._events_fd < 0:
            return self._keyed("memory.events")
        with kernfs.unless_gone():  # reading by this descriptor is what makes `oom_fd` quiet
            return kernfs.keyed(os.pread(self._events_fd, 4096, 0).decode())
        return {}

    def _write(self, name: str, value: object) -> None:
        kernfs.write_at(self.tree_fd, f"{self.tag}/{name}", value)

    def _number(self, name: str) -> int:
        return kernfs.number_at(self.tree_fd, f"{self.tag}/{name}")

    def _keyed(self, name: str) -> dict[str, int]:
        return kernfs.keyed_at(self.tree_fd, f"{self.tag}/{name}")


@frozen
class V2Tree:
    """Our v2 directory (the core tree's descriptor) and the controllers switched on for what is below it."""

    fd: int
    controllers: frozenset[str]

    def create(self, tag: str, limits: Limits) -> Bounds:
        """Set the limits of the directory that the core has made; removing it is the core's business."""
        bounds = V2Bounds(self.fd, tag, self.controllers)
        try:
            bounds.set(limits)
            if "memory" in self.controllers:
                bounds.bound_memory()
        except OSError:
            bounds.close()
            raise
        return bounds

    def tags(self) -> list[str]:
        return kernfs.children(self.fd, ".")

    def pids(self, tag: str) -> list[int]:
        return kernfs.pids_below(self.fd, tag)

    def kill(self, tag: str) -> None:
        kernfs.kill_below(self.fd, tag)

    def remove(self, tag: str) -> None:
        kernfs.remove_below(self.fd, tag)

    def close(self) -> None:
        """The core's tree closes the descriptor."""


def switch_on(dir_fd: int, wanted: Iterable[str]) -> frozenset[str]:
    """Let the directories below have these controllers; which of them they have, read back.

    One by one: a write of several is refused as a whole when one is not there. Raises OSError EBUSY when processes
    live in the directory itself.
    """
    there = set(kernfs.read_at(dir_fd, "cgroup.controllers").split())
    for controller in wanted:
        if controller in there:
            try:
                kernfs.write_at(dir_fd, "cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise
    return frozenset(wanted) & set(kernfs.read_at(dir_fd, "cgroup.subtree_control").split())
