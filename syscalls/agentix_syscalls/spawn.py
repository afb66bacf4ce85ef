"""Options of a spawn: one row each, read by SYS_SPAWN, the control socket, agentctl's flags and the man pages."""

import errno
import re
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen

from agentix_syscalls import types
from agentix_syscalls.errors import CallError

MODES: Final = ("strict", "enforce", "audit")
POLICIES: Final = ("strict", "standard", "audit")
"""Policies that are shipped, by name."""
POLICY_MAX_BYTES: Final = 64 << 10
CALLED_MAX: Final = 255
"""Characters of what a policy's file is called: each of its rules says it."""
KINDS: Final = ("script", "module", "exec")
"""script: a Python file run in the forked interpreter; module: `-m`, likewise; exec: any executable."""

SIDE_MAX: Final = 4096
"""Rows or columns of a terminal."""
RESTARTS: Final = ("never", "on-failure", "always")

NAME_RE: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}\Z")
_GIVEN_RE: Final = re.compile(r"agent-\d+\Z")
"""Names of agents without one. Taken beforehand, one would keep the agent of that id from being made."""


def name(value: Any) -> str:
    read = types.text(value)
    if not NAME_RE.match(read):
        raise types.BadArgument(f"{read[:64]!r} is not a name: a letter, then at most 62 letters, digits, '.', '_' or "
                                "'-'")
    if _GIVEN_RE.match(read):
        raise types.BadArgument(f"{read!r} is what the kernel calls an agent that was given no name")
    return read


def mode(value: Any) -> str:
    read = types.text(value)
    if read not in MODES:
        raise types.BadArgument(f"{read!r} is not a mode: {', '.join(MODES)}")
    return read


def policy(value: Any) -> tuple[str, bytes | None]:
    """The name of a shipped policy, and None; or what a file is called, and its text."""
    if type(value) in {list, tuple} and len(value) == 2 and value[1] is not None:
        called, text = types.text(value[0]), types.data(value[1])
        if not called or not called.isprintable() or len(called) > CALLED_MAX:
            raise types.BadArgument(f"{called[:64]!r} is not what a file may be called here")
        return called, text
    called = types.text(value[0] if type(value) in {list, tuple} and len(value) == 2 else value)
    if called not in POLICIES:
        raise types.BadArgument(f"{called[:64]!r} is no policy that is shipped: {', '.join(POLICIES)}")
    return called, None


@frozen
class Restart:
    """When an agent is run again after its end: one of RESTARTS, and how often at most (None: no bound)."""

    policy: str = "never"
    most: int | None = None

    def __str__(self) -> str:
        return self.policy if self.most is None else f"{self.policy}:{self.most}"


def restart(value: Any) -> Restart:
    """`always` or `on-failure:5`, as Docker writes it."""
    read = types.text(value)
    policy, colon, most = read.partition(":")
    if policy not in RESTARTS:
        raise types.BadArgument(f"{read!r} is not a restart policy: {', '.join(RESTARTS)}, with :MAX if you like")
    if not colon:
        return Restart(policy)
    if policy == "never" or not re.fullmatch(r"[1-9][0-9]{0,8}", most):
        raise types.BadArgument(f"{read!r}: wants on-failure:MAX or always:MAX, MAX a whole number from 1")
    return Restart(policy, int(most))


def restart_text(value: Any) -> str:
    """The same as text: how profiles and the wire have it."""
    return str(restart(value))


def absolute(value: Any) -> str:
    read = types.path(value)
    if not read.startswith(b"/"):
        raise types.BadArgument("wants an absolute path")
    if b".." in read.split(b"/"):
        raise types.BadArgument("'..' has no place in this path")
    return read.decode("utf-8", "surrogateescape")


def pids(value: Any) -> int:
    count = types.uint(value)
    if not 3 <= count <= 4_000_000:  # the init, the agent and one more
        raise types.BadArgument(f"{count} is not a number of processes from 3 to 4,000,000")
    return count


def memory(value: Any) -> int:
    size = types.uint(value)
    if size < 16 << 20:
        raise types.BadArgument(f"{size} bytes are too few: an interpreter alone needs 16 MiB")
    return size


def terminal(value: Any) -> tuple[int, int]:
    """Rows and columns."""
    sides: list[int] = []
    if type(value) in {list, tuple} and len(value) == 2:
        sides = [types.uint(side) for side in value]
    if not sides or not all(1 <= side <= SIDE_MAX for side in sides):
        raise types.BadArgument(f"wants [rows, columns], each from 1 to {SIDE_MAX}")
    return sides[0], sides[1]


@frozen
class Option:
    """One row. `inherited`: a child spawned by an agent has at most its parent's value. `profile`: a profile may set
    it; see agentix-profiles(5).
    """

    name: str
    type: Callable[[Any], Any]
    flag: str
    doc: str
    agent_may: bool = True
    inherited: bool = False
    profile: bool = True


