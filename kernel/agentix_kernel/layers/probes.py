"""One probe a layer: each tries the thing itself, in a short-lived child where it would change this process."""

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import re
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from typing import Final

import trio
from attrs import define, frozen

from agentix_kernel.cgroups import CONTROLLERS, Group, detect
from agentix_kernel.layers import linux
from agentix_kernel.layers.rows import OFF, ON, PARTIAL, Found
from agentix_kernel.world import Limits
from agentix_syscalls.errors import CallError

LINUX_MIN: Final = (6, 1)
LANDLOCK_SCOPES_ABI: Final = 6
LANDLOCK_ABIS: Final = {
    1: "files",
    2: "moving files between folders",
    3: "truncating",
    4: "TCP bind and connect",
    5: "device ioctl",
    6: "abstract sockets and signals",
    7: "audit",
}
"""What each Landlock ABI added."""

_CAPABILITIES: Final = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_ADMIN": 12, "SYS_PTRACE": 19, "SYS_ADMIN": 21,
}  # fmt: skip
"""What the daemon needs of root; numbers of capabilities(7)."""

_GROUP_DEADLINE_S: Final = 1.0


@frozen
class CgroupsFound:
    """What was tried with one group: a Found for each of hierarchy, controllers, freeze, kill and clone."""

    rows: dict[str, Found]

    def __getitem__(self, name: str) -> Found:
        return self.rows.get(name, Found(OFF, "no cgroup to try it with"))


@define(slots=False)
class Machine:
    """This machine, for the time of one `probe_all`: what several probes need is tried once."""

    @functools.cached_property
    def cgroups(self) -> CgroupsFound:
        return _try_cgroups()

    @functools.cached_property
    def landlock_abi(self) -> int:
        return linux.landlock_abi()


Probe = Callable[[Machine], Found]


def covered(abi: int) -> str:
    """What Landlock of this ABI restrains, in words."""
    return ", ".join(words for number, words in LANDLOCK_ABIS.items() if number <= abi) or "nothing"


def root(_: Machine) -> Found:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        held = int(next(line.split()[1] for line in status if line.startswith("CapEff:")), 16)
    lacks = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if os.geteuid() != 0 or lacks:
        return Found(OFF, f"uid {os.geteuid()}, without {', '.join(f'CAP_{name}' for name in lacks) or 'nothing'}")
    return Found(ON, "uid 0 with the capabilities that confinement needs")


def linux_version(_: Machine) -> Found:
    release = platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    new_enough = numbers is not None and (int(numbers[1]), int(numbers[2])) >= LINUX_MIN
    return Found(ON if new_enough else OFF, release)


def unshares(flag: int) -> Probe:
    """A probe for one kind of namespace."""

    def attempt() -> str:
        linux.unshare(flag)
        return "entered a new one"

    return lambda _: linux.in_child(attempt)


def pivot_root(_: Machine) -> Found:
    return linux.in_child(_pivot)


def _pivot() -> str:
    _private_tmp()
    os.mkdir("/tmp/old")
    linux.syscall("pivot_root", b"/tmp", b"/tmp/old")
    return "moved into a root of its own"


