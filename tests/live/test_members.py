"""What a member of the kernel's group tries: root's files by root's own hand, and the kernel's loop by descriptors."""

import contextlib
import os
import socket
import subprocess
import tempfile

import pytest

from agentix_syscalls import control, wire

MEMBER = {"user": 4242, "group": 4242, "extra_groups": [65534]}
SLEEP = ("--", "/bin/sleep", "1000")


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\n") as kernel:
        os.chmod(kernel.prefix, 0o755)
        yield kernel


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield path


@contextlib.contextmanager
def as_member():
    os.setegid(65534)
    os.seteuid(4242)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def connected(live):
    """A connection to the control socket, greeted."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(f"{live.prefix}/run/control.sock")
    ask(sock, "hello", wire.PROTOCOL)
    return sock


def send(sock, name, *args, fds=()):
    frame = wire.request(control.BY_NAME[name].number, 1, list(args))
    if fds:
        socket.send_fds(sock, [frame], fds)
    else:
        sock.sendall(frame)


def ask(sock, name, *args, fds=()):
    """What the kernel answers, as text."""
    send(sock, name, *args, fds=fds)
    return repr(wire.decode(sock.recv(65536)[wire.HEADER_BYTES:]))


def descriptors(live):
    return len(os.listdir(f"/proc/{live.process.pid}/fd"))


def test_roots_restart_shows_an_agent_nothing_that_its_owner_did_not_bind(live, folder):
    os.mkdir(f"{folder}/secret", 0o700)
    os.mkdir(f"{folder}/home")
    os.mkdir(f"{folder}/home/data")
    for path in ("home", "home/data"):
        os.chown(f"{folder}/{path}", 4242, 4242)
    agent = int(live.ctl("spawn", "--bind", f"{folder}/home/data:/data", *SLEEP, check=0, **MEMBER).stdout)
    live.ctl("restart", agent, check=0)
    assert live.agent(agent)["life"] == 2
    swap = f"mv {folder}/home/data {folder}/home/old && ln -s {folder}/secret {folder}/home/data"
    subprocess.run(["sh", "-c", swap], check=True, user=4242, group=4242)
    refused = live.ctl("restart", agent, check=1)
    assert f"{folder}/home/data is not what uid 4242 had bound; they may restart it themselves" in refused.stderr
    assert live.agent(agent)["life"] == 2
    live.ctl("rm", "-f", agent, check=0)


def test_a_path_that_was_told_wrong_at_the_spawn_leads_root_nowhere(live, folder):
    """The path of a bind is text of whoever asks; what came was their own folder."""
    os.chown(folder, 4242, 4242)
    with tempfile.TemporaryDirectory() as secret:
        fd = os.open(folder, os.O_PATH)
        with as_member():
            sock = connected(live)
        with sock:
            options = {"binds": [["/data", True, secret]], "name": "liar"}
            ask(sock, "spawn", "exec", ["/bin/sleep", "1000"], options, fds=[fd])
        os.close(fd)
        assert "is not what uid 4242 had bound" in live.ctl("restart", "liar", check=1).stderr
    live.ctl("rm", "-f", "liar", check=0)


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_RDONLY], ids=["path", "open"])
def test_descriptors_of_our_own_mount_do_not_make_the_kernel_wait_for_itself(live, flags):
    agent = live.spawn(*SLEEP)
    with connected(live) as sock:
        fd = os.open(live.tree(agent, "proc/status"), flags)
        told = ask(sock, "spawn", "exec", ["/bin/true"], {"binds": [["/shown", False, "status"]]}, fds=[fd])
        os.close(fd)
    assert ("not of O_PATH" in told) == (flags == os.O_RDONLY)
    with connected(live) as sock:
        fd = os.open(live.tree(agent, "proc/status"), flags)
        send(sock, "ps", fds=[fd])
        os.close(fd)
    assert live.agent(agent)["state"] == "running"
    live.ctl("rm", "-f", agent, check=0)


def test_a_program_whose_asker_is_gone_before_it_runs_does_not_stay(live):
    agent = live.spawn(*SLEEP)
    live.until(lambda: live.agent(agent)["processes"] == 2)
    before = descriptors(live)
    for _ in range(5):
        with connected(live) as sock:
            send(sock, "execute", agent, ["/bin/sleep", "1000"], {"terminal": [24, 80]})
    live.until(lambda: len([row for row in live.record(agent, "exec") if row["phase"] == "outcome"]) == 5)
    live.until(lambda: live.agent(agent)["processes"] == 2)
    live.until(lambda: descriptors(live) <= before)
    assert {row["data"]["detail"] for row in live.record(agent, "exec") if row["phase"] == "outcome"} == {
        "who asked went away"}
    live.ctl("rm", "-f", agent, check=0)


def test_who_asks_and_does_not_read_is_cut_off(live):
    """Else each request would hold a piece of a megabyte for as long as they like."""
    agent = live.spawn("--", "sh", "-c", "head -c 2000000 /dev/zero > /agent/self/state/big; echo made; exec sleep 999")
    live.until_logged(agent, "made")
    with connected(live) as sock, connected(live) as honest:
        for _ in range(64):
            try:
                send(sock, "read", agent, b"state/big")
            except OSError:  # cut off already
                break
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(1 << 20):  # which times out where nobody cuts us off
                pass
        assert "pid" in ask(honest, "hello", wire.PROTOCOL)
        for _ in range(256):  # as many as a client of ours asks at once
            send(honest, "hello", wire.PROTOCOL)
        reader = wire.Reader(wire.CONTROL_BODY_MAX_BYTES)
        answered = 0
        while answered < 256:
            reader.feed(honest.recv(65536))
            while reader.next() is not None:
                answered += 1
    live.ctl("rm", "-f", agent, check=0)


def test_one_member_does_not_take_all_descriptors(live):
    with contextlib.ExitStack() as around:
        fd = os.open("/", os.O_PATH)
        around.callback(os.close, fd)
        greedy = [around.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(10)]
        for sock in greedy:
            sock.settimeout(20)
            with as_member():
                sock.connect(f"{live.prefix}/run/control.sock")
            socket.send_fds(sock, [b"\0"], [fd] * 60)
        with contextlib.suppress(ConnectionResetError):  # the last one, as those before it, was cut off
            assert greedy[-1].recv(1) == b""
        live.until(lambda: descriptors(live) < 400)
        live.ctl("ps", check=0, **MEMBER)


@pytest.mark.parametrize("name", ["audit_anchor", "audit_rotate", "audit_rotate_key"])
def test_the_journal_is_roots_to_keep(live, name):
    def there():
        return [sorted(os.listdir(f"{live.prefix}/state/{folder}")) for folder in ("keys", "journal")]
    before = there()
    with as_member(), connected(live) as sock:
        assert "only root may" in ask(sock, name)
    assert there() == before
