"""From spawn to the last trace: agents are made, watched, frozen, continued, killed and buried here."""

import errno
import os
import re
import signal as linux
from typing import Final

import trio
from attrs import evolve

from agentix_kernel import delivery, denials, grants, procfiles, rebirth, restarts
from agentix_kernel.authority.holdings import Grant
from agentix_kernel.authority.policy.inforce import AUDIT, InForce
from agentix_kernel.kernel import Given, Kernel
from agentix_kernel.logs import AgentLog
from agentix_kernel.process import Command, End, Lives, Process, State, Why
from agentix_kernel.runtimes.inforce import current
from agentix_kernel.world import Bind, Confined, DeniedCall, Ended, LaunchError, Limits, Runtime, Watch
from agentix_syscalls import records, signals
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import Restart

NO_RESTART: Final = Restart()

_CWD: Final = "/agent/self/mem/working"
_OWN_TREE: Final = re.compile(r"/+agent/+(?:self|[0-9]+)(?=/|\Z)")

_SWEEP_MAX: Final = 100
"""Removed agents whose files one process erases."""


async def spawn(kernel: Kernel, command: Command, limits: Limits, policy: InForce, name: str | None,
                parent: Process | None, restart: Restart = NO_RESTART) -> tuple[Process, int]:
    """Make an agent and run it. Returns it and the sequence of the record to wait for before saying so.

    The binds' descriptors are its own from here on, also when it fails.

    Raises CallError: EAGAIN (as many as there may be), EEXIST (name), ESHUTDOWN, and what the launch says
    (ENOENT, EACCES, ENOEXEC are the command's). Nothing is left of a failed one but its records.
    """
    try:
        check_cwd(command, policy)
        with trio.CancelScope(shield=True):  # who asked may go away; a half-made agent may not stay
            lives = Lives(restart, wanted=restarts.wants(restart))
            process = _admit(kernel, command, limits, policy, name, parent, lives)
            return process, await _begin_first(kernel, process)
    except BaseException:
        release(command)
        raise
    finally:
        kernel.world.sandboxes.expect(f"{kernel.registry.last_id + 1}.1")
    raise AssertionError("a shielded scope is never cancelled")


def check_cwd(command: Command, policy: InForce) -> None:
    """Asked beforehand: on its way there its launch would break the policy, before any program of its runs."""
    folder = command.cwd or _CWD
    inside = _OWN_TREE.match(folder)
    if inside is None or policy.mode == AUDIT:
        return
    found = policy.decide("STAT", folder[inside.end():].encode("utf-8", "surrogateescape"))
    if not found.allowed:
        raise CallError(errno.EPERM, f"spawn: its policy does not let it enter its working directory {folder}",
                        rule=found.rule, remedy="let it read or write there, or choose another with --cwd")


def release(command: Command) -> None:
    """Give back the descriptors of its binds, which an agent owns from its spawn to its last burial."""
    for bind in command.binds:
        if bind.source_fd >= 0:
            os.close(bind.source_fd)


def show(process: Process, binds: tuple[Bind, ...]) -> None:
    """What its next life is shown, and its children until then. The descriptors are its own; the dead have none."""
    release(process.command)
    process.command = evolve(process.command, binds=binds)
    if not process.alive:
        release(process.command)
        process.command = evolve(process.command, binds=tuple(evolve(bind, source_fd=-1) for bind in binds))


async def _begin_first(kernel: Kernel, process: Process) -> int:
    try:
        return await begin(kernel, process)
    except LaunchError as error:
        _unmake(kernel, process)
        raise _explain(error, process.command) from error
    except BaseException:
        _unmake(kernel, process)
        raise


async def begin(kernel: Kernel, process: Process) -> int:
    """Launch a life that stands in the table, and look after it from then on. Returns the sequence of its record.

    Raises LaunchError when nothing of it runs.
    """
    restarts.begun(kernel.config, process.lives, kernel.world.clock.monotonic_ns())
    correlation = kernel.next_correlation()
    kernel.record(records.SPAWN, process, phase=records.INTENT, correlation=correlation, data=_told(process))
    source = process.policy.source
    if process.life == 1 and not source.shipped:
        kernel.record(records.POLICY, process, data=(source.hash, source.name))
    kernel.flush()
    try:
        await _launch(kernel, process)
    except LaunchError as error:
        kernel.record(records.SPAWN, process, phase=records.OUTCOME, verdict=records.FAILED,
                      correlation=correlation, data=(*_told(process), f"{error.stage}: {error.message}"))
        kernel.flush()
        raise
    seq = kernel.record(records.SPAWN, process, phase=records.OUTCOME, verdict=records.ALLOWED,
                        correlation=correlation, data=(process.name, process.parent, process.uid))
    process.state = State.RUNNING if not process.held else process.state
    kernel.registry.save(process)
    kernel.start(_supervise, kernel, process)
    if process.doom is not None:  # its parent fell while it was being made
        kernel.start(_kill, kernel, process)
    elif _to_stop(kernel, process):  # likewise: there was nothing to freeze yet
        kernel.start(_stop, kernel, process)
    kernel.flush()
    return seq


