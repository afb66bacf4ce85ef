"""Bytes from anybody at a live kernel: it answers or faults the sender, goes on, and is never itself at fault."""

import errno
import os
import socket
import struct

import pytest
import strategies
from emulation import WAIT_S
from hypothesis import given, settings
from hypothesis import strategies as st

from agentix_syscalls import calls, control, types, wire

GETPID = wire.request(calls.SYS_GETPID, 77, ())
HELLO = wire.request(calls.SYS_HELLO, 0, (wire.PROTOCOL, 0))
LAST = 77

paths = st.sampled_from([
    "state/a", "state/b", "state/no/c", "mem/working/x", "mem/episodic/log", "policy/effective", "proc/status",
    "proc/fd", "proc/wait", "proc/trace", "proc/log", "..", "/", "", ".", "state/../..", "/agent/self/state/a",
    "/etc/passwd", "state/a/", "n" * 256, "state/" + "n/" * 2047, "nul\0", b"\xff\xfe", b"state/\xff",
]) | st.text(max_size=9) | st.binary(max_size=9)
small = st.integers(0, 12) | strategies.numbers
BY_TYPE = {
    types.path: paths, types.uint: small | st.sampled_from([calls.O_RDWR | calls.O_CREAT, calls.O_APPEND | 1, 0o101]),
    types.integer: small | st.just(-1), types.data: st.binary(max_size=99), types.mask: st.integers(0, types.U64_MAX),
    types.user_data: small,
    types.seconds: st.sampled_from([0, 0.01, -1, 1e308, float("nan"), None]),
    types.argv: st.lists(st.text(max_size=9), max_size=4), types.boolean: st.booleans(),
    types.text: st.sampled_from(["exec", "script", "module", "shell.execute", "OPEN", "READ"]) | st.text(max_size=9),
    types.mapping: st.sampled_from([{"command": "true"}, {"source": b"x"}, {"deny": ["OPEN:/x"]}, {"name": "n"}])
    | st.dictionaries(st.text(max_size=8), strategies.values, max_size=3),
}


@st.composite
def requests(draw, table, left_out):
    """A frame of a known operation whose arguments are right, nearly right or anything."""
    row = draw(st.sampled_from([row for row in table if row.name not in left_out]))
    args = [draw(BY_TYPE.get(arg.type, strategies.values) | strategies.values) for arg in row.args]
    args = args[:draw(st.integers(0, len(args)))] if draw(st.booleans()) else args
    flags = draw(st.sampled_from([0, 0, 0, 1, 3, 4, 0x4000, 0xFFFF]))
    return wire.frame(row.number, flags, draw(st.integers(0, 3)), wire.pack(args))


# An agent may end or stop itself; here it must live on.
agent_requests = requests(calls.CALLS, {"EXIT", "SIGNAL"})
control_requests = requests(control.CONTROLS, {"shutdown"})
any_frame = st.builds(wire.frame, st.integers(0, 0xFFFF).filter(lambda number: number not in {13, 19, 24}),
                      st.integers(0, 0xFFFF), st.integers(0, types.U64_MAX), strategies.bodies)


@pytest.fixture(scope="module")
def fuzzed(running):
    with running() as live:
        agent = live.spawn("--deny", "WRITE:/state/a", "--", "/bin/sleep", "infinity")
        yield live, agent


def answers(sock: socket.socket) -> bool:
    """Read replies until that to the last request; False when the kernel ended the connection."""
    reader = wire.Reader(wire.CONTROL_BODY_MAX_BYTES)
    while True:
        try:
            data = sock.recv(1 << 16)
        except ConnectionResetError:
            return False
        if not data:
            return False
        reader.feed(data)
        while (frame := reader.next()) is not None:
            assert frame[1] & wire.F_REPLY
            if frame[2] == LAST:
                return True


