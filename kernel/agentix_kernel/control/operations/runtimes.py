"""Runtimes and profiles: what is in force, and reading it again."""

from typing import TYPE_CHECKING, Any

from agentix_kernel.runtimes import inforce

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client


async def runtimes(client: "Client") -> list[dict[str, Any]]:
    return inforce.runtimes(client.kernel)


async def profiles(client: "Client") -> list[dict[str, Any]]:
    return inforce.profiles(client.kernel)


async def reload(client: "Client") -> dict[str, list[str]]:
    return await inforce.reload(client.kernel, f"asked by {client.peer.shown}")