def check_room(kernel: Kernel, what: str) -> None:
    """Raises CallError (ESHUTDOWN, EAGAIN) when no further agent may live. `what` begins the message."""
    if kernel.shutting:
        raise CallError(errno.ESHUTDOWN, f"{what}: the kernel is shutting down")
    if len(kernel.table.alive()) >= kernel.config.agents_max:
        raise CallError(errno.EAGAIN, f"{what}: {kernel.config.agents_max} agents live already",
                        remedy="wait for one to end, or raise agents_max in the configuration")


def _admit(kernel: Kernel, command: Command, limits: Limits, policy: InForce, name: str | None,
           parent: Process | None, lives: Lives) -> Process:
    check_room(kernel, "spawn")
    if name is not None and name in kernel.table.by_name:
        raise CallError(errno.EEXIST, f"spawn: the name {name!r} is taken",
                        remedy="choose another, or `agentctl rm` the dead agent that has it")
    sources: tuple[Grant, ...] | None = None
    paid: tuple[Grant, ...] = ()
    if parent is not None:
        if parent.doom is not None:  # it ended after it asked: what it spawned has fallen with it already
            raise CallError(errno.ECANCELED, f"spawn: agent {parent.id} is ending")
        sources = kernel.holdings.sources(parent.id, policy.allows)
        paid = grants.leave_to_spawn(kernel, parent, name)  # asked again: several may ask in one tick
    try:
        agent = kernel.registry.next_id()
        uid = kernel.registry.claim_uid()
    except CallError:
        kernel.holdings.give_back(paid)
        raise
    process = Process(agent, 1, name or f"agent-{agent}", uid, parent.id if parent else 0, command, limits, policy,
                      kernel.world.clock.wall_ns(), kernel.world.clock.monotonic_ns(), lives,
                      parent.origin if parent else agent)
    kernel.table.add(process)
    if parent is not None:
        process.budgets = parent.budgets
        parent.children.add(agent)
        parent.spawned += 1
    process.paid = paid
    grants.begin(kernel, process, sources)
    return process


async def _launch(kernel: Kernel, process: Process) -> None:
    runtime = await current(kernel, process.command.runtime)
    if process.log is None:  # its first life: later ones keep its output and its tree
        furnish(kernel, process)
    given = kernel.doors.open(process) if kernel.doors else Given()
    try:
        process.sandbox = await kernel.world.sandboxes.launch(
            confined(process, runtime, given), _watch(kernel, process))
    finally:
        if kernel.doors:
            kernel.doors.given(process)


def furnish(kernel: Kernel, process: Process, *, ended: bool = False) -> None:
    process.log = AgentLog(kernel.registry.folder(process.id), kernel.config.log_bytes, ended=ended)
    kernel.tree.add(process.id, process.uid, process.name, proc=procfiles.proc(kernel, process),
                    policy=procfiles.policy(kernel, process))


def confined(process: Process, runtime: Runtime, given: Given) -> Confined:
    command = process.command
    return Confined(
        tag=process.tag, uid=process.uid, kind=command.kind, argv=command.argv, source=command.source,
        env=command.env, cwd=command.cwd, hostname=process.name[:63], tree=str(process.id), socket_dir=given.socket_dir,
        binds=command.binds, limits=process.limits, runtime=runtime, stdin_fd=given.stdin, stdout_fd=given.stdout,
        stderr_fd=given.stderr, terminal=command.terminal)


def _told(process: Process) -> tuple[object, ...]:
    """The fields of a spawn record: what was asked, without the script's text and the values of the environment."""
    command, limits, policy = process.command, process.limits, process.policy
    return (process.name, process.parent, process.uid, command.kind, list(command.argv)[:64],
            [limits.memory_bytes, limits.cpus, limits.pids, limits.timeout_s],
            [policy.mode, list(policy.deny), policy.spawn_max, policy.source.name], command.runtime, command.profile)


