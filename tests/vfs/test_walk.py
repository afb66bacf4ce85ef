"""Paths as system calls give them, honest and hostile."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix_vfs import Tree, Who
from agentix_vfs.nodes import child_path
from agentix_vfs.walk import plain, walk

from .conftest import AGENT, make_tree, refused
from .test_stores import get, put


def symlink(tree: Tree, target: bytes, name: bytes, folder: bytes = b"state") -> None:
    parent = tree.root_of(AGENT).entries[folder]
    tree.inodes.make(Who(61207, 61207, AGENT), parent, name, 0o120777, target)


@pytest.fixture
def walked() -> Tree:
    """RAM only, with /state/d/f in it."""
    tree = make_tree(None)
    me = Who(61207, 61207, AGENT)
    tree.mkdir(me, b"state/d")
    put(tree, me, b"state/d/f", b"found")
    return tree


@pytest.mark.parametrize("path", [
    b"state/d/f", b"./state//d/./f", b"/agent/7/state/d/f", b"/agent/self/state/d/f", b"//agent//self/state/d/f",
    b"state/../state/d/f", b"../../../state/d/f", b"/agent/self/../../state/d/f", b"mem/working/../../state/d/../d/f",
])
def test_ways_to_one_file(walked: Tree, me: Who, path: bytes) -> None:
    assert get(walked, me, path) == b"found"
    assert walked.canonical(AGENT, path) == b"/state/d/f"


@pytest.mark.parametrize("path", [
    b"/etc/passwd", b"/", b"/agent", b"/agent/", b"/agent/8/state", b"/agent/77/state", b"/agent/by-name/seven",
    b"/agent/7x/state", b"/agent/../etc", b"/agents/7",
])
def test_absolute_paths_outside(walked: Tree, me: Who, path: bytes) -> None:
    with refused(errno.EACCES, "outside of the agent's own tree"):
        walked.stat(me, path)
    with refused(errno.EACCES):
        walked.canonical(AGENT, path)


@pytest.mark.parametrize("target", [b"/etc/passwd", b"../../..", b"../..", b"/agent/8/state", b"../../8/state/f", b"/"])
def test_symlinks_that_lead_outside(walked: Tree, me: Who, target: bytes) -> None:
    symlink(walked, target, b"out")
    for path in (b"state/out", b"state/out/x", b"state/out/../d/f"):
        with refused(errno.EACCES, "outside of the agent's own tree"):
            walked.stat(me, path)
    with refused(errno.EACCES):
        walked.open(me, b"state/out", os.O_WRONLY | os.O_CREAT)
    assert walked.stat(me, b"state/out", follow=False).size == len(target)


def test_symlinks_inside(walked: Tree, me: Who) -> None:
    symlink(walked, b"d", b"relative")
    symlink(walked, b"/agent/self/state/relative", b"absolute")
    symlink(walked, b"../state/absolute/f", b"twice")
    assert get(walked, me, b"state/twice") == b"found"
    assert walked.canonical(AGENT, b"state/absolute/f") == b"/state/d/f"
    assert walked.canonical(AGENT, b"state/absolute/..") == b"/state"
    with refused(errno.ELOOP):
        walked.open(me, b"state/twice", os.O_RDONLY | os.O_NOFOLLOW)
    walked.unlink(me, b"state/twice")
    assert get(walked, me, b"state/d/f") == b"found"


def test_dangling_symlink_creates_its_target(walked: Tree, me: Who) -> None:
    symlink(walked, b"d/new", b"dangling")
    assert walked.canonical(AGENT, b"state/dangling") == b"/state/d/new"
    with refused(errno.EEXIST):
        walked.open(me, b"state/dangling", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    put(walked, me, b"state/dangling", b"made")
    assert get(walked, me, b"state/d/new") == b"made"


def test_symlink_loops(walked: Tree, me: Who) -> None:
    symlink(walked, b"b", b"a")
    symlink(walked, b"a", b"b")
    symlink(walked, b"self", b"self")
    symlink(walked, b"grow/grow", b"grow")
    for name in (b"a", b"self", b"grow", b"a/x"):
        with refused(errno.ELOOP):
            walked.stat(me, b"state/" + name)


def test_a_chain_of_40_links_is_walked_and_41_are_not(walked: Tree, me: Who) -> None:
    symlink(walked, b"d", b"l0")
    for number in range(1, 41):
        symlink(walked, b"l%d" % (number - 1), b"l%d" % number)
    assert get(walked, me, b"state/l39/f") == b"found"
    with refused(errno.ELOOP):
        walked.stat(me, b"state/l40")


def test_missing_and_not_a_directory(walked: Tree, me: Who) -> None:
    for path in (b"state/none", b"state/none/x", b"state/none/..", b"state/none/"):
        with refused(errno.ENOENT, "/agent/7/state/none"):
            walked.stat(me, path)
    for path in (b"state/d/f/x", b"state/d/f/", b"state/d/f/.", b"state/d/f/.."):
        with refused(errno.ENOTDIR):
            walked.stat(me, path)
    assert walked.canonical(AGENT, b"state/none") == b"/state/none"
    assert walked.canonical(AGENT, b".") == b"/"
    with refused(errno.ENOENT):
        walked.canonical(AGENT, b"state/none/x")
    with refused(errno.EISDIR):
        walked.open(me, b"state/new/", os.O_CREAT | os.O_WRONLY)


def test_dots_are_no_names(walked: Tree, me: Who) -> None:
    for path in (b"state/d/.", b"state/d/..", b".", b".."):
        for change in (walked.rmdir, walked.unlink):
            with pytest.raises(Exception, match="not by this path"):
                change(me, path)
    with refused(errno.EEXIST):
        walked.mkdir(me, b"state/d/.")


def test_a_chain_of_folders_ends_at_the_longest_path(me: Who) -> None:
    tree = make_tree(None)
    folder = tree.root_of(AGENT).entries[b"state"]
    for _ in range(15):
        folder = tree.inodes.make(me, folder, b"n" * 255, 0o040755)
    with refused(errno.ENAMETOOLONG):
        tree.inodes.make(me, folder, b"n" * 255, 0o040755)


def test_search_permission(walked: Tree, me: Who) -> None:
    walked.inodes.set_attributes(me, walked.root_of(AGENT).entries[b"state"].entries[b"d"], mode=0o600)
    with refused(errno.EACCES):
        walked.stat(me, b"state/d/f")
    assert walked.stat(Who(0, 0, AGENT), b"state/d/f").size == 5
    assert walked.canonical(AGENT, b"state/d/f") == b"/state/d/f"


NAMES = st.sampled_from([b"state", b"d", b"f", b"link", b"folder", b"none", b"", b".", b"..", b"n" * 256])


@given(st.lists(NAMES, min_size=1, max_size=5).map(b"/".join), st.booleans())
def test_a_plain_path_is_what_a_walk_finds(path: bytes, follow: bool) -> None:
    tree = make_tree(None)
    me = Who(61207, 61207, AGENT)
    tree.mkdir(me, b"state/d")
    put(tree, me, b"state/d/f", b"found")
    symlink(tree, b"d/f", b"link")
    symlink(tree, b"d", b"folder")
    found = plain(tree.root_of(AGENT), path)
    if found is not None:
        place = walk(Who(0, 0), tree.root_of(AGENT), path, follow=follow)
        assert found == child_path(place.parent, place.name) == tree.canonical(AGENT, path, follow=follow)


@pytest.mark.parametrize("path", [b"state/d/f", b"state/none", b"state", b"none"])
def test_usual_paths_are_plain(walked: Tree, path: bytes) -> None:
    assert plain(walked.root_of(AGENT), path) == b"/" + path
