"""A private kernel in the hands of a program: booted, asked to run agents, shut down and cleared away."""

import os
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attrs import frozen

from agentix.agentctl.cli import Which
from agentix.agentctl.private import agentd, await_ready, shut_down
from agentix.control import Client, socket_path
from agentix.libc.processes import command, options
from agentix_syscalls import signals

TIMEOUT_S: Final = 60.0
CONFIG: Final = "stop_timeout_s = 1\nshutdown_timeout_s = 1\n"
"""Who ignores SIGTERM is not waited for."""
Script = str | os.PathLike[str]


class Result(NamedTuple):
    """How an agent ended and what it wrote.

    `status` is as a shell has it: its own, or 128 + the Linux signal that ended it. `why` is one word (exit, signal,
    killed, policy, memory, timeout ...), `detail` a sentence.
    """

    id: int
    status: int
    stdout: str
    stderr: str
    why: str
    detail: str


@frozen
class Kernel:
    """A running kernel. `client` is root's connection to its control socket, for all that is not here."""

    prefix: Path
    client: Client

    def spawn(
        self, script: Script | None = None, args: Sequence[str] = (), *, module: str | None = None,
        exec: str | None = None,  # noqa: A002 - the word for it
        bind_ro: Mapping[Script, str] | None = None, bind: Mapping[Script, str] | None = None,
        timeout: float | None = TIMEOUT_S, **more: Any,
    ) -> int:
        """Start an agent; its id.

        What runs is one of: a Python script, as its text or as a path (a pathlib.Path, not text); a module; an
        executable of the sandbox. `bind_ro` and `bind` show files and folders of the host at a path inside. After
        `timeout` seconds the agent is killed (why: timeout). More options are those of libc.spawn: name, env, cwd,
        memory, cpus, pids, deny, mode, spawn_max. Raises CallError, TypeError, and OSError for what cannot be read.
        """
        source = None if script is None else _source(script)
        name = script if isinstance(script, os.PathLike) else None if script is None else "script.py"
        kind, argv = command(name, args, module, exec)
        given = options(source=source, timeout=timeout, **more)
        shown = [(host, inside, writable) for binds, writable in ((bind_ro, False), (bind, True))
                 for host, inside in (binds or {}).items()]
        if shown:
            given["binds"] = [[inside, writable, os.path.abspath(host)] for host, inside, writable in shown]
        with _opened([host for host, _, _ in shown]) as descriptors:
            agent: int = self.client.call("spawn", kind, argv, given, descriptors=descriptors)["id"]
        return agent

    def run(self, script: Script | None = None, args: Sequence[str] = (), **more: Any) -> Result:
        """Spawn an agent, with the arguments of `spawn`, and wait for its end."""
        return self.wait(self.spawn(script, args, **more))

    def wait(self, agent: int) -> Result:
        """Wait until the agent has ended and nothing of it is left."""
        ended = self.client.call("wait", agent, None)
        return Result(agent, ended["status"], *self.output(agent), ended["why"], ended["detail"])

    def output(self, agent: int) -> tuple[str, str]:
        """What the agent has written to stdout and stderr so far. What is missing is told in a line of stderr."""
        written = {1: bytearray(), 2: bytearray()}
        for stream, data, _ in self.client.stream("logs", agent, False, None):
            written[stream or 2] += data if stream else b"agentix: %s\n" % data
        return written[1].decode(errors="replace"), written[2].decode(errors="replace")

    def until(self, agent: int, text: str) -> None:
        """Wait until the agent has written `text`, to either stream. Raises AssertionError when it ends without."""
        seen = bytearray()
        with Client(socket_path(str(self.prefix))) as follower:
            for _, data, _ in follower.stream("logs", agent, True, None):
                seen += data
                if text.encode() in seen:
                    return
        raise AssertionError(f"agent {agent} ended and never wrote {text!r}, but {seen.decode(errors='replace')!r}")

    def kill(self, agent: int, signal: str = "TERM") -> None:
        """Send a signal, by its name, as an operator does."""
        self.client.call("signal", agent, signals.from_user(signal).number, False)

    def trace(self, agent: int, kind: str = "") -> list[dict[str, Any]]:
        """The agent's flight records (`agentctl trace --json` shows their shape), of one kind if it is named."""
        rows: list[dict[str, Any]] = list(self.client.stream("trace", agent, False, None))
        return [row for row in rows if kind in {"", row["kind"]}]

    def tree(self, agent: int) -> Path:
        """The agent's tree, agentix-tree(5), as root sees it; also after its end."""
        return Path(self.client.kernel["mount"], str(agent))


def _source(script: Script) -> bytes:
    if isinstance(script, os.PathLike):
        return Path(script).read_bytes()
    if "\n" not in script and script.endswith(".py"):
        raise TypeError(f"{script!r} is taken for a script's text: for a file, give pathlib.Path({script!r})")
    return textwrap.dedent(script).encode()


@contextmanager
def _opened(paths: list[Script]) -> Generator[list[int]]:
    with ExitStack() as files:
        descriptors: list[int] = []
        for path in paths:
            descriptors.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
            files.callback(os.close, descriptors[-1])
        yield descriptors


@contextmanager
def private_kernel(config: str | None = None) -> Generator[Kernel]:
    """A kernel under a new folder that goes with it. Raises agentctl.cli.Failure when it does not come up.

    `config` is the text of its agentd.toml; without it, agents that ignore SIGTERM are not waited for.

    Should this process be killed, the kernel shuts down by itself, and the folder stays.
    """
    with ExitStack() as stack:
        prefix = tempfile.mkdtemp(prefix="agentix-test-")
        stack.callback(_clear, prefix)
        Path(prefix, "agentd.toml").write_text(CONFIG if config is None else config)
        stack.enter_context(_agentd(prefix))
        yield Kernel(Path(prefix), stack.enter_context(Client(socket_path(prefix))))


@contextmanager
def _agentd(prefix: str) -> Generator[None]:
    log_path = f"{prefix}/agentd.log"
    argv = ["setpriv", "--pdeathsig", "TERM", agentd(), "--prefix", prefix, "--foreground", "--unlisted"]
    with open(log_path, "wb") as log:
        # A session of its own: Ctrl-C is for the tests, whose teardown then ends the kernel in order.
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        await_ready(child, Which(prefix), log_path)
        yield
    finally:
        shut_down(child, Which(prefix))


def _clear(prefix: str) -> None:
    """Remove the folder, once nothing is mounted below it: a removal must never walk into a mount."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        mounts = [line.split()[4] for line in file]
    for mount in mounts:
        if mount.startswith(f"{prefix}/"):  # agentd was killed: the mount is dead, and our own
            subprocess.run(["umount", "-l", mount], check=True)
    shutil.rmtree(prefix)
