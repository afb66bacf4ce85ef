"""Calls about agents: spawn, wait, exit, getpid, signals."""

import errno
import os
from collections.abc import Callable, Coroutine
from typing import Any

import trio
from attrs import evolve

from agentix_kernel import budgets, delivery, denials, grants, lifecycle
from agentix_kernel.authority.policy.document import Bounds
from agentix_kernel.authority.policy.inforce import InForce, Verdict
from agentix_kernel.config import Config
from agentix_kernel.kernel import Kernel
from agentix_kernel.outcome import NoReplyError, Recorded
from agentix_kernel.process import Command, End, Process, State, Why
from agentix_kernel.world import DEFAULT_RUNTIME, Bind, Limits
from agentix_syscalls import calls, signals
from agentix_syscalls import spawn as table
from agentix_syscalls.errors import CallError


def command_of(kind: str, argv: tuple[str, ...], options: dict[str, Any], binds: tuple[Bind, ...], *,
               own: Command | None = None, owner: int = 0) -> Command:
    """What to run, from checked options. `own`: the caller's, whose runtime it has and whose script it may run again by
    its name alone.

    Raises CallError(EINVAL).
    """
    if kind not in table.KINDS:
        raise CallError(errno.EINVAL, f"spawn: kind {kind!r} is none of {', '.join(table.KINDS)}")
    source = options.get("source")
    if source is None and own is not None and (kind, argv[0]) == (own.kind, own.argv[0]):
        source = own.source
    if (kind == "script") != (source is not None):
        raise CallError(errno.EINVAL, "spawn: a script comes with its source, and nothing else does")
    runtime = own.runtime if own is not None else options.get("runtime", DEFAULT_RUNTIME)
    return Command(kind, argv, source, options.get("env", {}), options.get("cwd", ""), binds,
                   stdin=options.get("stdin", False), terminal=options.get("terminal"), runtime=runtime,
                   profile=options.get("profile", ""), owner=own.owner if own is not None else owner)


def limits_of(options: dict[str, Any], config: Config, policy: InForce | None = None) -> Limits:
    """What is asked for, else what the policy gives, else what the configuration does; none over the policy's."""
    bounds = policy.policy.limits if policy is not None else Bounds()
    most = Limits(bounds.memory_bytes, bounds.cpus, bounds.pids, bounds.timeout_s)
    wanted = Limits(options.get("memory_bytes", bounds.memory_bytes or config.memory_bytes),
                    options.get("cpus", bounds.cpus or config.cpus), options.get("pids", bounds.pids or config.pids),
                    options.get("timeout_s", bounds.timeout_s))
    return least(most, wanted)


def least(parent: Limits, wanted: Limits) -> Limits:
    """A child's limits: none over its parent's."""
    def low(a: Any, b: Any) -> Any:
        return b if a is None else a if b is None else min(a, b)
    return Limits(low(parent.memory_bytes, wanted.memory_bytes), low(parent.cpus, wanted.cpus),
                  low(parent.pids, wanted.pids), low(parent.timeout_s, wanted.timeout_s))


def _left(kernel: Kernel, process: Process) -> Limits:
    """The parent's limits, of its time what is left: or a chain of children would live on and on."""
    limits = process.limits
    if limits.timeout_s is None:
        return limits
    return evolve(limits, timeout_s=max(0.001, limits.timeout_s - lifecycle.lived_s(kernel, process)))


def spawn(kernel: Kernel, process: Process, kind: str, argv: tuple[str, ...],
          options: dict[str, Any] | None) -> Coroutine[Any, Any, Any]:
    checked = table.parse_options(options or {}, by_agent=True)
    command = command_of(kind, argv, checked, (), own=process.command)
    decision = process.policy.decide_spawn(checked.get("name"))  # first: what follows costs more
    if not decision.allowed:
        raise denials.refuse(kernel, process, "dispatch", "SPAWN", checked.get("name") or argv[0], decision)
    grants.leave_to_spawn(kernel, process, checked.get("name"), take=False)

    def narrowed() -> InForce:
        return process.policy.narrowed(checked.get("mode"), checked.get("deny", ()), checked.get("spawn_max"),
                                       checked.get("capabilities"))

    policy = narrowed()
    budgets.charge(kernel, process, "children")
    limits = least(_left(kernel, process), limits_of(checked, kernel.config))
    return _spawn(kernel, process, command, limits, (process.policy, policy, narrowed), checked.get("name"))


async def _spawn(kernel: Kernel, process: Process, command: Command, limits: Limits,
                 policies: tuple[InForce, InForce, Callable[[], InForce]], name: str | None) -> Any:
    """`policies`: the parent's when it asked, the child's of then, and what makes the child's of the parent's now."""
    await trio.lowlevel.checkpoint_if_cancelled()  # the last chance: what has begun is finished, and its id is told
    asked, policy, narrowed = policies
    if process.policy is not asked:  # another one was put in force meanwhile
        policy = narrowed()
    inherited = tuple(evolve(bind, source_fd=os.dup(bind.source_fd)) for bind in process.command.binds)
    child, seq = await lifecycle.spawn(kernel, evolve(command, binds=inherited), limits, policy, name, process)
    return Recorded(child.id, seq)


