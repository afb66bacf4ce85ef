"""Path walking for system calls: from an agent's root, never above it.

`path` is what the agent sees in its sandbox: relative to its root, or absolute below /agent/<id> or /agent/self.
".." stops at the root when the caller wrote it; a symbolic link that leads above the root is refused.
"""

import errno
from typing import Final

from attrs import frozen

from agentix_syscalls.errors import CallError
from agentix_vfs.nodes import Directory, Node, Symlink, shown
from agentix_vfs.who import SEARCH, Who, permits

LINKS_MAX: Final = 40
NAME_MAX_BYTES: Final = 255
_NO_NAMES: Final = frozenset({b"", b".", b".."})
_UP: Final = b".."
_UP_BY_LINK: Final = b"/.."
"""".." that came out of a symbolic link; no name holds a slash, so it cannot be mistaken."""


class OutsideError(CallError):
    """EACCES: the path is none of the agent's own tree."""

    def __init__(self, path: bytes) -> None:
        super().__init__(errno.EACCES, f"{path.decode(errors='backslashreplace')}: outside of the agent's own tree",
                         remedy="use a relative path, or one below /agent/self")


@frozen
class Place:
    """Where a path leads: `name` in `parent`, and what is there. A root, and what ".." led to, is b"." in itself."""

    parent: Directory
    name: bytes
    node: Node | None
    folder: bool
    """The path ends in a slash or a dot: only a directory will do."""


def walk(who: Who, root: Directory, path: bytes, *, follow: bool) -> Place:
    """Find a path; what its last part names may be missing.

    Raises ENOENT, ENOTDIR, ELOOP, EACCES for mode bits, and OutsideError for what leads out of the agent's own tree.
    """
    todo = _parts(root, path, path)
    folder = _ends_in_folder(path)
    here, links = root, 0
    while todo:
        name = todo.pop()
        if name is _UP or name is _UP_BY_LINK:
            here = _up(here, path, by_link=name is _UP_BY_LINK)
            continue
        node = _step(who, here, name)
        if isinstance(node, Symlink) and (todo or follow or folder):
            links += 1
            if links > LINKS_MAX:
                raise CallError(errno.ELOOP, f"{shown(here, name)}: too many symbolic links")
            folder = folder or (not todo and _ends_in_folder(node.target))
            if node.target.startswith(b"/"):
                here = root
            todo += [_UP_BY_LINK if part is _UP else part for part in _parts(root, node.target, path)]
        elif todo:
            here = _enter(here, name, node)
        else:
            return Place(here, name, node, folder)
    return Place(here, b".", here, folder=True)


def plain(root: Directory, path: bytes) -> bytes | None:
    """The path from the agent's root when it is relative, folders lead to its last name, and no dots or links are
    in it: the usual case, and a third of a walk. None: it must be walked, or leads nowhere.
    """
    if len(path) > NAME_MAX_BYTES:
        return None
    *folders, last = path.split(b"/")
    here: Node | None = root
    for name in folders:
        here = here.entries.get(name) if isinstance(here, Directory) else None
    if not isinstance(here, Directory) or last in _NO_NAMES or isinstance(here.entries.get(last), Symlink):
        return None
    return b"/" + path


def _parts(root: Directory, path: bytes, asked: bytes) -> list[bytes]:
    """Parts of the path below the root, the first one last. Raises EACCES for other absolute paths."""
    parts = [_UP if part == b".." else part for part in path.split(b"/") if part not in {b"", b"."}]
    if path.startswith(b"/"):
        own = {b"self", b"%d" % root.mount.agent}
        if len(parts) < 2 or parts[0] != b"agent" or parts[1] not in own:
            raise OutsideError(asked)
        del parts[:2]
    parts.reverse()
    return parts


def _ends_in_folder(path: bytes) -> bool:
    return path.rpartition(b"/")[2] in _NO_NAMES


def _up(here: Directory, path: bytes, *, by_link: bool) -> Directory:
    if not here.top:
        return here.parent
    if by_link:
        raise OutsideError(path)
    return here


def _step(who: Who, here: Directory, name: bytes) -> Node | None:
    if not permits(who, here, SEARCH):
        raise CallError(errno.EACCES, f"{shown(here)}: permission denied")
    if len(name) > NAME_MAX_BYTES:
        raise CallError(errno.ENAMETOOLONG, f"{name[:16]!r}...: a name is over 255 bytes")
    return here.entries.get(name)


def _enter(here: Directory, name: bytes, node: Node | None) -> Directory:
    if node is None:
        raise CallError(errno.ENOENT, f"{shown(here, name)}: does not exist")
    if not isinstance(node, Directory):
        raise CallError(errno.ENOTDIR, f"{shown(node)}: is not a directory")
    return node
