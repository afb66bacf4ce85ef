"""Boot and shutdown, in order: config, lock, layers, sweep, journal, tree and mount, spawner, sockets.

Each step is told as it is done and recorded once the journal is open. Anything missing that the configuration does
not accept by name stops the boot (fail closed).
"""

import fcntl
import os
import platform
import resource
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Final

import trio
from attrs import define, field

from agentix_kernel import (
    aftermath,
    anchoring,
    cgroups,
    epitaph,
    layers,
    reactor,
    rebirth,
    recordkeeping,
    stacks,
    stall,
)
from agentix_kernel.config import Config, ConfigError
from agentix_kernel.confine.sandboxes import LinuxSandboxes
from agentix_kernel.control import server
from agentix_kernel.gate import MountGate
from agentix_kernel.history.asking import History
from agentix_kernel.journal.anchor import witnesses
from agentix_kernel.journal.disk import RealClock, RealDisk
from agentix_kernel.journal.journal import Journal
from agentix_kernel.kernel import Kernel
from agentix_kernel.layers import table as layer_table
from agentix_kernel.lifecycle import end_all, halt, sweep
from agentix_kernel.process import Process
from agentix_kernel.registry import Registry, UidRange, claim_range
from agentix_kernel.runtimes import inforce
from agentix_kernel.runtimes.files import Settings, load
from agentix_kernel.service import listing, lives, notify
from agentix_kernel.service.log import ERR, Say
from agentix_kernel.world import Bind, LaunchError, Runtime, World
from agentix_syscalls import __version__, records
from agentix_syscalls.errors import CallError
from agentix_vfs.fuse.server import FuseServer
from agentix_vfs.tree import Tree

DESCRIPTORS_WANTED: Final = 262144
"""For 2,000 agents with 64 connections each, as the service's unit has it."""


class BootError(Exception):
    """The kernel cannot start; the message says what is in the way and what to do."""


@define
class Machine:
    """What boot makes, in the order in which it is given back."""

    config: Config
    say: Say
    manager: notify.Manager = field(factory=notify.Manager)
    listed: bool = False
    """Whether who looks for private kernels finds this one."""
    steps: list[tuple[str, str]] = field(factory=list[tuple[str, str]])
    layers: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    accepted: tuple[str, ...] = ()
    boot: int | None = None
    """Which one of this state directory, once that is known."""
    lock_fd: int = -1
    uids: UidRange | None = None
    cgroups: Any = None
    journal: Journal | None = None
    settings: Settings = field(factory=Settings)
    wanted: list[tuple[Process, tuple[Bind, ...]]] = field(factory=list[tuple[Process, tuple[Bind, ...]]])
    """Agents to run again, and their binds."""

    def step(self, name: str, detail: str) -> None:
        self.steps.append((name, detail))
        self.say(f"{name}: {detail}", step=name, boot=self.boot)
        self.manager.tell(STATUS=f"{name}: {detail}")


def prepare(machine: Machine) -> None:
    """The steps before anything runs. Synchronous, before other threads exist. Raises BootError, ConfigError."""
    config = machine.config
    machine.step("config", f"{config.source if os.path.exists(config.source) else 'defaults'}, "
                 f"prefix {config.prefix or '(the system)'}")
    _raise_descriptors()
    for folder, mode in ((config.run_dir, 0o755), (config.state_dir, 0o700), (config.sockets_dir, 0o700)):
        os.makedirs(folder, mode, exist_ok=True)
    _lock(machine)
    _check_layers(machine)
    machine.settings = load(config, 1)
    machine.step("runtimes", inforce.summary(machine.settings))
    machine.uids = claim_range(config)
    _sweep(machine)