OPTIONS: Final = (
    Option("name", name, "--name NAME", "name beside the id; must be free", profile=False),
    Option("source", types.data, "", "the script's text, read by whoever asks, with their own rights",
           profile=False),
    Option("env", types.environ, "--env NAME=VALUE", "environment variable; nothing else is inherited"),
    Option("cwd", absolute, "--cwd DIR", "working directory inside the sandbox (default: mem/working of its tree)"),
    Option("memory_bytes", memory, "--memory SIZE", "memory limit (default 512M)", inherited=True),
    Option("cpus", types.positive, "--cpus N", "processors, as a number such as 0.5 (default 1)", inherited=True),
    Option("pids", pids, "--pids N", "processes and threads at most (default 64)", inherited=True),
    Option("timeout_s", types.positive, "--timeout TIME", "kill it after so many seconds", inherited=True),
    Option("policy", policy, "--policy FILE|NAME", "what it may and may not: a file, see agentix-policy(5), or strict, "
           "standard (default), audit", agent_may=False, inherited=True),
    Option("deny", types.texts, "--deny CALL[:PATH]", "deny a call, below a path of its tree if one is given",
           inherited=True),
    Option("mode", mode, "--mode MODE", "what a violation does: strict kills, enforce refuses, audit records (default: "
           "as the policy says)",
           inherited=True),
    Option("spawn_max", types.uint, "--spawn-max N", "agents it may spawn in its life (default 0, or its policy's)",
           inherited=True),
    Option("stdin", types.boolean, "-i", "keep its stdin open: fed by `run`, or by `agentctl attach`", agent_may=False,
           profile=False),
    Option("terminal", terminal, "-t", "give it a terminal of its own", agent_may=False, profile=False),
    Option("binds", types.anything, "--bind-ro HOST:PATH, --bind HOST:PATH",
           "host folders or files to show inside; descriptors travel beside the frame", agent_may=False,
           inherited=True, profile=False),
    Option("profile", name, "--profile NAME", "what is not given here is as this profile says", agent_may=False,
           profile=False),
    Option("runtime", name, "--runtime NAME", "interpreter, modules and folders of this runtime (default: agentd's "
           "own interpreter)", agent_may=False, inherited=True),
    Option("restart", restart_text, "--restart POLICY[:MAX]", "run it again when it has ended: never (default), "
           "on-failure, always; MAX times at most", agent_may=False),
    Option("capabilities", types.texts, "--capability CAPABILITY", "hold this and nothing that is not given so, each "
           "at most what its policy allows; see agentix-policy(5)", inherited=True, profile=False),
)

BY_NAME: Final = {option.name: option for option in OPTIONS}


def word(option: str) -> str:
    """The word of agentctl's command line for an option, as in --memory for memory_bytes."""
    return BY_NAME[option].flag.split(" ")[0]


LIMITS: Final = ("memory_bytes", "cpus", "pids", "timeout_s")
"""Options that can be changed while the agent lives."""


def parse_limits(raw: dict[str, Any]) -> dict[str, Any]:
    """Check a map of new limits; only a timeout may be nil, for none. Raises CallError(EINVAL) that names the limit."""
    for key in raw:
        if key not in LIMITS:
            raise CallError(errno.EINVAL, f"update: {key!r} is no limit", remedy="limits: " + ", ".join(LIMITS))
    if not raw:
        raise CallError(errno.EINVAL, "update: no limit is given", remedy="limits: " + ", ".join(LIMITS))
    checked: dict[str, Any] = {}
    for key, value in raw.items():
        try:
            checked[key] = None if value is None and key == "timeout_s" else BY_NAME[key].type(value)
        except types.BadArgument as bad:
            raise CallError(errno.EINVAL, f"update: {key}: {bad}") from None
    return checked


def parse_options(raw: dict[str, Any], *, by_agent: bool) -> dict[str, Any]:
    """Check a map of options. Raises CallError(EINVAL) that names the option, EPERM for what agents may not ask."""
    checked: dict[str, Any] = {}
    for key, value in raw.items():
        option = BY_NAME.get(key)
        if option is None:
            raise CallError(errno.EINVAL, f"spawn: unknown option {key!r}", remedy="options: " + ", ".join(BY_NAME))
        if by_agent and not option.agent_may:
            more = "; a child inherits its parent's" if option.inherited else ""
            raise CallError(errno.EPERM, f"spawn: option {key!r} is the operator's{more}")
        try:
            checked[key] = option.type(value)
        except types.BadArgument as bad:
            raise CallError(int(getattr(errno, bad.errno_name)), f"spawn: {key}: {bad}") from None
    return checked
