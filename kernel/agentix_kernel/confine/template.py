"""What an agent sees of the host: a read-only root made once for each zygote, copied into each agent's own.

The host's programs and libraries, the interpreter with our packages, a chosen part of /etc, a /dev of seven nodes.
Nothing else: no /home, /root, /var, /sys, no host /etc, /run or /tmp.
"""

import os
import stat
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

from agentix_kernel.confine import linux

HIDDEN: Final = "/.agentix"
"""In the template only: where the tree's mount and the sockets' directory are bound; out of every agent's reach."""
HIDDEN_TREE, HIDDEN_SOCKETS = HIDDEN + "/tree", HIDDEN + "/sockets"
HIDDEN_ROOT: Final = HIDDEN + "/root"
"""Where an agent's own root is built."""
ETC_OF_AGENT: Final = ("passwd", "group", "hostname")
"""Files of /etc that differ for each agent: links into RUN_ETC, which is its own."""
RUN_ETC: Final = "/run/etc"

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_OWN: Final = ("/etc", "/dev", "/proc", "/tmp", "/run", "/agent", "/sys", HIDDEN)
_EMPTY_DIRS: Final = ("/proc", "/run", "/run/agentix", RUN_ETC, "/agent")
ETC_FILES: Final = (
    "ld.so.cache", "localtime", "timezone", "nsswitch.conf", "services", "protocols", "mime.types", "os-release",
    "bash.bashrc", "inputrc", "profile", "shells", "python3.11/sitecustomize.py", "debian_version", "ssl/openssl.cnf",
)
ETC_DIRS: Final = ("ssl/certs", "alternatives", "pki/tls/certs", "pki/ca-trust/extracted", "crypto-policies")
ETC_MADE: Final = {"hosts": b"127.0.0.1 localhost\n::1 localhost\n", "resolv.conf": b""}
"""Files of /etc that are the same for all agents and no host's."""
_DEVICES: Final = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
DEVICE_NAMES: Final = (*(name for name, _ in _DEVICES), "tty")
_DEV_LINKS: Final = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                     ("stderr", "/proc/self/fd/2"), ("shm", "/tmp"), ("ptmx", "pts/ptmx"))


class Template(NamedTuple):
    """How to lay out a root: `directories` (parents first), `links` (path, target), `mounts` to move; all absolute."""

    directories: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    mounts: tuple[str, ...]


def python_folders() -> tuple[str, ...]:
    """The folders outside of /usr that this interpreter and its packages live in, none inside another."""
    return outside_of_usr({sys.prefix, sys.base_prefix, *sys.path})


def outside_of_usr(paths: Iterable[str]) -> tuple[str, ...]:
    """Those that are folders and that no agent sees anyway, none inside another."""
    folders = sorted(os.path.normpath(path) for path in paths if path and os.path.isdir(path))
    kept: list[str] = []
    for folder in folders:
        if not any(within(folder, outer) for outer in (*SYSTEM, *kept)):
            kept.append(folder)
    return tuple(kept)


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def in_the_way(target: str, more: tuple[str, ...]) -> str | None:
    """The path whose place in the sandbox is taken, by us or `more`, where nothing may be bound at `target`: neither at
    it nor above or below it, but below /tmp.
    """
    for ours in (*SYSTEM, *_OWN, *more):
        if within(ours, target) or (within(target, ours) and ours != "/tmp"):
            return ours
    return None


