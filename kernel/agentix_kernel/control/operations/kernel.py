"""About the kernel itself: its greeting, its layers, its load, its end."""

import errno
import os
from typing import TYPE_CHECKING, Any

from agentix_kernel import about
from agentix_syscalls import wire
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client


async def hello(client: "Client", version: int) -> dict[str, Any]:
    if version != wire.PROTOCOL:
        raise CallError(errno.EPROTO, f"protocol {version}; this kernel speaks {wire.PROTOCOL}",
                        remedy="use the agentctl that was installed with it")
    client.greeted = True
    config = client.kernel.config
    return {"version": wire.PROTOCOL, "pid": os.getpid(), "prefix": config.prefix, "mount": config.mount,
            "state": config.state_dir, "boot": client.kernel.boot, "root": client.peer.uid == 0}


async def doctor(client: "Client") -> list[dict[str, Any]]:
    return client.kernel.layers


async def info(client: "Client") -> dict[str, Any]:
    kernel = client.kernel
    config = kernel.config
    return about.kernel(kernel) | {
        "pid": os.getpid(), "prefix": config.prefix, "mount": config.mount, "state_dir": config.state_dir,
        "config": config.source, "records": kernel.journal.published, "durable": kernel.journal.durable,
        "faults": kernel.faults}


async def shutdown(client: "Client", why: str) -> None:
    client.kernel.stop(why or f"asked by uid {client.peer.uid}")
