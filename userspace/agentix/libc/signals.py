"""Signals of Agentix: handlers, masks, waiting, sending.

The kernel queues signals. When a handler is due it rings the doorbell, a Linux signal to the agent's first process;
the doorbell's handler, in the main thread, takes what is due with SIGWAIT and calls the handlers. So a sleep or a
blocking call is interrupted, goes on afterwards (PEP 475), and ends with what a handler raises.
"""

import signal as linux
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final, NamedTuple

from agentix.libc import abi
from agentix.libc.abi import Signals
from agentix.libc.connection import syscall
from agentix.libc.failure import Error
from agentix.libc.request import Request, call


class SigInfo(NamedTuple):
    """Who sent a signal (an agent's id, 0 for the kernel or an operator) and why: a rule, a limit, or empty."""

    sender: int
    why: str


Handler = Callable[[Signals, SigInfo], object]
Disposition = Handler | int
"""A handler, SIG_DFL or SIG_IGN."""

_handlers: Final[dict[int, Disposition]] = {}
_running: Final[set[int]] = set()
"""Signals whose handler runs now: as in POSIX, a second one of its kind waits until the first has returned."""


def number_of(signal: "int | str") -> Signals:
    """The signal meant by one of ours, its number or its name. Linux's signals have other numbers and are refused."""
    if isinstance(signal, linux.Signals):
        raise TypeError(f"signal.{signal.name} is Linux's; write libc.{signal.name}"
                        if signal.name in Signals.__members__ else f"signal.{signal.name} is not a signal of Agentix")
    if isinstance(signal, str):
        name = signal.upper()
        return Signals[name if name.startswith("SIG") else "SIG" + name]
    return Signals(signal)


def _mask(signals: "Iterable[int | str]") -> int:
    mask = 0
    for signal in signals:
        mask |= 1 << (number_of(signal) - 1)
    return mask


def _members(mask: int) -> set[Signals]:
    return {signal for signal in Signals if mask & 1 << (signal - 1)}


@call
def kill(agent: int, signal: "int | str") -> Request[None]:
    """Send a signal to itself or an own child. Raises Error: ESRCH, EPERM."""
    return Request(abi.SYS_SIGNAL, agent, number_of(signal))


def getsignal(signal: "int | str") -> Disposition:
    """What a signal does now: a handler, SIG_DFL or SIG_IGN."""
    return _handlers.get(number_of(signal), abi.SIG_DFL)


def sigaction(signal: "int | str", action: Disposition) -> Disposition:
    """Set what a signal does: SIG_DFL, SIG_IGN, or a function called with (signal, SigInfo). Gives the old one.

    Handlers run in the main thread, which is also the only one that may set them (ValueError elsewhere).
    Raises Error (EINVAL) for a signal that cannot be caught, TypeError for a signal of Python's signal module.
    """
    number = number_of(signal)
    old = getsignal(number)
    if callable(action):
        _install_doorbell()
        _handlers[number] = action
        try:
            syscall(abi.SYS_SIGACTION, number, abi.SIG_HANDLE)
        except Error:
            _handlers[number] = old
            raise
        _drain()  # what came before the doorbell could be heard
    else:
        syscall(abi.SYS_SIGACTION, number, action)
        _handlers[number] = action
    return old


signal = sigaction
"""The older name of the same."""


def _install_doorbell() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("handlers are set in the main thread only: that is where they run")
    linux.signal(abi.DOORBELL, _ring)


def _ring(_signum: int, _frame: FrameType | None) -> None:
    _drain()


def _drain() -> None:
    """Call the handlers of all signals that are due. If one raises, the others still run before it is seen."""
    while taken := _take():
        number, sender, why = taken
        try:
            _handle(number, SigInfo(sender, why))
        except BaseException:
            _drain()
            raise


def _take() -> Any:
    busy = 0
    for number in _running:
        busy |= 1 << (number - 1)
    return syscall(abi.SYS_SIGWAIT, abi.ALL_SIGNALS & ~busy, 0, abi.SIGWAIT_DELIVERABLE)


def _handle(number: int, info: SigInfo) -> None:
    handler = _handlers.get(number)
    if not callable(handler):
        return  # its handler was taken away in the meantime
    _running.add(number)
    try:
        handler(Signals(number), info)
    finally:
        _running.discard(number)


@call
def change_mask(how: int, signals: "Iterable[int | str]") -> Request[set[Signals]]:
    """SIGPROCMASK, and no more."""
    return Request(abi.SYS_SIGPROCMASK, how, _mask(signals), read=_members)


def sigprocmask(how: int, signals: "Iterable[int | str]") -> set[Signals]:
    """Change the set of blocked signals (SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK); the old set.

    Handlers of signals that this lets through have run on return, when the main thread calls.
    """
    old = change_mask(how, signals)
    if how != abi.SIG_BLOCK and _handlers and threading.current_thread() is threading.main_thread():
        _drain()
    return old


@call
def wait_for(signals: "Iterable[int | str]", timeout: float | None) -> Request[tuple[Signals, SigInfo]]:
    """Raises BlockingIOError when none came in time."""
    return Request(abi.SYS_SIGWAIT, _mask(signals), timeout, read=_taken)


def _taken(answer: Any) -> tuple[Signals, SigInfo]:
    number, sender, why = answer
    return Signals(number), SigInfo(sender, why)


@call
def sigwaitinfo(signals: "Iterable[int | str]") -> Request[tuple[Signals, SigInfo]]:
    """Take a pending signal of the set, waiting for one."""
    return Request(abi.SYS_SIGWAIT, _mask(signals), None, read=_taken)


def sigtimedwait(signals: "Iterable[int | str]", timeout: float) -> tuple[Signals, SigInfo] | None:
    """As sigwaitinfo, for `timeout` seconds at most: None when none came."""
    try:
        return wait_for(signals, timeout)
    except BlockingIOError:
        return None


@call
def sigwait(signals: "Iterable[int | str]") -> Request[Signals]:
    return Request(abi.SYS_SIGWAIT, _mask(signals), None, read=lambda answer: Signals(answer[0]))


__all__ = [
    "Disposition", "Handler", "SigInfo", "getsignal", "kill", "sigaction", "signal", "sigprocmask", "sigtimedwait",
    "sigwait", "sigwaitinfo",
]
