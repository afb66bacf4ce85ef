"""Tools: what EXEC runs. Each run has a sandbox and a uid of its own, no tree and no socket, under the caller's limits.

Tools and talk (a later step) brings providers and schemas in files; the built-in table has shell.execute.
"""

import errno
import os
from collections.abc import Callable
from typing import Any, Final

import trio
from attrs import define, field, frozen

from agentix_kernel import denials
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_kernel.world import Confined, DeniedCall, LaunchError, Sandbox, Watch
from agentix_syscalls import records, types
from agentix_syscalls.errors import CallError


@frozen
class Tool:
    """One tool: `read` checks its arguments and gives the command to run."""

    name: str
    doc: str
    schema: dict[str, Any]
    read: Callable[[dict[str, Any]], tuple[str, ...]]


def _shell_execute(arguments: dict[str, Any]) -> tuple[str, ...]:
    unknown = sorted(set(arguments) - {"command"})
    if unknown:
        raise CallError(errno.EINVAL, f"shell.execute: unknown argument {unknown[0]!r}; it has one: command")
    try:
        command = types.argv([arguments.get("command")])[0]
    except types.BadArgument as bad:
        raise CallError(errno.EINVAL, f"shell.execute: command: {bad}") from None
    return ("/bin/sh", "-c", command)


TOOLS: Final = {
    "shell.execute": Tool(
        "shell.execute", "Run a shell command in a sandbox of its own: no tree, no network, a private /tmp.",
        {"type": "object", "required": ["command"], "additionalProperties": False,
         "properties": {"command": {"type": "string"}}},
        _shell_execute),
}


@define
class _Output:
    """What a tool wrote to one stream: the first bytes up to a cap, and how much there was."""

    cap: int
    kept: bytearray = field(factory=bytearray)
    total: int = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        self.kept += data[:max(0, self.cap - len(self.kept))]


async def run(kernel: Kernel, caller: Process, name: str, argv: tuple[str, ...],
              timeout_s: float) -> tuple[dict[str, Any], int]:
    """Run a tool for an agent; returns its result and the sequence of its record.

    Raises CallError: ETIMEDOUT (killed), and what the launch says. Cancelled with its caller's call.
    """
    correlation = kernel.next_correlation()
    kernel.record(records.TOOL, caller, phase=records.INTENT, correlation=correlation, data=(name, None, list(argv)))
    kernel.flush()
    uid = kernel.registry.claim_uid()
    kernel.table.by_tool_uid[uid] = caller
    try:
        status, outputs = await _confined(kernel, caller, uid, argv, timeout_s, correlation)
    except CallError as error:
        kernel.record(records.TOOL, caller, phase=records.OUTCOME, verdict=records.FAILED, correlation=correlation,
                      data=(name, None, error.message))
        raise
    except BaseException:  # cancelled, also as a group of nurseries' making: what was begun is closed in the record
        kernel.record(records.TOOL, caller, phase=records.OUTCOME, verdict=records.FAILED, correlation=correlation,
                      data=(name, None, "given up before its end; killed"))
        raise
    finally:
        del kernel.table.by_tool_uid[uid]
        kernel.registry.free_uid(uid)
    out, err = outputs
    seq = kernel.record(records.TOOL, caller, phase=records.OUTCOME, verdict=records.ALLOWED, correlation=correlation,
                        data=(name, status, f"{out.total} bytes of output, {err.total} of errors"))
    return {"status": status, "stdout": bytes(out.kept), "stderr": bytes(err.kept),
            "stdout_bytes": out.total, "stderr_bytes": err.total}, seq


async def _confined(kernel: Kernel, caller: Process, uid: int, argv: tuple[str, ...], timeout_s: float,
                    correlation: int) -> tuple[int, tuple[_Output, _Output]]:
    cap = kernel.config.tool_output_bytes
    outputs = _Output(cap), _Output(cap)
    pipes = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in outputs]
    for _, writer in pipes:
        os.set_blocking(writer, True)  # the tool's end is an ordinary one
    what = Confined(tag=f"{caller.tag}-tool{correlation & 0xFFFFFFFF}", uid=uid, kind="exec", argv=argv,
                    cwd="/tmp", hostname="tool", binds=(), limits=caller.limits, parent=caller.tag,
                    stdout_fd=pipes[0][1], stderr_fd=pipes[1][1])
    sandbox = None
    try:
        sandbox = await _launch(kernel, caller, what)
        for _, writer in pipes:
            os.close(writer)
        pipes = [(reader, -1) for reader, _ in pipes]
        with trio.move_on_after(timeout_s) as time:
            async with trio.open_nursery() as nursery:
                for (reader, _), output in zip(pipes, outputs, strict=True):
                    nursery.start_soon(_drain, reader, output)
                ended = await sandbox.wait()
                await sandbox.kill()
            return ended.status, outputs
        assert time.cancelled_caught
        raise CallError(errno.ETIMEDOUT, f"EXEC: {argv[-1][:60]!r} ran longer than {timeout_s:g} s and was killed")
    finally:
        with trio.CancelScope(shield=True):
            if sandbox is not None:
                await sandbox.kill()
                await sandbox.aclose()
        for reader, writer in pipes:
            os.close(reader)
            if writer >= 0:
                os.close(writer)


async def _launch(kernel: Kernel, caller: Process, what: Confined) -> Sandbox:
    def denied(call: DeniedCall) -> bool:
        return denials.by_seccomp(kernel, caller, call, f"pid {call.pid} of a tool")  # it does what its caller says

    try:
        return await kernel.world.sandboxes.launch(what, Watch(denied, lambda: None))
    except LaunchError as error:
        raise CallError(error.number, f"EXEC: {error.stage}: {error.message}") from error


async def _drain(reader: int, output: _Output) -> None:
    while True:
        try:
            data = os.read(reader, 65536)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(reader)
            continue
        if not data:
            return
        output.add(data)
        await trio.lowlevel.checkpoint()
