"""Requests that wait (reads of proc/wait; those of an ending agent), kept by agent so that its end can answer them.

A process blocked in a FUSE request cannot die before the request is answered, not even by SIGKILL.
"""

import errno
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import define, field

from agentix_syscalls.errors import CallError
from agentix_vfs.handles import Handle

PER_AGENT_MAX: Final = 16


@define(eq=False)
class Blocked:
    """`hand_over` is called before a request blocks; `limit` bounds those of all agents together."""

    hand_over: Callable[[], None]
    limit: int
    _scopes: dict[int, set[trio.CancelScope]] = field(init=False, factory=dict[int, set[trio.CancelScope]])

    async def wait(self, handle: Handle) -> None:
        """Until a read of the handle would not block. EINTR when interrupted, EAGAIN when too many wait already."""
        await self._park(handle.who.agent, handle.wait)

    async def hold(self, agent: int) -> None:
        """Until interrupted, which is EINTR; at once EAGAIN when too many wait already."""
        await self._park(agent, trio.sleep_forever)

    async def _park(self, agent: int, until: Callable[[], Awaitable[None]]) -> None:
        scopes = self._scopes.setdefault(agent, set())
        # The host's people count as one more agent, with id 0.
        if len(scopes) >= PER_AGENT_MAX or sum(map(len, self._scopes.values())) >= self.limit:
            raise CallError(errno.EAGAIN, f"{len(scopes)} reads of agent {agent} wait already")
        scope = trio.CancelScope()
        scopes.add(scope)
        self.hand_over()
        try:
            with scope:
                await until()
        finally:
            scopes.discard(scope)
            if not scopes:
                self._scopes.pop(agent, None)
        if scope.cancelled_caught:
            raise CallError(errno.EINTR, "interrupted")

    def interrupt(self, agent: int) -> int:
        """Answer the agent's blocked requests with EINTR, in the next turn of the loop; how many there were."""
        scopes = self._scopes.get(agent, set())
        for scope in scopes:
            scope.cancel()
        return len(scopes)