def _raise_descriptors() -> None:
    """An agent takes some 13 of ours, and a shell gives 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, DESCRIPTORS_WANTED), hard):
        with suppress(ValueError, OSError):  # more than the hard limit takes CAP_SYS_RESOURCE, or is over fs.nr_open
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            break


def _lock(machine: Machine) -> None:
    path = f"{machine.config.run_dir}/agentd.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode().strip() or "unknown"
        os.close(fd)
        raise BootError(f"a kernel runs on {machine.config.run_dir} already (pid {holder}); use it with agentctl, shut "
                        "it down with `agentctl shutdown`, or choose another --prefix") from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    machine.lock_fd = fd
    machine.step("lock", f"{path}, pid {os.getpid()}")


def _check_layers(machine: Machine) -> None:
    """Every required layer is there, or was accepted by name."""
    config = machine.config
    accept = frozenset(config.accept_missing)
    unknown = sorted(accept - set(layer_table.BY_NAME))
    if unknown:
        raise ConfigError(f"{config.source}: accept_missing names {unknown[0]!r}, which is no layer; "
                          "agentctl doctor lists them")
    rows = layers.probe_all()
    machine.layers = [shown(row) | {"accepted": row.layer in accept} for row in rows]
    refused = layers.lacking(rows, accept)
    if refused:
        told = "\n".join(f"  {row.layer}: {row.detail}; remedy: {row.remedy}" for row in refused)
        raise BootError(f"layers of confinement are missing:\n{told}\nagentctl doctor shows all; to run without one, "
                        "name it in accept_missing in agentd.toml")
    machine.accepted = tuple(row.layer for row in layers.lacking(rows))
    machine.step("layers", f"{sum(row.state == layers.ON for row in rows)} on, "
                 + (f"accepted as missing: {', '.join(machine.accepted)}" if machine.accepted else "none missing"))


def shown(row: layers.Row) -> dict[str, Any]:
    """A row of doctor as it is told."""
    return {**row.to_wire(), "required": layer_table.BY_NAME[row.layer].required, "accepted": False}


def _sweep(machine: Machine) -> None:
    """End and remove what a dead kernel left: cgroups (their processes killed) first, then mounts, then sockets."""
    config = machine.config
    machine.cgroups = cgroups.detect(cgroup_root(config), prefer=None if config.cgroup == "auto" else config.cgroup)
    killed = machine.cgroups.sweep()
    unmounted = _unmount_stale(config.mount)
    sockets = reactor.clear_sockets(config.sockets_dir)
    found = f"{len(killed)} cgroups, {unmounted} mounts, {sockets} sockets of a dead kernel"
    machine.step("sweep", found if killed or unmounted or sockets else "nothing was left")


def cgroup_root(config: Config) -> str:
    """The name of this kernel's cgroups: its own for every prefix."""
    if config.prefix is None:
        return "agentix"
    import zlib

    return f"agentix-{zlib.crc32(os.path.realpath(config.prefix).encode()):08x}"


def _unmount_stale(mount: str) -> int:
    """Detach FUSE mounts of a dead agentd on our mount point; anything else there is left alone."""
    count = 0
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.split(" - ", 1) for line in file]
    for left, right in rows:
        if left.split()[4] == mount and right.startswith("fuse") and "agentix" in right:
            import subprocess

            subprocess.run(["umount", "-l", mount], check=True, capture_output=True)
            count += 1
    return count


def open_journal(machine: Machine) -> tuple[Journal, int]:
    """Open or make the journal; returns it and the number of this boot."""
    config = machine.config
    journal, opened = Journal.open(RealDisk(config.journal_dir), RealClock(), key_path=config.key_path,
                                   random=os.urandom, segment_bytes=config.journal_segment_bytes)
    machine.journal = journal
    boot = machine.boot = _count_boot(config)
    machine.step("journal", f"{config.journal_dir}: {opened.text()}")
    return journal, boot


def _count_boot(config: Config) -> int:
    path = f"{config.state_dir}/boots"
    try:
        with open(path, encoding="ascii") as file:
            boot = int(file.read()) + 1
    except FileNotFoundError:
        boot = 1
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(str(boot))
        file.flush()
        os.fsync(file.fileno())  # a number that power loss emptied would stop every boot from here on
    os.replace(f"{path}.new", path)
    return boot


