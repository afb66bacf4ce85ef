"""Calls on policy: what the agent may do, asked without doing it."""

import os
from typing import NamedTuple

from agentix.libc import abi
from agentix.libc.request import Request, call


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


@call
def checkpolicy(call: str, path: "str | bytes | os.PathLike[str] | None" = None) -> Request[Verdict]:
    """Would this call (a name such as "WRITE") be allowed, on this path? Does nothing and counts nothing."""
    return Request(abi.SYS_CHECKPOLICY, call, None if path is None else os.fspath(path),
                   read=lambda answer: Verdict(*answer))


@call
def getpolicy() -> Request[Policy]:
    return Request(abi.SYS_GETPOLICY, read=lambda answer: Policy(*answer))


__all__ = ["Policy", "Verdict", "checkpolicy", "getpolicy"]
