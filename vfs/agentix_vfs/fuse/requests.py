"""Each FUSE request as a call of the tree. Linux has judged mode bits (default_permissions); the gate judges the rest.

Handlers are plain functions, so nothing else runs between a check and its effect. Extended attributes are answered
ENOSYS once for the whole mount: Linux would otherwise ask for one before every write, which halves small writes.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from traceback import format_exc
from types import CoroutineType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
from attrs import define, field
from pyfuse3 import EntryAttributes, FileInfo, FUSEError

from agentix_syscalls.calls import O_DIRECTORY, O_EXCL, O_TRUNC
from agentix_syscalls.errors import CallError
from agentix_vfs.fuse.blocked import Blocked
from agentix_vfs.fuse.gate import Gate, Withheld
from agentix_vfs.handles import Handle, wants_read, wants_write
from agentix_vfs.nodes import Directory, Node, Symlink, SyntheticFile, child_path, paths_of
from agentix_vfs.tree import Tree
from agentix_vfs.who import Who

FIXED_TIMEOUT_S: Final = 300.0
"""How long Linux may trust names that cannot change, and attributes: the tree tells it when those change."""
LISTED_MAX: Final = 1 << 20
"""Entries that the open directories of one agent's tree may hold together (64 bytes each); one may always be listed."""
BLOCK_BYTES: Final = 4096

Asked = tuple[str, Node, bytes | None]
"""A call that a request amounts to, and on what: a name in a folder or, None, a node under all the names it has."""

P = ParamSpec("P")
R = TypeVar("R")


Handler = Callable[Concatenate["Requests", P], R]


