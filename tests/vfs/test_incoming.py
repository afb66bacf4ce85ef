"""Files that come in pieces: whole under their name or not there, under the same rules as everything else."""

import errno
import os
import stat
from pathlib import Path

import pytest
import trio
from vfs.conftest import AGENT, Mount, refused

from agentix_vfs import Tree, Who
from agentix_vfs.nodes import shown
from agentix_vfs.tree import make_private
from agentix_vfs.walk import OutsideError

FILE = stat.S_IFREG | 0o640


def receive(tree: Tree, who: Who, path: bytes, *pieces: bytes, mode: int = FILE, target: bytes = b""):
    file = tree.receive(who, path, mode, b".beside", target)
    for piece in pieces:
        file.write(piece)
    return file


def get(tree: Tree, who: Who, path: bytes) -> bytes:
    handle = tree.open(who, path, os.O_RDONLY)
    try:
        return handle.read(1 << 20, 0)
    finally:
        handle.close()


def names(tree: Tree, who: Who, path: bytes) -> list[bytes]:
    return [name for name, _, _ in tree.readdir(who, path)]


@pytest.mark.parametrize("folder", [b"state", b"mem/working"])
def test_it_has_its_name_when_it_is_whole(tree: Tree, me: Who, folder: bytes) -> None:
    receive(tree, me, folder + b"/f", b"old").commit()
    file = receive(tree, me, folder + b"/f", b"new ", b"content")
    assert get(tree, me, folder + b"/f") == b"old"
    file.commit(mtime_ns=5_000_000_000)
    assert get(tree, me, folder + b"/f") == b"new content"
    there = tree.stat(me, folder + b"/f")
    assert (stat.S_IMODE(there.mode), there.uid, there.mtime_ns) == (0o640, me.uid, 5_000_000_000)
    assert names(tree, me, folder) == [b"f"]
    assert tree.held(AGENT) == (11, 1)


def test_what_is_given_up_leaves_nothing(tree: Tree, me: Who) -> None:
    receive(tree, me, b"state/f", b"old").commit()
    receive(tree, me, b"state/f", b"half").abandon()
    assert (names(tree, me, b"state"), get(tree, me, b"state/f")) == ([b"f"], b"old")
    assert tree.held(AGENT) == (3, 1)


def test_links_are_followed_by_files_and_replaced_by_links(tree: Tree, me: Who) -> None:
    receive(tree, me, b"state/link", mode=stat.S_IFLNK | 0o777, target=b"goal").commit()
    receive(tree, me, b"state/link", b"through").commit()
    assert get(tree, me, b"state/goal") == b"through"
    receive(tree, me, b"state/link", mode=stat.S_IFLNK | 0o777, target=b"../../../out").commit()
    assert tree.readlink(me, b"state/link") == b"../../../out"
    with pytest.raises(OutsideError, match="outside of the agent's own tree"):
        receive(tree, me, b"state/link", b"never")
    assert sorted(names(tree, me, b"state")) == [b"goal", b"link"]


def test_the_rules_of_each_part(tree: Tree, me: Who) -> None:
    receive(tree, me, b"mem/episodic/log", b"one").commit()
    with refused(errno.EPERM, "append-only"):
        receive(tree, me, b"mem/episodic/log", b"two")
    assert get(tree, me, b"mem/episodic/log") == b"one"
    with refused(errno.EROFS):
        receive(tree, me, b"policy/effective", b"mine")
    with refused(errno.EACCES):
        receive(tree, me, b"proc/status", b"mine")
    with refused(errno.EPERM):
        receive(tree, Who(0, 0, AGENT), b"proc/status", b"mine")
    with refused(errno.EISDIR):
        receive(tree, me, b"state", b"mine")
    with refused(errno.EISDIR):
        receive(tree, me, b"state/none/", b"mine")
    with refused(errno.EPERM, "setuid"):
        receive(tree, me, b"state/f", mode=stat.S_IFREG | 0o4755)


def test_an_interrupted_copy_to_the_log_stays(tree: Tree, me: Who) -> None:
    receive(tree, me, b"mem/episodic/log", b"half").abandon()
    assert get(tree, me, b"mem/episodic/log") == b"half"


