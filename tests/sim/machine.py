"""A simulated machine: agents as scripted tasks, so that whole kernels run in one process and a seed replays them.

The sandbox keeps the promises of world.Sandbox and checks the kernel's: what reaches a stopped or dead agent is a
violation, told by `Violation`.
"""

import errno
import random
from collections import Counter
from collections.abc import Callable

import trio
from attrs import define, field

from agentix_kernel.authority.policy.inforce import AUDIT
from agentix_kernel.dispatch import Session, serve
from agentix_kernel.kernel import Kernel
from agentix_kernel.world import Confined, Ended, LaunchError, Limits, Program, Readiness, Runtime, Usage, Watch
from agentix_syscalls import wire
from agentix_syscalls.calls import BY_NUMBER, SYS_CANCEL

LINUX_KILL = 9
CANCELLED_SHARE = 0.15
CANCEL_DATA = 1 << 40
"""User data of every CANCEL: none of a call's own."""
LAUNCH_ERRORS = ((errno.ENOENT, "exec", "no such file"), (errno.ENOMEM, "clone", "no memory"))


class Violation(AssertionError):
    """An invariant of the kernel does not hold."""


@define(eq=False)
class SimSandbox:
    """One simulated agent or tool. Its program runs only while it is neither frozen nor dead."""

    machine: "SimMachine"
    what: Confined
    watch: Watch
    pid: int
    ended: Ended | None = None
    frozen: bool = False
    killed: bool = False
    closed: bool = False
    may_run: trio.Event = field(factory=trio.Event)
    over: trio.Event = field(factory=trio.Event)
    doorbells: int = 0

    async def wait(self) -> Ended:
        await self.over.wait()
        assert self.ended is not None
        return self.ended

    async def freeze(self) -> None:
        await self.machine.delay()
        if not self.killed:
            self.frozen = True

    async def thaw(self) -> None:
        await self.machine.delay()
        self.frozen = False
        self.may_run.set()
        self.may_run = trio.Event()

    def signal(self, linux_signal: int) -> bool:
        if self.ended is not None:
            return False
        if self.machine.rng.random() < 0.7:  # some programs ignore what can be ignored
            self.finish(Ended(None, linux_signal))
        return True

    def ring_doorbell(self) -> bool:
        self.doorbells += 1
        return self.ended is None

    async def kill(self) -> bool:
        await self.machine.delay()
        self.killed = True
        self.finish(Ended(None, LINUX_KILL))
        return True

    @property
    def terminal(self) -> int:
        return -1

    async def start(self, argv: object, env: object, cwd: object, terminal: object, stdio: object) -> Program:
        raise LaunchError(errno.ENOSYS, "exec", "no operator asks for programs here")

    def set_limits(self, limits: Limits) -> None:
        if self.closed:
            raise Violation(f"{self.what.tag}: given limits after it was closed")

    def usage(self) -> Usage:
        return Usage(processes=0 if self.killed else 2)

    def pids(self) -> list[int]:
        return [] if self.killed else [self.pid]

    async def aclose(self) -> None:
        if not self.killed:
            raise Violation(f"{self.what.tag}: closed while it was not proven dead")
        self.closed = True
        self.machine.live.discard(self)

    def finish(self, ended: Ended) -> None:
        if self.ended is None:
            self.ended = ended
            self.over.set()
            self.may_run.set()

    async def step(self) -> bool:
        """Before each thing that its program does: waits while frozen; False when it is over."""
        await self.machine.delay()
        while self.frozen and self.ended is None:
            await self.may_run.wait()
        return self.ended is None


@define(eq=False)
class SimMachine:
    """Implements world.Sandboxes. `program` is run for every agent; tools end by themselves."""

    rng: random.Random
    program: "Callable[[SimAgent], object] | None" = None
    kernel: Kernel | None = None
    nursery: trio.Nursery | None = None
    live: set[SimSandbox] = field(factory=set)
    launched: int = 0
    tags: set[str] = field(factory=set)
    acknowledged: dict[tuple[int, str], int] = field(factory=dict)
    """Replies that reached an agent, by (agent, call): each must be in the journal after any crash of the process."""
    answers: Counter[tuple[str, str]] = field(factory=Counter)
    """How often each call was answered with each errno, or with "ok"."""
    durable: dict[tuple[int, str], int] = field(factory=dict)
    """Those of durable calls: in the journal after a loss of power as well."""

    async def delay(self) -> None:
        """Time passes, or nothing but a turn of the scheduler."""
        if self.rng.random() < 0.3:
            await trio.sleep(self.rng.random() / 10)
        else:
            await trio.lowlevel.checkpoint()

    async def launch(self, what: Confined, watch: Watch) -> SimSandbox:
        await self.delay()
        if what.tag in self.tags:
            raise Violation(f"{what.tag}: the tag of a sandbox was used twice")
        self.tags.add(what.tag)
        if what.tree is not None and any(other.what.tree == what.tree for other in self.live):
            raise Violation(f"{what.tag}: two lives of an agent at once")
        if self.rng.random() < 0.05:
            raise LaunchError(*self.rng.choice(LAUNCH_ERRORS))
        self.launched += 1
        sandbox = SimSandbox(self, what, watch, 1000 + self.launched)
        self.live.add(sandbox)
        assert self.nursery is not None
        if what.tree is not None:
            self.nursery.start_soon(self._live, SimAgent(self, sandbox, int(what.tree)))
        else:
            self.nursery.start_soon(self._tool, sandbox)
        return sandbox

    def expect(self, tag: str) -> None:
        """Nothing is made before it is launched here."""

    def keep(self, runtimes: tuple[Runtime, ...]) -> None:
        """No interpreter runs here."""

    async def prepare(self, runtime: Runtime) -> None:
        await self.delay()

    def readiness(self, runtime: Runtime) -> Readiness:
        return Readiness("ready")

    def verify(self, sandbox: SimSandbox) -> list[dict[str, object]]:
        del sandbox
        return []

    def note(self, agent: int, number: int, flags: int, body: object) -> None:
        """A reply reached an agent: what it promises."""
        call = BY_NUMBER.get(number)
        name = call.name if call is not None else "?"
        failed = flags & wire.F_ERROR
        self.answers[name, errno.errorcode.get(body[0], "?") if failed else "ok"] += 1  # type: ignore[index]
        assert self.kernel is not None
        process = self.kernel.table.by_id.get(agent)
        if not failed and process is not None and process.policy.mode != AUDIT and name in process.policy.deny:
            raise Violation(f"agent {agent}: {name} went well, which its policy denies")
        if failed and body[0] in {errno.ENOSPC, errno.EIO}:  # type: ignore[index]
            return  # the disk takes no record: that answer alone leaves without one
        self.acknowledged[agent, name] = self.acknowledged.get((agent, name), 0) + 1
        if call is not None and call.durable and not flags & wire.F_ERROR:
            self.durable[agent, name] = self.durable.get((agent, name), 0) + 1

    async def _live(self, agent: "SimAgent") -> None:
        assert self.program is not None
        await self.program(agent)
        agent.sandbox.finish(Ended(self.rng.randrange(3), None))

    async def _tool(self, sandbox: SimSandbox) -> None:
        for _ in range(self.rng.randrange(4)):
            if not await sandbox.step():
                return
        sandbox.finish(Ended(0, None))