def request(handler: Handler[P, R]) -> "Callable[Concatenate[Requests, P], CoroutineType[Any, Any, R]]":
    """A handler as pyfuse3 wants it; whatever it raises becomes an errno, so that the session never ends by it."""

    @wraps(handler)
    async def guarded(self: "Requests", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(self, *args, **kwargs)
        except Withheld as error:
            held = error
        except Exception as error:
            raise self.failed(handler.__name__, error) from None
        with suppress(CallError):  # too many wait already: then this one is answered
            await self.blocked.hold(held.agent)
        raise FUSEError(held.number)

    return guarded  # type: ignore[return-value]  # an async function's calls are of this type


@define(eq=False)
class Known:
    """A node that Linux knows by number, and how many lookups it has yet to forget."""

    node: Node
    lookups: int


@define(eq=False)
class Listing:
    """An open directory: its entries as they were when reading began at the start."""

    handle: Handle
    folder: Directory
    entries: list[tuple[bytes, Node]] = field(factory=list[tuple[bytes, Node]])


@define(eq=False)
class Requests(pyfuse3.Operations):
    """Handlers of one mount. `on_fault(where, traceback)` hears of faults of our own; the caller then got EIO."""

    tree: Tree
    gate: Gate
    on_fault: Callable[[str, str], None]
    blocked: Blocked
    _known: dict[int, Known] = field(init=False, factory=dict[int, Any])
    _handles: dict[int, Handle] = field(init=False, factory=dict[int, Any])
    _listings: dict[int, Listing] = field(init=False, factory=dict[int, Any])
    _listed: dict[int, int] = field(init=False, factory=dict[int, Any])
    """Entries that open directories of an agent's tree hold."""
    _last_handle: int = field(init=False, default=0)

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __attrs_post_init__(self) -> None:
        assert self.tree.root.ino == pyfuse3.ROOT_INODE, "Linux calls the root inode 1"
        self._known[self.tree.root.ino] = Known(self.tree.root, 1)

    def knows(self, ino: int) -> bool:
        return ino in self._known

    def failed(self, where: str, error: Exception) -> FUSEError:
        """The errno for what a handler raised."""
        if isinstance(error, FUSEError):
            return error
        if isinstance(error, CallError):
            return FUSEError(error.number)
        with suppress(Exception):  # a fault in reporting a fault must not end the session
            self.on_fault(where, format_exc())
        return FUSEError(errno.EIO)

    # Names

    @request
    def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        parent = self._folder(parent_inode)
        self._ask(ctx, "STAT", parent, name)
        return self._remember(self.tree.inodes.lookup(parent, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            known = self._known.get(ino)
            if known is not None and ino != pyfuse3.ROOT_INODE:
                known.lookups -= count
                if known.lookups <= 0:
                    known.node.cached = False
                    del self._known[ino]

    @request
    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int,
              ctx: pyfuse3.RequestContext) -> EntryAttributes:
        del rdev
        return self._make(ctx, "mknod", parent_inode, name, mode)

    @request
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self._make(ctx, "mkdir", parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode))

    @request
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self._make(ctx, "symlink", parent_inode, name, stat.S_IFLNK | 0o777, target)

    def _make(self, ctx: pyfuse3.RequestContext, operation: str, parent_inode: int, name: bytes, mode: int,
              target: bytes = b"") -> EntryAttributes:
        parent = self._folder(parent_inode)
        call = "MKDIR" if operation == "mkdir" else "WRITE"
        with self._act(ctx, operation, (call, parent, name)) as who:
            return self._remember(self.tree.inodes.make(who, parent, name, mode, target))

    @request
    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        node, parent = self._node(inode), self._folder(new_parent_inode)
        old = [(call, node, None) for call in ("RENAME", "READ", "WRITE")]
        with self._act(ctx, "link", *old, ("RENAME", parent, new_name), ("WRITE", parent, new_name)):
            self.tree.inodes.link(node, parent, new_name)
        return self._remember(node)

    @request
    def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        parent = self._folder(parent_inode)
        with self._act(ctx, "unlink", ("UNLINK", parent, name)):
            self.tree.inodes.unlink(parent, name)

    @request
    def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        parent = self._folder(parent_inode)
        with self._act(ctx, "rmdir", ("UNLINK", parent, name)):
            self.tree.inodes.rmdir(parent, name)

    @request
    def rename(self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int,
               ctx: pyfuse3.RequestContext) -> None:
        old = self._folder(parent_inode_old), name_old
        new = self._folder(parent_inode_new), name_new
        with self._act(ctx, "rename", ("RENAME", *old), ("RENAME", *new)):
            self.tree.inodes.rename(old, new, flags)

    @request
    def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        del ctx
        node = self._node(inode)
        if not isinstance(node, Symlink):
            raise FUSEError(errno.EINVAL)
        return node.target

    # Attributes

    @request
    def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        node = self._node(inode)
        if node.names:
            self._ask(ctx, "STAT", *node.names[0])
        return _entry(node)

    @request
    def setattr(self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None,
                ctx: pyfuse3.RequestContext) -> EntryAttributes:
        node = self._node(inode)
        resize = bool(fields.update_size)
        asked, operation = (("TRUNCATE", "WRITE"), "truncate") if resize else (("WRITE",), "setattr")
        with self._act(ctx, operation, *((call, node, None) for call in asked)) as who:
            if resize:
                self._resize(node, attr.st_size, fh)
            self.tree.inodes.set_attributes(
                who, node,
                mode=attr.st_mode if fields.update_mode else None,
                uid=attr.st_uid if fields.update_uid else None,
                gid=attr.st_gid if fields.update_gid else None,
                atime_ns=attr.st_atime_ns if fields.update_atime else None,
                mtime_ns=attr.st_mtime_ns if fields.update_mtime else None)
        return _entry(node)

    def _resize(self, node: Node, size: int, fh: int | None) -> None:
        handle = None if fh is None else self._handles.get(fh)
        if handle is None:
            self.tree.inodes.truncate(node, size)
        else:
            handle.truncate(size)

    @request
    def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Of the mount as a whole: pyfuse3 does not tell which inode was meant, so quotas cannot show here."""
        del ctx
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = BLOCK_BYTES
        answer.f_namemax = 255
        if self.tree.host_root is not None:
            host = os.statvfs(self.tree.host_root)
            scale = max(1, host.f_frsize // BLOCK_BYTES)
            answer.f_blocks, answer.f_bfree = host.f_blocks * scale, host.f_bfree * scale
            answer.f_bavail, answer.f_files = host.f_bavail * scale, host.f_files
            answer.f_ffree = answer.f_favail = host.f_ffree
        return answer

    # Content

    @request
    def create(self, parent_inode: int, name: bytes, mode: int, flags: int,
               ctx: pyfuse3.RequestContext) -> tuple[FileInfo, EntryAttributes]:
        parent = self._folder(parent_inode)
        if name in parent.entries:
            # It came to be since Linux looked. ESTALE makes Linux walk the path again, and find it.
            raise FUSEError(errno.EEXIST if flags & O_EXCL else errno.ESTALE)
        asked = [(call, parent, name) for call in _calls(flags, created=True)]
        with self._act(ctx, "create", *asked) as who:
            node = self.tree.inodes.make(who, parent, name, stat.S_IFREG | stat.S_IMODE(mode))
            handle = self.tree.inodes.open(who, node, flags, fresh=True)
        return self._opened(handle), self._remember(node)

    @request
    def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> FileInfo:
        node = self._node(inode)
        with self._act(ctx, "open", *((call, node, None) for call in _calls(flags))) as who:
            return self._opened(self.tree.inodes.open(who, node, flags))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        try:
            handle = self._used(fh)
            if handle.blocks:
                await self.blocked.wait(handle)
            if not handle.direct:
                handle.node.cached = True
            return handle.read(size, off)
        except Exception as error:
            raise self.failed("read", error) from None

    @request
    def write(self, fh: int, off: int, buf: bytes) -> int:
        return self._used(fh).write(buf, off)

    @request
    def fsync(self, fh: int, datasync: bool) -> None:
        del datasync
        self._handle(fh).sync()

    @request
    def release(self, fh: int) -> None:
        self._handles.pop(fh).close()

    def _opened(self, handle: Handle) -> FileInfo:
        self._last_handle += 1
        self._handles[self._last_handle] = handle
        fh = pyfuse3.FileHandleT(self._last_handle)
        return FileInfo(fh=fh, direct_io=handle.direct, keep_cache=not handle.direct)

    def _handle(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if handle is None:
            raise FUSEError(errno.EBADF)
        return handle

    def _used(self, fh: int) -> Handle:
        """A handle whose agent is not ending: rights stay with a handle, and end with its agent."""
        handle = self._handle(fh)
        if self.gate.ending(handle.who):
            raise FUSEError(errno.EINTR)
        return handle

    # Directories

    @request
    def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        folder = self._folder(inode)
        if folder.names:
            self._ask(ctx, "READDIR", *folder.names[0])
        handle = self.tree.inodes.open(self._who(ctx), folder, O_DIRECTORY)
        self._last_handle += 1
        self._listings[self._last_handle] = Listing(handle, folder)
        return pyfuse3.FileHandleT(self._last_handle)

    @request
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        folder = listing.folder
        if listing.handle.withdrawn is not None:
            raise listing.handle.withdrawn()
        if start_id == 0:
            self._list(listing)
        for position in range(start_id, len(listing.entries)):
            name, node = listing.entries[position]
            if position >= 2 and folder.entries.get(name) is not node:
                continue  # gone since
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), _entry(node), position + 1):
                break
            if position >= 2:
                self._count(node)

    def _list(self, listing: Listing) -> None:
        folder, agent = listing.folder, listing.folder.mount.agent
        listed = self._listed.get(agent, 0) - len(listing.entries)
        if listed and listed + len(folder.entries) > LISTED_MAX:
            raise FUSEError(errno.ENFILE)
        listing.entries = [(b".", folder), (b"..", folder.parent), *folder.entries.items()]
        self._listed[agent] = listed + len(listing.entries)

    @request
    def releasedir(self, fh: int) -> None:
        listing = self._listings.pop(fh)
        listing.handle.close()
        agent = listing.folder.mount.agent
        self._listed[agent] = self._listed.get(agent, 0) - len(listing.entries)
        if not self._listed[agent]:
            del self._listed[agent]

    @request
    def fsyncdir(self, fh: int, datasync: bool) -> None:
        del datasync
        folder = self._listings[fh].folder
        folder.mount.store.sync(folder)

    # Numbers

    def _node(self, ino: int) -> Node:
        known = self._known.get(ino)
        if known is None or not known.node.mount.alive:
            raise FUSEError(errno.ESTALE)
        return known.node

    def _folder(self, ino: int) -> Directory:
        node = self._node(ino)
        if not isinstance(node, Directory):
            raise FUSEError(errno.ENOTDIR)
        return node

    def _remember(self, node: Node) -> EntryAttributes:
        """The reply that hands the node to Linux, which will forget it as often as it was told of it."""
        self._count(node)
        return _entry(node)

    def _count(self, node: Node) -> None:
        known = self._known.get(node.ino)
        if known is None:
            self._known[node.ino] = Known(node, 1)
        else:
            known.lookups += 1

    # Judging

    def _who(self, ctx: pyfuse3.RequestContext) -> Who:
        uid = ctx.uid
        return Who(0, ctx.gid) if uid == 0 else self.gate.who(uid, ctx.gid, ctx.pid)

    def _ask(self, ctx: pyfuse3.RequestContext, call: str, parent: Directory, name: bytes) -> None:
        """Check what is recorded only when it is denied."""
        if ctx.uid == 0:
            return
        who, path = self._who(ctx), child_path(parent, name)
        try:
            self.gate.check(who, call, parent.mount.agent, path)
            self.gate.count(who, call.lower(), ((call, parent.mount.agent, path),))
        except CallError as denied:
            self.gate.record(who, call.lower(), parent.mount.agent, path, denied.number)
            raise

    @contextmanager
    def _act(self, ctx: pyfuse3.RequestContext, operation: str,
             *asked: Asked) -> Generator[Who, None, None]:
        """Check, do, record: the path recorded is the one denied, or else the first."""
        who = self._who(ctx)
        if who.uid == 0:
            yield who
            return
        agent, path, number = 0, b"", 0
        try:
            places = [place for one in asked for place in _places(*one)]
            for place in reversed(places):
                _, agent, path = place
                self.gate.check(who, *place)
            self.gate.count(who, operation, places)
            yield who
        except CallError as error:
            number = error.number
            raise
        except Exception:
            number = errno.EIO
            raise
        finally:
            self.gate.record(who, operation, agent, path, number)


def _places(call: str, node: Node, name: bytes | None) -> list[tuple[str, int, bytes]]:
    """What the gate is asked: call, agent and path, of each name, as another name, or none, is no way around a rule."""
    if name is None:
        return [(call, node.mount.agent, path) for path in paths_of(node)]
    assert isinstance(node, Directory), "names are of folders"
    return [(call, node.mount.agent, child_path(node, name))]


def _calls(flags: int, *, created: bool = False) -> list[str]:
    """What an open asks of the gate."""
    calls = ["OPEN"]
    if wants_read(flags):
        calls.append("READ")
    if wants_write(flags) or created:
        calls.append("WRITE")
    if flags & O_TRUNC and not created:
        calls.append("TRUNCATE")
    return calls


def _entry(node: Node) -> EntryAttributes:
    """Attributes as Linux gets them, and how long it may trust them."""
    entry = EntryAttributes()
    made = isinstance(node, SyntheticFile)
    if isinstance(node, SyntheticFile):
        node.refresh()
    fixed = made or (isinstance(node, Directory) and node.fixed)
    entry.entry_timeout = FIXED_TIMEOUT_S if fixed else 0
    entry.attr_timeout = 0 if made else FIXED_TIMEOUT_S
    node.cached = True
    entry.st_ino = pyfuse3.InodeT(node.ino)
    entry.st_mode = pyfuse3.ModeT(node.mode)
    entry.st_nlink = node.nlink
    entry.st_uid = node.uid
    entry.st_gid = node.gid
    entry.st_size = node.size
    entry.st_blksize = BLOCK_BYTES
    entry.st_blocks = -(-node.held_bytes // 512)
    entry.st_atime_ns = node.atime_ns
    entry.st_mtime_ns = node.mtime_ns
    entry.st_ctime_ns = node.ctime_ns
    return entry