def test_folders_of_others_are_not_written(tree: Tree, me: Who) -> None:
    tree.mkdir(me, b"state/locked", 0o500)
    with refused(errno.EACCES):
        receive(tree, me, b"state/locked/f", b"x")
    assert names(tree, me, b"state/locked") == []


def test_a_quota_holds_both_until_the_new_one_is_whole(tmp_path: Path, me: Who) -> None:
    tree = Tree(str(tmp_path), durable_bytes=100)
    tree.add(AGENT, me.uid, "seven", proc={}, policy={})
    receive(tree, me, b"state/f", b"x" * 60).commit()
    file = receive(tree, me, b"state/f", b"y" * 40)
    with refused(errno.EDQUOT):
        file.write(b"y")
    file.abandon()
    assert tree.held(AGENT) == (60, 1)


def test_what_the_agent_does_to_it_meanwhile(tree: Tree, me: Who) -> None:
    """It sees the file that is on its way, for the tree is its own; it only spoils its own copy."""
    file = receive(tree, me, b"state/f", b"x")
    tree.unlink(me, b"state/.beside")
    file.write(b"y")
    with refused(errno.ESTALE):
        file.commit()
    file.abandon()
    file = receive(tree, me, b"state/f", b"moved")
    tree.rename(me, b"state/.beside", b"state/mine")
    receive(tree, me, b"state/other", b"other").commit()
    file.commit()
    assert (get(tree, me, b"state/f"), sorted(names(tree, me, b"state"))) == (b"moved", [b"f", b"other"])
    tree.mkdir(me, b"state/d")
    file = receive(tree, me, b"state/d/f", b"x")
    tree.unlink(me, b"state/d/.beside")
    tree.rmdir(me, b"state/d")
    with refused(errno.ESTALE):
        file.commit()


def test_its_agent_may_be_removed_meanwhile(tree: Tree, me: Who) -> None:
    file = receive(tree, me, b"state/f", b"x")
    tree.remove(AGENT)
    with refused(errno.ESTALE):
        file.commit()
    file.abandon()


def test_removed_agents_files_are_set_aside(tmp_path: Path, me: Who) -> None:
    tree = Tree(str(tmp_path))
    root = tree.add(AGENT, me.uid, "seven", proc={}, policy={})
    receive(tree, me, b"state/f", b"x").commit()
    assert shown(root.entries[b"state"]) == "/agent/7/state"
    assert tree.aside() == []
    tree.remove(AGENT)
    path, = tree.aside()
    assert Path(path, "state/f").read_bytes() == b"x"
    assert Tree(str(tmp_path)).aside() == [path], "the next kernel knows of it too"
    assert not Path(make_private(str(tmp_path), "agents"), str(AGENT)).exists()


def test_another_name_of_an_agent(tree: Tree, me: Who) -> None:
    tree.add(8, me.uid + 1, "eight", proc={}, policy={})
    with refused(errno.EEXIST):
        tree.rename_agent(AGENT, "eight")
    tree.rename_agent(AGENT, "other")
    assert sorted(tree.root.entries[b"by-name"].entries) == [b"eight", b"other"]
    tree.remove(AGENT)
    assert sorted(tree.root.entries[b"by-name"].entries) == [b"eight"]


async def test_the_mount_shows_it_at_once(mount: Mount, me: Who) -> None:
    """Also to who has read what was there before, and holds it open."""
    m = await mount()
    await m.sh("printf old > state/f; cat state/f; ls -l state; readlink /nothing || true")
    held = await trio.to_thread.run_sync(os.open, m.path / str(AGENT) / "state/f", os.O_RDONLY)
    try:
        receive(m.tree, me, b"state/f", b"new and longer").commit()
        assert await m.sh("cat state/f; stat -c ' %s %a' state/f; ls -A state") == "new and longer 14 640\nf\n"
        assert await trio.to_thread.run_sync(os.pread, held, 99, 0) == b"old"
    finally:
        await trio.to_thread.run_sync(os.close, held)
    m.tree.rename_agent(AGENT, "other")
    by_name = m.path / "by-name"
    assert await trio.to_thread.run_sync(os.listdir, by_name) == ["other"]
    assert await trio.to_thread.run_sync(os.readlink, by_name / "other") == f"../{AGENT}"
