"""The tree of all agents, and its door for system calls. FUSE is the other door (fuse/); both change the same inodes.

/agent                     0750 root:group; below it by-name/<name> -> ../<id>, and for each agent
/agent/<id>                2750 <uid>:group
mem/working/           RAM within a quota, gone with the agent or the kernel
mem/episodic/          append-only, durable
state/                 durable
policy/ ipc/           read-only
proc/                  synthetic
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from typing import Final

from attrs import define, evolve, field, frozen

from agentix_syscalls.calls import O_ACCMODE, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_TRUNC, OPEN_FLAGS
from agentix_syscalls.errors import CallError
from agentix_vfs.handles import Handle, wants_read, wants_write
from agentix_vfs.incoming import Incoming
from agentix_vfs.inodes import Inodes
from agentix_vfs.nodes import Attributes, Directory, Mount, Node, Rule, Store, Symlink, child_path, path_of, shown
from agentix_vfs.stores.descriptors import Descriptors
from agentix_vfs.stores.host import HostStore, make_private
from agentix_vfs.stores.ram import Quota, RamStore
from agentix_vfs.synthetic import Entry
from agentix_vfs.walk import Place, plain, walk
from agentix_vfs.who import READ, SEARCH, WRITE, Who, permits

UNLIMITED: Final = 1 << 62
_OUTER_FOLDER: Final = stat.S_IFDIR | 0o750
_FOLDER: Final = stat.S_IFDIR | stat.S_ISGID | 0o750
_READ_ONLY_FOLDER: Final = stat.S_IFDIR | stat.S_ISGID | 0o550
_ROOT: Final = Who(0, 0)
_ASIDE: Final = "removed"
"""Folder of the host root for the files of removed agents, until they are erased."""


@frozen
class _Agent:
    root: Directory
    link: bytes
    """Its name below by-name/."""
    mounts: list[Mount]
    quotas: tuple[Quota, ...]


@define(eq=False)
class Tree:
    """All agents' files. `host_root`: folder for what is durable, `<host_root>/agents/<id>/`; None: all in RAM.

    `group`: the gid that may look at agents' trees. `now`: nanoseconds since 1970. Quotas are one agent's:
    of mem/working in bytes and names (`quota_*`), of state and episodic together likewise (`durable_*`).
    Every method raises CallError.
    """

    host_root: str | None
    group: int = field(default=0, kw_only=True)
    now: Callable[[], int] = field(default=time.time_ns, kw_only=True)
    quota_bytes: int = field(default=64 << 20, kw_only=True)
    quota_inodes: int = field(default=4096, kw_only=True)
    durable_bytes: int = field(default=1 << 30, kw_only=True)
    durable_inodes: int = field(default=1 << 17, kw_only=True)
    inodes: Inodes = field(init=False)
    root: Directory = field(init=False)
    watch: Callable[[Node], None] | None = field(init=False, default=None)
    """Told of nodes that system calls changed and Linux may have cached; the mount sets it."""
    barred: Callable[[list[Node]], None] | None = field(init=False, default=None)
    """Told of files that some handles may not read any more, so that Linux keeps nothing of them; the mount sets it."""
    removed: Callable[[Directory, bytes], None] | None = field(init=False, default=None)
    """Told of names in fixed folders that are gone; the mount sets it."""
    _agents: dict[int, _Agent] = field(init=False, factory=dict[int, _Agent])
    _by_name: Directory = field(init=False)
    _skeleton: RamStore = field(init=False)
    _descriptors: Descriptors = field(init=False, factory=Descriptors)

    def __attrs_post_init__(self) -> None:
        self.inodes = Inodes(self.now)
        self._skeleton = RamStore(Quota(UNLIMITED, UNLIMITED))
        mount = Mount(0, Rule.FIXED, self._skeleton)
        self.root = self._directory(mount, _OUTER_FOLDER, 0)
        self.root.top = True
        self._by_name = self._place(self._directory(mount, _OUTER_FOLDER, 0), self.root, "by-name")
        if self.host_root is not None:
            make_private(self.host_root, "agents")

    # Agents

    def add(self, agent: int, uid: int, name: str, *, proc: Mapping[str, Entry],
            policy: Mapping[str, Entry]) -> Directory:
        """Make an agent's tree, or reload what is durable of it; its root. EEXIST when the id or the name is taken."""
        if agent in self._agents:
            raise CallError(errno.EEXIST, f"agent {agent} has a tree already")
        link = name.encode()
        if link in self._by_name.entries:
            raise CallError(errno.EEXIST, f"the name {name} is taken")
        quotas = Quota(self.quota_bytes, self.quota_inodes), Quota(self.durable_bytes, self.durable_inodes)
        mounts: list[Mount] = []
        root = self._build(agent, uid, mounts, quotas)
        for part, entries in (("policy", policy), ("proc", proc)):
            folder = root.entries[part.encode()]
            assert isinstance(folder, Directory)
            for file, entry in entries.items():
                node = self.inodes.synthetic(folder.mount, entry, uid, self.group)
                self.inodes.attach(node, folder, file.encode())
        self.inodes.attach(root, self.root, b"%d" % agent)
        symlink = self.inodes.blank(self._by_name.mount, stat.S_IFLNK | 0o777, 0, self.group)
        assert isinstance(symlink, Symlink)
        symlink.target = b"../%d" % agent
        self.inodes.attach(symlink, self._by_name, link)
        self._agents[agent] = _Agent(root, link, mounts, quotas)
        self._changed(self.root, self._by_name)
        return root

    def remove(self, agent: int) -> None:
        """All of it gone from the tree, its host files set aside to be erased. Handles that are still open answer
        ESTALE or what they hold. ESRCH.
        """
        root, link, mounts = self._agent(agent), self._agents[agent].link, self._agents[agent].mounts
        del self._agents[agent]
        self.inodes.detach(root, self.root, b"%d" % agent)
        self.inodes.detach(self._by_name.entries[link], self._by_name, link)
        for mount in mounts:
            mount.alive = False
            if mount.store is not self._skeleton:
                mount.store.erase()
        self._changed(self.root, self._by_name)
        if self.removed is not None:
            self.removed(self.root, b"%d" % agent)
        if self.host_root is not None:
            self._set_aside(self.host_root, str(agent))

    def _set_aside(self, host_root: str, agent: str) -> None:
        aside = make_private(host_root, _ASIDE)
        try:
            os.rename(os.path.join(host_root, "agents", agent), os.path.join(aside, agent))
        except FileNotFoundError:
            return  # it never had any
        except OSError as error:
            raise CallError(error.errno or errno.EIO, f"/agent/{agent}: its files are not removed: {error}") from error

    def aside(self) -> list[str]:
        """Paths of the host folders of removed agents that are not erased yet, of a kernel that died meanwhile too."""
        if self.host_root is None:
            return []
        folder = os.path.join(self.host_root, _ASIDE)
        try:
            return [os.path.join(folder, name) for name in os.listdir(folder)]
        except FileNotFoundError:
            return []

    def rename_agent(self, agent: int, name: str) -> None:
        """Its link below by-name/ has another name. EEXIST, ESRCH."""
        self._agent(agent)
        known, link = self._agents[agent], name.encode()
        if link in self._by_name.entries:
            raise CallError(errno.EEXIST, f"the name {name} is taken")
        node = self._by_name.entries[known.link]
        self.inodes.detach(node, self._by_name, known.link)
        self.inodes.attach(node, self._by_name, link)
        self._agents[agent] = evolve(known, link=link)
        self._changed(self._by_name)

    def held(self, agent: int) -> tuple[int, int]:
        """Bytes and names that the agent's files take up, in memory and on the host. ESRCH."""
        self._agent(agent)
        quotas = self._agents[agent].quotas
        return sum(quota.bytes_used for quota in quotas), sum(quota.inodes_used for quota in quotas)

    def retire(self, agent: int) -> None:
        """The agent has ended: its scratch memory goes with it, whatever else of its tree stays. ESRCH."""
        mem = self._agent(agent).entries[b"mem"]
        assert isinstance(mem, Directory)
        working = mem.entries[b"working"]
        assert isinstance(working, Directory)
        folders = [working]
        for folder in folders:  # grows while it is walked: parents before children
            folders += (node for node in folder.entries.values() if isinstance(node, Directory))
        for folder in reversed(folders):
            for name, node in list(folder.entries.items()):
                if isinstance(node, Directory):
                    self.inodes.rmdir(folder, name)
                else:
                    self.inodes.unlink(folder, name)
        self._changed(working)

    def has(self, agent: int) -> bool:
        return agent in self._agents

    def root_of(self, agent: int) -> Directory:
        return self._agent(agent)

    def _agent(self, agent: int) -> Directory:
        found = self._agents.get(agent)
        if found is None:
            raise CallError(errno.ESRCH, f"no tree of an agent {agent}")
        return found.root

    def _build(self, agent: int, uid: int, mounts: list[Mount], quotas: tuple[Quota, Quota]) -> Directory:
        scratch, durable = quotas
        fixed = Mount(agent, Rule.FIXED, self._skeleton)
        read_only = Mount(agent, Rule.READ_ONLY, self._skeleton)
        working = Mount(agent, Rule.ORDINARY, RamStore(scratch))
        episodic = Mount(agent, Rule.APPEND, self._durable(agent, "episodic", durable))
        state = Mount(agent, Rule.ORDINARY, self._durable(agent, "state", durable))
        mounts += fixed, read_only, working, episodic, state
        root = self._directory(fixed, _FOLDER, uid)
        root.top = True
        mem = self._place(self._directory(fixed, _FOLDER, uid), root, "mem")
        self._place(self._directory(working, _FOLDER, uid), mem, "working")
        self._load(self._place(self._directory(episodic, _FOLDER, uid), mem, "episodic"))
        self._load(self._place(self._directory(state, _FOLDER, uid), root, "state"))
        for mount, part in ((read_only, "policy"), (read_only, "ipc"), (fixed, "proc")):
            self._place(self._directory(mount, _READ_ONLY_FOLDER, uid), root, part)
        return root

    def _directory(self, mount: Mount, mode: int, uid: int) -> Directory:
        node = self.inodes.blank(mount, mode, uid, self.group)
        assert isinstance(node, Directory)
        node.fixed = True
        return node

    def _place(self, node: Directory, parent: Directory, name: str) -> Directory:
        self.inodes.attach(node, parent, name.encode())
        return node

    def _durable(self, agent: int, part: str, quota: Quota) -> Store:
        if self.host_root is None:
            return RamStore(quota)
        path = os.path.join(self.host_root, "agents", str(agent), part)
        return HostStore(path, quota, self._descriptors, self.inodes)

    def _load(self, folder: Directory) -> None:
        for parent, name, node in folder.mount.store.load(folder):
            self.inodes.attach(node, parent, name)

    # The door for system calls

    def open(self, who: Who, path: bytes, flags: int, mode: int = 0o644) -> Handle:
        """Open or make a file. `flags` are those of the call table (else EINVAL). New files are the caller's."""
        if flags & ~OPEN_FLAGS or flags & O_ACCMODE == O_ACCMODE:
            raise CallError(errno.EINVAL, f"open: unknown flags {flags & ~OPEN_FLAGS:#o}")
        fresh_only = flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL
        place = walk(who, self._agent(who.agent), path, follow=not (flags & O_NOFOLLOW or fresh_only))
        node = place.node
        if node is None:
            return self._open_new(who, place, flags, mode)
        if fresh_only:
            raise CallError(errno.EEXIST, f"{shown(node)}: exists already")
        if isinstance(node, Symlink):
            raise CallError(errno.ELOOP, f"{shown(node)}: is a symbolic link")
        if flags & O_DIRECTORY or place.folder:
            _require_folder(node)
        if isinstance(node, Directory) and flags & O_CREAT:
            raise CallError(errno.EISDIR, f"{shown(node)}: is a directory")
        wanted = READ * wants_read(flags) | WRITE * (wants_write(flags) or bool(flags & O_TRUNC))
        _require(who, node, wanted)
        return self.inodes.open(who, node, flags, self._changed)

    def _open_new(self, who: Who, place: Place, flags: int, mode: int) -> Handle:
        if not flags & O_CREAT:
            raise _missing(place)
        if place.folder or flags & O_DIRECTORY:
            raise CallError(errno.EISDIR, f"{shown(place.parent, place.name)}: a file cannot be named so")
        _require(who, place.parent, WRITE | SEARCH)
        node = self.inodes.make(who, place.parent, place.name, stat.S_IFREG | stat.S_IMODE(mode))
        self._changed(place.parent)
        return self.inodes.open(who, node, flags, self._changed, fresh=True)

    def stat(self, who: Who, path: bytes, *, follow: bool = True) -> Attributes:
        return self._find(who, path, follow=follow).attributes()

    def readdir(self, who: Who, path: bytes, *, follow: bool = True) -> list[tuple[bytes, int, int]]:
        """(name, mode with type, ino) of each entry, without "." and ".."."""
        folder = _require_folder(self._find(who, path, follow=follow))
        _require(who, folder, READ)
        return [(name, node.mode, node.ino) for name, node in folder.entries.items()]

    def mkdir(self, who: Who, path: bytes, mode: int = 0o755) -> None:
        place = walk(who, self._agent(who.agent), path, follow=False)
        if place.node is not None:
            raise CallError(errno.EEXIST, f"{shown(place.node)}: exists already")
        _require(who, place.parent, WRITE | SEARCH)
        self.inodes.make(who, place.parent, place.name, stat.S_IFDIR | stat.S_IMODE(mode))
        self._changed(place.parent)

    def receive(self, who: Who, path: bytes, mode: int, beside: bytes, target: bytes = b"") -> Incoming:
        """Begin what takes this path when it is whole: a regular file, or a symbolic link to `target` (type in `mode`).

        A symbolic link that lies there is followed by a file, and replaced by a link. EISDIR for a directory's path.
        """
        place = walk(who, self._agent(who.agent), path, follow=not stat.S_ISLNK(mode))
        if place.folder or isinstance(place.node, Directory):
            raise CallError(errno.EISDIR, f"{shown(place.parent, place.name)}: a file cannot be named so")
        _require(who, place.parent, WRITE | SEARCH)
        if place.node is not None:
            _require_sticky(who, place.parent, place.node)
        return Incoming(self.inodes, who, place.parent, place.name, mode, beside, self._changed, target)

    def readlink(self, who: Who, path: bytes) -> bytes:
        node = self._find(who, path, follow=False)
        if not isinstance(node, Symlink):
            raise CallError(errno.EINVAL, f"{shown(node)}: is not a symbolic link")
        return node.target

    def unlink(self, who: Who, path: bytes) -> None:
        """Remove a name; EISDIR for a directory."""
        place = self._removable(who, path)
        self._changed(place.parent, self.inodes.unlink(place.parent, place.name))

    def rmdir(self, who: Who, path: bytes) -> None:
        place = self._removable(who, path)
        self._changed(place.parent, self.inodes.rmdir(place.parent, place.name))

    def rename(self, who: Who, old: bytes, new: bytes, flags: int = 0) -> None:
        source = self._removable(who, old)
        root = self._agent(who.agent)
        goal = walk(who, root, new, follow=False)
        if goal.name == b"." or _ends_in_dots(new):
            raise CallError(errno.EBUSY, f"{shown(goal.parent)}: cannot be renamed over")
        _require(who, goal.parent, WRITE | SEARCH)
        if goal.node is not None:
            _require_sticky(who, goal.parent, goal.node)
        if goal.folder and not isinstance(source.node, Directory):
            raise CallError(errno.ENOTDIR, f"{shown(source.parent, source.name)}: is not a directory")
        self.inodes.rename((source.parent, source.name), (goal.parent, goal.name), flags)
        self._changed(*(node for node in (source.parent, goal.parent, source.node, goal.node) if node is not None))

    def truncate(self, who: Who, path: bytes, size: int) -> None:
        node = self._find(who, path)
        _require(who, node, WRITE)
        self.inodes.truncate(node, size)
        self._changed(node)

    def exists(self, agent: int, path: bytes) -> bool:
        """Whether the path leads to something. No mode bits are asked."""
        return walk(_ROOT, self._agent(agent), path, follow=True).node is not None

    def rule(self, agent: int, path: bytes) -> Rule:
        """How the part of the tree is kept in which a path lies, whatever mode bits say."""
        place = walk(_ROOT, self._agent(agent), path, follow=True)
        return (place.node or place.parent).mount.rule

    def canonical(self, agent: int, path: bytes, *, follow: bool = True) -> bytes:
        """The path from the agent's root after ".", ".." and symbolic links, as rules know it: b"/mem/working/x".

        What the last part names may be missing; a symbolic link there is followed unless the call would not. No mode
        bits are asked.
        """
        root = self._agent(agent)
        usual = plain(root, path)
        if usual is not None:
            return usual
        place = walk(_ROOT, root, path, follow=follow)
        return path_of(place.parent) if place.name == b"." else child_path(place.parent, place.name)

    def _find(self, who: Who, path: bytes, *, follow: bool = True) -> Node:
        place = walk(who, self._agent(who.agent), path, follow=follow)
        if place.node is None:
            raise _missing(place)
        if place.folder:
            _require_folder(place.node)
        return place.node

    def _removable(self, who: Who, path: bytes) -> Place:
        place = walk(who, self._agent(who.agent), path, follow=False)
        if place.node is None:
            raise _missing(place)
        if place.name == b"." or _ends_in_dots(path):
            raise CallError(errno.EINVAL, f"{shown(place.parent)}: not by this path")
        if place.folder:
            _require_folder(place.node)
        _require(who, place.parent, WRITE | SEARCH)
        _require_sticky(who, place.parent, place.node)
        return place

    def _changed(self, *nodes: Node) -> None:
        if self.watch is not None:
            for node in nodes:
                if node.cached:
                    self.watch(node)


