"""The policy in force for one agent: what it holds (rules that allow), and what a document and its spawn deny.

It never changes: when an agent is given something, or something is taken back, another takes its place, by
enforcement.put alone.

Whatever asks about an agent (the dispatch of calls, the mount, signals, CHECKPOLICY) asks InForce.decide by the name of
a call; ASKS says what each call asks of the rules.
"""

import errno
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Final
from weakref import WeakValueDictionary

from attrs import evolve, field, frozen

from agentix_kernel.authority.capability import Capability
from agentix_kernel.authority.capability import parse as read_capability
from agentix_kernel.authority.constraints import FREE
from agentix_kernel.authority.holdings import Need
from agentix_kernel.authority.patterns import DEPTH, NAMES_MAX, Malformed, Pattern, name_covers, parse
from agentix_kernel.authority.policy import agents_md, document
from agentix_kernel.authority.policy.compiled import Compiled, Decision
from agentix_kernel.authority.policy.document import BOUNDS, Policy
from agentix_kernel.authority.policy.reading import NOWHERE, BadPolicy, Complaint, Mark
from agentix_kernel.authority.policy.rules import ALLOW, DENY, Rule, rule, rule_line
from agentix_kernel.confine.template import in_the_way, python_folders
from agentix_syscalls import calls
from agentix_syscalls.capabilities import SELF
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import MODES, POLICIES

STRICT, ENFORCE, AUDIT = MODES
STANDARD: Final = "standard"
DENIALS_MAX: Final = 256
"""Denials beside a document, those of its ancestors counted."""
UNBOUNDED: Final = 10**9
"""What agents may be spawned when the document allows it and says no number."""
COMPARED_MAX: Final = 1 << 18
"""Names of patterns: those of the capabilities that an agent's spawn asks for, times those of all that it holds. Each
may have to be held against each, and nobody is served meanwhile.
"""
MORE_CHILDREN: Final = "--spawn-max N at its spawn, or in its policy a rule such as {spawn: '*', max: N}, under allow:"
UNNAMED: Final = b"agent-0"
"""An agent that is given no name is called agent-N: what allows such names allows it."""
COMMAND_LINE: Final = NOWHERE
SPAWN: Final = "spawn"

ALL: Final = (parse(""),)
_SPACES: Final[Mapping[str, tuple[Pattern, ...]]] = {
    "signal:send": (parse("self", 2), parse("child", 2)), "agent:wait": (parse("child", 1),),
    "tool:exec": (parse("", 1),)}
"""All objects that calls ask about, where not every path is one: who may all of it is not asked any more."""


@frozen
class Source:
    """Which document: what its file is called, and its text; of a shipped one, that it is.

    Without a text it is the shipped one of that name, as this version has it. What is in force has its text always: an
    agent keeps the document that it was given, whatever becomes of files and versions.
    """

    name: str = STANDARD
    text: bytes | None = field(default=None, repr=False)
    shipped: bool = False

    @property
    def hash(self) -> str:
        assert self.text is not None, "in force"
        return sha256(self.text).hexdigest()


@frozen
class Ask:
    """What a call asks of the rules beside its own name: nothing (resource ""), or an action on objects."""

    resource: str
    action: str
    path: bool
    """Its object is a path: then denials of calls may name it."""
    space: tuple[Pattern, ...]


@frozen
class Verdict:
    """What the rules say of a call; the mode is the caller's business. `rule` has its file and line, if it has any;
    `file` and `line` say them apart. `remedy`: what would allow it. `needs`: what it takes of what is metered, if it is
    allowed by nothing else.
    """

    allowed: bool
    rule: str = ""
    message: str = ""
    remedy: str = ""
    file: str = ""
    line: int = 0
    needs: tuple[Need, ...] = ()


ALLOWED: Final = Verdict(allowed=True)
_BROUGHT: Final = frozenset({"OPEN", "SPAWN"})
"""OPEN brings READ, WRITE and TRUNCATE along, as its flags say; a spawn is asked by InForce.decide_spawn."""


def _ask(call: calls.Call) -> Ask:
    path = bool(call.paths) or call.name in {"READ", "WRITE"}
    if call.name in _BROUGHT or call.capability == SELF.name:
        return Ask("", "", path, ())
    resource, _, action = call.capability.partition(":")
    return Ask(resource, action, path, _SPACES.get(call.capability, ALL))


