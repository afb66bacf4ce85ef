"""The world is an argument: what the kernel may know and do of the machine, as protocols.

The real ones live in confine/ (sandboxes) and journal/disk.py (disk); the simulated ones in tests/sim. A kernel
is built from a World and touches nothing else, so that a seed replays a whole kernel in one process
(the idea: TigerBeetle's VOPR; FoundationDB's simulation).
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import field, frozen


class Clock(Protocol):
    """`monotonic_ns` never goes back and orders records; `wall_ns` is what people read."""

    def monotonic_ns(self) -> int: ...
    def wall_ns(self) -> int: ...


class File(Protocol):
    """A file of the journal. Every write may be torn by a crash until `datasync` has returned."""

    def pwrite(self, data: bytes, offset: int) -> int: ...
    def pread(self, count: int, offset: int) -> bytes: ...
    def datasync(self) -> None: ...
    def size(self) -> int: ...
    def close(self) -> None: ...


class Disk(Protocol):
    """A flat folder of files, as the journal needs it. Raises OSError as the system calls of the same names do."""

    def names(self) -> list[str]: ...
    def create(self, name: str, size_bytes: int) -> File:
        """Make a file of so many zero bytes, allocated; raises FileExistsError. Durable with its name on return."""
        ...
    def open(self, name: str, *, write: bool = False) -> File: ...
    def truncate(self, name: str, size_bytes: int) -> None: ...
    def replace(self, name: str, data: bytes) -> None:
        """Give a file another content, all at once. Durable on return; who has the old one open keeps that."""
        ...
    def remove(self, name: str) -> None:
        """Durable on return."""
        ...
    def lock(self) -> None:
        """Hold the folder for whoever writes in it; raises BlockingIOError when another does. Ends with the process."""
        ...
    def unlock(self) -> None: ...


@frozen
class Bind:
    """A host folder or file shown inside. `source_fd` is an O_PATH descriptor opened by whoever asked."""

    source_fd: int
    target: str
    writable: bool
    source: str
    """Its path on the host, to show to people. Opened again only by the boot that runs a lost agent again, which then
    holds what it found against `identity`.
    """
    identity: tuple[int, int, int] = (0, 0, 0)
    """Device, inode and owner of the source, as it was bound first."""


def identity(fd: int) -> tuple[int, int, int]:
    """What a bind's source is."""
    info = os.fstat(fd)
    return info.st_dev, info.st_ino, info.st_uid


@frozen
class Limits:
    """What an agent may use. None: no limit."""

    memory_bytes: int | None = 512 << 20
    cpus: float | None = 1.0
    pids: int | None = 64
    timeout_s: float | None = None


DEFAULT_RUNTIME: Final = "default"


@frozen
class Runtime:
    """Which interpreter runs Python agents, and what it has ready. Agents of equal ones come from one zygote.

    `executable`: the interpreter; "" is agentd's own. `venv`: its virtual environment, or "". `preload`: modules that
    are imported before there is an agent. `binds`: (source, target) of host folders that all of its agents see,
    read-only. `folders`: where the interpreter and its packages are, outside of /usr; seen inside, too. `marks`:
    (path, device, inode and perhaps ctime) of what was looked at before it was trusted; when one is another now, it is
    not run. `serial`: another one makes another runtime of what is the same otherwise.
    """

    name: str = DEFAULT_RUNTIME
    executable: str = ""
    venv: str = ""
    preload: tuple[str, ...] = ()
    binds: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    marks: tuple[tuple[str, tuple[int, ...]], ...] = ()
    serial: int = 0


OWN_RUNTIME: Final = Runtime()
"""agentd's own interpreter, with nothing but what every agent needs."""


@frozen
class Readiness:
    """A runtime's zygote. `state`: "ready", "starting", or "failed" with the reason in `detail`."""

    state: str
    pid: int = 0
    detail: str = ""


@frozen
class Confined:
    """What to run, and inside of what. `tag` names the cgroup directory and is never used twice: `<id>.<life>`.

    kind "script": `source` is run as `argv[0]`; "module": argv[0] is the module; "exec": argv[0] is the program.
    `tree`: the agent's own tree `<tree>` of the mount is bound at /agent/<tree>; None for tools.
    `socket_dir`: a host directory bound at /run/agentix, holding the system-call socket; None for tools.
    `parent`: tag of the sandbox under whose limits it runs (tools run under their caller's).
    `terminal`: rows and columns of a terminal of its own, which then is its stdin, stdout and stderr.
    """

    tag: str
    uid: int
    kind: str
    argv: tuple[str, ...]
    source: bytes | None = None
    env: Mapping[str, str] = field(factory=dict[str, str])
    cwd: str = "/"
    hostname: str = "agent"
    tree: str | None = None
    socket_dir: str | None = None
    binds: tuple[Bind, ...] = ()
    limits: Limits = Limits()
    runtime: Runtime = OWN_RUNTIME
    stdout_fd: int = -1
    stderr_fd: int = -1
    stdin_fd: int = -1
    parent: str | None = None
    terminal: tuple[int, int] | None = None


