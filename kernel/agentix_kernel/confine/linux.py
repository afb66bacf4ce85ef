"""System calls that Python has no function for, by ctypes.

Loaded as PyDLL: calls keep the interpreter lock, which is what a single-threaded process wants, and what a clone
between PyOS_BeforeFork and PyOS_AfterFork_* needs. Each raises OSError as functions of `os` do.
"""

import ctypes
import os
import platform
import struct
from typing import Any, Final

_libc: Final = ctypes.PyDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long

_X86: Final = platform.machine() == "x86_64"
_PIVOT_ROOT: Final = 155 if _X86 else 41
_SECCOMP: Final = 317 if _X86 else 277
_CAPSET: Final = 126 if _X86 else 91
_CAPABILITY_VERSION_3: Final = 0x20080522
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
_STATX_BASIC_STATS: Final = 0x7FF
# From 424 on, a number means the same call on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _CLONE3, _MOUNT_SETATTR = 428, 429, 435, 442
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18
MNT_DETACH: Final = 2
AT_FDCWD: Final = -100
AT_EMPTY_PATH, AT_STATX_DONT_SYNC, AT_RECURSIVE = 0x1000, 0x4000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 1, 2, 4, 0x100000

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD, CLONE_PARENT, CLONE_INTO_CGROUP = 0x1000, 0x8000, 0x200000000

SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 8, 32

_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)


def _checked(result: int, what: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what) if what else OSError(number, os.strerror(number))
    return result


def _call(number: int, *args: Any, what: str = "") -> int:
    """Integers go as longs: ctypes would pass 32 bits of them."""
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return _checked(_syscall(ctypes.c_long(number), *wide), what)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encode = os.fsencode
    _checked(_libc.mount(encode(source) if source else None, encode(target), encode(kind) if kind else None,
                         flags, encode(options) if options else None), target)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    _checked(_libc.umount2(os.fsencode(target), flags), target)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def pivot_root(new: str, old: str) -> None:
    _call(_PIVOT_ROOT, os.fsencode(new), os.fsencode(old))


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """A descriptor of a mount; with OPEN_TREE_CLONE of a detached copy of it."""
    return _call(_OPEN_TREE, dir_fd, os.fsencode(path), flags | OPEN_TREE_CLOEXEC, what=path)


def look(fd: int) -> tuple[int, int, int, int, int]:
    """(mode, uid, gid, device, inode) of a descriptor that somebody else may have opened, as far as Linux knows them:
    its file system, which may be a mount of ours or never answer, is not asked.
    """
    found = ctypes.create_string_buffer(256)
    _checked(_libc.statx(fd, b"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, _STATX_BASIC_STATS, found))
    uid, gid, mode, inode = struct.unpack_from("=IIHxxQ", found, 20)
    return mode, uid, gid, os.makedev(*struct.unpack_from("=II", found, 136)), inode


def attach(mount_fd: int, target: str) -> None:
    """Mount the detached tree `mount_fd` at `target`."""
    _call(_MOVE_MOUNT, mount_fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH, what=target)


def mount_setattr(mount_fd: int, attributes: int, *, recursive: bool = False, userns_fd: int = 0) -> None:
    """Set MOUNT_ATTR_* on the mount that `mount_fd` is open on; with `userns_fd` also map its owners."""
    attr = (ctypes.c_uint64 * 4)(attributes | (MOUNT_ATTR_IDMAP if userns_fd else 0), 0, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call(_MOUNT_SETATTR, mount_fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr))


def clone(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """clone3(2) as a fork of the interpreter. Answers (pid, pidfd) in the parent and (0, -1) in the child.

    With CLONE_PARENT the child is the parent's sibling; the signal at its end is then the parent's own.
    """
    pidfd = ctypes.c_int(-1)
    into = CLONE_INTO_CGROUP if cgroup_fd >= 0 else 0
    # flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    args = (ctypes.c_uint64 * 11)(flags | CLONE_PIDFD | into, ctypes.addressof(pidfd), 0, 0, 0, 0, 0, 0, 0, 0,
                                  max(cgroup_fd, 0))
    number, reference, size = ctypes.c_long(_CLONE3), ctypes.byref(args), ctypes.c_long(ctypes.sizeof(args))
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = _syscall(number, reference, size)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0, -1
    python.PyOS_AfterFork_Parent()
    return _checked(pid), pidfd.value


def seccomp_load(program: bytes, flags: int) -> int:
    """Load a BPF program; answers the listener's descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0."""
    buffer = ctypes.c_char_p(program)
    sock_fprog = struct.pack("@HP", len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    return _call(_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, sock_fprog)


def capset_none() -> None:
    """No capability in the effective, permitted and inheritable sets (and so in the ambient set)."""
    _call(_CAPSET, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def landlock_abi() -> int:
    """The version of Landlock that this kernel speaks; 0 without."""
    try:
        return _call(_LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def landlock_ruleset(fs: int, net: int, scoped: int) -> int:
    attr = (ctypes.c_uint64 * 3)(fs, net, scoped)
    # Older kernels take a longer struct whose unknown tail is zero.
    return _call(_LANDLOCK_CREATE_RULESET, ctypes.byref(attr), ctypes.sizeof(attr), 0)


def landlock_allow(ruleset: int, access: int, path_fd: int) -> None:
    _call(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, struct.pack("=Qi", access, path_fd), 0)


def landlock_restrict(ruleset: int) -> None:
    _call(_LANDLOCK_RESTRICT_SELF, ruleset, 0)


