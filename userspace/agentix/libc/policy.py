"""Calls on policy: what the agent may do, asked without doing it."""

import os
from typing import NamedTuple

from agentix.libc import abi
from agentix.libc.connection import syscall


class Verdict(NamedTuple):
    """What the policy says of a call. `rule` is the one that decides, empty for the default."""

    allowed: bool
    mode: str
    rule: str
    message: str


class Policy(NamedTuple):
    """The policy in force for the agent."""

    mode: str
    rules: tuple[str, ...]
    spawn_max: int


def checkpolicy(call: str, path: "str | bytes | os.PathLike[str] | None" = None) -> Verdict:
    """Would this call (a name such as "WRITE") be allowed, on this path? Does nothing and counts nothing."""
    return Verdict(*syscall(abi.SYS_CHECKPOLICY, call, None if path is None else os.fspath(path)))


def getpolicy() -> Policy:
    return Policy(*syscall(abi.SYS_GETPOLICY))


__all__ = ["Policy", "Verdict", "checkpolicy", "getpolicy"]
