"""About the kernel itself: its greeting, its layers, its load, its end."""

import errno
import os
import resource
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
        "faults": kernel.faults, "anchors": kernel.anchoring.rows() if kernel.anchoring is not None else [], **_load()}


def _load() -> dict[str, int]:
    """What this process has used and uses."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return {"cpu_us": int((used.ru_utime + used.ru_stime) * 1e6), "memory_bytes": pages * resource.getpagesize()}


async def shutdown(client: "Client", why: str) -> None:
    client.kernel.stop(why or f"asked by uid {client.peer.uid}")
