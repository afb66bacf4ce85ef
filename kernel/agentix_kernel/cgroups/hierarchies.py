"""A core and limits put together: the groups that the rest of the kernel uses, and the sweep of dead ones."""

import contextlib
import errno
import os
import re
import time
from typing import Final

from attrs import define, evolve, field, frozen

from agentix_kernel.cgroups.contract import Bounds, BoundsTree, Core, CoreTree, Group
from agentix_kernel.world import Limits, Usage

SWEEP_DEADLINE_S: Final = 5.0
_SWEEP_PAUSE_S: Final = 0.002
_TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@define(eq=False)
class SplitGroup:
    """One sandbox's group; see `contract.Group`."""

    tag: str
    path: str
    core: Core
    bounds: Bounds

    @property
    def cgroup_fd(self) -> int:
        return self.core.fd

    @property
    def tasks_fds(self) -> tuple[int, ...]:
        return self.bounds.tasks_fds + self.core.tasks_fds

    @property
    def oom_fd(self) -> int:
        return self.bounds.oom_fd

    async def freeze(self) -> None:
        await self.core.freeze()

    async def thaw(self) -> None:
        self.core.thaw()

    def lift_cpu(self) -> None:
        self.bounds.lift_cpu()

    def send_kill(self) -> None:
        self.core.send_kill()

    async def emptied(self) -> None:
        await self.core.emptied()

    def populated(self) -> bool:
        return self.core.populated()

    def pids(self) -> list[int]:
        return self.core.pids()

    def usage(self) -> Usage:
        usage = self.bounds.usage()
        return evolve(usage, cpu_us=max(usage.cpu_us, self.core.cpu_us()), processes=len(self.core.pids()))

    def set_limits(self, limits: Limits) -> None:
        self.bounds.set(limits)

    def remove(self) -> None:
        self.core.remove()
        self.bounds.remove()

    def close(self) -> None:
        self.core.close()
        self.bounds.close()


@frozen
class Hierarchies:
    """Our directories in the hierarchies of this machine; see `contract.Cgroups`."""

    kind: str
    missing: tuple[str, ...]
    directories: tuple[str, ...]
    """Paths of our directories, to remove them at the end."""
    _core: CoreTree = field(alias="core")
    _bounds: BoundsTree = field(alias="bounds")

    def create(self, tag: str, limits: Limits, parent: Group | None = None) -> SplitGroup:
        if not _TAG.fullmatch(tag):
            raise OSError(errno.EINVAL, f"not a name for a cgroup: {tag!r}")
        if parent is None:
            return self._create(tag, limits)
        assert isinstance(parent, SplitGroup), "a parent is a group of ours"
        path = f"{parent.path}/{tag}"
        core = self._core.create(path)
        return SplitGroup(tag, path, core, parent.bounds.share())

    def _create(self, tag: str, limits: Limits) -> SplitGroup:
        core = self._core.create(tag)
        try:
            bounds = self._bounds.create(tag, limits)
        except OSError:
            core.close()
            core.remove()
            raise
        return SplitGroup(tag, tag, core, bounds)

    def sweep(self) -> list[str]:
        tags = sorted({*self._core.tags(), *self._bounds.tags()})
        left = set(tags)
        deadline = time.monotonic() + SWEEP_DEADLINE_S
        while left:
            left = {tag for tag in left if not self._swept(tag)}
            if left and time.monotonic() > deadline:
                raise OSError(errno.EBUSY, self._survivors(left))
            time.sleep(_SWEEP_PAUSE_S if left else 0)
        return tags

    def _swept(self, tag: str) -> bool:
        """Kill what is in it; True when nothing was left and it is removed."""
        core = self._core.adopt(tag)
        if core.populated():
            core.send_kill()
            return False
        if self._bounds.pids(tag):
            self._bounds.kill(tag)
            return False
        core.remove()
        self._bounds.remove(tag)
        return True

    def _survivors(self, tags: set[str]) -> str:
        pids = {pid for tag in tags for pid in (*self._bounds.pids(tag), *self._core.adopt(tag).pids())}
        return f"cannot be killed: processes {sorted(pids)} of {sorted(tags)}"

    def close(self) -> None:
        self._core.close()
        self._bounds.close()
        for path in self.directories:
            with contextlib.suppress(OSError):  # not empty, or removed by another
                os.rmdir(path)
