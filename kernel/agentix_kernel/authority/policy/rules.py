"""One rule of a policy: a capability string, or a mapping that says the same in words.

    - capability://file/state?action=read,write
    - {file: /state, action: [read, write]}
    - {tool: shell.execute, timeout: 30s, rate: 10/min}
    - {signal: SIGTERM, to: child}
    - {call: RENAME, path: /state}

A denial has no constraints, since it holds always, and covers all that is below what it names, wildcards or not.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from attrs import evolve, frozen

from agentix_kernel.authority import capability as capabilities
from agentix_kernel.authority import constraints, patterns
from agentix_kernel.authority.capability import Capability, nearest
from agentix_kernel.authority.constraints import FREE, Constraints
from agentix_kernel.authority.patterns import Malformed, Pattern
from agentix_kernel.authority.policy.kinds import Choice, Complaints, Integer, Key, Keys, Kind, Many, Text
from agentix_kernel.authority.policy.reading import Complaint, Mapping, Mark, Node
from agentix_syscalls import calls, signals
from agentix_syscalls.capabilities import RESOURCE_BY_NAME

ALLOW: Final = "allow"
DENY: Final = "deny"
TREE: Final = ("ipc", "mem", "policy", "proc", "state", "tools")
"""What is at the root of an agent's tree; a rule about anything else would never apply."""


LINE_MAX: Final = 300
"""Characters of a rule that is told as a remedy."""


@frozen(cache_hash=True)
class Rule:
    """What is allowed or denied, and where it is written. A denial's path has all below it.

    A rule of a command line has no line; `written` is how it was said there, if not as a capability.
    """

    effect: str
    capability: Capability
    mark: Mark
    written: str = ""

    @property
    def text(self) -> str:
        return _text(self)


@lru_cache(maxsize=8192)
def _text(one: Rule) -> str:
    """Kept: agents mostly hold the same, and to write it is most of what a change of that costs."""
    return f"{one.effect} {one.written or one.capability}"


@frozen
class Form:
    """How a rule on a resource is said in words: `key` holds the path, `more` a part before or behind it.

    `action` is the only one there is, or None when a key `action` says which.
    """

    key: str
    resource: str
    doc: str
    action: str | None = None
    more: Key | None = None
    before: bool = False


_PATH: Final = Text("a path, such as /state or /state/*.txt")
_NAME: Final = Text("a name, '*' within it for any characters")

FORMS: Final = (
    Form("file", "file", "a path of the agent's own tree, with all below it"),
    Form("call", "call", "a system call by name; can only be denied", "make",
         Key("path", _PATH, "only on what is at or below this path of its tree")),
    Form("tool", "tool", "a tool by name", "exec"),
    Form("spawn", "agent", "names that spawned agents may have", "spawn"),
    Form("signal", "signal", "a signal by name", "send",
         Key("to", _NAME, "whom: self, child, an agent's name, or '*'", required=True), before=True),
    Form("ipc", "ipc", "an agent to talk to, by name", None,
         Key("channel", _NAME, "only on this channel")),
    Form("net", "net", "a host; refused until the broker enforces it", "connect",
         Key("port", Integer(1, 65535), "the port")),
)


def _limits() -> Iterator[Key]:
    for row in constraints.CONSTRAINTS:
        text = Text(row.doc, row.read, quoted=False)
        yield Key(row.name, Many(text, single=True) if row.name == "allowlist" else text, row.doc)


LIMITS: Final = tuple(_limits())


def _keys(form: Form, effect: str) -> Keys:
    actions = Many(Choice(("*", *RESOURCE_BY_NAME[form.resource].action_names)), single=True)
    return Keys((Key(form.key, _PATH if form.key == "file" else _NAME, form.doc, required=True),
                 *([] if form.action else [Key("action", actions, "what is done, or several", required=True)]),
                 *([form.more] if form.more else []),
                 *(LIMITS if effect == ALLOW else ())))


