"""Spawning for operators: what they ask is checked, descriptors of binds are theirs."""

import errno
import stat
from typing import TYPE_CHECKING, Any

from agentix_kernel import descriptors, lifecycle, rebirth
from agentix_kernel.calls.processes import command_of, limits_of
from agentix_kernel.control import rights
from agentix_kernel.control.operations import policies
from agentix_kernel.process import Process
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
        binds = tuple(bind(client, fd, row) for fd, row in zip(fds, wanted, strict=True))
        checked, more = inforce.complete(kernel, table.parse_options(options, by_agent=False))
        fds += [bind.source_fd for bind in more]
        policy = await policies.asked(client, checked)
        policies.check_binds(policy, (*binds, *more))
        command = command_of(kind, argv, checked, binds + more, owner=client.peer.uid)
    except BaseException:
        descriptors.close(kernel, fds)
        raise
    process, seq = await lifecycle.spawn(kernel, command, limits_of(checked, kernel.config, policy), policy,
                                         checked.get("name"), None, table.restart(checked.get("restart", "never")))
    await kernel.settle(seq)
    return {"id": process.id, "life": process.life, "name": process.name, "uid": process.uid}


async def restart(client: "Client", target: Any, count: int) -> dict[str, Any]:
    """The binds stay where they are inside; what they show was opened anew, with the rights of who asks."""
    kernel = client.kernel
    fds = client.take_fds(count)
    try:
        process = kernel.table.find(target)
        rights.own(client, process, "restart")
        known = process.command.binds
        if len(known) != count:
            raise CallError(errno.EINVAL, f"restart: agent {process.id} ({process.name}) has {len(known)} binds, "
                            f"{count} came", remedy="inspect shows them; open each anew")
        binds = tuple(bind(client, fd, (one.target, one.writable, one.source))
                      for fd, one in zip(fds, known, strict=True))
        _check_known(client, process, binds)
    except BaseException:
        descriptors.close(kernel, fds)
        raise
    following = await rebirth.restart(kernel, process, binds)
    return {"id": following.id, "life": following.life, "name": following.name, "uid": following.uid}


def _check_known(client: "Client", process: Process, binds: tuple[Bind, ...]) -> None:
    """The paths are the owner's, who may have led them elsewhere: what another opens there is only bound if it is what
    the owner bound, or root's restart would show their agent what is root's. Raises CallError (ESTALE).
    """
    if client.peer.uid == process.command.owner:
        return
    for bind, known in zip(binds, process.command.binds, strict=True):
        if bind.identity != known.identity:
            raise CallError(errno.ESTALE, f"restart: {known.source} is not what uid {process.command.owner} had bound",
                            remedy="they may restart it themselves")


def bind(client: "Client", fd: int, row: Any) -> Bind:
    """Check one bind: [target, writable, source path to show]. Writable ones only for who owns the folder."""
    if type(row) not in {list, tuple} or len(row) != 3:
        raise CallError(errno.EINVAL, "spawn: binds: wants [target, writable, source path] for each")
    try:
        target, writable, source = table.absolute(row[0]), types.boolean(row[1]), types.text(row[2])
    except types.BadArgument as bad:
        raise CallError(errno.EINVAL, f"spawn: binds: {bad}") from None
    found = descriptors.source(fd, f"--bind {source}")
    owner = found.identity[2]
    if writable and client.peer.uid not in {0, owner}:
        raise CallError(errno.EPERM, f"--bind {source}: you (uid {client.peer.uid}) do not own it (uid {owner} "
                        "does)", remedy="bind it read-only with --bind-ro, or ask its owner")
    if stat.S_ISLNK(found.mode):
        raise CallError(errno.EINVAL, f"--bind {source}: a symbolic link cannot be bound",
                        remedy="name what it points to")
    return Bind(fd, target, writable, source, found.identity)
