"""Ways to keep what was allowed once, and to come by more of it. Its text goes before
probe.py's, in an agent's script.
"""
# ruff: noqa: F821 - what is not defined here is probe.py's

import errno
import mmap
import os
import socket

from agentix_syscalls import wire

HOLD = {}


def hold():
    """Get hold of what is allowed still, in every way there is; then wait until it is not."""
    os.chmod("/agent/self/state/held", 0o755)
    HOLD.update(
        fd=os.open(HELD, RW), append=os.open(HELD, WO | os.O_APPEND), place=os.open(HELD, os.O_PATH),
        folder=os.open(ME + "state/held", RO | os.O_DIRECTORY), alias=None, names=os.scandir(ME + "state/held"),
        handle=libc.open("state/held/secret", RW), connection=own_connection())
    HOLD["copy"] = os.dup(HOLD["fd"])
    HOLD["pages"] = mmap.mmap(HOLD["fd"], 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    HOLD["private"] = mmap.mmap(HOLD["fd"], 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
    HOLD["seen"] = HOLD["pages"][0] + HOLD["private"][0]
    HOLD["far"] = mmap.mmap(os.open(ME + "state/held/large", RW), 1 << 20, mmap.MAP_SHARED)
    write(ME + "state/held/unnamed", data=b"unnamed")
    HOLD["unnamed"] = os.open(ME + "state/held/unnamed", RW)
    os.unlink(ME + "state/held/unnamed")
    os.chdir(ME + "state/held")
    HOLD["messages"] = socket.socketpair()
    socket.send_fds(HOLD["messages"][0], [b"x"], [HOLD["fd"]])
    HOLD["child"] = socket.socketpair()
    if os.fork() == 0:
        HOLD["child"][1].recv(1)
        HOLD["child"][1].sendall(answer(lambda: os.pread(HOLD["fd"], 100, 0)).encode())
        os._exit(0)
    HOLD["connection"].sendall(frame(27, b"\x92\x02\xc0"))
    print("held", flush=True)
    os.read(0, 1)


def by_child():
    HOLD["child"][0].sendall(b"x")
    return HOLD["child"][0].recv(1000).decode()


def by_message():
    _, (fd,), _, _ = socket.recv_fds(HOLD["messages"][1], 1, 1)
    return os.pread(fd, 100, 0)


def spliced():
    reader, writer = os.pipe()
    os.splice(HOLD["fd"], writer, 100, offset_src=0)
    return os.read(reader, 100)


def sent():
    one, two = socket.socketpair()
    os.sendfile(one.fileno(), HOLD["fd"], 0, 100)
    return two.recv(100)


def mapped_again():
    return mmap.mmap(HOLD["copy"], 4096, mmap.MAP_SHARED, mmap.PROT_READ)[:40]


def regranted(wanted, act):
    """What comes of it while one more is held."""
    handle = libc.grant(1, libc.getpid(), wanted)
    try:
        return act()
    finally:
        libc.revoke(libc.getpid(), handle)


def multiplied(most):
    """So many of one, asked for in one breath and given back likewise; the first thing that is said against it."""
    me = libc.getpid()
    held = [row.handle for row in libc.caps()]
    with own_connection() as sock:
        sock.sendall(b"".join(wire.request(50, 5, (2, me, None)) for _ in range(most)))
        answers = [reply(sock) for _ in range(most)]
        made = [row.handle for row in libc.caps() if row.handle not in held]
        sock.sendall(b"".join(wire.request(51, 5, (me, handle)) for handle in made))
        assert {reply(sock) for _ in made} == {"answered"}
    return " ".join(sorted(set(answers) - {"answered"}))


def chained(most):
    """Each of the one before; the first takes all of them along."""
    first = last = libc.grant(2, libc.getpid())
    try:
        for _ in range(most):
            last = libc.grant(last, libc.getpid())
    finally:
        libc.revoke(libc.getpid(), first)


def families():
    """Copies of the right to have four children, of which one is there: how many more, and what the next is told."""
    copies = [libc.grant(5, libc.getpid()) for _ in range(3)]
    made = 0
    try:
        while True:
            libc.waitpid(libc.spawn(exec="/bin/true", name=f"kid-of-many-{made}"), timeout=60)
            made += 1
    except OSError as error:
        return f"{made} {errno.errorcode[error.errno]}"
    finally:
        for handle in copies:
            libc.revoke(libc.getpid(), handle)