@define(eq=False)
class SimAgent:
    """What a program has in hand: calls as an agent makes them, with the checks of what comes back."""

    machine: SimMachine
    sandbox: SimSandbox
    id: int
    session: Session | None = None
    user_data: int = 0
    _reply: trio.Event | None = None
    _answer: tuple[int, int, bytes] | None = None

    async def call(self, number: int, *args: object, flags: int = 0) -> tuple[bool, object] | None:
        """Make a call. (True, result), (False, error body), or None when the agent is over or was faulted."""
        kernel = self.machine.kernel
        assert kernel is not None
        if not await self.sandbox.step():
            return None
        if self.session is None or self.session.closed:
            process = kernel.table.by_id.get(self.id)
            if process is None or process.tag != self.sandbox.what.tag or process.doom is not None:
                return None
            self.session = Session(kernel, process, self._receive, self._drop)
            process.sessions.add(self.session)
            greeted = await self._exchange(0, 0, (1,))
            if greeted is None or not greeted[0]:  # a disk that takes no record refuses that, too
                self._drop()
                return greeted
        return await self._exchange(number, flags, args)

    async def _exchange(self, number: int, flags: int, args: tuple[object, ...]) -> tuple[bool, object] | None:
        kernel, session = self.machine.kernel, self.session
        assert kernel is not None
        assert session is not None
        if session.closed or session.process.held or self.sandbox.frozen:
            return None if session.closed or not await self._unheld() else await self._exchange(number, flags, args)
        self.user_data += 1
        self._reply, self._answer = trio.Event(), None
        serve(session, number, flags, self.user_data, wire.pack(args))
        kernel.flush()
        with trio.CancelScope() as scope:
            self.machine.nursery.start_soon(self._until_over, scope)
            if self.machine.rng.random() < CANCELLED_SHARE:
                self.machine.nursery.start_soon(self._give_up, self.user_data)
            await self._reply.wait()
        if self._answer is None:
            return None
        _, reply_flags, body = self._answer
        await self.sandbox.step()
        return not reply_flags & wire.F_ERROR, wire.decode(body)

    async def _until_over(self, scope: trio.CancelScope) -> None:
        waiting = self._reply
        with trio.CancelScope():
            await self.sandbox.over.wait()
        if waiting is self._reply:
            scope.cancel()

    async def _give_up(self, user_data: int) -> None:
        """Another thread of the agent's cancels the call under way."""
        session = self.session
        assert session is not None
        if await self.sandbox.step() and not session.closed and not session.process.held and not self.sandbox.frozen:
            serve(session, SYS_CANCEL, 0, CANCEL_DATA, wire.pack((user_data,)))
            session.kernel.flush()

    async def _unheld(self) -> bool:
        assert self.session is not None
        while self.session.process.held and self.sandbox.ended is None and self.session.process.doom is None:
            await self.session.process.changed.park()
        return await self.sandbox.step() and self.session.process.doom is None

    def _drop(self) -> None:
        assert self.session is not None
        self.session.close()
        if self._reply is not None:
            self._reply.set()

    def _receive(self, data: bytes) -> None:
        """A reply reaches the agent: never while it is stopped, never once its end is decided."""
        assert self.session is not None
        process = self.session.process
        if process.held or process.doom is not None:
            raise Violation(f"agent {self.id}: answered while {process.state.value}, held or doomed")
        if self.sandbox.frozen or self.sandbox.killed:
            raise Violation(f"agent {self.id}: answered while frozen or dead")
        _, number, flags, user_data = wire.HEADER.unpack_from(data, 0)
        if user_data != self.user_data:
            return  # an answer to a call that was given up
        assert self._reply is not None
        if self._reply.is_set():
            raise Violation(f"agent {self.id}: call {number} was answered twice")
        self._answer = (number, flags, data[wire.HEADER_BYTES:])
        self.machine.note(self.id, number, flags, wire.decode(self._answer[2]))
        self._reply.set()