def throw(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return  # faulted in the middle


def alive(live, agent) -> None:
    with live.connect(agent) as fresh:
        fresh.sendall(HELLO + GETPID)
        assert answers(fresh)


@settings(max_examples=150)
@given(data=st.binary(max_size=300))
def test_noise_at_an_agents_socket(fuzzed, data):
    with fuzzed[0].connect(fuzzed[1]) as sock:
        throw(sock, data)
    alive(*fuzzed)


@settings(max_examples=150)
@given(greet=st.booleans(), frames=st.lists(any_frame, min_size=1, max_size=6))
def test_frames_of_any_call(fuzzed, greet, frames):
    with fuzzed[0].connect(fuzzed[1]) as sock:
        throw(sock, HELLO * greet + b"".join(frames) + GETPID)
        answers(sock)
    alive(*fuzzed)


@settings(max_examples=400)
@given(frames=st.lists(agent_requests, min_size=1, max_size=8))
def test_calls_with_arguments_that_are_nearly_right(fuzzed, frames):
    with fuzzed[0].connect(fuzzed[1]) as sock:
        throw(sock, HELLO + b"".join(frames) + GETPID)
        answers(sock)
    alive(*fuzzed)


@settings(max_examples=100)
@given(data=st.binary(max_size=200), cut=st.integers(0, 40))
def test_frames_in_pieces(fuzzed, data, cut):
    """Where bytes are cut on the way changes nothing."""
    whole = HELLO + wire.request(calls.SYS_CHECKPOLICY, 1, ("OPEN", data)) + GETPID
    with fuzzed[0].connect(fuzzed[1]) as sock:
        sock.sendall(whole[:cut])
        sock.sendall(whole[cut:])
        assert answers(sock)


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_noise_at_the_control_socket(fuzzed, data):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{fuzzed[0].prefix}/run/control.sock")
        throw(sock, data)
    alive(*fuzzed)


@settings(max_examples=200)
@given(frames=st.lists(control_requests | any_frame, min_size=1, max_size=5))
def test_frames_at_the_control_socket(fuzzed, frames):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(f"{fuzzed[0].prefix}/run/control.sock")
        throw(sock, wire.request(0, 0, (wire.PROTOCOL,)) + b"".join(frames) + wire.request(2, LAST, ()))
        answers(sock)
    alive(*fuzzed)


@pytest.mark.parametrize(("body", "told"), [
    (b"", errno.EPROTO), (b"\x91" * 999 + b"\xc0", errno.EPROTO), (b"\xc1", errno.EPROTO),
    (b"\xdd\xff\xff\xff\xff", errno.EPROTO),
    (wire.pack(["shell.execute", {"command": [["deep"]]}]), errno.EINVAL), (wire.pack(["x" * 4097, {}]), errno.E2BIG),
    (wire.pack({"a": 1}), errno.EINVAL), (wire.pack(["exec", {"\x01" * 999_000: 1}]), errno.ENOENT),
])
def test_one_clear_error_for_a_bad_body(fuzzed, body, told):
    live, agent = fuzzed
    with live.connect(agent) as sock:
        sock.sendall(HELLO)
        sock.recv(1 << 16)
        sock.sendall(wire.frame(calls.SYS_EXEC, 0, 5, body))
        reader = wire.Reader()
        while (frame := reader.next()) is None:
            reader.feed(sock.recv(1 << 16))
        assert wire.decode(frame[3])[0] == told
        assert sock.recv(1) == b"" if told == errno.EPROTO else True
    alive(*fuzzed)


def test_a_body_over_the_cap_is_never_read(fuzzed):
    live, agent = fuzzed
    before = len(live.record(agent, "fault"))
    with live.connect(agent) as sock:
        sock.sendall(HELLO + struct.pack("<IHHQ", wire.BODY_MAX_BYTES + 1, 1, 0, 9))
        assert not answers(sock)
    fault = live.record(agent, "fault")[before:]
    assert [row["verdict"] for row in fault] == ["faulted"]
    assert "over the cap" in fault[0]["data"]["detail"]


def test_another_uid_is_not_heard(fuzzed):
    """Who comes through an agent's socket without being it: turned away, recorded."""
    live, agent = fuzzed
    path = f"{live.prefix}/run/agents/{agent}.1/kernel.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.settimeout(WAIT_S)
        assert sock.recv(1) == b""
    found = live.record(agent, "fault")[-1]
    assert found["data"]["what"] == "identity"
    assert f"pid {os.getpid()}" in found["data"]["detail"]


def test_the_kernel_was_never_at_fault(fuzzed):
    live, _ = fuzzed
    assert live.json("info")["faults"] == 0
    assert "FAULT" not in live.log()
    assert live.json("audit", "verify")["ok"]