def build(tree: str | None, sockets: str | None, binds: list[tuple[str, str]]) -> Template:
    """Make the template of `tree` (a mount point), `sockets` (a directory) and `binds` (source, target), and make it
    this process's root.

    In a mount namespace of our own. Raises OSError.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    links = tuple((path, os.readlink(path)) for path in SYSTEM if os.path.islink(path))
    folders = [path for path in SYSTEM if os.path.isdir(path) and not os.path.islink(path)] + [*python_folders()]
    sources = {path: path for path in folders} | {target: source for source, target in binds}
    folders = list(sources)
    copies = {target: _copy(source, read_only=True) for target, source in sources.items()}
    if tree:
        copies[HIDDEN_TREE] = _copy(tree, read_only=False, recursive=False)
    if sockets:
        copies[HIDDEN_SOCKETS] = _copy(sockets, read_only=False, recursive=False)
    etc_copies = {name: _copy(f"/etc/{name}", read_only=True) for name in ETC_DIRS if os.path.isdir(f"/etc/{name}")}
    etc_files = _read_etc()
    linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=4m,mode=755")
    os.chdir("/tmp")
    for path in (HIDDEN_TREE, HIDDEN_SOCKETS, HIDDEN_ROOT, "/tmp", *_EMPTY_DIRS, "/etc", "/dev"):
        os.makedirs(path[1:], exist_ok=True)
    _make_etc(etc_files, etc_copies)
    _make_dev()
    for path, fd in copies.items():
        _attach(fd, path[1:])
    for path, target in links:
        os.symlink(target, path[1:])
    linux.pivot_root(".", ".")
    linux.umount(".")
    os.chdir("/")
    return Template(_directories((*folders, "/etc", "/dev", *_EMPTY_DIRS)), links, ("/etc", "/dev", *folders))


def _copy(path: str, *, read_only: bool, recursive: bool = True) -> int:
    """A detached copy of the mount below `path`, nosuid and nodev."""
    flags = linux.OPEN_TREE_CLONE | (linux.AT_RECURSIVE if recursive else 0)
    fd = linux.open_tree(linux.AT_FDCWD, path, flags)
    attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | (linux.MOUNT_ATTR_RDONLY if read_only else 0)
    linux.mount_setattr(fd, attributes, recursive=recursive)
    return fd


def _attach(fd: int, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    linux.attach(fd, target)
    os.close(fd)


def _directories(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Those and all above them, parents first; without /tmp, which is mounted before."""
    found: set[str] = set()
    for path in paths:
        parts = path.strip("/").split("/")
        found.update("/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return tuple(sorted(found - {"/tmp"}))


def _read_etc() -> dict[str, bytes | str]:
    """Content by name; a string is a symbolic link's target."""
    files: dict[str, bytes | str] = {**ETC_MADE}
    for name in ETC_FILES:
        path = f"/etc/{name}"
        if os.path.islink(path):
            files[name] = os.readlink(path)
        elif os.path.isfile(path):
            with open(path, "rb") as source:
                files[name] = source.read()
    for name in ETC_OF_AGENT:
        files[name] = f"..{RUN_ETC}/{name}"
    return files


def _make_etc(files: dict[str, bytes | str], folders: dict[str, int]) -> None:
    linux.mount("tmpfs", "etc", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "size=4m,mode=755")
    for name, content in files.items():
        path = f"etc/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(content, str):
            os.symlink(content, path)
        else:
            with open(path, "wb") as target:
                target.write(content)
    for name, fd in folders.items():
        _attach(fd, f"etc/{name}")
    _seal("etc", linux.MS_NODEV | linux.MS_NOEXEC)


def _make_dev() -> None:
    linux.mount("tmpfs", "dev", "tmpfs", linux.MS_NOSUID | linux.MS_NOEXEC, "size=64k,mode=755")
    old_mask = os.umask(0)
    for name, minor in _DEVICES:
        os.mknod(f"dev/{name}", stat.S_IFCHR | 0o666, os.makedev(1, minor))
    os.mknod("dev/tty", stat.S_IFCHR | 0o666, os.makedev(5, 0))
    os.umask(old_mask)
    os.mkdir("dev/pts")
    for name, target in _DEV_LINKS:
        os.symlink(target, f"dev/{name}")
    _seal("dev", linux.MS_NOEXEC)


def _seal(path: str, flags: int) -> None:
    remount = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID
    linux.mount(None, path, None, remount | flags)
