"""Files without stored bytes: the kernel gives callables, the tree makes files of proc/ and policy/ from them.

The forms follow Linux's procfs: content made when opened, size 0; and Plan 9's proc(3) for the one that waits.
"""

from collections.abc import Awaitable, Callable

from attrs import frozen

from agentix_vfs.who import Who


@frozen
class Synthetic:
    """Content is made when the file is opened and stays the same for that open; its size shows as 0.

    `write` gets each write whole, with who wrote it; it may raise CallError, which the writer sees. It must only
    schedule what could stop or end the writer: the write is answered when `write` returns. O_TRUNC does nothing.
    """

    read: Callable[[], bytes] | None = None
    write: Callable[[Who, bytes], None] | None = None
    mode: int = 0o444


@frozen
class Growing:
    """A file that only grows (a log): true size, modification time that moves with it, read at any offset."""

    size: Callable[[], int]
    read_at: Callable[[int, int], bytes]
    """`read_at(offset, count)`: at most `count` bytes; empty at the end."""
    mode: int = 0o444


@frozen
class Waiting:
    """The first read of an open blocks until `wait` returns; its bytes are then the file's content for that open."""

    wait: Callable[[], Awaitable[bytes]]
    mode: int = 0o444


Entry = Synthetic | Growing | Waiting
