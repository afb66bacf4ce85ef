"""Inodes, the mounts they lie on, and the contract of stores that keep what is in them."""

import enum
import errno
import stat
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from attrs import define, field, frozen

from agentix_syscalls.errors import CallError
from agentix_vfs.synthetic import Entry, Growing

PATH_MAX_BYTES: Final = 4095
BLOCK_BYTES: Final = 512
FILE_MAX_BYTES: Final = 1 << 40


@frozen
class Attributes:
    """What STAT answers. `mode` holds the type; `blocks` are 512 bytes each; times are nanoseconds since 1970."""

    mode: int
    ino: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Rule(enum.Enum):
    """What a mount lets anybody change, root included."""

    ORDINARY = "ordinary"
    APPEND = "append-only"
    READ_ONLY = "read-only"
    FIXED = "fixed"
    """Names are the kernel's (EPERM); its files decide for themselves whether they can be written."""


class Content(Protocol):
    """The bytes of one regular file. Offsets and sizes are in bytes; raises CallError (EDQUOT, EFBIG, ENOSPC ...)."""

    @property
    def size(self) -> int: ...
    @property
    def held_bytes(self) -> int:
        """Bytes that it takes up: holes count nothing where the store has holes."""
        ...
    def read(self, count: int, offset: int) -> bytes:
        """At most `count` bytes from `offset`; shorter at the end, empty past it."""
        ...
    def write(self, data: bytes, offset: int) -> int:
        """All of `data` or an error; a gap before `offset` reads as zeros."""
        ...
    def truncate(self, size: int) -> None: ...
    def sync(self) -> None:
        """What was written is on stable storage, as far as the store has any."""
        ...


class Store(Protocol):
    """Where a mount's nodes live. Each call comes after the checks and before the tree in RAM changes.

    So a store that raises (CallError only) leaves the tree as it was. `names` of a node are those before the call.
    """

    def load(self, root: "Directory") -> Iterator["tuple[Directory, bytes, Node]"]:
        """Everything kept from before, parents first; the caller attaches each before it asks for the next."""
        ...
    def create(self, node: "Node", parent: "Directory", name: bytes) -> None:
        """Keep a new node; gives a File its content."""
        ...
    def link(self, node: "Node", parent: "Directory", name: bytes) -> None: ...
    def unlink(self, node: "Node", parent: "Directory", name: bytes) -> None:
        """Drop a name (of a directory too). A file that is open keeps its content until `forget`."""
        ...
    def rename(self, old: "tuple[Directory, bytes]", new: "tuple[Directory, bytes]", replaced: "Node | None") -> None:
        """Atomic: after a crash `new` is the old or the new file, never neither."""
        ...
    def exchange(self, old: "tuple[Directory, bytes]", new: "tuple[Directory, bytes]") -> None: ...
    def apply(self, node: "Node") -> None:
        """Mode, owner or times of the node have changed."""
        ...
    def sync(self, folder: "Directory") -> None:
        """The folder's names are on stable storage."""
        ...
    def forget(self, node: "Node") -> None:
        """It has no name and is not open: nothing can reach it again."""
        ...
    def erase(self) -> None:
        """Nothing of it can be reached any more, and nothing is held for it."""
        ...


@define(eq=False)
class Mount:
    """A part of an agent's tree with one store and one rule. `agent` 0 is the folder of all agents."""

    agent: int
    rule: Rule
    store: Store
    alive: bool = True


