"""The document: what is read, what is refused and how, the schema, and the format of `.agents/security.md`."""

import errno
import json
import random
import re
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from authority import generate
from hypothesis import given, settings
from hypothesis import strategies as st

from agentix_kernel.authority.policy import agents_md, document, reading
from agentix_kernel.authority.policy.reading import BadPolicy
from agentix_syscalls import spawn

HEAD = "version: 1\nname: example\nmode: enforce\n"
FULL = """\
# all there is
version: 1
name: "full-1"
mode: strict
limits: {memory: 512M, cpus: 0.5, pids: 64, timeout: 10m}
binds:
  - {host: /srv/data//in, at: /data, mode: ro}
allow:
  - capability://file/state?action=read,write
  - {file: /mem/*.txt, action: [read, write], max: 10, expires: 2026-12-01T00:00:00Z}
  - {tool: shell.execute, timeout: 30s, rate: 10/min, allowlist: [ls, "cat,grep"]}
  - {spawn: worker-*, max: 3}
  - {signal: SIGTERM, to: child}
  - {ipc: "*", channel: news, action: receive}
deny:
  - {call: RENAME, path: /state}
  - {call: SYNC}
  - {file: /state/keys, action: "*"}
budgets: {calls: 1000/s, tools: 100, children: 3, denials: 10/h}
loops: {calls: 20, window: 10m}
"""


def _refused(text: str | bytes, load=document.load) -> list[str]:
    with pytest.raises(BadPolicy) as caught:
        load(text.encode() if isinstance(text, str) else text, "p.yaml")
    assert caught.value.number == errno.EINVAL
    return [str(one) for one in caught.value.complaints]


def test_everything_there_is_is_read() -> None:
    policy = document.load(FULL.encode(), "full.yaml")
    assert (policy.name, policy.mode, policy.file) == ("full-1", "strict", "full.yaml")
    assert policy.limits == document.Bounds(512 << 20, 0.5, 64, 600.0)
    assert {name: mark.line for name, mark in policy.limits.marks.items()} == dict.fromkeys(spawn.LIMITS, 5)
    assert policy.binds[0].mark.line == 7
    assert policy.binds == (document.BindRule("/srv/data/in", "/data", writable=False),)
    assert [(rule.mark.line, rule.text) for rule in policy.rules] == [
        (9, "allow capability://file/state?action=read,write"),
        (10, "allow capability://file/mem/*.txt?action=read,write&max=10&expires=2026-12-01T00:00:00Z"),
        (11, "allow capability://tool/shell.execute?action=exec&timeout=30s&rate=10/min&allowlist=cat,grep,ls"),
        (12, "allow capability://agent/worker-*?action=spawn&max=3"),
        (13, "allow capability://signal/child/SIGTERM?action=send"),
        (14, "allow capability://ipc/*/news?action=receive"),
        (16, "deny capability://call/RENAME/state?action=make"),
        (17, "deny capability://call/SYNC?action=make"),
        (18, "deny capability://file/state/keys?action=read,write"),
    ]
    assert {name: limits.written()[0][1] for name, limits in policy.budgets} == {
        "calls": "1000/s",
        "tools": "100",
        "children": "3",
        "denials": "10/h",
    }
    assert policy.loops == document.Loops(20, 600_000_000_000)
    assert document.load(f"{HEAD}loops: off\n".encode(), "off.yaml").loops == document.NO_LOOPS
    assert document.load(HEAD.encode(), "none.yaml").loops is None


