"""The next life of an agent: after an end by its policy, when an operator wants it, and after its kernel ended.

A life that waits for its time stands in the table already, as `ready`: it has the agent's id, name and uid, and no
processes. What it waits in is `Process.waking`.
"""

import errno
import os
from collections.abc import Sequence
from typing import Final

import trio
from attrs import evolve

from agentix_kernel import delivery, descriptors, grants, lifecycle, restarts
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import End, Process, State, Why
from agentix_kernel.world import Bind, LaunchError
from agentix_syscalls import records, signals
from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import BY_NUMBER, Default

DISMISSING: Final = frozenset({signals.SIGTERM, signals.SIGINT, signals.SIGKILL})
"""An operator who sends these wants it to end: its policy does not restart it."""


def delay(kernel: Kernel, process: Process, end: End) -> float | None:
    """Seconds from the end of a life to the next one; None when none follows."""
    if kernel.shutting:
        return None
    if process.again is not None:  # an operator wants it, but knew nothing of what it did since
        return None if end.why in restarts.FINAL else 0.0
    return restarts.delay(kernel.config, process, end, kernel.world.clock.monotonic_ns())


def end_descendants(kernel: Kernel, process: Process) -> None:
    """What a life spawned does not outlast its restart, as with a systemd unit; else each life might add its own."""
    family = kernel.table.family(process)
    for heir in kernel.table.alive():
        if heir is not process and (heir.origin == process.id or heir in family):
            lifecycle.doom(kernel, heir, End(Why.KILLED, signal="SIGKILL",
                                             detail=f"agent {process.id}, from which it descends, is restarted"))


def follow(kernel: Kernel, process: Process, delay_s: float) -> Process:
    """Put the next life in the place of one that has ended; it begins by itself. No await: it is one change."""
    assert process.end is not None
    clock, lives = kernel.world.clock, process.lives
    process.state = State.DEAD
    lives.last, lives.due_ns = process.end, clock.monotonic_ns() + round(delay_s * 1e9)
    if process.again is not None:
        lifecycle.release(process.command)
        process.command, process.again = evolve(process.command, binds=process.again), None
        restarts.renew(lives)
    following = process.following(clock.wall_ns(), clock.monotonic_ns())
    kernel.table.follow(following)
    grants.renew(kernel, following)
    if following.log is not None:
        following.log.ended = False
    kernel.record(records.RESTART, process, data=(process.end.detail, delay_s, following.life))
    kernel.registry.save(following)
    kernel.start(_live, kernel, following, delay_s)
    kernel.flush()
    return following


async def _live(kernel: Kernel, process: Process, delay_s: float) -> None:
    assert process.waking is not None
    with process.waking:
        await trio.sleep(delay_s)
    process.waking = None
    end = process.doom
    if end is not None:
        process.lives.wanted = kernel.shutting  # whoever ends what waits wants no further life
    else:
        process.started_wall_ns, process.born_ns = kernel.world.clock.wall_ns(), kernel.world.clock.monotonic_ns()
        try:
            await lifecycle.begin(kernel, process)
        except (LaunchError, OSError) as error:
            end = process.doom or End(Why.KILLED, detail=f"could not be launched: {error.args[1]}")
            process.doom = end
            if kernel.doors:
                kernel.doors.close(process)
    if end is not None:
        with trio.CancelScope(shield=True):  # as every end: a shutdown waits until it is told
            await lifecycle.finish(kernel, process, end)
    process.wake()


# --- what operators want -------------------------------------------------------------------------------------------

def dismiss(kernel: Kernel, process: Process, number: int) -> None:
    """An operator sends a signal: after one that asks for an end, no policy restarts the agent."""
    if number in DISMISSING and process.lives.wanted:
        process.lives.wanted = False
        kernel.registry.save(process)


def check_reaches(process: Process, number: int) -> None:
    """An agent that waits for its restart can be ended, and nothing else. Raises CallError(EAGAIN)."""
    row = BY_NUMBER[number]
    if process.waking is not None and row.default not in {Default.TERMINATE, Default.KILL}:
        raise CallError(errno.EAGAIN, f"{_named(process)} waits for its restart; {row.name} has "
                        "nothing to act on", remedy="send it when the agent runs, or end it with SIGTERM")


