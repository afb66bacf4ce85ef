"""agentix.aio against a kernel whose every answer the test gives, in the order that it wants."""

import errno
import inspect
import os
import signal
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field
from emulation import WAIT_S

from agentix import aio, libc
from agentix_syscalls import calls, wire
from agentix_syscalls.errors import CallError

TERM = 1 << (libc.SIGTERM - 1)


@define
class Asked:
    """A request that came in."""

    number: int
    args: tuple[object, ...]
    serial: int


@define
class Peer:
    """The kernel's end of one connection: requests as they come, answers as the test gives them."""

    stream: trio.SocketStream
    reader: wire.Reader = field(factory=wire.Reader)

    async def next(self) -> Asked:
        while (frame := self.reader.next()) is None:
            data = await self.stream.receive_some(1 << 20)
            if not data:
                raise trio.EndOfChannel
            self.reader.feed(data)
        number, _, serial, body = frame
        return Asked(number, wire.decode(body), serial)

    async def asked(self, number: int) -> Asked:
        found = await self.next()
        assert found.number == number
        return found

    async def answer(self, asked: Asked, result: object) -> None:
        flags = wire.F_REPLY
        if isinstance(result, CallError):
            flags, result = flags | wire.F_ERROR, result.reason(7).to_wire()
        await self.stream.send_all(wire.frame(asked.number, flags, asked.serial, wire.pack(result)))

    async def greet(self) -> "Peer":
        await self.answer(await self.asked(calls.SYS_HELLO), [1, 0, 5, 1, "tester"])
        return self


