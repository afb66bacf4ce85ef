"""The C client's decoder under the sanitizers: whatever a kernel answers, it stays in its memory and says EPROTO."""

import contextlib
import errno
import os
import select
import socket
import subprocess
from pathlib import Path

import c_client
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from agentix_syscalls import calls, wire

REASON = (errno.ENOENT, "no such thing", "", "look elsewhere", 7, "caller", "info", False)
REPLIES = {
    "OPEN": 3, "CLOSE": None, "READ": b"123456789", "STAT": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    "READDIR": (("a", 0o100644, 7), ("b" * 255, 0o40755, 8)), "WAIT": (6, None, "SIGKILL", "killed"),
    "SIGWAIT": (5, 0, "asked to"), "EXEC": {"status": 3, "stdout": b"out", "stderr": b"", "more": (1, {"x": 2.5})},
    "CHECKPOLICY": (True, "enforce", "", ""), "GETPID": (5, 2), "RUSAGE": (1, 2, 3, 4, 5, 6),
    "SIGPROCMASK": 1 << 63, "SPAWN": 9, "GETPOLICY": ("enforce", (), 0),
}
"""A reply that each call takes, with what it then says (below)."""
SAID = {
    "OPEN": "= 3 0", "CLOSE": "= 0 0", "READ": "313233343536373839 = 9 0", "STAT": f"= {6 ^ 10} 0",
    "READDIR": f"61 {'62' * 255} = 2 0", "WAIT": "-1 SIGKILL killed = 6 0", "SIGWAIT": "0 asked to = 5 0",
    "EXEC": "6f7574  = 3 0", "CHECKPOLICY": "= 1 0", "GETPID": "= 5 0", "RUSAGE": "= 6 0",
    "SIGPROCMASK": "0000000000000080 = 0 0", "SPAWN": "= 9 0", "GETPOLICY": "93a7656e666f7263659000 = 11 0",
}


