"""How an answer travels: frames of the control socket's kind, down a pipe whose other end the asker has."""

import errno
import os
import select
from collections.abc import Sequence
from typing import Any

from agentix_kernel.history.answers import ANSWERS
from agentix_kernel.history.index import Index
from agentix_syscalls import wire
from agentix_syscalls.errors import CallError


def answer(index: Index, fd: int, operation: int, args: Sequence[Any]) -> None:
    """Write the whole answer: frames with F_MORE, then one without, or with F_ERROR. Without the last it is not whole.

    Returns early when nobody reads any more.
    """
    try:
        try:
            for piece in ANSWERS[operation](index, *args):
                if _unread(fd):
                    return
                _write(fd, operation, wire.F_MORE, piece)
            _write(fd, operation, 0, None)
        except CallError as error:
            _write(fd, operation, wire.F_ERROR, error.reason().to_wire())
        except BrokenPipeError:
            raise
        except OSError as error:  # JournalError among them: its message names the place and the remedy
            failed = CallError(errno.EIO, str(error.args[1] if len(error.args) > 1 else error))
            _write(fd, operation, wire.F_ERROR, failed.reason().to_wire())
    except BrokenPipeError:
        return


def refuse(fd: int, operation: int, error: CallError) -> None:
    """Instead of an answer."""
    try:
        _write(fd, operation, wire.F_ERROR, error.reason().to_wire())
    except BrokenPipeError:
        return


def _unread(fd: int) -> bool:
    """Nobody holds the other end. Asked between pieces, since a search may go on for long without finding anything."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def _write(fd: int, operation: int, flags: int, value: Any) -> None:
    data = memoryview(wire.frame(operation, wire.F_REPLY | flags, 0, wire.pack(value)))
    while data:
        data = data[os.write(fd, data):]
