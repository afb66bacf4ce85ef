"""Find the cgroup hierarchies of this machine and make our directory in each."""

import contextlib
import errno
import os
import re
from typing import Final

from attrs import frozen

from agentix_kernel.cgroups import kernfs
from agentix_kernel.cgroups.contract import CONTROLLERS, CoreTree
from agentix_kernel.cgroups.core import UnifiedTree
from agentix_kernel.cgroups.freezer import FreezerTree
from agentix_kernel.cgroups.hierarchies import Hierarchies
from agentix_kernel.cgroups.limits_v1 import V1Trees
from agentix_kernel.cgroups.limits_v2 import V2Tree, switch_on
from agentix_syscalls.errors import CallError

KINDS: Final = ("v2", "hybrid", "v1")
LEAF: Final = "daemon"
"""Where the daemon itself lives in a delegated subtree: v2 wants processes in leaves only."""

_V1_WANTED: Final = (*CONTROLLERS, "cpuacct", "freezer")
_MOVE_ROUNDS: Final = 100


@frozen
class Mounts:
    """Where the hierarchies are mounted: `unified` is "" when v2 is not; v1 controllers by name."""

    unified: str
    v1: dict[str, str]

    def kinds(self) -> tuple[str, ...]:
        """What can be had here, best first. A v1 controller is not to be had in v2, so v2 means: no v1 limits."""
        limits_in_v1 = any(controller in self.v1 for controller in CONTROLLERS)
        fits = {
            "v2": bool(self.unified) and not limits_in_v1,
            "hybrid": bool(self.unified) and limits_in_v1,
            "v1": "freezer" in self.v1 and limits_in_v1,
        }
        return tuple(kind for kind in KINDS if fits[kind])


def read_mounts(mountinfo: str = "/proc/self/mountinfo") -> Mounts:
    """The first mount of each hierarchy, as proc_pid_mountinfo(5) tells it."""
    unified, v1 = "", dict[str, str]()
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            front, _, back = line.partition(" - ")
            path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), front.split()[4])
            kind, _, options = back.split(maxsplit=2)
            if kind == "cgroup2":
                unified = unified or path
            elif kind == "cgroup":
                for option in options.strip().split(","):
                    if option in _V1_WANTED:
                        v1.setdefault(option, path)
    return Mounts(unified, v1)


def detect(root_name: str, *, prefer: str | None = None) -> Hierarchies:
    """Our directories `root_name`, made where they are not; `prefer` one of KINDS.

    Under pure v2 this may move the calling process into a leaf of its delegated cgroup. Raises CallError
    EOPNOTSUPP, EACCES or EROFS with the remedy.
    """
    mounts = read_mounts()
    kinds = mounts.kinds()
    kind = prefer or (kinds[0] if kinds else "none")
    if kind not in kinds:
        raise CallError(
            errno.EOPNOTSUPP,
            f"this machine has no cgroups of kind {prefer}" if prefer else "no cgroup hierarchy that can hold agents",
            remedy="mount -t cgroup2 none /sys/fs/cgroup, on a kernel with CONFIG_CGROUPS, CONFIG_MEMCG,"
            " CONFIG_CGROUP_PIDS and CONFIG_CFS_BANDWIDTH",
        )
    try:
        return _open_v2(mounts.unified, root_name) if kind == "v2" else _open_v1(kind, mounts, root_name)
    except OSError as error:
        raise CallError(
            error.errno or errno.EIO,
            f"cannot make cgroups: {error}",
            remedy="run agentd as root with /sys/fs/cgroup writable; in a systemd unit add Delegate=yes,"
            " in a container mount /sys/fs/cgroup read-write",
        ) from error


def _open_v1(kind: str, mounts: Mounts, root_name: str) -> Hierarchies:
    """Limits in v1; the core in v2 beside it (hybrid) or in the freezer."""
    counting = () if kind == "hybrid" else ("cpuacct",)  # v2 counts CPU time without a controller
    made: dict[str, int] = {}
    fds: dict[str, int] = {}
    for controller in (*CONTROLLERS, *counting):
        if controller in mounts.v1:
            path = f"{mounts.v1[controller]}/{root_name}"
            if path not in made:
                made[path] = _make(path)
            fds[controller] = made[path]
    core_path = f"{mounts.unified if kind == 'hybrid' else mounts.v1['freezer']}/{root_name}"
    core_fd = _make(core_path)
    core: CoreTree = UnifiedTree(core_fd) if kind == "hybrid" else FreezerTree(core_fd)
    missing = tuple(controller for controller in CONTROLLERS if controller not in fds)
    return Hierarchies(kind, missing, (*made, core_path), core, V1Trees(fds))


def _open_v2(mount: str, root_name: str) -> Hierarchies:
    base = _base(mount)
    if os.path.exists(f"{base}/cgroup.type"):  # only the true root has none, and may hold processes beside children
        _make_leaf(base)
    base_fd = kernfs.open_dir(base)
    try:
        switch_on(base_fd, CONTROLLERS)
    finally:
        os.close(base_fd)
    path = f"{base}/{root_name}"
    fd = _make(path)
    controllers = switch_on(fd, CONTROLLERS)
    missing = tuple(controller for controller in CONTROLLERS if controller not in controllers)
    return Hierarchies("v2", missing, (path,), UnifiedTree(fd), V2Tree(fd, controllers))


def _base(mount: str) -> str:
    """The cgroup below which we may do as we like.

    What systemd delegated to our unit (it marks the directory so); otherwise the top, where systemd leaves
    directories that it does not know alone: an agent must not live in a cgroup that systemd may rearrange.
    """
    own = os.path.normpath(mount + own_path())
    if os.path.basename(own) == LEAF:  # moved there before
        own = os.path.dirname(own)
    return own if own != mount and _delegated(own) else mount


def own_path(cgroup: str = "/proc/self/cgroup") -> str:
    """Our path in the v2 hierarchy."""
    with open(cgroup, encoding="utf-8") as lines:
        paths = [line.strip().removeprefix("0::") for line in lines if line.startswith("0::")]
    return paths[0] if paths else "/"


def _delegated(path: str) -> bool:
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    return False


def _make_leaf(base: str) -> None:
    """Move every process of `base` into its leaf: ours, and what was started beside us in the same unit."""
    leaf = f"{base}/{LEAF}"
    os.makedirs(leaf, exist_ok=True)
    base_fd = kernfs.open_dir(base)
    try:
        for _ in range(_MOVE_ROUNDS):  # who was just forking is seen in the next round
            pids = kernfs.read_at(base_fd, "cgroup.procs").split()
            if not pids:
                return
            for pid in pids:
                with kernfs.unless_gone():
                    kernfs.write_at(base_fd, f"{LEAF}/cgroup.procs", pid)
    finally:
        os.close(base_fd)
    raise OSError(errno.EBUSY, "processes keep coming back", base)


def _make(path: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    return kernfs.open_dir(path)
