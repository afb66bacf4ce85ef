"""Makes sandboxes: world.Sandboxes on Linux."""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

import trio
from attrs import define, field

from agentix_kernel.cgroups import Cgroups, Group
from agentix_kernel.confine import filter as call_filter
from agentix_kernel.confine import linux, messages, template
from agentix_kernel.confine.attendant import Attendant
from agentix_kernel.confine.child import TMP_MAX_BYTES
from agentix_kernel.confine.ready import Ready
from agentix_kernel.confine.sandbox import LinuxSandbox
from agentix_kernel.confine.spare import Spare
from agentix_kernel.confine.zygotes import Profile, Zygotes
from agentix_kernel.layers import Expected, verify
from agentix_kernel.world import (
    DEFAULT_RUNTIME,
    OWN_RUNTIME,
    Bind,
    Confined,
    LaunchError,
    Limits,
    Readiness,
    Runtime,
    Sandbox,
    Watch,
)

PRELOAD: Final = ("agentix.init", "agentix.libc")
LAUNCH_DEADLINE_S: Final = 30.0
LANDLOCK_SCOPES_ABI: Final = 6
"""From this version on, agents in one empty network namespace cannot meet on abstract sockets."""
LANDLOCK_KNOWN_ABI: Final = 7
SOCKET: Final = "/run/agentix/kernel.sock"
_TRIES: Final = 3
"""A spare, a zygote that has just ended, and a new one."""
_BINDS_MAX: Final = 150
_DEFAULT_LIMITS: Final = Limits()


