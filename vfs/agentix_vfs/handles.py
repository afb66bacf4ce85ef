"""Open files. One class for each kind of content; all answer the same few methods.

Rights are judged when a file is opened and stay with the handle, as on Linux, until they are withdrawn.
"""

import errno
import os
from collections.abc import Callable

from attrs import define, field

from agentix_syscalls.errors import CallError
from agentix_vfs.nodes import FILE_MAX_BYTES, Content, File, Node, Rule, shown, too_big
from agentix_vfs.synthetic import Growing, Synthetic, Waiting
from agentix_vfs.who import Who


def tell_nobody(node: Node) -> None:
    """For handles of the mount: Linux knows what it did itself."""


def wants_read(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_WRONLY


def wants_write(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY


@define(eq=False)
class Handle:
    """What OPEN gives. Offsets and counts are bytes, not negative. Every method raises CallError.

    `blocks`: the next read would wait; `await wait()` first (the mount does), or be told EAGAIN.
    `direct`: Linux must not cache its content.
    """

    node: Node
    flags: int
    who: Who
    closed: Callable[["Handle"], None]
    changed: Callable[[Node], None] = tell_nobody
    readable: bool = field(init=False)
    writable: bool = field(init=False)
    blocks: bool = field(init=False, default=False)
    direct: bool = field(init=False, default=True)
    withdrawn: Callable[[], CallError] | None = field(init=False, default=None)
    """Makes what reading or writing answers since the right to it was taken back. No new right gives it to this handle
    again.
    """
    _barred: bool = field(init=False, default=False)
    _open: bool = field(init=False, default=True)

    def __attrs_post_init__(self) -> None:
        self.readable = wants_read(self.flags)
        self.writable = wants_write(self.flags)
        self.node.opens += 1

    def withdraw(self, why: Callable[[], CallError], *, reading: bool) -> None:
        """No more reading, or else no more writing, through this handle."""
        self.withdrawn = why
        if reading:
            self.node.barred += self.readable
            self._barred, self.readable = self.readable or self._barred, False
        else:
            self.writable = False

    @property
    def size(self) -> int:
        return self.node.size

    def read(self, count: int, offset: int) -> bytes:
        del count, offset
        raise CallError(errno.EISDIR, f"{shown(self.node)}: is a directory")

    def write(self, data: bytes, offset: int, *, append: bool = False) -> int:
        del data, offset, append
        raise self._refuse("writing")

    def truncate(self, size: int) -> None:
        del size
        raise CallError(errno.EINVAL, f"{shown(self.node)}: cannot be truncated")

    def sync(self) -> None:
        """Content is on stable storage, as far as there is any to bring there."""

    async def wait(self) -> None:
        """Until a read would not block."""

    def close(self) -> None:
        """Idempotent. The last close of a file without a name gives back what it held."""
        if self._open:
            self._open = self.readable = self.writable = False
            self.node.opens -= 1
            self.node.barred -= self._barred
            self.closed(self)

    def _refuse(self, purpose: str) -> CallError:
        if self.withdrawn is not None:
            return self.withdrawn()
        return CallError(errno.EBADF, f"{shown(self.node)}: not open for {purpose}")


@define(eq=False)
class DirectoryHandle(Handle):
    """A directory, opened to hold or to sync it."""

    def sync(self) -> None:
        self.node.mount.store.sync(self.node)  # type: ignore[arg-type]  # made for directories only


@define(eq=False)
class FileHandle(Handle):
    """A regular file. With O_APPEND, and on an append-only mount, offsets of writes are ignored."""

    now: Callable[[], int] = field(kw_only=True)
    _content: Content = field(init=False)
    _append: bool = field(init=False)
    _written: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        assert isinstance(self.node, File)
        self._content = self.node.content
        # A file that only grows: Linux's own idea of its end may be old, so its cached pages could lie.
        self._append = bool(self.flags & os.O_APPEND) or self.node.mount.rule is Rule.APPEND
        self.direct = (self._append and self.writable) or self.node.barred > 0

    def read(self, count: int, offset: int) -> bytes:
        if not self.readable:
            raise self._refuse("reading")
        return self._content.read(count, offset)

    def write(self, data: bytes, offset: int, *, append: bool = False) -> int:
        if not self.writable:
            raise self._refuse("writing")
        if append or self._append:
            offset = self._content.size
        if offset + len(data) > FILE_MAX_BYTES:
            raise too_big(self.node, offset + len(data))
        count = self._content.write(data, offset)
        node = self.node
        node.mtime_ns = node.ctime_ns = self.now()
        self._written = True
        if node.cached:
            self.changed(node)
        return count

    def truncate(self, size: int) -> None:
        if not self.writable:
            raise self._refuse("writing")
        if self.node.mount.rule is Rule.APPEND:
            raise CallError(errno.EPERM, f"{shown(self.node)}: append-only")
        self._content.truncate(size)
        self.node.mtime_ns = self.node.ctime_ns = self.now()
        self._written = True
        self.changed(self.node)

    def sync(self) -> None:
        self._content.sync()

    def close(self) -> None:
        if self._written and self.node.mount.alive and not self.node.gone:
            self._written = False
            try:
                self.node.mount.store.apply(self.node)  # so that a store with clocks of its own keeps our times
            finally:
                super().close()
        else:
            super().close()


@define(eq=False)
class SyntheticHandle(Handle):
    """Content was made at the open."""

    source: Synthetic = field(kw_only=True)
    _data: bytes = field(init=False, default=b"")

    def __attrs_post_init__(self) -> None:
        if wants_read(self.flags) and self.source.read is not None:
            self._data = self.source.read()
        super().__attrs_post_init__()

    def read(self, count: int, offset: int) -> bytes:
        if not self.readable:
            raise self._refuse("reading")
        return self._data[offset:offset + count]

    def write(self, data: bytes, offset: int, *, append: bool = False) -> int:
        del offset, append
        if not self.writable or self.source.write is None:
            raise self._refuse("writing")
        self.source.write(self.who, data)
        return len(data)

    def truncate(self, size: int) -> None:
        """`echo TERM > signal` truncates first: nothing to do."""


@define(eq=False)
class GrowingHandle(Handle):
    source: Growing = field(kw_only=True)

    @property
    def size(self) -> int:
        return self.source.size()

    def read(self, count: int, offset: int) -> bytes:
        if not self.readable:
            raise self._refuse("reading")
        return self.source.read_at(offset, count)


@define(eq=False)
class WaitingHandle(Handle):
    source: Waiting = field(kw_only=True)
    _data: bytes | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.blocks = True

    def read(self, count: int, offset: int) -> bytes:
        if not self.readable:
            raise self._refuse("reading")
        if self._data is None:
            raise CallError(errno.EAGAIN, f"{shown(self.node)}: nothing has happened yet")
        return self._data[offset:offset + count]

    async def wait(self) -> None:
        if self._data is None and self.readable:
            self._data = await self.source.wait()
            self.blocks = False
