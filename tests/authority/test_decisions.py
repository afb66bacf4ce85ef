"""Decisions: the compiled policy beside a reference written apart from it, and beside Cedar where that can say it.

How many random policies are tried, each with 40 requests, and from which seed on: see generate.
"""

import random

import cedarpy
import pytest
from authority import generate, reference
from authority.generate import POLICIES, SEED

from agentix_kernel.authority.policy import compiled, document, inforce
from agentix_kernel.authority.policy.compiled import Compiled

REQUESTS = 40


def _position(text: str, line: int, *, allow: bool) -> int:
    """Which rule of its list stands in a line."""
    return line - text.splitlines().index("allow:" if allow else "deny:") - 2


@pytest.mark.parametrize("block", range(5))
def test_the_compiled_policy_says_what_the_reference_says(block) -> None:
    for seed in range(SEED + block, SEED + POLICIES, 5):
        rng = random.Random(seed)
        text, loaded = generate.load(generate.policy(rng, rng.choice((3, 12, 40))))
        policy = reference.read(text)
        for resource, action, obj in (generate.request(rng) for _ in range(REQUESTS)):
            expected = reference.decide(policy, resource, action, obj)
            for _ in range(2):  # the second answer comes from the cache
                said = loaded.decide(resource, action, obj.encode())
                at = _position(text, said.line, allow=said.allowed) if said.line else None
                assert (said.allowed, at) == expected, (seed, text, resource, action, obj, said)


