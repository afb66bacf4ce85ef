"""The agents' C library, in Python: system calls of Agentix under their POSIX names. `from agentix import libc`.

Files are of the agent's own tree; a relative path starts at its root. Handles come from libc.open and are not file
descriptors of Linux. Signals are libc.SIGTERM and so on, with numbers of their own. What fails raises libc.Error, an
OSError that is also the builtin of its errno (PermissionError ...) and whose `reason` says why, by which rule, and what
to do next. Every call may be made from any thread, and from a signal handler while another call waits.
"""

from agentix.libc import abi, connection, failure, files, policy, processes, signals
from agentix.libc.abi import *  # noqa: F403 - the ABI, whole
from agentix.libc.connection import *  # noqa: F403 - likewise, each room says what is public
from agentix.libc.failure import *  # noqa: F403 - likewise
from agentix.libc.files import *  # noqa: F403 - likewise
from agentix.libc.policy import *  # noqa: F403 - likewise
from agentix.libc.processes import *  # noqa: F403 - likewise
from agentix.libc.signals import *  # noqa: F403 - likewise

__all__: list[str] = []
__all__ += abi.__all__
__all__ += connection.__all__
__all__ += failure.__all__
__all__ += files.__all__
__all__ += policy.__all__
__all__ += processes.__all__
__all__ += signals.__all__
