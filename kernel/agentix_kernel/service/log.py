"""The operator's log: lines on stderr, or entries with fields where stderr is the systemd journal's.

Entries follow systemd's "Native Journal Protocol"; that stderr is the journal's is recognised as systemd.exec(5) says
of JOURNAL_STREAM.
"""

import os
import socket
import sys
import time
from typing import Final, Protocol, TextIO

from attrs import define, field

ERR, WARNING, NOTICE, INFO = 3, 4, 5, 6
"""Of syslog(3)."""
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
MESSAGE_MAX: Final = 48 * 1024
"""Characters; an entry is one datagram."""


class Say(Protocol):
    """Says one thing. `fields` are those of a journal's entry: step, agent, boot; None for one that is not known."""

    def __call__(self, text: str, *, priority: int = INFO, **fields: object) -> None: ...


def open_log() -> Say:
    """The log that our stderr leads to."""
    return Journald().say if is_journal() else lines(sys.stderr)


def is_journal() -> bool:
    """Whether our stderr is the systemd journal's."""
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def lines(stream: TextIO) -> Say:
    """Lines for people: time, name, text.

    Nobody rotates them, so the lives of agents, which agents can repeat without end, are not among them.
    """
    def say(text: str, *, priority: int = INFO, **fields: object) -> None:
        if fields.get("agent") is None or priority <= ERR:
            print(time.strftime("%H:%M:%S"), "agentd:", text, file=stream, flush=True)
    return say


@define(eq=False)
class Journald:
    """Entries of the systemd journal. It never holds us up: what its socket has no room for is lost, and counted."""

    path: str = JOURNAL_SOCKET
    lost: int = field(default=0, init=False)
    _socket: socket.socket = field(factory=lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), init=False)

    def say(self, text: str, *, priority: int = INFO, **fields: object) -> None:
        if self.lost:
            text = f"{text} (and {self.lost} messages before this one were lost)"
        entry: dict[str, object] = {"MESSAGE": text[:MESSAGE_MAX], "PRIORITY": priority, "SYSLOG_IDENTIFIER": "agentd"}
        entry |= {f"AGENTIX_{name.upper()}": value for name, value in fields.items() if value is not None}
        try:
            self._socket.sendto(encode(entry), socket.MSG_DONTWAIT, self.path)
        except OSError:
            self.lost += 1
        else:
            self.lost = 0


def encode(entry: dict[str, object]) -> bytes:
    """An entry as one datagram: KEY=value lines; a value with newlines by its length, so that it forges no field."""
    parts: list[bytes] = []
    for key, value in entry.items():
        data = str(value).encode("utf-8", "backslashreplace")
        name = key.encode("ascii")
        parts.append(b"%s\n%s%s\n" % (name, len(data).to_bytes(8, "little"), data) if b"\n" in data
                     else b"%s=%s\n" % (name, data))
    return b"".join(parts)
