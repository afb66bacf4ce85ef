"""The table of Linux system calls that agents may not make: what seccomp does with each, and why.

What is not in it is allowed: the list takes away what reaches past the sandbox (mounts, namespaces, other processes,
kernel code, the machine), what has a long record of kernel holes and no use for agents, and what would leave a trap
on the host (setuid files in a folder bound writable). Calls newer than LAST_KNOWN do not exist for agents.
"""

from enum import Enum
from typing import Final, NamedTuple


class Action(Enum):
    """REFUSE: EPERM, told to the kernel by user notification. FATAL: the same, and the agent is killed for it.

    ABSENT: ENOSYS, silently, so that libraries fall back to an older call that can be looked into.
    NO_FAMILY: EAFNOSUPPORT, silently: the answer of a kernel without that protocol.
    """

    REFUSE = "refuse"
    FATAL = "fatal"
    ABSENT = "absent"
    NO_FAMILY = "no family"


class Test(NamedTuple):
    """A test of one argument (64 bits wide): `op` is "==" (of the bits in `mask`), ">" or "!="."""

    argument: int
    op: str
    value: int
    mask: int = 0xFFFF_FFFF_FFFF_FFFF


class Row(NamedTuple):
    """`tests` must all hold for the row to act. `number`: for calls that libseccomp may be too old to know."""

    name: str
    action: Action
    why: str
    tests: tuple[Test, ...] = ()
    number: int | None = None


_R, _F, _A = Action.REFUSE, Action.FATAL, Action.ABSENT
_32_BITS: Final = 0xFFFF_FFFF


def _each(names: str, action: Action, why: str) -> tuple[Row, ...]:
    return tuple(Row(name, action, why) for name in names.split())


def _bits(argument: int, bits: int) -> Test:
    return Test(argument, "==", bits, bits)


def _set_id(name: str, argument: int, *others: Test, number: int | None = None) -> tuple[Row, ...]:
    why = "a set-id file in a folder of the host would run with its owner's rights there"
    return tuple(Row(name, _R, why, (_bits(argument, bit), *others), number) for bit in (0o4000, 0o2000))


def _creating(name: str, mode: int, flags: int) -> tuple[Row, ...]:
    o_creat, o_tmpfile = 0o100, 0o20000000
    return (*_set_id(name, mode, _bits(flags, o_creat)),
            *_set_id(name, mode, _bits(flags, o_tmpfile)))


def _namespaces() -> tuple[Row, ...]:
    # Not CLONE_NEWTIME: its bit is part of the signal number here; clone3 alone takes it, and is absent.
    flags = {"mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
             "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
    return tuple(Row("clone", _R, f"a new {name} namespace gives rights that the sandbox took", (_bits(0, bit),))
                 for name, bit in flags.items())


ALLOWED_FAMILIES: Final = {1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6"}


def _families() -> tuple[Row, ...]:
    why = "protocols beyond AF_UNIX and IP reach the kernel's rarely trodden paths"
    low = [family for family in range(max(ALLOWED_FAMILIES)) if family not in ALLOWED_FAMILIES]
    return (*(Row("socket", Action.NO_FAMILY, why, (Test(0, "==", family, _32_BITS),)) for family in low),
            Row("socket", Action.NO_FAMILY, why, (Test(0, ">", max(ALLOWED_FAMILIES)),)),
            Row("socketpair", Action.NO_FAMILY, why, (Test(0, "!=", 1),)))


ROWS: Final = (
    *_each("ptrace process_vm_readv process_vm_writev", _F, "looks into or changes other processes"),
    *_each("kcmp", _R, "compares kernel objects of processes"),
    *_each("bpf", _F, "loads programs into the kernel"),
    *_each("kexec_load kexec_file_load reboot", _F, "replaces or stops the kernel"),
    *_each("init_module finit_module delete_module create_module", _F, "changes the kernel's code"),
    *_each("iopl ioperm", _F, "touches the hardware's ports"),
    *_each("mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr", _R,
           "changes what the sandbox sees of files"),
    Row("open_tree_attr", _R, "changes what the sandbox sees of files", (), 467),
    *_each("unshare setns", _R, "enters or makes namespaces"),
    *_namespaces(),
    *_each("clone3", _A, "its flags lie in memory where no filter can read them; libraries fall back to clone"),
    *_each("openat2", _A, "its mode lies in memory where no filter can read it; libraries fall back to openat"),
    *_families(),
    *_each("keyctl add_key request_key", _R, "kernel keyrings are not divided by namespaces"),
    *_each("io_uring_setup io_uring_enter io_uring_register", _R, "makes calls that no filter sees"),
    *_each("open_by_handle_at name_to_handle_at", _R, "opens files around the path walk"),
    *_each("userfaultfd", _R, "holds the kernel still at a chosen point: the exploit writer's tool"),
    *_each("perf_event_open", _R, "observes the machine beyond the sandbox"),
    *_each("swapon swapoff acct quotactl quotactl_fd nfsservctl syslog vhangup lookup_dcookie uselib _sysctl",
           _R, "administers the machine"),
    *_each("settimeofday clock_settime clock_adjtime adjtimex stime", _R, "sets the machine's clock"),
    *_each("sethostname setdomainname", _R, "renames the sandbox, whose name is the operator's to give"),
    *_each("move_pages migrate_pages mbind set_mempolicy set_mempolicy_home_node", _R, "places memory of the machine"),
    *_each("modify_ldt vm86 vm86old", _R, "sets up segments that only old holes need"),
    *_each("fanotify_init", _R, "watches whole mounts"),
    Row("personality", _R, "old execution domains and switched-off defences; a query is allowed",
        (Test(0, "!=", _32_BITS),)),
    Row("ioctl", _R, "types into the terminal of whoever started the agent (TIOCSTI)",
        (Test(1, "==", 0x5412, _32_BITS),)),
    Row("ioctl", _R, "pastes into the console (TIOCLINUX)",
        (Test(1, "==", 0x541C, _32_BITS),)),
    *_set_id("chmod", 1),
    *_set_id("fchmod", 1),
    *_set_id("fchmodat", 2),
    *_set_id("fchmodat2", 2, number=452),
    *_set_id("mknod", 1),
    *_set_id("mknodat", 2),
    *_set_id("creat", 1),
    *_creating("open", 2, 1),
    *_creating("openat", 3, 2),
    Row("lsm_set_self_attr", _R, "changes the security module's view of the sandbox", (), 460),
)

LAST_KNOWN: Final = 470
"""The newest call (listns, Linux 6.19) that was looked at for this table; those after it answer ENOSYS."""
LAST_RESERVED: Final = 511
"""From 512 on, x86-64 has numbers of the x32 ABI, which is refused as a whole."""
