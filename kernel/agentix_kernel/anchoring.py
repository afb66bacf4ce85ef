"""Has the head of the journal's chain kept outside, again and again while there is work: loss of the end is found back
to the last anchor.

Each witness has a task of its own and one thread at a time, so that a slow one holds up neither the kernel nor the
others. Only the beginning and the end of a failure are recorded: a record of each anchor would be new work to anchor.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import trio
from attrs import define, field

from agentix_kernel.journal.anchor import Anchor, Witness
from agentix_kernel.journal.errors import JournalError
from agentix_kernel.kernel import Kernel
from agentix_syscalls import records

RETRY_S: Final = 5.0
"""After a witness failed."""
LAST_S: Final = 3.0
"""What witnesses have for the anchor of an orderly end."""


@define(eq=False)
class _Attended:
    witness: Witness
    anchor: Anchor | None = None
    """The last one that it has."""
    failing: str = ""
    turn: trio.Lock = field(factory=trio.Lock)

    def row(self, now_ns: int) -> dict[str, Any]:
        anchor = self.anchor
        age_s = None if anchor is None else max(0, now_ns - anchor.wall_ns) / 1e9
        return {"witness": self.witness.name, "seq": anchor.seq if anchor else 0, "age_s": age_s,
                "failing": self.failing}


@define(eq=False)
class Anchoring:
    """The witnesses of one kernel."""

    kernel: Kernel
    attended: tuple[_Attended, ...]

    @classmethod
    def of(cls, kernel: Kernel, witnesses: Sequence[Witness]) -> "Anchoring":
        return cls(kernel, tuple(map(_Attended, witnesses)))

    def rows(self) -> list[dict[str, Any]]:
        """[{witness, seq, age_s (None: none yet), failing ("": it is not)}, ...]"""
        now_ns = self.kernel.world.clock.wall_ns()
        return [one.row(now_ns) for one in self.attended]

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for one in self.attended:
                nursery.start_soon(self._attend, one)

    async def now(self) -> tuple[Anchor, list[dict[str, Any]]]:
        """Anchor what is recorded up to here; returns the anchor and what became of it at each witness."""
        anchor = await self._take()
        async with trio.open_nursery() as nursery:
            for one in self.attended:
                nursery.start_soon(self._keep, one, anchor)
        return anchor, self.rows()

    async def last(self) -> None:
        """The head of a journal that was closed. To be given LAST_S."""
        anchor = self.kernel.journal.anchor()
        async with trio.open_nursery() as nursery:
            for one in self.attended:
                nursery.start_soon(_try, one, anchor)

    async def _attend(self, one: _Attended) -> None:
        while True:
            await trio.sleep(RETRY_S if one.failing else self.kernel.config.anchor_interval_s)
            if one.anchor is None or self.kernel.journal.published > one.anchor.seq:
                try:
                    anchor = await self._take()
                except JournalError:  # told where it failed; it goes on when the journal does
                    continue
                await self._keep(one, anchor)

    async def _take(self) -> Anchor:
        """The head as it is now, once it is durable. Raises JournalFull, JournalFailed."""
        self.kernel.flush()
        anchor = self.kernel.journal.anchor()
        await self.kernel.settle(anchor.seq)
        return anchor

    async def _keep(self, one: _Attended, anchor: Anchor) -> None:
        before = one.failing
        await _try(one, anchor)
        if one.failing and not before:
            self._tell(one, anchor, records.FAILED, one.failing)
        elif before and not one.failing:
            self._tell(one, anchor, records.ALLOWED, "it takes anchors again")

    def _tell(self, one: _Attended, anchor: Anchor, verdict: int, detail: str) -> None:
        kernel = self.kernel
        kernel.record(records.ANCHOR, verdict=verdict, data=(anchor.link.hex(), anchor.seq, one.witness.name, detail))
        kernel.flush()
        if kernel.on_fault is not None and verdict == records.FAILED:
            kernel.on_fault(f"anchor: {one.witness.name}: {detail}; what is recorded from now on is not anchored there")


async def _try(one: _Attended, anchor: Anchor) -> None:
    async with one.turn:
        try:
            await trio.to_thread.run_sync(one.witness.keep, anchor, abandon_on_cancel=True,
                                          limiter=trio.CapacityLimiter(math.inf))
        except OSError as error:
            one.failing = error.strerror or str(error)
        else:
            one.anchor, one.failing = anchor, ""
