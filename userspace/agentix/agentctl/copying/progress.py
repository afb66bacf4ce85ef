"""How far a copy is: one line on stderr, when that is a terminal and it takes more than a second."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, field

from agentix.agentctl.format import size

QUIET_S: Final = 1.0
REDRAW_S: Final = 0.2


@define
class Progress:
    """Counts, and draws now and then. `clear` before anything else is written."""

    terminal: bool = field(factory=sys.stderr.isatty)
    _begun: float = field(init=False)
    _next: float = field(init=False)
    _bytes: int = field(init=False, default=0)
    _names: int = field(init=False, default=0)
    _drawn: int = field(init=False, default=0)
    """Columns."""

    def __attrs_post_init__(self) -> None:
        self._begun = time.monotonic()
        self._next = self._begun + QUIET_S

    def name(self) -> None:
        self._names += 1
        self._draw()

    def count(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces, counted as they pass."""
        for piece in pieces:
            self._bytes += len(piece)
            self._draw()
            yield piece

    def clear(self) -> None:
        if self._drawn:
            sys.stderr.write("\r" + " " * self._drawn + "\r")
            sys.stderr.flush()
            self._drawn = 0

    def _draw(self) -> None:
        now = time.monotonic()
        if not self.terminal or now < self._next:
            return
        self._next = now + REDRAW_S
        text = f"{size(self._bytes)} in {self._names} files, {size(int(self._bytes / (now - self._begun)))}/s"
        sys.stderr.write("\r" + text.ljust(self._drawn))
        sys.stderr.flush()
        self._drawn = max(self._drawn, len(text))
