"""Two policies side by side: differences, and "gives at most" held against the reference."""

import random

import pytest
from authority import generate, reference

from agentix_kernel.authority.policy import compare, document
from agentix_kernel.authority.policy.compare import NARROWER, OTHER, WIDER

BASE = """\
version: 1
name: base
mode: enforce
limits: {memory: 512M, pids: 64}
binds: [{host: /srv, at: /data, mode: rw}]
allow:
  - {file: /state, action: [read, write]}
  - {tool: "*", rate: 10/min}
deny:
  - {file: /state/keys, action: write}
budgets: {calls: 100/s}
"""


def _policy(text: str) -> document.Policy:
    return document.load(text.encode(), "p.yaml")


@pytest.mark.parametrize(
    ("change", "said", "narrower"),
    [
        (("base", "other"), [("name", OTHER)], True),
        (("enforce", "strict"), [("mode", NARROWER)], True),
        (("enforce", "audit"), [("mode", WIDER)], False),
        (("512M", "256M"), [("limits.memory", NARROWER)], True),
        (("512M", "1G"), [("limits.memory", WIDER)], False),
        ((", pids: 64", ""), [("limits.pids", WIDER)], False),
        (("pids: 64", "pids: 64, cpus: 1"), [("limits.cpus", NARROWER)], True),
        (("mode: rw", "mode: ro"), [("binds", NARROWER), ("binds", NARROWER)], True),
        (("/srv", "/etc"), [("binds", NARROWER), ("binds", WIDER)], False),
        (("/state, action: [read, write]", "/state/a, action: read"), [("allow", NARROWER), ("allow", OTHER)], True),
        (("/state, action: [read, write]", "/mem, action: read"), [("allow", NARROWER), ("allow", WIDER)], False),
        (("10/min", "5/min"), [("allow", NARROWER), ("allow", OTHER)], True),
        (("10/min", "11/min"), [("allow", OTHER), ("allow", WIDER)], False),
        (
            ('{tool: "*", rate: 10/min}', "{tool: a, rate: 10/min}\n  - {tool: b, rate: 10/min}"),
            [("allow", NARROWER), ("allow", OTHER), ("allow", OTHER)],
            False,
        ),
        (
            ("/state/keys, action: write", "/state/keys, action: [read, write]"),
            [("deny", OTHER), ("deny", NARROWER)],
            True,
        ),
        (("/state/keys, action: write", "/state/keys/a, action: write"), [("deny", WIDER), ("deny", OTHER)], False),
        (("100/s", "50/s"), [("budgets.calls", NARROWER)], True),
        (("100/s", "200/s"), [("budgets.calls", WIDER)], False),
        (("budgets: {calls: 100/s}\n", ""), [("budgets.calls", WIDER)], False),
        (("budgets:", "loops: {calls: 5, window: 1m}\nbudgets:"), [("loops", OTHER)], True),
    ],
)
def test_a_change_is_named_and_judged(change, said, narrower) -> None:
    assert change[0] in BASE
    before, after = _policy(BASE), _policy(BASE.replace(*change))
    assert [(one.key, one.effect) for one in compare.diff(before, after)] == said
    assert compare.narrower(after, before) is narrower
    assert compare.diff(before, before) == ()
    assert compare.narrower(before, before)


def test_narrower_never_means_more() -> None:
    """Random pairs, one often made from the other: what the narrower one allows, the wider one allows."""
    told = 0
    for seed in range(400):
        rng = random.Random(seed)
        text, wide = generate.load(generate.policy(rng, 8))
        lines = text.splitlines()
        for _ in range(rng.randrange(3)):
            at = rng.randrange(3, len(lines) + 1)
            if at < len(lines) and lines[at].startswith("  - ") and lines[at - 1].startswith("  - "):
                del lines[at]
        other, narrow = generate.load("\n".join(lines) + "\n")
        if not compare.narrower(narrow.policy, wide.policy):
            continue
        told += 1
        one, two = reference.read(other), reference.read(text)
        for _ in range(25):
            asked = generate.request(rng)
            assert not reference.decide(one, *asked)[0] or reference.decide(two, *asked)[0], (seed, other, text, asked)
    assert told > 100


def test_the_strict_policy_is_narrower_than_the_standard_one_and_that_than_audit() -> None:
    strict, standard, audit = map(document.load_shipped, ("strict", "standard", "audit"))
    assert compare.narrower(strict, standard)
    assert compare.narrower(standard, audit)
    assert not compare.narrower(standard, strict)
    assert not compare.narrower(audit, standard)