@pytest.fixture
async def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Connections in the order in which they are made."""
    path = str(tmp_path / "kernel.sock")
    monkeypatch.setenv("AGENTIX_SOCKET", path)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.bind(path)
        plain.listen()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(plain.fileno()))))
        made: list[Peer] = []

        async def accept() -> Peer:
            made.append(Peer(await listener.accept()))
            return await made[-1].greet()
        yield accept
        await listener.aclose()
        for peer in made:
            await peer.stream.aclose()


@pytest.fixture
async def told():
    """Run calls as tasks; what each returned or raised, by name."""
    found: dict[str, object] = {}

    async def run(name, function, *args):
        try:
            found[name] = await function(*args)
        except Exception as error:
            found[name] = error
    async with trio.open_nursery() as nursery:
        found["start"] = lambda name, function, *args: nursery.start_soon(run, name, function, *args)
        yield found
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


def test_the_names_are_those_of_libc():
    functions = {name for name in libc.__all__ if inspect.isfunction(getattr(libc, name))}
    assert functions <= set(aio.__all__)
    assert {name for name in abi_names() if getattr(aio, name) is not getattr(libc, name)} == set()
    assert set(libc.__all__) - set(aio.__all__) == {"RawFile"}
    assert set(aio.__all__) - set(libc.__all__) == {"open_signal_receiver"}
    same = {"exit", "_exit", "getsignal"}
    assert {name for name in functions if not inspect.iscoroutinefunction(getattr(aio, name))} == same
    for name in functions - same - {"sigprocmask"}:
        told, awaited = inspect.signature(getattr(libc, name)), inspect.signature(getattr(aio, name))
        assert list(told.parameters) == list(awaited.parameters)
    assert inspect.signature(libc.open).return_annotation is int
    assert inspect.signature(aio.getpid).return_annotation is int


def abi_names():
    return {name for name in libc.__all__ if name.isupper() or name in {"Error", "Ended", "Usage", "SigInfo"}}


async def test_calls_ask_and_read_as_libc_does(peers, told):
    told["start"]("open", aio.open, "a", aio.O_RDWR)
    peer = await peers()
    asked = await peer.asked(calls.SYS_OPEN)
    assert asked.args == ("a", aio.O_RDWR, 0o644)
    await peer.answer(asked, 3)
    for name, number, args, answer, result in [
        ("stat", calls.SYS_STAT, ("a",), [0o100644, 9, 1, 70000, 0, 5, 8, 1_500_000_000, 2, 3], None),
        ("listdir", calls.SYS_READDIR, (), [[b"a", 0o100644, 9]], ["a"]),
        ("waitpid", calls.SYS_WAIT, (6,), [6, 0, None, "exit"], aio.Ended(6, 0, None, "exit")),
        ("getppid", calls.SYS_GETPID, (), [5, 2], 2),
        ("checkpolicy", calls.SYS_CHECKPOLICY, ("WRITE",), [True, "audit", "", ""], (True, "audit", "", "")),
        ("sigprocmask", calls.SYS_SIGPROCMASK, (aio.SIG_BLOCK, ["TERM"]), TERM, {aio.SIGTERM}),
    ]:
        told["start"](name, getattr(aio, name), *args)
        await peer.answer(await peer.asked(number), answer)
        await settled()
        assert result is None or told[name] == result
    assert stat.S_ISREG(told["stat"].st_mode)
    assert told["open"] == 3


async def test_answers_come_in_any_order(peers, told):
    for number in range(20):
        told["start"](str(number), aio.read, number, 10)
    peer = await peers()
    requests = [await peer.asked(calls.SYS_READ) for _ in range(20)]
    for asked in reversed(requests):
        await peer.answer(asked, b"%d" % asked.args[0])
    await settled()
    assert [told[str(number)] for number in range(20)] == [b"%d" % number for number in range(20)]


async def test_an_error_is_that_of_libc(peers, told):
    told["start"]("call", aio.unlink, "a")
    peer = await peers()
    await peer.answer(await peer.asked(calls.SYS_UNLINK), CallError(errno.EPERM, "no", rule="deny", remedy="ask"))
    await settled()
    error = told["call"]
    assert isinstance(error, PermissionError)
    assert isinstance(error, aio.Error)
    assert (error.reason.rule, error.__notes__) == ("deny", ["rule: deny", "remedy: ask"])


async def test_bad_arguments_are_refused_here_and_leave_the_connection_whole(peers, told):
    with pytest.raises(OSError, match="over") as caught:
        await aio.syscall(aio.SYS_WRITE, 1, b"x" * wire.BODY_MAX_BYTES)
    assert caught.value.errno == errno.EMSGSIZE
    with pytest.raises(TypeError):
        await aio.syscall(aio.SYS_CLOSE, object())
    peer = await peers()
    told["start"]("pid", aio.getpid)
    await peer.answer(await peer.asked(calls.SYS_GETPID), [5, 2])
    await settled()
    assert told["pid"] == 5


async def test_large_writes_and_answers_do_not_wait_for_each_other(peers, told):
    """Neither end reads before it has written all: only a client that does both at once gets through."""
    big = b"w" * (1 << 20)
    for number in range(8):
        told["start"](f"write{number}", aio.write, number, big)
        told["start"](f"read{number}", aio.read, number, 1 << 20)
    peer = await peers()
    for _ in range(16):
        asked = await peer.next()
        await peer.answer(asked, big if asked.number == calls.SYS_READ else len(asked.args[1]))
    await settled()
    assert {len(told[f"read{number}"]) for number in range(8)} == {1 << 20}
    assert {told[f"write{number}"] for number in range(8)} == {wire.BODY_MAX_BYTES - 64}


# --- cancellation ----------------------------------------------------------------------------------------------------

async def test_cancelling_a_task_cancels_its_call_in_the_kernel(peers, told, nursery):
    scope = trio.CancelScope()

    async def waits():
        with scope:
            await aio.waitpid(6)
    nursery.start_soon(waits)
    told["start"]("other", aio.sigwait, [aio.SIGTERM])
    peer = await peers()
    requests = {asked.number: asked for asked in [await peer.next(), await peer.next()]}
    scope.cancel()
    cancel = await peer.asked(calls.SYS_CANCEL)
    assert cancel.args == (requests[calls.SYS_WAIT].serial,)
    await settled()
    assert not scope.cancelled_caught  # it waits for what became of the call
    await peer.answer(cancel, None)
    await peer.answer(requests[calls.SYS_WAIT], CallError(errno.ECANCELED, "WAIT: cancelled"))
    await settled()
    assert scope.cancelled_caught
    assert "other" not in told
    await peer.answer(requests[calls.SYS_SIGWAIT], [aio.SIGTERM, 0, ""])
    await settled()
    assert told["other"] is aio.SIGTERM


@pytest.mark.parametrize("too_late", [False, True])
async def test_what_was_done_is_returned_though_its_task_is_cancelled(peers, nursery, too_late):
    """A spawn above all: its child is there, and somebody must know it."""
    found = []
    scope = trio.CancelScope()

    async def spawns():
        with scope:
            found.append(await aio.spawn(exec="/bin/true"))
            await trio.lowlevel.checkpoint()
            found.append("not reached")
    nursery.start_soon(spawns)
    peer = await peers()
    spawn = await peer.asked(calls.SYS_SPAWN)
    scope.cancel()
    cancel = await peer.asked(calls.SYS_CANCEL)
    await peer.answer(cancel, CallError(errno.ESRCH, "nothing waits") if too_late else None)
    await settled()
    assert found == []
    await peer.answer(spawn, 6)
    await settled()
    assert found == [6]
    assert scope.cancelled_caught


async def test_a_task_that_is_cancelled_already_asks_nothing(peers, told):
    with trio.CancelScope() as scope:
        scope.cancel()
        await aio.getpid()
    assert scope.cancelled_caught
    told["start"]("pid", aio.getpid)
    peer = await peers()
    await peer.answer(await peer.asked(calls.SYS_GETPID), [5, 2])


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.ENOSPC])
async def test_a_kernel_that_refuses_to_cancel_holds_nobody(peers, told, nursery, number):
    scope = trio.CancelScope()

    async def waits():
        with scope:
            await aio.wait()
    nursery.start_soon(waits)
    peer = await peers()
    wait = await peer.asked(calls.SYS_WAIT)
    scope.cancel()
    await peer.answer(await peer.asked(calls.SYS_CANCEL), CallError(number, "no"))
    await settled()
    assert scope.cancelled_caught
    await peer.answer(wait, [6, 0, None, "exit"])  # nobody's any more
    told["start"]("pid", aio.getpid)
    await peer.answer(await peer.asked(calls.SYS_GETPID), [5, 2])
    await settled()
    assert told["pid"] == 5


async def test_ecanceled_without_a_cancel_is_an_error(peers, told):
    told["start"]("spawn", lambda: aio.spawn(exec="/bin/true"))
    peer = await peers()
    await peer.answer(await peer.asked(calls.SYS_SPAWN), CallError(errno.ECANCELED, "agent 5 is ending"))
    await settled()
    assert isinstance(told["spawn"], aio.Error)


# --- the connection's end --------------------------------------------------------------------------------------------

async def test_without_a_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTIX_SOCKET", str(tmp_path / "none.sock"))
    with pytest.raises(FileNotFoundError, match="no Agentix kernel answers at"):
        await aio.getpid()


async def test_a_kernel_that_goes_away_is_told_to_all_and_looked_for_again(peers, told):
    for name in "abc":
        told["start"](name, aio.wait)
    peer = await peers()
    for _ in "abc":
        await peer.asked(calls.SYS_WAIT)
    await peer.stream.aclose()
    await settled()
    assert {str(told[name]) for name in "abc"} == {"[Errno 104] the kernel closed the connection"}
    assert len({id(told[name]) for name in "abc"}) == 3
    assert all(isinstance(told[name], ConnectionResetError) for name in "abc")
    told["start"]("again", aio.getpid)
    peer = await peers()
    await peer.answer(await peer.asked(calls.SYS_GETPID), [5, 2])
    await settled()
    assert told["again"] == 5


async def test_a_kernel_that_goes_away_while_a_call_is_cancelled(peers, nursery):
    scope = trio.CancelScope()

    async def waits():
        with scope:
            await aio.wait()
    nursery.start_soon(waits)
    peer = await peers()
    await peer.asked(calls.SYS_WAIT)
    scope.cancel()
    await peer.asked(calls.SYS_CANCEL)
    await peer.stream.aclose()
    await settled()
    assert scope.cancelled_caught


@pytest.mark.parametrize("garbage", [b"\0\0\0\7" + bytes(12), wire.frame(20, wire.F_REPLY, 1, b"\xc1")])
async def test_an_answer_that_is_none(peers, told, garbage):
    told["start"]("pid", aio.getpid)
    peer = await peers()
    await peer.asked(calls.SYS_GETPID)
    await peer.stream.send_all(garbage)
    await settled()
    assert told["pid"].errno == errno.EPROTO


async def test_a_kernel_that_refuses_the_version(tmp_path, monkeypatch, told):
    monkeypatch.setenv("AGENTIX_SOCKET", str(tmp_path / "kernel.sock"))
    with socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(tmp_path / "kernel.sock"))
        plain.listen()
        told["start"]("pid", aio.getpid)
        await settled()
        made, _ = plain.accept()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(made)) as stream:
        peer = Peer(stream)
        await peer.answer(await peer.asked(calls.SYS_HELLO), CallError(errno.EPROTO, "speaks version 2 only"))
        await settled()
    assert "version 2" in str(told["pid"])


def test_each_run_has_a_connection_of_its_own_and_closes_it(kernel):
    kernel.on(libc.SYS_GETPID, [5, 2])

    async def pid():
        return await aio.getpid(), await aio.getppid()
    for number in (1, 2):
        assert trio.run(pid) == (5, 2)
        assert kernel.accepted == number
        kernel.closed.get(timeout=WAIT_S)


def test_runs_in_other_threads(kernel):
    """A run in a thread of its own has a connection of its own; nothing of it needs the main thread."""
    both = threading.Barrier(2)

    def pid(*_args):
        both.wait(10)
        return [5, 2]
    kernel.on(libc.SYS_GETPID, pid)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(trio.run, [aio.getpid, aio.getppid])) == [5, 2]
    assert kernel.accepted == 2


def test_ctrl_c_interrupts_a_call(kernel):
    """Python's own handler raises in the main task, which waits: the call is cancelled like any other."""
    def interrupt(*_args):
        os.kill(os.getpid(), signal.SIGINT)
        raise CallError(errno.ECANCELED, "SIGWAIT: cancelled")
    kernel.on(libc.SYS_SIGWAIT, interrupt)
    kernel.on(libc.SYS_CANCEL, None)
    with pytest.raises(KeyboardInterrupt):
        trio.run(aio.sigwait, [aio.SIGTERM])


