"""A workload without a kernel of agents: the same processes in a cgroup of our own, to be killed barely.

They have no capabilities, a uid that nobody else has and a mount namespace of their own, since some are hostile. The
cgroups are made by the kernel's own library, whose send_kill is one write to cgroup.kill where Linux has it.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, NoReturn

import prctl
import trio

from agentix_kernel.cgroups import Cgroups, Group, detect
from agentix_kernel.world import Limits

UID_FIRST: Final = 2_000_000_000
"""Far above the ranges that accounts, containers and agents are given; a process adds its own pid."""
_DROP: Final = ("--clear-groups", "--inh-caps", "-all", "--bounding-set", "-all", "--no-new-privs")


@contextmanager
def own_cgroups() -> Generator[Cgroups]:
    """Directories of this process's own in every hierarchy. Orphans of the cages come to us, to be reaped."""
    prctl.set_child_subreaper(1)
    try:
        cgroups = detect(f"agentix-bench-{os.getpid()}")
        try:
            yield cgroups
        finally:
            cgroups.close()
    finally:
        prctl.set_child_subreaper(0)


def own_uid() -> int:
    """A uid for this process's cages."""
    return UID_FIRST + os.getpid()


@contextmanager
def caged(
    cgroups: Cgroups, tag: str, argv: list[str], env: dict[str, str], uid: int, limits: Limits,
) -> Generator[Group]:
    """Run `argv` in a new cgroup; on leaving, all of it is dead, reaped and removed."""
    group = cgroups.create(tag, limits)
    try:
        pid = os.fork()
        if pid == 0:
            _enter(group, argv, env, uid)
        try:
            yield group
        finally:
            trio.run(kill, group)  # pyright: ignore[reportUnknownMemberType] - trio's types
            _reap(pid)
    finally:
        group.remove()
        group.close()


async def kill(group: Group) -> None:
    """The bare kill: nothing asked, recorded or given back, but proven."""
    group.send_kill()
    await group.emptied()


def _enter(group: Group, argv: list[str], env: dict[str, str], uid: int) -> NoReturn:
    try:
        os.setsid()
        for fd in group.tasks_fds:
            os.write(fd, b"0")
        if group.cgroup_fd >= 0:
            with open(os.open("cgroup.procs", os.O_WRONLY, dir_fd=group.cgroup_fd), "wb", buffering=0) as procs:
                procs.write(b"0")
        identity = ["--reuid", str(uid), "--regid", str(uid)]
        confine = ["unshare", "--mount", "setpriv", *identity, *_DROP, "--", *argv]
        os.execvpe(confine[0], confine, env)
    finally:
        os._exit(127)


def _reap(session: int) -> None:
    """Every process of that session, which is our child by birth or as an orphan."""
    try:
        while True:
            os.waitpid(-session, 0)
    except ChildProcessError:
        return
