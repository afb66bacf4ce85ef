"""From the table of refused system calls to a BPF program, by libseccomp. Used by agentd alone: importing pyseccomp
costs 80 ms, and the children load the finished bytes.
"""

import errno
import functools
import tempfile
from typing import Any, Final

from attrs import frozen

from agentix_kernel.confine.syscalls_table import LAST_KNOWN, LAST_RESERVED, ROWS, Action, Row, Test

_TREE: Final = 2
"""SCMP_FLTATR_CTL_OPTIMIZE: a binary tree of numbers instead of a list."""


@frozen
class Filter:
    """A compiled filter: `program` for seccomp(2), and what a notified number means: (name, fatal)."""

    program: bytes
    notified: dict[int, tuple[str, bool]]


@functools.cache
def build() -> Filter:
    """For this machine's architecture; any other (i386, x32) kills the process. Raises OSError, ImportError."""
    import pyseccomp  # heavy, and not for who only imports us

    made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    made.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    made.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _TREE)
    notified: dict[int, tuple[str, bool]] = {}
    for row in ROWS:
        number = _number(pyseccomp, row)
        if number < 0:
            continue
        made.add_rule_exactly(_action(pyseccomp, row.action), number, *(_test(pyseccomp, test) for test in row.tests))
        if row.action in (Action.REFUSE, Action.FATAL):
            notified[number] = row.name, row.action is Action.FATAL
    for number in range(LAST_KNOWN + 1, LAST_RESERVED + 1):
        made.add_rule_exactly(pyseccomp.ERRNO(errno.ENOSYS), number)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return Filter(file.read(), notified)


def number(name: str) -> int:
    """Of a Linux call on this architecture; negative when it has none of that name."""
    import pyseccomp

    known = next((row.number for row in ROWS if row.name == name and row.number is not None), None)
    return known if known is not None else int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


def _number(pyseccomp: Any, row: Row) -> int:
    """Negative when this architecture has no such call."""
    return row.number if row.number is not None else int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, row.name))


def _action(pyseccomp: Any, action: Action) -> int:
    if action is Action.ABSENT:
        return int(pyseccomp.ERRNO(errno.ENOSYS))
    if action is Action.NO_FAMILY:
        return int(pyseccomp.ERRNO(errno.EAFNOSUPPORT))
    return int(pyseccomp.NOTIFY)


def _test(pyseccomp: Any, test: Test) -> Any:
    if test.op == "==":
        return pyseccomp.Arg(test.argument, pyseccomp.MASKED_EQ, test.mask, test.value)
    return pyseccomp.Arg(test.argument, {">": pyseccomp.GT, "!=": pyseccomp.NE}[test.op], test.value)