ASKS: Final = {call.name: _ask(call) for call in calls.CALLS}


def read(source: Source) -> Policy:
    """Read a document that this version can enforce. Takes up to some 100 ms. Raises BadPolicy with all complaints."""
    source = whole(source)
    return _shipped(source) if source.shipped else _read(source)


def _read(source: Source) -> Policy:
    assert source.text is not None
    load = agents_md.load if source.name.endswith(".md") else document.load
    policy = load(source.text, f"{source.name}.yaml" if source.shipped else source.name)
    complaints = [Complaint(one.mark, wrong) for one in policy.rules if (wrong := _unenforced(one)) is not None]
    complaints += [Complaint(one.mark, f"{one.at}: {ours} is the sandbox's own; choose another place")
                   for one in policy.binds if (ours := in_the_way(one.at, python_folders())) is not None]
    if complaints:
        raise BadPolicy(complaints)
    return policy


_shipped: Final = lru_cache(maxsize=16)(_read)


def whole(source: Source) -> Source:
    """With its text. Raises CallError(EINVAL) when none of that name is shipped."""
    return _named(source.name) if source.text is None else source


@lru_cache
def _named(name: str) -> Source:
    if name not in POLICIES:
        raise CallError(errno.EINVAL, f"there is no policy {name!r}", remedy="shipped: " + ", ".join(POLICIES))
    return Source(name, document.shipped_text(name), shipped=True)


def _unenforced(one: Rule) -> str | None:
    """Which constraint of a rule no enforcer holds: read over, it would allow more than it says."""
    if one.capability.constraints.timeout_ns is None or one.capability.resource == "tool":
        return None
    return f"timeout: only tools have one, {one.capability.resource} has none"


def held(text: str, mark: Mark) -> Rule:
    """Read a capability that an agent is to hold. Raises CallError(EINVAL) that says what is wrong with it."""
    complaints: list[Complaint] = []
    try:
        found = rule(ALLOW, read_capability(text), mark, complaints)
    except Malformed as error:
        raise CallError(errno.EINVAL, f"{text[:200]!r}: {error.message}, at character {error.at}") from None
    wrong = complaints[0].message if found is None else _unenforced(found)
    if found is None or wrong is not None:
        raise CallError(errno.EINVAL, f"{text[:200]!r}: {wrong}")
    return found


def denial(text: str) -> Rule:
    """Read `CALL` or `CALL:/path` of a command line. Raises CallError(EINVAL) that says what is wrong with it."""
    name, colon, path = text.partition(":")
    call = calls.find(name)
    if call is None:
        raise CallError(errno.EINVAL, f"deny {text!r}: no system call is named {name!r}",
                        remedy="agentctl syscalls lists them")
    if colon and not path.startswith("/"):
        raise CallError(errno.EINVAL, f"deny {text!r}: the path must start with '/' (the root of the agent's tree)")
    if colon and not ASKS[call.name].path:
        raise CallError(errno.EINVAL, f"deny {text!r}: {call.name} is not about a path")
    try:
        found = Capability("call", parse(call.name + path), frozenset({"make"}))
    except Malformed as error:
        raise CallError(errno.EINVAL, f"deny {text!r}: {error.message}") from None
    made = rule(DENY, found, COMMAND_LINE, [])
    assert made is not None, "what was asked above is all that is wrong with a denial of a call"
    return evolve(made, written=text)


