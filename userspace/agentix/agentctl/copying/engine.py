"""From a source to a goal, one name after the other: a file that fails does not keep the others from it."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from attrs import define, field

from agentix.agentctl.cli import Failure, complain, explain
from agentix.agentctl.copying.progress import Progress
from agentix.agentctl.format import printable
from agentix_syscalls.errors import CallError

NAMES_MAX: Final = 1_000_000
"""Of one copy. No tree holds so many: who makes them while it is copied would keep the copy from ever ending."""
_HOPELESS: Final = frozenset({errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.EPIPE, errno.ECONNRESET, errno.ESRCH,
                              errno.ESHUTDOWN})
"""What the next file would meet as well."""

Path = tuple[bytes, ...]
"""Names from the top of what is copied; the top itself is ()."""


class Opened(NamedTuple):
    """A file that is being read: permission bits, time, content."""

    mode: int
    mtime_ns: int
    pieces: Iterator[bytes]


class Found(NamedTuple):
    """One name at the source. `kind` is of stat.S_IFMT; only a regular file is opened, only a link has a target."""

    path: Path
    kind: int
    mode: int = 0
    open: Callable[[], Opened] | None = None
    target: Callable[[], bytes] | None = None
    problem: str = ""


class Source(Protocol):
    """Iterated depth first, a folder before what is in it."""

    def __iter__(self) -> Iterator[Found]: ...
    def skip(self) -> None:
        """Do not enter the folder that came last."""
        ...


class Goal(Protocol):
    """Raises OSError or CallError. What it replaces stays until the new one is whole."""

    def folder(self, path: Path, mode: int) -> None: ...
    def file(self, path: Path, opened: Opened) -> None: ...
    def link(self, path: Path, target: bytes) -> None: ...
    def shown(self, path: Path) -> str: ...


@define
class Copying:
    """One copy. `failed` counts the names that could not be copied, each of which was complained of."""

    source: Source
    goal: Goal
    progress: Progress
    failed: int = field(init=False, default=0)

    def run(self) -> None:
        """Raises Failure when it makes no sense to go on."""
        for count, found in enumerate(self.source):
            if count >= NAMES_MAX:
                raise Failure(f"over {NAMES_MAX} names in one copy: what is copied grows meanwhile",
                              remedy="stop the agent with `agentctl stop`, then copy")
            try:
                self._take(found)
            except (OSError, CallError) as error:
                self._failed(found, error)
            self.progress.name()

    def _take(self, found: Found) -> None:
        if found.problem:
            raise OSError(errno.EINVAL, found.problem)
        if found.kind == stat.S_IFDIR:
            self.goal.folder(found.path, found.mode)
        elif found.target is not None:
            self.goal.link(found.path, found.target())
        elif found.open is not None:
            opened = found.open()
            self.goal.file(found.path, opened._replace(pieces=self.progress.count(opened.pieces)))
        else:
            raise OSError(errno.EINVAL, "neither a file nor a folder nor a symbolic link; left out")

    def _failed(self, found: Found, error: OSError | CallError) -> None:
        self.progress.clear()
        number = error.number if isinstance(error, CallError) else error.errno
        why = explain(error) if isinstance(error, CallError) else printable(error.strerror or error)
        message = f"{printable(self.goal.shown(found.path))}: {why}"
        if number in _HOPELESS:
            raise Failure(message) from None
        complain(message)
        self.failed += 1
        if found.kind == stat.S_IFDIR:
            self.source.skip()


def check_name(name: bytes) -> bool:
    """Whether it is one name, and no way up or down. The kernel sends no others; a copy does not depend on it."""
    return name not in {b"", b".", b".."} and b"/" not in name and b"\0" not in name


def umask() -> int:
    """That of this process."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