def build(machine: Machine, journal: Journal, boot: int) -> Kernel:
    """The kernel with its tree and its agents of old."""
    config = machine.config
    assert machine.uids is not None
    tree = Tree(config.state_dir, group=server.group_id(config.group) or 0, quota_bytes=config.working_bytes,
                quota_inodes=config.working_files, durable_bytes=config.durable_bytes,
                durable_inodes=config.durable_files)
    registry = Registry(config.agents_dir, machine.uids.first)
    sandboxes = LinuxSandboxes(
        machine.cgroups, mountpoint=config.mount, sockets_dir=config.sockets_dir, root_name=cgroup_root(config))
    world = World(RealClock(), RealDisk(config.journal_dir), sandboxes, os.urandom)
    kernel = Kernel(world, config, journal, tree, registry, boot, machine.accepted)
    kernel.layers, kernel.settings = machine.layers, machine.settings
    kernel.on_fault = lambda text: machine.say(f"FAULT: {text}", priority=ERR, boot=boot)
    kernel.on_refusing = partial(halt, kernel) if config.disk_full == "stop" else None
    kernel.on_panic = partial(epitaph.panic, kernel, machine.say)
    kernel.on_record = lives.teller(machine.say, boot)
    kernel.record(records.BOOT, data=(boot, __version__, platform.platform(), list(machine.accepted)))
    for name, detail in machine.steps:
        kernel.record(records.STEP, data=(name, detail))
    journal.publish()  # this boot is in the record whatever ends it
    lost = aftermath.adopt(kernel)
    found = len(kernel.table.by_id)
    _tell(machine, kernel, "agents", f"{found} of earlier boots, {lost} of them lost with their kernel")
    machine.wanted = rebirth.reopen(kernel)  # before the mount: a path may lead there, and would wait for ourselves
    return kernel


async def run(machine: Machine, ready: Callable[[Kernel], None] = lambda _: None) -> None:
    """From an open machine to an orderly end. `ready` is called when agents can be spawned."""
    try:
        await _run(machine, ready)
    finally:
        machine.manager.close()
        machine.cgroups.close()
        if machine.uids is not None:
            machine.uids.release()


async def _run(machine: Machine, ready: Callable[[Kernel], None]) -> None:
    journal, boot = open_journal(machine)
    kernel = build(machine, journal, boot)
    config = machine.config
    anchors = kernel.anchoring = anchoring.Anchoring.of(
        kernel, witnesses(config.anchors_path, config.anchor_syslog, config.anchor_command))
    try:
        await _live(machine, kernel, anchors, ready)
    except Exception as error:
        if _doubtful(error):
            epitaph.panic(kernel, machine.say, "run", error)
        kernel.stop_why = kernel.stop_why or epitaph.describe(error)
        raise
    finally:
        kernel.record(records.SHUTDOWN, data=(kernel.stop_why,))
        kernel.flush()
        kernel.registry.retry()
        kernel.settings.close()
        journal.close()
        with trio.move_on_after(anchoring.LAST_S, shield=True):
            await anchors.last()
        machine.say(f"down: {kernel.stop_why}", step="down", boot=boot)


def _doubtful(error: BaseException) -> bool:
    """Whether it ended the run without being a refusal to start, which is told in a line."""
    refusals = (BootError, ConfigError, CallError, LaunchError, OSError)
    return not all(isinstance(leaf, refusals) for leaf in epitaph.leaves(error))


async def _live(machine: Machine, kernel: Kernel, anchors: anchoring.Anchoring,
                ready: Callable[[Kernel], None]) -> None:
    detector = stall.Detector(kernel, machine.say, machine.config.stall_s, f"{machine.config.state_dir}/{stall.FILE}")
    async with trio.open_nursery() as nursery:
        if detector.stall_s:
            nursery.start_soon(detector.run)
        async with _served(machine, kernel, nursery), trio.open_nursery() as running:
            await running.start(kernel.run, partial(_end, machine))
            _restart(machine, kernel)
            running.start_soon(sweep, kernel)
            kernel.start(anchors.run)
            kernel.start(recordkeeping.keep, kernel)
            ready(kernel)
            machine.step("ready", " ".join(["agentctl", *prefix_words(machine.config), "ps"]))
            machine.manager.tell(READY=1, STATUS=notify.status(kernel))
            nursery.start_soon(notify.attend, machine.manager, kernel)
        nursery.cancel_scope.cancel()


async def _end(machine: Machine, kernel: Kernel) -> None:
    notify.stopping(machine.manager, kernel)
    await end_all(kernel)


def _listed(machine: Machine) -> AbstractContextManager[None]:
    """Where agentctl looks for kernels, if we are to be found; the system's is where it looks first."""
    prefix = machine.config.prefix
    if not machine.listed or prefix is None:
        return nullcontext()
    return listing.listed(cgroup_root(machine.config), prefix)