def wait(kernel: Kernel, process: Process, agent: int, flags: int, timeout_s: float | None) -> Coroutine[Any, Any, Any]:
    if flags & ~calls.WNOHANG:
        raise CallError(errno.EINVAL, f"WAIT: unknown flags {flags:#x}")
    if agent < -1 or agent == 0:
        raise CallError(errno.EINVAL, f"WAIT: {agent} is neither an agent nor -1 for any child")
    return _wait(kernel, process, agent, flags, timeout_s)


async def _wait(kernel: Kernel, process: Process, agent: int, flags: int, timeout_s: float | None) -> Any:
    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
        while True:
            children = sorted(process.children) if agent == -1 else [agent] if agent in process.children else []
            if not children:
                raise CallError(errno.ECHILD, "WAIT: no child to wait for" if agent == -1
                                else f"WAIT: agent {agent} is not a child")
            for child_id in children:
                child = kernel.table.by_id[child_id]
                if child.state is State.ZOMBIE:
                    return _reap(kernel, process, child)
            if flags & calls.WNOHANG:
                return None
            await process.changed.park()
    raise CallError(errno.ETIMEDOUT, f"WAIT: none ended in {timeout_s:g} s")


def _reap(kernel: Kernel, process: Process, child: Process) -> list[Any]:
    child.state = State.DEAD
    process.children.discard(child.id)
    kernel.registry.save(child)
    end = child.end
    assert end is not None
    return [child.id, end.code, end.signal, end.why.value]


def exit_(kernel: Kernel, process: Process, status: int) -> None:
    if status > 255:
        raise CallError(errno.EINVAL, f"EXIT: status {status} is not from 0 to 255")
    lifecycle.doom(kernel, process, End(Why.EXIT, code=status, detail=f"exited with {status}"))
    raise NoReplyError


def getpid(kernel: Kernel, process: Process) -> list[int]:
    del kernel
    return [process.id, process.parent]


def signal(kernel: Kernel, process: Process, agent: int, number: int) -> None:
    """To itself or to an own child."""
    row = signals.BY_NUMBER.get(number)
    if row is None:
        raise CallError(errno.EINVAL, f"SIGNAL: {number} is not a signal", remedy="agentctl signals lists them")
    if row.operator_only:
        raise denials.not_to_send(kernel, process, row, agent)
    if agent != process.id and agent not in process.children:
        stranger = kernel.table.by_id.get(agent)
        if stranger is None or (stranger.parent == process.id and not stranger.alive):
            raise CallError(errno.ESRCH, f"SIGNAL: agent {agent}: no such agent")
        raise denials.refuse(kernel, process, "signals", "SIGNAL", f"agent {agent}", Verdict(
            allowed=False, rule="signals: itself and own children",
            message=f"agent {agent} is neither itself nor an own child"))
    target = kernel.table.get(agent)
    if not target.alive:
        raise CallError(errno.ESRCH, f"SIGNAL: agent {agent} has ended")
    delivery.send(kernel, target, number, process.id, f"sent by agent {process.id}")
    if process.doom is not None:
        raise NoReplyError


def sigaction(kernel: Kernel, process: Process, number: int, disposition: int) -> int:
    old, deeds = process.signals.act(number, disposition)
    delivery.released(kernel, process, deeds)
    return old


def sigprocmask(kernel: Kernel, process: Process, how: int, given: int) -> int:
    old, deeds = process.signals.procmask(how, given)
    delivery.released(kernel, process, deeds)
    return old


def sigwait(kernel: Kernel, process: Process, wanted: int, timeout_s: float | None,
            flags: int) -> Coroutine[Any, Any, Any]:
    if flags & ~calls.SIGWAIT_DELIVERABLE:
        raise CallError(errno.EINVAL, f"SIGWAIT: unknown flags {flags:#x}")
    if not flags and not wanted & signals.ALL_MASK:
        raise CallError(errno.EINVAL, "SIGWAIT: the set names no signal")
    return _sigwait(kernel, process, wanted, timeout_s, flags)


async def _sigwait(kernel: Kernel, process: Process, wanted: int, timeout_s: float | None, flags: int) -> Any:
    del kernel
    take = process.signals.take_deliverable if flags else process.signals.take
    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
        while True:
            found = take(wanted)
            if found is not None:
                return [found.number, found.sender, found.why]
            if flags:
                return None
            await process.changed.park()
    raise CallError(errno.EAGAIN, f"SIGWAIT: no signal of the set came in {timeout_s:g} s")
