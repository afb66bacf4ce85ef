"""What can be done to inodes: the rules of mounts and the structure of the tree, whichever door was used.

Callers have judged mode bits before (the mount: Linux; system calls: tree.py). Here stands what binds everybody:
append-only, read-only, fixed folders, quotas, and what makes no sense.
"""

import errno
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from attrs import define, field

from agentix_syscalls.calls import O_APPEND, O_TRUNC, RENAME_EXCHANGE, RENAME_NOREPLACE
from agentix_syscalls.errors import CallError
from agentix_vfs.handles import (
    DirectoryHandle,
    FileHandle,
    GrowingHandle,
    Handle,
    SyntheticHandle,
    WaitingHandle,
    tell_nobody,
    wants_write,
)
from agentix_vfs.nodes import (
    FILE_MAX_BYTES,
    Directory,
    File,
    Mount,
    Node,
    Rule,
    Special,
    Symlink,
    SyntheticFile,
    child_path,
    shown,
    too_big,
)
from agentix_vfs.synthetic import Entry, Growing, Synthetic
from agentix_vfs.who import Who

LINK_MAX: Final = 1024
"""Names of one file at most: its places are kept in a list."""
_KINDS: Final[dict[int, type[Node]]] = {stat.S_IFREG: File, stat.S_IFDIR: Directory, stat.S_IFLNK: Symlink,
                 stat.S_IFIFO: Special, stat.S_IFSOCK: Special}


