"""One task that waits for the descriptors of all sandboxes: leashes, inits, seccomp listeners, memory events.

One epoll inside trio's: a thousand sandboxes cost one task. What a handler does is short and never awaits.
"""

import select
from collections.abc import Callable
from typing import Final

import trio
from attrs import define, field

_EVENTS_A_TICK: Final = 64
Handler = Callable[[int], None]


@define(eq=False)
class Attendant:
    _epoll: select.epoll = field(factory=select.epoll)
    _handlers: dict[int, Handler] = field(factory=dict[int, Handler])

    def add(self, fd: int, handler: Handler) -> None:
        """Call `handler(events)` in the task of `run` whenever `fd` is readable or hung up, until `drop`."""
        assert fd not in self._handlers, "a descriptor was closed before it was dropped"
        self._epoll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def drop(self, fd: int) -> None:
        """Before the descriptor is closed. Nothing happens when it is not attended."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, events in self._epoll.poll(0, _EVENTS_A_TICK):
                handler = self._handlers.get(fd)  # an earlier handler of this tick may have dropped it
                if handler is not None:
                    handler(events)

    def close(self) -> None:
        self._epoll.close()
