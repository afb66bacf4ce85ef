"""Calls on files, agents and policy: those of libc, awaited."""

from typing import Any

import trio

from agentix import libc
from agentix.aio.connection import awaitable
from agentix.libc import files, policy, processes

close = awaitable(files.close)
fsync = awaitable(files.fsync)
listdir = awaitable(files.listdir)
lseek = awaitable(files.lseek)
mkdir = awaitable(files.mkdir)
open = awaitable(files.open)  # noqa: A001 - POSIX's name
pread = awaitable(files.pread)
pwrite = awaitable(files.pwrite)
read = awaitable(files.read)
rename = awaitable(files.rename)
rmdir = awaitable(files.rmdir)
scandir = awaitable(files.scandir)
stat = awaitable(files.stat)
truncate = awaitable(files.truncate)
unlink = awaitable(files.unlink)
write = awaitable(files.write)

exec_tool = awaitable(processes.exec_tool)
getpid = awaitable(processes.getpid)
getppid = awaitable(processes.getppid)
getrusage = awaitable(processes.getrusage)
spawn = awaitable(processes.spawn)
sysinfo = awaitable(processes.sysinfo)
wait = awaitable(processes.wait)
waitpid = awaitable(processes.waitpid)

caps = awaitable(policy.caps)
checkpolicy = awaitable(policy.checkpolicy)
getpolicy = awaitable(policy.getpolicy)
grant = awaitable(policy.grant)
revoke = awaitable(policy.revoke)


async def openfile(path: files.Path, mode: Any = "r") -> Any:
    """The openfile of libc as an asynchronous file, as trio.wrap_file makes it: its methods run in a thread."""
    return trio.wrap_file(await trio.to_thread.run_sync(libc.openfile, path, mode))


__all__ = [
    "caps", "checkpolicy", "close", "exec_tool", "fsync", "getpid", "getpolicy", "getppid", "getrusage", "grant",
    "listdir", "lseek", "mkdir", "open", "openfile", "pread", "pwrite", "read", "rename", "revoke", "rmdir", "scandir",
    "spawn", "stat", "sysinfo", "truncate", "unlink", "wait", "waitpid", "write",
]