# --- signals ---------------------------------------------------------------------------------------------------------

async def test_signals_are_received_in_a_task(peers, nursery):
    found = []

    async def receives():
        async with aio.open_signal_receiver(aio.SIGTERM, "usr1") as signals:
            async for signal, info in signals:
                found.append((signal, info))
                if signal is aio.SIGTERM:
                    return
    nursery.start_soon(receives)
    peer = await peers()
    block = await peer.asked(calls.SYS_SIGPROCMASK)
    both = TERM | 1 << (aio.SIGUSR1 - 1)
    assert block.args == (aio.SIG_BLOCK, both)
    await peer.answer(block, 1 << (aio.SIGUSR1 - 1))  # one of them was blocked before
    for number in (aio.SIGUSR1, aio.SIGTERM):
        wait = await peer.asked(calls.SYS_SIGWAIT)
        assert wait.args == (both, None)
        await peer.answer(wait, [number, 3, "why"])
    unblock = await peer.asked(calls.SYS_SIGPROCMASK)
    assert unblock.args == (aio.SIG_UNBLOCK, TERM)
    await peer.answer(unblock, both)
    await settled()
    assert found == [(aio.SIGUSR1, aio.SigInfo(3, "why")), (aio.SIGTERM, aio.SigInfo(3, "why"))]


