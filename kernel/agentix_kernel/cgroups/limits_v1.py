"""Limits by the v1 controllers memory, cpu and pids; cpuacct counts where v2 does not."""

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen

from agentix_kernel.cgroups import kernfs
from agentix_kernel.cgroups.contract import Bounds, cpu_quota_us
from agentix_kernel.world import Limits, Usage

_MEMORY: Final = "memory.limit_in_bytes"
_MEMORY_AND_SWAP: Final = "memory.memsw.limit_in_bytes"


@define(eq=False)
class V1Bounds:
    """The directories `tag` below the descriptors of `trees` (controller -> our directory in its hierarchy)."""

    trees: Mapping[str, int]
    tag: str
    tasks_fds: tuple[int, ...] = ()
    oom_fd: int = -1
    _ran_out: bool = field(default=False, init=False)

    def set(self, limits: Limits) -> None:
        if "memory" in self.trees:
            self._set_memory(-1 if limits.memory_bytes is None else limits.memory_bytes)
        if "cpu" in self.trees:
            quota = cpu_quota_us(limits)  # the period is CPU_PERIOD_US unless somebody changes it
            self._write("cpu", "cpu.cfs_quota_us", -1 if quota is None else quota)
        if "pids" in self.trees:
            self._write("pids", "pids.max", "max" if limits.pids is None else limits.pids)

    def lift_cpu(self) -> None:
        if "cpu" in self.trees:
            with kernfs.unless_gone():
                self._write("cpu", "cpu.cfs_quota_us", -1)

    def usage(self) -> Usage:
        return Usage(
            cpu_us=self._number("cpuacct", "cpuacct.usage") // 1000,
            memory_bytes=self._number("memory", "memory.usage_in_bytes"),
            memory_peak_bytes=self._number("memory", "memory.max_usage_in_bytes"),
            oom_kills=self._oom_kills(),
            pids_refused=self._keyed("pids", "pids.events").get("max", 0),
        )

    def share(self) -> "V1Bounds":
        """The child's processes join the same directories."""
        return V1Bounds({}, self.tag, tuple(os.dup(fd) for fd in self.tasks_fds))

    def remove(self) -> None:
        for fd in set(self.trees.values()):
            kernfs.remove_below(fd, self.tag)

    def close(self) -> None:
        kernfs.close_all((*self.tasks_fds, self.oom_fd))
        self.tasks_fds, self.oom_fd = (), -1

    def _set_memory(self, limit: int) -> None:
        """Memory, and memory with swap, to the same value: no way out into swap.

        The second may never be below the first, so it goes last when they fall and first when they rise.
        """
        with_swap = kernfs.exists_at(self.trees["memory"], f"{self.tag}/{_MEMORY_AND_SWAP}")
        try:
            self._write("memory", _MEMORY, limit)
        except OSError as error:
            if error.errno != errno.EINVAL or not with_swap:
                raise
            self._write("memory", _MEMORY_AND_SWAP, limit)
            self._write("memory", _MEMORY, limit)
        else:
            if with_swap:
                self._write("memory", _MEMORY_AND_SWAP, limit)

    def watch_memory(self) -> None:
        """Make `oom_fd`: an eventfd that memory.oom_control counts up."""
        tree = self.trees["memory"]
        self.oom_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control_fd = os.open(f"{self.tag}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC, dir_fd=tree)
        try:
            kernfs.write_at(tree, f"{self.tag}/cgroup.event_control", f"{self.oom_fd} {control_fd}")
        finally:
            os.close(control_fd)

    def _oom_kills(self) -> int:
        """How many were killed; at least 1 once we were told, for the kernel tells before it kills and counts.

        Also makes `oom_fd` quiet. A last wake-up, when the group is removed, means nothing.
        """
        told = False
        if self.oom_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                told = os.eventfd_read(self.oom_fd) > 0
        control = self._keyed("memory", "memory.oom_control")
        self._ran_out = self._ran_out or (told and bool(control))
        return max(control.get("oom_kill", 0), int(self._ran_out))

    def _write(self, controller: str, name: str, value: object) -> None:
        kernfs.write_at(self.trees[controller], f"{self.tag}/{name}", value)

    def _number(self, controller: str, name: str) -> int:
        return kernfs.number_at(self.trees[controller], f"{self.tag}/{name}") if controller in self.trees else 0

    def _keyed(self, controller: str, name: str) -> dict[str, int]:
        return kernfs.keyed_at(self.trees[controller], f"{self.tag}/{name}") if controller in self.trees else {}


@frozen
class V1Trees:
    """Our directory in each v1 hierarchy that limits; controllers of one hierarchy share a descriptor."""

    fds: Mapping[str, int]

    def create(self, tag: str, limits: Limits) -> Bounds:
        """Make the directories; what was made is removed when one fails."""
        bounds = V1Bounds(self.fds, tag)
        with contextlib.ExitStack() as undo:
            undo.callback(bounds.close)
            for fd in dict.fromkeys(self.fds.values()):
                os.mkdir(tag, 0o755, dir_fd=fd)
                undo.callback(os.rmdir, tag, dir_fd=fd)
                bounds.tasks_fds += (kernfs.open_tasks(tag, fd),)
            bounds.set(limits)
            if "memory" in self.fds:
                bounds.watch_memory()
            undo.pop_all()
        return bounds

    def tags(self) -> list[str]:
        return sorted({tag for fd in set(self.fds.values()) for tag in kernfs.children(fd, ".")})

    def pids(self, tag: str) -> list[int]:
        return sorted({pid for fd in set(self.fds.values()) for pid in kernfs.pids_below(fd, tag)})

    def kill(self, tag: str) -> None:
        for fd in set(self.fds.values()):
            kernfs.kill_below(fd, tag)

    def remove(self, tag: str) -> None:
        for fd in set(self.fds.values()):
            kernfs.remove_below(fd, tag)

    def close(self) -> None:
        kernfs.close_all(set(self.fds.values()))
