"""The agents' C library for trio: the functions of agentix.libc under the same names, to be awaited.

    import trio
    from agentix import aio

    async def main():
        child = await aio.spawn("worker.py")
        with trio.move_on_after(5):
            ended = await aio.waitpid(child)

Tasks share one connection to the kernel and wait for their answers side by side. What cancels a task also cancels its
call in the kernel: the tool of exec_tool is killed, a wait is given up. A call that was done by then returns its result
all the same, as trio has it: no child, signal or tool's result is lost.
"""

from agentix.aio import calls, connection, signals
from agentix.aio.calls import *  # noqa: F403 - each room says what is public
from agentix.aio.connection import *  # noqa: F403 - likewise
from agentix.aio.signals import *  # noqa: F403 - likewise
from agentix.libc import abi, failure
from agentix.libc.abi import *  # noqa: F403 - the ABI, whole
from agentix.libc.failure import *  # noqa: F403 - likewise
from agentix.libc.files import DirEntry as DirEntry
from agentix.libc.policy import Held as Held
from agentix.libc.policy import Policy as Policy
from agentix.libc.policy import Rule as Rule
from agentix.libc.policy import Verdict as Verdict
from agentix.libc.processes import Ended as Ended
from agentix.libc.processes import Usage as Usage
from agentix.libc.processes import _exit as _exit
from agentix.libc.processes import exit as exit  # noqa: A004 - POSIX's name
from agentix.libc.signals import Disposition as Disposition
from agentix.libc.signals import Handler as Handler
from agentix.libc.signals import SigInfo as SigInfo
from agentix.libc.signals import getsignal as getsignal

__all__ = [
    "DirEntry", "Disposition", "Ended", "Handler", "Held", "Policy", "Rule", "SigInfo", "Usage", "Verdict", "_exit",
    "exit", "getsignal",
]
__all__ += abi.__all__
__all__ += calls.__all__
__all__ += connection.__all__
__all__ += failure.__all__
__all__ += signals.__all__