@define(eq=False)
class Inodes:
    """Makes, finds and changes nodes. Synchronous; every method raises CallError that names the path."""

    now: Callable[[], int]
    _last: int = field(init=False, default=0)
    _open: dict[int, set[Handle]] = field(init=False, factory=dict[int, set[Handle]])
    """What is open, of either door, by the agent that opened it."""

    def number(self) -> int:
        self._last += 1
        return self._last

    # Finding and making

    def lookup(self, parent: Directory, name: bytes) -> Node:
        if len(name) > 255:
            raise CallError(errno.ENAMETOOLONG, f"{name[:16]!r}...: a name is over 255 bytes")
        node = parent.entries.get(name)
        if node is None:
            raise CallError(errno.ENOENT, f"{shown(parent, name)}: does not exist")
        return node

    def make(self, who: Who, parent: Directory, name: bytes, mode: int, target: bytes = b"") -> Node:
        """A new file, directory, symlink, FIFO or socket; `mode` holds the type. The group follows a setgid parent."""
        self.check_new(parent, name)
        if name in parent.entries:
            raise CallError(errno.EEXIST, f"{shown(parent, name)}: exists already")
        kind = _KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            raise CallError(errno.EPERM, f"{shown(parent, name)}: device nodes are not allowed here")
        gid = parent.gid if parent.mode & stat.S_ISGID else who.gid
        if kind is Directory and parent.mode & stat.S_ISGID:
            mode |= stat.S_ISGID
        self._check_bits(who, parent, mode, name)
        node = self.blank(parent.mount, mode, who.uid, gid)
        if isinstance(node, Symlink):
            node.target = target
        parent.mount.store.create(node, parent, name)
        self.attach(node, parent, name)
        self._touch(parent)
        return node

    def blank(self, mount: Mount, mode: int, uid: int, gid: int) -> Node:
        """A node of the type in `mode`, without a name yet."""
        time = self.now()
        return _KINDS[stat.S_IFMT(mode)](self.number(), mount, mode, uid, gid, time, time, time)

    def synthetic(self, mount: Mount, entry: Entry, uid: int, gid: int) -> SyntheticFile:
        time = self.now()
        return SyntheticFile(self.number(), mount, stat.S_IFREG | entry.mode, uid, gid, time, time, time,
                             entry=entry, now=self.now)

    def attach(self, node: Node, parent: Directory, name: bytes) -> None:
        """Enter a name, nothing else."""
        parent.entries[name] = node
        node.names.append((parent, name))
        if isinstance(node, Directory):
            parent.subdirectories += 1

    def detach(self, node: Node, parent: Directory, name: bytes) -> None:
        del parent.entries[name]
        node.names.remove((parent, name))
        if isinstance(node, Directory):
            parent.subdirectories -= 1

    # Names

    def link(self, node: Node, parent: Directory, name: bytes) -> None:
        """Give a file another name."""
        if isinstance(node, Directory):
            raise CallError(errno.EPERM, f"{shown(node)}: a directory has one name")
        if node.mount is not parent.mount:
            raise CallError(errno.EXDEV, f"{shown(node)} and {shown(parent, name)}: two mounts")
        self.check_new(parent, name)
        if parent.mount.rule is Rule.APPEND:
            raise CallError(errno.EPERM, f"{shown(node)}: append-only")
        if name in parent.entries:
            raise CallError(errno.EEXIST, f"{shown(parent, name)}: exists already")
        if node.gone:
            raise CallError(errno.ENOENT, f"{shown(parent, name)}: the file has no name any more")
        if len(node.names) >= LINK_MAX:
            raise CallError(errno.EMLINK, f"{shown(node)}: has {LINK_MAX} names already")
        parent.mount.store.link(node, parent, name)
        self.attach(node, parent, name)
        self._touch(parent)
        node.ctime_ns = self.now()

    def unlink(self, parent: Directory, name: bytes) -> Node:
        """Drop a name that is no directory's; the node that had it."""
        node = self.lookup(parent, name)
        if isinstance(node, Directory):
            raise CallError(errno.EISDIR, f"{shown(node)}: is a directory")
        self._check_change(parent, name)
        parent.mount.store.unlink(node, parent, name)
        self._drop(node, parent, name)
        return node

    def rmdir(self, parent: Directory, name: bytes) -> Node:
        node = self.lookup(parent, name)
        if not isinstance(node, Directory):
            raise CallError(errno.ENOTDIR, f"{shown(node)}: is not a directory")
        self._check_movable(node)
        self._check_change(parent, name)
        if node.entries:
            raise CallError(errno.ENOTEMPTY, f"{shown(node)}: is not empty")
        parent.mount.store.unlink(node, parent, name)
        self._drop(node, parent, name)
        return node

    def rename(self, old: tuple[Directory, bytes], new: tuple[Directory, bytes], flags: int = 0) -> None:
        """RENAME_NOREPLACE and RENAME_EXCHANGE as Linux has them; EINVAL for other flags."""
        if flags not in {0, RENAME_NOREPLACE, RENAME_EXCHANGE}:
            raise CallError(errno.EINVAL, f"rename: unknown flags {flags:#x}")
        node = self.lookup(*old)
        if len(new[1]) > 255:
            raise CallError(errno.ENAMETOOLONG, f"{new[1][:16]!r}...: a name is over 255 bytes")
        target = new[0].entries.get(new[1])
        self._check_rename(node, target, old, new, flags)
        if node is target:
            return
        store = node.mount.store
        if flags == RENAME_EXCHANGE:
            assert target is not None, "checked above"
            store.exchange(old, new)
            self.detach(target, *new)
            self.detach(node, *old)
            self.attach(target, *old)
        else:
            store.rename(old, new, target)
            if target is not None:
                self._drop(target, *new)
            self.detach(node, *old)
        self.attach(node, *new)
        self._touch(old[0])
        self._touch(new[0])
        node.ctime_ns = new[0].ctime_ns

    def _check_rename(self, node: Node, target: Node | None, old: tuple[Directory, bytes],
                      new: tuple[Directory, bytes], flags: int) -> None:
        self._check_movable(node)
        if target is not None:
            self._check_movable(target)
        if old[0].mount is not new[0].mount:
            raise CallError(errno.EXDEV, f"{shown(*old)} and {shown(*new)}: two mounts")
        self._check_change(*old)
        self.check_new(*new)
        if target is None:
            if flags == RENAME_EXCHANGE:
                raise CallError(errno.ENOENT, f"{shown(*new)}: does not exist")
        elif flags == RENAME_NOREPLACE:
            raise CallError(errno.EEXIST, f"{shown(*new)}: exists already")
        elif flags == 0:
            _check_replace(node, target)
        _check_outside(node, new[0])
        if target is not None and flags == RENAME_EXCHANGE:
            _check_outside(target, old[0])

    # Content and attributes

    def open(self, who: Who, node: Node, flags: int, changed: Callable[[Node], None] = tell_nobody, *,
             fresh: bool = False) -> Handle:
        """An open file or directory. `fresh`: just created by this open, so rules for old content do not bind."""
        if wants_write(flags) or flags & O_TRUNC:
            self._check_write(node, flags, fresh=fresh)
        handle = self._opened(who, node, flags, changed, fresh=fresh)
        self._open.setdefault(who.agent, set()).add(handle)
        return handle

    def opened(self, agent: int, uid: int) -> list[Handle]:
        """What an agent has open, through either door; operators have other uids."""
        return [handle for handle in self._open.get(agent, ()) if handle.who.uid == uid]

    def _opened(self, who: Who, node: Node, flags: int, changed: Callable[[Node], None], *, fresh: bool) -> Handle:
        if isinstance(node, File):
            return self._open_file(who, node, flags, changed, fresh=fresh)
        if isinstance(node, Directory):
            return DirectoryHandle(node, flags, who, self.closed)
        if not isinstance(node, SyntheticFile):
            raise CallError(errno.EOPNOTSUPP, f"{shown(node)}: open it through the mount")
        entry = node.entry
        if isinstance(entry, Synthetic):
            return SyntheticHandle(node, flags, who, self.closed, source=entry)
        if isinstance(entry, Growing):
            return GrowingHandle(node, flags, who, self.closed, source=entry)
        return WaitingHandle(node, flags, who, self.closed, source=entry)

    def _open_file(self, who: Who, node: File, flags: int, changed: Callable[[Node], None], *, fresh: bool) -> Handle:
        if node.gone and not node.opens:
            raise CallError(errno.ESTALE, f"inode {node.ino}: the file is gone")
        if flags & O_TRUNC and not fresh:
            self._resize(node, 0)
            changed(node)
        return FileHandle(node, flags, who, self.closed, changed, now=self.now)

    def truncate(self, node: Node, size: int) -> None:
        """Set the size of a file in `bytes`; nothing to do for synthetic files."""
        self._check_write(node, O_TRUNC | O_APPEND, fresh=False)
        if isinstance(node, File):
            self._resize(node, size)
        elif not isinstance(node, SyntheticFile):
            raise CallError(errno.EINVAL, f"{shown(node)}: is not a regular file")

    def _resize(self, node: File, size: int) -> None:
        if size > FILE_MAX_BYTES:
            raise too_big(node, size)
        node.content.truncate(size)
        node.mtime_ns = node.ctime_ns = self.now()

    def set_attributes(self, who: Who, node: Node, *, mode: int | None = None, uid: int | None = None,
                       gid: int | None = None, atime_ns: int | None = None, mtime_ns: int | None = None) -> None:
        """chmod, chown and utimens in one, as SETATTR has it. `mode` without the type bits counts."""
        mode = node.mode if mode is None else stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        uid, gid = node.uid if uid is None else uid, node.gid if gid is None else gid
        owner = (mode, uid, gid) != (node.mode, node.uid, node.gid)
        self._check_attributes(node, owner=owner, times=atime_ns is not None or mtime_ns is not None)
        if mode & ~node.mode & (stat.S_ISUID | stat.S_ISGID):
            self._check_bits(who, node, mode)
        before = node.mode, node.uid, node.gid, node.atime_ns, node.mtime_ns
        node.mode, node.uid, node.gid = mode, uid, gid
        node.atime_ns = node.atime_ns if atime_ns is None else atime_ns
        node.mtime_ns = node.mtime_ns if mtime_ns is None else mtime_ns
        try:
            node.mount.store.apply(node)
        except CallError:
            node.mode, node.uid, node.gid, node.atime_ns, node.mtime_ns = before
            raise
        node.ctime_ns = self.now()

    def closed(self, handle: Handle) -> None:
        """A handle was closed."""
        mine = self._open[handle.who.agent]
        mine.discard(handle)
        if not mine:
            del self._open[handle.who.agent]
        node = handle.node
        if node.gone and not node.opens and node.mount.alive:
            node.mount.store.forget(node)

    # What binds everybody

    def _drop(self, node: Node, parent: Directory, name: bytes) -> None:
        if node.opens:
            with suppress(CallError):  # a path that became too long
                node.was = child_path(parent, name)
        self.detach(node, parent, name)
        self._touch(parent)
        node.ctime_ns = parent.ctime_ns
        if node.gone and not node.opens:
            node.mount.store.forget(node)

    def _touch(self, folder: Directory) -> None:
        folder.mtime_ns = folder.ctime_ns = self.now()

    def check_new(self, parent: Directory, name: bytes) -> None:
        """A name may be entered there."""
        if len(name) > 255:
            raise CallError(errno.ENAMETOOLONG, f"{name[:16]!r}...: a name is over 255 bytes")
        if parent.gone or name in {b"", b".", b".."}:
            raise CallError(errno.ENOENT, f"{shown(parent, name)}: no such directory, or not a name")
        child_path(parent, name)  # raises when it is too long: no chain of folders grows without bound
        if parent.mount.rule is not Rule.APPEND:
            self._check_change(parent, name)

    def _check_change(self, parent: Directory, name: bytes) -> None:
        """Names of the folder may be changed at will."""
        rule = parent.mount.rule
        if rule is Rule.READ_ONLY:
            raise CallError(errno.EROFS, f"{shown(parent, name)}: that part of the tree is read-only")
        if rule is not Rule.ORDINARY:
            raise CallError(errno.EPERM, f"{shown(parent, name)}: that part of the tree is {rule.value}")

    def _check_movable(self, node: Node) -> None:
        if isinstance(node, Directory) and node.fixed:
            raise CallError(errno.EPERM, f"{shown(node)}: a fixed part of the tree")

    def _check_write(self, node: Node, flags: int, *, fresh: bool) -> None:
        if isinstance(node, Directory):
            raise CallError(errno.EISDIR, f"{shown(node)}: is a directory")
        if node.mount.rule is Rule.READ_ONLY:
            raise CallError(errno.EROFS, f"{shown(node)}: that part of the tree is read-only")
        if isinstance(node, SyntheticFile) and (not isinstance(node.entry, Synthetic) or node.entry.write is None):
            raise CallError(errno.EACCES, f"{shown(node)}: cannot be written")
        if node.mount.rule is Rule.APPEND and not fresh and (flags & O_TRUNC or not flags & O_APPEND):
            raise CallError(errno.EPERM, f"{shown(node)}: append-only", remedy="open it with O_APPEND, without O_TRUNC")

    def _check_attributes(self, node: Node, *, owner: bool, times: bool) -> None:
        """`owner`: mode, uid or gid really change."""
        rule = node.mount.rule
        if rule is Rule.READ_ONLY and (owner or times):
            raise CallError(errno.EROFS, f"{shown(node)}: that part of the tree is read-only")
        fixed = rule is Rule.FIXED or (isinstance(node, Directory) and node.fixed)
        if owner and (fixed or rule is Rule.APPEND):
            raise CallError(errno.EPERM, f"{shown(node)}: mode and owner are fixed here")
        if times and rule is Rule.APPEND and isinstance(node, File):
            raise CallError(errno.EPERM, f"{shown(node)}: times are part of an append-only file")

    def _check_bits(self, who: Who, node: Node, mode: int, name: bytes | None = None) -> None:
        """Setuid and setgid bits are root's to give; on a directory setgid only hands the group down."""
        special = stat.S_ISUID if stat.S_ISDIR(mode) else stat.S_ISUID | stat.S_ISGID
        if who.uid and mode & special:
            raise CallError(errno.EPERM, f"{shown(node, name)}: setuid and setgid bits are not allowed here")


def _check_replace(node: Node, target: Node) -> None:
    """`target` may be replaced by `node`."""
    if node is target:
        return
    if isinstance(target, Directory):
        if not isinstance(node, Directory):
            raise CallError(errno.EISDIR, f"{shown(target)}: is a directory")
        if target.entries:
            raise CallError(errno.ENOTEMPTY, f"{shown(target)}: is not empty")
    elif isinstance(node, Directory):
        raise CallError(errno.ENOTDIR, f"{shown(target)}: is not a directory")


def _check_outside(node: Node, folder: Directory) -> None:
    """`folder` does not lie in `node`: a directory cannot be moved into itself."""
    while isinstance(node, Directory):
        if folder is node:
            raise CallError(errno.EINVAL, f"{shown(node)}: cannot be moved into itself")
        if folder.top or folder.gone:
            return
        folder = folder.parent

