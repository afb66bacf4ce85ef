"""A laboratory: real sandboxes with cgroups, uids and tags of their own, taken down also when a test fails."""

import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from attrs import define, field, frozen
from emulation import WAIT_S

from agentix_kernel.cgroups import Cgroups, detect
from agentix_kernel.confine.sandbox import LinuxSandbox
from agentix_kernel.confine.sandboxes import LinuxSandboxes
from agentix_kernel.world import Confined, DeniedCall, Ended, Watch

_numbers = itertools.count(1)
_FIRST_UID = 1_000_000 + os.getpid() % 10_000 * 1_000


@frozen
class Result:
    ended: Ended
    text: str
    denied: list[DeniedCall]


@define
class Running:
    """A launched sandbox; `denied` and `memory` fill as its watch is called."""

    sandbox: LinuxSandbox
    pipe: trio.lowlevel.FdStream
    denied: list[DeniedCall] = field(factory=list)
    memory: trio.Event = field(factory=trio.Event)

    async def line(self) -> str:
        """The next line that it prints; at the end what is left."""
        got = bytearray()
        while not got.endswith(b"\n") and (more := await self.pipe.receive_some(1)):
            got += more
        return got.decode().rstrip("\n")

    async def rest(self) -> str:
        return b"".join([chunk async for chunk in self.pipe]).decode()


@define
class Lab:
    sandboxes: LinuxSandboxes
    cgroups: Cgroups
    running: list[Running] = field(factory=list)

    async def launch(self, source: str | None = None, *, kind: str = "script", argv: tuple[str, ...] = ("/agent.py",),
                     **more: Any) -> Running:
        """Standard output and error go to the pipe."""
        number = next(_numbers)
        read, write = os.pipe()
        pipe = trio.lowlevel.FdStream(read)
        holder: list[Running] = []
        early: list[DeniedCall] = []
        denied: Callable[[DeniedCall], None] = early.append
        memory = trio.Event()
        try:
            sandbox = await self.sandboxes.launch(Confined(
                tag=more.pop("tag", f"{number}.1"), uid=more.pop("uid", _FIRST_UID + number), kind=kind, argv=argv,
                source=source.encode() if source is not None else None, stdout_fd=write, stderr_fd=write,
                cwd=more.pop("cwd", ""), **more), Watch(denied=denied, out_of_memory=memory.set))
        except BaseException:
            await pipe.aclose()
            raise
        finally:
            os.close(write)
        assert isinstance(sandbox, LinuxSandbox)
        holder.append(Running(sandbox, pipe, early, memory))
        self.running += holder
        return holder[0]

    async def run(self, source: str | None = None, **more: Any) -> Result:
        """To its end."""
        running = await self.launch(source, **more)
        text = await running.rest()
        return Result(await running.sandbox.wait(), text, running.denied)

    async def close(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            for running in self.running:
                await running.pipe.aclose()
                assert await running.sandbox.kill()
                await running.sandbox.aclose()


@contextlib.asynccontextmanager
async def laboratory(**options: Any) -> AsyncIterator[Lab]:
    root_name = f"agentix-confine-{os.getpid()}-{next(_numbers)}"
    cgroups = detect(root_name)
    sandboxes = LinuxSandboxes(cgroups, root_name=root_name, preload=("agentix.init",), **options)
    lab = Lab(sandboxes, cgroups)
    try:
        sandboxes.start_spawner()
        async with trio.open_nursery() as nursery:
            await nursery.start(sandboxes.run)
            with trio.fail_after(WAIT_S):
                try:
                    yield lab
                finally:
                    await lab.close()
                    nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await sandboxes.aclose()
        cgroups.close()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with laboratory() as made:
        yield made


@pytest.fixture
def open_lab() -> Callable[..., Any]:
    return laboratory