@define(eq=False)
class Node:
    """One inode. `names` are all its places (a directory has one); `ino` is never reused in a kernel's life."""

    ino: int
    mount: Mount
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    names: "list[tuple[Directory, bytes]]" = field(factory=list["tuple[Directory, bytes]"])
    opens: int = 0
    was: bytes = b""
    """Of what is open and has no name any more: the path of its last one, if that could be told."""
    barred: int = 0
    """Handles that may not read it any more: Linux must not keep pages of it, which they would find."""
    cached: bool = False
    """Linux may hold its attributes or pages: a change that did not come through the mount must be told."""

    @property
    def nlink(self) -> int:
        return len(self.names)

    @property
    def size(self) -> int:
        return 0

    @property
    def held_bytes(self) -> int:
        return 0

    @property
    def gone(self) -> bool:
        """No name is left: nothing new can find it."""
        return not self.names

    def attributes(self) -> Attributes:
        blocks = -(-self.held_bytes // BLOCK_BYTES)
        return Attributes(self.mode, self.ino, self.nlink, self.uid, self.gid, self.size, blocks,
                          self.atime_ns, self.mtime_ns, self.ctime_ns)


@define(eq=False)
class File(Node):
    content: Content = field(init=False)

    @property
    def size(self) -> int:
        return self.content.size

    @property
    def held_bytes(self) -> int:
        return self.content.held_bytes


@define(eq=False)
class Directory(Node):
    """`top`: an agent's root, or the root of all: ".." ends there. `fixed`: can be neither renamed nor removed."""

    entries: dict[bytes, Node] = field(factory=dict[bytes, Node])
    top: bool = False
    fixed: bool = False
    subdirectories: int = 0

    @property
    def parent(self) -> "Directory":
        return self.names[0][0] if self.names else self

    @property
    def nlink(self) -> int:
        return 2 + self.subdirectories if self.names or self.top else 0

    @property
    def gone(self) -> bool:
        return not self.names and not self.top


@define(eq=False)
class Symlink(Node):
    target: bytes = b""

    @property
    def size(self) -> int:
        return len(self.target)


@define(eq=False)
class Special(Node):
    """A FIFO or a socket: a name here, the data path is Linux's own."""


@define(eq=False)
class SyntheticFile(Node):
    """Times move when a growing file has grown since somebody looked."""

    entry: Entry = field(kw_only=True)
    now: Callable[[], int] = field(kw_only=True)
    _seen: int = 0

    @property
    def size(self) -> int:
        return self._seen

    def refresh(self) -> None:
        """Ask a growing file for its size."""
        if isinstance(self.entry, Growing):
            size = self.entry.size()
            if size != self._seen:
                self._seen = size
                self.mtime_ns = self.ctime_ns = self.now()

    def attributes(self) -> Attributes:
        self.refresh()
        return super().attributes()


def path_of(node: Node) -> bytes:
    """Path of the node (its first name) from its agent's root, starting with "/". Raises ENAMETOOLONG, ESTALE."""
    parts: list[bytes] = []
    length = 0
    while not (isinstance(node, Directory) and node.top):
        if not node.names:
            raise CallError(errno.ESTALE, f"inode {node.ino} has no name any more")
        node, name = node.names[0]
        parts.append(name)
        length += len(name) + 1
        if length > PATH_MAX_BYTES:
            raise CallError(errno.ENAMETOOLONG, f"a path below {name!r} is over {PATH_MAX_BYTES} bytes")
    return b"/" + b"/".join(reversed(parts))


def child_path(parent: Directory, name: bytes) -> bytes:
    """Path that `name` has, or would have, in `parent`. Raises ENAMETOOLONG, ESTALE."""
    head = path_of(parent)
    path = head + name if len(head) == 1 else head + b"/" + name
    if len(path) > PATH_MAX_BYTES:
        raise CallError(errno.ENAMETOOLONG, f"the path of {name!r} is over {PATH_MAX_BYTES} bytes")
    return path


def paths_of(node: Node) -> list[bytes]:
    """The path of each of its names; of what is open and has none any more, that of its last one. Raises ENAMETOOLONG,
    ESTALE.
    """
    if node.names and not (isinstance(node, Directory) and node.top):
        return [child_path(parent, name) for parent, name in node.names]
    return [node.was or path_of(node)]


def shown(node: Node, name: bytes | None = None) -> str:
    """How errors name a node, or `name` in it."""
    try:
        path = path_of(node)
    except CallError:
        path = b"(gone)"
    if name is not None:
        path = path.rstrip(b"/") + b"/" + name
    prefix = f"/agent/{node.mount.agent}" if node.mount.agent else "/agent"
    return prefix + path.decode(errors="backslashreplace")


def too_big(node: Node, size: int) -> CallError:
    return CallError(errno.EFBIG, f"{shown(node)}: {size} bytes are over the limit of {FILE_MAX_BYTES}")


def is_kind(node: Node, kind: int) -> bool:
    """Whether the node is of type `kind` (stat.S_IFREG ...)."""
    return stat.S_IFMT(node.mode) == kind
