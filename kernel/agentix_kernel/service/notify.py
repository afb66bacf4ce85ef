"""What a service manager is told, by the protocol of sd_notify(3): datagrams of KEY=value lines."""

import os
import socket
from typing import Final

import trio
from attrs import define, field

from agentix_kernel.kernel import Kernel
from agentix_kernel.service.log import WARNING, Say

TELL_S: Final = 5.0
"""How often the state is told at least, if it has changed."""
EXTEND_S: Final = 30.0
"""While it shuts down: the time until it has to be heard of again."""
_SENT_ONCE: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@define(eq=False)
class Manager:
    """The service manager that started us; without one, all that it is told goes nowhere.

    It never holds us up: what its socket has no room for now goes with the next word, the latest value of each key.
    """

    address: str | None = None
    """Of its socket; a leading NUL for an abstract one."""
    watchdog_s: float | None = None
    """It ends us when it hears no keep-alive for so long."""
    say: Say | None = None
    _socket: socket.socket | None = field(default=None, init=False)
    _unsent: dict[str, str] = field(factory=dict[str, str], init=False)

    def __attrs_post_init__(self) -> None:
        if self.address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    @classmethod
    def from_environment(cls, say: Say) -> "Manager":
        """What systemd.exec(5) and sd_watchdog_enabled(3) say; taken out of it, for it is not our children's."""
        address, watchdog_us, pid = (os.environ.pop(name, "") for name in _SENT_ONCE)
        watched = watchdog_us.isdecimal() and int(watchdog_us) > 0 and pid in {"", str(os.getpid())}
        if not address.startswith(("/", "@")):
            return cls()
        return cls(address.replace("@", "\0", 1) if address[0] == "@" else address,
                   int(watchdog_us) / 1e6 if watched else None, say)

    @property
    def interval_s(self) -> float:
        """Between two words: three chances for each keep-alive."""
        return min(TELL_S, self.watchdog_s / 3) if self.watchdog_s else TELL_S

    @property
    def there(self) -> bool:
        return self._socket is not None

    def tell(self, **fields: object) -> None:
        if self._socket is None or self.address is None:
            return
        self._unsent.update((key, str(value).replace("\n", "; ")) for key, value in fields.items())
        text = "\n".join(f"{key}={value}" for key, value in self._unsent.items())
        try:
            self._socket.sendto(text.encode("utf-8", "backslashreplace"), socket.MSG_DONTWAIT, self.address)
        except BlockingIOError:
            return
        except OSError as error:
            self.close()
            if self.say is not None:
                self.say(f"notify: the service manager cannot be told of us: {error.strerror}", priority=WARNING)
        self._unsent.clear()

    def close(self) -> None:
        """From here on nobody is told anything."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def attend(manager: Manager, kernel: Kernel) -> None:
    """Tell how the kernel fares, until cancelled: a keep-alive only when its loop has turned and its commit thread
    has answered since the last one. A journal that can never be synced again gives none: a new start mends that.
    """
    told = ""
    while manager.there:
        turns = kernel.journal.commit_turns
        kernel.journal.request_commit()
        await trio.sleep(manager.interval_s)
        fields: dict[str, object] = {}
        if manager.watchdog_s and kernel.journal.commit_turns > turns:
            fields["WATCHDOG"] = 1
        if kernel.shutting:
            fields["EXTEND_TIMEOUT_USEC"] = int(EXTEND_S * 1e6)
        if (state := status(kernel)) != told:
            fields["STATUS"] = told = state
        if fields:
            manager.tell(**fields)


def status(kernel: Kernel) -> str:
    """The kernel's state in a line, as `systemctl status` shows it."""
    alive = len(kernel.table.alive())
    agents = f"{alive} agent{'' if alive == 1 else 's'}"
    if kernel.shutting:
        return f"shutting down ({kernel.stop_why}): {agents} left"
    if kernel.journal.failed is not None:
        return f"no new work is taken: {kernel.journal.failed}"
    return f"{agents} alive"


def stopping(manager: Manager, kernel: Kernel) -> None:
    """The orderly end begins."""
    manager.tell(STOPPING=1, STATUS=status(kernel), EXTEND_TIMEOUT_USEC=int(EXTEND_S * 1e6))
