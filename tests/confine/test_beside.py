"""Programs beside an agent, and terminals: behind the same walls, and gone with it."""

import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from agentix_kernel.confine.beside import PROGRAMS_MAX, LinuxProgram
from agentix_kernel.world import Ended, LaunchError, Limits

TERMINALS = 32
"""As many as a sandbox may have."""
IDLE = "import time\nprint('up', flush=True)\ntime.sleep(1000)\n"


@asynccontextmanager
async def beside(running: Any, *argv: str, env: dict[str, str] | None = None, cwd: str = "",
                 feed: bytes = b"") -> AsyncIterator[tuple[LinuxProgram, trio.lowlevel.FdStream]]:
    """A program with pipes; what it writes to stdout and stderr comes out of the stream."""
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    (source, given), (taken, sink) = pipes
    os.write(given, feed)
    os.close(given)
    stream = trio.lowlevel.FdStream(taken)
    try:
        program = await running.sandbox.start(argv, env or {}, cwd, None, (source, sink, sink))
    except BaseException:
        await stream.aclose()
        raise
    finally:
        os.close(source)
        os.close(sink)
    try:
        yield program, stream
    finally:
        program.close()
        await stream.aclose()


async def output_of(running: Any, *argv: str, **more: Any) -> tuple[Ended, str]:
    async with beside(running, *argv, **more) as (program, stream):
        text = b"".join([chunk async for chunk in stream]).decode()
        return await program.wait(), text


WALLS = r"""
import os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(status[key].split()[0] for key in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")),
      *(os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "mnt", "net", "ipc", "uts", "cgroup")),
      open("/proc/self/cgroup").read().replace("\n", ";"), sep="|")
"""


async def test_it_is_behind_all_walls_of_the_agent(lab: Any) -> None:
    running = await lab.launch(f"{WALLS}\nimport time\ntime.sleep(1000)\n")
    own = await running.line()
    ended, text = await output_of(running, "python3", "-c", WALLS)
    assert (ended, text.strip()) == (Ended(0, None), own)
    assert own.split("|")[1:5] == ["0" * 16, "0" * 16, "1", "2"]


async def test_landlock_and_seccomp_hold_it_too(lab: Any) -> None:
    running = await lab.launch(IDLE)
    await running.line()
    probe = ("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
             "try:\n  open('/dev/shm/../../usr/x', 'w')\nexcept OSError as error:\n  print(error.errno)\n"
             "print(libc.unshare(0x10000000), ctypes.get_errno())\n")
    ended, text = await output_of(running, "python3", "-c", probe)
    assert ended == Ended(0, None)
    assert text.split()[0] in {str(errno.EACCES), str(errno.EROFS)}
    assert text.split()[1:] == ["-1", str(errno.EPERM)]
    assert [call.name for call in running.denied] == ["unshare"]


async def test_status_input_environment_and_folder(lab: Any) -> None:
    running = await lab.launch(IDLE, env={"OF_AGENT": "a", "BOTH": "agent"})
    await running.line()
    ended, text = await output_of(running, "sh", "-c", 'cat; echo "$OF_AGENT $BOTH $PWD"; exit 7', env={"BOTH": "own"},
                                  cwd="/usr/bin", feed=b"fed\n")
    assert (ended, text) == (Ended(7, None), "fed\na own /usr/bin\n")


@pytest.mark.parametrize(("argv", "cwd", "number"), [
    (("/no/such",), "", errno.ENOENT), (("/etc/passwd",), "", errno.EACCES), (("true",), "/no/such", errno.ENOENT),
    (("true", "x" * 100_000), "", errno.E2BIG),
])
async def test_what_cannot_run(lab: Any, argv: tuple[str, ...], cwd: str, number: int) -> None:
    running = await lab.launch(IDLE)
    await running.line()
    with pytest.raises(LaunchError) as failed:
        await output_of(running, *argv, cwd=cwd)
    assert (failed.value.number, failed.value.stage) == (number, "exec")
    assert await output_of(running, "echo", "well") == (Ended(0, None), "well\n")


