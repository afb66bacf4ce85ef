"""Signals of Agentix for tasks: received one by one, without handlers and without the doorbell.

A receiver blocks its signals and takes them with SIGWAIT, as signalfd(2) has it: the kernel keeps what nobody has
taken yet, so there is no wake-up to lose, and it works in whatever thread the run is.
"""

import errno
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio

from agentix import libc
from agentix.aio.connection import awaitable
from agentix.libc import abi, signals
from agentix.libc.abi import Signals
from agentix.libc.failure import failed
from agentix.libc.signals import Disposition, SigInfo, number_of

_received: Final[set[Signals]] = set()
"""Signals that a receiver of this process has blocked. A second one would unblock them under the first."""

kill = awaitable(signals.kill)
sigwait = awaitable(signals.sigwait)
sigwaitinfo = awaitable(signals.sigwaitinfo)
_change_mask = awaitable(signals.change_mask)
_wait_for = awaitable(signals.wait_for)


async def sigprocmask(how: int, signals: Iterable[int | str]) -> set[Signals]:
    """Change the set of blocked signals (SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK); the old set.

    Handlers of signals that this lets through run soon, not necessarily before it returns.
    """
    return await _change_mask(how, signals)


async def sigtimedwait(signals: Iterable[int | str], timeout: float) -> tuple[Signals, SigInfo] | None:
    """As sigwaitinfo, for `timeout` seconds at most: None when none came."""
    try:
        return await _wait_for(signals, timeout)
    except BlockingIOError:
        return None


async def sigaction(signal: int | str, action: Disposition) -> Disposition:
    """As libc's, and with libc's connection: a handler is a plain function that interrupts whatever the main thread
    does, in or between its tasks. For a task that receives signals, see open_signal_receiver.
    """
    await trio.lowlevel.checkpoint()
    return libc.sigaction(signal, action)


signal = sigaction
"""The older name of the same."""


class _Receiver:
    """What `async for` takes signals from."""

    def __init__(self, wanted: frozenset[Signals]) -> None:
        self._wanted = wanted

    def __aiter__(self) -> "_Receiver":
        return self

    async def __anext__(self) -> tuple[Signals, SigInfo]:
        return await sigwaitinfo(self._wanted)


@asynccontextmanager
async def open_signal_receiver(*signals: int | str) -> AsyncGenerator[_Receiver]:
    """Receive signals in a task: within it they do nothing else, and `async for` gives (signal, SigInfo) of each.

    They are blocked for the whole agent and taken one by one, lowest number first; of a kind that has not been taken
    yet, one waits. On leaving, those that nobody took do what they would have done. Handlers of theirs do not run
    meanwhile. Raises Error (EINVAL) for a signal that cannot be caught, ValueError when another receiver has it.
    """
    wanted = frozenset(number_of(signal) for signal in signals)
    if not wanted:
        raise TypeError("open_signal_receiver: give at least one signal")
    for number in wanted:
        if not abi.CATCHABLE & 1 << (number - 1):
            raise failed(errno.EINVAL, f"{number.name} cannot be caught")
    if wanted & _received:
        raise ValueError(f"{min(wanted & _received).name} is another receiver's already")
    _received.update(wanted)
    try:
        old = await sigprocmask(abi.SIG_BLOCK, wanted)
        try:
            yield _Receiver(wanted)
        finally:
            with trio.CancelScope(shield=True):
                await sigprocmask(abi.SIG_UNBLOCK, wanted - old)
    finally:
        _received.difference_update(wanted)


__all__ = [
    "kill", "open_signal_receiver", "sigaction", "signal", "sigprocmask", "sigtimedwait", "sigwait", "sigwaitinfo",
]
