"""Agents as processes: one record for each life, the table of them, and the words for how they ended."""

import enum
import errno
import signal as linux
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from attrs import Factory, define, field, frozen

from agentix_kernel.authority.constraints import Meter
from agentix_kernel.authority.holdings import Grant, Start
from agentix_kernel.authority.policy.inforce import InForce
from agentix_kernel.repeats import Repeats
from agentix_kernel.signals import SignalState
from agentix_kernel.trail import Trail
from agentix_kernel.world import DEFAULT_RUNTIME, Bind, Limits, Sandbox, Usage
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import Restart

if TYPE_CHECKING:
    from agentix_kernel.logs import AgentLog
    from agentix_kernel.stdin import Stdin
    from agentix_vfs.handles import Handle


class State(enum.Enum):
    """ready: being made, or waiting for its restart; zombie: ended, not yet waited for by its parent; dead: gone, its
    record and files stay.
    """

    READY = "ready"
    RUNNING = "running"
    STOPPED = "stopped"
    ZOMBIE = "zombie"
    DEAD = "dead"


ALIVE: Final = frozenset({State.READY, State.RUNNING, State.STOPPED})
CANDIDATES_MAX: Final = 8
SHOWN_MAX: Final = 80
"""Of names: so many are told, and so many characters of one that is no agent's."""


class Why(enum.Enum):
    """Why an agent ended. The words that people see; each is told apart from all others."""

    EXIT = "exit"
    SIGNAL = "signal"
    KILLED = "killed"
    POLICY = "policy"
    TRUST = "trust"
    BUDGET = "budget"
    LOOP = "loop"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    LOST = "lost"
    SHUTDOWN = "shutdown"
    UNKILLABLE = "unkillable"


@frozen
class End:
    """How it ended. `code` for a plain exit; `signal` the name of the Agentix or Linux signal; `detail` a sentence."""

    why: Why
    code: int | None = None
    signal: str | None = None
    detail: str = ""
    rule: str = ""

    @property
    def status(self) -> int:
        """Exit status at the shell: the code, or 128 + the Linux signal that ended it (kills are SIGKILL)."""
        if self.code is not None:
            return self.code
        if self.why is Why.SIGNAL and self.signal:
            return 128 + int(getattr(linux, self.signal, linux.SIGKILL))
        return 128 + linux.SIGKILL


@frozen
class Denial:
    """What was refused (in mode audit: would have been), by whom, and what would allow it.

    `rule` has its file and line; `file` and `line` have them apart, if it stands in a document.
    """

    enforcer: str
    call: str
    about: str
    message: str
    rule: str
    file: str
    line: int
    mode: str
    remedy: str
    wall_ns: int

    @property
    def text(self) -> str:
        """As policy/last-denial says it."""
        rows = {"Rule": self.rule, "Enforcer": self.enforcer, "Mode": self.mode, "Remedy": self.remedy}
        return f"{self.message}\n" + "".join(f"{key}:\t{value}\n" for key, value in rows.items() if value)


@frozen
class Command:
    """What an agent runs: see world.Confined. `runtime` and `profile`: by name, "" where there is no profile."""

    kind: str
    argv: tuple[str, ...]
    source: bytes | None = None
    env: dict[str, str] = field(factory=dict[str, str])
    cwd: str = ""
    binds: tuple[Bind, ...] = ()
    stdin: bool = False
    """Its stdin is kept open, to be fed by operators."""
    owner: int = 0
    """Uid of the operator who had it spawned, or had whoever spawned it; see control.rights."""
    terminal: tuple[int, int] | None = None
    """It has a terminal, first of so many (rows, columns)."""
    runtime: str = DEFAULT_RUNTIME
    profile: str = ""


@define(eq=False)
class Lives:
    """What all lives of an agent share: its restart policy and how it went. Times are monotonic."""

    policy: Restart = field(factory=Restart)
    wanted: bool = False
    """It is to run: until an operator ends it, or it ends in a way that its policy does not name."""
    restarts: int = 0
    """By its policy, since it was spawned or an operator restarted it."""
    delay_s: float = 0.0
    """From its last end to its restart; 0 when none was tried, or it ran long enough since."""
    starts_ns: list[int] = field(factory=list[int])
    """Those that the start limit still counts."""
    last: End | None = None
    """How the life before this one ended."""
    due_ns: int = 0
    """When the next life begins, while it waits for that."""
    refused: str = ""
    """Why it is not restarted though its policy says so."""
    start: Start = field(factory=Start)
    """What each life begins to hold."""