@define(eq=False)
class LinuxSandboxes:
    """See world.Sandboxes.

    `root_name`: our directory in each cgroup hierarchy, as `cgroups` was made with; for verify.
    `mountpoint`: where the agents' trees are mounted; `sockets_dir`: every `Confined.socket_dir` is below it.
    `before_kill(uid)`: called before and during every kill, so that the tree answers that agent's waiting requests
    with EINTR. `own_netns`: None takes one each where Landlock is too old to part agents in a shared one.
    `preload`: modules that the agents' interpreter has imported already; the first must be agentix.init.

    Boot: `start_spawner()` from the main thread, then `run` in a nursery, then `launch`.
    """

    cgroups: Cgroups
    root_name: str = field(default="agentix", kw_only=True)
    mountpoint: str | None = field(default=None, kw_only=True)
    sockets_dir: str | None = field(default=None, kw_only=True)
    before_kill: Callable[[int], None] = field(default=lambda _uid: None, kw_only=True)
    landlock: bool = field(default=True, kw_only=True)
    own_netns: bool | None = field(default=None, kw_only=True)
    preload: tuple[str, ...] = field(default=PRELOAD, kw_only=True)
    zygotes: Zygotes = field(init=False)
    landlock_abi: int = field(init=False)
    _attendant: Attendant = field(factory=Attendant, init=False)
    _living: dict[str, LinuxSandbox] = field(factory=dict[str, LinuxSandbox], init=False)
    spare: Spare = field(init=False)
    ready: Ready = field(init=False)
    _recent: Runtime = field(default=OWN_RUNTIME, init=False)
    """Of the last agent; the spare is made for another of its kind."""

    def __attrs_post_init__(self) -> None:
        self.landlock_abi = min(linux.landlock_abi(), LANDLOCK_KNOWN_ABI) if self.landlock else 0
        if self.own_netns is None:
            self.own_netns = self.landlock_abi < LANDLOCK_SCOPES_ABI
        self.zygotes = Zygotes(self.mountpoint, self.sockets_dir, self.landlock_abi, self._attendant)
        self.ready = Ready(self.zygotes)
        self.spare = Spare(lambda tag: self._prepare(tag, self._profile(self._recent)))

    def start_spawner(self) -> None:
        """From the main thread, before there are others. Compiles the seccomp filter, too (80 ms)."""
        call_filter.build()
        self.zygotes.start_spawner()

    async def run(  # noqa: ASYNC128 - the spare's task says it
            self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Attend to all sandboxes and keep a spare, until cancelled; then there is no spare any more."""
        async with trio.open_nursery() as nursery:
            attending = trio.CancelScope(shield=True)  # the spare's end must be attended, too
            await nursery.start(self._attend, attending)
            nursery.start_soon(self.ready.run)
            try:
                await self.spare.run(task_status=task_status)
            finally:
                attending.cancel()

    async def _attend(  # noqa: ASYNC128 - the attendant says it
            self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await self._attendant.run(task_status=task_status)

    async def warm(self, tag: str) -> None:
        """Make the zygote now that the first launch would make, and expect that launch. Raises LaunchError."""
        await self.prepare(OWN_RUNTIME)
        self.expect(tag)

    async def prepare(self, runtime: Runtime) -> None:
        """See world.Sandboxes."""
        try:
            await self.zygotes.zygote(self._profile(runtime))
        except LaunchError as error:
            raise _of_runtime(error, runtime) from error

    def keep(self, runtimes: tuple[Runtime, ...]) -> None:
        """See world.Sandboxes."""
        if self._recent not in runtimes:
            self._recent = OWN_RUNTIME
        self.ready.keep(tuple(map(self._profile, runtimes)))

    def readiness(self, runtime: Runtime) -> Readiness:
        """See world.Sandboxes."""
        return self.ready.readiness(self._profile(runtime))

    def expect(self, tag: str) -> None:
        """See world.Sandboxes. The spare of another tag is given up."""
        self.spare.expect(tag)

    async def launch(self, what: Confined, watch: Watch) -> Sandbox:
        """See world.Sandboxes. Cancelled: nothing is left."""
        check(what, self.sockets_dir)
        if what.parent is None:
            self._recent = what.runtime
        mounts: list[tuple[bool, int]] = []
        try:
            for bind in what.binds:
                mounts.append(await self.zygotes.mount(bind, what.uid))  # noqa: PERF401 - closed when the next fails
            for _ in range(_TRIES):
                sandbox = await self._try_launch(what, watch, mounts)
                if sandbox is not None:
                    return sandbox
        except LaunchError as error:
            raise _of_runtime(error, what.runtime) from error
        except OSError as error:  # out of descriptors or memory
            raise LaunchError(error.errno or errno.EIO, "launch", str(error.strerror)) from error
        finally:
            messages.close_all([fd for _, fd in mounts])
        raise LaunchError(errno.EAGAIN, "zygote", "ended each time it was asked")

    def verify(self, sandbox: Sandbox) -> list[dict[str, Any]]:
        """See world.Sandboxes and layers.verify. Reads files for some milliseconds; from any thread."""
        assert isinstance(sandbox, LinuxSandbox), "one of ours"
        what, writable = sandbox.what, tuple(bind.target for bind in sandbox.what.binds if bind.writable)
        under = self._living[what.parent].what if what.parent is not None else what
        expected = Expected(
            what.uid, self.root_name, what.tag, under.limits, bool(self.own_netns), self.landlock_abi,
            parent=what.parent, kind=self.cgroups.kind, writable=writable,
            mounts=(*(bind.target for bind in what.binds), *taken(what.runtime)))
        return [row.to_wire() for row in verify(self._own_pids(sandbox), expected)]

    def _own_pids(self, sandbox: LinuxSandbox) -> list[int]:
        """Without those of the sandboxes under it, which have a uid and a group of their own."""
        under = [other for other in self._living.values() if other.what.parent == sandbox.what.tag]
        theirs = {pid for other in under for pid in other.pids()}
        return [pid for pid in sandbox.pids() if pid not in theirs]

    async def aclose(self) -> None:
        """After the last sandbox: end the spare, the zygotes and the spawner."""
        await self.spare.aclose()
        await self.zygotes.aclose()

    def _profile(self, runtime: Runtime) -> Profile:
        return Profile(self.preload, bool(self.own_netns), runtime)

    async def _try_launch(self, what: Confined, watch: Watch, mounts: list[tuple[bool, int]]) -> Sandbox | None:
        """None when the spare or the zygote was lost before it did anything."""
        profile = self._profile(what.runtime)
        sandbox = await self.spare.take(what, profile) or await self._prepare(what.tag, profile, what.parent)
        if sandbox is None:
            return None
        try:
            _bound(sandbox.group, what)
            ordered = sandbox.order(what, watch, _spec(what, self.sockets_dir, mounts),
                                    _descriptors(what, [fd for _, fd in mounts]))
            if not ordered or not await sandbox.started(LAUNCH_DEADLINE_S):
                await self._give_up(sandbox)
                return None
        except BaseException:
            await sandbox.abort()  # noqa: ASYNC102 - shields itself, and is bounded
            raise
        self._living[what.tag] = sandbox
        return sandbox

    async def _prepare(self, tag: str, profile: Profile, parent: str | None = None) -> LinuxSandbox | None:
        """A sandbox that waits for its order, or will: with the default limits, or under those of `parent`.

        None when the zygote was lost. Raises LaunchError, OSError. Cancelled: nothing is left.
        """
        zygote = await self.zygotes.zygote(profile)
        group = self._group(tag, parent)
        try:
            ours, theirs = messages.pair()
        except OSError:
            group.remove()
            group.close()
            raise
        sandbox = LinuxSandbox(group, (profile, zygote), ours, self._attendant, call_filter.build().notified,
                               self.before_kill)
        sandbox.attend()
        try:
            with theirs:
                heard = await _ask(zygote, [
                    ("leash", theirs.fileno()), *(("cgroup", fd) for fd in (group.cgroup_fd,) if fd >= 0),
                    *(("tasks", fd) for fd in group.tasks_fds)])
        except BaseException:
            await sandbox.abort()  # noqa: ASYNC102 - shields itself, and is bounded
            raise
        if heard:
            return sandbox
        await self._give_up(sandbox)
        return None

    async def _give_up(self, sandbox: LinuxSandbox) -> None:
        if sandbox.init_pid == 0:  # never born
            self.zygotes.forget(*sandbox.zygote)
        await sandbox.abort()

    def _group(self, tag: str, parent: str | None) -> Group:
        """Raises LaunchError at "cgroup"."""
        for closed in [tag for tag, sandbox in self._living.items() if sandbox.closed]:
            del self._living[closed]
        if parent is not None and parent not in self._living:
            raise LaunchError(errno.ESRCH, "cgroup", f"{parent} is not running")
        try:
            return self.cgroups.create(tag, _DEFAULT_LIMITS, self._living[parent].group if parent is not None else None)
        except OSError as error:
            raise LaunchError(error.errno or errno.EIO, "cgroup", str(error)) from error


def _of_runtime(error: LaunchError, runtime: Runtime) -> LaunchError:
    """The same, naming the runtime whose zygote could not be made."""
    if error.stage != "zygote" or runtime.name == DEFAULT_RUNTIME:
        return error
    return LaunchError(errno.ESTALE, "runtime", f"{runtime.name}: {error.message}")


def taken(runtime: Runtime) -> tuple[str, ...]:
    """Where a runtime has put something into each of its sandboxes, beside what all have."""
    return (*template.python_folders(), *runtime.folders, *(target for _, target in runtime.binds))


def _bound(group: Group, what: Confined) -> None:
    """Set the limits that differ from what it was prepared with. Raises LaunchError at "cgroup"."""
    if what.parent is not None or what.limits == _DEFAULT_LIMITS:
        return
    try:
        group.set_limits(what.limits)
    except OSError as error:
        raise LaunchError(error.errno or errno.EIO, "cgroup", str(error)) from error


async def _ask(zygote: socket.socket, fds: list[tuple[str, int]]) -> bool:
    """Ask a zygote for a clone; False when it is gone, be it since its channel was looked up."""
    try:
        while zygote.fileno() >= 0:
            try:
                messages.send(zygote, {"names": [name for name, _ in fds]}, [fd for _, fd in fds])
            except BlockingIOError:
                await trio.lowlevel.wait_writable(zygote.fileno())
            else:
                return True
    except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
        pass
    return False


def _descriptors(what: Confined, mount_fds: list[int]) -> list[tuple[str, int]]:
    """What the child is handed with its order, by role."""
    stdio = (("stdin", what.stdin_fd), ("stdout", what.stdout_fd), ("stderr", what.stderr_fd))
    return [*((name, fd) for name, fd in stdio if fd >= 0), *(("bind", fd) for fd in mount_fds)]


def _spec(what: Confined, sockets_dir: str | None, mounts: list[tuple[bool, int]]) -> dict[str, Any]:
    """What the child reads: see child.Job and agentix.init."""
    home = f"/agent/{what.tree}" if what.tree else "/tmp"
    memory = what.limits.memory_bytes or 2 * TMP_MAX_BYTES
    binds = [(bind.target, directory, bind.writable) for bind, (directory, _) in zip(what.binds, mounts, strict=True)]
    return {
        "uid": what.uid, "hostname": what.hostname, "home": home, "tree": what.tree, "binds": binds,
        "name": f"agent {what.tag}", "tmp_bytes": min(memory // 2, TMP_MAX_BYTES),
        "sockets": os.path.relpath(what.socket_dir, sockets_dir) if what.socket_dir and sockets_dir else None,
        "kind": what.kind, "argv": what.argv, "source": what.source, "env": environment(what, home),
        "cwd": what.cwd or (f"{home}/mem/working" if what.tree else home), "tty": what.terminal,
    }


def environment(what: Confined, home: str) -> dict[str, str]:
    """All of an agent's environment: nothing of ours gets in."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "LANG": "C.UTF-8", "USER": "agent",
           "AGENTIX_ID": what.tag.partition(".")[0]}
    if what.socket_dir:
        env["AGENTIX_SOCKET"] = SOCKET
    if what.tree:
        env["AGENTIX_TREE"] = home
    programs = os.path.dirname(what.runtime.executable)
    if programs and programs not in env["PATH"].split(":"):
        env["PATH"] = f"{programs}:{env['PATH']}"
    if what.runtime.venv:
        env["VIRTUAL_ENV"] = what.runtime.venv
    return {**env, **dict(what.runtime.env), **what.env}


