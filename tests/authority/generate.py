"""Random policies and requests from a seed: few words, so that rules meet often."""

import random

from agentix_syscalls.capabilities import RESOURCE_BY_NAME

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