class Connected(Protocol):
    """A connection of an agent, as its end sees it (dispatch.Session)."""

    def cancel_all(self) -> None: ...
    def withdraw(self) -> list[str]: ...
    def close(self) -> None: ...


@define(eq=False, repr=False)
class OpenFile:
    """What a handle's number stands for: an open file of the tree, and where the next READ or WRITE begins."""

    handle: "Handle"
    position: int = 0

    @property
    def path(self) -> bytes | None:
        """Where the file is now, from the agent's root; None when its last name is gone."""
        from agentix_vfs.nodes import path_of

        try:
            return path_of(self.handle.node)
        except CallError:
            return None

    @property
    def shown(self) -> str:
        """The path for people, as procfs shows it."""
        path = self.path
        return "(deleted)" if path is None else path.decode("utf-8", "replace")


def _own_budgets(process: "Process") -> dict[str, Meter]:
    return {name: Meter(limits) for name, limits in process.policy.policy.budgets}


@define(eq=False, repr=False)
class Process:
    """One life of an agent; the table has the last one. Owned by the kernel's task; what changes it wakes `changed`.

    Each life is an object of its own, so that what was begun in one (a late kill, a signal under way, a call that
    waits) never touches the next.
    """

    id: int
    life: int
    name: str
    uid: int
    parent: int
    command: Command
    limits: Limits
    policy: InForce
    started_wall_ns: int
    born_ns: int = 0
    """Monotonic time of this life's begin."""
    lives: Lives = field(factory=Lives)
    origin: int = 0
    """The agent of an operator that it descends from: itself, if an operator spawned it."""
    state: State = State.READY
    end: End | None = None
    doom: End | None = None
    """Set when its end is decided: from then on nothing of it is answered."""
    sandbox: Sandbox | None = None
    signals: SignalState = field(factory=SignalState)
    children: set[int] = field(factory=set[int])
    spawned: int = 0
    paid: tuple[Grant, ...] = ()
    """What its parent's leave to spawn it was counted against."""
    handles: dict[int, OpenFile] = field(factory=dict[int, OpenFile])
    sessions: "set[Connected]" = field(factory=set["Connected"])
    log: "AgentLog | None" = None
    trail: Trail = field(default=Factory(lambda self: Trail(self.id), takes_self=True))
    stdin: "Stdin | None" = None
    calls: int = 0
    denials: int = 0
    last_denial: Denial | None = None
    """Of this life or an earlier one."""
    budgets: dict[str, Meter] = field(default=Factory(_own_budgets, takes_self=True))
    """Of its policy, by what they count. An agent and all it spawns draw on the same; a number is for a life, a rate
    goes on through all lives, or ending itself would fill it again.
    """
    spent: set[str] = field(factory=set[str])
    """Those that it was told are exhausted, and that have not recovered since."""
    repeats: Repeats = field(factory=Repeats)
    tools: int = 0
    waits: int = 0
    """Its calls that wait."""
    terminating: bool = False
    """It got a SIGTERM that no handler of its own takes; the proven kill follows."""
    ended_wall_ns: int = 0
    usage: Usage = field(factory=Usage)
    written: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]])
    """Signals that were written to proc/signal and not sent yet: number, and the agent that wrote (0: the host)."""
    held: bool = False
    """Stopping or stopped: no call of it is served or answered."""
    stop_wanted: bool = False
    """What the last of SIGSTOP and SIGCONT asked for."""
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    freezing: trio.CancelScope | None = None
    waking: trio.CancelScope | None = None
    """This life has not begun yet, and waits for its time; cancelled, it begins at once, or ends if doomed."""
    again: tuple[Bind, ...] | None = None
    """An operator wants another life after this one, with these binds."""
    time: trio.CancelScope = field(factory=trio.CancelScope)
    """Its deadline is when the agent's time is over."""
    steering: trio.Lock = field(factory=trio.Lock)
    over: trio.Event = field(factory=trio.Event)
    """Set when nothing of this life is left: killed, proven, closed."""
    gone: trio.Event = field(factory=trio.Event)
    """Set when nothing is left and no further life follows; shared by the lives of an agent."""

    @property
    def tag(self) -> str:
        return f"{self.id}.{self.life}"

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def following(self, wall_ns: int, monotonic_ns: int) -> "Process":
        """The next life: the same agent, with nothing of what this life did but why it was refused something last, and
        how much of its rates it used.
        """
        budgets = {what: meter if meter.limits.rate is not None else Meter(meter.limits)
                   for what, meter in self.budgets.items()}
        return Process(self.id, self.life + 1, self.name, self.uid, self.parent, self.command, self.limits, self.policy,
                       wall_ns, monotonic_ns, self.lives, self.origin, log=self.log, trail=self.trail,
                       last_denial=self.last_denial, budgets=budgets, waking=trio.CancelScope(),
                       gone=trio.Event() if self.gone.is_set() else self.gone)

    def wake(self) -> None:
        self.changed.unpark_all()

    def usage_now(self) -> Usage:
        if self.sandbox is not None and self.alive:
            self.usage = self.sandbox.usage()
        return self.usage


