"""HostStore: a folder of the host that mirrors a part of the tree; names, modes, owners and times are the host's own.

Write-through: what was answered is in the host's page cache, so the end of the daemon loses nothing; sync is
fdatasync. A restart reloads the tree by walking. The folder is root's alone (0700), so what agents put into it
(modes, owners, links) matters to nobody but the tree.
"""

import errno
import itertools
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from attrs import define, field

from agentix_syscalls.errors import CallError
from agentix_vfs.linux import exchange
from agentix_vfs.nodes import Directory, File, Mount, Node, Symlink, shown
from agentix_vfs.stores.descriptors import FILE_FLAGS, FOLDER_FLAGS, Descriptors
from agentix_vfs.stores.ram import Quota

_ORPHANS: Final = ".orphans"
_KNOWN: Final = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK}


class Maker(Protocol):
    """Makes nodes for what is found on the host."""

    def blank(self, mount: Mount, mode: int, uid: int, gid: int) -> Node: ...


@contextmanager
def _told(node: Node, name: bytes | None = None) -> Generator[None, None, None]:
    """The host's errors as ours. A file that the host has lost is stale."""
    try:
        yield
    except OSError as error:
        number = errno.ESTALE if error.errno == errno.ENOENT else error.errno or errno.EIO
        raise CallError(number, f"{shown(node, name)}: {os.strerror(number)}") from error


@define(eq=False)
class HostContent:
    """`held_bytes` is the size: the host knows about holes, and answering would cost a call for every stat."""

    store: "HostStore"
    node: File
    size: int = 0
    orphan: bool = False
    """Its last name is gone while it is open: it lies in the orphans' folder."""

    @property
    def held_bytes(self) -> int:
        return self.size

    def read(self, count: int, offset: int) -> bytes:
        with _told(self.node):
            return os.pread(self.store.descriptor(self.node), count, offset)

    def write(self, data: bytes, offset: int) -> int:
        done, size = 0, self.size
        wanted = max(0, offset + len(data) - size) if data else 0
        self.store.quota.take_bytes(wanted)
        try:
            with _told(self.node):
                descriptor = self.store.descriptor(self.node)
                while done < len(data):
                    # A full disk or a limit may take a part; the next round then says why, or takes the rest.
                    done += os.pwrite(descriptor, data[done:] if done else data, offset + done)
                    self.size = max(self.size, offset + done)
        finally:
            self.store.quota.take_bytes(self.size - size - wanted)
        return done

    def truncate(self, size: int) -> None:
        more = max(0, size - self.size)
        self.store.quota.take_bytes(more)
        try:
            with _told(self.node):
                os.ftruncate(self.store.descriptor(self.node), size)
        except CallError:
            self.store.quota.take_bytes(-more)
            raise
        self.store.quota.take_bytes(size - self.size - more)
        self.size = size

    def sync(self) -> None:
        with _told(self.node):
            os.fdatasync(self.store.descriptor(self.node))


