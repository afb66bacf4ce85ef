"""Reads that wait: they hold up nobody else, and a process in one can always be ended."""

import signal
import subprocess
from pathlib import Path

import pytest
import trio
from emulation import WAIT_S

from agentix_vfs import Waiting
from agentix_vfs.fuse.blocked import PER_AGENT_MAX

from .conftest import AGENT, UID, Mount, Mounted, mounts, until

READER = """open(F, "<", $ARGV[0]) or die; sysread(F, $_, 99) // do { print "$!\\n"; exit 1 }; print"""
"""One read(2), and no other try when it is interrupted (cat and Python read again)."""


class Source:
    """A wait that ends when the test says so."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.waiting = 0

    async def wait(self) -> bytes:
        self.waiting += 1
        await self.event.wait()
        return b"it happened\n"


async def start_reader(m: Mounted) -> trio.Process:
    return await trio.lowlevel.open_process(
        ["perl", "-e", READER, m.path / "7/proc/wait"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        user=UID, group=UID, extra_groups=[])


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().split()[2]


async def end(reader: trio.Process) -> int:
    with trio.fail_after(WAIT_S):
        code = await reader.wait()
    await reader.stdout.aclose()
    return code


async def test_a_waiting_read_holds_up_nobody(mount: Mount) -> None:
    source = Source()
    m = await mount({"wait": Waiting(source.wait)})
    readers = [await start_reader(m) for _ in range(3)]
    await until(lambda: source.waiting == 3)
    assert await m.sh("echo fine > state/f && cat state/f && ls proc") == "fine\nwait\n"
    source.event.set()
    for reader in readers:
        assert await reader.stdout.receive_some(100) == b"it happened\n"
        assert await end(reader) == 0


async def test_interrupt_lets_a_killed_reader_die(mount: Mount) -> None:
    source = Source()
    m = await mount({"wait": Waiting(source.wait)})
    reader = await start_reader(m)
    await until(lambda: source.waiting == 1)
    reader.send_signal(signal.SIGKILL)
    with trio.move_on_after(0.3):
        await reader.wait()
    assert reader.returncode is None, "Linux lets nobody die in a FUSE request: then interrupt() is not needed"
    assert state_of(reader.pid) in "DS"
    assert m.server.interrupt(AGENT) == 1
    assert await end(reader) == -signal.SIGKILL
    assert m.server.interrupt(AGENT) == 0


async def test_interrupt_answers_eintr_and_reads_can_begin_again(mount: Mount) -> None:
    source = Source()
    m = await mount({"wait": Waiting(source.wait)})
    output: list[str] = []

    async def read_twice() -> None:
        script = """exec 3< proc/wait; perl -e 'sysread(STDIN, $_, 99) // print "$!\\n"' <&3; cat <&3"""
        output.append(await m.sh(script, uid=0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_twice)
        await until(lambda: source.waiting == 1)
        # Its opener is one of the host's people, so agent 0.
        assert m.server.interrupt(AGENT) == 0
        assert m.server.interrupt(0) == 1
        await until(lambda: source.waiting == 2)
        source.event.set()
    assert output == ["Interrupted system call\nit happened\n"]


async def test_one_agent_cannot_take_every_worker(mount: Mount) -> None:
    source = Source()
    m = await mount({"wait": Waiting(source.wait)})
    readers = [await start_reader(m) for _ in range(PER_AGENT_MAX)]
    await until(lambda: source.waiting == PER_AGENT_MAX)
    assert "Resource temporarily unavailable" in await m.sh("cat proc/wait", code=1)
    # The other doors, and files of others, go on.
    assert await m.sh("echo fine > state/f && cat state/f") == "fine\n"
    assert m.server.interrupt(AGENT) == PER_AGENT_MAX
    for reader in readers:
        assert await end(reader) == 1


@pytest.mark.parametrize("blocked", [0, 2])
async def test_cancelled_while_requests_wait_it_unmounts(mount: Mount, blocked: int) -> None:
    source = Source()
    m = await mount({"wait": Waiting(source.wait)})
    readers = [await start_reader(m) for _ in range(blocked)]
    await until(lambda: source.waiting == blocked)
    await m.stop()
    assert str(m.path) not in mounts()
    for reader in readers:
        assert await end(reader) == 1

