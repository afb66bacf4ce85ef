"""One simulated world: a kernel, its agents' programs, an operator, a disk with its moods, and an end (a crash or an
orderly shutdown), after which the next boot is held against what was acknowledged.
"""

import errno
import os
import random
import shutil
import tempfile
from collections import Counter

import trio
import trio._core._run as trio_run
from attrs import define, field
from sim.disk import SimDisk
from sim.machine import SimAgent, SimMachine, Violation
from sim.record import check_record
from trio.testing import MockClock

from agentix_kernel import aftermath, delivery, enforcement, lifecycle, rebirth
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.config import Config, load
from agentix_kernel.journal import read
from agentix_kernel.journal.errors import JournalError
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.verify import verify
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Command, Process, State, Why
from agentix_kernel.registry import Registry
from agentix_kernel.world import Limits
from agentix_kernel.world import World as Around
from agentix_syscalls import calls, records, signals
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import Restart
from agentix_vfs.tree import Tree

UIDS = 40
QUEUED_MAX = 2000
"""Replies that may wait, whatever the disk does: a dozen agents with a call each, and what they were sent."""
LATENCY_S = 0.3
MEMORY = "/dev/shm"
ANSWER_S = 60
END_S = 600
"""Of simulated time: by then a world has ended, or never will."""
WAKE_S = 0.5
"""What wakes the kernel is level-triggered: a lost wake-up is a late one."""
MOODS = ("well", "well", "slow", "slow", "full", "refusing", "broken")
STEPS = 12
NAMES = ("state/a", "state/b", "mem/working/x", "mem/episodic/log", "policy/effective", "../x", "state/none/y")
RULES = ("UNLINK", "WRITE:/state", "MKDIR:/mem", "SIGNAL", "OPEN:/mem/episodic")
RESTARTS = (Restart(), Restart("on-failure"), Restart("always", 3), Restart("always"))
SIGNALS = (signals.SIGSTOP, signals.SIGCONT, signals.SIGTERM, signals.SIGKILL, signals.SIGUSR1, signals.SIGPOLICY,
           signals.SIGINT, signals.SIGLOOP)


class SimClock:
    def monotonic_ns(self) -> int:
        return int(trio.current_time() * 1e9)

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.monotonic_ns()


@define
class Told:
    """What a world was: its problems, what happened in it, and its journal as text (the same for the same seed)."""

    problems: list[str] = field(factory=list)
    seen: set[str] = field(factory=set)
    answers: Counter[tuple[str, str]] = field(factory=Counter)
    """How often each call was answered with each errno, or with "ok"."""
    trace: list[str] = field(factory=list)


