"""A tree and a mount of its own for each test.

What touches a mount runs in child processes or threads, never in the loop that has to answer.
"""

import errno
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field
from emulation import WAIT_S

from agentix_syscalls.errors import CallError
from agentix_vfs import Entry, Synthetic, Tree, Who
from agentix_vfs.fuse.gate import OpenGate
from agentix_vfs.fuse.server import FuseServer

AGENT = 7
UID = 61207
OTHER_UID = 61208


@contextmanager
def refused(number: int, match: str = ".") -> Iterator[None]:
    """The block fails with this errno, and the message says what about."""
    with pytest.raises(CallError, match=match) as caught:
        yield
    assert errno.errorcode[caught.value.number] == errno.errorcode[number], caught.value.message


def make_tree(host_root: str | None, **options: object) -> Tree:
    tree = Tree(host_root, **options)
    tree.add(AGENT, UID, "seven", proc={"status": Synthetic(lambda: b"Name:\tseven\n")}, policy={})
    return tree


@pytest.fixture
def me() -> Who:
    """The agent itself."""
    return Who(UID, UID, AGENT)


@pytest.fixture(params=["ram", "host"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return make_tree(str(tmp_path / "durable") if request.param == "host" else None)


@define
class RecordingGate(OpenGate):
    """Knows the test's agent by its uid, denies what a test says, remembers what was recorded."""

    denied: dict[tuple[str, bytes], int] = field(factory=dict)
    records: list[tuple[str, int, bytes, int]] = field(factory=list)
    broken: bool = False

    def who(self, uid: int, gid: int, pid: int) -> Who:
        return Who(uid, gid, AGENT if uid == UID else 0)

    def check(self, who: Who, call: str, agent: int, path: bytes) -> None:
        if self.broken:
            raise RuntimeError("the gate broke")
        if number := self.denied.get((call, path)):
            raise CallError(number, f"{call} {path!r} denied")

    def record(self, who: Who, operation: str, agent: int, path: bytes, error: int) -> None:
        self.records.append((operation, agent, path, error))


@define
class Mounted:
    tree: Tree
    server: FuseServer
    gate: RecordingGate
    path: Path
    faults: list[tuple[str, str]]
    cancel: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self.cancel:
                await self.server.run(str(self.path), task_status=task_status)
        finally:
            self.ended.set()

    async def stop(self) -> None:
        self.cancel.cancel()
        await self.ended.wait()

    async def sh(self, script: str, *, uid: int = UID, code: int = 0) -> str:
        """Output and errors of a shell script, run in the agent's tree with this uid; it must end with `code`."""
        done = await trio.run_process(
            ["/bin/bash", "-c", script], cwd=self.path / str(AGENT), user=uid, group=uid, extra_groups=[],
            capture_stdout=True, stderr=subprocess.STDOUT, check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C"})
        text = done.stdout.decode()
        assert done.returncode == code, text
        return text


Mount = Callable[..., Awaitable[Mounted]]


@pytest.fixture
async def mount(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Mount]:
    """Mounts a tree, durable files in host folders; unmounted at the end, whatever happened."""

    async def start(proc: dict[str, Entry] | None = None, policy: dict[str, Entry] | None = None,
                    durable: bool = True, **options: object) -> Mounted:
        path = tmp_path / "mnt"
        path.mkdir()
        for above in (tmp_path, *tmp_path.parents):
            if above.stat().st_mode & 0o5 != 0o5:
                above.chmod(above.stat().st_mode | 0o5)  # pytest's folders are root's alone; agents must get to theirs
        tree = Tree(str(tmp_path / "durable") if durable else None, group=0, **options)
        tree.root.mode |= 0o5  # no sandbox here: agents walk in from outside
        tree.add(AGENT, UID, "seven", proc=proc or {}, policy=policy or {})
        faults: list[tuple[str, str]] = []
        gate = RecordingGate()
        server = FuseServer(tree, gate, lambda where, text: faults.append((where, text)))
        mounted = Mounted(tree, server, gate, path, faults)
        await nursery.start(mounted.serve)
        everything.append(mounted)
        return mounted

    everything: list[Mounted] = []
    yield start
    for mounted in everything:
        with trio.CancelScope(shield=True), trio.fail_after(WAIT_S):
            await mounted.stop()
        assert str(mounted.path) not in mounts()
        assert mounted.faults == []


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for what has no event to wait for; fails when it takes longer."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what other processes do has no event here
            await trio.sleep(0.005)
