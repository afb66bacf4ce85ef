"""Raw Linux calls that the probes try: numbers, flags and structures from the kernel's own headers (uapi)."""

import ctypes
import os
import platform
import select
import signal
from collections.abc import Callable
from typing import Final

from agentix_kernel.layers.rows import OFF, ON, Found

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_INTO_CGROUP: Final = 0x200000000

MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_IDMAP: Final = 0x00100000
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3
SECCOMP_RET_ALLOW: Final = 0x7FFF0000
BPF_RET_K: Final = 0x06
LANDLOCK_CREATE_RULESET_VERSION: Final = 1
LANDLOCK_ACCESS_FS_READ_FILE: Final = 1 << 2

CHILD_DEADLINE_S: Final = 2.0

_ARM: Final = platform.machine() == "aarch64"
# Since 5.0 every architecture gives new calls the same number.
_NR: Final = {
    "pivot_root": 41 if _ARM else 155,
    "seccomp": 277 if _ARM else 317,
    "open_tree": 428,
    "clone3": 435,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_restrict_self": 446,
}
# PyDLL: the calls are short, and after a clone only the thread that holds the lock is there to go on.
_LIBC: Final = ctypes.PyDLL(None, use_errno=True)


class BpfInstruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class BpfProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(BpfInstruction)))


class MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class CloneArgs(ctypes.Structure):
    """struct clone_args up to `cgroup` (CLONE_ARGS_SIZE_VER2)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
            *("set_tid", "set_tid_size", "cgroup"),
        )
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(name: str, *arguments: object) -> int:
    """Make a call by its name; integers go as long, bytes and ctypes values as they are. Raises OSError."""
    native = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(int(_LIBC.syscall(ctypes.c_long(_NR[name]), *native)), name)


def unshare(flags: int) -> None:
    _checked(int(_LIBC.unshare(ctypes.c_int(flags))), "unshare")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    texts = [text.encode() for text in (source, target, kind)]
    _checked(int(_LIBC.mount(*texts, ctypes.c_ulong(flags), data.encode())), "mount")


def prctl(option: int, value: int = 0) -> int:
    zeros = [ctypes.c_ulong(0)] * 3
    return _checked(int(_LIBC.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *zeros)), "prctl")


def allow_all_filter(flags: int) -> int:
    """Load the shortest seccomp filter there is; the listener with that flag. Needs no_new_privs."""
    instruction = BpfInstruction(BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW)
    program = BpfProgram(1, ctypes.pointer(instruction))
    return syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program))


def landlock_abi() -> int:
    """The highest Landlock ABI of this kernel; 0 when it has none or it is switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def in_child(attempt: Callable[[], str]) -> Found:
    """Try something that would change this process in a fork of it, within CHILD_DEADLINE_S.

    To be called while the process has one thread. ON with what `attempt` answers; OFF with its error.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _report(attempt, writer)
    os.close(writer)
    try:
        told = bool(select.select([reader], [], [], CHILD_DEADLINE_S)[0])
        text = os.read(reader, 4096).decode() if told else ""
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)  # our child, not yet waited for: the number is its own
        os.waitpid(pid, 0)
    state, _, detail = text.partition(" ")
    return Found(state, detail) if state in {ON, OFF} else Found(OFF, "the attempt died or did not end")


def _report(attempt: Callable[[], str], writer: int) -> None:
    """The child's whole life: never returns."""
    try:
        text = f"{ON} {attempt()}"
    except BaseException as error:  # noqa: ASYNC103 - it must not unwind into the parent's code
        text = f"{OFF} {error.strerror if isinstance(error, OSError) else repr(error)}"
    try:
        os.write(writer, text.encode())
    finally:
        os._exit(0)