def _explain(error: LaunchError, command: Command) -> CallError:
    what = command.argv[0]
    told = {
        errno.ENOENT: (f"{what}: not found inside the sandbox",
                       "show it to the agent with --bind-ro HOST:PATH, or check its name"),
        errno.ENOEXEC: (f"{what}: not an executable of this machine", "check its format with file(1)"),
        errno.EACCES: (f"{what}: not executable for the agent", "check its mode bits and its interpreter"),
    }
    if error.stage == "exec" and error.number in told:
        message, remedy = told[error.number]
        if command.kind == "module":
            remedy = "show its folder and run there: --bind-ro DIR:/m --cwd /m -m MODULE"
        return CallError(error.number, f"spawn: {message}", remedy=remedy)
    remedy = "agentctl runtimes shows it; put it right, then agentctl reload" if error.stage == "runtime" else ""
    return CallError(error.number, f"spawn: {error.stage}: {error.message}", remedy=remedy)


def _unmake(kernel: Kernel, process: Process) -> None:
    """Nothing of it ran: take everything back."""
    process.state = State.DEAD
    process.end = End(Why.KILLED, detail="could not be launched")
    if kernel.doors:
        kernel.doors.close(process)
    if process.log is not None:
        process.log.close()
    parent = kernel.table.by_id.get(process.parent)
    if parent is not None:
        parent.children.discard(process.id)
        parent.spawned -= 1
    kernel.holdings.give_back(process.paid)
    grants.close(kernel, process)
    forget(kernel, process)
    kernel.start(sweep, kernel)
    process.over.set()
    process.gone.set()


def forget(kernel: Kernel, process: Process) -> None:
    """Remove a dead agent: its tree, log, name, and its uid with its files. What is on disk is only set aside."""
    assert not process.alive
    kernel.table.remove(process)
    kernel.holdings.forget(process.id)
    if kernel.tree.has(process.id):
        kernel.tree.remove(process.id)
    kernel.registry.forget(process)


async def sweep(kernel: Kernel) -> None:
    """Until the files of all removed agents are erased; one task does it for all who wait.

    The kernel goes on meanwhile. Not in a thread: for each of very many names it would wait for its turn to run Python.
    """
    if kernel.sweeping is None and kernel.tree.aside():
        kernel.sweeping = trio.Event()
        kernel.start(_sweep, kernel, kernel.sweeping)
    if kernel.sweeping is not None:
        await kernel.sweeping.wait()


async def _sweep(kernel: Kernel, done: trio.Event) -> None:
    """What is set aside meanwhile goes as well. What a shutdown interrupts, the next boot sweeps."""
    tried: set[str] = set()
    try:
        while folders := [path for path in kernel.tree.aside() if path not in tried][:_SWEEP_MAX]:
            tried.update(folders)
            result = await trio.run_process(["rm", "-rf", "--one-file-system", "--", *folders], check=False,
                                            capture_stderr=True)
            if result.returncode:
                kernel.fault_text("sweep", result.stderr.decode(errors="replace"))
                kernel.flush()
    finally:
        kernel.sweeping = None
        done.set()


def _watch(kernel: Kernel, process: Process) -> Watch:
    def denied(call: DeniedCall) -> bool:
        return denials.by_seccomp(kernel, process, call, f"pid {call.pid}")

    def out_of_memory() -> None:
        if process.doom is None:
            end = _memory_end(process)
            kernel.record(records.LIMIT, process, data=("memory", end.detail))
            doom(kernel, process, end)
            kernel.flush()

    return Watch(denied, out_of_memory)


def _memory_end(process: Process) -> End:
    detail = f"out of memory: over the limit of {process.limits.memory_bytes} bytes"
    return End(Why.MEMORY, signal="SIGKILL", detail=detail)


async def _supervise(kernel: Kernel, process: Process) -> None:
    assert process.sandbox is not None
    if process.life == 1:  # here: who asked for it waits for the record's disk, not for this one
        kernel.registry.keep_source(process)
    ended: Ended | None = None
    process.time = trio.CancelScope()
    set_timeout(process, process.limits.timeout_s)
    with process.time:
        ended = await process.sandbox.wait()
    if ended is None:
        allowed_s = process.limits.timeout_s
        detail = "its time is over" if allowed_s is None else f"ran longer than its {allowed_s:g} s"
        kernel.record(records.LIMIT, process, data=("timeout", detail))
        doom(kernel, process, End(Why.TIMEOUT, signal="SIGKILL", detail=detail))
        kernel.flush()
        ended = await process.sandbox.wait()
    with trio.CancelScope(shield=True):
        await _bury(kernel, process, ended)