@define(eq=False)
class World:
    """Built, run and judged by `run_world`."""

    seed: int
    rng: random.Random
    told: Told
    disk: SimDisk
    key: Key
    machine: SimMachine
    folder: str
    """Of the registry."""
    kernel: Kernel | None = None
    mood: str = "well"
    syncing: bool = False
    crashed: bool = False
    restarted: set[int] = field(factory=set)
    """Agents that the operator wanted to run again, whatever they had done."""
    forbidden: dict[int, str] = field(factory=dict)
    """Of each agent, the end that no policy restarts, if the last one was such."""

    async def run(self) -> None:
        self.mood = self.rng.choice(MOODS)
        kernel = self.kernel = self.boot(1)
        end = self.rng.choice(["shutdown", "crash", "power"] if self.mood != "broken" else ["crash", "power"])
        self.told.seen |= {end, f"disk {self.mood}"}
        try:
            async with trio.open_nursery() as nursery:
                self.machine.nursery = nursery
                await nursery.start(kernel.run, lifecycle.end_all)
                nursery.start_soon(self.weather, kernel)
                for _ in range(self.rng.randrange(8, 30)):
                    with trio.move_on_after(ANSWER_S) as scope:
                        await self.operate(kernel)
                    if scope.cancelled_caught and self.mood != "broken":  # whose kernel answers nothing durable
                        self.told.problems.append(f"the operator had no answer in {ANSWER_S} s")
                    self.inspect(kernel)
                if end == "shutdown":
                    with trio.move_on_after(END_S) as scope:
                        await self.shut_down(kernel)
                    if scope.cancelled_caught:
                        self.told.problems.append(f"no end after {END_S} s: {self.unfinished(kernel)}")
                    nursery.cancel_scope.cancel()
                else:
                    self.crashed = True
                    kernel.journal.abandon()  # nothing is written from here on, whatever the cancelled still try
                    nursery.cancel_scope.cancel()
        except* Violation as group:
            self.told.problems += [str(error) for error in group.exceptions]
        kernel.journal.abandon()
        self.told.answers = self.machine.answers
        if end != "shutdown":
            self.disk.crash(self.seed) if end == "power" else self.disk.kill()
        try:
            self.judge(power=end == "power")
            self.reboot(kernel)
        except JournalError as error:
            self.told.problems.append(f"the next boot finds no journal: {error}")

    def boot(self, number: int) -> Kernel:
        config = load("/sim")
        config = Config("/sim", "sim", config.values | {"stop_timeout_s": 1.0, "shutdown_timeout_s": 2.0,
                                                        "sigstop_grace_s": 0.5, "agents_max": 12})
        journal, _ = Journal.open(self.disk, SimClock(), random=self.rng.randbytes, key=self.key,
                                  segment_bytes=1 << 16, threaded=False)
        tree = Tree(None, now=SimClock().wall_ns, quota_bytes=1 << 20)
        around = Around(SimClock(), self.disk, self.machine, self.rng.randbytes)
        kernel = Kernel(around, config, journal, tree, Registry(self.folder, 1000, UIDS), number)
        kernel.registry.load()
        kernel.on_fault = self.fault
        self.machine.kernel, self.machine.program = kernel, self.program
        return kernel

    def fault(self, text: str) -> None:
        """A disk that refuses is told of as a fault; any other is a problem."""
        refused = self.mood in {"full", "refusing", "broken"} and "journal" in text.lower()
        if not refused and not self.crashed:
            self.told.problems.append(f"fault: {text}")

    # --- the disk's moods ----------------------------------------------------------------------------------------

    async def weather(self, kernel: Kernel) -> None:
        """What the disk is like from now and then on; a broken one cannot sync any more, for good."""
        disk = self.disk
        if self.mood == "slow":
            kernel.journal._committer.request = self.request  # type: ignore[method-assign]
        while self.mood in {"full", "refusing", "broken"}:
            await trio.sleep(self.rng.random() * 3)
            if kernel.shutting:
                return
            disk.fail_on = frozenset({"datasync"}) if self.mood == "broken" else frozenset({"create", "pwrite"})
            disk.full, disk.fail_after = self.mood == "full", self.rng.randrange(5)
            disk.fail_with = errno.ENOSPC if disk.full else errno.EIO
            if self.mood == "broken":
                return
            await trio.sleep(self.rng.random())
            disk.full, disk.fail_after = False, None

    def request(self) -> None:
        """A commit that takes time; further requests meanwhile are one."""
        if not self.syncing:
            self.syncing = True
            assert self.machine.nursery is not None
            self.machine.nursery.start_soon(self.commit)

    async def commit(self) -> None:
        await trio.sleep(self.rng.random() * LATENCY_S)
        self.syncing = False
        assert self.kernel is not None
        try:
            self.kernel.journal.commit()
        except JournalError:
            return
        if self.rng.random() < 0.2:
            self.told.seen.add("late wake-up")
            await trio.sleep(WAKE_S)
        self.kernel.committed()

    # --- what holds at every moment ------------------------------------------------------------------------------

    def inspect(self, kernel: Kernel) -> None:
        """After each step: tables that agree, queues that are bounded, and nothing that outlives its agent."""
        table, problems = kernel.table, self.told.problems
        rows = list(table.by_id.values())
        if not set(rows) == set(table.by_name.values()) == set(table.by_uid.values()):
            problems.append("the tables of agents do not agree")
        if not {process.uid for process in rows} <= kernel.registry._uids:
            problems.append("an agent's uid is free for others")
        if len(table.alive()) > kernel.config.agents_max:
            problems.append(f"{len(table.alive())} agents live")
        if len(kernel._replies) + len(kernel._waiting) > QUEUED_MAX:
            problems.append("replies queue up without end")
        for process in rows:
            problems += [f"agent {process.id}: its child {child} is another's" for child in process.children
                         if child in table.by_id and table.by_id[child].parent != process.id]
            if process.state is State.DEAD and any(box.what.tag == process.tag for box in self.machine.live):
                problems.append(f"agent {process.id}: dead, and its sandbox is there")
            if process.state is State.STOPPED and not process.held:
                problems.append(f"agent {process.id}: stopped, and not held")

    async def shut_down(self, kernel: Kernel) -> None:
        self.disk.full, self.disk.fail_after = False, None
        kernel.stop("the end of the world")
        for process in kernel.table.alive():
            await process.gone.wait()
        await trio.sleep(2)  # of simulated time: what was started late ends as well
        self.leaks(kernel)
        kernel.journal.close()

    def unfinished(self, kernel: Kernel) -> list[str]:
        return [f"agent {process.id}.{process.life} {process.state.value}, doom {process.doom}"
                for process in kernel.table.by_id.values() if not process.gone.is_set()]

    def leaks(self, kernel: Kernel) -> None:
        """After an orderly end: nothing of any agent is left but its record and files."""
        problems = self.told.problems
        if self.machine.live:
            problems.append(f"sandboxes left: {sorted(s.what.tag for s in self.machine.live)}")
        for process in kernel.table.by_id.values():
            left = (process.sessions, process.handles, process.children)
            if any(left) or process.state is not State.DEAD or process.end is None:
                problems.append(f"agent {process.id}: {process.state}, sessions, handles, children {left}")
            if not process.gone.is_set():
                problems.append(f"agent {process.id}: not gone")
        if kernel.registry._uids != {process.uid for process in kernel.table.by_id.values()}:
            problems.append("uids leaked")
        if kernel._waiting or kernel._replies:
            problems.append("replies left")
        if kernel.nursery.child_tasks:
            problems.append(f"tasks left: {[task.name for task in kernel.nursery.child_tasks]}")

    # --- the operator --------------------------------------------------------------------------------------------

    async def operate(self, kernel: Kernel) -> None:
        rng = self.rng
        await trio.sleep(rng.random())
        living = kernel.table.alive()
        if not living or rng.random() < 0.3:
            await self.spawn(kernel)
            return
        if rng.random() < 0.2:
            await self.restart(kernel)
            return
        target = rng.choice(living)
        if rng.random() < 0.2:
            self.narrow(kernel, target)
            return
        self.signal(kernel, target, rng.choice(SIGNALS))
        if rng.random() < 0.3 and target.alive:
            self.signal(kernel, target, signals.SIGCONT)

    def signal(self, kernel: Kernel, target: Process, number: int) -> None:
        rebirth.dismiss(kernel, target, number)
        try:
            delivery.send(kernel, target, number, 0, "the operator")
        except CallError:
            self.told.seen.add("signal refused")
        kernel.flush()

    def narrow(self, kernel: Kernel, target: Process) -> None:
        """Another policy, now: everything that was denied before still is."""
        old = target.policy
        more = {*old.deny, *self.rng.sample(RULES, self.rng.randrange(3))}
        enforcement.put(kernel, target, make(mode=old.mode, deny=tuple(sorted(more)),
                                             spawn_max=self.rng.randrange(old.spawn_max + 1)))
        self.told.seen.add("narrowed")
        kernel.flush()

    async def restart(self, kernel: Kernel) -> None:
        target = self.rng.choice(list(kernel.table.by_id.values()))
        self.restarted.add(target.id)
        try:
            following = await rebirth.restart(kernel, target, ())
        except (CallError, JournalError):
            self.told.seen.add("restart refused")
        else:
            self.told.seen.add("restarted by the operator")
            if following.life <= target.life and following is not target:
                self.told.problems.append(f"agent {target.id}: life {following.life} after {target.life}")

    async def spawn(self, kernel: Kernel) -> None:
        rng = self.rng
        rules = tuple(rng.sample(RULES, rng.randrange(3)))
        policy = make(mode=rng.choice(["strict", "enforce", "audit"]), deny=rules, spawn_max=rng.randrange(4))
        limits = Limits(timeout_s=rng.choice([None, None, 3.0]))
        try:
            _, seq = await lifecycle.spawn(kernel, Command("exec", ("agent",)), limits, policy, None, None,
                                            rng.choice(RESTARTS))
            await kernel.settle(seq)
        except (CallError, JournalError):
            self.told.seen.add("spawn refused")

    # --- agents --------------------------------------------------------------------------------------------------

    async def program(self, agent: SimAgent) -> None:
        rng = self.rng
        handles = [3]
        for _ in range(rng.randrange(2, STEPS)):
            number, args = self.choose(rng, agent, handles)
            answer = await agent.call(number, *args)
            if answer is None:
                return
            done, value = answer
            if done and number == calls.SYS_OPEN:
                handles.append(int(value))

    def choose(self, rng, agent, handles):
        path = rng.choice(NAMES)
        handle = rng.choice(handles)
        return rng.choice([
            (calls.SYS_GETPID, ()), (calls.SYS_OPEN, (path, calls.O_RDWR | calls.O_CREAT)),
            (calls.SYS_OPEN, (path, calls.O_WRONLY | calls.O_CREAT | calls.O_APPEND)),
            (calls.SYS_READ, (handle, 100)), (calls.SYS_WRITE, (handle, rng.randbytes(20))),
            (calls.SYS_CLOSE, (handle,)), (calls.SYS_MKDIR, (path,)), (calls.SYS_UNLINK, (path,)),
            (calls.SYS_RENAME, (path, rng.choice(NAMES))), (calls.SYS_SYNC, (handle,)), (calls.SYS_STAT, (path,)),
            (calls.SYS_READDIR, ("state",)), (calls.SYS_RUSAGE, ()), (calls.SYS_CHECKPOLICY, ("UNLINK", path)),
            (calls.SYS_SPAWN, ("exec", ["child"], {"spawn_max": 0})), (calls.SYS_WAIT, (-1, 0, rng.random())),
            (calls.SYS_WAIT, (-1, calls.WNOHANG)), (calls.SYS_SIGNAL, (agent.id, rng.choice(SIGNALS))),
            (calls.SYS_SIGNAL, (rng.randrange(1, 9), rng.choice(SIGNALS))),
            (calls.SYS_SIGACTION, (rng.choice(SIGNALS), rng.randrange(3))),
            (calls.SYS_SIGPROCMASK, (rng.randrange(3), rng.randrange(1 << 13))),
            (calls.SYS_SIGWAIT, (signals.ALL_MASK, rng.random())),
            (calls.SYS_SIGWAIT, (signals.ALL_MASK, 0, calls.SIGWAIT_DELIVERABLE)),
            (calls.SYS_EXEC, ("shell.execute", {"command": "true"}, 1.0)), (calls.SYS_EXIT, (rng.randrange(3),)),
            (calls.SYS_CANCEL, (rng.randrange(5),)), (calls.SYS_FORK, ()), (999, ()), (calls.SYS_READ, ("x", -1)),
        ])

    # --- judgement -----------------------------------------------------------------------------------------------

    def judge(self, *, power: bool) -> None:
        """After the end: open the journal as the next boot would, and hold it against what agents were told."""
        told = self.told
        journal, _ = Journal.open(self.disk, _Still(), random=self.rng.randbytes, key=self.key,
                                  segment_bytes=1 << 16, threaded=False)
        found = list(read.read(self.disk, self.key))
        journal.close()
        report = verify(self.disk, self.key)
        if not report.ok:
            told.problems.append(f"the chain does not verify: {report.text()}")
        if [record.seq for record in found] != list(range(1, len(found) + 1)):
            told.problems.append("sequences have holes")
        recorded = Counter((record.agent, record.data[0]) for record in found if record.kind == records.CALL)
        promised = self.machine.durable if power else self.machine.acknowledged
        for (agent, call), count in promised.items():
            if recorded[agent, call] < count:
                told.problems.append(f"agent {agent} was told of {count} {call}, recorded are {recorded[agent, call]}")
        told.problems += check_record(found)
        for record in found:
            told.trace.append(" ".join(map(str, (record.seq, record.mono_ns, record.agent, record.kind, record.verdict,
                                                 record.data))))
            self.notice(record)

    def notice(self, record: read.Record) -> None:
        kind = records.BY_NUMBER[record.kind].name
        self.told.seen.add(kind)
        if kind == "state":
            self.told.seen.add(str(record.data[0]))
        elif kind == "denial":
            self.told.seen.add("denied")
        elif kind == "exit":
            why = str(record.data[2])
            self.told.seen.add(why)
            self.forbidden[record.agent] = why if why in {"policy", "trust", "shutdown"} else ""
        elif kind == "restart" and self.forbidden[record.agent] and record.agent not in self.restarted:
            self.told.problems.append(f"agent {record.agent}: restarted after {self.forbidden[record.agent]}")

    def reboot(self, before: Kernel) -> None:
        """The next boot: whoever has no end is lost, once; nobody lives; no id and no uid comes twice."""
        problems = self.told.problems
        clean = {process.id for process in before.table.by_id.values() if process.state is State.DEAD}
        for number in (2, 3) if self.seed % 4 == 0 else (2,):
            kernel = self.boot(number)
            kernel.registry = Registry(self.folder, 1000, UIDS)
            lost = aftermath.adopt(kernel)
            found = list(read.read(self.disk, self.key))
            problems += [f"boot {number}: {problem}" for problem in check_record(found)]
            problems += [f"boot {number}: agent {process.id} is {process.state.value}"
                         for process in kernel.table.by_id.values() if process.state is not State.DEAD]
            problems += [f"boot {number}: agent {agent} is lost, and had ended" for agent in clean
                         if (old := kernel.table.by_id.get(agent)) and old.end and old.end.why is Why.LOST
                         and before.table.by_id[agent].end.why is not Why.LOST]
            if kernel.registry.last_id < before.registry.last_id:
                problems.append(f"boot {number}: ids begin again at {kernel.registry.last_id}")
            if number == 3 and lost:
                problems.append(f"{lost} agents were lost twice")
            if lost:
                self.told.seen.add("lost")
            kernel.journal.close()


class _Still:
    """A clock for reading what was: nothing is appended."""

    def monotonic_ns(self) -> int:
        return 0

    def wall_ns(self) -> int:
        return 0


def run_world(seed: int) -> Told:
    """Run one world to its end. The same seed gives the same world: trio's own choices are seeded as well."""
    rng = random.Random(seed)
    told = Told()
    folder = tempfile.mkdtemp(prefix="agentix-sim-", dir=MEMORY if os.path.isdir(MEMORY) else None)
    world = World(seed, rng, told, SimDisk(seed), Key(rng.randbytes(32)), SimMachine(rng), folder)
    saved = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r = True, random.Random(seed)
    try:
        trio.run(world.run, clock=MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r = saved
        shutil.rmtree(folder)
    return told


def problems_of(seeds: range) -> tuple[dict[int, list[str]], set[str]]:
    """What went wrong in these worlds, and what was seen in them: for processes beside."""
    seen: set[str] = set()
    problems: dict[int, list[str]] = {}
    for seed in seeds:
        told = run_world(seed)
        seen |= told.seen
        if told.problems:
            problems[seed] = told.problems
    return problems, seen