def check(what: Confined, sockets_dir: str | None) -> None:
    """Refuse what cannot be confined, before anything is made. Raises LaunchError."""
    assert what.uid > 0, "an agent is never root"
    assert what.tree is None or os.path.basename(what.tree) == what.tree not in ("", ".", ".."), "a name, not a path"
    if what.socket_dir and (not sockets_dir or not template.within(what.socket_dir, sockets_dir)):
        raise LaunchError(errno.EINVAL, "tree", f"{what.socket_dir} is not below {sockets_dir}")
    if what.kind not in ("script", "module", "exec") or not what.argv or (what.kind == "script") != (
            what.source is not None):
        raise LaunchError(errno.EINVAL, "exec", f"a {what.kind} wants argv, and a script its source")
    if len(what.binds) > _BINDS_MAX:
        raise LaunchError(errno.E2BIG, "bind", f"{len(what.binds)} binds; {_BINDS_MAX} at most")
    targets: list[str] = []
    for bind in what.binds:
        _check_target(bind, targets, what.runtime)
        targets.append(bind.target)


def _check_target(bind: Bind, others: list[str], runtime: Runtime) -> None:
    target, what = bind.target, f"cannot bind {bind.source} at {bind.target}"
    if not target.startswith("/") or os.path.normpath(target) != target or target.startswith("//") or "\0" in target:
        raise LaunchError(errno.EINVAL, "bind", f"{what}: not an absolute path without '.' and '..'")
    ours = template.in_the_way(target, taken(runtime))
    if ours is not None:
        raise LaunchError(errno.EINVAL, "bind", f"{what}: {ours} is the sandbox's own; choose another target")
    for other in others:
        if template.within(target, other) or template.within(other, target):
            raise LaunchError(errno.EINVAL, "bind", f"{what}: it overlaps {other}, which is bound too")