BAD = {
    "nothing": ("", "1:1: empty"),
    "blanks": ("  \n\n", "empty"),
    "comment": ("# x\n", "empty"),
    "null": ("~\n", "1:1: wants keys"),
    "text": ("hello\n", "1:1: wants keys: version"),
    "list": ("- 1\n", "1:1: wants keys"),
    "end": ("version: 1\n", "1:1: key 'name' is missing"),
    "version": (HEAD.replace("1", "2", 1), "1:10: wants a whole number"),
    "quoted": (HEAD.replace("1", "'1'", 1), "1:10: wants a whole number"),
    "octal": (HEAD.replace("1", "01", 1), "1:10: wants"),
    "mode": (HEAD.replace("enforce", "enforced"), "3:7: no 'enforced' here; did you mean 'enforce'?"),
    "mode off": (HEAD.replace("enforce", "off"), "3:7: no 'off' here; there are: strict, enforce, audit"),
    "name": (HEAD.replace("example", "1x"), "2:7: '1x' is not a name"),
    "no name": (HEAD.replace("example", ""), "2:6: wants"),
    "key": (HEAD + "alow: []\n", "4:1: no key 'alow'; did you mean 'allow'?"),
    "default": (HEAD + "defaultAction: allow\n", "4:1: no key 'defaultAction'"),
    "duplicate": (HEAD + "deny: []\ndeny: []\n", "5:1: key 'deny' again; first at p.yaml:4:1"),
    "inner duplicate": (HEAD + "deny:\n  - {tool: a, tool: b}\n", "5:15: key 'tool' again"),
    "anchor": (HEAD + "allow: &a []\n", "4:8: anchors and aliases"),
    "alias": (HEAD + "allow: *a\n", "4:8: anchors and al"),
    "star": (HEAD + "allow:\n  - {tool: *}\n", "not YAML"),
    "merge": (HEAD + "<<: {}\n", "4:1: merge keys"),
    "bomb": ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "1:4: anchors"),
    "cycle": ("&a [*a]\n", "1:1: anchors"),
    "tag": (HEAD + "allow: !!python/object:os.system []\n", "4:8: tags are not"),
    "tag of a text": (HEAD.replace("example", "!!str example"), "2:7: tags"),
    "two": (HEAD + "---\n" + HEAD, "4:1: a second document"),
    "directive": ("%YAML 1.1\n---\n" + HEAD, "directives"),
    "tab": (HEAD + "limits:\n\tpids: 5\n", "5:1: not YAML"),
    "unclosed": (HEAD + "allow: [\n", "not YAML"),
    "colon": (HEAD + "allow: a: b\n", "4:9: not YAML"),
    "key of a list": (HEAD + "? [a]\n: b\n", "4:3: a key is plain text"),
    "nul": (HEAD + "allow: \0\n", "4:8: a character that YAML does not allow: U+0000"),
    "escape": (HEAD + "allow: \x1b[2J\n", "4:8: a character that YAML does not allow: U+001B"),
    "latin": (HEAD.encode() + b"# \xe9\n", "4:3: not UTF-8: byte 0xe9"),
    "utf-16": (HEAD.encode("utf-16"), "not plain UTF-8"),
    "mark": (b"\xef\xbb\xbf" + HEAD.encode(), "byte order mark"),
    "binary": (bytes(range(256)), "not plain UTF-8"),
    "huge": (HEAD + "#" * (64 << 10), "a policy has at most 65,536"),
    "many": ("[" + "a," * 9000 + "]", "over 8,192 values"),
    "deep": ("[" * 5000, "1:12: nested deeper than 12"),
    "deep block": (HEAD + "allow: " + "- " * 40 + "x\n", "not YAML"),
    "allow": (HEAD + "allow: everything\n", "4:8: wants a list"),
    "null list": (HEAD + "deny:\n", "4:6: wants a list"),
    "rule": (HEAD + "allow: [5]\n", "4:9: a capability begins with capability://"),
    "no rule": (HEAD + "allow: ['']\n", "4:9: wants a capability string"),
    "list of rules": (HEAD + "allow: [[]]\n", "4:9: wants"),
    "about nothing": (HEAD + "allow: [{}]\n", "4:9: a rule does not say what it is about"),
    "misspelt": (HEAD + "allow: [{fiel: /a, action: read}]\n", "does not say what it is about; did you mean 'file'?"),
    "two things": (HEAD + "allow: [{file: /state, tool: x}]\n", "two things at once"),
    "no action": (HEAD + "allow: [{file: /state}]\n", "4:9: key 'action' is missing"),
    "action": (HEAD + "allow: [{file: /state, action: raed}]\n", "4:32: no 'raed' here; did you mean 'read'?"),
    "no actions": (HEAD + "allow: [{file: /state, action: []}]\n", "no action"),
    "action of another": (HEAD + "allow: [{tool: x, action: read}]\n", "4:19: no key 'action'"),
    "inside a string": (HEAD + "allow:\n  - capability://file/state?action=raed\n", "5:29: file has no action 'raed'"),
    "path": (HEAD + "deny: [{file: /state/../x, action: read}]\n", "no place in a path"),
    "nowhere": (
        HEAD + "deny: [{file: /sate/x, action: read}]\n",
        "nothing is at /sate in an agent's tree; did you mean 'state'",
    ),
    "host path": (HEAD + "deny: [{file: /etc/shadow, action: read}]\n", "nothing is at /etc in an agent's tree"),
    "call": (HEAD + "deny: [{call: RENAM}]\n", "no system call 'RENAM'; did you mean 'RENAME'"),
    "call path": (HEAD + "deny: [{call: SPAWN, path: /state}]\n", "SPAWN is not about a path"),
    "call allowed": (HEAD + "allow: [{call: OPEN}]\n", "calls are allowed by what they need"),
    "signal": (HEAD + "allow: [{signal: SIGTREM, to: self}]\n", "no signal 'SIGTREM'; did you mean 'SIGTERM'"),
    "signal to": (HEAD + "allow: [{signal: SIGTERM}]\n", "key 'to' is missing"),
    "net": (
        HEAD + "deny: [{net: example.com, port: 443}]\n",
        "net: rules on the network are not in this version (enforced from",
    ),
    "http": (
        HEAD + "allow: ['capability://http/x?action=request']\n",
        "http: rules on requests over HTTP are not in this",
    ),
    "shell": (HEAD + "allow: ['capability://shell?action=execute&allowlist=ls']\n", "shell: rules on"),
    "constrained denial": (HEAD + "deny: [{tool: x, rate: 1/s}]\n", "4:18: a denial holds always: it has no rate"),
    "constrained string": (HEAD + "deny: ['capability://tool/x?action=exec&max=1']\n", "a denial holds always"),
    "rate": (HEAD + "allow: [{tool: x, rate: lots}]\n", "4:25: 'lots' is not a rate such as 100/min"),
    "contradiction": (
        HEAD + "allow: [{file: /state/a, action: read}]\ndeny: [{file: /state, action: [read, write]}]\n",
        "4:9: never applies: all of it is denied at p.yaml:5:8",
    ),
    "twice": (HEAD + "deny: [{tool: x}, {tool: x}]\n", "4:19: the same rule as at p.yaml:4:8"),
    "memory": (HEAD + "limits: {memory: 1X}\n", "'1X' is not a size"),
    "little": (HEAD + "limits: {memory: 1M}\n", "16 MiB"),
    "cpus": (HEAD + "limits: {cpus: 0}\n", "above 0"),
    "nan": (HEAD + "limits: {cpus: .nan}\n", "'.nan' is not a number"),
    "pids": (HEAD + "limits: {pids: 1}\n", "4:16: wants a whole number from 3"),
    "limit": (HEAD + "limits: {memroy: 1G}\n", "did you mean 'memory'"),
    "time": (HEAD + "limits: {timeout: 5}\n", "'5' is not a time"),
    "bind": (HEAD + "binds: [{host: srv, at: /x, mode: ro}]\n", "'srv' is not an absolute path"),
    "bind up": (HEAD + "binds: [{host: /srv/.., at: /x, mode: ro}]\n", "without '.' and '..'"),
    "bind mode": (HEAD + "binds: [{host: /srv, at: /x}]\n", "key 'mode' is missing"),
    "bind twice": (
        HEAD + "binds: [{host: /a, at: /x, mode: ro}, {host: /b, at: //x/, mode: ro}]\n",
        "4:39: /x overlaps /x, which is bound at p.yaml:4:9",
    ),
    "bind within": (
        HEAD + "binds:\n  - {host: /a, at: /x/y, mode: ro}\n  - {host: /b, at: /x, mode: ro}\n",
        "6:5: /x overlaps /x/y, which is bound at p.yaml:5:5",
    ),
    "budget": (HEAD + "budgets: {calls: -1}\n", "'-1' is not a number"),
    "budgets": (HEAD + "budgets: {tokens: 1}\n", "'tokens'"),
    "loops": (HEAD + "loops: on\n", "4:8: wants off, or keys: calls, window"),
    "a loop of one": (HEAD + "loops: {calls: 1, window: 1s}\n", "4:16: wants a whole number from 2"),
    "a loop without end": (HEAD + "loops: {calls: 5}\n", "4:8: key 'window' is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_are_refused_with_place_and_reason(name) -> None:
    text, words = BAD[name]
    complaints = _refused(text)
    assert any(words in one for one in complaints), complaints
    assert all(re.match(r"p\.yaml:\d+:\d+: ", one) for one in complaints)


def test_all_that_is_wrong_is_told_at_once_in_order() -> None:
    complaints = _refused("version: 3\nnaem: x\nmode: strict\nallow:\n  - {tool: x, rate: 0/s}\n  - nothing\n")
    assert [one.split(": ")[0] for one in complaints] == [
        "p.yaml:1:1",
        "p.yaml:1:10",
        "p.yaml:2:1",
        "p.yaml:5:21",
        "p.yaml:6:5",
    ]


def test_a_long_list_of_errors_is_cut_in_the_message_only() -> None:
    with pytest.raises(BadPolicy) as caught:
        document.load((HEAD + "allow:\n" + "  - x\n" * 50).encode(), "p.yaml")
    assert len(caught.value.complaints) == 50
    assert len(caught.value.message.splitlines()) <= 21


@settings(max_examples=150)
@given(st.data())
def test_no_text_raises_anything_else(data) -> None:
    """A good document with a few characters changed is read or refused, and nothing besides."""
    text = list(FULL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.sampled_from(list("{}[]:,-&*!|>'\"%#\n\t 0a\0\ud800")) | st.characters())
    try:
        document.load("".join(text).encode("utf-8", "surrogatepass"), "p.yaml")
    except BadPolicy as error:
        assert error.complaints


VALIDATOR = jsonschema_rs.validator_for(document.schema())


def test_the_published_schema_is_the_rendered_one() -> None:
    published = Path(document.__file__).with_name(document.SCHEMA_FILE).read_text()
    assert published == document.schema_text()
    jsonschema_rs.meta.validate(json.loads(published))


def _as_editors_see_it(text: str) -> object:
    return json.loads(json.dumps(yaml.safe_load(text), default=lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")))


def test_what_is_read_is_valid_by_the_schema() -> None:
    rng = random.Random(4)
    shipped = [(Path(document.__file__).parent / "shipped" / f"{name}.yaml").read_text() for name in document.SHIPPED]
    for text in (FULL, *shipped, *(generate.policy(rng, 12) for _ in range(30))):
        VALIDATOR.validate(_as_editors_see_it(text))


@pytest.mark.parametrize(
    "name",
    [
        "end",
        "version",
        "mode",
        "key",
        "default",
        "rule",
        "about nothing",
        "two things",
        "no action",
        "action",
        "constrained denial",
        "memory",
        "pids",
        "limit",
        "bind mode",
        "budgets",
        "loops",
        "a loop of one",
        "a loop without end",
        "signal to",
        "allow",
        "text",
    ],
)
def test_what_the_schema_can_say_it_refuses_as_well(name) -> None:
    assert not VALIDATOR.is_valid(_as_editors_see_it(BAD[name][0]))


def test_nothing_is_guessed_at() -> None:
    """`no`, `on` and 1_0 are what was written."""
    found = reading.read(b"{a: no, b: 012, c: 1_0, d: null}", "x")
    assert [value.text for value in found.items.values()] == ["no", "012", "1_0", "null"]


SECURITY = """\
kernel: {version: "1.0", mode: strict}
signals: [SIGSTOP, SIGKILL, SIGPOLICY]
policies:
  - {action: file_read, effect: allow, rate_limit: 100/hour}
  - {action: file_read, effect: allow, mode: read_write, constraints: {max: 5}}
  - {action: code_execution, effect: deny}
  - {action: api_call, effect: deny}
observability: {metrics: false, traces: false, flight_recorder: true}
"""


@pytest.mark.parametrize(
    "text", [SECURITY, f"---\n{SECURITY}---\n# Prose\n\n- anything: [\n"], ids=["yaml", "front matter"]
)
def test_agents_security_is_honoured(text) -> None:
    policy = agents_md.load(text.encode(), "security.md")
    first = 4 + text.startswith("---")
    assert (policy.mode, policy.file) == ("strict", "security.md")
    assert [(rule.mark.line, rule.text) for rule in policy.rules] == [
        (first, "allow capability://file?action=read&rate=100/h"),
        (first + 1, "allow capability://file?action=read&max=5"),
        (first + 1, "allow capability://file?action=write&max=5"),
        (first + 2, "deny capability://tool/shell.execute?action=exec"),
    ]


@pytest.mark.parametrize(
    ("statement", "texts"),
    [
        (
            "action: '*', effect: allow",
            [
                "allow capability://file?action=read",
                "allow capability://file?action=write",
                "allow capability://tool/*?action=exec",
            ],
        ),
        ("action: '*', effect: allow, mode: read_only", ["allow capability://file?action=read"]),
        (
            "action: '*', effect: deny",
            [
                "deny capability://file?action=read",
                "deny capability://file?action=write",
                "deny capability://tool/*?action=exec",
            ],
        ),
        (
            "action: send_email, effect: allow, requires_approval: false",
            ["allow capability://tool/send_email?action=exec"],
        ),
    ],
)
def test_what_a_statement_comes_to(statement, texts) -> None:
    text = f"kernel: {{version: 1.0, mode: permissive}}\npolicies: [{{{statement}}}]\n"
    policy = agents_md.load(text.encode(), "security.md")
    assert policy.mode == "audit"
    assert [rule.text for rule in policy.rules] == texts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("mode: strict", "mode: lax"), "no 'lax' here; there are: strict, permissive, audit"),
        (('"1.0"', '"2.0"'), "'2.0' is not the version 1.0"),
        (("SIGSTOP", "SIGSOTP"), "did you mean 'SIGSTOP'"),
        (("kernel:", "kernal:"), "no key 'kernal'; did you mean 'kernel'"),
        (("metrics: false", "metrics: true"), "observability.metrics"),
        (("traces: false", "traces: true"), "observability.traces"),
        (("flight_recorder: true", "flight_recorder: false"), "observability.flight_recorder: it cannot"),
        (
            ("api_call, effect: deny", "api_call, effect: allow"),
            "http: rules on requests over HTTP are not in this version",
        ),
        (
            ("code_execution, effect: deny", "code_execution, effect: allow, requires_approval: true"),
            "policies: code_execution: requires",
        ),
        (
            ("code_execution, effect: deny", "code_execution, effect: allow, mode: read_only"),
            "policies: code_execution: mode is of",
        ),
        (
            ("file_read, effect: allow, rate", "file_write, effect: allow, mode: read_only, rate"),
            "policies: file_write: read_only",
        ),
        (("code_execution", "code_exec"), "did you mean 'code_execution'"),
        (("max: 5", "approvers: 2"), "no key 'approvers'"),
        (
            ("effect: deny}\n  - {action: api", "effect: deny, rate_limit: 1/s}\n  - {action: api"),
            "a denial holds always",
        ),
        (
            ("action: file_read, effect: allow, rate", "action: '*', effect: allow, mode: read_only, rate"),
            "policies: *: read_only with",
        ),
        (("policies:", "policies: none\nx:"), "wants a list"),
        (("rate_limit: 100/hour", "rate_limit: often"), "not a rate"),
    ],
)
def test_agents_security_is_refused_by_the_section_that_cannot_be_honoured(change, words) -> None:
    assert change[0] in SECURITY
    complaints = _refused(SECURITY.replace(*change), agents_md.load)
    assert any(words in one for one in complaints), complaints


def test_a_malformed_agents_security_is_never_no_policy() -> None:
    for text in ("", "---\n", "---\n---\n", "# prose only\n", "policies: []\n", "---\nkernel: [\n---\n"):
        _refused(text, agents_md.load)
