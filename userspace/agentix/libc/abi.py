"""Numbers of the ABI, as the tables in agentix_syscalls have them, without the cost of importing the tables.

Rendered: change the tables, then run man/render.py. A test compares.
"""

import enum
from typing import Final

# BEGIN abi
O_RDONLY: Final = 0
O_WRONLY: Final = 1
O_RDWR: Final = 2
O_ACCMODE: Final = 3
O_CREAT: Final = 64
O_EXCL: Final = 128
O_TRUNC: Final = 512
O_APPEND: Final = 1024
O_DIRECTORY: Final = 65536
O_NOFOLLOW: Final = 131072
OPEN_FLAGS: Final = 198339
AT_REMOVEDIR: Final = 512
AT_SYMLINK_NOFOLLOW: Final = 256
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
WNOHANG: Final = 1
SIG_BLOCK: Final = 0
SIG_UNBLOCK: Final = 1
SIG_SETMASK: Final = 2
SIG_DFL: Final = 0
SIG_IGN: Final = 1
SIG_HANDLE: Final = 2
SIGWAIT_DELIVERABLE: Final = 1
READ_MAX_BYTES: Final = 1048576
CURRENT: Final = -1
SYS_HELLO: Final = 0
SYS_OPEN: Final = 1
SYS_CLOSE: Final = 2
SYS_READ: Final = 3
SYS_WRITE: Final = 4
SYS_SEEK: Final = 5
SYS_STAT: Final = 6
SYS_READDIR: Final = 7
SYS_MKDIR: Final = 8
SYS_UNLINK: Final = 9
SYS_RENAME: Final = 10
SYS_TRUNCATE: Final = 11
SYS_SYNC: Final = 12
SYS_SPAWN: Final = 16
SYS_EXEC: Final = 17
SYS_WAIT: Final = 18
SYS_EXIT: Final = 19
SYS_GETPID: Final = 20
SYS_FORK: Final = 21
SYS_SIGNAL: Final = 24
SYS_SIGACTION: Final = 25
SYS_SIGPROCMASK: Final = 26
SYS_SIGWAIT: Final = 27
SYS_PIPE: Final = 32
SYS_SEND: Final = 33
SYS_RECV: Final = 34
SYS_SNAPSHOT: Final = 40
SYS_ROLLBACK: Final = 41
SYS_CHECKPOLICY: Final = 48
SYS_GETPOLICY: Final = 49
SYS_GRANT: Final = 50
SYS_REVOKE: Final = 51
SYS_CAPS: Final = 52
SYS_RUSAGE: Final = 56
SYS_SYSINFO: Final = 57
SYS_RING_SETUP: Final = 64
SYS_RING_ENTER: Final = 65
SYS_CANCEL: Final = 66
DOORBELL: Final = 35
ALL_SIGNALS: Final = 8191
CATCHABLE: Final = 7798


class Signals(enum.IntEnum):
    """Agentix's signals. The numbers are not Linux's."""

    SIGSTOP = 1
    SIGCONT = 2
    SIGINT = 3
    SIGKILL = 4
    SIGTERM = 5
    SIGUSR1 = 6
    SIGUSR2 = 7
    SIGPOLICY = 8
    SIGTRUST = 9
    SIGBUDGET = 10
    SIGLOOP = 11
    SIGDRIFT = 12
    SIGCHLD = 13


SIGSTOP: Final = Signals.SIGSTOP
SIGCONT: Final = Signals.SIGCONT
SIGINT: Final = Signals.SIGINT
SIGKILL: Final = Signals.SIGKILL
SIGTERM: Final = Signals.SIGTERM
SIGUSR1: Final = Signals.SIGUSR1
SIGUSR2: Final = Signals.SIGUSR2
SIGPOLICY: Final = Signals.SIGPOLICY
SIGTRUST: Final = Signals.SIGTRUST
SIGBUDGET: Final = Signals.SIGBUDGET
SIGLOOP: Final = Signals.SIGLOOP
SIGDRIFT: Final = Signals.SIGDRIFT
SIGCHLD: Final = Signals.SIGCHLD

__all__ = [
    "ALL_SIGNALS",
    "AT_REMOVEDIR",
    "AT_SYMLINK_NOFOLLOW",
    "CATCHABLE",
    "CURRENT",
    "DOORBELL",
    "OPEN_FLAGS",
    "O_ACCMODE",
    "O_APPEND",
    "O_CREAT",
    "O_DIRECTORY",
    "O_EXCL",
    "O_NOFOLLOW",
    "O_RDONLY",
    "O_RDWR",
    "O_TRUNC",
    "O_WRONLY",
    "READ_MAX_BYTES",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "SIGBUDGET",
    "SIGCHLD",
    "SIGCONT",
    "SIGDRIFT",
    "SIGINT",
    "SIGKILL",
    "SIGLOOP",
    "SIGPOLICY",
    "SIGSTOP",
    "SIGTERM",
    "SIGTRUST",
    "SIGUSR1",
    "SIGUSR2",
    "SIGWAIT_DELIVERABLE",
    "SIG_BLOCK",
    "SIG_DFL",
    "SIG_HANDLE",
    "SIG_IGN",
    "SIG_SETMASK",
    "SIG_UNBLOCK",
    "SYS_CANCEL",
    "SYS_CAPS",
    "SYS_CHECKPOLICY",
    "SYS_CLOSE",
    "SYS_EXEC",
    "SYS_EXIT",
    "SYS_FORK",
    "SYS_GETPID",
    "SYS_GETPOLICY",
    "SYS_GRANT",
    "SYS_HELLO",
    "SYS_MKDIR",
    "SYS_OPEN",
    "SYS_PIPE",
    "SYS_READ",
    "SYS_READDIR",
    "SYS_RECV",
    "SYS_RENAME",
    "SYS_REVOKE",
    "SYS_RING_ENTER",
    "SYS_RING_SETUP",
    "SYS_ROLLBACK",
    "SYS_RUSAGE",
    "SYS_SEEK",
    "SYS_SEND",
    "SYS_SIGACTION",
    "SYS_SIGNAL",
    "SYS_SIGPROCMASK",
    "SYS_SIGWAIT",
    "SYS_SNAPSHOT",
    "SYS_SPAWN",
    "SYS_STAT",
    "SYS_SYNC",
    "SYS_SYSINFO",
    "SYS_TRUNCATE",
    "SYS_UNLINK",
    "SYS_WAIT",
    "SYS_WRITE",
    "WNOHANG",
    "Signals",
]
# END abi
