"""Has the next segment ready before it is needed: allocating and zeroing 8 MiB takes longer than a tick may."""

import threading
from contextlib import suppress

from agentix_kernel.journal import format as form
from agentix_kernel.world import Disk, File


class Preparer:
    """One segment ahead. Its thread lives only while it makes one, so that a commit never waits behind the zeros."""

    def __init__(self, disk: Disk, segment_bytes: int, *, threaded: bool) -> None:
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._threaded = threaded
        self._thread: threading.Thread | None = None
        self._ready: tuple[int, File] | None = None

    def prepare(self, number: int) -> None:
        """Begin to make segment `number`. A failure is not told here: taking it tries again, and raises."""
        if self._threaded:
            self._join()
            self._thread = threading.Thread(target=self._try, args=(number,), name="journal-prepare", daemon=True)
            self._thread.start()

    def take(self, number: int) -> File:
        """The empty segment `number`, the same one until `used` is called. Raises OSError."""
        self._join()
        if self._ready is None or self._ready[0] != number:
            self._ready = (number, self._make(number))
        return self._ready[1]

    def used(self) -> None:
        """What was taken belongs to the taker now."""
        self._ready = None

    def close(self) -> None:
        self._join()
        if self._ready is not None:
            self._ready[1].close()
            self._ready = None

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _try(self, number: int) -> None:
        with suppress(OSError):
            self._ready = (number, self._make(number))

    def _make(self, number: int) -> File:
        name = form.name_of(number)
        try:
            return self._disk.create(name, self._segment_bytes)
        except FileExistsError:
            pass  # an earlier kernel prepared it; opening the journal made sure that it is empty
        file = self._disk.open(name, write=True)
        if file.size() != self._segment_bytes:
            self._disk.truncate(name, self._segment_bytes)
        return file
