"""What an operator may ask about which agent.

All of the group may look (at files as their modes allow), signal, and remove what is dead. What acts through an agent
(runs a program in its sandbox, types to it, changes its files, its name or what it may use) is for root and for
whoever had it spawned: an agent may be shown folders that are theirs.
"""

import errno
from typing import TYPE_CHECKING

from agentix_kernel.process import Process
from agentix_syscalls import records
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix_kernel.control.server import Client

RULE = "an agent is acted through by root and its owner alone"


def owns(client: "Client", process: Process) -> bool:
    return client.peer.uid in {0, process.command.owner}


def own(client: "Client", process: Process, what: str) -> None:
    """Raises CallError (EPERM), recorded, for anybody else."""
    if owns(client, process):
        return
    message = f"{what}: agent {process.id} ({process.name}) is uid {process.command.owner}'s, not yours"
    client.kernel.record(records.DENIAL, process, verdict=records.DENIED, rule=RULE,
                         data=("control", what, f"uid {client.peer.uid}", message))
    client.kernel.flush()
    raise CallError(errno.EPERM, message, rule=RULE, remedy="ask them, or use sudo")
