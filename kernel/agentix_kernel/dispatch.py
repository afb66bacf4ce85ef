"""From a frame to a reply: decode, check, judge, run, record. One synchronous path; only what must wait awaits.

decode: wire.decode and Call.parse turn the agent's bytes into checked values (or a fault, or EINVAL);
invoke: a handler gets values of the right types and asks for the rest (tree, family, policy).
"""

import errno
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

import trio
from attrs import define, field, frozen

from agentix_kernel import budgets, denials, grants, loops
from agentix_kernel.authority.holdings import Need
from agentix_kernel.authority.policy.inforce import Verdict
from agentix_kernel.calls import handlers
from agentix_kernel.kernel import Kernel
from agentix_kernel.outcome import NoReplyError, Recorded
from agentix_kernel.process import Process
from agentix_syscalls import calls, records, signals, wire
from agentix_syscalls.calls import Call
from agentix_syscalls.errors import CallError

NAMES_A_LINK: Final = frozenset({"UNLINK", "RENAME", "MKDIR"})
"""Calls about the last name of a path itself, even when it is a symbolic link."""
BY_HANDLE: Final = frozenset({"READ", "WRITE", "SEEK"})
PAID_ELSEWHERE: Final = BY_HANDLE | {"EXEC"}
"""Calls that count nothing here: what is done through an open handle was counted when it was opened, a tool when all
else that may be wrong with its call has been looked at.
"""
NOTED_BYTES: Final = 256
"""Values longer than this are told by size and hash in the record: who has the content can prove that it was that.
sha256, as the journal has it: 4 KiB take it 2.8 us where the CPU helps, and blake2b 4.9. Shorter content could be
guessed from its hash, so of that there is none.
"""
WAITS_MAX: Final = 1024
"""Calls of one agent that wait: each is a task of the kernel's."""
UNRECORDED: Final = "not recorded"
"""Stands for what is secret."""
NOTED_DEPTH: Final = 4
"""Values nested deeper likewise: whoever reads the record must be able to decode it within wire.DEPTH_MAX."""


@frozen
class Entry:
    """What dispatch needs of a row, looked up once."""

    call: Call
    run: Callable[..., Any] | None
    path_at: tuple[int, ...]
    bulk_at: tuple[int, ...]
    secret_at: tuple[int, ...]
    counted: bool
    """By a budget of calls."""
    asking: bool
    """It may be repeated alike when it succeeds; others only when they fail."""


def _entry(call: Call) -> Entry:
    names = [arg.name for arg in call.args]
    return Entry(call, handlers.HANDLERS.get(call.name), tuple(names.index(name) for name in call.paths),
                 tuple(at for at, arg in enumerate(call.args) if arg.bulk and not arg.secret),
                 tuple(at for at, arg in enumerate(call.args) if arg.secret),
                 call.name not in budgets.UNCOUNTED, call.name in loops.ASKING)


ENTRIES: Final = {call.number: _entry(call) for call in calls.CALLS}
HELLO: Final = calls.SYS_HELLO
CANCEL: Final = calls.SYS_CANCEL


@define(eq=False)
class Waiting:
    """A call that waits. `refused`: why it is ended, when that is not a cancellation."""

    entry: Entry
    args: list[Any]
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    refused: CallError | None = None


