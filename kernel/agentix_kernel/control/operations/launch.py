"""Spawning for operators: what they ask is checked, descriptors of binds are theirs."""

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from agentix_kernel import lifecycle
from agentix_kernel.calls.processes import command_of, limits_of, rules_of
from agentix_kernel.policy import DEFAULT_MODE, Policy
from agentix_kernel.runtimes import inforce
from agentix_kernel.world import Bind
from agentix_syscalls import spawn as table
from agentix_syscalls import types
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client


async def spawn(client: "Client", kind: str, argv: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    kernel = client.kernel
    wanted = options.get("binds", ())
    fds = client.take_fds(len(wanted) if type(wanted) in {list, tuple} else 0)
    try:
        binds = tuple(_bind(client, fd, row) for fd, row in zip(fds, wanted, strict=True))
        checked, more = inforce.complete(kernel, table.parse_options(options, by_agent=False))
        fds += [bind.source_fd for bind in more]
        policy = Policy(checked.get("mode", DEFAULT_MODE), rules_of(checked), checked.get("spawn_max", 0))
        command = command_of(kind, argv, checked, binds + more, owner=client.peer.uid)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    process, seq = await lifecycle.spawn(kernel, command, limits_of(checked, kernel.config), policy,
                                         checked.get("name"), None)
    await kernel.settle(seq)
    return {"id": process.id, "life": process.life, "name": process.name, "uid": process.uid}


def _bind(client: "Client", fd: int, row: Any) -> Bind:
    """Check one bind: [target, writable, source path to show]. Writable ones only for who owns the folder."""
    if type(row) not in {list, tuple} or len(row) != 3:
        raise CallError(errno.EINVAL, "spawn: binds: wants [target, writable, source path] for each")
    try:
        target, writable, source = table.absolute(row[0]), types.boolean(row[1]), types.text(row[2])
    except types.BadArgument as bad:
        raise CallError(errno.EINVAL, f"spawn: binds: {bad}") from None
    owner = os.fstat(fd).st_uid
    if writable and client.peer.uid not in {0, owner}:
        raise CallError(errno.EPERM, f"spawn: --bind {source}: you (uid {client.peer.uid}) do not own it (uid {owner} "
                        "does)", remedy="bind it read-only with --bind-ro, or ask its owner")
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        raise CallError(errno.EINVAL, f"spawn: --bind {source}: a symbolic link cannot be bound",
                        remedy="name what it points to")
    return Bind(fd, target, writable, source)