@frozen
class RuleKind:
    """A rule under `allow` or `deny`."""

    effect: str

    def read(self, node: Node, complaints: Complaints) -> Rule | None:
        before = len(complaints)
        if isinstance(node, Mapping):
            found = self._from_mapping(node, complaints)
        else:
            text: Kind = Text(f"a capability string, or a mapping with one of {', '.join(form.key for form in FORMS)}",
                              capabilities.parse)
            found = text.read(node, complaints)
        if found is None or len(complaints) > before:
            return None
        return rule(self.effect, found, node.mark, complaints)

    def _from_mapping(self, node: Mapping, complaints: Complaints) -> Capability | None:
        forms = [form for form in FORMS if form.key in node.items]
        if len(forms) != 1:
            known = [form.key for form in FORMS]
            hint = nearest(next(iter(node.items), ""), known)
            what = "is about two things at once" if forms else "does not say what it is about"
            complaints.append(Complaint(node.mark, f"a rule {what}{hint}"))
            return None
        form = forms[0]
        if self.effect == DENY and (limit := next((key.name for key in LIMITS if key.name in node.items), None)):
            complaints.append(Complaint(node.marks[limit], f"a denial holds always: it has no {limit}"))
            return None
        before = len(complaints)
        values = _keys(form, self.effect).read(node, complaints)
        if values is None or len(complaints) > before:
            return None
        try:
            return _build(form, values)
        except Malformed as error:
            complaints.append(Complaint(node.items[form.key].mark, error.message))
            return None

    def schema(self) -> dict[str, Any]:
        text = {"type": "string", "pattern": "^" + capabilities.SCHEME}
        return {"oneOf": [text, *(_keys(form, self.effect).schema() for form in FORMS)]}


def _build(form: Form, values: dict[str, Any]) -> Capability:
    """A capability from a mapping's values. Raises Malformed."""
    path = str(values[form.key])
    if form.more is not None and form.more.name in values:
        more = str(values[form.more.name])
        path = f"{more}/{path}" if form.before else f"{path}/{more}"
    row = RESOURCE_BY_NAME[form.resource]
    words = (form.action,) if form.action else values["action"]
    actions = capabilities.parse_actions(row, words, 0)
    return Capability(row.name, patterns.parse(path, row.depth), actions, limits_of(values))


def limits_of(values: dict[str, Any]) -> Constraints:
    """The constraints among a mapping's values, as the keys of LIMITS read them."""
    names: tuple[frozenset[bytes], ...] | None = values.get("allowlist")
    return Constraints(values.get("timeout"), values.get("rate"), values.get("max"),
                       frozenset[bytes]().union(*names) if names is not None else None, values.get("expires"))


@lru_cache(maxsize=256)
def rule_line(resource: str, actions: tuple[str, ...], obj: bytes) -> str:
    """The line of a document's list that allows just this; of everything, when no object is given. Kept, since whoever
    is refused is often refused the same again.
    """
    row, wanted = RESOURCE_BY_NAME[resource], frozenset(actions)
    words = "".join(f"/{patterns.escape(name)}" for name in patterns.split(obj))
    try:
        line = f"- {Capability(row.name, patterns.parse(words, row.depth), wanted)}"
    except Malformed:
        line = ""
    if line and len(line) <= LINE_MAX:
        return line
    return f"a rule on a folder above it, for it is longer than a rule's path ({' and '.join(sorted(wanted))})"


def rule(effect: str, found: Capability, mark: Mark, complaints: Complaints) -> Rule | None:
    """The rule, or None after a complaint: what can never apply, or would not be enforced, is refused."""
    row = RESOURCE_BY_NAME[found.resource]
    wrong = None
    if row.support.startswith("planned"):
        wrong = f"{row.name}: rules on {row.doc} are not in this version ({row.support.removeprefix('planned: ')})"
    elif effect == ALLOW and not row.held:
        wrong = f"{row.name}: calls are allowed by what they need (file, tool, ...); by name they can only be denied"
    elif effect == DENY and found.constraints != FREE:
        wrong = "a denial holds always: it has no constraints"
    else:
        wrong = _senseless(found)
    if wrong is not None:
        complaints.append(Complaint(mark, wrong))
        return None
    reach = found.path.below() if effect == DENY and row.depth is None else found.path
    return Rule(effect, evolve(found, path=reach), mark)


def _senseless(found: Capability) -> str | None:
    """Why nothing can ever be covered, as far as the tables know."""
    names = found.path.names
    words = [name[0].decode("utf-8", "replace") if len(name) == 1 else None for name in names]
    if found.resource == "file" and words[0] is not None and words[0] not in TREE:
        return f"nothing is at /{words[0]} in an agent's tree{nearest(words[0], TREE)}"
    if found.resource == "signal" and len(names) > 1 and words[1] is not None and words[1] not in signals.BY_NAME:
        return f"no signal {words[1]!r}{nearest(words[1], signals.BY_NAME)}"
    return _no_such_call(found.path, words[0]) if found.resource == "call" and words[0] is not None else None


def _no_such_call(path: Pattern, word: str) -> str | None:
    call = calls.BY_NAME.get(word)
    if call is None:
        return f"no system call {word!r}{nearest(word, calls.BY_NAME)}"
    if len(path.names) > 2 and not (call.paths or call.name in {"READ", "WRITE"}):
        return f"{word} is not about a path"
    return None
