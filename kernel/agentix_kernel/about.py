"""What the kernel tells of itself and of agents: one home for the rows of ps, inspect, info and SYSINFO."""

from typing import Any

from agentix_kernel import budgets, loops, restarts
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import __version__, wire


def kernel(kernel: Kernel) -> dict[str, Any]:
    """SYSINFO: nothing in it tells an agent of other agents but their number."""
    return {"version": __version__, "protocol": wire.PROTOCOL, "boot": kernel.boot,
            "uptime_s": round(kernel.uptime_s(), 3), "agents": len(kernel.table.alive()),
            "missing_layers": list(kernel.degraded)}


def row(kernel: Kernel, process: Process, *, usage: bool = True) -> dict[str, Any]:
    """One row of ps. Without `usage` what it uses is as of the last time that was read."""
    used, lives = process.usage_now() if usage else process.usage, process.lives
    end = process.end if process.waking is None else lives.last
    return {
        "id": process.id, "life": process.life, "name": process.name, "parent": process.parent, "uid": process.uid,
        "owner": process.command.owner,
        "state": process.state.value, "why": end.why.value if end else "", "code": end.code if end else None,
        "signal": end.signal if end else None, "detail": end.detail if end else "", "rule": end.rule if end else "",
        "status": end.status if end else None,
        "restart": str(lives.policy), "restarts": lives.restarts,
        "next": restarts.told(process, kernel.world.clock.monotonic_ns()),
        "started_wall_ns": process.started_wall_ns, "ended_wall_ns": process.ended_wall_ns,
        "cpu_us": used.cpu_us, "memory_bytes": used.memory_bytes, "memory_peak_bytes": used.memory_peak_bytes,
        "processes": used.processes, "calls": process.calls, "denials": process.denials,
        "spent": budgets.spent(kernel, process),
        "kind": process.command.kind, "argv": list(process.command.argv), "mode": process.policy.mode,
        "runtime": process.command.runtime, "profile": process.command.profile,
        "degraded": list(kernel.degraded),
    }


def inspect(kernel: Kernel, process: Process) -> dict[str, Any]:
    """All that the kernel knows of an agent; of its environment the names only."""
    limits, command, signals = process.limits, process.command, process.signals
    held_bytes, held_files = kernel.tree.held(process.id)
    log_bytes = process.log.size() if process.log is not None else 0
    return row(kernel, process) | {
        "pid": process.sandbox.pid if process.sandbox and process.alive else 0,
        "children": sorted(process.children), "spawned": process.spawned, "spawn_max": process.policy.spawn_max,
        "budgets": budgets.rows(kernel, process), "loops": str(loops.bound(kernel, process)),
        "deny": list(process.policy.deny), "policy": process.policy.source.name,
        "limits": {"memory_bytes": limits.memory_bytes, "cpus": limits.cpus, "pids": limits.pids,
                   "timeout_s": limits.timeout_s},
        "environment": sorted(command.env), "cwd": command.cwd, "stdin": command.stdin,
        "terminal": command.terminal is not None,
        "binds": [{"target": bind.target, "source": bind.source, "writable": bind.writable} for bind in command.binds],
        "handles": {str(fd): handle.shown for fd, handle in sorted(process.handles.items())},
        "last_end": process.lives.last.detail if process.lives.last else "",
        "connections": len(process.sessions), "pending_signals": sorted(signals.pending), "signal_mask": signals.mask,
        "dispositions": {str(number): value for number, value in sorted(signals.dispositions.items())},
        "held": {"bytes": held_bytes, "files": held_files, "log_bytes": log_bytes},
        "tree": f"{kernel.config.mount}/{process.id}",
        "last_denial": process.last_denial.text if process.last_denial else "",
    }