@define(eq=False, repr=False)
class Session:
    """One connection of an agent. `send` queues bytes; `drop` closes it; both belong to the door it came through."""

    kernel: Kernel
    process: Process
    send_now: Callable[[bytes], None]
    drop: Callable[[], None]
    greeted: bool = False
    owed: int = 0
    """Bytes of replies that were made and have not left the kernel's tick."""
    pending: dict[int, Waiting] = field(factory=dict[int, Waiting])
    outbox: list[bytes] = field(factory=list[bytes])
    closed: bool = False

    def send(self, data: bytes) -> None:
        """A reply leaves, unless its agent is stopped (then when it continues) or ending (then never)."""
        self.owed -= len(data)
        self._release(data)

    def _release(self, data: bytes) -> None:
        if self.closed or self.process.doom is not None:
            return
        if self.process.held:
            self.outbox.append(data)
        else:
            self.send_now(data)

    def resume(self) -> None:
        waiting, self.outbox = self.outbox, []
        for data in waiting:
            self._release(data)

    def cancel_all(self) -> None:
        for waiting in self.pending.values():
            waiting.scope.cancel()

    def withdraw(self) -> list[str]:
        """End with EPERM what waits and is not allowed any more; names of the calls."""
        ended: list[str] = []
        for waiting in self.pending.values():
            refused = next((row for row in asked(self.kernel, self.process, waiting.entry, waiting.args)
                            if not row.verdict.allowed), None)
            if refused is not None:
                waiting.refused = CallError(errno.EPERM, f"no more: {refused.verdict.message}",
                                            rule=refused.verdict.rule, enforcer="dispatch",
                                            remedy="its policy was changed meanwhile")
                waiting.scope.cancel()
                ended.append(waiting.entry.call.name)
        return ended

    def close(self) -> None:
        """The connection ends: what it waits for is cancelled."""
        self.closed = True
        self.process.sessions.discard(self)
        self.cancel_all()


def serve(session: Session, operation: int, flags: int, user_data: int, body: bytes) -> None:
    """Serve one frame. Replies go through kernel.post; faults drop the session. Raises nothing."""
    kernel, process = session.kernel, session.process
    if process.doom is not None:
        return
    if kernel.journal.failed is not None:
        _refuse_unrecorded(session, operation, user_data)
        return
    process.calls += 1
    entry = ENTRIES.get(operation)
    args: Any = ()
    refusals = process.denials
    try:
        raw = wire.decode(body)
        if not session.greeted and operation != HELLO:
            raise wire.WireError("the first frame must be HELLO")
        if entry is None:
            raise CallError(errno.ENOSYS, f"system call {operation}: unknown", remedy="agentctl syscalls lists them")
        if flags & ~wire.REQUEST_FLAGS:
            raise CallError(errno.EINVAL, f"{entry.call.name}: unknown flags {flags & ~wire.REQUEST_FLAGS:#x}")
        if process.budgets and entry.counted:
            budgets.charge(kernel, process, "calls")
        args = entry.call.parse(raw)
        result = _run(session, entry, args)
        if entry.call.blocking:
            _wait_for(session, entry, user_data, args, result)
            return
        reply = wire.frame(operation, wire.F_REPLY, user_data, wire.pack(result))
    except CallError as error:
        _fail(session, entry, operation, user_data, args, error, denied=process.denials != refusals)
        if entry is not None:
            _failed_alike(session, entry, args, body, error)
        return
    except wire.WireError as error:
        fault(session, operation, user_data, errno.EPROTO, str(error))
        return
    except NoReplyError:
        _note(kernel, process, entry, args, records.ALLOWED)
        return
    except Exception as error:
        _internal(session, entry, operation, user_data, args, error)
        return
    seq = _note(kernel, process, entry, args, records.ALLOWED)
    kernel.post(session, reply, seq if entry.call.durable else 0)
    if entry.asking:
        _answered_alike(session, entry, args, body, reply)


def _run(session: Session, entry: Entry, args: list[Any]) -> Any:
    """Judge and run. A blocking call's handler returns a coroutine."""
    call, process = entry.call, session.process
    if call.number == HELLO:
        return _hello(session, *args)
    if entry.run is None and call.number != CANCEL:
        raise CallError(errno.ENOSYS, f"{call.name}: {call.support}", remedy="agentctl syscalls shows what is built")
    if process.policy.guarded:
        judge(session.kernel, process, entry, args)
    if entry.run is None:
        return _cancel(session, *args)
    return entry.run(session.kernel, process, *args)


@frozen
class Asked:
    """What the rules say of a call under one name and on one object, if it is about one."""

    name: str
    shown: str
    verdict: Verdict


