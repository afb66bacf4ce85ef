"""libc against a small kernel: results, errors, interleaving, fork."""

import errno
import inspect
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from emulation import WAIT_S

from agentix import libc
from agentix.libc import connection
from agentix_syscalls import calls, signals, spawn, wire
from agentix_syscalls.errors import ERRORS, CallError


def test_each_call_has_its_arguments_accepted_by_the_table(kernel, tmp_path):
    script = tmp_path / "child.py"
    script.write_text("pass")
    answers = {
        libc.SYS_OPEN: 3, libc.SYS_READ: b"x", libc.SYS_WRITE: 1, libc.SYS_SEEK: 0,
        libc.SYS_READDIR: [[b"a", 0o100644, 9]],
        libc.SYS_STAT: [0o100644, 9, 1, 70000, 0, 5, 8, 1_500_000_000, 2, 3],
        libc.SYS_SPAWN: 6, libc.SYS_GETPID: [5, 2],
        libc.SYS_WAIT: [6, 0, None, "exit"], libc.SYS_SIGPROCMASK: 0b101, libc.SYS_SIGWAIT: [5, 1, "why"],
        libc.SYS_CHECKPOLICY: [False, "enforce", "rule", "no"],
        libc.SYS_GETPOLICY: ["strict", [["allow a", "f", 3]], 2],
        libc.SYS_RUSAGE: [1, 2, 3, 4, 5, 6], libc.SYS_SYSINFO: {"version": "0"}, libc.SYS_EXEC: {"status": 0},
        libc.SYS_SIGACTION: 0, libc.SYS_GRANT: 7, libc.SYS_REVOKE: [[6, 7]],
        libc.SYS_CAPS: [[7, "capability://file?action=read", "f:3", 0, None, None]],
    }
    for call in calls.CALLS[1:]:
        def answer(*args, call=call):
            call.parse(args)
            return answers.get(call.number)
        kernel.on(call.number, answer)
    fd = libc.open("a", libc.O_RDWR | libc.O_CREAT)
    assert (fd, libc.read(fd, 10), libc.pread(fd, 10, 0)) == (3, b"x", b"x")
    assert (libc.write(fd, b"x"), libc.pwrite(fd, memoryview(b"x"), 4), libc.lseek(fd, 0)) == (1, 1, 0)
    libc.fsync(fd)
    libc.close(fd)
    found = libc.stat("a")
    assert (stat.S_ISREG(found.st_mode), found.st_size, found.st_atime, found.st_mtime_ns) == (True, 5, 1.5, 2)
    assert libc.listdir() == ["a"]
    assert libc.scandir(b"/")[0].inode == 9
    for change in (libc.mkdir, libc.rmdir, libc.unlink):
        change("d")
    libc.rename("a", "b", libc.RENAME_NOREPLACE)
    libc.truncate("b", 0)
    assert libc.spawn(script, ["1"], name="kid", timeout=3, memory=1 << 30, deny=["OPEN:/state"], env={"A": "b"}) == 6
    assert kernel.calls(libc.SYS_SPAWN)[0][2]["source"] == b"pass"
    assert libc.spawn(module="json.tool") == libc.spawn(exec="/bin/true", args=["x"]) == 6
    assert libc.wait() == libc.waitpid(6, libc.WNOHANG, 1) == libc.Ended(6, 0, None, "exit")
    assert (libc.getpid(), libc.getppid()) == (5, 2)
    libc.kill(5, libc.SIGTERM)
    libc.kill(5, "usr1")
    assert libc.sigprocmask(libc.SIG_BLOCK, ["TERM"]) == {libc.SIGSTOP, libc.SIGINT}
    assert libc.sigwait([libc.SIGTERM]) is libc.SIGTERM
    assert libc.sigtimedwait([libc.SIGTERM], 0.5) == (libc.SIGTERM, libc.SigInfo(1, "why"))
    assert libc.checkpolicy("WRITE", "state/x").rule == "rule"
    assert libc.getpolicy().rules == (("allow a", "f", 3),)
    assert (libc.grant(1, 6), libc.revoke(6, 7), libc.caps(6)[0].source) == (7, [(6, 7)], "f:3")
    assert (libc.getpolicy().spawn_max, libc.getrusage().denials, libc.sysinfo()["version"]) == (2, 6, "0")
    assert libc.exec_tool("shell.execute", {"command": "true"}, 1.0) == {"status": 0}
    untried = {c.number for c in calls.CALLS if c.support == "full"} - {number for number, _ in kernel.seen}
    assert untried == {libc.SYS_EXIT, libc.SYS_SIGACTION, libc.SYS_CANCEL}, "tried elsewhere"


def test_spawn_knows_every_option_that_an_agent_may_give():
    words = {"memory_bytes": "memory", "timeout_s": "timeout"}
    names = {words.get(option.name, option.name) for option in spawn.OPTIONS if option.agent_may} - {"source"}
    assert names <= set(inspect.signature(libc.spawn).parameters)


def test_spawn_wants_one_thing_to_run():
    with pytest.raises(TypeError, match="one of"):
        libc.spawn("x.py", module="y")


@pytest.mark.parametrize("row", ERRORS, ids=lambda e: e.name)
def test_each_errno_is_its_builtin_and_has_a_reason(kernel, row):
    def fail(*_args):
        raise CallError(row.number, "no", rule="deny-it", remedy="ask")
    kernel.on(libc.SYS_CLOSE, fail)
    with pytest.raises(type(OSError(row.number, ""))) as caught:
        libc.close(3)
    error = caught.value
    assert isinstance(error, libc.Error)
    assert (error.errno, error.strerror) == (row.number, "no")
    assert (error.reason.rule, error.reason.row, error.reason.correlation) == ("deny-it", row, 7)
    assert error.__notes__ == ["rule: deny-it", "remedy: ask"]


