"""pid 1 of a sandbox, and the start of the agent as its pid 2.

The zygote calls `main` in a process that is confined already. Standard library alone, and little of it: an init runs
beside every agent. It reaps what is orphaned, starts further programs when the kernel says so, tells how all of them
ended, and ends with the agent, whereupon Linux kills whatever else lives in the pid namespace. When the kernel's end
of the leash closes, it ends at once.
"""

import os
from collections.abc import Callable
from typing import Any

from agentix.init import keeper, program
from agentix.init.keeper import Receive


def main(leash: int, listener: int, stdio: tuple[int, int, int], job: dict[str, Any],
         enter: Callable[[], None], receive: Receive) -> None:
    """Fork the agent that `job` (kind, argv, source, env, tty) describes and look after it.

    Never returns in pid 1. In the agent it returns, or raises what the program raised, so that the interpreter ends
    as it always does: exit handlers, buffers, exit status. `enter` undoes in the agent what holds for the init only.
    """
    master, slave = program.open_terminal(job["tty"]) if job["tty"] else (-1, -1)
    told, tell = os.pipe()
    agent = os.fork()
    if agent == 0:
        program.prepare(stdio if slave < 0 else (slave, slave, slave), tell, enter, terminal=slave >= 0)
        program.run(job, program.TELL)
        return
    os.chdir("/")
    os.close(tell)
    keeper.look_after(agent, leash, told, listener, (master, slave), waiting=job["kind"] != "script", receive=receive)
