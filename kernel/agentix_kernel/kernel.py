"""The kernel: its state, how it records, how replies leave, and its run from boot to shutdown.

Everything here runs in one trio thread. Between two awaits nothing changes; where a sequence must not be torn
apart by an await, a comment says so. Order of a tick: serve calls, append records, one write (journal.publish),
then replies; durable replies wait for the commit thread (rule 4: recorded before the reply leaves).
"""

import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from attrs import define, field, frozen

from agentix_kernel.authority.holdings import Holdings
from agentix_kernel.authority.policy.document import Loops
from agentix_kernel.config import Config
from agentix_kernel.history.asking import History
from agentix_kernel.journal.errors import JournalError
from agentix_kernel.journal.journal import Journal
from agentix_kernel.process import End, Process, ProcessTable
from agentix_kernel.registry import Registry
from agentix_kernel.runtimes.files import Settings
from agentix_kernel.world import World
from agentix_syscalls import records
from agentix_vfs.tree import Tree

if TYPE_CHECKING:
    from agentix_kernel.anchoring import Anchoring

JOURNAL_RETRY_S: Final = 0.5
MILLISECOND_NS: Final = 1_000_000


@frozen
class Given:
    """What a sandbox is given of an agent's doors: a folder with its socket, and descriptors. -1: none."""

    socket_dir: str | None = None
    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


class Doors(Protocol):
    """How agents reach the kernel: sockets and output pipes in production, nothing in a simulation."""

    def open(self, process: Process) -> Given:
        """Make the agent's socket and pipes."""
        ...
    def given(self, process: Process) -> None:
        """The sandbox has its descriptors: close our copies. What it has of a terminal is its output and input."""
        ...
    def hold(self, process: Process) -> None: ...
    def resume(self, process: Process) -> None: ...
    def close(self, process: Process) -> None:
        """The agent is gone: read what is left of its output, close everything."""
        ...


class Replier(Protocol):
    """A connection, as far as the kernel's tick knows it."""

    process: Process
    owed: int

    def send(self, data: bytes) -> None: ...