class LaunchError(Exception):
    """Nothing runs and nothing is left.

    `stage` is where it failed; at "exec", ENOENT, EACCES and ENOEXEC are said of the command.
    """

    def __init__(self, number: int, stage: str, message: str) -> None:
        super().__init__(number, f"{stage}: {message}")
        self.number = number
        self.stage = stage
        self.message = message


@frozen
class Ended:
    """How the main process of a sandbox ended: exactly one of `code` and `linux_signal` is set."""

    code: int | None
    linux_signal: int | None

    @property
    def status(self) -> int:
        """As a shell has it: the code, or 128 + the signal."""
        return self.code if self.code is not None else 128 + (self.linux_signal or signal.SIGKILL)

    @property
    def signal_name(self) -> str | None:
        number = self.linux_signal
        known = number in set(signal.Signals)
        return None if number is None else signal.Signals(number).name if known else f"SIG{number}"


@frozen
class Usage:
    cpu_us: int = 0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    processes: int = 0
    oom_kills: int = 0
    pids_refused: int = 0


@frozen
class DeniedCall:
    """A Linux system call that seccomp refused: its name, and whether no honest agent makes it (then: kill)."""

    name: str
    pid: int
    fatal: bool


class Program(Protocol):
    """A further program in a sandbox, behind the same walls as its agent. It ends with it."""

    @property
    def pid(self) -> int:
        """Host pid, for people."""
        ...
    async def wait(self) -> Ended: ...
    def signal(self, linux_signal: int) -> bool:
        """To this one process; False when it is gone."""
        ...
    def take_terminal(self) -> int:
        """Our end of its terminal, the caller's from here on; -1 when it has none."""
        ...
    def close(self) -> None:
        """Give back what we hold of it; it goes on if it lives."""
        ...


class Sandbox(Protocol):
    """A confined tree of processes: all of it is frozen, continued and killed, and kills are proven.

    Methods that wait are async; they may be called in any order, also after the end; `kill` from several tasks.
    """

    @property
    def pid(self) -> int:
        """Host pid of the main process (pid 2 inside), for people; 0 when not known."""
        ...
    @property
    def ended(self) -> Ended | None: ...
    async def wait(self) -> Ended:
        """Until the main process has ended (others may still live)."""
        ...
    async def freeze(self) -> None:
        """On return nothing in it executes."""
        ...
    async def thaw(self) -> None: ...
    def signal(self, linux_signal: int) -> bool:
        """Send a Linux signal to the main process; False when it is gone."""
        ...
    def ring_doorbell(self) -> bool:
        """Tell the main process's libc to look for signals; False when it is gone."""
        ...
    @property
    def terminal(self) -> int:
        """Our end of the agent's terminal, the sandbox's own until `aclose`; -1 when it has none."""
        ...
    async def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: str, terminal: tuple[int, int] | None,
                    stdio: Sequence[int]) -> Program:
        """Run a program beside the agent, with its environment and `env`, in `cwd` or where the agent began.

        `stdio`: three descriptors, which stay the caller's; none when it gets a `terminal` of (rows, columns).
        Returns when it runs; raises LaunchError (at "exec": ENOENT, EACCES, ENOEXEC are the program's). Frozen, or
        ended, it is refused or waits.
        """
        ...
    async def kill(self) -> bool:
        """Kill all of it and prove it: True when nothing is left (also when nothing was left before).

        False: the Linux kernel says that something is still alive after 5 s.
        """
        ...
    def set_limits(self, limits: Limits) -> None:
        """Change what it may use, now; its time is the kernel's business. Raises OSError (EBUSY: memory in use)."""
        ...
    def usage(self) -> Usage: ...
    def pids(self) -> list[int]:
        """Host pids of everything in it."""
        ...
    async def aclose(self) -> None:
        """Give back descriptors and remove the cgroups; the sandbox is dead. Keeps the last usage."""
        ...


@frozen
class Watch:
    """What a sandbox tells while it lives; called in the kernel's task, never concurrently."""

    denied: Callable[[DeniedCall], bool]
    """True when it was the end: its caller is not answered any more."""
    out_of_memory: Callable[[], None]


class Sandboxes(Protocol):
    """Makes sandboxes."""

    async def launch(self, what: Confined, watch: Watch) -> Sandbox:
        """Run it. Returns when the main process is confined and about to run; raises LaunchError."""
        ...
    def expect(self, tag: str) -> None:
        """The next launch will probably have this tag: get ready for it. A hint; nothing depends on it."""
        ...
    def keep(self, runtimes: tuple[Runtime, ...]) -> None:
        """Have the zygotes of these ready, now and when one dies, and of no others but the default one."""
        ...
    async def prepare(self, runtime: Runtime) -> None:
        """Return when its zygote is ready; raises LaunchError."""
        ...
    def readiness(self, runtime: Runtime) -> Readiness: ...
    def verify(self, sandbox: Sandbox) -> list[dict[str, Any]]:
        """Layers as read from /proc and the cgroups: rows {layer, state ("on", "off", "partial"), detail}."""
        ...


@frozen
class World:
    clock: Clock
    disk: Disk
    sandboxes: Sandboxes
    random: Callable[[int], bytes]
    """Bytes of randomness."""


KILL_DEADLINE_S: Final = 5.0
