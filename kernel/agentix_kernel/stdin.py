"""What is typed or piped to an agent: the writing end of its stdin, or its terminal."""

import errno
import fcntl
import os
import struct
import termios
from typing import Final

import trio
from attrs import define, field

from agentix_syscalls.errors import CallError

END_OF_FILE: Final = b"\x04"
"""Typed on a terminal: what is buffered goes to its reader, and nothing being there means the end."""


@define(eq=False)
class Stdin:
    """Owns `fd`, which does not block. `terminal`: it is our end of the agent's terminal."""

    fd: int
    terminal: bool
    _lock: trio.Lock = field(factory=trio.Lock)

    async def write(self, data: bytes, timeout_s: float) -> int:
        """As much as the agent takes within so many seconds; how many bytes. Raises CallError (EPIPE)."""
        sent = 0
        with trio.move_on_after(timeout_s):
            async with self._lock:
                while sent < len(data):
                    try:
                        sent += os.write(self._open(), data[sent:])
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._open())
                    except OSError as error:
                        raise CallError(errno.EPIPE, f"nothing reads there any more: {error.strerror}") from None
        return sent

    async def end(self) -> None:
        """No more will come."""
        if self.terminal:
            await self.write(END_OF_FILE, 1.0)
        else:
            self.close()

    def resize(self, rows: int, columns: int) -> None:
        """Linux tells whoever is in the foreground there (SIGWINCH). Raises CallError (ENOTTY)."""
        if not self.terminal:
            raise CallError(errno.ENOTTY, "it has no terminal", remedy="spawn it with -t")
        fcntl.ioctl(self._open(), termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    def _open(self) -> int:
        if self.fd < 0:
            raise CallError(errno.EPIPE, "its stdin was closed")
        return self.fd