class Hostile:
    """The program, and a kernel that answers each of its calls with given bytes and hangs up."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.path = str(folder / "kernel.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.log = open(folder / "stderr", "w+b")  # noqa: SIM115 - closed below
        self.driver = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                       env={**os.environ, "AGENTIX_SOCKET": self.path})

    def close(self) -> int:
        self.driver.stdin.close()
        status = self.driver.wait(20)
        self.driver.stdout.close()
        self.listener.close()
        self.log.close()
        return status

    def told(self, call: str, reply: bytes) -> str:
        """What the program says of one call. The connection of the call before is dead, which may cost it a try."""
        for _ in range(2):
            self.driver.stdin.write(f"{call}\n".encode())
            self.driver.stdin.flush()
            ready, _, _ = select.select([self.listener, self.driver.stdout], [], [], 60)
            if self.listener in ready:
                self._serve(reply)
            line = self.driver.stdout.readline().decode(errors="surrogateescape")
            if self.driver.poll() is not None or not line:
                self.log.seek(0)
                raise AssertionError(self.log.read().decode())
            if self.listener in ready:
                return line.rstrip("\n")
        raise AssertionError(line)

    def _serve(self, reply: bytes) -> None:
        made, _ = self.listener.accept()
        with made:
            made.settimeout(60)
            self._request(made)
            made.sendall(wire.frame(calls.SYS_HELLO, wire.F_REPLY, 0, wire.pack([1, 0, 5, 1, "c"])))
            self._request(made)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have heard enough before the end
                made.sendall(reply)

    @staticmethod
    def _request(made: socket.socket) -> None:
        reader = wire.Reader()
        while reader.next() is None:
            data = made.recv(65536)
            assert data
            reader.feed(data)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return c_client.build(c_client.ROOT / "tests/data/c/replies.c", tmp_path_factory.mktemp("c"), *c_client.SANITIZERS,
                          "-DSMALL_BYTES=16")


@pytest.fixture(scope="module")
def hostile(program, tmp_path_factory):
    made = Hostile(program, tmp_path_factory.mktemp("hostile"))
    yield made
    assert made.close() == 0, "a leak, or worse: see above"


def frame(call: str, body: bytes, *, error: bool = False) -> bytes:
    return wire.frame(calls.BY_NAME[call].number, wire.F_REPLY | (wire.F_ERROR if error else 0), 0, body)


@pytest.mark.parametrize("call", REPLIES)
def test_a_right_reply_is_read(hostile, call):
    assert hostile.told(call, frame(call, wire.pack(REPLIES[call]))).rstrip() == SAID[call]
    said = hostile.told(call, frame(call, wire.pack(REASON), error=True))
    assert said == f"= -1 {errno.ENOENT} no such thing"


WRONG = ({}, (), "text", ((),), {"status": "x"}, (1, 2, 3, (), "x", {}), -1)
"""Well packed, but not an answer of most calls."""
FITTING = (["READ", "text"], ["READDIR", ()], ["EXEC", {}], ["GETPID", WRONG[5]])


@pytest.mark.parametrize("call", sorted({*REPLIES} - {"CLOSE", "GETPOLICY"}))
def test_a_reply_of_another_shape_is_refused(hostile, call):
    for value in WRONG:
        if [call, value] in FITTING:
            continue
        assert f"= -1 {errno.EPROTO} " in hostile.told(call, frame(call, wire.pack(value))), value


HEADS = (b"\xdb", b"\xc6", b"\xdd", b"\xdf")
"""Of text, bytes, an array and a map, each with four bytes of length to come."""


@pytest.mark.parametrize("call", REPLIES)
@pytest.mark.parametrize("size", [2, 9, 70_000, (1 << 31) - 1, (1 << 32) - 1])
def test_a_length_that_is_a_lie_is_found_out(hostile, call, size):
    """In the place of the whole of a right reply, or of one of its values."""
    packed = [wire.pack(value) for value in (REPLIES[call] if isinstance(REPLIES[call], tuple) else ())]
    for head in HEADS:
        lie = head + size.to_bytes(4, "big")
        for at in range(len(packed) or 1):
            body = b"".join([bytes([0x90 + len(packed)]), *packed[:at], lie]) if at else lie
            for error in (False, True):
                said = hostile.told(call, frame(call, body, error=error))
                assert f"= -1 {errno.EPROTO} " in said or call in {"CLOSE", "GETPOLICY"}, (said, body)


def test_more_data_than_was_asked_for_is_refused(hostile):
    for size in (10, 300, 70_000):
        assert f"= -1 {errno.EPROTO} " in hostile.told("READ", frame("READ", wire.pack(bytes(size))))
    for size in (0, 1, 9):
        said = hostile.told("READ", frame("READ", b"\xc6" + size.to_bytes(4, "big") + b"x" * size))
        assert said.endswith(f"= {size} 0 ")


def test_a_reply_of_gigabytes_is_refused_unread(hostile):
    header = wire.HEADER.pack((1 << 32) - 1, calls.SYS_GETPID, wire.F_REPLY, 0)
    assert f"= -1 {errno.EPROTO} " in hostile.told("GETPID", header)


@st.composite
def hostile_replies(draw: st.DrawFn) -> tuple[str, bytes]:
    """Frames with anything in them, almost right ones, cut ones, and bytes that are no frame."""
    call = draw(st.sampled_from(sorted(REPLIES)))
    value = draw(st.sampled_from((REPLIES[call], REASON)) | strategies.values)
    body = bytearray(wire.pack(value))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at:at + draw(st.integers(0, 2))] = draw(st.binary(max_size=4))
    whole = frame(call, draw(st.just(bytes(body)) | strategies.bodies), error=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        whole = bytearray(whole)
        whole[draw(st.integers(0, wire.HEADER_BYTES - 1))] ^= draw(st.integers(1, 255))
    return call, bytes(whole)[:draw(st.none() | st.integers(0, len(whole)))]


@settings(max_examples=400)
@given(hostile_replies())
def test_no_reply_harms(hostile, sent):
    call, reply = sent
    said = hostile.told(call, reply)
    number = int(said.rpartition("= ")[2].split()[0]) if "= -1" not in said else -1
    assert number >= -1 or call in {"STAT", "RUSAGE", "EXEC"}


@settings(max_examples=40)
@given(extra=st.lists(strategies.values, max_size=4))
def test_what_a_later_kernel_adds_is_skipped(hostile, extra):
    entries = [["a", 1, 2, *extra], ["b", 3, 4]]
    assert hostile.told("READDIR", frame("READDIR", wire.pack(entries))) == "61 62 = 2 0 "
    result = {"status": 1, **{f"x{i}": value for i, value in enumerate(extra)}, "stdout": b"a", "stderr": b"b"}
    assert hostile.told("EXEC", frame("EXEC", wire.pack(result))) == "61 62 = 1 0 "


def test_no_kernel_there(program, tmp_path):
    for path, number in ((str(tmp_path / "none"), errno.ENOENT), ("/" + "x" * 200, errno.ENAMETOOLONG)):
        done = subprocess.run([program], input="GETPID\n", capture_output=True, text=True, check=True,
                              env={**os.environ, "AGENTIX_SOCKET": path})
        assert done.stdout.startswith(f"= -1 {number} ")
        assert path in done.stdout
