"""The table of signals: one row each, numbers fixed for ever.

The numbers are Agentix's own (design: requirement documents), not Linux's. People's fingers know the
Linux numbers, so `agentctl kill -9` reads a bare number as the Linux one: see `from_user`.
"""

import enum
from typing import Final

from attrs import frozen


class Default(enum.Enum):
    """What happens to an agent that set no handler."""

    STOP = "stop"
    CONTINUE = "continue"
    TERMINATE = "terminate"
    KILL = "kill"
    IGNORE = "ignore"


@frozen
class Signal:
    """One row: `linux` is the number that people type, `catchable` covers masking, ignoring and handling."""

    number: int
    name: str
    linux: int | None
    default: Default
    catchable: bool
    operator_only: bool
    """Sent by the kernel or by root alone, never by an agent or a plain group member."""
    forwarded: bool
    """Given to an agent without a handler (bash, node) as the Linux signal of the number `linux`."""
    doc: str

    @property
    def caught(self) -> str:
        """What an agent can do about it, in a word: a mask only defers a stop."""
        return "never" if not self.catchable else "deferred" if self.default is Default.STOP else "yes"


SIGNALS: Final = (
    Signal(1, "SIGSTOP", 19, Default.STOP, True, False, False,
           "Freeze the agent. A mask may defer it, for sigstop_grace_s at most; it is never handled."),
    Signal(2, "SIGCONT", 18, Default.CONTINUE, True, False, False,
           "Continue a stopped agent. Always continues; a mask defers only its handler."),
    Signal(3, "SIGINT", 2, Default.TERMINATE, True, False, True,
           "Interrupt, as Ctrl-C does."),
    Signal(4, "SIGKILL", 9, Default.KILL, False, False, False,
           "Proven kill: afterwards no process of the agent is left."),
    Signal(5, "SIGTERM", 15, Default.TERMINATE, True, False, True,
           "Ask to end; followed by the proven kill after stop_timeout_s."),
    Signal(6, "SIGUSR1", 10, Default.TERMINATE, True, False, True,
           "Ask for a checkpoint."),
    Signal(7, "SIGUSR2", 12, Default.TERMINATE, True, False, True,
           "For the agent's own use."),
    Signal(8, "SIGPOLICY", None, Default.KILL, False, True, False,
           "The agent broke its policy: proven kill of it and of all it spawned."),
    Signal(9, "SIGTRUST", None, Default.KILL, False, True, False,
           "The agent claimed to be somebody else: proven kill of it and of all it spawned."),
    Signal(10, "SIGBUDGET", None, Default.TERMINATE, True, True, False,
           "A budget of the policy is exhausted."),
    Signal(11, "SIGLOOP", None, Default.TERMINATE, True, True, False,
           "The agent makes the same call again and again, and nothing comes of it."),
    Signal(12, "SIGDRIFT", None, Default.IGNORE, True, True, False,
           "The agent drifts from its goal."),
    Signal(13, "SIGCHLD", 17, Default.IGNORE, True, False, False,
           "A child ended, stopped or continued."),
)

BY_NUMBER: Final = {s.number: s for s in SIGNALS}
BY_NAME: Final = {s.name: s for s in SIGNALS}
BY_LINUX: Final = {s.linux: s for s in SIGNALS if s.linux is not None}

SIGSTOP, SIGCONT, SIGINT, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2 = (s.number for s in SIGNALS[:7])
SIGPOLICY, SIGTRUST, SIGBUDGET, SIGLOOP, SIGDRIFT, SIGCHLD = (s.number for s in SIGNALS[7:])

UNMASKABLE: Final = frozenset(s.number for s in SIGNALS if not s.catchable)
DOORBELL: Final = 35
"""Linux signal (SIGRTMIN+1 as glibc counts) that makes an agent's libc look for signals that its handlers are due."""
FATAL_FAMILY: Final = frozenset({SIGPOLICY, SIGTRUST})
"""These take all descendants of the agent along."""


class SignalNameError(ValueError):
    """The text names no signal; the message says what would."""


def bit(number: int) -> int:
    """The bit of a signal in a set (a 64-bit mask), as sigset_t has it."""
    return 1 << (number - 1)


def mask_of(numbers: "frozenset[int] | set[int] | tuple[int, ...] | list[int]") -> int:
    mask = 0
    for number in numbers:
        mask |= bit(number)
    return mask


def members(mask: int) -> list[int]:
    """The numbers in a set, lowest first; bits that name no signal are ignored."""
    return [s.number for s in SIGNALS if mask & bit(s.number)]


ALL_MASK: Final = mask_of([s.number for s in SIGNALS])


def from_user(text: str) -> Signal:
    """The signal that a person means by `TERM`, `sigterm`, `SIGTERM`, `-TERM` or the Linux number `15`.

    Raises SignalNameError for what no signal is called, and for a number that is ours but not Linux's
    (8 is SIGFPE on Linux and SIGPOLICY here: naming both beats guessing).
    """
    word = text.strip().removeprefix("-").upper()
    if word.isdigit():
        found = BY_LINUX.get(int(word))
        if found is not None:
            return found
        ours = BY_NUMBER.get(int(word))
        if ours is not None:
            raise SignalNameError(
                f"signal {word}: bare numbers are Linux's, and Linux's {word} is not delivered to agents; "
                f"{word} is {ours.name} inside Agentix, so write {ours.name.removeprefix('SIG')} if that is meant"
            )
        raise SignalNameError(f"signal {word}: no such signal; `agentctl signals` lists them")
    name = word if word.startswith("SIG") else "SIG" + word
    found = BY_NAME.get(name)
    if found is None:
        raise SignalNameError(f"signal {text!r}: no such signal; `agentctl signals` lists them")
    return found