def set_timeout(process: Process, timeout_s: float | None) -> None:
    """It is killed in so many seconds from now; None: never for that."""
    process.time.deadline = trio.current_time() + (float("inf") if timeout_s is None else timeout_s)


def lived_s(kernel: Kernel, process: Process) -> float:
    return (kernel.world.clock.monotonic_ns() - process.born_ns) / 1e9


def _classify(process: Process, ended: Ended) -> End:
    """How it ended, in the words people see. What was decided (doom) goes before what was seen."""
    if process.doom is not None:
        return process.doom
    if ended.code is not None:
        return End(Why.EXIT, code=ended.code, detail=f"exited with {ended.code}")
    if ended.linux_signal == linux.SIGKILL and process.usage.oom_kills:
        return _memory_end(process)
    return End(Why.SIGNAL, signal=ended.signal_name, detail=f"ended by the Linux signal {ended.signal_name}")


async def _bury(kernel: Kernel, process: Process, ended: Ended) -> None:
    """The main process has ended: prove that all is gone, and give back what belongs to this life."""
    sandbox = process.sandbox
    assert sandbox is not None
    process.usage = sandbox.usage()
    end = _classify(process, ended)
    if end.why is Why.MEMORY and process.doom is None:  # Linux killed all of it before its word of that reached us
        kernel.record(records.LIMIT, process, data=("memory", end.detail))
    process.doom = end
    process.held = True
    for session in list(process.sessions):
        session.cancel_all()
    if not await sandbox.kill():
        end = evolve(end, why=Why.UNKILLABLE, detail=f"something of it is still alive, says Linux; {end.detail}")
        kernel.record(records.LIMIT, process, verdict=records.FAILED, data=("kill", end.detail))
    process.usage = sandbox.usage()
    await sandbox.aclose()
    if kernel.doors:
        kernel.doors.close(process)
    for session in list(process.sessions):
        session.close()
    for file in process.handles.values():
        file.handle.close()
    process.handles.clear()
    await finish(kernel, process, end)


async def finish(kernel: Kernel, process: Process, end: End) -> None:
    """Nothing of this life is left: close its accounts, record its end, and begin the next one or tell everybody.

    Up to the record's end is no await: the decision for another life and the table are one change.
    """
    delay_s = rebirth.delay(kernel, process, end)
    if delay_s is not None:
        rebirth.end_descendants(kernel, process)
    _close_accounts(kernel, process, end)
    seq = kernel.record(
        records.EXIT, process, rule=end.rule, data=(end.code, end.signal, end.why.value, end.detail,
                                                    [process.usage.cpu_us, process.usage.memory_peak_bytes]))
    kernel.flush()  # before the registry knows of it: what is there alone was never recorded (aftermath)
    if delay_s is None:
        _retire(kernel, process)
    else:
        rebirth.follow(kernel, process, delay_s)
    await kernel.settle(seq)
    process.over.set()
    process.wake()
    if delay_s is None:
        process.gone.set()
        _tell_parent(kernel, process)


def _retire(kernel: Kernel, process: Process) -> None:
    """No further life follows: give back what outlasts one."""
    release(process.command)
    if process.again is not None:  # an operator's wish that came to nothing
        release(evolve(process.command, binds=process.again))
        process.again = None
    process.command = evolve(process.command, binds=tuple(evolve(b, source_fd=-1) for b in process.command.binds))
    if process.log is not None:
        process.log.finish()
    kernel.tree.retire(process.id)
    assert process.end is not None
    if not kernel.shutting or process.end.why in restarts.FINAL - {Why.SHUTDOWN}:  # else the next boot runs it again
        process.lives.wanted = False
    kernel.registry.save(process)


def _close_accounts(kernel: Kernel, process: Process, end: End) -> None:
    """The family and the table after an end. No await: parent and children see one change."""
    process.end = end
    process.ended_wall_ns = kernel.world.clock.wall_ns()
    grants.close(kernel, process)
    parent = kernel.table.by_id.get(process.parent)
    process.state = State.ZOMBIE if parent is not None and parent.alive else State.DEAD
    for child_id in process.children:
        child = kernel.table.by_id.get(child_id)
        if child is None:
            continue
        child.parent = 0  # orphans go to init
        if child.state is State.ZOMBIE:
            child.state = State.DEAD
    process.children.clear()


def _tell_parent(kernel: Kernel, process: Process) -> None:
    parent = kernel.table.by_id.get(process.parent)
    if parent is not None and parent.alive and parent.waking is None:  # what waits for its restart hears nothing
        assert process.end is not None
        delivery.send(kernel, parent, signals.SIGCHLD, process.id, f"agent {process.id}: {process.end.detail}")
        parent.wake()
    kernel.flush()