def judge(kernel: Kernel, process: Process, entry: Entry, args: list[Any]) -> None:
    """Hold a call against the policy, and count it where that is metered.

    Raises CallError: EPERM (in strict mode the caller is ended as well), EAGAIN, EDQUOT.
    """
    if entry.call.name in BY_HANDLE:
        _check_withdrawn(process, entry.call.name, args[0])
    needs: list[Need] = []
    shown = ""
    for row in asked(kernel, process, entry, args):
        if not row.verdict.allowed:
            refused = denials.violate(kernel, process, "dispatch", row.name, row.shown, row.verdict)
            if refused is not None:
                raise refused
        elif row.verdict.needs and entry.call.name not in PAID_ELSEWHERE:
            needs += row.verdict.needs
            shown = shown or row.shown
    if needs:
        grants.spend(kernel, process, entry.call.name, shown, tuple(needs))


def _check_withdrawn(process: Process, call: str, fd: int) -> None:
    """What was taken back of an open file is refused, and no violation: it was allowed when it was opened."""
    file = process.handles.get(fd)
    if file is None or file.handle.withdrawn is None:
        return
    handle = file.handle
    if not (handle.readable if call == "READ" else handle.writable if call == "WRITE" else
            handle.readable or handle.writable):
        raise file.handle.withdrawn()


def asked(kernel: Kernel, process: Process, entry: Entry, args: list[Any]) -> list[Asked]:
    """Every rule that a call is held against, by the policy in force. Raises CallError for paths that lead nowhere."""
    policy, call, path_at = process.policy, entry.call, entry.path_at
    about: list[tuple[str, tuple[bytes, ...]]] = []
    for name in _asked(kernel, process, call, args):
        if name not in policy.guarded:
            continue
        if path_at:
            follow = call.name not in NAMES_A_LINK and not (call.name == "STAT" and args[1] & calls.AT_SYMLINK_NOFOLLOW)
            about += [(name, (kernel.tree.canonical(process.id, args[at], follow=follow),)) for at in path_at]
        else:
            about.append((name, _objects(kernel, process, name, args)))
    return [Asked(name, objects[0].decode("utf-8", "replace") if objects else "", policy.decide(name, *objects))
            for name, objects in about]


def _objects(kernel: Kernel, process: Process, name: str, args: list[Any]) -> tuple[bytes, ...]:
    """What a call without a path is about, in each way in which rules may name it; nothing: its own name is all."""
    if name in {"READ", "WRITE"}:
        file = process.handles.get(args[0])
        path = file.path if file is not None else None
        return (path,) if path is not None else ()
    if name == "EXEC":
        return (args[0].encode("utf-8", "surrogateescape"),)
    if name == "WAIT":
        return (b"child",)
    return signal_objects(kernel, process, args[0], args[1]) if name == "SIGNAL" else ()


def signal_objects(kernel: Kernel, process: Process, agent: int, number: int) -> tuple[bytes, ...]:
    """Whom a signal is for, then which; none for what its handler refuses whatever the rules say."""
    row = signals.BY_NUMBER.get(number)
    if row is None or (agent != process.id and agent not in process.children):
        return ()
    whom = ["self"] if agent == process.id else ["child", kernel.table.get(agent).name]
    return tuple(f"{one}/{row.name}".encode() for one in whom)


def _asked(kernel: Kernel, process: Process, call: Call, args: list[Any]) -> tuple[str, ...]:
    """The calls whose rules a call is held against: what opens or cuts a file also reads or writes it."""
    if call.name == "TRUNCATE":
        return ("TRUNCATE", "WRITE")
    if call.name != "OPEN":
        return (call.name,)
    path, flags = args[0], args[1]
    access = flags & calls.O_ACCMODE
    names = ["OPEN"]
    if access != calls.O_WRONLY:
        names.append("READ")
    if access != calls.O_RDONLY or flags & (calls.O_CREAT | calls.O_TRUNC):
        names.append("WRITE")
    if flags & calls.O_TRUNC and kernel.tree.exists(process.id, path):
        names.append("TRUNCATE")
    return tuple(names)


