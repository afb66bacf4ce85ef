# What the project uses of pyseccomp, which has annotations inside but no py.typed, so checkers may not read them.
# The notification calls are left out on purpose: they hang on libseccomp's global state (one listener a process),
# so the project loads the exported filter itself and reads the listener by ioctl.
from typing import Final, Protocol, overload

KILL_PROCESS: Final[int]
KILL_THREAD: Final[int]
KILL: Final[int]
TRAP: Final[int]
NOTIFY: Final[int]
LOG: Final[int]
ALLOW: Final[int]

NE: Final[int]
LT: Final[int]
LE: Final[int]
EQ: Final[int]
GE: Final[int]
GT: Final[int]
MASKED_EQ: Final[int]

def ERRNO(x: int) -> int: ...

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

class Arch:
    NATIVE: Final[int]
    X86: Final[int]
    X86_64: Final[int]
    X32: Final[int]
    ARM: Final[int]
    AARCH64: Final[int]

class Attr:
    ACT_DEFAULT: Final[int]
    ACT_BADARCH: Final[int]
    CTL_NNP: Final[int]
    CTL_TSYNC: Final[int]
    API_TSKIP: Final[int]
    CTL_LOG: Final[int]
    CTL_SSB: Final[int]
    CTL_OPTIMIZE: Final[int]
    API_SYSRAWRC: Final[int]

class Arg:
    def __init__(self, arg: int, op: int, data_a: int, data_b: int = 0) -> None: ...

class SyscallFilter:
    def __init__(self, defaction: int) -> None: ...
    def load(self) -> None: ...
    def get_attr(self, attr: int) -> int: ...
    def set_attr(self, attr: int, value: int) -> None: ...
    def add_arch(self, arch: int) -> None: ...
    def remove_arch(self, arch: int) -> None: ...
    def exist_arch(self, arch: int) -> bool: ...
    def add_rule(self, action: int, syscall: int | str, *args: Arg) -> None: ...
    def add_rule_exactly(self, action: int, syscall: int | str, *args: Arg) -> None: ...
    def export_bpf(self, file: _HasFileno) -> None: ...
    def export_pfc(self, file: _HasFileno) -> None: ...

def system_arch() -> int: ...
def get_api() -> int: ...
def set_api(level: int) -> None: ...
@overload
def resolve_syscall(arch: int, syscall: int) -> bytes: ...
@overload
def resolve_syscall(arch: int, syscall: str) -> int: ...
