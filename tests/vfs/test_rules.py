"""What binds everybody through the door for system calls: fixed folders, append-only, read-only, quotas, kinds."""

import errno
import os
import stat

import pytest

from agentix_vfs import Growing, Synthetic, Tree, Waiting, Who

from .conftest import AGENT, UID, make_tree, refused
from .test_stores import get, names, put

ROOT = Who(0, 0, AGENT)
FIXED = (b"mem", b"mem/working", b"mem/episodic", b"state", b"policy", b"ipc", b"proc")


@pytest.mark.parametrize("caller", [Who(UID, UID, AGENT), ROOT], ids=["agent", "root"])
@pytest.mark.parametrize("path", FIXED)
def test_fixed_folders(tree: Tree, caller: Who, path: bytes) -> None:
    with refused(errno.EPERM):
        tree.rmdir(caller, path)
    with refused(errno.EPERM):
        tree.rename(caller, path, b"state/stolen")
    tree.mkdir(caller, b"state/mine")
    with refused(errno.EPERM):
        tree.rename(caller, b"state/mine", path)
    with refused(errno.EPERM):
        tree.rename(caller, b"state/mine", path, 2)
    with refused(errno.EPERM):
        tree.mkdir(caller, b"new")


def test_layout(tree: Tree, me: Who) -> None:
    assert names(tree, me, b".") == [b"ipc", b"mem", b"policy", b"proc", b"state"]
    root = tree.stat(me, b".")
    assert (root.uid, stat.S_IMODE(root.mode)) == (UID, 0o2750)
    assert stat.S_IMODE(tree.root.mode) == 0o750
    assert tree.root.entries[b"by-name"].entries[b"seven"].target == b"../7"
    with refused(errno.EEXIST, "has a tree"):
        tree.add(AGENT, UID, "other", proc={}, policy={})
    with refused(errno.EEXIST, "name seven is taken"):
        tree.add(8, UID, "seven", proc={}, policy={})
    with refused(errno.ESRCH):
        tree.root_of(8)


