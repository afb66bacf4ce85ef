"""EXEC: run a tool through the kernel."""

import errno
from collections.abc import Coroutine
from typing import Any

from agentix_kernel import budgets, grants, tools
from agentix_kernel.kernel import Kernel
from agentix_kernel.outcome import Recorded
from agentix_kernel.process import Process
from agentix_syscalls.errors import CallError


def exec_(kernel: Kernel, process: Process, name: str, arguments: dict[str, Any],
          timeout_s: float | None) -> Coroutine[Any, Any, Any]:
    tool = tools.TOOLS.get(name)
    if tool is None:
        raise CallError(errno.ENOENT, f"EXEC: no tool is named {name!r}", remedy="tools: " + ", ".join(tools.TOOLS))
    command = tool.read(arguments)
    most = grants.leave_to_run(kernel, process, name)
    budgets.charge(kernel, process, "tools")
    wanted = timeout_s or kernel.config.tool_timeout_s
    return _exec(kernel, process, name, command, wanted if most is None else min(wanted, most))


async def _exec(kernel: Kernel, process: Process, name: str, command: tuple[str, ...], timeout_s: float) -> Any:
    if process.tools >= kernel.config.tools_max:  # asked here: many may come in one tick
        raise CallError(errno.EAGAIN, f"EXEC: {process.tools} tools of this agent run already",
                        remedy="wait for one to end")
    process.tools += 1
    try:
        result, seq = await tools.run(kernel, process, name, command, timeout_s)
    finally:
        process.tools -= 1
    return Recorded(result, seq)