def _restart(machine: Machine, kernel: Kernel) -> None:
    """Run again what ran with a restart policy when the last kernel ended."""
    if machine.wanted:
        restarted = rebirth.revive(kernel, machine.wanted)
        _tell(machine, kernel, "restarts", f"{restarted} of {len(machine.wanted)} agents restarted")
        kernel.flush()


def prefix_words(config: Config) -> list[str]:
    """What an operator adds to agentctl to reach this kernel."""
    return ["--prefix", config.prefix] if config.prefix else []


@asynccontextmanager
async def _served(machine: Machine, kernel: Kernel, nursery: trio.Nursery) -> AsyncGenerator[None]:
    """Mount, spawner and sockets around a running kernel; given back in the opposite order."""
    config = machine.config
    fuse = FuseServer(kernel.tree, MountGate(kernel), on_fault=kernel.fault_text)
    sandboxes = kernel.world.sandboxes
    assert isinstance(sandboxes, LinuxSandboxes)
    os.makedirs(config.mount, exist_ok=True)
    try:
        await nursery.start(fuse.run, config.mount)
    except OSError as error:
        raise BootError(f"mount {config.mount}: {error}") from error
    _tell(machine, kernel, "mount", config.mount)
    sandboxes.before_kill = lambda uid: _interrupt(kernel, fuse, uid)
    sandboxes.start_spawner()
    await nursery.start(sandboxes.run)
    await sandboxes.warm(f"{kernel.registry.last_id + 1}.1")
    _tell(machine, kernel, "spawner", "ready, with a warm zygote")
    sandboxes.ready.told = lambda profile: _tell_zygote(machine, kernel, profile.runtime)
    inforce.keep(kernel)
    history = kernel.history = History(config, partial(_tell_history, machine, kernel))
    nursery.start_soon(history.run)
    doors = reactor.Reactor(kernel)
    kernel.doors = doors
    nursery.start_soon(doors.run)
    listener = server.listen(config.control_socket, config.group)
    serving = trio.CancelScope()
    nursery.start_soon(_serve_control, serving, kernel, listener)
    nursery.start_soon(_signals, machine, kernel)
    _tell(machine, kernel, "sockets", config.control_socket)
    kernel.flush()
    try:
        with _listed(machine):
            yield
    finally:
        with trio.CancelScope(shield=True):
            serving.cancel()
            await trio.lowlevel.checkpoint()
            listener.close()
            os.unlink(config.control_socket)
            await sandboxes.aclose()  # before the mount: zygotes hold it open


async def _serve_control(scope: trio.CancelScope, kernel: Kernel, listener: socket.socket) -> None:
    with scope:
        await server.serve(kernel, listener)


def _interrupt(kernel: Kernel, fuse: FuseServer, uid: int) -> None:
    process = kernel.table.by_uid.get(uid)
    if process is not None:  # tools have no tree
        fuse.interrupt(process.id)


def _tell(machine: Machine, kernel: Kernel, name: str, detail: str) -> None:
    machine.step(name, detail)
    kernel.record(records.STEP, data=(name, detail))


def _tell_zygote(machine: Machine, kernel: Kernel, runtime: Runtime) -> None:
    readiness = kernel.world.sandboxes.readiness(runtime)
    detail = readiness.detail or f"pid {readiness.pid}"
    _tell(machine, kernel, "zygote", f"of runtime {runtime.name}: {readiness.state}, {detail}")
    kernel.flush()


def _tell_history(machine: Machine, kernel: Kernel, detail: str) -> None:
    _tell(machine, kernel, "history", detail)
    kernel.flush()


async def _signals(machine: Machine, kernel: Kernel) -> None:
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    with trio.open_signal_receiver(*wanted) as received:
        async for number in received:
            if number == signal.SIGHUP:
                kernel.start(_reload, machine, kernel)
            elif number == signal.SIGQUIT:  # as Go's and Java's runtimes do
                machine.say(f"stacks:\n{stacks.dump(trio.lowlevel.current_root_task())}", boot=kernel.boot)
            else:
                kernel.stop(f"Linux signal {signal.Signals(number).name}")


async def _reload(machine: Machine, kernel: Kernel) -> None:
    try:
        await inforce.reload(kernel, "Linux signal SIGHUP")
    except CallError as error:
        machine.say(f"{error.message}; {error.remedy}", priority=ERR, step="reload", boot=kernel.boot)
    else:
        machine.say(f"reload: {inforce.summary(kernel.settings)}", step="reload", boot=kernel.boot)
