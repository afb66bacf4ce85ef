"""Why: what decides about a call or a path of an agent, in which line, which enforcer holds it, what would allow it.

What we mediate is asked of the policy; what is simply absent is read from the structure of the sandbox. Nothing is
tried, and nothing of the host is looked at.
"""

import errno
import itertools
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from attrs import frozen

from agentix_kernel import grants
from agentix_kernel.authority.policy.inforce import ASKS, AUDIT, Verdict
from agentix_kernel.calls.info import checked
from agentix_kernel.confine import filter as call_filter
from agentix_kernel.confine import shown as structure
from agentix_kernel.confine.absences import BY_NAME
from agentix_kernel.confine.syscalls_table import ROWS, Action, Row, Test
from agentix_kernel.confine.template import within
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.world import OWN_RUNTIME, Runtime
from agentix_syscalls import calls
from agentix_syscalls.calls import Call
from agentix_syscalls.errors import CallError
from agentix_vfs.nodes import Rule

_T = TypeVar("_T")
_OWN = re.compile(rb"/agent/(self|[0-9]+)(/.*)?\Z", re.DOTALL)
_LINUX_NAME = re.compile(r"[a-z0-9_]{1,64}\Z")
_ANSWERS = {Action.REFUSE: "refused (EPERM)", Action.FATAL: "refused (EPERM), and the agent is ended by SIGPOLICY",
            Action.ABSENT: "answered with ENOSYS", Action.NO_FAMILY: "answered with EAFNOSUPPORT"}
_SAME_FOR_ALL = "nothing: what seccomp refuses is the same for all agents; see agentix-confinement(7)"


@frozen
class Answer:
    """One thing that was asked about. `allowed` None: it depends, as the message says. `rule` decided, at file:line."""

    asked: str
    allowed: bool | None
    enforcer: str
    message: str
    rule: str = ""
    file: str = ""
    line: int = 0
    remedy: str = ""


def last(process: Process) -> list[Answer]:
    """What was refused last, if anything ever was; in mode audit it was done."""
    found = process.last_denial
    if found is None:
        return []
    return [Answer(f"{found.call} {found.about}".strip(), found.mode == AUDIT, found.enforcer, found.message,
                   found.rule, found.file, found.line, found.remedy)]


# --- calls ---------------------------------------------------------------------------------------------------------

def of_call(kernel: Kernel, process: Process, name: str, obj: bytes | None, *, look: bool) -> list[Answer]:
    """A system call of ours by name, or one of Linux. `look`: links of the agent's tree may be followed for who asks.

    Raises CallError (EINVAL) for no call at all.
    """
    call = calls.find(name)
    if call is None:
        return list(_linux(name.lower()))
    if call.support.startswith("planned"):
        return [Answer(call.name, False, "dispatch", f"{call.name}: {call.support}")]
    objects: tuple[bytes, ...] = ()
    if obj is not None:
        objects = (_canonical(kernel, process, obj, look=look) if ASKS[call.name].path else obj.strip(b"/"),)
    wanted = {"OPEN": ("READ", "WRITE")}.get(call.name, (call.name,))
    return [_judged(kernel, process, call, one, objects) for one in wanted]


def _judged(kernel: Kernel, process: Process, call: Call, name: str, objects: tuple[bytes, ...]) -> Answer:
    """`name`: what the call is asked as; an OPEN is asked as READ or WRITE, too."""
    about = "".join(f" {one.decode('utf-8', 'replace')}" for one in objects)
    asked = f"{call.name}{about}" if name == call.name else f"{call.name}{about} to {name.lower()}"
    said = checked(process.policy, call.name if name == "READ" else name, objects)
    if said.needs and process.alive:  # an agent that has ended holds nothing: then it is what its policy says
        said = grants.left(kernel, process, call.name, said)
    if said.allowed and name == "WRITE" and call.name == "OPEN":
        said = process.policy.decide("OPEN", *objects)
    enforcer = "dispatch, mount" if ASKS[call.name].path else "dispatch"
    if not said.allowed:
        audited = process.policy.mode == AUDIT
        message = f"{said.message}; mode audit: it is recorded, and done" if audited else said.message
        return Answer(asked, audited, enforcer, message, said.rule, said.file, said.line, said.remedy)
    found = _allowing(process, name, objects)
    return Answer(asked, True, enforcer, "a rule allows it" if found.rule else "no rule is about it, or it is on the "
                  "way to what is allowed", found.rule, found.file, found.line)


