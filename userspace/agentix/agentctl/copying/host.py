"""The host's side of a copy: with the caller's rights, from descriptor to descriptor, through no symbolic link."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from attrs import define, field

from agentix.agentctl.copying.engine import Found, Opened, Path, umask

PIECE_BYTES: Final = 1 << 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@define
class Folders:
    """Descriptors of the folders from a top folder down to the one that was last asked for."""

    top: int
    _names: list[bytes] = field(init=False, factory=list[bytes])
    _open: list[int] = field(init=False, factory=list[int])

    def at(self, path: Path) -> int:
        """A descriptor of the folder, good until the next is asked for. Raises OSError: ELOOP, ENOTDIR for a link."""
        same = 0
        while same < min(len(path), len(self._names)) and path[same] == self._names[same]:
            same += 1
        self._close(same)
        for name in path[same:]:
            self._open.append(os.open(name, _FOLDER, dir_fd=self._open[-1] if self._open else self.top))
            self._names.append(name)
        return self._open[-1] if self._open else self.top

    def close(self) -> None:
        self._close(0)
        os.close(self.top)

    def _close(self, keep: int) -> None:
        while len(self._open) > keep:
            os.close(self._open.pop())
            self._names.pop()


@define
class HostSource:
    """What lies at `path`, which may be a symbolic link; those below it stay links. Raises OSError."""

    path: str
    info: os.stat_result
    _folders: Folders | None = field(init=False, default=None)
    _skipped: bool = field(init=False, default=False)

    def skip(self) -> None:
        self._skipped = True

    def __iter__(self) -> Iterator[Found]:
        if not stat.S_ISDIR(self.info.st_mode):
            yield _file((), self.info, lambda: os.open(self.path, os.O_RDONLY))
            return
        folders = Folders(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            yield Found((), stat.S_IFDIR, self.info.st_mode)
            if not self._skipped:
                yield from self._below(folders)
        finally:
            folders.close()

    def _below(self, folders: Folders) -> Iterator[Found]:
        stack: list[tuple[Path, Iterator[bytes]]] = [((), _names(folders, ()))]
        while stack:
            folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                continue
            found = _look(folders, folder, name)
            self._skipped = False
            yield found
            if found.kind == stat.S_IFDIR and not self._skipped:
                try:
                    stack.append((found.path, _names(folders, found.path)))
                except OSError as error:
                    yield Found(found.path, 0, problem=f"cannot be listed: {error.strerror}")


def _names(folders: Folders, path: Path) -> Iterator[bytes]:
    return iter(sorted(os.fsencode(name) for name in os.listdir(folders.at(path))))


def _look(folders: Folders, folder: Path, name: bytes) -> Found:
    path = (*folder, name)
    try:
        info = os.stat(name, dir_fd=folders.at(folder), follow_symlinks=False)
    except OSError as error:
        return Found(path, 0, problem=f"cannot be read: {error.strerror}")
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        return _file(path, info, lambda: _open_regular(name, folders.at(folder)))
    if kind == stat.S_IFLNK:
        return Found(path, kind, info.st_mode, target=lambda: os.readlink(name, dir_fd=folders.at(folder)))
    return Found(path, kind, info.st_mode)


def _file(path: Path, info: os.stat_result, opener: Callable[[], int]) -> Found:
    """Opened when its first piece is wanted, so that none stays open when nobody wants it."""
    return Found(path, stat.S_IFREG, info.st_mode,
                 open=lambda: Opened(info.st_mode, info.st_mtime_ns, _pieces(opener)))


def _open_regular(name: bytes, folder: int) -> int:
    fd = os.open(name, _FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # swapped since we looked
        os.close(fd)
        raise OSError(errno.ESTALE, "no regular file any more")
    return fd


def _pieces(opener: Callable[[], int]) -> Iterator[bytes]:
    try:
        fd = opener()
    except OSError as error:
        raise OSError(error.errno, f"cannot be read: {error.strerror}") from None
    try:
        while piece := os.read(fd, PIECE_BYTES):
            yield piece
    finally:
        os.close(fd)


@define
class HostGoal:
    """Below the folder that `top` holds, under `base` in it (nothing: straight into it). `close` closes `top` too.

    `preserve`: modes and times as they were, else modes less the umask, and now. Owners are the caller's; setuid and
    setgid bits never come along.
    """

    top: int
    where: str
    """Its path, to show."""
    base: Path = ()
    preserve: bool = False
    _folders: Folders = field(init=False)
    _umask: int = field(init=False, factory=umask)

    def __attrs_post_init__(self) -> None:
        self._folders = Folders(self.top)

    def close(self) -> None:
        self._folders.close()

    def folder(self, path: Path, mode: int) -> None:
        path = (*self.base, *path)
        if not path:
            return
        parent, mode = self._folders.at(path[:-1]), self._mode(mode) | stat.S_IRWXU
        try:
            os.mkdir(path[-1], mode, dir_fd=parent)
        except FileExistsError:
            self._folders.at(path)  # which raises unless it is a folder
            return
        if self.preserve:  # whatever the umask took
            os.fchmod(self._folders.at(path), mode)

    def file(self, path: Path, opened: Opened) -> None:
        """Written beside its place; a symbolic link that has its name is replaced, not followed."""
        path = (*self.base, *path)
        parent, beside = self._folders.at(path[:-1]), _beside()
        _check_replaceable(parent, path[-1])
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            with open(fd, "wb", buffering=0) as file:
                for piece in opened.pieces:
                    _write(file.fileno(), piece)
                os.fchmod(fd, self._mode(opened.mode))
                if self.preserve:
                    os.utime(fd, ns=(opened.mtime_ns, opened.mtime_ns))
            os.rename(beside, path[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(beside, dir_fd=parent)
            raise

    def link(self, path: Path, target: bytes) -> None:
        path = (*self.base, *path)
        parent, beside = self._folders.at(path[:-1]), _beside()
        _check_replaceable(parent, path[-1])
        os.symlink(target, beside, dir_fd=parent)
        try:
            os.rename(beside, path[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(beside, dir_fd=parent)
            raise

    def shown(self, path: Path) -> str:
        return os.path.join(self.where, os.fsdecode(b"/".join((*self.base, *path))))

    def _mode(self, mode: int) -> int:
        return mode & 0o777 & ~(0 if self.preserve else self._umask)


def _beside() -> bytes:
    """A name that nobody has or can foresee."""
    return b".agentix-" + os.urandom(8).hex().encode()


def _check_replaceable(parent: int, name: bytes) -> None:
    """What has the name may be replaced: no device, FIFO or socket of the host ever is. Raises OSError."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "is a folder; it is not replaced by a file")
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise OSError(errno.EEXIST, "is neither a file nor a folder; it is not replaced")


def _write(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])