@pytest.mark.parametrize("block", range(2))
def test_a_tree_is_allowed_only_when_all_in_it_is(block) -> None:
    """decide_tree says yes only where the reference says yes to everything that may come to be below."""
    told = 0
    for seed in range(SEED + block, SEED + POLICIES // 2, 2):
        rng = random.Random(f"trees {seed}")
        text, loaded = generate.load(generate.policy(rng, 12))
        policy = reference.read(text)
        for _ in range(REQUESTS // 2):
            top, action = generate.path(rng, wild=0), rng.choice(("read", "write"))
            if loaded.decide_tree("file", action, top.encode()).allowed:
                told += 1
                inside = [top, *(top + generate.path(rng, wild=0) for _ in range(5))]
                assert all(reference.decide(policy, "file", action, one)[0] for one in inside), (seed, text, top)
    assert told > 20, "some are allowed, or nothing was tried"


def _cedar(text: str) -> str | None:
    """The same policy for Cedar, or None where it cannot say it: rules on plain folders of files only."""
    said = []
    document_ = reference.read(text)
    for effect, word in (("allow", "permit"), ("deny", "forbid")):
        for rule in document_.get(effect) or []:
            resource, path, actions, _ = reference.rule_parts(rule)
            if resource != "file" or "*" in path:
                return None
            path = path.rstrip("/")
            names = ", ".join(f'Action::"{action}"' for action in (("read", "write") if actions == ["*"] else actions))
            said.append(
                f"{word}(principal, action in [{names}], resource) when {{ "
                f'context.path == "{path or "/"}" || context.path like "{path}/*" }};'
            )
    return "\n".join(said)


def test_cedar_says_the_same() -> None:
    asked = 0
    for seed in range(60):
        rng = random.Random(seed)
        rules = {
            effect: {
                f"{{file: {generate.path(rng, wild=0)!r}, action: {rng.choice(('read', 'write', '[read, write]'))}}}"
                for _ in range(rng.randrange(1, 8))
            }
            for effect in ("allow", "deny")
        }
        lines = ["version: 1", "name: random", "mode: enforce"]
        lines += [
            line for effect, some in rules.items() for line in (f"{effect}:", *(f"  - {one}" for one in sorted(some)))
        ]
        text, loaded = generate.load("\n".join(lines) + "\n")
        cedar = _cedar(text)
        assert cedar is not None
        requests = [(rng.choice(("read", "write")), generate.path(rng, wild=0)) for _ in range(20)]
        answers = cedarpy.is_authorized_batch(
            [
                {
                    "principal": 'Agent::"1"',
                    "action": f'Action::"{action}"',
                    "resource": 'File::"it"',
                    "context": {"path": path},
                }
                for action, path in requests
            ],
            cedar,
            [],
        )
        for (action, path), answer in zip(requests, answers, strict=True):
            asked += answer.allowed
            assert loaded.decide("file", action, path.encode()).allowed == answer.allowed, (text, action, path)
    assert asked > 50


POLICY = """\
version: 1
name: example
mode: enforce
allow:
  - {file: /state, action: [read, write]}
  - {file: /mem, action: read}
  - {tool: "*", allowlist: "ls,cat", rate: 5/s}
  - {tool: "shell.*"}
deny:
  - {file: /state/keys*, action: write}
  - {call: RENAME, path: /state/log}
  - capability://signal/*/SIGKILL?action=send
"""


@pytest.fixture
def example() -> Compiled:
    return Compiled(document.load(POLICY.encode(), "example.yaml"))


@pytest.mark.parametrize(
    ("resource", "action", "obj", "allowed", "line"),
    [
        ("file", "read", b"/state/a", True, 5),
        ("file", "write", b"/state", True, 5),
        ("file", "write", b"/mem/a", False, 0),
        ("file", "write", b"/state/keys1/inner", False, 10),
        ("file", "read", b"/state/keys1", True, 5),
        ("file", "write", b"//state//keys/", False, 10),
        ("file", "read", b"/statex", False, 0),
        ("file", "read", b"/", False, 0),
        ("file", "read", b"/state/../proc/x", False, 0),
        ("file", "read", b"/state/.", False, 0),
        ("file", "read", b"..", False, 0),
        ("tool", "exec", b"ls", True, 7),
        ("tool", "exec", b"rm", False, 0),
        ("tool", "exec", b"shell.execute", True, 8),
        ("call", "make", b"OPEN/state/log", True, 0),
        ("call", "make", b"RENAME/state/log/x", False, 11),
        ("signal", "send", b"child/SIGKILL", False, 12),
        ("signal", "send", b"child/SIGTERM", False, 0),
        ("agent", "spawn", b"x", False, 0),
        ("http", "request", b"example.com", False, 0),
        ("nothing", "read", b"/", False, 0),
        ("file", "exec", b"/state", False, 0),
        ("file", "read", b"/state/\xff\xfe", True, 5),
    ],
)
def test_one_policy_decides(example, resource, action, obj, allowed, line) -> None:
    said = example.decide(resource, action, obj)
    assert (said.allowed, said.line) == (allowed, line)
    if not allowed:
        assert said.message
        assert said.rule


def test_a_denial_explains_itself(example) -> None:
    said = example.decide("file", "write", b"/state/keys1")
    assert (said.rule, said.file, said.line) == (
        "deny capability://file/state/keys*/**?action=write",
        "example.yaml",
        10,
    )
    assert said.message == "denied by example.yaml:10:5"
    assert said.remedy == "deny beats allow: only a change of example.yaml:10 would permit it"
    said = example.decide("file", "write", b"/proc/x")
    assert said.message == "no rule of policy example allows file:write of this"


def test_what_is_allowed_says_under_which_constraints(example) -> None:
    limits = example.decide("tool", "exec", b"ls").constraints
    assert (limits.rate.count, limits.rate.unit, limits.allowlist) == (5, "s", {b"ls", b"cat"})
    assert [rule.mark.line for rule in example.starting()] == [5, 6, 7, 8]


def test_a_move_of_what_a_rule_names_is_seen(example) -> None:
    for obj, allowed in (
        (b"/state", False),
        (b"/state/keysX", False),
        (b"/state/notes", True),
        (b"/", False),
        (b"/state/..", False),
    ):
        assert example.decide_tree("file", "write", obj).allowed is allowed, obj
    assert example.decide_tree("call", "make", b"RENAME/state").allowed is False
    assert example.decide_tree("tool", "exec", b"").allowed is False, "an allowlist is not all of it"
    assert example.decide_tree("x", "y", b"").allowed is False


def _denied(rules: list[tuple[str, str]], call: str, path: str) -> bool:
    """Denials of calls by plain prefixes, and of renames of what a rule names or below it: the slow way."""
    names = [name for name in path.split("/") if name]
    for denied, prefix in rules:
        parts = prefix.split("/")[1:]
        common = min(len(parts), len(names))
        if call == denied and names[:len(parts)] == parts:
            return True
        if call == "RENAME" and names[:common] == parts[:common]:
            return True
    return False


@pytest.mark.parametrize("seed", range(5))
def test_calls_and_moves_are_denied_by_whole_names(seed) -> None:
    """Rules as a command line has them (CALL:/path), and the same in a document."""
    rng = random.Random(seed)
    denied = 0
    for _ in range(30):
        rules = sorted({(rng.choice(generate.CALLS), generate.path(rng, wild=0)) for _ in range(4)})
        rules = [(call, path) for call, path in rules if path != "/"]
        line = inforce.make(deny=tuple(f"{call}:{path}" for call, path in rules))
        text = "version: 1\nname: moves\nmode: enforce\ndeny:\n" + "".join(
            f"  - {{call: {call}, path: {path!r}}}\n" for call, path in rules)
        new = Compiled(document.load(text.encode(), "moves.yaml"))
        for path in (generate.path(rng, wild=0) for _ in range(30)):
            for call in generate.CALLS:
                said = new.decide("call", "make", f"{call}{path}".encode()).allowed
                said = said and (call != "RENAME" or new.decide_move(path.encode()).allowed)
                assert said == line.decide(call, path.encode()).allowed, (text, call, path)
                assert said != _denied(rules, call, path), (text, call, path)
                denied += not said
    assert denied > 50


def test_nothing_that_is_asked_makes_it_grow_without_bound(example) -> None:
    for n in range(compiled.CACHE_MAX + 10):
        example.decide("file", "write", b"/state/keys%d/x/y" % n)
        example.decide("file", "read", b"/state/%d/" % n + b"x" * 300 + b"/x")
        example.decide("file", "read", b"/state/" + b"x" * 300 + b"%d" % n)
    automaton = example._automata["file"]["write"]
    for one in example._automata["file"].values():
        assert len(one.answers) <= compiled.CACHE_MAX
        assert len(one.folders) <= compiled.CACHE_MAX
        assert all(len(obj) <= compiled.OBJECT_CACHED_MAX for obj in (*one.answers, *one.folders))
    assert len(automaton.answers) > 1
    assert len(automaton.states) < 20
    assert max(len(state.moves) + len(state.branches) for state in automaton.states.values()) < 10


def test_states_that_are_too_many_are_made_anew(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "STATES_MAX", 5)
    text = POLICY + "".join(f"  - {{file: /state/**/k{n}*/**/x{n}, action: read}}\n" for n in range(6))
    loaded, policy = Compiled(document.load(text.encode(), "example.yaml")), reference.read(text)
    names = sum(len(rule.capability.path.names) for rule in loaded.policy.rules if rule.capability.resource == "file")
    rng = random.Random(5)
    for _ in range(200):
        obj = "/state/" + "/".join(f"{rng.choice('kx')}{rng.randrange(6)}" for _ in range(5))
        assert loaded.decide("file", "read", obj.encode()).allowed == reference.decide(policy, "file", "read", obj)[0]
        assert len(loaded._automata["file"]["read"].states) <= 5 + names
        assert set(loaded._automata["file"]["read"].folders.values()) <= {
            *loaded._automata["file"]["read"].states.values()}


@pytest.mark.parametrize("name", document.SHIPPED)
def test_shipped_policies_say_what_they_promise(name) -> None:
    loaded = Compiled(document.load_shipped(name))
    said = {
        (resource, action, obj): loaded.decide(resource, action, obj).allowed
        for resource, action, obj in (
            ("file", "read", b"/state/x"),
            ("file", "write", b"/proc/signal"),
            ("signal", "send", b"self/SIGTERM"),
            ("signal", "send", b"child/SIGTERM"),
            ("signal", "send", b"other/SIGTERM"),
            ("tool", "exec", b"shell.execute"),
            ("agent", "spawn", b"x"),
            ("agent", "wait", b"child"),
            ("call", "make", b"OPEN/state"),
        )
    }
    least = name == "strict"
    assert list(said.values()) == [True, not least, True, not least, False, not least, False, not least, True]
    assert loaded.policy.mode == {"strict": "strict", "standard": "enforce", "audit": "audit"}[name]