def _hello(session: Session, version: int, features: int) -> list[Any]:
    del features  # none exist yet
    if session.greeted:
        raise wire.WireError("HELLO came twice")
    if version != wire.PROTOCOL:
        raise wire.WireError(f"protocol version {version}; this kernel speaks {wire.PROTOCOL}")
    session.greeted = True
    process = session.process
    return [wire.PROTOCOL, 0, process.id, process.life, process.name]


def _cancel(session: Session, user_data: int) -> None:
    """The call that waits answers for itself: it may have been done in this very tick, and its result is not lost."""
    waiting = session.pending.get(user_data)
    if waiting is None:
        raise CallError(errno.ESRCH, f"CANCEL: no call with the user data {user_data} waits on this connection")
    waiting.scope.cancel()


def _wait_for(session: Session, entry: Entry, user_data: int, args: list[Any],
              coroutine: Coroutine[Any, Any, Any]) -> None:
    if user_data in session.pending:
        coroutine.close()
        raise CallError(errno.EINVAL, f"{entry.call.name}: user data {user_data} is in use by a call that waits")
    if session.process.waits >= WAITS_MAX:
        coroutine.close()
        raise CallError(errno.EAGAIN, f"{entry.call.name}: {WAITS_MAX} calls of this agent wait already",
                        remedy="let some of them end")
    session.process.waits += 1
    waiting = session.pending[user_data] = Waiting(entry, args)
    session.kernel.nursery.start_soon(_finish, session, user_data, waiting, coroutine)


