"""What one agent does over and over: a pure machine that counts alike calls, each kind of them in a window of its own.

A window begins with the first such call and ends with the time given; the first call after it begins the next one. So
a loop that goes on is found at the latest within its second window, for two numbers a kind.
"""

from typing import Final

from attrs import define, field

KINDS_MAX: Final = 512
"""Kinds of calls that are counted at a time for one agent. Beyond, all are forgotten: who does so much that is new is
in no loop, and an agent cannot make the kernel remember more.
"""


@define
class Repeat:
    """One kind of call: how often since `begun_ns`. `told`: this loop was found, and goes on."""

    begun_ns: int
    count: int = 1
    told: bool = False


@define
class Repeats:
    """Of one agent in one life."""

    kinds: dict[int, Repeat] = field(factory=dict[int, Repeat])

    def add(self, kind: int, now_ns: int, calls: int, window_ns: int) -> Repeat | None:
        """Count one call. Returns what is known of its kind when it has just become a loop: `calls` in `window_ns`."""
        known = self.kinds.get(kind)
        if known is None:
            if len(self.kinds) >= KINDS_MAX:
                self.kinds.clear()
            self.kinds[kind] = Repeat(now_ns)
            return None
        if now_ns - known.begun_ns > window_ns:
            known.told = known.told and known.count >= calls
            known.begun_ns, known.count = now_ns, 1
            return None
        known.count += 1
        if known.count < calls or known.told:
            return None
        known.told = True
        return known
