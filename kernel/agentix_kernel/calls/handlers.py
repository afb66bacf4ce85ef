"""Which function serves which row of the call table. Missing here: planned ones, and HELLO and CANCEL (dispatch's)."""

from collections.abc import Callable
from typing import Any, Final

from agentix_kernel.calls import capabilities, files, info, processes, tools

HANDLERS: Final[dict[str, Callable[..., Any]]] = {
    "OPEN": files.open_, "CLOSE": files.close, "READ": files.read, "WRITE": files.write, "SEEK": files.seek,
    "STAT": files.stat, "READDIR": files.readdir, "MKDIR": files.mkdir, "UNLINK": files.unlink,
    "RENAME": files.rename, "TRUNCATE": files.truncate, "SYNC": files.sync,
    "SPAWN": processes.spawn, "WAIT": processes.wait, "EXIT": processes.exit_, "GETPID": processes.getpid,
    "SIGNAL": processes.signal, "SIGACTION": processes.sigaction, "SIGPROCMASK": processes.sigprocmask,
    "SIGWAIT": processes.sigwait,
    "EXEC": tools.exec_,
    "GRANT": capabilities.grant, "REVOKE": capabilities.revoke, "CAPS": capabilities.caps,
    "CHECKPOLICY": info.checkpolicy, "GETPOLICY": info.getpolicy, "RUSAGE": info.rusage, "SYSINFO": info.sysinfo,
}