def _ends_in_dots(path: bytes) -> bool:
    """Such a path names no entry: Linux removes and renames nothing by it."""
    return path.rstrip(b"/").rpartition(b"/")[2] in {b".", b".."}


def _missing(place: Place) -> CallError:
    return CallError(errno.ENOENT, f"{shown(place.parent, place.name)}: does not exist")


def _require(who: Who, node: Node, wanted: int) -> None:
    if wanted & WRITE and node.mount.rule is Rule.READ_ONLY:  # before the mode bits, as Linux does (sb_permission)
        raise CallError(errno.EROFS, f"{shown(node)}: that part of the tree is read-only")
    if not permits(who, node, wanted):
        raise CallError(errno.EACCES, f"{shown(node)}: permission denied (mode {stat.S_IMODE(node.mode):o})")


def _require_folder(node: Node) -> Directory:
    if not isinstance(node, Directory):
        raise CallError(errno.ENOTDIR, f"{shown(node)}: is not a directory")
    return node


def _require_sticky(who: Who, parent: Directory, node: Node) -> None:
    """In a sticky folder only the owner of the file or of the folder may take the name away."""
    if parent.mode & stat.S_ISVTX and who.uid not in {0, node.uid, parent.uid}:
        raise CallError(errno.EPERM, f"{shown(node)}: the folder is sticky")