def _allowing(process: Process, name: str, objects: tuple[bytes, ...]) -> Verdict:
    """The rule that allows what is allowed, if one does."""
    ask = ASKS[name]
    if not ask.resource or not objects:
        return Verdict(allowed=True)
    found = process.policy.compiled.decide(ask.resource, ask.action, objects[0])
    return Verdict(True, found.shown, file=found.file, line=found.line) if found.allowed else Verdict(allowed=True)


def _canonical(kernel: Kernel, process: Process, path: bytes, *, look: bool) -> bytes:
    """From the tree's root, which it may begin with or leave out; without a look, as far as its words go."""
    own = _OWN.match(path)
    inside = b"/" + ((own[2] or b"") if own is not None else path).lstrip(b"/")
    if not look:
        return posixpath.normpath(inside)
    there, missing = _existing(inside, lambda path: kernel.tree.canonical(process.id, path))
    return there + missing


def _existing(path: bytes, ask: Callable[[bytes], _T]) -> tuple[_T, bytes]:
    """What is said of a path of the tree, or of the folder above that is there, and the names missing below that.

    Raises CallError.
    """
    missing = b""
    while True:
        try:
            return ask(b"." + path), missing
        except CallError as error:
            path, _, name = path.rstrip(b"/").rpartition(b"/")
            if error.number != errno.ENOENT or not path or name in {b".", b".."}:
                raise
            missing = b"/" + name + missing


def _linux(name: str) -> Iterator[Answer]:
    rows = [row for row in ROWS if row.name == name]
    if not rows and (not _LINUX_NAME.match(name) or call_filter.number(name) < 0):
        raise CallError(errno.EINVAL, f"why: no call is named {name[:64]!r}, neither here nor in Linux",
                        remedy="agentctl syscalls lists ours")
    for _, alike in itertools.groupby(rows, key=lambda row: (row.action, row.why)):
        same = tuple(alike)
        row = same[0]
        yield Answer(f"Linux call {name}{_when(same)}", False, "seccomp", f"{_ANSWERS[row.action]}: it {row.why}"
                     if not row.tests else f"{_ANSWERS[row.action]}: {row.why}", f"seccomp {name}",
                     remedy=_SAME_FOR_ALL)
    if (absence := BY_NAME.get(name)) is not None:
        yield Answer(f"Linux call {name}, when {absence.when}", False, absence.enforcer,
                     f"seccomp lets it pass, and Linux answers {absence.answers}")
    if not rows or all(row.tests for row in rows):
        yield Answer(f"Linux call {name}{' otherwise' if rows or absence else ''}", True, "seccomp",
                     "no row of its table is about it")


def _when(rows: Sequence[Row]) -> str:
    """In which cases: those of rows that act alike. What they begin with alike is said once."""
    cases = [" and ".join(map(_tested, row.tests)) for row in rows if row.tests]
    if not cases:
        return ""
    start = re.match(r"argument \d+ (is|has) ", cases[0])
    if start is not None and all(case.startswith(start[0]) for case in cases):
        cases[1:] = [case.removeprefix(start[0]) for case in cases[1:]]
    return ", when " + " or ".join(filter(None, (", ".join(cases[:-1]), cases[-1])))


def _tested(test: Test) -> str:
    what = f"argument {test.argument + 1}"
    if test.op == "==" and test.mask == test.value:
        return f"{what} has {test.value:#x}"
    return f"{what} {'is' if test.op == '==' else 'is not' if test.op == '!=' else 'is over'} {test.value:#x}"


