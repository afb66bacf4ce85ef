"""Rates, numbers and expiries of random policies: what is held and used, beside a reference with a clock of its own.

AGENTIX_POLICIES in the environment: how many policies to try, each with 60 operations; seeds as in test_decisions.
"""

import errno
import random

import pytest
from authority import generate, reference
from authority.generate import POLICIES, SEED

from agentix_kernel.authority.holdings import ROOT, Holdings, Start
from agentix_kernel.authority.policy.inforce import InForce, Source, make
from agentix_syscalls.errors import CallError

OPERATIONS = 60
BEGIN_S = 1_800_000_000
CALLS = {"read": "READ", "write": "WRITE", "exec": "EXEC", "send": "SIGNAL"}
AGENT = 1


class Held:
    """An agent's holdings and its policy, as the kernel keeps the two together."""

    def __init__(self, policy: InForce, now_ns: int) -> None:
        self.holdings, self.policy = Holdings(lambda _: ROOT), policy
        self.holdings.begin(AGENT, Start.of(policy.allows), now_ns)

    def ask(self, call: str, obj: bytes, now_ns: int) -> tuple[str, int | None]:
        """What becomes of a call: the name of its errno, and the line of the rule that it was counted against."""
        if self.holdings.expire(now_ns):
            self.policy = self.policy.holding(tuple(one.rule for one in self.holdings.held(AGENT)))
        said = self.policy.decide(call, obj)
        if not said.allowed:
            return "EPERM", None
        try:
            used = self.holdings.spend(AGENT, said.needs, now_ns, now_ns)
        except CallError as over:
            return errno.errorcode[over.number], None
        return "", used[0].rule.mark.line if used else None


@pytest.mark.parametrize("block", range(3))
def test_what_is_used_up_is_what_the_reference_says(block) -> None:
    answers: dict[str, int] = {}
    for seed in range(SEED + block, SEED + POLICIES, 3):
        rng = random.Random(f"counted {seed}")
        text, _ = generate.load(generate.counted_policy(rng, rng.choice((2, 6, 15)), BEGIN_S))
        now_ns = BEGIN_S * 10**9
        held = Held(make(Source("random.yaml", text.encode())), now_ns)
        expected = reference.Counted(reference.read(text))
        lines = text.splitlines()
        first = lines.index("allow:") + 2 if "allow:" in lines else 0
        asked = [generate.operation(rng) for _ in range(8)]
        for _ in range(OPERATIONS):
            resource, action, obj = rng.choice(asked)
            now_ns += generate.pause_ns(rng)
            answer, line = held.ask(CALLS[action], obj.encode(), now_ns)
            told = answer, line - first if line is not None else None
            assert told == expected.ask(resource, action, obj, now_ns), (seed, text, resource, action, obj, now_ns)
            answers[answer] = answers.get(answer, 0) + 1
    assert {"", "EPERM", "EAGAIN", "EDQUOT"} <= set(answers), "each came to pass, or too little was tried"
