"""One suite for every store: a folder of the tree over it behaves the same."""

import errno
import os
from pathlib import Path

import pytest

from agentix_vfs import Tree, Who

from .conftest import refused

pytestmark = pytest.mark.parametrize("folder", [b"state", b"mem/working"])
"""state lies on a host folder or in RAM (fixture tree), mem/working always in RAM."""

RW_NEW = os.O_RDWR | os.O_CREAT


def put(tree: Tree, who: Who, path: bytes, data: bytes = b"x") -> None:
    handle = tree.open(who, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    handle.write(data, 0)
    handle.close()


def get(tree: Tree, who: Who, path: bytes) -> bytes:
    handle = tree.open(who, path, os.O_RDONLY)
    data = handle.read(1 << 20, 0)
    handle.close()
    return data


def names(tree: Tree, who: Who, path: bytes) -> list[bytes]:
    return sorted(name for name, _, _ in tree.readdir(who, path))


def test_write_read_at_offsets(tree: Tree, me: Who, folder: bytes) -> None:
    handle = tree.open(me, folder + b"/f", RW_NEW)
    assert handle.write(b"hello", 0) == 5
    assert handle.write(b"WORLD", 3) == 5
    assert handle.read(100, 0) == b"helWORLD"
    assert handle.read(2, 3) == b"WO"
    assert handle.read(10, 8) == b""
    assert handle.read(10, 10**9) == b""
    assert handle.size == 8
    handle.sync()
    handle.close()
    handle.close()
    with refused(errno.EBADF, "/agent/7/"):
        handle.read(1, 0)
    with refused(errno.EBADF):
        handle.write(b"", 0)


def test_gap_reads_as_zeros_and_an_empty_write_makes_none(tree: Tree, me: Who, folder: bytes) -> None:
    handle = tree.open(me, folder + b"/f", RW_NEW)
    handle.write(b"", 100)
    assert handle.size == 0
    handle.write(b"z", 5)
    assert handle.read(10, 0) == b"\0\0\0\0\0z"
    handle.truncate(2)
    handle.truncate(4)
    assert handle.read(10, 0) == b"\0\0\0\0"
    handle.close()


def test_append_ignores_offset(tree: Tree, me: Who, folder: bytes) -> None:
    put(tree, me, folder + b"/f", b"one")
    handle = tree.open(me, folder + b"/f", os.O_WRONLY | os.O_APPEND)
    handle.write(b"two", 0)
    handle.close()
    handle = tree.open(me, folder + b"/f", os.O_RDWR)
    handle.write(b"three", 1, append=True)
    assert handle.read(99, 0) == b"onetwothree"
    handle.close()


def test_open_flags(tree: Tree, me: Who, folder: bytes) -> None:
    path = folder + b"/f"
    with refused(errno.ENOENT, "state/f|working/f"):
        tree.open(me, path, os.O_RDONLY)
    tree.open(me, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY).write(b"abc", 0)
    with refused(errno.EEXIST):
        tree.open(me, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with refused(errno.ENOTDIR):
        tree.open(me, path, os.O_DIRECTORY)
    with refused(errno.ENOTDIR):
        tree.open(me, path + b"/", os.O_RDONLY)
    with refused(errno.EISDIR):
        tree.open(me, folder, os.O_WRONLY)
    with refused(errno.EINVAL):
        tree.open(me, path, os.O_TMPFILE | os.O_RDWR)
    with refused(errno.EBADF):
        tree.open(me, path, os.O_WRONLY).read(1, 0)
    with refused(errno.EBADF):
        tree.open(me, path, os.O_RDONLY).write(b"", 0)
    with refused(errno.EISDIR):
        tree.open(me, folder, os.O_RDONLY).read(1, 0)
    tree.open(me, path, os.O_RDWR | os.O_TRUNC).close()
    assert tree.stat(me, path).size == 0


def test_names(tree: Tree, me: Who, folder: bytes) -> None:
    tree.mkdir(me, folder + b"/d")
    put(tree, me, folder + b"/d/a", b"a")
    put(tree, me, folder + b"/d/b", b"b")
    assert names(tree, me, folder + b"/d") == [b"a", b"b"]
    assert tree.stat(me, folder).nlink == 3
    with refused(errno.EEXIST):
        tree.mkdir(me, folder + b"/d")
    with refused(errno.ENOTEMPTY):
        tree.rmdir(me, folder + b"/d")
    with refused(errno.EISDIR):
        tree.unlink(me, folder + b"/d")
    with refused(errno.ENOTDIR):
        tree.rmdir(me, folder + b"/d/a")
    tree.rename(me, folder + b"/d/a", folder + b"/d/b")
    assert get(tree, me, folder + b"/d/b") == b"a"
    tree.unlink(me, folder + b"/d/b")
    tree.rmdir(me, folder + b"/d")
    assert names(tree, me, folder) == []
    assert tree.stat(me, folder).nlink == 2


def test_rename_flags(tree: Tree, me: Who, folder: bytes) -> None:
    put(tree, me, folder + b"/a", b"a")
    put(tree, me, folder + b"/b", b"b")
    tree.mkdir(me, folder + b"/d")
    with refused(errno.EEXIST):
        tree.rename(me, folder + b"/a", folder + b"/b", 1)
    with refused(errno.EINVAL):
        tree.rename(me, folder + b"/a", folder + b"/b", 3)
    with refused(errno.ENOENT):
        tree.rename(me, folder + b"/a", folder + b"/none", 2)
    with refused(errno.EISDIR):
        tree.rename(me, folder + b"/a", folder + b"/d")
    with refused(errno.ENOTDIR):
        tree.rename(me, folder + b"/d", folder + b"/a")
    with refused(errno.EINVAL):
        tree.rename(me, folder + b"/d", folder + b"/d/e")
    with refused(errno.EXDEV):
        tree.rename(me, folder + b"/a", (b"mem/working" if folder == b"state" else b"state") + b"/a")
    tree.rename(me, folder + b"/a", folder + b"/b", 2)
    assert (get(tree, me, folder + b"/a"), get(tree, me, folder + b"/b")) == (b"b", b"a")
    tree.rename(me, folder + b"/a", folder + b"/d", 2)
    assert get(tree, me, folder + b"/d") == b"b"
    tree.rename(me, folder + b"/b", folder + b"/a/moved", 1)
    assert get(tree, me, folder + b"/a/moved") == b"a"


def test_unlinked_but_open(tree: Tree, me: Who, folder: bytes) -> None:
    handle = tree.open(me, folder + b"/f", RW_NEW)
    handle.write(b"still", 0)
    put(tree, me, folder + b"/g", b"g")
    tree.rename(me, folder + b"/g", folder + b"/f")
    assert handle.read(9, 0) == b"still"
    handle.write(b" here", 5)
    assert handle.read(99, 0) == b"still here"
    tree.unlink(me, folder + b"/f")
    assert names(tree, me, folder) == []
    handle.close()


def test_hard_links_share_content(tree: Tree, me: Who, folder: bytes) -> None:
    put(tree, me, folder + b"/a", b"one")
    top = tree.root_of(7)
    parent = top.entries[b"state"] if folder == b"state" else top.entries[b"mem"].entries[b"working"]
    tree.inodes.link(parent.entries[b"a"], parent, b"b")
    put(tree, me, folder + b"/b", b"two")
    assert get(tree, me, folder + b"/a") == b"two"
    assert tree.stat(me, folder + b"/a").nlink == 2
    tree.unlink(me, folder + b"/a")
    assert get(tree, me, folder + b"/b") == b"two"
    assert tree.stat(me, folder + b"/b").nlink == 1


def test_names_of_255_bytes(tree: Tree, me: Who, folder: bytes) -> None:
    put(tree, me, folder + b"/" + b"n" * 255)
    put(tree, me, folder + b"/" + bytes(range(128, 255)))
    assert len(names(tree, me, folder)) == 2
    with refused(errno.ENAMETOOLONG):
        put(tree, me, folder + b"/" + b"n" * 256)
    with refused(errno.ENAMETOOLONG):
        tree.rename(me, folder + b"/" + b"n" * 255, folder + b"/" + b"n" * 256)


def test_huge_files_are_refused(tree: Tree, me: Who, folder: bytes) -> None:
    put(tree, me, folder + b"/f")
    with refused(errno.EDQUOT if folder != b"state" else errno.EFBIG):
        tree.truncate(me, folder + b"/f", (1 << 40) if folder != b"state" else (1 << 40) + 1)
    assert tree.stat(me, folder + b"/f").size == 1


def test_times_and_inode_numbers(tree: Tree, me: Who, folder: bytes) -> None:
    put(tree, me, folder + b"/f")
    before = tree.stat(me, folder + b"/f")
    handle = tree.open(me, folder + b"/f", os.O_WRONLY)
    handle.write(b"y", 0)
    after = tree.stat(me, folder + b"/f")
    assert after.mtime_ns > before.mtime_ns
    assert after.ino == before.ino
    tree.unlink(me, folder + b"/f")
    put(tree, me, folder + b"/f")
    assert tree.stat(me, folder + b"/f").ino > before.ino


def test_mode_bits_bind_the_path_door(tree: Tree, me: Who, folder: bytes) -> None:
    other = Who(999, 999, 7)
    put(tree, me, folder + b"/f")
    with refused(errno.EACCES, "permission denied"):
        tree.open(other, folder + b"/f", os.O_RDONLY)
    with refused(errno.EACCES):
        tree.readdir(Who(999, 999, 7), b".")
    tree.mkdir(me, folder + b"/locked", 0o500)
    with refused(errno.EACCES):
        put(tree, me, folder + b"/locked/f")
    assert get(tree, Who(0, 0, 7), folder + b"/f") == b"x"


def test_setuid_bits_are_refused(tree: Tree, me: Who, folder: bytes) -> None:
    with refused(errno.EPERM):
        tree.open(me, folder + b"/f", os.O_CREAT | os.O_WRONLY, 0o4755)
    tree.mkdir(me, folder + b"/d")
    assert tree.stat(me, folder + b"/d").mode & 0o2000, "the group is handed down"


def test_remove_leaves_nothing(tree: Tree, me: Who, folder: bytes, tmp_path: Path) -> None:
    put(tree, me, folder + b"/f", b"data")
    handle = tree.open(me, folder + b"/f", os.O_RDWR)
    orphan = tree.open(me, folder + b"/g", RW_NEW)
    tree.unlink(me, folder + b"/g")
    tree.remove(7)
    handle.close()
    orphan.close()
    with refused(errno.ESRCH):
        tree.stat(me, b".")
    assert not [path for path in tmp_path.rglob("*") if "agents" in path.parts and path.name != "agents"]
    tree.add(7, 61207, "seven", proc={}, policy={})
    assert names(tree, me, folder) == []
