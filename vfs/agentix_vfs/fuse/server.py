"""FuseServer: mounts the tree, answers requests until cancelled, and keeps Linux's caches honest.

What Linux may cache, and why it never lies:
names     fixed folders and synthetic files for good (they cannot change); others not at all, so each use asks.
attributes  until told: a change by a system call invalidates them before the call is answered. That never blocks.
content   as long as modification time and size stay (Linux compares them when it asks for attributes); for those who
          mapped a file its pages are dropped too. Linux may have to wait for one of our replies to do that, so a
          thread asks; yet the change is answered after it, because Linux discards attributes that it asked for
          before it was told, and the first read after the change would go by the old size.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Final

import pyfuse3
import trio
from attrs import define, field

from agentix_vfs import linux
from agentix_vfs.fuse.blocked import Blocked
from agentix_vfs.fuse.gate import Gate
from agentix_vfs.fuse.readiness import BLOCKED_MAX, WORKERS, Readiness, install, replaceable
from agentix_vfs.fuse.requests import Requests
from agentix_vfs.nodes import Directory, File, Node
from agentix_vfs.tree import Tree

_FLAGS: Final = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOATIME
NOTICE_WAIT_S: Final = 0.005
"""How long a change waits for pages to be dropped: enough unless a read of the same page waits for us meanwhile."""
_serving: list["FuseServer"] = []
"""pyfuse3 keeps its session in globals: one mount a process."""


@define(eq=False)
class FuseServer:
    """One mount of the tree. `on_fault(where, traceback)` hears of our own faults; whoever asked got EIO."""

    tree: Tree
    gate: Gate
    on_fault: Callable[[str, str], None]
    readiness: Readiness | None = field(init=False, default=None)
    """How requests are waited for; None where pyfuse3's own way is used."""
    _blocked: Blocked = field(init=False)
    _requests: Requests = field(init=False)
    _notices: ThreadPoolExecutor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._blocked = Blocked(self._hand_over, BLOCKED_MAX)
        self._requests = Requests(self.tree, self.gate, self.on_fault, self._blocked)

    async def run(self, mountpoint: str, *,
                  task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mount at an existing folder, serve until cancelled or unmounted from outside, unmount in any case.

        Started when processes can use the mount. Raises OSError that names the mount point and the remedy.
        """
        with self._session(mountpoint):
            self.tree.watch, self.tree.removed, self.tree.barred = self._changed, self._removed, self._barred
            try:
                task_status.started()
                await pyfuse3.main(max_tasks=WORKERS)
            finally:
                self.tree.watch = self.tree.removed = self.tree.barred = None

    def interrupt(self, agent: int) -> int:
        """Answer the agent's blocked requests with EINTR, in the next turn of the loop; how many there were."""
        return self._blocked.interrupt(agent)

    @contextmanager
    def _session(self, mountpoint: str) -> Generator[None, None, None]:
        if _serving:
            raise OSError(errno.EBUSY, f"this process serves a mount already; {mountpoint} needs a process of its own")
        path = os.path.realpath(mountpoint)
        descriptor = _mount(path)
        _serving.append(self)
        self._notices = ThreadPoolExecutor(1, "fuse-notices")
        undo: Callable[[], None] | None = None
        try:
            pyfuse3.init(self._requests, f"/dev/fd/{descriptor}", set())
            try:
                if replaceable():
                    self.readiness = Readiness(descriptor)
                    undo = install(self.readiness)
                yield
            finally:
                _unmount(path)
                self._notices.shutdown(cancel_futures=True)  # before the session that its thread uses is freed
                pyfuse3.close(unmount=False)  # closes the descriptor
        finally:
            if undo is not None:
                undo()
            _serving.remove(self)

    def _hand_over(self) -> None:
        if self.readiness is not None:
            self.readiness.hand_over()

    # Caches

    def _changed(self, node: Node) -> None:
        """A system call changed the node: have its attributes and pages forgotten before the call is answered."""
        node.cached = False
        if not self._requests.knows(node.ino):
            return
        self._send(partial(pyfuse3.invalidate_inode, pyfuse3.InodeT(node.ino), attr_only=True))
        if isinstance(node, File):
            self._barred([node])

    def _barred(self, nodes: list[Node]) -> None:
        """Have the pages of these files forgotten. One wait for all: an agent may have as many as it likes."""
        dropped = [self._notices.submit(self._send, partial(pyfuse3.invalidate_inode, pyfuse3.InodeT(node.ino)))
                   for node in nodes if self._requests.knows(node.ino)]
        wait(dropped, timeout=NOTICE_WAIT_S)

    def _removed(self, parent: Directory, name: bytes) -> None:
        notice = partial(pyfuse3.invalidate_entry, pyfuse3.InodeT(parent.ino), pyfuse3.FileNameT(name))
        self._notices.submit(self._send, notice)

    def _send(self, notice: Callable[[], None]) -> None:
        try:
            notice()
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTCONN, errno.ENODEV, errno.EBADF}:  # forgotten, or unmounted
                self.on_fault("invalidate", repr(error))


def _mount(path: str) -> int:
    """Mount at `path`; the connection's descriptor. Ours from the start, so it is close-on-exec."""
    _check_mountpoint(path)
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"cannot mount {path}: /dev/fuse: {error.strerror}; "
                      "load the module with `modprobe fuse`, or give the container the device") from error
    data = f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,default_permissions,allow_other"
    try:
        linux.mount("agentix", path, "fuse.agentix", _FLAGS, data)
    except OSError as error:
        os.close(descriptor)
        remedy = "mounting needs root (CAP_SYS_ADMIN)"
        raise OSError(error.errno, f"cannot mount {path}: {error.strerror}; {remedy}") from error
    return descriptor


def _check_mountpoint(path: str) -> None:
    try:
        here, above = os.stat(path), os.stat(os.path.dirname(path))
    except OSError as error:
        remedy = f"a dead mount lies there: `umount -l {path}`" if error.errno == errno.ENOTCONN else "make the folder"
        raise OSError(error.errno, f"cannot mount {path}: {error.strerror}; {remedy}") from error
    if not stat.S_ISDIR(here.st_mode):
        raise OSError(errno.ENOTDIR, f"cannot mount {path}: not a folder; choose another mount point")
    if here.st_dev != above.st_dev or here.st_ino == above.st_ino:
        raise OSError(errno.EBUSY, f"mount point {path} is in use; `umount {path}` or choose another")


def _unmount(path: str) -> None:
    """Detach the mount and end the connection: what waits for an answer of ours, a thread of ours too, goes on."""
    try:
        linux.umount(path, linux.MNT_FORCE | linux.MNT_DETACH)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOENT}:  # unmounted from outside already
            raise