@define(eq=False)
class HostStore:
    """`path`: the store's folder, made when something is put into it. `quota` bounds its names and bytes, holes too.

    Made late because an agent's birth is on the clock, and many an agent never writes anything durable.
    """

    path: str
    quota: Quota
    descriptors: Descriptors
    maker: Maker
    _top: Directory = field(init=False)
    _made: bool = field(init=False, default=False)
    _erased: bool = field(init=False, default=False)

    # Reload

    def load(self, root: Directory) -> Iterator[tuple[Directory, bytes, Node]]:
        """Walk the host's folder, without recursion: depth is the agent's choice."""
        self._top = root
        with _told(root):
            if not os.path.lexists(self.path):
                return
            erase_folder(os.path.dirname(self.path).encode(), os.path.basename(self.path + _ORPHANS).encode())
            self._make()
            info = os.stat(self.path, follow_symlinks=False)
            root.atime_ns, root.mtime_ns, root.ctime_ns = info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns
            linked: dict[tuple[int, int], Node] = {}
            folders = [root]
            while folders:
                folder = folders.pop()
                for name in sorted(os.listdir(self._folder(folder))):
                    node = self._found(folder, os.fsencode(name), linked)
                    if node is None:
                        continue
                    yield folder, os.fsencode(name), node
                    if isinstance(node, Directory):
                        folders.append(node)

    def _found(self, folder: Directory, name: bytes, linked: dict[tuple[int, int], Node]) -> Node | None:
        info = os.stat(name, dir_fd=self._folder(folder), follow_symlinks=False)
        if stat.S_IFMT(info.st_mode) not in _KNOWN:
            return None  # not ours: agents cannot make device nodes
        self.quota.inodes_used += 1
        again = linked.get((info.st_dev, info.st_ino))
        if again is not None:
            return again
        node = self.maker.blank(folder.mount, info.st_mode, info.st_uid, info.st_gid)
        node.atime_ns, node.mtime_ns, node.ctime_ns = info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns
        if isinstance(node, File):
            node.content = HostContent(self, node, info.st_size)
            self.quota.bytes_used += info.st_size
        elif isinstance(node, Symlink):
            node.target = os.fsencode(os.readlink(name, dir_fd=self._folder(folder)))
        if info.st_nlink > 1 and not isinstance(node, Directory):
            linked[info.st_dev, info.st_ino] = node
        return node

    # Changes

    def create(self, node: Node, parent: Directory, name: bytes) -> None:
        self.quota.take_inode()
        try:
            with _told(parent, name):
                self._create(node, self._folder(parent), name)
        except CallError:
            self.quota.give_inode()
            raise

    def _create(self, node: Node, folder: int, name: bytes) -> None:
        """Made without rights, then given away: never wider than asked, not even for a moment."""
        mode, kind = stat.S_IMODE(node.mode), stat.S_IFMT(node.mode)
        if isinstance(node, File):
            descriptor = os.open(name, FILE_FLAGS | os.O_CREAT | os.O_EXCL, 0, dir_fd=folder)
            os.fchown(descriptor, node.uid, node.gid)
            os.fchmod(descriptor, mode)
            node.content = HostContent(self, node)
            self.descriptors.keep(node, descriptor)
            return
        if isinstance(node, Symlink):
            os.symlink(node.target, name, dir_fd=folder)
        elif isinstance(node, Directory):
            os.mkdir(name, 0, dir_fd=folder)
        else:
            os.mknod(name, kind, dir_fd=folder)
        os.chown(name, node.uid, node.gid, dir_fd=folder, follow_symlinks=False)
        if not isinstance(node, Symlink):
            os.chmod(name, mode, dir_fd=folder)  # made here, just now, and not a symbolic link

    def link(self, node: Node, parent: Directory, name: bytes) -> None:
        self.quota.take_inode()
        place, old = node.names[0]
        try:
            with _told(parent, name):
                self._folder(parent)
                os.link(old, name, src_dir_fd=self._folder(place), dst_dir_fd=self._folder(parent),
                        follow_symlinks=False)
        except CallError:
            self.quota.give_inode()
            raise

    def unlink(self, node: Node, parent: Directory, name: bytes) -> None:
        with _told(parent, name):
            self._keep_open(node, parent, name)
            if isinstance(node, Directory):
                os.rmdir(name, dir_fd=self._folder(parent))
            else:
                os.unlink(name, dir_fd=self._folder(parent))
        if len(node.names) > 1:
            self.quota.give_inode()

    def _keep_open(self, node: Node, parent: Directory, name: bytes) -> None:
        """The last name of an open file goes: it gets one in the orphans' folder, so no descriptor must be held."""
        if isinstance(node, File) and node.opens and len(node.names) == 1:
            os.link(name, self._orphan(node), src_dir_fd=self._folder(parent), follow_symlinks=False)
            node.content.orphan = True  # type: ignore[attr-defined]  # files of this store have this content

    def _orphan(self, node: Node) -> str:
        return os.path.join(self.path + _ORPHANS, str(node.ino))

    def rename(self, old: tuple[Directory, bytes], new: tuple[Directory, bytes], replaced: Node | None) -> None:
        with _told(*new):
            if replaced is not None:
                self._keep_open(replaced, *new)
            source, goal = self._pair(old[0], new[0])
            os.rename(old[1], new[1], src_dir_fd=source, dst_dir_fd=goal)
        if replaced is not None and len(replaced.names) > 1:
            self.quota.give_inode()

    def exchange(self, old: tuple[Directory, bytes], new: tuple[Directory, bytes]) -> None:
        with _told(*new):
            source, goal = self._pair(old[0], new[0])
            exchange(source, old[1], goal, new[1])

    def _pair(self, first: Directory, second: Directory) -> tuple[int, int]:
        """Descriptors of two folders, both good at the same time: the first is touched again after the second."""
        self._folder(first)
        goal = self._folder(second)
        return self._folder(first), goal

    def apply(self, node: Node) -> None:
        with _told(node):
            if isinstance(node, File):
                descriptor = self.descriptor(node)
                os.fchown(descriptor, node.uid, node.gid)
                os.fchmod(descriptor, stat.S_IMODE(node.mode))
                os.utime(descriptor, ns=(node.atime_ns, node.mtime_ns))
            elif node.names and node is not self._top:
                parent, name = node.names[0]
                folder = self._folder(parent)
                os.chown(name, node.uid, node.gid, dir_fd=folder, follow_symlinks=False)
                if not isinstance(node, Symlink):
                    os.chmod(name, stat.S_IMODE(node.mode), dir_fd=folder)  # known not to be a symbolic link
                os.utime(name, ns=(node.atime_ns, node.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def sync(self, folder: Directory) -> None:
        with _told(folder):
            os.fsync(self._folder(folder))

    def forget(self, node: Node) -> None:
        self.quota.give_inode()
        self.descriptors.drop(node)
        if isinstance(node, File):
            self.quota.take_bytes(-node.content.size)
        if isinstance(node, File) and node.content.orphan:  # type: ignore[attr-defined]  # as above
            with _told(node):
                os.unlink(self._orphan(node))

    def erase(self) -> None:
        """Gone for whoever still holds one of its files. The folder is set aside and erased by the tree: it may hold
        very many names.
        """
        self._erased = True
        self.descriptors.drop_all(self._top.mount)

    # Descriptors

    def descriptor(self, node: File) -> int:
        """An open descriptor of the file, good until the next one is asked for. Raises OSError."""
        descriptor = self.descriptors.find(node)
        if descriptor is None:
            if self._erased:
                raise FileNotFoundError(errno.ENOENT, "the store is gone")  # whatever lies at its path by now
            if node.names:
                parent, name = node.names[0]
                descriptor = os.open(name, FILE_FLAGS, dir_fd=self._folder(parent))
            else:
                descriptor = os.open(self._orphan(node), FILE_FLAGS)
            self.descriptors.keep(node, descriptor)
        return descriptor

    def _make(self) -> None:
        agent, part = os.path.split(self.path)
        for name in (part, part + _ORPHANS):
            make_private(os.path.dirname(agent), os.path.basename(agent), name)
        self._made = True

    def _folder(self, node: Directory) -> int:
        if not self._made and not self._erased:
            self._make()
        return self.descriptors.folder(node, self._top, self.path)


def make_private(path: str, *parts: str) -> str:
    """Make folders below `path` (made too when missing), root's alone (0700); the path of the last. Raises OSError."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    for part in parts:
        path = os.path.join(path, part)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
    return path


def erase_folder(parent: bytes, name: bytes) -> None:
    """Remove `name` in `parent` with all that is in it; nothing when it is missing. Raises OSError.

    Without recursion and with three descriptors, whatever depth an agent has built: folders inside of a subfolder
    are moved up before it is removed. A crash leaves less to do and nothing deeper.
    """
    base = os.open(parent, FOLDER_FLAGS)
    try:
        top = os.open(name, FOLDER_FLAGS, dir_fd=base)
        try:
            while names := os.listdir(top):
                for child in names:
                    _erase_child(top, child)
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=base)
    except FileNotFoundError:
        return
    finally:
        os.close(base)


def _erase_child(top: int, name: str) -> None:
    if not _is_folder(top, name):
        os.unlink(name, dir_fd=top)
        return
    folder = os.open(name, FOLDER_FLAGS, dir_fd=top)
    try:
        for child in os.listdir(folder):
            if _is_folder(folder, child):
                _move_up(folder, child, top)
            else:
                os.unlink(child, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _move_up(folder: int, name: str, top: int) -> None:
    for number in itertools.count():
        try:
            os.rename(name, f"rubbish.{number}", src_dir_fd=folder, dst_dir_fd=top)
        except (FileExistsError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
