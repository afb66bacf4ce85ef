"""The policy in force for an agent: a document and what its spawn adds, narrowing only, one clear error for each bad
rule, and nothing of a document read over.
"""

import errno
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix_kernel.authority.policy.inforce import DENIALS_MAX, POLICIES, Source, make, restored
from agentix_kernel.authority.policy.reading import BadPolicy
from agentix_syscalls.errors import CallError

HEAD = "version: 1\nname: tried\nmode: enforce\n"


def of(text, **more):
    return make(Source("tried.yaml", (HEAD + text).encode()), **more)


@pytest.mark.parametrize(("rule", "path", "covered"), [
    ("OPEN", b"/anything", True),
    ("OPEN:/state", b"/state", True),
    ("OPEN:/state", b"/state/x/y", True),
    ("OPEN:/state", b"/statement", False),
    ("OPEN:/state/", b"/state/x", True),
    ("OPEN:/", b"/mem", True),
    ("open:/state//x", b"/state/x/z", True),
    ("SYS_OPEN:/a", b"/b", False),
    ("OPEN:/state/*.txt", b"/state/a.txt", True),
    ("OPEN:/state/*.txt", b"/state/a.txs", False),
])
def test_rules_compare_whole_names(rule, path, covered):
    assert make(deny=(rule,)).decide("OPEN", path).allowed is not covered


@pytest.mark.parametrize("text", [
    "", "NOPE", "OPEN:relative", "OPEN:/a/../b", "GETPID:/x", ":", "OPEN:", "OPEN:/a**", "OPEN:/" + "a/" * 100])
def test_a_bad_rule_is_refused_by_name(text):
    with pytest.raises(CallError) as caught:
        make(deny=(text,))
    assert caught.value.number == errno.EINVAL
    assert repr(text) in caught.value.message


def test_denials_beside_a_document_are_bounded():
    with pytest.raises(CallError, match="denials beside"):
        make(deny=tuple(f"OPEN:/state/{number}" for number in range(DENIALS_MAX + 1)))


def test_a_child_is_never_softer():
    parent = make(mode="strict", deny=("WRITE:/state",), spawn_max=2)
    child = parent.narrowed(None, ("UNLINK",), None)
    assert (child.mode, child.spawn_max, child.deny) == ("strict", 0, ("WRITE:/state", "UNLINK"))
    assert not child.decide("WRITE", b"/state/x").allowed
    assert not child.decide("UNLINK", b"/mem/x").allowed
    for mode in ("enforce", "audit"):
        with pytest.raises(CallError, match="softer"):
            parent.narrowed(mode, (), None)
    with pytest.raises(CallError, match="over the parent's"):
        parent.narrowed(None, (), 3)


def test_agents_of_one_document_share_what_was_made_of_it():
    one, other = of("allow: [{file: /state, action: read}]"), of("allow: [{file: /state, action: read}]")
    assert one.compiled is other.compiled
    assert one.narrowed(None, (), None).compiled is one.compiled
    assert one.narrowed(None, ("OPEN",), None).compiled is not one.compiled


NAMES = st.lists(st.sampled_from([b"a", b"b", b"ab", b"c"]), max_size=4)


@given(NAMES, NAMES)
def test_prefix_means_the_same_as_a_walk(prefix, path):
    denies = not make(deny=("OPEN:/" + b"/".join(prefix).decode(),)).decide("OPEN", b"/" + b"/".join(path)).allowed
    assert denies is (path[:len(prefix)] == prefix)


def test_a_rename_does_not_carry_off_what_a_rule_names():
    policy = make(deny=("READ:/state/secret/key",))
    assert "RENAME" in policy.guarded
    for path in (b"/state", b"/state/secret", b"/state/secret/key"):
        assert not policy.decide("RENAME", path).allowed, path
    for path in (b"/state/secret/other", b"/state/sec", b"/mem"):
        assert policy.decide("RENAME", path).allowed, path
    assert "RENAME" not in make(deny=("UNLINK",)).guarded


def test_a_rename_wants_all_below_its_ends():
    policy = of("allow:\n  - {file: /state, action: [read, write]}\n  - {file: /mem, action: write}\n")
    assert policy.decide("RENAME", b"/state/x").allowed
    found = policy.decide("RENAME", b"/mem/x")
    assert (found.allowed, found.rule) == (False, "tried.yaml: default deny")


def test_what_everybody_has_asks_nothing():
    assert make().guarded == frozenset()
    assert make(Source("audit")).guarded == frozenset()
    assert make(deny=("UNLINK",)).guarded == {"UNLINK"}


