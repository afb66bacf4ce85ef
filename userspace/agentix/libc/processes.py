"""Calls on agents as processes: spawn, wait, end; what was used; tools."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from agentix.libc import abi
from agentix.libc.connection import syscall
from agentix.libc.request import Request, call


class Ended(NamedTuple):
    """How a child ended: exactly one of `code` and `signal` (a name) is set. `why` is one word."""

    agent: int
    code: int | None
    signal: str | None
    why: str


class Usage(NamedTuple):
    """What the agent has used so far."""

    cpu_us: int
    memory_bytes: int
    memory_peak_bytes: int
    processes: int
    calls: int
    denials: int


@call
def spawn(
    script: "str | os.PathLike[str] | Sequence[str] | None" = None, args: Sequence[str] = (), *,
    module: str | None = None, exec: str | None = None,  # noqa: A002 - the word for it
    name: str | None = None, env: Mapping[str, str] | None = None, cwd: str | None = None,
    memory: int | None = None, cpus: float | None = None, pids: int | None = None, timeout: float | None = None,
    deny: Sequence[str] | None = None, mode: str | None = None, spawn_max: int | None = None,
    capabilities: Sequence[str] | None = None,
) -> Request[int]:
    """Spawn a child agent, confined like the caller or more; its id.

    What runs is one of: a Python script (a path, or a sequence of path and arguments), read here with the caller's
    rights, or the caller's own (sys.argv[0]), which need not be a file here; a Python module; an executable of the
    sandbox. `memory` is in bytes, `timeout` in seconds. The child holds all that the caller does, but for what lets it
    spawn (`spawn_max` of that), or just `capabilities`.
    Raises Error: EPERM when the policy allows no (more) children, ENOENT, EACCES, ENOEXEC, EEXIST, EAGAIN, E2BIG.
    """
    kind, argv = command(script, args, module, exec)
    return Request(abi.SYS_SPAWN, kind, argv, options(
        source=_read(argv[0]) if kind == "script" else None, name=name, env=env, cwd=cwd, memory=memory, cpus=cpus,
        pids=pids, timeout=timeout, deny=deny, mode=mode, spawn_max=spawn_max, capabilities=capabilities))


def options(**given: Any) -> dict[str, Any]:
    """The options of a spawn as the table of them has it, of what was given (not None) under spawn's words."""
    words = {"memory": "memory_bytes", "timeout": "timeout_s"}
    found = {words.get(word, word): value for word, value in given.items() if value is not None}
    for word, plain in (("env", dict), ("deny", list), ("capabilities", list)):
        if word in found:
            found[word] = plain(found[word])
    return found


def command(
    script: "str | os.PathLike[str] | Sequence[str] | None", args: Sequence[str], module: str | None,
    program: str | None,
) -> tuple[str, list[str]]:
    """What to run, as the kind and the words of spawn.KINDS. Raises TypeError unless it is one thing."""
    given = [(kind, word) for kind, word in (("script", script), ("module", module), ("exec", program))
             if word is not None]
    if len(given) != 1:
        raise TypeError("spawn: give one of a script, module= and exec=")
    kind, word = given[0]
    words = [os.fspath(word)] if isinstance(word, (str, os.PathLike)) else list(word)
    return kind, [*words, *args]


def _read(path: str) -> bytes | None:
    """None for the caller's own script: the kernel has its text."""
    try:
        with open(path, "rb") as script:
            return script.read()
    except FileNotFoundError:
        if path == sys.argv[0]:
            return None
        raise


@call
def waitpid(agent: int, flags: int = 0, timeout: float | None = None) -> Request[Ended | None]:
    """Wait for a child (-1: any) to end. None with WNOHANG when none has; TimeoutError after `timeout` seconds."""
    return Request(abi.SYS_WAIT, agent, flags, timeout, read=lambda ended: None if ended is None else Ended(*ended))


@call
def wait(timeout: float | None = None) -> Request[Ended]:
    """Wait for any child to end."""
    return Request(abi.SYS_WAIT, -1, 0, timeout, read=lambda ended: Ended(*ended))


def _exit(status: int = 0) -> NoReturn:
    """End the agent now, with all of its processes. Buffers are not flushed."""
    try:
        syscall(abi.SYS_EXIT, status)
    finally:
        os._exit(status)  # the kernel kills; this is for when it has gone away


def exit(status: int = 0) -> NoReturn:  # noqa: A001 - POSIX's name
    """Flush stdout and stderr, then end the agent with all of its processes. No `finally` or atexit runs."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    _exit(status)


@call
def getpid() -> Request[int]:
    """The agent's id. All processes of an agent share it."""
    return Request(abi.SYS_GETPID, read=lambda ids: ids[0])


@call
def getppid() -> Request[int]:
    """The id of the agent that spawned this one, or 0."""
    return Request(abi.SYS_GETPID, read=lambda ids: ids[1])


@call
def getrusage() -> Request[Usage]:
    return Request(abi.SYS_RUSAGE, read=lambda used: Usage(*used))


@call
def sysinfo() -> Request[dict[str, Any]]:
    """About this kernel: version, protocol, boot, uptime_s, agents, layers."""
    return Request(abi.SYS_SYSINFO)


@call
def exec_tool(tool: str, arguments: Mapping[str, Any], timeout: float | None = None) -> Request[dict[str, Any]]:
    """Run a tool through the kernel, in a sandbox of its own; its result. TimeoutError after `timeout` seconds."""
    return Request(abi.SYS_EXEC, tool, dict(arguments), timeout)


__all__ = [
    "Ended", "Usage", "_exit", "exec_tool", "exit", "getpid", "getppid", "getrusage", "spawn", "sysinfo", "wait",
    "waitpid",
]
