"""Another policy for many living agents in one request: until the answer, when it holds for all and is recorded.

Each is a Python agent that has a file of its tree open for writing and waits for a signal. The narrower policy allows
a hundred things, and none of them is to write there: what was open is closed in the same step.
"""

import time
from typing import Final

import click
from attrs import frozen
from harness.kernel import PrivateKernel, private_kernel
from harness.processes import wait_until

CONFIG: Final = "agents_max = 5000\nlog_bytes = 65536\n"
READY_S: Final = 120.0
WIDE: Final = b"version: 1\nname: wide\nmode: enforce\nallow:\n  - {file: /, action: [read, write]}\n"
HOLDING: Final = """
from agentix import libc
libc.open("state/held", libc.O_WRONLY | libc.O_CREAT)
libc.sigprocmask(libc.SIG_BLOCK, {libc.SIGUSR2})
libc.sigwait({libc.SIGUSR2})
"""
CALLS_TO_WAIT: Final = 4
"""Of an agent until it waits: HELLO, OPEN, SIGPROCMASK and SIGWAIT."""


@frozen
class Narrowed:
    agents: int
    seconds: float


def narrow(agents: int, text: bytes) -> Narrowed:
    """Give so many agents the policy of this text. Raises ClickException when what was open is not closed."""
    with private_kernel(CONFIG) as kernel:
        ids = [kernel.script(HOLDING, "holding", policy=["wide.yaml", WIDE])["id"] for _ in range(agents)]
        wait_until(lambda: _calls(kernel) >= CALLS_TO_WAIT, "all agents wait for a signal", READY_S)
        begin = time.monotonic()
        rows = kernel.client.call("policy_set", ids, ["narrow.yaml", text], False, [])
        seconds = time.monotonic() - begin
        if any(row["result"] != "set" or len(row["closed"]) != 1 for row in rows) or len(rows) != agents:
            raise click.ClickException(f"not all agents were narrowed: {rows[0]}")
        return Narrowed(agents, seconds)


def _calls(kernel: PrivateKernel) -> int:
    """Of the one that made the fewest."""
    calls: int = min(row["calls"] for row in kernel.client.call("ps", False, False))
    return calls