@frozen(eq=False)
class InForce:
    """An agent's policy. `document` is as it is written, `deny` what was denied beside it."""

    source: Source
    document: Policy
    compiled: Compiled
    mode: str
    deny: tuple[str, ...]
    guarded: frozenset[str]
    """Names of the calls that the rules must be asked about; any other is allowed."""
    partial: frozenset[str]
    """Of these, the calls of which not every object is allowed, whatever denials say of the call by name."""
    metered: bool
    """Whether some of what is held is counted."""

    @property
    def policy(self) -> Policy:
        """The document with the rules that are in force in place of its own."""
        return self.compiled.policy

    @property
    def allows(self) -> tuple[Rule, ...]:
        """What is held: of an agent that was just spawned, what it begins with."""
        return self.compiled.starting()

    @property
    def spawn_max(self) -> int:
        """How many agents may be spawned, by all rules together."""
        return min(UNBOUNDED, sum(map(_most, filter(_is_spawn, self.allows))))

    def holding(self, allows: tuple[Rule, ...]) -> "InForce":
        """The same with these rules in place of what is held."""
        return made(self.source, self.document, self.mode, self.deny, allows)

    def decide(self, call: str, *objects: bytes) -> Verdict:
        """What the rules say of a call on an object, given in each way in which rules may name it.

        Objects are as the row of the resource says, paths canonical. Without one: whether it is denied altogether.
        """
        if call not in self.guarded:
            return ALLOWED
        ask, compiled = ASKS[call], self.compiled
        name = call.encode()
        found = compiled.decide("call", "make", name + objects[0] if ask.path and objects else name)
        if not found.allowed:
            return self._told(call, objects, found)
        if call == "RENAME" and objects:
            return self._decide_move(objects[0])
        if call not in self.partial:
            return ALLOWED
        if call == "STAT" and objects:
            found = compiled.decide_way(objects[0])
        elif len(objects) == 1:
            found = compiled.decide(ask.resource, ask.action, objects[0])
        elif objects:
            found = _either([compiled.decide(ask.resource, ask.action, one) for one in objects])
        elif not compiled.allows_any(ask.resource, ask.action):
            found = compiled.default(ask.resource, ask.action)
        if not found.allowed:
            return self._told(call, objects, found, ask.resource, ask.action)
        return _counted(found, Need(ask.resource, ask.action, objects)) if self.metered else ALLOWED

    def _decide_move(self, path: bytes) -> Verdict:
        verdict = ALLOWED
        for action in ("read", "write") if "RENAME" in self.partial else ():
            found = self.compiled.decide_tree("file", action, path)
            if not found.allowed:
                return self._told("RENAME", (path,), found, "file", "read", "write")
            verdict = _counted(found, Need("file", action, (path,), whole=True))  # of the last: to write
        found = self.compiled.decide_move(path)
        if found.allowed:
            return verdict
        return evolve(self._told("RENAME", (path,), found),
                      message=f"RENAME {path.decode('utf-8', 'replace')} would move what the rule is about")

    def decide_spawn(self, name: str | None) -> Verdict:
        """Whether an agent of this name may be spawned."""
        wanted = name.encode() if name is not None else UNNAMED
        found = self.compiled.decide("agent", SPAWN, wanted)
        if not found.allowed:
            told = self._told("SPAWN", (wanted,), found, "agent", SPAWN)
            none = not self.compiled.allows_any("agent", SPAWN)
            return evolve(told, message="it may spawn no agents", remedy=MORE_CHILDREN) if none else told
        return _counted(found, Need("agent", SPAWN, (wanted,)))

    def _told(self, call: str, objects: tuple[bytes, ...], found: Decision, resource: str = "",
              *actions: str) -> Verdict:
        """A refusal, with the line that would undo it where no rule is about it: `actions` are what was wanted."""
        what = f"{call} {objects[0].decode('utf-8', 'replace')}" if objects else call
        message = f"{what} is denied" if found.denies else f"{what}: {found.message}"
        remedy = found.remedy
        if not remedy and resource:
            where = f"in a policy of your own ({self.policy.name} is shipped)" if self.source.shipped else (
                f"in {self.policy.file}")
            remedy = f"{where}, under allow: {rule_line(resource, actions, objects[0] if objects else b'')}"
        return Verdict(False, found.shown, message, remedy, found.file, found.line)

    def tool_timeout_s(self, name: str) -> float | None:
        """The most that the rule which allows a tool, and counts nothing, gives one run of it."""
        found = self.compiled.decide("tool", "exec", name.encode("utf-8", "surrogateescape"))
        return found.constraints.timeout_ns / 1e9 if found.constraints.timeout_ns is not None else None

    def narrowed(self, mode: str | None, deny: tuple[str, ...], spawn_max: int | None,
                 capabilities: tuple[str, ...] | None = None) -> "InForce":
        """A child's policy: all of this one's denials and more, never a softer mode, never more than this one holds.

        `capabilities`: these alone, or else all but what lets it spawn, and of that `spawn_max`.
        """
        wanted = mode or self.mode
        if MODES.index(wanted) > MODES.index(self.mode):
            raise CallError(errno.EPERM, f"spawn: mode {wanted} is softer than the parent's {self.mode}",
                            rule="a child has at most what its parent has")
        if (spawn_max or 0) > self.spawn_max:
            raise CallError(errno.EPERM, f"spawn: spawn_max {spawn_max} is over the parent's {self.spawn_max}",
                            rule="a child has at most what its parent has")
        if capabilities is None:
            allows = tuple(shared_out(self.allows, spawn_max))
        else:
            _check_room(self.allows, capabilities)
            allows = _chosen(self.allows, capabilities, spawn_max)
        return made(self.source, self.document, wanted, self.deny + deny, allows)

    def rules(self) -> list[list[str | int]]:
        """The rules as people read them, each with its file and line; 0 for those that stand in none."""
        return [[text, one.mark.file, one.mark.line]
                for one, text in zip(self.policy.rules, _texts(self.compiled), strict=True)]

    def describe(self) -> str:
        """The text of policy/effective."""
        head = (f"Mode:\t{self.mode}\nSpawnMax:\t{self.spawn_max}\nPolicy:\t{self.policy.name}\n"
                f"Hash:\t{self.source.hash}\n")
        return head + _described(self.compiled)


