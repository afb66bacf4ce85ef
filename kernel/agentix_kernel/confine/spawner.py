"""The spawner: a single-threaded process that makes zygotes, and mounts of bind sources.

Started by agentd as `python -I -m agentix_kernel.confine.spawner FD`; each message on the SOCK_SEQPACKET channel FD
is a request {id, do, ...} and is answered {id, error, message, ...}. Every walk of a path that may hang, and every
change of the mount table, happens here or below, never in agentd's loop.
"""

import contextlib
import errno
import os
import signal
import socket
import stat
import sys
from collections.abc import Generator
from typing import Any, Final

from agentix_kernel.confine import linux, messages

_CLOSED: Final = os.devnull


class RefusedError(Exception):
    """An answer that explains an errno."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)


def make_zygote(request: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Exec an interpreter as agentd's child in a mount namespace of its own; answers {pid} and its pidfd."""
    flags = linux.CLONE_PARENT | linux.CLONE_NEWNS | (0 if request["own_netns"] else linux.CLONE_NEWNET)
    pid, pidfd = linux.clone(flags)
    if pid == 0:
        try:
            os.set_inheritable(fds[0], True)
            argv = [*request["argv"], str(fds[0])]
            os.execve(argv[0], argv, dict(os.environ))
        finally:
            os._exit(127)
    return {"pid": pid}, [pidfd]


def make_mount(request: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Turn the source `fds[0]` (O_PATH) into a detached mount; answers {directory} and the mount's descriptor."""
    mode, *owner, _, _ = linux.look(fds[0])
    source = request["source"]
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise RefusedError(errno.EINVAL, f"{source} is neither a folder nor a regular file")
    flags = linux.AT_EMPTY_PATH | linux.AT_RECURSIVE | linux.OPEN_TREE_CLONE
    mount_fd = linux.open_tree(fds[0], "", flags)
    quiet = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
    try:
        if request["writable"]:
            _map_owner(mount_fd, quiet, owner, request["uid"], source)
        else:
            linux.mount_setattr(mount_fd, quiet | linux.MOUNT_ATTR_RDONLY, recursive=True)
    except BaseException:
        os.close(mount_fd)
        raise
    return {"directory": stat.S_ISDIR(mode)}, [mount_fd]


def _map_owner(mount_fd: int, attributes: int, owner: list[int], uid: int, source: str) -> None:
    """The source's owner, (uid, gid), is the agent inside, and the other way round; all other owners are nobody."""
    with _user_namespace(f"{owner[0]} {uid} 1", f"{owner[1]} {uid} 1") as userns_fd:
        try:
            linux.mount_setattr(mount_fd, attributes, recursive=True, userns_fd=userns_fd)
        except OSError as error:
            raise RefusedError(error.errno or errno.EIO,
                          f"{source} cannot be bound writable: its file system takes no mapped owners"
                          f" ({error.strerror}); bind it read-only, or move it to ext4, xfs, btrfs or tmpfs") from error


@contextlib.contextmanager
def _user_namespace(uid_map: str, gid_map: str) -> Generator[int]:
    """A descriptor of a new user namespace with these maps: made in a child, which then has done its duty."""
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready_write, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready_write)
    userns_fd = -1
    try:
        if os.read(ready_read, 1) != b"1":
            raise RefusedError(errno.EOPNOTSUPP, "no user namespace can be made, so no folder can be bound writable;"
                                            " see user.max_user_namespaces")
        for name, content in (("uid_map", uid_map), ("gid_map", gid_map)):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(content)
        userns_fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        yield userns_fd
    finally:
        os.close(ready_read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if userns_fd >= 0:
            os.close(userns_fd)


_REQUESTS: Final = {"zygote": make_zygote, "mount": make_mount}


def answer(channel: socket.socket, request: dict[str, Any], fds: list[int]) -> None:
    out: list[int] = []
    try:
        reply, out = _REQUESTS[request["do"]](request, fds)
    except RefusedError as refused:
        reply = {"error": refused.args[0], "message": refused.args[1]}
    except OSError as error:
        reply = {"error": error.errno or errno.EIO, "message": f"{request['do']}: {error.strerror}"}
    messages.send(channel, {"id": request["id"], "error": 0, "message": "", **reply}, out)
    messages.close_all(out)


def main() -> None:
    fd = int(sys.argv[1])
    null = os.open(_CLOSED, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.set_inheritable(fd, False)
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
    channel = socket.socket(fileno=fd)
    while (received := messages.receive(channel)) is not None:
        answer(channel, *received)
        messages.close_all(received[1])


if __name__ == "__main__":
    main()
