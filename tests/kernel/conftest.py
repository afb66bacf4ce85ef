"""A kernel in one process on the simulated machine, and connections of agents whose every frame a test sends."""

import random

import pytest
import trio
import trio.testing
from attrs import define, field
from sim.disk import SimDisk
from sim.machine import SimMachine

from agentix_kernel import lifecycle
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.config import Config, load
from agentix_kernel.dispatch import Session, serve
from agentix_kernel.journal import read
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.key import Key
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Command
from agentix_kernel.registry import Registry
from agentix_kernel.world import Limits, World
from agentix_syscalls import calls, wire
from agentix_vfs.tree import Tree


class Clock:
    def monotonic_ns(self):
        return int(trio.current_time() * 1e9)

    def wall_ns(self):
        return self.monotonic_ns()


class Door:
    """An agent's connection that keeps what it was sent."""

    def __init__(self, kernel, process):
        self.kernel, self.process = kernel, process
        self.replies: list[tuple[int, int, object]] = []
        self.dropped = False
        self.session = Session(kernel, process, self._take, self._drop)
        process.sessions.add(self.session)

    def _take(self, data):
        _, _, flags, user_data = wire.HEADER.unpack_from(data)
        self.replies.append((user_data, flags, wire.decode(data[wire.HEADER_BYTES:])))

    def _drop(self):
        self.dropped = True
        self.session.close()

    def call(self, number, *args, flags=0, user_data=1, body=None):
        """Serve one frame; the last reply's error number, or None when it went well."""
        serve(self.session, number, flags, user_data, wire.pack(args) if body is None else body)
        self.kernel.flush()
        return self.error()

    async def finish(self, number, *args, user_data=1):
        """Serve a call that may wait, until nothing moves any more."""
        serve(self.session, number, 0, user_data, wire.pack(args))
        self.kernel.flush()
        await trio.testing.wait_all_tasks_blocked()
        return self.error()

    def error(self):
        _, flags, body = self.replies[-1]
        return body[0] if flags & wire.F_ERROR else None

    def greet(self):
        assert self.call(calls.SYS_HELLO, 1) is None
        return self


async def forever(agent):
    await agent.sandbox.over.wait()


class Calm(random.Random):
    """No failures and no delays: what happens is the test's business."""

    def random(self):
        return 0.99


@define
class Bench:
    """A kernel on a simulated machine, and what tests look at."""

    kernel: Kernel
    machine: SimMachine
    disk: SimDisk
    key: Key
    nursery: trio.Nursery
    faults: list[str] = field(factory=list)

    def __attrs_post_init__(self):
        self.kernel.on_fault = self.faults.append

    async def agent(self, policy=None, name=None, parent=None):
        policy = make() if policy is None else policy
        process, _ = await lifecycle.spawn(self.kernel, Command("exec", ("agent",)), Limits(), policy, name, parent)
        return process

    def connect(self, process):
        return Door(self.kernel, process)

    async def door(self, **more):
        return self.connect(await self.agent(**more)).greet()

    def kept(self, kind):
        return [record for record in read.read(self.disk, self.key) if record.kind == kind]


@pytest.fixture
async def bench():
    machine = SimMachine(Calm(1))
    disk, key = SimDisk(1), Key(bytes(32))
    journal, _ = Journal.open(disk, Clock(), random=random.Random(1).randbytes, key=key, segment_bytes=1 << 16,
                              threaded=False)
    defaults = load("/sim")
    config = Config("/sim", "sim", defaults.values | {"agents_max": 3, "tools_max": 1, "stop_timeout_s": 1.0})
    world = World(Clock(), disk, machine, random.Random(1).randbytes)
    made = Kernel(world, config, journal, Tree(None), Registry(None, 1000, 40), 1)
    machine.kernel, machine.program = made, forever
    async with trio.open_nursery() as nursery:
        machine.nursery = nursery
        await nursery.start(made.run, lifecycle.end_all)
        yield Bench(made, machine, disk, key, nursery)
        nursery.cancel_scope.cancel()
    journal.abandon()
