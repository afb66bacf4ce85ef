"""What is durable comes back after the end of the kernel; what agents plant never leads the daemon astray."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agentix_vfs import Tree, Who
from agentix_vfs.stores.host import erase_folder

from .conftest import AGENT, UID, make_tree, refused
from .test_stores import get, names, put


def state(tree: Tree):
    return tree.root_of(AGENT).entries[b"state"]


def test_reload_brings_everything_back(tmp_path: Path, me: Who) -> None:
    tree = make_tree(str(tmp_path))
    put(tree, me, b"state/a", b"content")
    tree.mkdir(me, b"state/d", 0o700)
    put(tree, me, b"state/d/\xff\xfe", b"odd name")
    put(tree, me, b"mem/episodic/log", b"what happened")
    put(tree, me, b"mem/working/x", b"gone")
    tree.inodes.link(state(tree).entries[b"a"], state(tree).entries[b"d"], b"same")
    tree.inodes.make(me, state(tree), b"link", stat.S_IFLNK | 0o777, b"d/same")
    tree.inodes.make(me, state(tree), b"fifo", stat.S_IFIFO | 0o600)
    tree.inodes.set_attributes(me, state(tree).entries[b"a"], mode=0o640, gid=77, atime_ns=10**18, mtime_ns=11 * 10**17)
    written = tree.stat(me, b"state/d/\xff\xfe").mtime_ns
    usage = tree.inodes.lookup(tree.root, b"7").entries[b"state"].mount.store.quota.inodes_used

    again = make_tree(str(tmp_path))  # the old one is simply left: nothing is written at the end
    assert names(again, me, b"state") == [b"a", b"d", b"fifo", b"link"]
    assert get(again, me, b"state/link") == b"content"
    assert get(again, me, b"state/d/\xff\xfe") == b"odd name"
    assert get(again, me, b"mem/episodic/log") == b"what happened"
    assert names(again, me, b"mem/working") == []
    a = again.stat(me, b"state/a")
    assert (stat.S_IMODE(a.mode), a.uid, a.gid, a.nlink, a.size) == (0o640, UID, 77, 2, 7)
    assert (a.atime_ns, a.mtime_ns) == (10**18, 11 * 10**17)
    assert a.ino == again.stat(me, b"state/d/same").ino
    assert stat.S_IMODE(again.stat(me, b"state/d").mode) == 0o2700
    assert stat.S_ISFIFO(again.stat(me, b"state/fifo").mode)
    assert again.stat(me, b"state/d/\xff\xfe").mtime_ns == written
    assert state(again).mount.store.quota.inodes_used == usage
    with refused(errno.EPERM):
        again.unlink(me, b"mem/episodic/log")


def test_orphans_are_swept(tmp_path: Path, me: Who) -> None:
    tree = make_tree(str(tmp_path))
    handle = tree.open(me, b"state/f", os.O_CREAT | os.O_RDWR)
    tree.unlink(me, b"state/f")
    orphans = tmp_path / "agents/7/state.orphans"
    assert len(list(orphans.iterdir())) == 1
    handle.close()
    assert list(orphans.iterdir()) == []
    tree.open(me, b"state/g", os.O_CREAT | os.O_RDWR)
    tree.unlink(me, b"state/g")
    again = make_tree(str(tmp_path))
    assert names(again, me, b"state") == []
    assert list(orphans.iterdir()) == []


def test_the_host_folder_is_roots_alone(tmp_path: Path, me: Who) -> None:
    tree = make_tree(str(tmp_path / "durable"))
    for folder in (b"state", b"mem/episodic"):
        tree.mkdir(me, folder + b"/made")  # the first thing in it makes the host's folder
    for part in ("agents", "agents/7", "agents/7/state", "agents/7/episodic"):
        info = (tmp_path / "durable" / part).stat()
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o700), part


WRITER = r"""import os, signal, sys
from agentix_vfs import Tree, Who
tree = Tree(sys.argv[1])
tree.add(7, 61207, "seven", proc={}, policy={})
handle = tree.open(Who(61207, 61207, 7), b"state/f", os.O_CREAT | os.O_WRONLY)
for number in range(100):
    handle.write(b"%03d\n" % number, 4 * number)
