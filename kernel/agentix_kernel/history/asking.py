"""agentd's side of the historian: keeps one running, and hands it questions."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import trio
from attrs import define, field

from agentix_kernel.config import Config
from agentix_kernel.confine.zygotes import ENVIRONMENT
from agentix_kernel.history.question import PACKET_MAX_BYTES
from agentix_syscalls import control, wire
from agentix_syscalls.errors import CallError, Reason

AGAIN_S: Final = 1.0
"""From the end of a historian that nobody asked to end to the next one."""
READ_BYTES: Final = 1 << 16
_TELLING_BYTES: Final = 4096


@define(eq=False, repr=False)
class History:
    """What was recorded, for who asks. `told` is given what the historian has to say.

    Both ends of the socket are kept: a question that comes while there is no historian waits for the next one.
    """

    config: Config
    told: Callable[[str], None]
    _ours: socket.socket = field(init=False)
    _theirs: socket.socket = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._theirs.setblocking(True)

    async def run(self) -> None:
        """Keep a historian until cancelled; then none is left."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            while True:
                status = await self._one()
                self.told(f"the historian ended with status {status}; another one begins")
                await trio.sleep(AGAIN_S)

    async def _one(self) -> int:
        """One historian, from its beginning to its end."""
        config, fd = self.config, self._theirs.fileno()
        argv = [sys.executable, "-I", "-m", "agentix_kernel.history.historian", str(fd), config.journal_dir,
                config.key_path, config.index_dir]
        done = await trio.run_process(argv, pass_fds=(fd,), env=ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL,
                                      check=False, deliver_cancel=_kill,
                                      process_group=0)
        return done.returncode

    async def _listen(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            self.told(self._ours.recv(_TELLING_BYTES).decode("utf-8", "replace"))

    def ask(self, uid: int, name: str, *args: Any) -> int:
        """Put the question of an operation; the descriptor to read its answer from, which is the caller's.

        `uid`: for whom. Raises CallError EAGAIN, E2BIG.
        """
        packet = wire.pack([control.BY_NAME[name].number, uid, args])
        if len(packet) > PACKET_MAX_BYTES:
            raise CallError(errno.E2BIG, f"{name}: the question is over {PACKET_MAX_BYTES} bytes")
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._ours, [packet], [writer])
        except BlockingIOError:
            os.close(reader)
            raise CallError(errno.EAGAIN, f"{name}: many questions to the record wait already",
                            remedy="ask again in a moment") from None
        finally:
            os.close(writer)
        return reader

    async def pieces(self, uid: int, name: str, *args: Any) -> AsyncGenerator[Any]:
        """The same, with the answer's pieces as they come. Raises CallError, also EIO for an answer that breaks off."""
        reader = wire.Reader(wire.CONTROL_BODY_MAX_BYTES)
        async with trio.lowlevel.FdStream(self.ask(uid, name, *args)) as stream:
            while data := await stream.receive_some(READ_BYTES):
                reader.feed(data)
                while (frame := reader.next()) is not None:
                    _, flags, _, body = frame
                    if flags & wire.F_ERROR:
                        reason = Reason.from_wire(wire.decode(body))
                        raise CallError(reason.errno, reason.message, remedy=reason.remedy)
                    if not flags & wire.F_MORE:
                        return
                    yield wire.decode(body)  # noqa: ASYNC119 - flight.py closes it
        raise CallError(errno.EIO, f"{name}: the answer broke off", remedy="ask again; agentctl kernel-log tells more")


async def _kill(process: trio.Process) -> None:
    """With those who answer: none of them holds anything that its end could harm."""
    os.killpg(process.pid, signal.SIGKILL)
