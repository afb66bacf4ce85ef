"""The last records of one agent as text that grows: its proc/trace.

Each record is kept as the bytes that went to the journal, and becomes a line when somebody looks, once: an agent that
nobody looks at costs a reference a record, and looking costs no more than what was recorded since.
"""

from collections import deque
from typing import Final

from attrs import define, field

from agentix_kernel.history.rows import line
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.read import one

RECORDS_MAX: Final = 200
"""Records that wait to be looked at."""
TEXT_MAX_BYTES: Final = 64 << 10
"""Where the text is cut to half of that, at a line's end; whoever follows it sees it shrink, as with any log."""


@define
class Trail:
    """Of the agent with this id, in all its lives under this kernel."""

    agent: int
    _text: bytearray = field(factory=bytearray)
    _new: deque[tuple[int, int, int, bytes]] = field(factory=lambda: deque[tuple[int, int, int, bytes]](
        maxlen=RECORDS_MAX))
    _told: int = 0
    """Records that became lines, or were said to be missing."""
    _count: int = 0

    def note(self, journal: Journal, seq: int) -> None:
        """Take in the record that was appended last."""
        self._count += 1
        self._new.append((seq, *journal.latest))

    def size(self) -> int:
        self._write()
        return len(self._text)

    def read_at(self, offset: int, count: int) -> bytes:
        self._write()
        return bytes(self._text[offset:offset + count])

    def _write(self) -> None:
        missing = self._count - self._told - len(self._new)
        if missing:
            self._text += b"# %d more records: agentctl trace %d\n" % (missing, self.agent)
        while self._new:
            self._text += line(one(*self._new.popleft())).encode("utf-8", "backslashreplace") + b"\n"
        self._told = self._count
        if len(self._text) > TEXT_MAX_BYTES:
            del self._text[:self._text.index(b"\n", len(self._text) - TEXT_MAX_BYTES // 2) + 1]