print("written", flush=True)
signal.pause()"""


def test_killed_daemon_loses_nothing_written(tmp_path: Path, me: Who) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    with writer:
        try:
            assert writer.stdout.readline() == b"written\n"
        finally:
            writer.kill()
    assert get(make_tree(str(tmp_path)), me, b"state/f") == b"".join(b"%03d\n" % number for number in range(100))


def test_few_descriptors_whatever_is_open(tmp_path: Path, me: Who) -> None:
    tree = make_tree(str(tmp_path))
    tree._descriptors.limit = 8
    before = len(os.listdir("/proc/self/fd"))
    handles = []
    for number in range(60):
        path = b"state/" + b"/".join(b"%d" % level for level in range(number % 12))
        for depth in range(1, path.count(b"/") + 1):
            part = b"/".join(path.split(b"/")[:depth + 1])
            if part != b"state/" and not _exists(tree, me, part):
                tree.mkdir(me, part)
        handles.append(tree.open(me, path.rstrip(b"/") + b"/f%d" % number, os.O_CREAT | os.O_RDWR))
        handles[-1].write(b"%d" % number, 0)
        if number % 3 == 0:
            tree.unlink(me, path.rstrip(b"/") + b"/f%d" % number)
    for number, handle in enumerate(handles):
        assert handle.read(99, 0) == b"%d" % number
        handle.write(b"!", 9)
    assert len(os.listdir("/proc/self/fd")) - before <= 8
    for handle in handles:
        handle.close()


def _exists(tree: Tree, me: Who, path: bytes) -> bool:
    try:
        tree.stat(me, path)
    except Exception:
        return False
    return True


def test_planted_symlinks_are_never_followed_on_the_host(tmp_path: Path, me: Who) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    tree = make_tree(str(tmp_path / "durable"))
    put(tree, me, b"state/f", b"mine")
    tree.mkdir(me, b"state/d")
    put(tree, me, b"state/d/secret", b"mine")
    host = tmp_path / "durable/agents/7/state"
    # As if the host's files had been swapped behind the tree: it must fail, not follow.
    (host / "f").unlink()
    (host / "f").symlink_to(secret)
    (host / "d/secret").unlink()
    (host / "d").rmdir()
    (host / "d").symlink_to(tmp_path)
    for node in (state(tree).entries[b"f"], state(tree).entries[b"d"], state(tree).entries[b"d"].entries[b"secret"]):
        tree._descriptors.drop(node)
    for path in (b"state/f", b"state/d/secret"):
        with pytest.raises(Exception, match="/agent/7/state") as caught:
            get(tree, me, path)
        assert caught.value.number in {errno.ELOOP, errno.ENOTDIR}
        with pytest.raises(Exception, match="/agent/7/state"):
            tree.truncate(me, path, 0)
    assert secret.read_text() == "the host's"
    tree.remove(AGENT)
    assert secret.read_text() == "the host's"


def test_deep_trees_are_erased(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    folder = os.open(deep, os.O_RDONLY)
    for level in range(500):
        os.mkdir("n" * 200 if level % 2 else "rubbish.0", dir_fd=folder)
        below = os.open("n" * 200 if level % 2 else "rubbish.0", os.O_RDONLY, dir_fd=folder)
        with open(os.open("rubbish.1", os.O_CREAT | os.O_WRONLY, dir_fd=folder), "w") as file:
            file.write("in the way")
        os.close(folder)
        folder = below
    os.close(folder)
    erase_folder(os.fsencode(tmp_path), b"deep")
    assert not deep.exists()
    erase_folder(os.fsencode(tmp_path), b"deep")
