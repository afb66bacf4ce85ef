"""Random policies and requests from a seed: few words, so that rules meet often.

In the environment, AGENTIX_POLICIES is how many policies a test tries, and AGENTIX_SEED the first one's seed, which
counts on from there. CI takes other ones for each commit.
"""

import os
import random
from datetime import UTC, datetime

from agentix_kernel.authority.policy import document
from agentix_kernel.authority.policy.compiled import Compiled
from agentix_kernel.authority.policy.reading import BadPolicy
from agentix_syscalls.capabilities import RESOURCE_BY_NAME

POLICIES = int(os.environ.get("AGENTIX_POLICIES", "200"))
SEED = int(os.environ.get("AGENTIX_SEED", "0"))

TOPS = ("state", "mem", "tools")
WORDS = ("a", "b", "ab", "ba", "aab")
WILD = ("*", "a*", "*b", "a*b", "*a*", "**")
CALLS = ("OPEN", "MKDIR", "RENAME")
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGKILL")
WHOM = ("self", "child", "worker")


def path(rng: random.Random, *, wild: float = 0.3) -> str:
    parts = [rng.choice((*TOPS, "*")) if rng.random() < wild else rng.choice(TOPS)]
    parts += [rng.choice(WILD) if rng.random() < wild else rng.choice(WORDS) for _ in range(rng.randrange(4))]
    return "/" + "/".join(parts) if rng.random() < 0.95 else "/"


def name(rng: random.Random, words: tuple[str, ...]) -> str:
    return rng.choice((*words, "*"))


def rule(rng: random.Random, effect: str) -> str:
    """One rule as YAML on one line."""
    actions = rng.choice(("read", "write", "[read, write]", '"*"'))
    kinds = [f"{{file: {path(rng)!r}, action: {actions}}}"] * 6
    kinds += [
        f"{{tool: '{rng.choice((*WORDS, 'a*', '*'))}'{_allowlist(rng, effect)}}}",
        f"{{spawn: '{rng.choice((*WORDS, 'a*', '*'))}'}}",
        f"{{signal: '{name(rng, SIGNALS)}', to: '{name(rng, WHOM)}'}}",
        f"{{ipc: '{name(rng, WHOM)}', channel: '{name(rng, WORDS)}', action: send}}",
        f"capability://file{path(rng)}?action={rng.choice(('read', 'write', 'read,write', '*'))}",
    ]
    if effect == "deny":
        kinds += [f"{{call: {rng.choice(CALLS)}, path: {path(rng)!r}}}", f"{{call: {name(rng, CALLS)!r}}}"]
    return rng.choice(kinds)


def _allowlist(rng: random.Random, effect: str) -> str:
    return f", allowlist: '{','.join(rng.sample(WORDS, 2))}'" if effect == "allow" and rng.random() < 0.5 else ""


def policy(rng: random.Random, rules: int) -> str:
    lines = ["version: 1", "name: random", "mode: enforce"]
    for effect in ("allow", "deny"):
        some = sorted({rule(rng, effect) for _ in range(rng.randrange(rules))})
        rng.shuffle(some)
        lines += [f"{effect}:", *(f"  - {one}" for one in some)] if some else []
    return "\n".join(lines) + "\n"


def request(rng: random.Random) -> tuple[str, str, str]:
    resource = rng.choice(("file", "file", "file", "agent", "signal", "tool", "call", "ipc"))
    action = rng.choice(RESOURCE_BY_NAME[resource].action_names)
    if resource == "file":
        obj = path(rng, wild=0)
    elif resource == "signal":
        obj = f"{rng.choice(WHOM)}/{rng.choice(SIGNALS)}"
    elif resource == "call":
        obj = rng.choice(CALLS) + (path(rng, wild=0) if rng.random() < 0.7 else "")
    elif resource == "ipc":
        obj = f"{rng.choice(WHOM)}/{rng.choice(WORDS)}"
    else:
        obj = rng.choice((*WORDS, "child"))
    return resource, action, obj


def counted_policy(rng: random.Random, rules: int, begin_s: int) -> str:
    """A policy whose rules under allow are counted, many of the same things; what expires does so in an hour."""
    some: list[str] = []
    for _ in range(1 + rng.randrange(rules)):
        limits = ", ".join(_limit(rng, kind, begin_s) for kind in rng.sample(LIMITS, rng.randrange(3)))
        kind = rng.choice((f"file: {path(rng)!r}, action: {rng.choice(('read', 'write', '[read, write]'))}",
                           f"tool: '{rng.choice((*WORDS, 'a*', '*'))}'",
                           f"signal: '{name(rng, SIGNALS)}', to: '{name(rng, WHOM)}'"))
        some.append(f"{{{kind}{', ' if limits else ''}{limits}}}")
    lines = ["version: 1", "name: random", "mode: enforce", "allow:", *(f"  - {one}" for one in dict.fromkeys(some))]
    if rng.random() < 0.5:
        lines += ["deny:", f"  - {{file: {path(rng)!r}, action: {rng.choice(('read', 'write'))}}}"]
    return "\n".join(lines) + "\n"


LIMITS = ("rate", "max", "expires")


def _limit(rng: random.Random, kind: str, begin_s: int) -> str:
    if kind == "rate":
        return f"rate: {rng.randint(1, 5)}/{rng.choice(('s', 'min', 'h'))}"
    if kind == "max":
        return f"max: {rng.randint(1, 6)}"
    moment = datetime.fromtimestamp(begin_s + rng.randint(1, 3600), UTC)
    return f"expires: {moment:%Y-%m-%dT%H:%M:%SZ}"


def operation(rng: random.Random) -> tuple[str, str, str]:
    """What an agent may do with a call of its own: resource, action, object."""
    resource = rng.choice(("file", "file", "tool", "signal"))
    if resource == "file":
        return resource, rng.choice(("read", "write")), path(rng, wild=0)
    if resource == "tool":
        return resource, "exec", rng.choice(WORDS)
    return resource, "send", f"{rng.choice(('self', 'child'))}/{rng.choice(SIGNALS)}"


def pause_ns(rng: random.Random) -> int:
    """From one operation to the next: mostly a moment, seldom long enough for buckets to fill."""
    return rng.choice((0, 0, rng.randrange(10**8), rng.randrange(2 * 10**9), rng.randrange(400 * 10**9)))


def load(text: str) -> tuple[str, Compiled]:
    """A random policy may have rules that never apply, which are refused: those lines are taken out."""
    while True:
        try:
            return text, Compiled(document.load(text.encode(), "random.yaml"))
        except BadPolicy as error:
            lines = text.splitlines()
            for complaint in error.complaints:
                assert "never applies" in complaint.message or "the same rule" in complaint.message, complaint
                lines[complaint.mark.line - 1] = ""
            text = "\n".join(line for line in lines if line) + "\n"
            text = text.replace("allow:\ndeny:", "deny:").removesuffix("allow:\n").removesuffix("deny:\n")
