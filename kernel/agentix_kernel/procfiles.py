"""The files of /agent/<id>/proc and policy: what they say, and what a write to them does."""

import errno
from collections.abc import Mapping

import trio

from agentix_kernel import budgets, delivery, denials, grants, rebirth
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls import signals
from agentix_syscalls.errors import CallError
from agentix_vfs.fuse.gate import Withheld
from agentix_vfs.synthetic import Entry, Growing, Synthetic, Waiting
from agentix_vfs.who import Who


def proc(kernel: Kernel, process: Process) -> Mapping[str, Entry]:
    """The files outlast a life: what they tell is of the one that is."""
    def now() -> Process:
        return kernel.table.latest(process)

    def log_size() -> int:
        return process.log.size() if process.log is not None else 0

    def log_read(offset: int, count: int) -> bytes:
        return process.log.read_at(offset, count) if process.log is not None else b""

    async def wait() -> bytes:
        await now().gone.wait()
        return _ended(now()).encode()

    def note(who: Who, data: bytes) -> None:
        _signal(kernel, now(), who, data)

    return {
        "status": _text(lambda: _status(kernel, now())),
        "limits": _text(lambda: _limits(now())),
        "usage": _text(lambda: _usage(now())),
        "cmdline": Synthetic(lambda: b"".join(word.encode() + b"\0" for word in process.command.argv)),
        "environ": Synthetic(lambda: b"".join(f"{name}={value}\0".encode()
                                              for name, value in process.command.env.items()), mode=0o400),
        "fd": _text(lambda: "".join(f"{fd}\t{handle.shown}\n"
                                    for fd, handle in sorted(now().handles.items()))),
        "signal": Synthetic(lambda: _signals(now()).encode(), note, mode=0o600),
        "log": Growing(log_size, log_read),
        "trace": Growing(process.trail.size, process.trail.read_at),
        "wait": Waiting(wait),
    }


def policy(kernel: Kernel, process: Process) -> Mapping[str, Entry]:
    def effective() -> str:
        return kernel.table.latest(process).policy.describe()

    return {
        "effective": _text(effective),
        "capabilities": _text(lambda: grants.text(kernel, process.id)),
        "budgets": _text(lambda: budgets.text(kernel, kernel.table.latest(process))),
        "last-denial": _text(lambda: last.text if (last := kernel.table.latest(process).last_denial) else ""),
    }


def _text(make: "object") -> Synthetic:
    assert callable(make)
    return Synthetic(lambda: str(make()).encode())


def _lines(rows: dict[str, object]) -> str:
    return "".join(f"{key}:\t{value}\n" for key, value in rows.items())


def _status(kernel: Kernel, process: Process) -> str:
    end = process.end
    rows: dict[str, object] = {
        "Name": process.name, "State": process.state.value, "Id": process.id, "Life": process.life,
        "Parent": process.parent, "Uid": process.uid, "Mode": process.policy.mode,
        "Pid": process.sandbox.pid if process.sandbox is not None and process.alive else 0,
        "Children": " ".join(map(str, sorted(process.children))), "Calls": process.calls, "Denials": process.denials,
        "Missing": " ".join(kernel.degraded),
    }
    rows |= {"Restart": process.lives.policy, "Restarts": process.lives.restarts}
    if end is not None:
        rows |= {"Why": end.why.value, "Code": "" if end.code is None else end.code, "Signal": end.signal or "",
                 "Detail": end.detail, "Rule": end.rule}
    return _lines(rows)


def _limits(process: Process) -> str:
    limits = process.limits
    rows = {"MemoryBytes": limits.memory_bytes, "Cpus": limits.cpus, "Pids": limits.pids, "TimeoutS": limits.timeout_s}
    return _lines({key: "none" if value is None else value for key, value in rows.items()})


def _usage(process: Process) -> str:
    usage = process.usage_now()
    return _lines({"CpuUs": usage.cpu_us, "MemoryBytes": usage.memory_bytes, "MemoryPeakBytes": usage.memory_peak_bytes,
                   "Processes": usage.processes, "OomKills": usage.oom_kills, "PidsRefused": usage.pids_refused})


def _signals(process: Process) -> str:
    state = process.signals
    names = {number: row.name for number, row in signals.BY_NUMBER.items()}
    handled = [names[n] for n, disposition in sorted(state.dispositions.items()) if disposition == 2]
    return _lines({"Pending": " ".join(names[n] for n in sorted(state.pending)),
                   "Masked": " ".join(names[n] for n in signals.members(state.mask)), "Handled": " ".join(handled)})


def _ended(process: Process) -> str:
    end = process.end or process.lives.last  # restarted since: how it ended then
    assert end is not None
    code = "" if end.code is None else str(end.code)
    return f"{process.id} {end.why.value} {code or end.signal} {end.status}\n"


def _signal(kernel: Kernel, process: Process, who: Who, data: bytes) -> None:
    """`echo STOP > signal`: judged now, done after the write was answered, or a self-stopper would never freeze."""
    try:
        row = signals.from_user(data.decode("ascii", "replace"))
    except signals.SignalNameError as error:
        raise CallError(errno.EINVAL, str(error)) from None
    if not process.alive:
        raise CallError(errno.ESRCH, f"agent {process.id} has ended")
    if who.uid != 0 and who.agent != process.id:
        raise CallError(errno.EPERM, f"{row.name} to agent {process.id}: not yours to send")
    if who.agent:
        _judge(kernel, process, row)
    rebirth.check_reaches(process, row.number)
    if who.uid == 0:
        rebirth.dismiss(kernel, process, row.number)
    process.written.append((row.number, who.agent))
    kernel.start(_deliver_written, kernel, process)


def _judge(kernel: Kernel, process: Process, row: signals.Signal) -> None:
    """Raises CallError (EPERM); Withheld when that was the agent's end."""
    decision = process.policy.decide("SIGNAL", f"self/{row.name}".encode())
    if row.operator_only:
        refused: CallError | None = denials.not_to_send(kernel, process, row, process.id)
    elif not decision.allowed:
        refused = denials.violate(kernel, process, "signals", "SIGNAL", f"agent {process.id}", decision)
    else:
        grants.spend(kernel, process, "SIGNAL", f"agent {process.id}", decision.needs)
        return
    kernel.flush()
    if refused is not None:
        raise Withheld(process.id) if process.doom is not None else refused


async def _deliver_written(kernel: Kernel, process: Process) -> None:
    """Tasks start in any order, so each takes from the queue whatever comes first there."""
    await trio.lowlevel.checkpoint()
    while process.written and process.alive:
        number, agent = process.written.popleft()
        sender = f"agent {agent}" if agent else "root"
        delivery.send(kernel, process, number, agent, f"written to proc/signal by {sender}")
    kernel.flush()