@pytest.mark.parametrize("name", POLICIES)
def test_shipped_policies_can_be_enforced(name):
    assert make(Source(name)).policy.name == name


def test_an_agent_keeps_the_shipped_document_that_it_began_with():
    """A later version may ship another text under the name."""
    of_earlier = Source("standard", (HEAD + "deny: [{call: SYNC}]\n").encode(), shipped=True)
    policy = restored(of_earlier, "enforce", (), ())
    assert policy.source is of_earlier
    assert policy.decide("SYNC").rule == "standard.yaml:4: deny capability://call/SYNC?action=make"
    assert make().decide("SYNC").allowed
    assert make().source.text == make(Source("standard")).source.text != of_earlier.text
    assert make().source.hash == sha256(make().source.text).hexdigest()


def test_a_denial_says_file_and_line():
    policy = of("allow:\n  - {file: /, action: [read, write]}\ndeny:\n  - {file: /state/x, action: write}\n")
    found = policy.decide("WRITE", b"/state/x/y")
    assert found.rule == "tried.yaml:7: deny capability://file/state/x?action=write"
    assert found.message == "WRITE /state/x/y is denied"
    assert "(tried.yaml:7)" in policy.describe()


def test_the_way_to_what_is_allowed_may_be_looked_up_and_nothing_beside_it():
    policy = of("allow:\n  - {file: /mem/working/a, action: write}\n")
    for path in (b"/", b"/mem", b"/mem/working", b"/mem/working/a/b"):
        assert policy.decide("STAT", path).allowed, path
    for path in (b"/state", b"/mem/episodic", b"/mem/working/b"):
        assert not policy.decide("STAT", path).allowed, path
    for call in ("READ", "READDIR"):
        assert not policy.decide(call, b"/mem/working/a").allowed
    assert not policy.decide("WRITE", b"/mem").allowed


def test_signals_tools_and_waits_are_asked_by_whom_and_what():
    policy = of("allow:\n  - {signal: SIGUSR1, to: self}\n  - {signal: '*', to: kid}\n  - {tool: shell.execute}\n"
                "deny:\n  - {signal: SIGTERM, to: child}\n")
    assert policy.decide("SIGNAL", b"self/SIGUSR1").allowed
    assert not policy.decide("SIGNAL", b"self/SIGUSR2").allowed
    assert policy.decide("SIGNAL", b"child/SIGUSR2", b"kid/SIGUSR2").allowed
    assert not policy.decide("SIGNAL", b"child/SIGUSR2", b"other/SIGUSR2").allowed
    assert not policy.decide("SIGNAL", b"child/SIGTERM", b"kid/SIGTERM").allowed
    assert policy.decide("EXEC", b"shell.execute").allowed
    assert not policy.decide("EXEC", b"other").allowed
    assert not policy.decide("WAIT", b"child").allowed


def test_what_may_be_spawned_is_counted_and_named():
    policy = of("allow:\n  - {spawn: 'kid-*', max: 3}\n")
    assert policy.spawn_max == 3
    assert policy.decide_spawn("kid-1").allowed
    assert not policy.decide_spawn("other").allowed
    assert not policy.decide_spawn(None).allowed
    assert of("allow:\n  - {spawn: 'agent-*', max: 3}\n").decide_spawn(None).allowed
    more = make(spawn_max=2)
    assert more.spawn_max == 2
    assert more.decide_spawn("any").allowed
    assert not more.narrowed(None, (), None).decide_spawn("any").allowed


@pytest.mark.parametrize(("text", "what"), [
    ("allow:\n  - {file: /, action: read, timeout: 3s}", "tried.yaml:5:5: timeout: only tools have one"),
    ("allow:\n  - {net: example.org, port: 443}", "tried.yaml:5:5: net"),
])
def test_what_no_enforcer_holds_is_refused_and_not_read_over(text, what):
    with pytest.raises(BadPolicy) as caught:
        of(text)
    assert what in caught.value.message


def test_all_complaints_come_at_once():
    with pytest.raises(BadPolicy) as caught:
        make(Source("bad.yaml", b"version: 2\nmode: lax\nalow: []\n"))
    assert [str(one).split(": ")[0] for one in caught.value.complaints] == [
        "bad.yaml:1:1", "bad.yaml:1:10", "bad.yaml:2:7", "bad.yaml:3:1"]


def test_security_md_is_read_as_such():
    with pytest.raises(CallError):
        make(Source("security.md", b"nonsense: 1\n"))