@pytest.mark.parametrize("caller", [Who(UID, UID, AGENT), ROOT], ids=["agent", "root"])
def test_episodic_is_append_only(tree: Tree, caller: Who) -> None:
    path = b"mem/episodic/log"
    new = tree.open(caller, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    new.write(b"one ", 0)
    new.write(b"two ", 0)  # the offset is ignored, the end is what counts
    with refused(errno.EPERM):
        new.truncate(0)
    new.close()
    handle = tree.open(caller, path, os.O_RDWR | os.O_APPEND)
    handle.write(b"three", 0)
    assert handle.read(99, 0) == b"one two three"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND | os.O_TRUNC,
                  os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
        with refused(errno.EPERM, "append-only"):
            tree.open(caller, path, flags)
    for change in (lambda: tree.truncate(caller, path, 0), lambda: tree.truncate(caller, path, 999),
                   lambda: tree.unlink(caller, path), lambda: tree.rename(caller, path, path + b"2")):
        with refused(errno.EPERM):
            change()
    node = handle.node
    for attributes in ({"mode": 0o777}, {"uid": 1}, {"mtime_ns": 0}):
        with refused(errno.EPERM):
            tree.inodes.set_attributes(caller, node, **attributes)
    with refused(errno.EPERM):
        tree.inodes.link(node, node.names[0][0], b"alias")
    tree.mkdir(caller, b"mem/episodic/d")
    with refused(errno.EPERM):
        tree.rmdir(caller, b"mem/episodic/d")
    put(tree, caller, b"state/f")
    with refused(errno.EXDEV):
        tree.rename(caller, b"state/f", path)
    assert get(tree, caller, path) == b"one two three"


@pytest.mark.parametrize("caller", [Who(UID, UID, AGENT), ROOT], ids=["agent", "root"])
def test_read_only_parts(caller: Who) -> None:
    tree = Tree(None)
    tree.add(AGENT, UID, "seven", proc={}, policy={
        "rules": Synthetic(lambda: b"deny\n", write=lambda *_: None, mode=0o644)})
    for part in (b"policy", b"ipc"):
        with refused(errno.EROFS):
            put(tree, caller, part + b"/new")
        with refused(errno.EROFS):
            tree.mkdir(caller, part + b"/new")
    with refused(errno.EROFS):
        tree.unlink(caller, b"policy/rules")
    with refused(errno.EROFS):
        tree.open(caller, b"policy/rules", os.O_WRONLY)
    with refused(errno.EROFS):
        tree.truncate(caller, b"policy/rules", 0)
    with refused(errno.EROFS):
        tree.inodes.set_attributes(caller, tree.root_of(AGENT).entries[b"policy"], mode=0o777)
    assert get(tree, caller, b"policy/rules") == b"deny\n"


def test_proc_names_are_fixed(tree: Tree) -> None:
    for change in (lambda: put(tree, ROOT, b"proc/new"), lambda: tree.unlink(ROOT, b"proc/status"),
                   lambda: tree.rename(ROOT, b"proc/status", b"proc/x")):
        with refused(errno.EPERM, "fixed"):
            change()
    with refused(errno.EACCES, "cannot be written"):
        tree.open(ROOT, b"proc/status", os.O_WRONLY)


def test_synthetic_content_is_fixed_at_open_and_written_whole() -> None:
    seen: list[tuple[Who, bytes]] = []
    counter = iter(range(10))
    tree, me = Tree(None), Who(UID, UID, AGENT)
    tree.add(AGENT, UID, "seven", policy={}, proc={
        "count": Synthetic(lambda: b"%d\n" % next(counter)),
        "signal": Synthetic(write=lambda who, data: seen.append((who, data)), mode=0o200)})
    first, second = (tree.open(me, b"proc/count", os.O_RDONLY) for _ in range(2))
    assert (second.read(9, 0), first.read(9, 0), first.read(9, 0), first.read(9, 1)) == (b"1\n", b"0\n", b"0\n", b"\n")
    assert tree.stat(me, b"proc/count").size == 0
    writer = tree.open(me, b"proc/signal", os.O_WRONLY | os.O_TRUNC)
    assert writer.write(b"TERM\n", 0) == 5
    assert seen == [(me, b"TERM\n")]
    with refused(errno.EACCES):
        tree.open(Who(9, 9, AGENT), b"proc/signal", os.O_WRONLY)


def test_growing_files_have_size_and_moving_times() -> None:
    log = bytearray(b"one\n")
    tree, me = Tree(None), Who(UID, UID, AGENT)
    tree.add(AGENT, UID, "seven", policy={}, proc={
        "log": Growing(lambda: len(log), lambda offset, count: bytes(log[offset:offset + count]))})
    before = tree.stat(me, b"proc/log")
    handle = tree.open(me, b"proc/log", os.O_RDONLY)
    assert (before.size, handle.read(2, 2), handle.size) == (4, b"e\n", 4)
    assert tree.stat(me, b"proc/log").mtime_ns == before.mtime_ns
    log += b"two\n"
    after = tree.stat(me, b"proc/log")
    assert after.size == 8
    assert after.mtime_ns > before.mtime_ns
    assert handle.read(99, 4) == b"two\n"


async def test_waiting_files_wait_once_for_each_open() -> None:
    async def wait() -> bytes:
        return b"event\n"

    tree, me = Tree(None), Who(UID, UID, AGENT)
    tree.add(AGENT, UID, "seven", policy={}, proc={"wait": Waiting(wait)})
    handle = tree.open(me, b"proc/wait", os.O_RDONLY)
    assert handle.blocks
    with refused(errno.EAGAIN):
        handle.read(9, 0)
    await handle.wait()
    assert not handle.blocks
    assert (handle.read(99, 0), handle.read(99, 6)) == (b"event\n", b"")


def test_quota_of_bytes(me: Who) -> None:
    tree = make_tree(None, quota_bytes=1000, quota_inodes=5)
    handle = tree.open(me, b"mem/working/f", os.O_CREAT | os.O_RDWR)
    handle.write(bytes(900), 0)
    with refused(errno.EDQUOT, "quota of 1000 bytes"):
        handle.write(bytes(101), 900)
    with refused(errno.EDQUOT):
        tree.truncate(me, b"mem/working/f", 1 << 40)
    handle.write(bytes(100), 900)
    handle.write(bytes(1000), 0)  # overwriting costs nothing
    tree.unlink(me, b"mem/working/f")
    with refused(errno.EDQUOT):
        put(tree, me, b"mem/working/g")  # still held by the open handle
    assert tree.stat(me, b"mem/working/g").size == 0
    handle.close()
    put(tree, me, b"mem/working/g", bytes(1000))
    put(tree, me, b"mem/working/g", bytes(1000))
    put(tree, me, b"state/f", bytes(2000))


@pytest.mark.parametrize("folder", [b"mem/working", b"state"])
def test_quota_of_names(me: Who, folder: bytes, tmp_path: object) -> None:
    tree = make_tree(str(tmp_path), quota_inodes=3, durable_inodes=3)
    parent = tree.root_of(AGENT).entries[b"state"] if folder == b"state" else \
        tree.root_of(AGENT).entries[b"mem"].entries[b"working"]
    put(tree, me, folder + b"/a")
    tree.mkdir(me, folder + b"/d")
    tree.inodes.link(parent.entries[b"a"], parent, b"b")
    for change in (lambda: put(tree, me, folder + b"/c"), lambda: tree.mkdir(me, folder + b"/c"),
                   lambda: tree.inodes.link(parent.entries[b"a"], parent, b"c")):
        with refused(errno.EDQUOT, "quota of 3 files"):
            change()
    tree.rename(me, folder + b"/a", folder + b"/d/a")
    tree.unlink(me, folder + b"/b")
    put(tree, me, folder + b"/b")
    tree.rename(me, folder + b"/b", folder + b"/d/a")
    put(tree, me, folder + b"/c")
    for path in (b"/c", b"/d/a"):
        tree.unlink(me, folder + path)
    tree.rmdir(me, folder + b"/d")
    for name in (b"/1", b"/2", b"/3"):
        put(tree, me, folder + name)


def test_links_of_a_file_are_bounded(me: Who) -> None:
    tree = make_tree(None)
    put(tree, me, b"state/f")
    parent = tree.root_of(AGENT).entries[b"state"]
    for number in range(1023):
        tree.inodes.link(parent.entries[b"f"], parent, b"%d" % number)
    with refused(errno.EMLINK):
        tree.inodes.link(parent.entries[b"f"], parent, b"more")


def test_kinds(tree: Tree, me: Who) -> None:
    parent = tree.root_of(AGENT).entries[b"state"]
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        with refused(errno.EPERM, "device nodes"):
            tree.inodes.make(ROOT, parent, b"dev", kind | 0o666)
    for name, kind in ((b"fifo", stat.S_IFIFO), (b"socket", stat.S_IFSOCK)):
        tree.inodes.make(me, parent, name, kind | 0o600)
        with refused(errno.EOPNOTSUPP, "through the mount"):
            tree.open(me, b"state/" + name, os.O_RDONLY)
        with refused(errno.EINVAL):
            tree.truncate(me, b"state/" + name, 0)
        tree.unlink(me, b"state/" + name)


def test_sticky_folders(tree: Tree, me: Who) -> None:
    tree.mkdir(ROOT, b"state/shared", 0o1777)
    put(tree, ROOT, b"state/shared/roots")
    put(tree, me, b"state/shared/mine")
    with refused(errno.EPERM, "sticky"):
        tree.unlink(me, b"state/shared/roots")
    with refused(errno.EPERM, "sticky"):
        tree.rename(me, b"state/shared/mine", b"state/shared/roots")
    tree.unlink(me, b"state/shared/mine")
