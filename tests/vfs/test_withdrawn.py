"""Open files that may not be used any more: refused from then on, whatever Linux has of them already."""

import errno
import json
import os
import subprocess
import sys
from functools import partial

import trio

from agentix_syscalls.errors import CallError
from agentix_vfs import Who

from .conftest import AGENT, UID, Mount
from .test_stores import get, put

ME = Who(UID, UID, AGENT)
READER = """
import errno, json, mmap, os, signal, sys
def tried(act, *args):
    try:
        found = act(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return found.decode() if isinstance(found, bytes) else found
def touched():
    "What the mapping says, asked by a child: it may be its end."
    out, end = os.pipe()
    if os.fork() == 0:
        os.write(end, shared[0:4])
        os._exit(0)
    os.close(end)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    return os.read(out, 4).decode() if status == 0 else signal.Signals(-status).name
fd, writer = os.open("state/f", os.O_RDONLY), os.open("state/f", os.O_WRONLY)
folder = os.open("state", os.O_RDONLY)
shared = mmap.mmap(fd, 4, mmap.MAP_SHARED, mmap.PROT_READ)
for _ in sys.stdin:
    print(json.dumps([tried(os.pread, fd, 4, 0), tried(os.pwrite, writer, b"mine", 0), tried(os.listdir, folder),
                      touched()]), flush=True)
"""


class Child:
    """A process of the agent's that uses what it has opened whenever it is told to."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER], cwd=folder, user=UID, group=UID, extra_groups=[], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def use(self):
        self.process.stdin.write("now\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def why():
    return CallError(errno.EPERM, "no more")


async def try_all(m, use):
    assert await use() == ["text", 4, ["f"], "mine"]
    assert await use() == ["mine", 4, ["f"], "mine"]
    handles = m.tree.inodes.opened(AGENT, UID)
    assert len(handles) == 3
    for handle in handles:
        if handle.readable:
            handle.withdraw(why, reading=True)
    m.tree.barred([handle.node for handle in handles if handle.node.barred])
    assert await use() == ["EPERM", 4, "EPERM", "SIGBUS"]
    host = m.path / str(AGENT) / "state/f"
    assert await trio.to_thread.run_sync(host.read_bytes) == b"mine"
    assert await use() == ["EPERM", 4, "EPERM", "SIGBUS"], "what others read leaves no pages for it"
    for handle in handles:
        if handle.writable:
            handle.withdraw(why, reading=False)
    put(m.tree, ME, b"state/f", b"newer")
    assert await use() == ["EPERM", "EPERM", "EPERM", "SIGBUS"]
    assert get(m.tree, ME, b"state/f") == b"newer"


async def test_what_is_withdrawn_is_refused_pages_and_mappings_included(mount: Mount) -> None:
    m = await mount()
    put(m.tree, ME, b"state/f", b"text")
    child = await trio.to_thread.run_sync(partial(Child, m.path / str(AGENT)))
    try:
        await try_all(m, partial(trio.to_thread.run_sync, child.use))
    finally:
        await trio.to_thread.run_sync(child.end)
    assert m.tree.inodes.opened(AGENT, UID) == []
    assert m.tree.inodes.lookup(m.tree.root_of(AGENT).entries[b"state"], b"f").barred == 0


async def test_what_operators_have_open_is_not_the_agents(mount: Mount) -> None:
    m = await mount()
    put(m.tree, ME, b"state/f", b"text")
    handles = [m.tree.open(who, b"state/f", os.O_RDONLY) for who in (ME, Who(0, 0, AGENT), Who(UID + 1, 0, AGENT))
               if who.uid in {0, UID}]
    assert m.tree.inodes.opened(AGENT, UID) == handles[:1]
    for handle in handles:
        handle.close()
    assert m.tree.inodes.opened(AGENT, UID) == m.tree.inodes.opened(AGENT, 0) == []
