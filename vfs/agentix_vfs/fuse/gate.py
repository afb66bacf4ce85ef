"""How whoever owns the mount judges and records what comes through it."""

import errno
from collections.abc import Sequence
from typing import Protocol

from agentix_syscalls.errors import CallError
from agentix_vfs.who import Who


class Withheld(CallError):  # noqa: N818 - it is said of an answer, not of an error
    """Raised by a gate about a caller whose end is decided: no answer before the kill has been sent.

    The request waits for FuseServer.interrupt(agent), which comes with the kill, so that the caller never runs on.
    """

    def __init__(self, agent: int) -> None:
        super().__init__(errno.EINTR, f"agent {agent} is ending")
        self.agent = agent


class Gate(Protocol):
    """Asked for every caller but uid 0. `path` is from the agent's root, as Tree.canonical gives it.

    `call` is a name of the call table. An open asks OPEN, then READ and WRITE as it wants them, TRUNCATE with O_TRUNC;
    a lookup, like stat, asks STAT; RENAME is asked for both names, and for both names of a hard link besides READ and
    WRITE of the old one; WRITE stands for creating a node and for changing attributes.
    """

    def who(self, uid: int, gid: int, pid: int) -> Who: ...

    def check(self, who: Who, call: str, agent: int, path: bytes) -> None:
        """Raises CallError to deny, Withheld to leave the caller without an answer until it is killed."""
        ...

    def count(self, who: Who, operation: str, asked: Sequence[tuple[str, int, bytes]]) -> None:
        """Everything that one operation asked was let pass. Raises CallError when it is one too many."""
        ...

    def ending(self, who: Who) -> bool:
        """Whether the caller's end is decided: then nothing of it is answered any more, through open files neither."""
        ...

    def record(self, who: Who, operation: str, agent: int, path: bytes, error: int) -> None:
        """`operation` was done (error 0) or failed with this errno, before it is answered.

        open, create, mknod, mkdir, symlink, link, unlink, rmdir, rename, truncate, setattr; and what was denied.
        """
        ...


class OpenGate:
    """Lets everything pass and records nothing: the tree's own rules are all there is."""

    def who(self, uid: int, gid: int, pid: int) -> Who:
        del pid
        return Who(uid, gid)

    def check(self, who: Who, call: str, agent: int, path: bytes) -> None: ...

    def count(self, who: Who, operation: str, asked: Sequence[tuple[str, int, bytes]]) -> None: ...

    def ending(self, who: Who) -> bool:
        del who
        return False

    def record(self, who: Who, operation: str, agent: int, path: bytes, error: int) -> None: ...
