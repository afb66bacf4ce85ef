"""Signals of one agent: dispositions, mask and what is pending. A pure machine: it decides, others act."""

import enum
import errno

from attrs import define, field, frozen

from agentix_syscalls import calls
from agentix_syscalls import signals as table
from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import BY_NUMBER, Default, bit


class Deed(enum.Enum):
    """What a signal that arrives makes the kernel do."""

    NOTHING = "ignored"
    PENDING = "pending"
    DOORBELL = "handler"
    FORWARD = "linux"
    END = "end"
    KILL = "kill"
    STOP = "stop"
    DEFER_STOP = "stop deferred"
    CONTINUE = "continue"


@frozen
class Pending:
    """A signal that waits. One for each number at most, as POSIX has it for standard signals: the first stays."""

    number: int
    sender: int
    why: str


@define
class SignalState:
    """Signals of one agent in one life. `mask` is a bit set; `dispositions` holds what differs from the default."""

    mask: int = 0
    dispositions: dict[int, int] = field(factory=dict[int, int])
    pending: dict[int, Pending] = field(factory=dict[int, Pending])

    def post(self, number: int, sender: int, why: str, *, own: bool = False) -> Deed:
        """A signal arrives; `own`: its receiver sent it. Returns what to do now.

        An own SIGCONT continues nothing: a stop that is under way, or deferred, is not the agent's to undo.
        """
        row = BY_NUMBER[number]
        if row.default is Default.KILL:
            return Deed.KILL
        masked = bool(self.mask & bit(number))
        arrived = Pending(number, sender, why)
        if number == table.SIGSTOP:
            if number in self.pending:
                return Deed.PENDING  # deferred already, and stops it when that one's time is up
            return self._keep(arrived, Deed.DEFER_STOP) if masked else Deed.STOP
        disposition = self.dispositions.get(number, calls.SIG_DFL)
        if number == table.SIGCONT and not own:
            self.pending.pop(table.SIGSTOP, None)
            return self._keep(arrived, Deed.CONTINUE) if masked or disposition == calls.SIG_HANDLE else Deed.CONTINUE
        if disposition == calls.SIG_IGN:
            return Deed.NOTHING
        if masked:
            return self._keep(arrived, Deed.PENDING)
        if disposition == calls.SIG_HANDLE:
            return self._keep(arrived, Deed.DOORBELL)
        return self._by_default(number)

    def act(self, number: int, disposition: int) -> tuple[int, list[tuple[Deed, Pending]]]:
        """SIGACTION. Returns the old disposition and what becomes of signals that waited."""
        row = BY_NUMBER.get(number)
        if row is None or not row.catchable or number == table.SIGSTOP:
            name = row.name if row else str(number)
            raise CallError(errno.EINVAL, f"SIGACTION: {name} cannot be caught or ignored")
        if disposition not in {calls.SIG_DFL, calls.SIG_IGN, calls.SIG_HANDLE}:
            raise CallError(errno.EINVAL, f"SIGACTION: disposition {disposition} is none of 0, 1 and 2")
        old = self.dispositions.get(number, calls.SIG_DFL)
        self.dispositions[number] = disposition
        return old, self._release(bit(number))

    def procmask(self, how: int, given: int) -> tuple[int, list[tuple[Deed, Pending]]]:
        """SIGPROCMASK. What cannot be masked is silently left out, as sigprocmask(2) does."""
        old = self.mask
        for number in table.UNMASKABLE:
            given &= ~bit(number)
        if how == calls.SIG_BLOCK:
            self.mask = old | given
        elif how == calls.SIG_UNBLOCK:
            self.mask = old & ~given
        elif how == calls.SIG_SETMASK:
            self.mask = given
        else:
            raise CallError(errno.EINVAL, f"SIGPROCMASK: how {how} is none of 0, 1 and 2")
        return old, self._release(old & ~self.mask)

    def take(self, wanted: int) -> Pending | None:
        """SIGWAIT: the lowest pending signal of a set, masked or not. A deferred SIGSTOP stays, and stops the agent."""
        for number in sorted(self.pending):
            if wanted & bit(number) and number != table.SIGSTOP:
                return self.pending.pop(number)
        return None

    def take_deliverable(self, wanted: int) -> Pending | None:
        """The lowest pending signal of a set that a handler is due for."""
        due = 0
        for number in self.pending:
            if self.dispositions.get(number) == calls.SIG_HANDLE:
                due |= bit(number)
        return self.take(wanted & due & ~self.mask)

    def _keep(self, arrived: Pending, deed: Deed) -> Deed:
        self.pending.setdefault(arrived.number, arrived)
        return deed

    def _by_default(self, number: int) -> Deed:
        row = BY_NUMBER[number]
        if row.forwarded:
            return Deed.FORWARD
        return Deed.END if row.default is Default.TERMINATE else Deed.NOTHING

    def _release(self, numbers: int) -> list[tuple[Deed, Pending]]:
        """What becomes of pending signals of a set, after a mask or a disposition changed."""
        deeds: list[tuple[Deed, Pending]] = []
        for number, waiting in sorted(self.pending.items()):
            if not numbers & bit(number) or self.mask & bit(number):
                continue
            disposition = self.dispositions.get(number, calls.SIG_DFL)
            if disposition == calls.SIG_HANDLE:
                deeds.append((Deed.DOORBELL, waiting))
                continue
            del self.pending[number]
            if number == table.SIGSTOP:
                deeds.append((Deed.STOP, waiting))
            elif disposition == calls.SIG_DFL:
                deeds.append((self._by_default(number), waiting))
        return deeds