def _private_tmp() -> None:
    """An own mount namespace with an empty /tmp in it, of which the host sees nothing."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("agentix-probe", "/tmp", "tmpfs")


def open_tree(_: Machine) -> Found:
    return linux.in_child(_clone_read_only)


def _clone_root() -> int:
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    return linux.syscall("open_tree", linux.AT_FDCWD, b"/", linux.OPEN_TREE_CLONE | linux.OPEN_TREE_CLOEXEC)


def _set_attributes(tree_fd: int, attributes: linux.MountAttr) -> None:
    size = ctypes.sizeof(attributes)
    linux.syscall("mount_setattr", tree_fd, b"", linux.AT_EMPTY_PATH, ctypes.byref(attributes), size)


def _clone_read_only() -> str:
    _set_attributes(_clone_root(), linux.MountAttr(attr_set=linux.MOUNT_ATTR_RDONLY))
    return "cloned a mount by descriptor and made it read-only"


def idmap(_: Machine) -> Found:
    found = linux.in_child(_map_owners)
    # A file system decides for itself: that of / says nothing certain about that of a folder.
    return found if found.state == ON else Found(PARTIAL, f"not on the file system of /: {found.detail}")


def _map_owners() -> str:
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:  # holds a user namespace open
        with contextlib.suppress(OSError):
            linux.unshare(linux.CLONE_NEWUSER)
        os.write(go, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as table:
                table.write("0 100000 1")
        userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        _set_attributes(_clone_root(), linux.MountAttr(attr_set=linux.MOUNT_ATTR_IDMAP, userns_fd=userns))
    finally:
        os.kill(pid, signal.SIGKILL)
    return "mapped the owners of a clone of /"


def no_new_privs(_: Machine) -> Found:
    def attempt() -> str:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        assert linux.prctl(linux.PR_GET_NO_NEW_PRIVS) == 1
        return "set and read back"

    return linux.in_child(attempt)


def seccomp(_: Machine) -> Found:
    def attempt() -> str:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.allow_all_filter(0)
        return "loaded a filter"

    return linux.in_child(attempt)


def seccomp_notify(_: Machine) -> Found:
    def attempt() -> str:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.allow_all_filter(linux.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        return "loaded a filter with a listener"

    return linux.in_child(attempt)


def landlock(machine: Machine) -> Found:
    if not machine.landlock_abi:
        return Found(OFF, "not in this kernel, or not switched on")
    found = linux.in_child(_restrict_reading)
    return Found(found.state, f"ABI {machine.landlock_abi} covers: {covered(machine.landlock_abi)}; {found.detail}")


def _restrict_reading() -> str:
    rules = ctypes.c_uint64(linux.LANDLOCK_ACCESS_FS_READ_FILE)
    ruleset = linux.syscall("landlock_create_ruleset", ctypes.byref(rules), ctypes.sizeof(rules), 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.syscall("landlock_restrict_self", ruleset, 0)
    try:
        os.close(os.open("/proc/self/status", os.O_RDONLY))
    except PermissionError:
        return "a forbidden read was refused"
    raise OSError(0, "a forbidden read was let through")


def landlock_tcp(machine: Machine) -> Found:
    return _from_abi(machine, 4)


def landlock_scopes(machine: Machine) -> Found:
    return _from_abi(machine, LANDLOCK_SCOPES_ABI)


def _from_abi(machine: Machine, needed: int) -> Found:
    state = ON if machine.landlock_abi >= needed else OFF
    return Found(state, f"{LANDLOCK_ABIS[needed]}: needs ABI {needed}, this kernel has {machine.landlock_abi}")


def fuse(_: Machine) -> Found:
    if importlib.util.find_spec("pyfuse3") is None:
        return Found(OFF, "the package pyfuse3 is not installed")
    found = linux.in_child(_mount_fuse)
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    return Found(found.state, f"{found.detail}; {helper or 'no fusermount3 (only needed without root)'}")


def _mount_fuse() -> str:
    _private_tmp()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    linux.mount("agentix-probe", "/tmp", "fuse", 0, f"fd={device},rootmode=40000,user_id=0,group_id=0")
    return "mounted one"


def pidfd(_: Machine) -> Found:
    try:
        fd = os.pidfd_open(os.getpid())
        signal.pidfd_send_signal(fd, 0)
    except OSError as error:
        return Found(OFF, str(error.strerror))
    os.close(fd)
    return Found(ON, "opened one and signalled through it")


def cgroup(name: str) -> Probe:
    """A probe that reads what `_try_cgroups` has found of `name`."""
    return lambda machine: machine.cgroups[name]


def _try_cgroups() -> CgroupsFound:
    """Make one group, put a process in, freeze and kill it; all is removed afterwards."""
    try:
        cgroups = detect(f"agentix-doctor-{os.getpid()}")
    except CallError as error:
        return CgroupsFound({"cgroup": Found(OFF, error.message)})
    rows = {"cgroup": Found(ON, f"{cgroups.kind}: {', '.join(cgroups.directories)}")}
    for controller in CONTROLLERS:
        there = controller not in cgroups.missing
        rows[controller] = Found(ON if there else OFF, "limits can be set" if there else "no such controller here")
    with contextlib.closing(cgroups):
        try:
            cgroups.sweep()  # a kernel that died just here may have had our pid
            group = cgroups.create("probe", Limits())
            try:
                rows |= _try_group(group)
            finally:
                group.close()
                cgroups.sweep()
        except OSError as error:
            rows["cgroup"] = Found(OFF, f"a group cannot be made: {error}")
    return CgroupsFound(rows)


def _try_group(group: Group) -> dict[str, Found]:
    cloned = _clone_into(group)
    pid = cloned if isinstance(cloned, int) else _fork_into(group)
    try:
        froze, emptied = trio.run(_freeze_and_kill, group)  # pyright: ignore[reportUnknownMemberType] - trio's types
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {
        "clone": Found(ON, "a process was born in its cgroup") if isinstance(cloned, int) else cloned,
        "freeze": Found(ON, "a process was frozen") if froze else Found(OFF, "a process did not freeze"),
        "kill": Found(ON, "all of it died") if emptied else Found(OFF, "a process did not die"),
    }


async def _freeze_and_kill(group: Group) -> tuple[bool, bool]:
    assert group.populated(), "the process that was put in is there"
    with trio.move_on_after(_GROUP_DEADLINE_S) as freezing:
        await group.freeze()
    await group.thaw()
    group.send_kill()
    with trio.move_on_after(_GROUP_DEADLINE_S) as dying:
        await group.emptied()
    return not freezing.cancelled_caught, not dying.cancelled_caught


def _clone_into(group: Group) -> int | Found:
    """The pid of a process that sleeps in the group, cloned into it; or why that cannot be."""
    if group.cgroup_fd < 0:
        return Found(OFF, "there is no v2 hierarchy to clone into")
    arguments = linux.CloneArgs(
        flags=linux.CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=group.cgroup_fd
    )
    try:
        pid = linux.syscall("clone3", ctypes.byref(arguments), ctypes.sizeof(arguments))
    except OSError as error:
        return Found(OFF, str(error.strerror))
    if pid == 0:
        _sleep_for_ever()
    return pid


def _fork_into(group: Group) -> int:
    """The same where it cannot be cloned into: the child joins by itself, as an agent does in v1."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for fd in group.tasks_fds:
                os.write(fd, b"0")
            if group.cgroup_fd >= 0:
                os.write(os.open("cgroup.procs", os.O_WRONLY, dir_fd=group.cgroup_fd), b"0")
            os.write(writer, b"x")
        finally:
            _sleep_for_ever()
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return pid


def _sleep_for_ever() -> None:
    try:
        signal.pause()
    finally:
        os._exit(0)


def pgo(_: Machine) -> Found:
    python = f"Python {platform.python_version()}"
    if sys.base_prefix == "/usr":  # Debian and Ubuntu build with profiles, and do not say so in the build's flags
        return Found(ON, f"{python} of the distribution, which builds it with profile-guided optimisation")
    flags = f"{sysconfig.get_config_var('CONFIG_ARGS')} {sysconfig.get_config_var('PY_CORE_CFLAGS')}"
    fast = "--enable-optimizations" in flags or "-fprofile-use" in flags
    return Found(ON, f"{python}, profile-guided build") if fast else Found(PARTIAL, f"{python}, plain build")