async def restart(kernel: Kernel, process: Process, binds: tuple[Bind, ...]) -> Process:
    """End an agent if it lives, and run its next life; returns that, running. The binds are the agent's from here on.

    SIGTERM comes first, and after stop_timeout_s the proven kill. Cancelled, it goes on all the same. Raises CallError:
    EBUSY, ECANCELED, ENOENT, ESHUTDOWN, EAGAIN.
    """
    try:
        while process.doom is not None and not process.over.is_set():
            await process.over.wait()
            process = kernel.table.get(process.id)
        following = _start_over(kernel, process, binds)
    except BaseException:
        _close(binds)
        raise
    if following is process and process.again is not None:
        await process.over.wait()
        following = kernel.table.latest(process)
        if following is process:
            assert process.end is not None
            raise CallError(errno.ECANCELED, f"{_named(process)} is not restarted: {process.end.detail}")
    while following.state is State.READY:
        await following.changed.park()
    if following.sandbox is None:
        assert following.end is not None
        raise CallError(errno.ECANCELED, f"{_named(process)}: {following.end.detail}")
    return following


def check_restart(kernel: Kernel, process: Process) -> None:
    """Raises CallError (EBUSY, ESHUTDOWN) for what cannot be restarted now."""
    if process.state is State.ZOMBIE:
        raise CallError(errno.EBUSY, f"{_named(process)}: its parent has not waited for it yet")
    if kernel.shutting:
        raise CallError(errno.ESHUTDOWN, "restart: the kernel is shutting down")
    if process.again is not None:
        raise CallError(errno.EBUSY, f"{_named(process)} is being restarted")


def _start_over(kernel: Kernel, process: Process, binds: tuple[Bind, ...]) -> Process:
    """The life that is to come, or the one that has to end before. Owns the binds when it returns."""
    check_restart(kernel, process)
    if process.waking is not None:
        lifecycle.release(process.command)
        process.command = evolve(process.command, binds=binds)
        restarts.renew(process.lives)
        process.waking.cancel()
        return process
    if not process.alive:
        return _revive(kernel, process, binds)
    process.again = binds
    kernel.start(_end, kernel, process)
    return process


def _named(process: Process) -> str:
    return f"agent {process.id} ({process.name})"


async def _end(kernel: Kernel, process: Process) -> None:
    if process.doom is not None:
        return
    for number in (signals.SIGCONT, signals.SIGTERM):
        delivery.send(kernel, process, number, 0, "an operator restarts it")
    kernel.flush()
    if process.terminating:
        return  # it has no handler of its own: the kill follows the signal
    with trio.move_on_after(kernel.config.stop_timeout_s):
        await process.over.wait()
        return
    lifecycle.doom(kernel, process, End(Why.KILLED, signal="SIGKILL", detail="did not end in time to be restarted"))


def _revive(kernel: Kernel, process: Process, binds: tuple[Bind, ...]) -> Process:
    """The next life of a dead agent. Its script comes from the disk if this kernel did not know it yet."""
    lifecycle.check_room(kernel, "restart")
    command = process.command
    if command.kind == "script" and command.source is None:
        process.command = evolve(command, source=kernel.registry.source(process.id))
    process.parent, process.again = 0, binds
    return follow(kernel, process, 0.0)


# --- after a kernel's end ------------------------------------------------------------------------------------------

def reopen(kernel: Kernel) -> list[tuple[Process, tuple[Bind, ...]]]:
    """Agents that ran with a policy when their kernel ended, with their binds; who lacks one stays dead and says so."""
    found: list[tuple[Process, tuple[Bind, ...]]] = []
    for process in kernel.table.by_id.values():
        if not process.lives.wanted:
            continue
        try:
            found.append((process, _opened(process.command.binds)))
        except CallError as error:
            _give_up(kernel, process, error.message)
    return found


def revive(kernel: Kernel, wanted: list[tuple[Process, tuple[Bind, ...]]]) -> int:
    """Run them again; how many."""
    count = 0
    for process, binds in wanted:
        try:
            _revive(kernel, process, binds)
        except CallError as error:
            _close(binds)
            _give_up(kernel, process, error.message)
        else:
            count += 1
    return count


def _give_up(kernel: Kernel, process: Process, why: str) -> None:
    process.lives.wanted, process.lives.refused = False, why
    kernel.registry.save(process)


def _opened(binds: tuple[Bind, ...]) -> tuple[Bind, ...]:
    """The binds opened by their paths, each the same file or folder of the same owner as it was. Raises CallError."""
    opened: list[Bind] = []
    try:
        for bind in binds:
            opened.append(evolve(bind, source_fd=os.open(bind.source, os.O_PATH | os.O_CLOEXEC)))
            if descriptors.source(opened[-1].source_fd, bind.source).identity != bind.identity:
                raise CallError(errno.ESTALE, f"{bind.source} is not what was bound")
    except (CallError, OSError) as error:
        _close(opened)
        if isinstance(error, CallError):
            raise
        raise CallError(error.errno or errno.EIO, f"{error.filename}: {error.strerror}") from None
    return tuple(opened)


def _close(binds: Sequence[Bind]) -> None:
    for bind in binds:
        os.close(bind.source_fd)