# --- paths ---------------------------------------------------------------------------------------------------------

def of_path(kernel: Kernel, process: Process, path: bytes, *, look: bool) -> list[Answer]:
    """A path as the agent's programs see it: to read it, and to write it. Raises CallError (EINVAL, and the tree's)."""
    if not path.startswith(b"/"):
        raise CallError(errno.EINVAL, f"why: {path[:200].decode('utf-8', 'replace')!r} does not begin with '/'",
                        remedy="name it as the agent's programs would")
    path = posixpath.normpath(b"/" + path.lstrip(b"/"))
    own = _OWN.match(path)
    if own is not None and own[1] in {b"self", b"%d" % process.id}:
        return _in_tree(kernel, process, own[2] or b"/", look=look)
    return _in_sandbox(kernel, process, path.decode("utf-8", "replace"))


def _in_tree(kernel: Kernel, process: Process, path: bytes, *, look: bool) -> list[Answer]:
    path = _canonical(kernel, process, path, look=look)
    answers = [_judged(kernel, process, calls.BY_NAME[name], name, (path,)) for name in ("READ", "WRITE")]
    kept = _existing(path, lambda path: kernel.tree.rule(process.id, path))[0] if look else Rule.ORDINARY
    if kept is not Rule.ORDINARY and answers[1].allowed:
        how = {Rule.APPEND: "what is there stays: only to append to", Rule.READ_ONLY: "answered with EROFS",
               Rule.FIXED: "names are the kernel's, and its files say what may be written"}[kept]
        answers[1] = Answer(answers[1].asked, None if kept is not Rule.READ_ONLY else False, "tree",
                            f"that part of the tree is {kept.value}: {how}", f"tree: {kept.value}")
    return answers


def _in_sandbox(kernel: Kernel, process: Process, path: str) -> list[Answer]:
    runtime = _runtime(kernel, process)
    found = structure.shown(path, str(process.id), process.command.binds, runtime)
    at = structure.free(path, runtime)
    uid = f"uid {process.uid}"
    if found.there is False:
        return [Answer(f"{verb} {path}", False, found.keeps, f"{found.what} (ENOENT)", "absent by structure",
                       remedy=_bind(path, at, "ro" if verb == "read" else "rw")) for verb in ("read", "write")]
    reading = Answer(f"read {path}", True if found.there else None, "mount namespace, mode bits",
                     f"{found.what} ({uid})", "shown by structure")
    if found.keeps:
        bound = max((bind for bind in process.command.binds if within(path, bind.target)),
                    key=lambda bind: len(bind.target), default=None)
        remedy = _bind(path, at, "rw") if bound is None else _bind(bound.source, bound.target, "rw")
        return [reading, Answer(f"write {path}", False, found.keeps, f"{found.what} (EROFS or EACCES)",
                                "read-only by structure", remedy=remedy)]
    return [reading, Answer(f"write {path}", True if found.there else None, "mode bits", f"{found.what} ({uid})",
                            "shown by structure")]


def _bind(host: str, at: str, mode: str) -> str:
    """What would show a file of the host, and how it is written."""
    own, option = (", for a folder of your own", "--bind") if mode == "rw" else ("", "--bind-ro")
    return (f"in its policy, under binds: - {{host: {_quoted(host)}, at: {_quoted(at)}, mode: {mode}}}; "
            f"or at its spawn {option} {host}:{at}{own}")


def _quoted(path: str) -> str:
    """As YAML has it between braces."""
    return path if re.fullmatch(r"[A-Za-z0-9._/+-]+", path) else json.dumps(path)


def _runtime(kernel: Kernel, process: Process) -> Runtime:
    """As it is configured now; the kernel's own when it is not any more."""
    configured = kernel.settings.runtimes.get(process.command.runtime)
    return configured.runtime if configured is not None else OWN_RUNTIME