@define(eq=False, repr=False)
class Kernel:
    """One kernel. `doors` is set by boot; a simulation has none.

    No repr here and in what it holds: they know each other, and a traceback would print the world.
    """

    world: World
    config: Config
    journal: Journal
    tree: Tree
    registry: Registry
    boot: int
    """Counts the kernels of this state directory."""
    degraded: tuple[str, ...] = ()
    """Layers that are missing and were accepted by name."""
    doors: Doors | None = None
    table: ProcessTable = field(factory=ProcessTable)
    holdings: Holdings = field(init=False)
    """Who holds which capability, from whom; changed by `grants` alone."""
    expiring: bool = False
    """Whether a task waits for what expires."""
    running: bool = False
    shutting: bool = False
    on_fault: Callable[[str], None] | None = None
    """Told every fault of the kernel's own, for the operator's log."""
    on_panic: Callable[[str, BaseException], None] | None = None
    """Ends the process, and leaves an epitaph; a simulation has none, and goes on."""
    on_record: Callable[[int, Process, int, int, tuple[Any, ...]], None] | None = None
    """Told every record of an agent, likewise: kind, agent, phase, verdict, data."""
    nursery: trio.Nursery = field(init=False)
    started_ns: int = field(init=False)
    loops: Loops = field(init=False)
    """What is a loop where a policy says nothing of it."""
    correlation: int = 0
    faults: int = 0
    """Faults of the kernel's own since boot."""
    sweeping: trio.Event | None = None
    """While the files of removed agents are being erased; set when they are."""
    layers: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    """The matrix of layers as probed at boot: rows of doctor."""
    settings: Settings = field(factory=Settings)
    """Runtimes and profiles in force."""
    history: History | None = None
    """Whom to ask for what was recorded; set by boot, and a simulation has none."""
    reloading: trio.Lock = field(factory=trio.Lock)
    """Held by who changes `settings`."""
    halted: bool = False
    """Every agent is stopped, because nothing can be recorded and the operator wants it so."""
    on_refusing: Callable[[bool], None] | None = None
    """Told when records begin to be refused by the disk, and when that is over."""
    anchoring: "Anchoring | None" = None
    """Who keeps the head of the journal outside; a simulation has nobody."""
    rotating: trio.Lock = field(factory=trio.Lock)
    """Held by who changes the journal's key."""
    _sync_to: int = 0
    _refusing: bool = False
    _retrying: bool = False
    _replies: list[tuple[Replier, bytes]] = field(init=False, factory=list[tuple[Replier, bytes]])
    _waiting: deque[tuple[int, Replier, bytes]] = field(init=False, factory=deque[tuple[int, Replier, bytes]])
    _stop: trio.Event = field(init=False, factory=trio.Event)
    stop_why: str = ""

    def __attrs_post_init__(self) -> None:
        self.started_ns = self.world.clock.monotonic_ns()
        self.loops = Loops(self.config.loop_calls, round(self.config.loop_window_s * 1000) * MILLISECOND_NS)
        self.holdings = Holdings(self.table.parent_of)

    # --- recording -----------------------------------------------------------------------------------------------

    def record(self, kind: int, process: Process | None = None, *, phase: int = records.EVENT,
               verdict: int = records.NONE, rule: str = "", correlation: int = 0, data: tuple[Any, ...] = ()) -> int:
        """Append one record; returns its sequence. It leaves with the next `flush`."""
        agent, life = (process.id, process.life) if process is not None else (0, 0)
        if process is not None and self.on_record is not None:
            self.on_record(kind, process, phase, verdict, data)
        seq = self.journal.append(kind, agent=agent, life=life, phase=phase, verdict=verdict, rule=rule,
                                  correlation=correlation, data=data)
        if process is not None:
            process.trail.note(self.journal, seq)
        return seq

    def next_correlation(self) -> int:
        """An id that ties the records of one undertaking together, and the reply to them."""
        self.correlation += 1
        return self.boot << 40 | self.correlation

    def post(self, to: Replier, data: bytes, durable_seq: int = 0) -> None:
        """Queue a reply: after the next flush, and when `durable_seq` is given, after that record is durable."""
        to.owed += len(data)
        if durable_seq > self.journal.durable:
            self._waiting.append((durable_seq, to, data))
        else:
            self._replies.append((to, data))

    def flush(self) -> None:
        """End of a tick: publish what was recorded, then let replies go. Called after everything that records.

        While the disk refuses the record, replies wait and new calls are refused (dispatch); `_retry` tries again.
        """
        try:
            self.journal.publish()
        except JournalError as error:
            self._refused(error)
            return
        if self._refusing:
            self._turn(refusing=False)
        if self._replies:
            replies, self._replies = self._replies, []
            for to, data in replies:
                to.send(data)
        if self._waiting or self.journal.durable < self._sync_to:
            self.journal.request_commit()
            self.committed()

    def _refused(self, error: JournalError) -> None:
        if not self.running:
            raise error
        if not self._retrying:
            self._retrying = True
            self.nursery.start_soon(self._retry)
        if not self._refusing:
            if self.on_fault is not None:
                self.on_fault(f"journal: {error}; no new work is taken until it can be written")
            self._turn(refusing=True)

    def _turn(self, *, refusing: bool) -> None:
        self._refusing = refusing
        if self.on_refusing is not None:
            self.on_refusing(refusing)

    async def _retry(self) -> None:
        """Once more, later; refused again, the flush begins the next one. A loop here would add one each time."""
        await trio.sleep(JOURNAL_RETRY_S)
        self._retrying = False
        self.flush()

    def committed(self) -> None:
        """More is durable: let the replies go that waited for it, in the order in which they were given."""
        durable = self.journal.durable
        waiting = self._waiting
        while waiting and waiting[0][0] <= durable:
            _, to, data = waiting.popleft()
            to.send(data)

    def sync_to(self, seq: int) -> None:
        """Have the record made durable with the next flush, whoever waits for it or not."""
        self._sync_to = max(self._sync_to, seq)

    async def settle(self, seq: int) -> None:
        """Publish, and wait until the record `seq` is on stable storage."""
        self.sync_to(seq)
        self.flush()
        await self.journal.committed(seq)

    def fault(self, where: str, error: BaseException) -> None:
        """The kernel's own fault: recorded with its traceback, told to the operator, and the kernel goes on."""
        self.fault_text(where, "".join(traceback.format_exception(error)))

    # --- running -------------------------------------------------------------------------------------------------

    async def run(self, end_all: "Callable[[Kernel], Awaitable[None]]", *,
                  task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the kernel's tasks until `stop`; `end_all` then ends the agents."""
        async with trio.open_nursery() as nursery:
            self.nursery, self.running = nursery, True
            task_status.started()
            await self._stop.wait()
            with trio.CancelScope(shield=True):
                await end_all(self)
            self.running = False
            nursery.cancel_scope.cancel()

    def stop(self, why: str) -> None:
        """Ask for an orderly shutdown: no new agents; the living ones are asked to end, then killed."""
        if not self.shutting:
            self.shutting = True
            self.stop_why = why
            self._stop.set()

    def start(self, what: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a task of the kernel's. An error in it is the kernel's fault, recorded, and the kernel goes on; but an
        assertion that does not hold says that its state is not what it takes it for, which is a panic (`epitaph`).
        """
        async def guarded() -> None:
            try:
                await what(*args)
            except Exception as error:
                if isinstance(error, AssertionError) and self.on_panic is not None:
                    self.on_panic(getattr(what, "__qualname__", repr(what)), error)
                self.fault(getattr(what, "__qualname__", repr(what)), error)
                self.flush()
        self.nursery.start_soon(guarded, name=getattr(what, "__qualname__", None))

    def uptime_s(self) -> float:
        return (self.world.clock.monotonic_ns() - self.started_ns) / 1e9

    # --- faults and ends ---------------------------------------------------------------------------------------------

    def fault_text(self, where: str, text: str) -> None:
        """A fault that was caught elsewhere (the mount's door) and comes as text."""
        self.faults += 1
        self.record(records.ERROR, verdict=records.FAILED, data=(where, text[-8000:]))
        if self.on_fault is not None:
            self.on_fault(f"{where}: {text}")

    def doomed(self, process: Process, end: End) -> bool:
        """Decide an agent's end, once: from here on nothing of it is answered. False when it was decided before."""
        if process.doom is not None or not process.alive:
            return False
        process.doom = end
        process.held = True
        for session in process.sessions:
            session.cancel_all()
        return True
