"""Reading along in the kernel's own process: records as they are published, without touching the disk."""

from collections import deque
from collections.abc import Callable
from typing import Self

from attrs import frozen

from agentix_kernel.journal.read import Record
from agentix_kernel.journal.waiting import Waiting


@frozen
class Missed:
    """Instead of records that came while the queue was full: they stand in the journal all the same."""

    first_seq: int
    last_seq: int
    count: int


class Follower:
    """A bounded queue of records. A slow reader never holds up the kernel: it is told what it missed.

    One task reads it. Made by Journal.follow; usable as a context manager.
    """

    def __init__(self, unsubscribe: "Callable[[Follower], None]", *, wanted: Callable[[Record], bool] | None,
                 limit: int) -> None:
        self._unsubscribe: Callable[[Follower], None] | None = unsubscribe
        self._wanted = wanted
        self._limit = limit
        self._queue: deque[Record] = deque()
        self._missed: Missed | None = None
        self._waiting: Waiting | None = None

    def offer(self, record: Record) -> None:
        """By the journal, for every record it published."""
        if self._wanted is not None and not self._wanted(record):
            return
        missed = self._missed
        # Once something is missing, all that follows is, until the reader has heard of it: notices stay in order.
        if missed is not None:
            self._missed = Missed(missed.first_seq, record.seq, missed.count + 1)
        elif len(self._queue) >= self._limit:
            self._missed = Missed(record.seq, record.seq, 1)
        else:
            self._queue.append(record)
        self._wake()

    def next_nowait(self) -> Record | Missed | None:
        """What comes next, or None when nothing is there yet."""
        if self._queue:
            return self._queue.popleft()
        missed, self._missed = self._missed, None
        return missed

    async def next(self) -> Record | Missed | None:
        """Wait for what comes next; None when the journal was closed or the follower was."""
        while (found := self.next_nowait()) is None:
            if self._unsubscribe is None:
                return None
            self._waiting = Waiting()
            await self._waiting.wait()
        return found

    def close(self) -> None:
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe(self)
            self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.wake()
