"""Waiting for FUSE requests with one epoll arming a wait instead of a lock hand-over and two a request.

pyfuse3's own way passes a trio lock between its workers and re-arms epoll for every request: about 37 us of user time
a request, against 5 us here. All our handlers but one answer without an await, so one worker can be the leader for
good; a handler that is about to block calls `hand_over` first and another worker takes the lead.

This replaces a global of pyfuse3 that it looks up for every request. Whether that still holds is asked of its version
here and by a test; elsewhere the stock function stays, and only speed is lost.
"""

import select
from collections.abc import Awaitable, Callable
from typing import Final

import pyfuse3
import trio
from attrs import define, field

BURST: Final = 16
"""Requests answered in a row before everything else in the process gets its turn."""
WORKERS: Final = 256
"""Tasks of pyfuse3; each blocked request holds one. It starts one more at each of the first requests."""
BLOCKED_MAX: Final = 192
_KNOWN_VERSIONS: Final = ("3.4.", "3.5.")
_HOOK: Final = "_wait_fuse_readable"


def replaceable() -> bool:
    return pyfuse3.__version__.startswith(_KNOWN_VERSIONS) and hasattr(pyfuse3, _HOOK)


@define(eq=False)
class Readiness:
    """Who waits for the descriptor. The leader alone reads it, so a request that polled ready is still there."""

    descriptor: int
    requests: int = 0
    bursts: int = 0
    _leader: trio.lowlevel.Task | None = field(init=False, default=None)
    _parked: trio.lowlevel.ParkingLot = field(init=False, factory=trio.lowlevel.ParkingLot)
    _poll: Callable[[int], list[tuple[int, int]]] = field(init=False)
    _in_burst: int = field(init=False, default=0)
    _closed: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        self._poll = poll.poll

    async def wait(self) -> bool:
        """Until a request can be read (True) or the mount is gone (False). pyfuse3 calls it from each worker."""
        task = trio.lowlevel.current_task()
        while self._leader is not task:
            if self._closed:
                return False
            if self._leader is None:
                self._leader = task
            else:
                await self._parked.park()
        return await self._lead()

    async def _lead(self) -> bool:
        if self._in_burst >= BURST:
            self._in_burst = 0
            self.bursts += 1
            await trio.lowlevel.checkpoint()
        while True:
            ready = self._poll(0)
            if not ready:
                self._in_burst = 0
                await trio.lowlevel.wait_readable(self.descriptor)
            elif ready[0][1] & select.POLLIN:
                self._in_burst += 1
                self.requests += 1
                return True
            else:
                self._closed = True
                self._parked.unpark_all()
                return False

    def hand_over(self) -> None:
        """The running worker is about to block in its request: somebody else leads."""
        self._leader = None
        self._parked.unpark()


def install(readiness: Readiness) -> Callable[[], None]:
    """Make pyfuse3 wait by `readiness`; the function that undoes it."""
    stock: Callable[[], Awaitable[bool]] = getattr(pyfuse3, _HOOK)
    setattr(pyfuse3, _HOOK, readiness.wait)

    def undo() -> None:
        setattr(pyfuse3, _HOOK, stock)

    return undo
