"""Anchors: the head of the chain, kept where whoever can alter the journal cannot alter it.

One is a line of text, so that it goes through a file, syslog or a pipe and is found again in what those make of it. It
has a mark that takes the key: where anybody may write, as to syslog, nobody else can make one that raises an alarm.
"""

import errno
import hashlib
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, Protocol

from attrs import frozen

from agentix_kernel.journal.key import Key

FILE_MAX_BYTES: Final = 1 << 20
"""Then the file gets the name FILE.1, in place of the one that had it, and another is begun."""
MARK_BYTES: Final = 8
COMMAND_MAX_S: Final = 10.0
SYSLOG_PRIORITY: Final = 10 << 3 | 5
"""authpriv.notice (RFC 5424, 6.2.1)."""

_LINE: Final = re.compile(
    rb"agentix-anchor 1 key=([0-9a-f]{16}) seq=(\d{1,20}) segment=(\d{1,20}) wall_ns=(\d{1,20}) "
    rb"link=([0-9a-f]{64}) mark=([0-9a-f]{16})(?!\w)")


@frozen
class Anchor:
    """The head as it was at a time: the last record, its segment, and the link that follows it."""

    key_id: bytes
    seq: int
    segment: int
    wall_ns: int
    link: bytes
    mark: bytes

    @classmethod
    def of(cls, key: Key, seq: int, segment: int, wall_ns: int, link: bytes) -> "Anchor":
        digest = hashlib.sha256(f"anchor {seq} {segment} {wall_ns}".encode()).digest()
        return cls(key.id, seq, segment, wall_ns, link, key.link(link, digest)[:MARK_BYTES])

    def line(self) -> str:
        return (f"agentix-anchor 1 key={self.key_id.hex()} seq={self.seq} segment={self.segment} "
                f"wall_ns={self.wall_ns} link={self.link.hex()} mark={self.mark.hex()}")


def find(text: bytes, key: Key) -> Iterator[Anchor]:
    """The anchors that stand in a text and were made with this key, or with one beside it."""
    for found in _LINE.finditer(text):
        made_with = key.of(bytes.fromhex(found[1].decode()))
        if made_with is not None:
            seq, segment, wall_ns = map(int, found.group(2, 3, 4))
            anchor = Anchor.of(made_with, seq, segment, wall_ns, bytes.fromhex(found[5].decode()))
            if anchor.mark == bytes.fromhex(found[6].decode()):
                yield anchor


def read(path: str, key: Key) -> list[Anchor]:
    """The anchors that a file and the one before it hold; none when there is no such file. Raises OSError."""
    found: list[Anchor] = []
    for name in (f"{path}.1", path):
        try:
            with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                found += find(file.read(), key)
        except FileNotFoundError:
            continue
    return found


class Witness(Protocol):
    """Where anchors go. `keep` may take its time: it is called in a thread."""

    @property
    def name(self) -> str:
        """To show to people."""
        ...
    def keep(self, anchor: Anchor) -> None:
        """On return the witness has it. Raises OSError with a sentence."""
        ...


@frozen
class FileWitness:
    """A file that grows by a line each, and begins anew when it is long."""

    path: str

    @property
    def name(self) -> str:
        return f"file {self.path}"

    def keep(self, anchor: Anchor) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.path, flags, 0o600), "r+b", buffering=0) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EINVAL, f"{self.path} is not a regular file")
            torn = info.st_size and os.pread(file.fileno(), 1, info.st_size - 1) != b"\n"
            line = b"\n" * bool(torn) + anchor.line().encode() + b"\n"
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, f"{self.path} has no room for a line")
            os.fdatasync(file.fileno())
        if info.st_size > FILE_MAX_BYTES:
            os.rename(self.path, f"{self.path}.1")


@frozen
class SyslogWitness:
    """A datagram to the system's logger."""

    path: str

    @property
    def name(self) -> str:
        return f"syslog {self.path}"

    def keep(self, anchor: Anchor) -> None:
        text = f"<{SYSLOG_PRIORITY}>agentd[{os.getpid()}]: {anchor.line()}"
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.settimeout(COMMAND_MAX_S)
            sender.sendto(text.encode(), self.path)


@frozen
class CommandWitness:
    """A program that gets the line on its stdin and succeeds when it has it in a safe place."""

    argv: tuple[str, ...]
    timeout_s: float = COMMAND_MAX_S

    @property
    def name(self) -> str:
        return f"command {self.argv[0]}"

    def keep(self, anchor: Anchor) -> None:
        try:
            done = subprocess.run(self.argv, input=anchor.line().encode() + b"\n", stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, cwd="/", timeout=self.timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise OSError(errno.ETIMEDOUT, f"{self.argv[0]} took longer than {self.timeout_s:g} s") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise OSError(errno.EIO, f"{self.argv[0]} ended with status {done.returncode}: {said}")


def witnesses(file: str, syslog: str, command: Sequence[str]) -> tuple[Witness, ...]:
    """Those that a configuration names; what is empty is none."""
    found: list[Witness] = []
    if file:
        found.append(FileWitness(file))
    if syslog:
        found.append(SyslogWitness(syslog))
    if command:
        found.append(CommandWitness(tuple(command)))
    return tuple(found)
