"""The agent's side of a copy: its tree, through the control socket."""

import errno
import stat
from collections.abc import Iterator
from typing import Any

from attrs import define, field

from agentix.agentctl.copying.engine import Found, Opened, Path, check_name, umask
from agentix.control import Client
from agentix_syscalls.errors import CallError


def join(base: bytes, path: Path) -> bytes:
    return b"/".join((base, *path)) if base else b"/".join(path) or b"."


def _shown(agent: int | str, base: bytes, path: Path) -> str:
    return f"{agent}:{join(base, path).decode('utf-8', 'backslashreplace')}"


@define
class AgentSource:
    """What lies at `base` in the agent's tree. That name may be a symbolic link; those below it stay links.

    `mode`: its own, with the type. An agent can move a folder into one that is yet to be read, again and again: each
    is entered once.
    """

    client: Client
    agent: int | str
    base: bytes
    mode: int
    _seen: set[int] = field(init=False, factory=set[int])
    _skipped: bool = field(init=False, default=False)

    def skip(self) -> None:
        self._skipped = True

    def __iter__(self) -> Iterator[Found]:
        yield self._found((), self.mode)
        if not stat.S_ISDIR(self.mode) or self._skipped:
            return
        stack: list[tuple[Path, Iterator[tuple[bytes, int, int]]]] = [((), self._names(()))]
        while stack:
            folder, names = stack[-1]
            entry = next(names, None)
            if entry is None:
                stack.pop()
                continue
            found = self._entry(folder, *entry)
            self._skipped = False
            yield found
            if found.kind == stat.S_IFDIR and not self._skipped:
                try:
                    stack.append((found.path, self._names(found.path)))
                except CallError as error:
                    yield Found(found.path, 0, problem=f"cannot be listed: {error.message}")

    def _names(self, folder: Path) -> Iterator[tuple[bytes, int, int]]:
        """Read whole before anything is asked about what is in it: a connection answers one thing at a time."""
        pieces = self.client.stream("readdir", self.agent, join(self.base, folder), not folder)
        return iter([entry for piece in pieces for entry in piece])

    def _entry(self, folder: Path, name: bytes, mode: int, ino: int) -> Found:
        path = (*folder, name)
        if not check_name(name):
            return Found(path, 0, problem="not a name")
        if stat.S_ISDIR(mode):
            if ino in self._seen:
                return Found(path, 0, problem="copied already: it was moved meanwhile")
            self._seen.add(ino)
        return self._found(path, mode)

    def _found(self, path: Path, mode: int) -> Found:
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFREG:
            return Found(path, kind, mode, open=lambda: self._open(path))
        if kind == stat.S_IFLNK:
            return Found(path, kind, mode, target=lambda: self._target(path))
        return Found(path, kind, mode)

    def _open(self, path: Path) -> Opened:
        pieces = self.client.stream("read", self.agent, join(self.base, path), not path)
        attributes: dict[str, Any] = next(pieces)
        return Opened(attributes["mode"], attributes["mtime_ns"], pieces)

    def _target(self, path: Path) -> bytes:
        target = self.client.call("stat", self.agent, join(self.base, path), False)["target"]
        if target is None:
            raise OSError(errno.ESTALE, "no symbolic link any more")
        found: bytes = target
        return found


@define
class AgentGoal:
    """Below `base` in the agent's tree. `preserve`: modes and times of files as they were; else modes less the umask,
    and now.
    """

    client: Client
    agent: int | str
    base: bytes
    preserve: bool = False
    _umask: int = field(init=False, factory=umask)

    def folder(self, path: Path, mode: int) -> None:
        where = join(self.base, path)
        try:
            self.client.call("mkdir", self.agent, where, self._mode(mode) | stat.S_IRWXU)
        except CallError as error:
            if error.number != errno.EEXIST or not self._is_folder(where):
                raise

    def _is_folder(self, where: bytes) -> bool:
        return stat.S_ISDIR(self.client.call("stat", self.agent, where)["mode"])

    def file(self, path: Path, opened: Opened) -> None:
        where, offset = join(self.base, path), 0
        mtime_ns = opened.mtime_ns if self.preserve else None
        piece = next(opened.pieces, b"")
        while True:
            following = next(opened.pieces, b"") if piece else b""
            self.client.call("write", self.agent, where, piece, offset, bool(following), self._mode(opened.mode),
                             mtime_ns)
            if not following:
                return
            offset += len(piece)
            piece = following

    def link(self, path: Path, target: bytes) -> None:
        self.client.call("write", self.agent, join(self.base, path), target, 0, False, stat.S_IFLNK | 0o777)

    def shown(self, path: Path) -> str:
        return _shown(self.agent, self.base, path)

    def _mode(self, mode: int) -> int:
        return mode & 0o777 & ~(0 if self.preserve else self._umask)
