"""Attacks on kernels of their own: what an agent, a member of the group or a host user may try."""


import pytest
from live.conftest import kernel, make_kernel, running, scripts

from agentix_syscalls import calls, wire

IDLE = "import signal\nprint('up', flush=True)\nwhile True:\n    signal.pause()\n"
"""An agent whose part the test plays through its socket."""


class Attacker:
    """An agent's own connection: frames as it likes, several in one write."""

    def __init__(self, sock) -> None:
        self.sock, self.reader, self.last = sock, wire.Reader(64 << 20), 0
        assert self.call("HELLO", wire.PROTOCOL)[1] == 0

    def frame(self, name: str, *args) -> bytes:
        self.last += 1
        return wire.request(calls.BY_NAME[name].number, self.last, args)

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def answer(self):
        """(value, errno): the next reply, errno 0 when it is no error. EOFError when the kernel hung up."""
        while (frame := self.reader.next()) is None:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self.reader.feed(data)
        value = wire.decode(frame[3])
        return (value, value[0]) if frame[1] & wire.F_ERROR else (value, 0)

    def call(self, name: str, *args):
        self.send(self.frame(name, *args))
        return self.answer()

    def done(self, name: str, *args):
        """The result of a call that must succeed."""
        value, number = self.call(name, *args)
        assert number == 0, (name, args, value)
        return value


@pytest.fixture
def attack(kernel, scripts):
    """Spawn an idle agent with these options; its id and its connection. All are killed afterwards."""
    made = []

    def begin(*options):
        agent = kernel.spawn(*options, scripts(IDLE))
        kernel.until_logged(agent, "up")
        sock = kernel.connect(agent)
        made.append((agent, sock))
        return agent, Attacker(sock)
    yield begin
    for agent, sock in made:
        sock.close()
        kernel.ctl("kill", "-9", "-g", agent)


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


__all__ = ["Attacker", "attack", "kernel", "make_kernel", "resident", "running", "scripts"]
