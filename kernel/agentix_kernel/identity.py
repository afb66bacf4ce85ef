"""Whose connection it is, and who is at fault when it is not its agent's.

An agent is whoever comes through its own socket with its own uid (SO_PEERCRED: who made the connection, from Linux and
not from what they say). At fault is always who connected, never whose socket it is: else an agent could have another
one killed by visiting it. A tool does what its agent says, so its agent answers for it.

An agent that hands a connection of its own to somebody has made them its messenger, as if it passed their words on
itself: what comes through it is the agent's, and held against its rules.
"""

from typing import Final

from agentix_kernel import delivery
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import records, signals

RULE: Final = "identity: its own socket, with its own uid"


def mistaken(kernel: Kernel, owner: Process, uid: int, pid: int) -> None:
    """Somebody else came through an agent's socket: recorded, and SIGTRUST for the agent that did it, if one did."""
    liar = kernel.table.answerable(uid)
    what = f"uid {uid}, pid {pid} came through the socket of agent {owner.id}, whose uid is {owner.uid}"
    kernel.sync_to(kernel.record(records.FAULT, liar or owner, verdict=records.FAULTED, rule=RULE,
                                 data=("identity", what)))
    if liar is not None and liar.alive:
        delivery.end_family(kernel, liar, signals.SIGTRUST, what, RULE)
