"""Files of agents' trees, for operators: through the tree itself, so that its rules and quotas hold for them too.

Its owner and root read all of it, the rest of the group what the modes let them read on the mount as well; what is
written is the agent's, under its uid. No path leads out of the tree, whatever links the agent makes meanwhile.
"""

import errno
import stat as modes
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict

from agentix_kernel.calls.files import who
from agentix_kernel.control import rights
from agentix_kernel.gate import UNRECORDED
from agentix_kernel.process import Process
from agentix_syscalls import calls, records, types
from agentix_syscalls.errors import CallError
from agentix_vfs.handles import FileHandle, GrowingHandle, Handle
from agentix_vfs.incoming import Incoming
from agentix_vfs.nodes import Directory, Node, shown
from agentix_vfs.walk import OutsideError
from agentix_vfs.who import Who

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

PIECE_BYTES: Final = 1 << 20
NAMES_A_PIECE: Final = 2048
_OUTSIDE: Final = ("paths are of the agent's tree, as state/x; for other files of its sandbox use `agentctl exec`, or "
                   "show it a host folder with --bind")


_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM})


@contextmanager
def _asked(client: "Client", process: Process, operation: str, path: bytes, *,
           told: bool = True) -> Generator[None, None, None]:
    """Do it, and record it with who asked when it failed, or is `told`; of looking around, refusals only."""
    number = errno.EIO
    try:
        yield
        number = 0
    except OutsideError as error:
        number = error.number
        raise CallError(number, error.message, remedy=_OUTSIDE) from None
    except CallError as error:
        number = error.number
        raise
    finally:
        if number in _REFUSED if operation.upper() in UNRECORDED else number or told:
            verdict = records.FAILED if number else records.ALLOWED
            client.kernel.record(records.FILE, process, verdict=verdict, data=(
                operation, path.decode("utf-8", "replace")[:512], number, client.peer.shown))
            client.kernel.flush()


def _reader(client: "Client", process: Process) -> Who:
    if rights.owns(client, process):
        return Who(0, 0, process.id)
    return Who(client.peer.uid, client.kernel.tree.group, process.id)


def _attributes(node: Node, target: bytes | None = None) -> dict[str, Any]:
    return {**asdict(node.attributes()), "target": target}


async def stat(client: "Client", target: Any, path: bytes, follow: bool) -> dict[str, Any]:
    process, tree = client.kernel.table.find(target), client.kernel.tree
    with _asked(client, process, "stat", path):
        found = tree.stat(_reader(client, process), path, follow=follow)
        link = tree.readlink(_reader(client, process), path) if modes.S_ISLNK(found.mode) else None
    return {**asdict(found), "target": link}


async def readdir(client: "Client", target: Any, path: bytes, follow: bool) -> AsyncGenerator[list[Any]]:
    process = client.kernel.table.find(target)
    with _asked(client, process, "readdir", path):
        entries = client.kernel.tree.readdir(_reader(client, process), path, follow=follow)
    for first in range(0, len(entries), NAMES_A_PIECE):
        yield entries[first:first + NAMES_A_PIECE]


async def read(client: "Client", target: Any, path: bytes, follow: bool, wait: bool) -> AsyncGenerator[Any]:
    process = client.kernel.table.find(target)
    with _asked(client, process, "open", path):
        handle = client.kernel.tree.open(_reader(client, process), path, calls.O_RDONLY if follow else calls.O_NOFOLLOW)
        if isinstance(handle.node, Directory):
            handle.close()
            raise CallError(errno.EISDIR, f"{shown(handle.node)}: is a directory")
    try:
        yield _attributes(handle.node)
        if handle.blocks:
            if not wait:
                return  # there is nothing in it yet
            await handle.wait()
        at, end = 0, _end(handle)
        while data := handle.read(min(PIECE_BYTES, end - at), at):
            at += len(data)
            yield data
    finally:
        handle.close()


def _end(handle: Handle) -> int:
    """Where to stop: an agent may write on and on while it is read. What is made by the open ends by itself."""
    return handle.size if isinstance(handle, (FileHandle, GrowingHandle)) else types.I63_MAX


async def write(client: "Client", target: Any, path: bytes, data: bytes, offset: int, more: bool, mode: int,
                mtime_ns: int | None) -> None:
    process = client.kernel.table.find(target)
    rights.own(client, process, "write")
    operation = "symlink" if modes.S_ISLNK(mode) else "write"
    with _asked(client, process, operation, path, told=not more):
        # No await from here on: the pieces of a connection follow one another, whichever task has which.
        try:
            file = _incoming(client, process, path, data, offset, mode)
            if modes.S_ISREG(mode):
                file.write(data)
            if not more:
                file.commit(mtime_ns)
                client.incoming = None
        except CallError:
            client.drop_incoming()
            raise


def _incoming(client: "Client", process: Process, path: bytes, data: bytes, offset: int, mode: int) -> Incoming:
    """The file that the piece belongs to: a new one, or the one that this connection is writing."""
    key = process.id, path
    if offset:
        if client.incoming is None or client.incoming[0] != key or client.incoming[1].size != offset:
            raise CallError(errno.EINVAL, f"write: no piece before offset {offset} came on this connection")
        return client.incoming[1]
    client.drop_incoming()
    target = data if modes.S_ISLNK(mode) else b""
    beside = b".agentix-%d" % client.kernel.next_correlation()
    file = client.kernel.tree.receive(who(process), path, mode, beside, target)
    client.incoming = key, file
    return file


async def mkdir(client: "Client", target: Any, path: bytes, mode: int) -> None:
    process = client.kernel.table.find(target)
    rights.own(client, process, "mkdir")
    with _asked(client, process, "mkdir", path):
        client.kernel.tree.mkdir(who(process), path, mode)