async def test_signals_reach_the_one_program(lab: Any) -> None:
    running = await lab.launch(IDLE)
    await running.line()
    async with beside(running, "sleep", "1000") as (program, _):
        assert program.pid in running.sandbox.pids()
        assert program.signal(signal.SIGTERM)
        assert await program.wait() == Ended(None, signal.SIGTERM)
        assert not program.signal(signal.SIGTERM)
    assert running.sandbox.ended is None


async def test_it_ends_with_the_agent(lab: Any) -> None:
    running = await lab.launch(IDLE)
    async with beside(running, "sleep", "1000") as (program, _):
        assert await running.sandbox.kill()
        assert await program.wait() == Ended(None, signal.SIGKILL)
    with pytest.raises(LaunchError) as failed:
        await output_of(running, "true")
    assert failed.value.number in {errno.EBADF, errno.EPIPE, errno.ESRCH}


async def test_many_at_once_and_no_more(lab: Any) -> None:
    running = await lab.launch(IDLE, limits=Limits(pids=100))
    await running.line()
    programs = [await running.sandbox.start(("cat",), {}, "", (24, 80), ()) for _ in range(30)]
    assert len({program.pid for program in programs}) == 30
    running.sandbox._programs._by_serial.update({-n: LinuxProgram() for n in range(PROGRAMS_MAX - 30)})
    with pytest.raises(LaunchError) as failed:
        await output_of(running, "true")
    assert failed.value.number == errno.EAGAIN
    for program in programs:
        program.close()
        assert (await program.wait()).linux_signal == signal.SIGHUP


async def test_a_fork_bomb_does_not_end_the_init(lab: Any) -> None:
    bomb = ("import os, time\ntry:\n  while True:\n    if os.fork() == 0:\n      time.sleep(1000)\n"
            "except OSError:\n  print('full', flush=True)\ntime.sleep(1000)\n")
    running = await lab.launch(bomb, limits=Limits(pids=8))
    assert await running.line() == "full"
    with pytest.raises(LaunchError) as failed:
        await output_of(running, "true")
    assert failed.value.number == errno.EAGAIN
    for _ in range(TERMINALS + 1):  # a terminal that was made for nothing does not stay
        with pytest.raises(LaunchError) as failed:
            await running.sandbox.start(("true",), {}, "", (24, 80), ())
        assert failed.value.number == errno.EAGAIN
    assert running.sandbox.ended is None


async def read_until(fd: int, what: bytes) -> bytes:
    os.set_blocking(fd, False)
    got = b""
    while what not in got:
        await trio.lowlevel.wait_readable(fd)
        got += os.read(fd, 4096)
    return got


async def test_a_terminal_beside(lab: Any) -> None:
    running = await lab.launch(IDLE)
    await running.line()
    program = await running.sandbox.start(
        ("sh", "-c", "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo three; cat"), {}, "", (33, 111), ())
    master = program.take_terminal()
    try:
        shown = await read_until(master, b"three\r\n")
        assert shown.split() == [b"/dev/pts/0", b"33", b"111", b"three"]
        os.write(master, b"word\n")  # once as the terminal's echo, once by cat, which runs by then
        await read_until(master, b"word\r\nword\r\n")
        os.write(master, b"\x03")  # the interrupt character: to whoever is in the foreground of that terminal
        assert (await program.wait()).linux_signal == signal.SIGINT
    finally:
        os.close(master)
        program.close()


async def test_the_agents_own_terminal(lab: Any) -> None:
    source = ("import os, sys\nprint(os.ttyname(0), *os.get_terminal_size(), sys.stdout.isatty())\n"
              "print(input('? ').upper())\n")
    running = await lab.launch(source, terminal=(25, 81))
    master = running.sandbox.terminal
    assert (await read_until(master, b"? ")).startswith(b"/dev/pts/0 81 25 True\r\n")
    os.write(master, b"word\n")
    assert b"word\r\nWORD" in await read_until(master, b"WORD")
    assert await running.sandbox.wait() == Ended(0, None)


async def test_agents_do_not_see_each_others_terminals(lab: Any) -> None:
    first = await lab.launch(IDLE, terminal=(24, 80))
    second = await lab.launch("import os\nprint(sorted(os.listdir('/dev/pts')))\n")
    assert await second.rest() == "['ptmx']\n"
    assert first.sandbox.terminal >= 0