async def test_a_receiver_that_is_cancelled_unblocks(peers, nursery):
    scope = trio.CancelScope()

    async def receives():
        with scope:
            async with aio.open_signal_receiver(aio.SIGTERM) as signals:
                await anext(signals)
    nursery.start_soon(receives)
    peer = await peers()
    await peer.answer(await peer.asked(calls.SYS_SIGPROCMASK), 0)
    wait = await peer.asked(calls.SYS_SIGWAIT)
    scope.cancel()
    await peer.answer(await peer.asked(calls.SYS_CANCEL), None)
    await peer.answer(wait, CallError(errno.ECANCELED, "SIGWAIT: cancelled"))
    unblock = await peer.asked(calls.SYS_SIGPROCMASK)
    assert unblock.args == (aio.SIG_UNBLOCK, TERM)
    await peer.answer(unblock, TERM)
    await settled()
    assert scope.cancelled_caught


@pytest.mark.parametrize(("signals", "error", "match"), [
    (["KILL"], OSError, "SIGKILL cannot be caught"), (["TERM", "STOP"], OSError, "SIGSTOP cannot"),
    (["POLICY"], OSError, "cannot"), ([], TypeError, "at least one"), ([signal.SIGTERM], TypeError, "Linux"),
])
async def test_receivers_of_what_cannot_be_received(signals, error, match):
    with pytest.raises(error, match=match):
        async with aio.open_signal_receiver(*signals):
            pass


async def test_a_signal_has_one_receiver(peers, told):
    async def receives():
        async with aio.open_signal_receiver("TERM"):
            with pytest.raises(ValueError, match="SIGTERM is another receiver's"):
                async with aio.open_signal_receiver("TERM", "INT"):
                    pass
    told["start"]("receiver", receives)
    peer = await peers()
    await peer.answer(await peer.asked(calls.SYS_SIGPROCMASK), 0)
    await peer.answer(await peer.asked(calls.SYS_SIGPROCMASK), 0)
    await settled()
    assert told["receiver"] is None