@lru_cache(maxsize=16)
def _texts(compiled: Compiled) -> tuple[str, ...]:
    """Kept: there may be thousands, and an agent may ask as often as it likes."""
    return tuple(one.text for one in compiled.policy.rules)


@lru_cache(maxsize=16)
def _described(compiled: Compiled) -> str:
    document = compiled.policy
    lines = [f"Limit:\t{key} {getattr(document.limits, name):.12g} ({document.file}:{mark.line})\n"
             for key, name in BOUNDS if (mark := document.limits.marks.get(name)) is not None]
    lines += [f"Bind:\t{bind} ({bind.mark.file}:{bind.mark.line})\n" for bind in document.binds]
    for one, text in zip(compiled.policy.rules, _texts(compiled), strict=True):
        where = f" ({one.mark.file}:{one.mark.line})" if one.mark.line else ""
        lines.append(f"{one.effect.capitalize()}:\t{text.partition(' ')[2]}{where}\n")
    return "".join(lines)


def _either(found: list[Decision]) -> Decision:
    """Of one object under several names: denied by a rule under any of them, or else allowed under any."""
    denied = next((one for one in found if one.denies), None)
    allowed = sorted((one for one in found if one.allowed), key=lambda one: one.constraints.metered)
    return denied or (allowed or found)[0]


def _counted(found: Decision, need: Need) -> Verdict:
    return Verdict(allowed=True, needs=(need,)) if found.constraints.metered else ALLOWED


def make(source: Source | None = None, *, mode: str | None = None, deny: tuple[str, ...] = (),
         spawn_max: int | None = None, capabilities: tuple[str, ...] | None = None) -> InForce:
    """A policy from a document and what a command line adds; None: as the document says. A number of agents to spawn
    takes the place of what the document says of spawning, and capabilities that of all that it allows.

    Raises CallError(EINVAL): BadPolicy for the document, or what is wrong with the rest.
    """
    source = whole(source or Source())
    policy = read(source)
    allows = tuple(one for one in policy.rules if one.effect == ALLOW)
    if capabilities is not None:
        allows = _chosen(allows, capabilities, spawn_max)
    elif spawn_max is not None:
        allows = tuple(shared_out(allows, None))
    if spawn_max:
        spawning = Capability("agent", parse("", 1), frozenset({SPAWN}), evolve(FREE, max=spawn_max))
        allows += (Rule(ALLOW, spawning, COMMAND_LINE),)
    return made(source, policy, mode or policy.mode, deny, allows)


def restored(source: Source, mode: str, deny: tuple[str, ...], allows: tuple[Rule, ...]) -> InForce:
    """A policy as it was, of an agent that an earlier kernel made. Raises CallError(EINVAL)."""
    source = whole(source)
    return made(source, read(source), mode, deny, allows)


def _is_spawn(one: Rule) -> bool:
    return one.effect == ALLOW and one.capability.resource == "agent" and SPAWN in one.capability.actions