async def _finish(session: Session, user_data: int, waiting: Waiting, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Complete a call that waits. Ends silently when its session ended."""
    kernel, process = session.kernel, session.process
    entry, args, scope = waiting.entry, waiting.args, waiting.scope
    operation = entry.call.number
    seq, reply = 0, b""
    try:
        with scope:
            result = await coroutine
            if isinstance(result, Recorded):
                seq, result = result.seq, result.value
            reply = wire.frame(operation, wire.F_REPLY, user_data, wire.pack(result))
        if scope.cancelled_caught:
            went = session.closed or process.doom is not None
            told = "its caller went away" if went else f"{entry.call.name}: cancelled"
            raise waiting.refused or CallError(errno.ECANCELED, told)
        _waited(session, user_data)
        noted = _note(kernel, process, entry, args, records.ALLOWED)
        kernel.post(session, reply, noted if entry.call.durable else seq)
        if entry.asking:
            _answered_alike(session, entry, args, wire.pack(args), reply)
    except CallError as error:
        _waited(session, user_data)
        _fail(session, entry, operation, user_data, args, error, denied=bool(error.rule))
        _failed_alike(session, entry, args, wire.pack(args), error)
    except Exception as error:
        _waited(session, user_data)
        _internal(session, entry, operation, user_data, args, error)
    kernel.flush()


def _waited(session: Session, user_data: int) -> None:
    session.pending.pop(user_data, None)
    session.process.waits -= 1


def _answered_alike(session: Session, entry: Entry, args: Any, asked: bytes, reply: bytes) -> None:
    found = loops.count(session.kernel, session.process, entry.call, asked, reply[wire.HEADER_BYTES:])
    if found is not None:
        loops.tell(session.kernel, session.process, f"{_shown(entry, args)}, the same answer", found)


def _failed_alike(session: Session, entry: Entry, args: Any, asked: bytes, error: CallError) -> None:
    if entry.call.name in loops.PATIENT:
        return
    found = loops.count(session.kernel, session.process, entry.call, asked, b"%d" % error.number)
    if found is not None:
        loops.tell(session.kernel, session.process, f"{_shown(entry, args)}, {error.message}", found)


def _shown(entry: Entry, args: Any) -> str:
    """A call as people read it, without what may not be recorded of it."""
    words = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
             for value in _noted(entry, args)]
    return f"{entry.call.name}({', '.join(words)})"[:NOTED_BYTES]


def _fail(session: Session, entry: Entry | None, operation: int, user_data: int, args: Any, error: CallError, *,
          denied: bool) -> None:
    verdict = records.DENIED if denied else records.FAILED
    seq = _note(session.kernel, session.process, entry, args, verdict, error.number, error.message, error.rule)
    _answer_error(session, operation, user_data, error, seq if denied else 0)


def _answer_error(session: Session, operation: int, user_data: int, error: CallError, durable_seq: int = 0) -> None:
    body = wire.pack(error.reason(session.kernel.correlation).to_wire())
    reply = wire.frame(operation, wire.F_REPLY | wire.F_ERROR, user_data, body)
    session.kernel.post(session, reply, durable_seq)


def _refuse_unrecorded(session: Session, operation: int, user_data: int) -> None:
    """What cannot be recorded is not done. This answer alone leaves without a record."""
    body = wire.pack(denials.unrecorded(session.kernel).reason().to_wire())
    reply = wire.frame(operation, wire.F_REPLY | wire.F_ERROR, user_data, body)
    session.owed += len(reply)
    session.send(reply)


def _internal(session: Session, entry: Entry | None, operation: int, user_data: int, args: Any,
              error: Exception) -> None:
    """Our own fault: EIO for the caller, the traceback for the record, and the kernel goes on."""
    name = entry.call.name if entry else str(operation)
    session.kernel.fault(f"{name} of agent {session.process.id}", error)
    _fail(session, entry, operation, user_data, args,
          CallError(errno.EIO, f"{name}: the kernel failed; it was recorded"), denied=False)


def fault(session: Session, operation: int, user_data: int, number: int, what: str) -> None:
    """The caller broke the protocol: told once, recorded, and its connection is closed."""
    kernel, process = session.kernel, session.process
    kernel.record(records.FAULT, process, verdict=records.FAULTED, data=("protocol", what))
    _answer_error(session, operation, user_data, CallError(
        number, f"protocol fault: {what}", remedy="the connection is closed; see agentix-syscalls(2)"))
    kernel.flush()
    session.drop()


def _note(kernel: Kernel, process: Process, entry: Entry | None, args: Any, verdict: int, number: int = 0,
          message: str = "", rule: str = "") -> int:
    """Record a call and its verdict, its arguments shortened."""
    if entry is None:
        return kernel.record(records.CALL, process, verdict=verdict, data=("?", [], number, message))
    seq = kernel.journal.append(records.CALL, agent=process.id, life=process.life, verdict=verdict, rule=rule,
                                data=(entry.call.name, _noted(entry, args), number, message))
    process.trail.note(kernel.journal, seq)
    return seq


def _noted(entry: Entry, args: Any) -> list[Any]:
    """Arguments of a call as they are recorded: nothing of secret ones, of bulk ones the size and perhaps a hash."""
    if (entry.bulk_at or entry.secret_at) and args:
        args = list(args)
        for at in entry.bulk_at:
            size = len(args[at])
            args[at] = size if size <= NOTED_BYTES else [size, _hash(args[at])]
        for at in entry.secret_at:
            args[at] = UNRECORDED
    return [_brief(value) for value in args]


def _hash(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


_PLAIN: Final = (int, float, type(None))
"""Not a union in place of it, which is made anew each time it is asked."""


def _brief(value: Any, room: int = NOTED_DEPTH) -> Any:
    """A value as the record shows it: without long content. Spawn's source and environment never get there."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (bytes, str)):
        return value if len(value) <= NOTED_BYTES else _long(value)
    if not room:
        return f"{len(value)} values"
    if isinstance(value, dict):
        rows = cast("dict[str, Any]", value)
        return {key[:NOTED_BYTES]: UNRECORDED if key in {"source", "env"} else _brief(item, room - 1)
                for key, item in list(rows.items())[:64]}
    return [_brief(item, room - 1) for item in value[:64]]


def _long(value: bytes | str) -> str:
    """What stands for a long value."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes, {_hash(value)}"
    return f"{len(value)} characters, {_hash(value.encode('utf-8', 'surrogateescape'))}"
