"""A trio task that waits for the journal, and is woken from wherever the news comes."""

from contextlib import suppress

import trio


class Waiting:
    """Made by the task that waits, before it could miss anything."""

    __slots__ = ("_event", "_token")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    async def wait(self) -> None:
        await self._event.wait()

    def wake(self) -> None:
        """From a task of the same run at once; from a thread, or the host loop of a guest run, by its token."""
        if trio.lowlevel.in_trio_task() and trio.lowlevel.current_trio_token() is self._token:
            self._event.set()
            return
        with suppress(trio.RunFinishedError):  # then nobody is left to wait
            self._token.run_sync_soon(self._event.set)
