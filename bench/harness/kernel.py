"""A private kernel for one benchmark: booted below a folder of its own, shut down and cleared away after it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import click
import prctl
from attrs import define

from agentix.control import Client, NoKernelError, socket_path
from agentix_syscalls.errors import CallError
from harness.processes import wait_until

BOOT_S = 30.0
SHUTDOWN_S = 40.0


@define
class PrivateKernel:
    """A running kernel. `client` is root's connection to its control socket."""

    prefix: str
    pid: int
    client: Client

    def spawn(self, kind: str, argv: list[str], **options: Any) -> dict[str, Any]:
        """{id, life, name, uid}; options are those of agentix_syscalls/spawn.py. Raises CallError."""
        agent: dict[str, Any] = self.client.call("spawn", kind, argv, options)
        return agent

    def script(self, source: str, name: str, **options: Any) -> dict[str, Any]:
        """Spawn a Python agent whose text is `source`."""
        return self.spawn("script", [f"/{name}.py"], source=source.encode(), **options)

    def signal(self, agent: int, number: int) -> None:
        self.client.call("signal", agent, number, False)

    def wait(self, agent: int, timeout_s: float = 30.0) -> dict[str, Any]:
        """Until the agent has ended and nothing is left of it; its row of ps. Raises CallError ETIMEDOUT."""
        row: dict[str, Any] = self.client.call("wait", agent, timeout_s)
        return row

    def remove(self, agent: int) -> None:
        self.client.call("rm", agent)

    def output(self, agent: int) -> str:
        """What the agent has written to stdout and stderr so far."""
        return b"".join(data for _, data in self.client.stream("logs", agent, False, None)).decode()

    def socket_target(self, agent: dict[str, Any]) -> str:
        """SOCKET:UID of an agent's system-call socket, as native/load.c wants it."""
        return f"{self.prefix}/run/agents/{agent['id']}.{agent['life']}/kernel.sock:{agent['uid']}"


@contextmanager
def private_kernel(config: str = "") -> Generator[PrivateKernel]:
    """Boot a kernel with this agentd.toml. Raises ClickException with the end of its log when it does not come up."""
    with ExitStack() as stack:
        prefix = tempfile.mkdtemp(prefix="agentix-bench-")
        stack.callback(_clear, prefix)
        with open(f"{prefix}/agentd.toml", "w", encoding="utf-8") as file:
            file.write(config)
        daemon = stack.enter_context(_daemon(prefix))
        client = stack.enter_context(_client(prefix, daemon))
        yield PrivateKernel(prefix, daemon.pid, client)


@contextmanager
def _daemon(prefix: str) -> Generator["subprocess.Popen[bytes]"]:
    argv = [f"{os.path.dirname(sys.executable)}/agentd", "--unlisted", "--prefix", prefix]
    with open(f"{prefix}/agentd.log", "wb") as log, subprocess.Popen(
            argv, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=lambda: prctl.set_pdeathsig(15)) as daemon:  # noqa: PLW1509 - there are no threads here
        try:
            yield daemon
        finally:
            daemon.terminate()
            try:
                daemon.wait(SHUTDOWN_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                raise


@contextmanager
def _client(prefix: str, daemon: "subprocess.Popen[bytes]") -> Generator[Client]:
    found: list[Client] = []

    def connected() -> bool:
        if daemon.poll() is not None:
            raise click.ClickException(f"agentd does not come up:\n{_tail(prefix)}")
        with suppress(NoKernelError, CallError):
            found.append(Client(socket_path(prefix)))
        return bool(found)

    wait_until(connected, "agentd answers on its control socket", BOOT_S)
    with found[0]:
        yield found[0]


def _tail(prefix: str) -> str:
    with open(f"{prefix}/agentd.log", encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-10:])


def _clear(prefix: str) -> None:
    """Remove the folder, once nothing is mounted below it: a removal must never walk into a mount."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line.split()[4] for line in file]
    for mount in mounts:
        if mount.startswith(f"{prefix}/"):  # agentd was killed: the mount is dead, and our own
            subprocess.run(["umount", "-l", mount], check=True)
    shutil.rmtree(prefix)