def test_a_failed_call_keeps_its_connection(kernel):
    kernel.on(libc.SYS_CLOSE, None)
    for _ in range(20):
        libc.close(1)
    assert kernel.accepted == 1


def test_threads_do_not_mix_their_frames(kernel):
    gate = threading.Barrier(8)

    def echo(fd, count, _offset=-1):
        if count == 0:
            gate.wait(10)
        return b"%d:%d" % (fd, count)
    kernel.on(libc.SYS_READ, echo)

    def work(fd):
        return all(libc.read(fd, count) == b"%d:%d" % (fd, count) for count in range(50))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert kernel.accepted == 8


def test_large_data_both_ways(kernel):
    kernel.on(libc.SYS_READ, lambda _fd, count: b"r" * count)
    kernel.on(libc.SYS_WRITE, lambda _fd, data: len(data))
    assert len(libc.read(1, 5 << 20)) == libc.READ_MAX_BYTES
    written = libc.write(1, b"w" * (3 << 20))
    assert 1_000_000 < written < wire.BODY_MAX_BYTES


def test_arguments_over_the_cap_are_refused_here(kernel):
    with pytest.raises(OSError, match="over") as caught:
        libc.syscall(libc.SYS_WRITE, 1, b"x" * wire.BODY_MAX_BYTES)
    assert caught.value.errno == errno.EMSGSIZE
    assert kernel.seen == []


def test_arguments_without_a_form_on_the_wire(kernel):
    with pytest.raises(TypeError):
        libc.syscall(libc.SYS_CLOSE, object())
    kernel.on(libc.SYS_CLOSE, None)
    libc.close(1)


def test_a_negative_offset_is_not_the_current_one(kernel):
    with pytest.raises(OSError, match="before the start"):
        libc.pread(1, 1, -1)


def test_without_a_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTIX_SOCKET", str(tmp_path / "none.sock"))
    with pytest.raises(FileNotFoundError, match="no Agentix kernel answers at"):
        libc.getpid()


def test_a_kernel_that_refuses_the_version(kernel):
    def refuse(*_args):
        raise CallError(errno.EPROTO, "speaks version 2 only")
    kernel.on(libc.SYS_HELLO, refuse)
    with pytest.raises(libc.Error, match="version 2"):
        libc.getpid()
    kernel.closed.get(timeout=WAIT_S)


def test_a_kernel_that_goes_away(kernel):
    def close_all(_fd):
        for made in kernel._connections:
            made.shutdown(socket.SHUT_RDWR)
    kernel.on(libc.SYS_CLOSE, close_all)
    with pytest.raises(ConnectionResetError, match="closed the connection"):
        libc.close(1)
    assert connection._free == []


def test_a_forked_child_has_connections_of_its_own(kernel):
    kernel.on(libc.SYS_GETPID, [5, 2])
    libc.getpid()
    inherited = connection._free[0]._socket.fileno()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.fstat(inherited)
        except OSError:
            status = 0 if libc.getpid() == 5 and len(connection._open) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert libc.getpid() == 5
    assert kernel.accepted == 2


@pytest.mark.parametrize("call", ["exit", "_exit"])
def test_exit(kernel, call):
    kernel.on(libc.SYS_EXIT, None)
    code = f"import sys; from agentix import libc; print('flushed', end=''); libc.{call}(3)"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode, ended.stdout) == (3, "flushed" if call == "exit" else "")
    assert kernel.calls(libc.SYS_EXIT) == [(3,)]


class FakeFile:
    """One file behind OPEN, READ, WRITE, SEEK and CLOSE."""

    def __init__(self, kernel, data=b""):
        self.data = bytearray(data)
        self.at = 0
        for number, answer in ((libc.SYS_OPEN, self.open), (libc.SYS_READ, self.read), (libc.SYS_WRITE, self.write),
                               (libc.SYS_SEEK, self.seek), (libc.SYS_CLOSE, None)):
            kernel.on(number, answer)

    def open(self, _path, flags, _mode):
        if flags & libc.O_TRUNC:
            self.data.clear()
        self.at = len(self.data) if flags & libc.O_APPEND else 0
        return 4

    def read(self, _fd, count):
        data = bytes(self.data[self.at:self.at + count])
        self.at += len(data)
        return data

    def write(self, _fd, data):
        self.data[self.at:] = data
        self.at += len(data)
        return len(data)

    def seek(self, _fd, offset, whence):
        self.at = offset + (0, self.at, len(self.data))[whence]
        return self.at


def test_openfile(kernel):
    file = FakeFile(kernel, b"old")
    with libc.openfile("x", "w") as out:
        out.write("one\ntwé\n")
    with libc.openfile("x", "ab") as out:
        out.write(b"three" * 300_000)
    with libc.openfile("x") as text:
        assert [next(text), next(text)] == ["one\n", "twé\n"]
    with libc.openfile("x", "rb") as raw:
        raw.seek(4)
        assert raw.read(4) == "twé".encode()
        assert len(raw.read()) == len(file.data) - 8
    assert len(kernel.calls(libc.SYS_CLOSE)) == 4
    with pytest.raises(ValueError, match="mode"):
        libc.openfile("x", "rw")


def test_numbers_are_those_of_the_tables():
    assert {name: getattr(libc, name) for name in dir(libc) if name.startswith("SYS_")} == {
        f"SYS_{call.name}": call.number for call in calls.CALLS}
    assert {s.name: s.value for s in libc.Signals} == {s.name: s.number for s in signals.SIGNALS}
    assert signals.DOORBELL == libc.DOORBELL == signal.SIGRTMIN + 1


def test_import_costs_little():
    code = "import sys; from agentix import libc; print('attr' in sys.modules, 'attrs' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False False\n"