# --- stop, continue, kill ------------------------------------------------------------------------------------------

def doom(kernel: Kernel, process: Process, end: End) -> None:
    """Decide the end and start the proven kill; what waits for its restart has nothing to kill, and just ends."""
    if not kernel.doomed(process, end):
        return
    if process.waking is not None:
        process.waking.cancel()
    elif process.sandbox is not None:
        kernel.start(_kill, kernel, process)


async def _kill(kernel: Kernel, process: Process) -> None:
    if process.freezing is not None:
        process.freezing.cancel()
    assert process.sandbox is not None
    if not await process.sandbox.kill():
        detail = "alive 5 s after the kill; see `agentctl verify`, and Linux's own log"
        kernel.record(records.LIMIT, process, verdict=records.FAILED, data=("kill", detail))
        kernel.flush()


def hold(kernel: Kernel, process: Process) -> None:
    """From here on no call of it is answered; the freeze follows."""
    if process.doom is None and process.alive:
        process.stop_wanted = True
        _hold(kernel, process)


def halt(kernel: Kernel, refusing: bool) -> None:
    """Stop the world while nothing can be recorded; then let go on whoever was not to be stopped for itself."""
    kernel.halted = refusing
    for process in kernel.table.alive():
        if refusing and process.doom is None:
            _hold(kernel, process)
        elif not process.stop_wanted:
            kernel.start(_continue, kernel, process)


def _hold(kernel: Kernel, process: Process) -> None:
    process.held = True
    if kernel.doors:
        kernel.doors.hold(process)
    kernel.start(_stop, kernel, process)


def _to_stop(kernel: Kernel, process: Process) -> bool:
    return process.stop_wanted or kernel.halted


# Tasks start in any order: what counts is what the last signal wanted, not which of these came first.

async def _stop(kernel: Kernel, process: Process) -> None:
    async with process.steering:
        if process.doom is not None or process.sandbox is None or not _to_stop(kernel, process):
            return
        if process.state is State.STOPPED:
            return
        with trio.CancelScope() as scope:
            process.freezing = scope
            try:
                await process.sandbox.freeze()
            finally:
                process.freezing = None
        if scope.cancelled_caught or process.doom is not None:
            return
        process.state = State.STOPPED
        why = "" if process.stop_wanted else "nothing can be recorded, and disk_full is stop"
        kernel.record(records.STATE, process, data=("stopped", why))
        _moved(kernel, process)


def resume(kernel: Kernel, process: Process) -> None:
    process.stop_wanted = False
    if kernel.halted:
        return
    if process.freezing is not None:
        process.freezing.cancel()
    kernel.start(_continue, kernel, process)


async def _continue(kernel: Kernel, process: Process) -> None:
    async with process.steering:
        if process.doom is not None or process.sandbox is None or not process.held or _to_stop(kernel, process):
            return
        await process.sandbox.thaw()
        if process.doom is not None:
            return
        if _to_stop(kernel, process):  # since: nothing of it was answered, and it is frozen again by its own task
            process.state = State.RUNNING
            return
        process.held = False
        process.state = State.RUNNING
        kernel.record(records.STATE, process, data=("running", "continued"))
        if kernel.doors:
            kernel.doors.resume(process)
        _moved(kernel, process)


def _moved(kernel: Kernel, process: Process) -> None:
    process.wake()
    parent = kernel.table.by_id.get(process.parent)
    if parent is not None and parent.alive and parent.waking is None:  # what waits for its restart hears nothing
        delivery.send(kernel, parent, signals.SIGCHLD, process.id, f"agent {process.id}: {process.state.value}")
    kernel.flush()


async def end_all(kernel: Kernel) -> None:
    """Shutdown: ask every agent to end, then kill those that did not."""
    living = kernel.table.alive()
    for process in living:
        if process.waking is not None:
            doom(kernel, process, End(Why.SHUTDOWN, detail="the kernel shut down before its restart"))
            continue
        delivery.send(kernel, process, signals.SIGCONT, 0, "the kernel shuts down")
        delivery.send(kernel, process, signals.SIGTERM, 0, "the kernel shuts down")
    kernel.flush()
    with trio.move_on_after(kernel.config.shutdown_timeout_s):
        for process in living:
            await process.gone.wait()
    for process in kernel.table.alive():
        doom(kernel, process, End(Why.SHUTDOWN, signal="SIGKILL", detail="the kernel shut down"))
    with trio.move_on_after(30):
        for process in living:
            await process.gone.wait()