@define
class ProcessTable:
    """All agents that this kernel knows, dead ones included until they are removed."""

    by_id: dict[int, Process] = field(factory=dict[int, Process])
    by_name: dict[str, Process] = field(factory=dict[str, Process])
    by_uid: dict[int, Process] = field(factory=dict[int, Process])
    by_tool_uid: dict[int, Process] = field(factory=dict[int, Process])
    """Agents by the uids of their tools that run."""

    def add(self, process: Process) -> None:
        assert process.id not in self.by_id, "an id is given once"
        assert process.uid not in self.by_uid, "a uid is one agent's, for as long as its files live"
        self.by_id[process.id] = process
        self.by_uid[process.uid] = process
        self.by_name[process.name] = process

    def follow(self, process: Process) -> None:
        """Put the next life in the place of the one before it."""
        before = self.by_id[process.id]
        assert not before.alive and process.life == before.life + 1, "one life after the other"  # noqa: PT018 - one fact
        self.by_id[process.id] = self.by_uid[process.uid] = self.by_name[process.name] = process

    def answerable(self, uid: int) -> Process | None:
        """The agent that answers for what a uid does: whose it is, or whose tool's."""
        return self.by_uid.get(uid) or self.by_tool_uid.get(uid)

    def latest(self, process: Process) -> Process:
        """The last life of an agent, of which this may be an earlier one; itself when the agent was removed."""
        return self.by_id.get(process.id, process)

    def rename(self, process: Process, name: str) -> None:
        assert name not in self.by_name, "checked by whoever asks"
        del self.by_name[process.name]
        process.name = name
        self.by_name[name] = process

    def remove(self, process: Process) -> None:
        assert not process.alive
        del self.by_id[process.id]
        del self.by_uid[process.uid]
        del self.by_name[process.name]

    def get(self, agent: int) -> Process:
        """Raises CallError(ESRCH)."""
        found = self.by_id.get(agent)
        if found is None:
            raise CallError(errno.ESRCH, f"agent {agent}: no such agent", remedy="agentctl ps -a lists them")
        return found

    def find(self, target: Any) -> Process:
        """By id, by name, or by the beginning of one name, as operators write it; a whole name beats a beginning.

        Raises CallError: ESRCH, and EINVAL for what names no agent or begins the names of several.
        """
        if type(target) is int:
            return self.get(target)
        if type(target) is not str or not target:
            raise CallError(errno.EINVAL, "an agent is named by its id (a number), its name or a beginning of it")
        if target.isdecimal() and len(target) <= 20:
            return self.get(int(target))
        return self.by_name.get(target) or self._begun(target)

    def _begun(self, beginning: str) -> Process:
        """The one agent whose name begins so."""
        names = sorted(name for name in self.by_name if name.startswith(beginning))
        shown = repr(beginning) if len(beginning) <= SHOWN_MAX else f"{beginning[:SHOWN_MAX]!r}..."
        if not names:
            raise CallError(errno.ESRCH, f"agent {shown}: no such agent", remedy="agentctl ps -a lists them")
        if len(names) > 1:
            more = f" and {len(names) - CANDIDATES_MAX} more" if len(names) > CANDIDATES_MAX else ""
            raise CallError(errno.EINVAL, f"agent {shown}: {len(names)} names begin so: "
                            f"{', '.join(names[:CANDIDATES_MAX])}{more}", remedy="write more of the name, or the id")
        return self.by_name[names[0]]

    def parent_of(self, agent: int) -> int:
        """The id of an agent's parent; 0 for none."""
        process = self.by_id.get(agent)
        return process.parent if process is not None else 0

    def alive(self) -> list[Process]:
        return [process for process in self.by_id.values() if process.alive]

    def family(self, process: Process) -> list[Process]:
        """The agent and all its living descendants, parents before children."""
        found, queue = [process], sorted(process.children)
        while queue:
            child = self.by_id.get(queue.pop(0))
            if child is not None and child.alive:
                found.append(child)
                queue.extend(sorted(child.children))
        return found
