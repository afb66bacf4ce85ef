"""A file that comes from outside in pieces: written beside its place, which it takes when it is whole.

So nobody in the tree ever sees a half-written file under its name, and what it replaces stays until then. In an
append-only part nothing can be renamed: there it is written in place, and only where nothing was.
"""

import errno
import stat
from collections.abc import Callable
from typing import Final

from attrs import define, field

from agentix_syscalls.calls import O_APPEND, O_CREAT, O_WRONLY
from agentix_syscalls.errors import CallError
from agentix_vfs.handles import Handle
from agentix_vfs.inodes import Inodes
from agentix_vfs.nodes import Directory, File, Node, Rule, shown
from agentix_vfs.who import Who

KINDS: Final = frozenset({stat.S_IFREG, stat.S_IFLNK})


@define(eq=False)
class Incoming:
    """One regular file, or symbolic link to `target`, on its way to `name` in `parent`. Raises CallError throughout.

    `beside`: a name that nobody else uses, for as long as it is not whole. `mode` holds the type. Whoever begins has
    checked that `who` may change `parent`.
    """

    inodes: Inodes
    who: Who
    parent: Directory
    name: bytes
    mode: int
    beside: bytes
    changed: Callable[[Node], None]
    target: bytes = b""
    size: int = field(init=False, default=0)
    _in_place: bool = field(init=False)
    _node: Node = field(init=False)
    _handle: Handle | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._in_place = self.parent.mount.rule is Rule.APPEND
        if self._in_place and self.name in self.parent.entries:
            raise CallError(errno.EPERM, f"{shown(self.parent, self.name)}: append-only; what is there stays",
                            remedy="choose a name that is free")
        self.inodes.check_new(self.parent, self.name)
        first_name = self.name if self._in_place else self.beside
        self._node = self.inodes.make(self.who, self.parent, first_name, self.mode, self.target)
        self.changed(self.parent)
        if isinstance(self._node, File):
            flags = O_WRONLY | O_CREAT | O_APPEND
            self._handle = self.inodes.open(self.who, self._node, flags, self.changed, fresh=True)

    def write(self, data: bytes) -> None:
        """The next piece. EDQUOT and kin leave it as it was: to be abandoned."""
        assert self._handle is not None, "a symbolic link is whole when it is made"
        self.size += self._handle.write(data, self.size)

    def commit(self, mtime_ns: int | None = None) -> None:
        """It is whole: give it its time, if one is given, and its name. ESTALE when the agent removed it meanwhile."""
        if self._node.gone or not self.parent.mount.alive:
            raise CallError(errno.ESTALE, f"{shown(self.parent, self.name)}: removed while it was written")
        if mtime_ns is not None and not self._in_place:
            self.inodes.set_attributes(self.who, self._node, atime_ns=mtime_ns, mtime_ns=mtime_ns)
        self._close()
        if not self._in_place:
            old = self._node.names[0]
            replaced = self.parent.entries.get(self.name)
            self.inodes.rename(old, (self.parent, self.name))
            for node in (old[0], self.parent, self._node, replaced):
                if node is not None:
                    self.changed(node)

    def abandon(self) -> None:
        """It will not become whole: take it away again, but where nothing can be taken away."""
        self._close()
        if self._node.gone or self._in_place or not self.parent.mount.alive:
            return
        parent, name = self._node.names[0]
        self.inodes.unlink(parent, name)
        self.changed(parent)

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
