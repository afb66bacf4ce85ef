"""What a refusal says would allow it, allows it: told lines are put into the document and asked again."""

import random

import pytest
from authority import generate

from agentix_kernel.authority.policy.inforce import ASKS, Source, make
from agentix_kernel.authority.policy.reading import BadPolicy

HEAD = "version: 1\nname: tried\nmode: enforce\n"
CALLS = ("READ", "WRITE", "STAT", "MKDIR", "UNLINK", "RENAME", "READDIR", "TRUNCATE")
PATHS = (b"/", b"/mem/working/a", b"/state/k*y", b"/state/%41", b"/state/\xff\xfe", "/state/\u00e9".encode(),
         b"/state/a b'c\"", b"/mem/#x: y", b"/state/**", b"/mem/" + b"/".join([b"d"] * 40))


def _asked_again(text: str, call: str, obj: bytes) -> None:
    before = make(Source("tried.yaml", text.encode())).decide(call, obj)
    assert not before.allowed
    where, _, line = before.remedy.partition(", under allow: ")
    assert where == "in tried.yaml", before
    after = make(Source("tried.yaml", f"{text}  {line}\n".encode())).decide(call, obj)
    assert after.allowed, (line, after)


@pytest.mark.parametrize(("call", "path"), [
    (call, path) for call in CALLS for path in PATHS if (call, path) != ("STAT", b"/")])
def test_the_line_that_is_told_allows_a_path(call, path):
    _asked_again(f"{HEAD}allow:\n  - {{file: /proc/status, action: read}}\n", call, path)


@pytest.mark.parametrize(("call", "obj"), [
    ("EXEC", b"shell.execute"), ("EXEC", b"a*b"), ("SIGNAL", b"self/SIGTERM"), ("SIGNAL", b"child/SIGSTOP"),
    ("WAIT", b"child")])
def test_the_line_that_is_told_allows_what_is_no_path(call, obj):
    _asked_again(f"{HEAD}allow:\n  - {{file: /proc/status, action: read}}\n", call, obj)


def test_what_cannot_be_written_as_a_rule_is_not_told_as_one():
    found = make(Source("tried.yaml", HEAD.encode())).decide("READ", b"/state" + b"/d" * 70)
    assert "a rule on a folder above it" in found.remedy
    found = make(Source("strict")).decide("EXEC", b"shell.execute")
    assert found.remedy == ("in a policy of your own (strict is shipped), under allow: "
                            "- capability://tool/shell.execute?action=exec")


def test_each_refusal_of_random_policies_has_a_rule_and_a_remedy():
    rng, refused = random.Random(11), 0
    for _ in range(60):
        try:
            policy = make(Source("p.yaml", generate.policy(rng, 8).encode()))
        except BadPolicy:
            continue
        for call, ask in ASKS.items():
            found = policy.decide(call, *([b"/state/a/b"] if ask.path else []))
            refused += not found.allowed
            assert found.allowed or (found.rule and found.remedy and found.file == "p.yaml"), (call, found)
    assert refused > 50
