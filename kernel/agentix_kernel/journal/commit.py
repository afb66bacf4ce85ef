"""Makes durable what was published: one fdatasync in flight, in a thread of its own, for everything that waits.

Lock order: `_syncing` (held across the sync), then `_state` (never held across anything that waits).
"""

import os
import threading
from contextlib import suppress
from queue import SimpleQueue

from agentix_kernel.journal.errors import JournalError, from_disk
from agentix_kernel.journal.waiting import Waiting
from agentix_kernel.world import File


class Committer:
    """Belongs to one Journal. `published` is set by it; `durable`, `failed` and the files are kept here.

    Without a thread (a simulation), a request syncs at once.
    """

    def __init__(self, where: str, published: int, *, threaded: bool) -> None:
        self.published = self.durable = published
        self.failed: JournalError | None = None
        """A sync failed. The Linux kernel forgets what it could not write, so no later sync makes that good."""
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.file: File | None = None
        self.turns = 0
        """Requests that the thread has done, also those that found nothing to sync: how one sees that it lives."""
        self._where = where
        self._retired: list[File] = []
        self._waiting: list[tuple[int, Waiting]] = []
        self._state = threading.Lock()
        self._syncing = threading.Lock()
        self._asked = False
        self._requests: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    def follow(self, file: File) -> None:
        """From now on records go to `file`. At most one file before it is left to sync (recovery counts on that)."""
        if self._retired:
            self.commit()
        with self._state:
            if self.file is not None:
                self._retired.append(self.file)
            self.file = file

    def request(self) -> None:
        """Sync up to what is published, soon. Requests coalesce. After a failure nothing is done: see `failed`."""
        if self._thread is None:
            with suppress(JournalError):
                self.commit()
        elif not self._asked:
            self._asked = True
            self._requests.put(True)

    def commit(self) -> None:
        """Sync up to what is published, now. Raises JournalFull, JournalFailed; for good."""
        with self._syncing:
            if self.failed is not None:
                raise self.failed
            with self._state:
                target, retired, file = self.published, list(self._retired), self.file
            if target == self.durable or file is None:
                return
            try:
                for each in (*retired, file):
                    each.datasync()
            except OSError as error:
                self.failed = from_disk(error, self._where, doing="sync", final=True)
                self._tell()
                raise self.failed from error
            for each in retired:
                each.close()
            with self._state:
                del self._retired[:len(retired)]
                self.durable = target
            self._tell()

    def drain(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    async def committed(self, seq: int) -> None:
        """Until the record `seq` is durable. Raises what a sync failed with."""
        while self.durable < seq:
            if self.failed is not None:
                raise self.failed
            entry = (seq, Waiting())
            with self._state:
                if self.durable >= seq:
                    return
                self._waiting.append(entry)
            try:
                await entry[1].wait()
            finally:
                with self._state, suppress(ValueError):
                    self._waiting.remove(entry)

    def close(self, why: JournalError) -> None:
        """Stop the thread and give back descriptors. Syncs nothing; who still waits gets `why`."""
        if self._thread is not None:
            self._requests.put(False)
            self._thread.join()
        if self.failed is None:
            self.failed = why
        self._tell()
        for file in (*self._retired, self.file):
            if file is not None:
                file.close()
        self._retired, self.file = [], None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _run(self) -> None:
        while self._requests.get():
            # Cleared before the target is read: a record published later asks again.
            self._asked = False
            with suppress(JournalError):  # kept in `failed`, and told
                self.commit()
                self.turns += 1

    def _tell(self) -> None:
        with self._state:
            ready = [waiting for seq, waiting in self._waiting if seq <= self.durable or self.failed is not None]
        for waiting in ready:
            waiting.wake()
        if self.fd >= 0:
            os.eventfd_write(self.fd, 1)
