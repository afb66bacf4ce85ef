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


class Rule(NamedTuple):
    """One rule. `file` and `line` say where it is written; line 0: in no file."""

    text: str
    file: str
    line: int


class Policy(NamedTuple):
    """The policy in force for the agent."""

    mode: str
    rules: tuple[Rule, ...]
    spawn_max: int


class Held(NamedTuple):
    """A capability that is held. `source` is where its rule is written, or who gave it; `giver` the agent that it is
    from, or 0, by its handle there. `left`: how many uses, where they are counted.
    """

    handle: int
    capability: str
    source: str
    giver: int
    giver_handle: int | None
    left: int | None


@call
def checkpolicy(call: str, path: "str | bytes | os.PathLike[str] | None" = None) -> Request[Verdict]:
    """Would this call (a name such as "WRITE") be allowed, on this path? Does nothing and counts nothing."""
    return Request(abi.SYS_CHECKPOLICY, call, None if path is None else os.fspath(path),
                   read=lambda answer: Verdict(*answer))


@call
def getpolicy() -> Request[Policy]:
    return Request(abi.SYS_GETPOLICY, read=lambda answer: Policy(
        answer[0], tuple(Rule(*rule) for rule in answer[1]), answer[2]))


@call
def grant(handle: int, agent: int, capability: str | None = None) -> Request[int]:
    """Give what is held under a handle to a child, or to the caller itself (its own id); the new handle there.

    `capability` is what is given, at most what is held; all of it if None. Raises Error: EPERM, EBADF, ECHILD, EMFILE.
    """
    return Request(abi.SYS_GRANT, handle, agent, capability)


@call
def revoke(agent: int, handle: int) -> Request[list[tuple[int, int]]]:
    """Take back what an agent holds from the caller, or what the caller itself holds (its own id), and all that was
    made of it; agents and handles of what is gone. Raises Error: EPERM, EBADF.
    """
    return Request(abi.SYS_REVOKE, agent, handle, read=lambda answer: [(who, at) for who, at in answer])


@call
def caps(agent: int = 0) -> Request[list[Held]]:
    """What the caller holds, or a child of it. Raises Error: ECHILD."""
    return Request(abi.SYS_CAPS, agent, read=lambda answer: [Held(*row) for row in answer])


__all__ = ["Held", "Policy", "Rule", "Verdict", "caps", "checkpolicy", "getpolicy", "grant", "revoke"]
