"""The tree against a model of it: any sequence of calls gives what a dictionary of paths says."""

import errno
import os
import tempfile
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentix_syscalls.errors import CallError
from agentix_vfs import Tree, Who

from .conftest import AGENT, UID, make_tree

ME = Who(UID, UID, AGENT)
NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)


class TreeAgainstModel(RuleBasedStateMachine):
    """`files` maps paths below state/ to content (bytes) or None for directories."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory() if self.durable else None
        self.tree: Tree = make_tree(self.folder.name if self.folder else None)
        self.files: dict[bytes, bytes | None] = {}

    def teardown(self) -> None:
        if self.folder:
            self.folder.cleanup()

    def outcome(self, call: Callable[[], object]) -> str:
        try:
            call()
        except CallError as error:
            return errno.errorcode[error.number]
        return "ok"

    def parent_error(self, path: bytes) -> str | None:
        """What stands in the way of reaching the last part."""
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            above = b"/".join(parts[:depth])
            if above not in self.files:
                return "ENOENT"
            if self.files[above] is not None:
                return "ENOTDIR"
        return None

    def below(self, path: bytes) -> list[bytes]:
        return [other for other in self.files if other.startswith(path + b"/")]

    @rule(path=PATHS, data=st.binary(max_size=20), offset=st.integers(0, 30), flags=st.sampled_from(
        [0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_APPEND]))
    def write(self, path: bytes, data: bytes, offset: int, flags: int) -> None:
        def call() -> None:
            handle = self.tree.open(ME, b"state/" + path, os.O_WRONLY | flags)
            handle.write(data, offset)
            handle.close()

        expected = self.parent_error(path)
        if expected is None and path in self.files:
            expected = "EEXIST" if flags & os.O_EXCL else "EISDIR" if self.files[path] is None else None
        elif expected is None and not flags & os.O_CREAT:
            expected = "ENOENT"
        assert self.outcome(call) == (expected or "ok")
        if expected is None:
            old = b"" if flags & os.O_TRUNC else self.files.get(path) or b""
            at = len(old) if flags & os.O_APPEND else offset
            self.files[path] = old if not data else old[:at].ljust(at, b"\0") + data + old[at + len(data):]

    @rule(path=PATHS, size=st.integers(0, 40))
    def truncate(self, path: bytes, size: int) -> None:
        expected = self.parent_error(path) or self.existing(path, folder="EISDIR")
        assert self.outcome(lambda: self.tree.truncate(ME, b"state/" + path, size)) == (expected or "ok")
        if expected is None:
            self.files[path] = (self.files[path] or b"")[:size].ljust(size, b"\0")

    @rule(path=PATHS)
    def mkdir(self, path: bytes) -> None:
        expected = self.parent_error(path) or ("EEXIST" if path in self.files else None)
        assert self.outcome(lambda: self.tree.mkdir(ME, b"state/" + path)) == (expected or "ok")
        if expected is None:
            self.files[path] = None

    @rule(path=PATHS)
    def unlink(self, path: bytes) -> None:
        expected = self.parent_error(path) or self.existing(path, folder="EISDIR")
        assert self.outcome(lambda: self.tree.unlink(ME, b"state/" + path)) == (expected or "ok")
        if expected is None:
            del self.files[path]

    @rule(path=PATHS)
    def rmdir(self, path: bytes) -> None:
        expected = self.parent_error(path) or self.existing(path, file="ENOTDIR")
        if expected is None and self.below(path):
            expected = "ENOTEMPTY"
        assert self.outcome(lambda: self.tree.rmdir(ME, b"state/" + path)) == (expected or "ok")
        if expected is None:
            del self.files[path]

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, 1, 2]))
    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        outcome = self.outcome(lambda: self.tree.rename(ME, b"state/" + old, b"state/" + new, flags))
        reachable = self.parent_error(old) is None and old in self.files and self.parent_error(new) is None
        inside = (new + b"/").startswith(old + b"/") or (flags == 2 and (old + b"/").startswith(new + b"/"))
        fits = self.fits(old, new, flags) if reachable else False
        assert (outcome == "ok") == (reachable and fits and (old == new or not inside)), outcome
        if outcome == "ok" and old != new:
            moved, swapped = self.take(old), self.take(new)
            self.files |= {new + rest: content for rest, content in moved.items()}
            if flags == 2:
                self.files |= {old + rest: content for rest, content in swapped.items()}

    def fits(self, old: bytes, new: bytes, flags: int) -> bool:
        if new not in self.files:
            return flags != 2
        if flags or old == new:
            return flags != 1
        return (self.files[old] is None) == (self.files[new] is None) and not self.below(new)

    def take(self, path: bytes) -> dict[bytes, bytes | None]:
        return {found[len(path):]: self.files.pop(found)
                for found in list(self.files) if (found + b"/").startswith(path + b"/")}

    def existing(self, path: bytes, *, folder: str | None = None, file: str | None = None) -> str | None:
        if path not in self.files:
            return "ENOENT"
        return folder if self.files[path] is None else file

    @precondition(lambda self: self.durable)
    @rule()
    def restart(self) -> None:
        self.tree = make_tree(self.folder.name)

    @invariant()
    def same(self) -> None:
        found: dict[bytes, bytes | None] = {}
        todo = [(b"state", self.tree.root_of(AGENT).entries[b"state"])]
        while todo:
            path, folder = todo.pop()
            for name, node in folder.entries.items():
                below = path + b"/" + name
                if hasattr(node, "entries"):
                    found[below[6:]] = None
                    todo.append((below, node))
                else:
                    found[below[6:]] = node.content.read(1 << 20, 0)
                    assert len(found[below[6:]]) == self.tree.stat(ME, below).size
                assert self.tree.canonical(AGENT, below) == b"/" + below
        assert found == self.files
        quota = self.tree.root_of(AGENT).entries[b"state"].mount.store.quota
        assert quota.inodes_used == len(found)
        if not self.durable:
            assert quota.bytes_used == sum(len(data or b"") for data in found.values())


class DurableTreeAgainstModel(TreeAgainstModel):
    durable = True


TestTree = TreeAgainstModel.TestCase
TestTree.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
TestDurableTree = DurableTreeAgainstModel.TestCase
TestDurableTree.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, derandomize=True)
