"""A private kernel for one benchmark: booted below a folder of its own, shut down and cleared away after it."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import click
from attrs import define

from agentix import private
from agentix.agentctl.cli import Failure
from agentix.control import Client


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
        return b"".join(data for _, data, _ in self.client.stream("logs", agent, False, None)).decode()

    def socket_target(self, agent: dict[str, Any]) -> str:
        """SOCKET:UID of an agent's system-call socket, as native/load.c wants it."""
        return f"{self.prefix}/run/agents/{agent['id']}.{agent['life']}/kernel.sock:{agent['uid']}"


@contextmanager
def private_kernel(config: str = "") -> Generator[PrivateKernel]:
    """Boot a kernel with this agentd.toml. Raises ClickException, its log on stderr, when it does not come up."""
    with ExitStack() as stack:
        try:
            kernel = stack.enter_context(private.private_kernel(config))
        except Failure as failure:
            raise click.ClickException(str(failure)) from None
        yield PrivateKernel(str(kernel.prefix), kernel.client.kernel["pid"], kernel.client)