def _most(one: Rule) -> int:
    most = one.capability.constraints.max
    return UNBOUNDED if most is None else most


def _chosen(allows: tuple[Rule, ...], wanted: tuple[str, ...], spawn_max: int | None) -> tuple[Rule, ...]:
    """These capabilities as rules, each at most one of what is allowed."""
    if spawn_max is not None:
        raise CallError(errno.EINVAL, "spawn: capabilities and spawn_max say the same thing twice",
                        remedy="add capability://agent?action=spawn&max=N to the capabilities")
    return tuple(dict.fromkeys(_within(allows, held(text, COMMAND_LINE).capability) for text in wanted))


def _check_room(allows: tuple[Rule, ...], wanted: tuple[str, ...]) -> None:
    """Raises CallError(E2BIG) for what takes too long to compare, whatever it turns out to be."""
    asked = sum(min(text.count("/"), NAMES_MAX) for text in wanted)
    if asked * sum(len(one.capability.path.names) for one in allows) > COMPARED_MAX:
        raise CallError(errno.E2BIG, f"spawn: {len(wanted)} capabilities are too much to look for among {len(allows)}",
                        remedy="name fewer, or give the child more of them with SYS_GRANT")


def _within(allows: tuple[Rule, ...], wanted: Capability) -> Rule:
    source = next((one for one in allows if wanted.within(one.capability)), None)
    if source is None:
        raise CallError(errno.EPERM, f"spawn: {wanted} is more than all that may be given",
                        rule="what is given is at most what is held")
    return Rule(ALLOW, wanted, source.mark)


def shared_out(allows: tuple[Rule, ...], count: int | None) -> Iterator[Rule]:
    """The rules with leave to spawn so many agents together, and no more: the first rules that allow it give it."""
    left = count or 0
    for one in allows:
        if not _is_spawn(one):
            yield one
            continue
        if others := one.capability.actions - {SPAWN}:
            yield evolve(one, capability=evolve(one.capability, actions=others))
        if given := min(left, _most(one)):
            limits = evolve(one.capability.constraints, max=given)
            yield evolve(one, capability=evolve(one.capability, actions=frozenset({SPAWN}), constraints=limits))
            left -= given


def _place(one: Rule) -> tuple[bool, int, int]:
    """Rules in the order of their file, then those of none."""
    return not one.mark.line, one.mark.line, one.mark.column


_SHARED: Final[WeakValueDictionary[object, Compiled]] = WeakValueDictionary()
"""What agents share that hold the same and are denied the same."""


def made(source: Source, document: Policy, mode: str, deny: tuple[str, ...], allows: tuple[Rule, ...]) -> InForce:
    deny = tuple(dict.fromkeys(deny))
    if len(deny) > DENIALS_MAX:
        raise CallError(errno.EINVAL, f"over {DENIALS_MAX} denials beside the policy",
                        remedy="write them into a policy's file")
    allows = tuple(sorted(allows, key=_place))
    key = (source, deny, allows)
    compiled = _SHARED.get(key)
    if compiled is None:
        denials = (*(one for one in document.rules if one.effect == DENY), *map(denial, deny))
        _SHARED[key] = compiled = Compiled(evolve(document, rules=tuple(sorted((*allows, *denials), key=_place))))
    metered = any(one.capability.constraints.metered for one in allows)
    return InForce(source, document, compiled, mode, deny, *_guarded(compiled), metered)


@lru_cache(maxsize=16)
def _guarded(compiled: Compiled) -> tuple[frozenset[str], frozenset[str]]:
    """The fields `guarded` and `partial`. Kept, and with them what is in `_SHARED` for the next spawn."""
    denied = [one.capability.path.names[0] for one in compiled.policy.rules
              if one.effect == DENY and one.capability.resource == "call"]
    partial = {name for name, ask in ASKS.items() if ask.resource and not all(
        compiled.allows_all(ask.resource, ask.action, space) for space in ask.space)}
    if not compiled.allows_all("file", "read", ALL[0]):
        partial.add("RENAME")  # which asks for its own action, write, and for this one
    named = {name for name in ASKS if any(first == DEPTH or name_covers(first, name.encode()) for first in denied)}
    moves = {"RENAME"} if compiled.names_paths else set[str]()
    return frozenset(partial | named | moves), frozenset(partial)
