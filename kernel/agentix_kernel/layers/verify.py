"""Which layers hold one sandbox, read from /proc and the cgroups of its processes and never from our own tables.

Everything is read below `proc`, and cgroup files below the mounts that `<proc>/self/mountinfo` names, so that the
same code can be shown a tree with any defect in it.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Final

from attrs import frozen

from agentix_kernel.cgroups import CONTROLLERS
from agentix_kernel.cgroups.contract import cpu_quota_us
from agentix_kernel.cgroups.detect import Mounts, read_mounts
from agentix_kernel.layers.probes import LANDLOCK_SCOPES_ABI, covered
from agentix_kernel.layers.rows import OFF, ON, Row
from agentix_kernel.world import Limits

NAMESPACES: Final = ("mnt", "pid", "ipc", "uts", "cgroup", "net")
CAPABILITY_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NOFILE_MAX: Final = 65_536

MOUNTS: Final = (
    "/", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt",
    "/dev", "/proc", "/tmp", "/agent", "/run/agentix",
)  # fmt: skip
"""What a sandbox may have mounted, at or below; binds and the Python runtime come on top."""
WRITABLE: Final = ("/dev", "/proc", "/tmp", "/agent", "/run/agentix")

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_UNLIMITED: Final = 1 << 60
"""v1 shows no memory limit as the largest number of pages."""


@frozen
class Expected:
    """What the sandbox was launched with.

    root_name: our directory in each cgroup hierarchy; tag: the group's; parent: tag of the group whose limits it
    shares. kind: of cgroups; "" takes the best that the machine has. mounts, writable: targets allowed on top of
    MOUNTS and WRITABLE. landlock_abi: 0 when none was applied.
    """

    uid: int
    root_name: str
    tag: str
    limits: Limits
    own_netns: bool
    landlock_abi: int
    parent: str | None = None
    kind: str = ""
    mounts: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        parts = (self.root_name, self.parent, self.tag)
        return "/" + "/".join(part for part in parts if part)

    @property
    def limits_path(self) -> str:
        return f"/{self.root_name}/{self.parent or self.tag}"


@frozen
class Mount:
    """A line of mountinfo that matters: device and root say what it is, options how it is mounted."""

    device: str
    root: str
    target: str
    options: frozenset[str]


@frozen
class Process:
    """One living process of the sandbox, as /proc shows it, read at once."""

    pid: int
    status: dict[str, list[str]]
    namespaces: dict[str, str]
    mounts: tuple[Mount, ...]
    cgroups: dict[str, str]
    """Path by controller; v2 as ""."""
    nofile_hard: str
    core_hard: str
    oom_score_adj: int


@frozen
class Scene:
    """Everything that a check may look at. `daemon` is the process that verifies."""

    expected: Expected
    daemon: Process
    mounts: Mounts


Check = Callable[[Process, Scene], str]
"""Answers what is wrong with one process, or ""."""


def verify(pids: list[int], expected: Expected, proc: str = "/proc") -> list[Row]:
    """One row a layer, and last a row "all". A layer is ON when every process passes; OFF names the ones that do not.

    Processes that end meanwhile are left out; with none left there is one row, "all", that is OFF. Raises OSError
    when the daemon's own /proc cannot be read.
    """
    scene = Scene(expected, _read(proc, "self"), read_mounts(f"{proc}/self/mountinfo"))
    living = [process for pid in pids if (process := _read_living(proc, pid)) is not None]
    if not living:
        return [Row("all", OFF, "no process lives: there is nothing to verify")]
    rows = [_row(name, check, said, living, scene) for name, said, check in CHECKS]
    rows += [_limits_row(scene), _landlock_row(expected)]
    off = [row.layer for row in rows if row.state != ON]
    count = f"{len(rows) - len(off)} of {len(rows)} layers hold {len(living)} process{'es' * (len(living) > 1)}"
    return [*rows, Row("all", OFF if off else ON, f"{count}{'; not: ' + ', '.join(off) if off else ''}")]


def _row(name: str, check: Check, said: str, living: Iterable[Process], scene: Scene) -> Row:
    wrong = [f"pid {process.pid}: {what}" for process in living if (what := check(process, scene))]
    return Row(name, OFF if wrong else ON, "; ".join(wrong) or said)


def _read_living(proc: str, pid: int) -> Process | None:
    """None when it has ended: also a zombie is no more confined than a name on a list."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        process = _read(proc, str(pid))
        return None if process.status["State"][0] in {"Z", "X"} else process
    return None


def _read(proc: str, pid: str) -> Process:
    folder = f"{proc}/{pid}"
    status = {key: value.split() for key, _, value in (line.partition(":") for line in _lines(f"{folder}/status"))}
    dead = status["State"][0] in {"Z", "X"}  # has neither namespaces nor mounts
    limits = {line[:26].strip(): line[26:].split() for line in _lines(f"{folder}/limits")}
    return Process(
        pid=int(status["Pid"][0]),
        status=status,
        namespaces={} if dead else {name: os.readlink(f"{folder}/ns/{name}") for name in NAMESPACES},
        mounts=() if dead else tuple(_mount(line) for line in _lines(f"{folder}/mountinfo")),
        cgroups=dict(pair for line in _lines(f"{folder}/cgroup") for pair in _memberships(line)),
        nofile_hard=limits["Max open files"][1],
        core_hard=limits["Max core file size"][1],
        oom_score_adj=int(_lines(f"{folder}/oom_score_adj")[0]),
    )


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()


def _mount(line: str) -> Mount:
    front, _, back = line.partition(" - ")
    fields = front.split()
    options = frozenset(fields[5].split(","))
    if "ro" in back.split()[-1].split(","):  # the whole file system is
        options = options - {"rw"} | {"ro"}
    return Mount(fields[2], fields[3], fields[4], options)


def _memberships(line: str) -> list[tuple[str, str]]:
    _, controllers, path = line.split(":", 2)
    return [(controller, path) for controller in controllers.split(",")]


def namespace(name: str) -> Check:
    def check(process: Process, scene: Scene) -> str:
        if process.namespaces[name] == scene.daemon.namespaces[name]:
            return f"shares the daemon's {name} namespace"
        return ""

    return check


def network(process: Process, scene: Scene) -> str:
    expected = scene.expected
    if not expected.own_netns and expected.landlock_abi < LANDLOCK_SCOPES_ABI:
        return "shares a network namespace with other agents, and Landlock does not keep abstract sockets apart"
    return namespace("net")(process, scene)


def credentials(process: Process, scene: Scene) -> str:
    wanted = [str(scene.expected.uid)] * 4
    uids, gids, groups = (process.status[key] for key in ("Uid", "Gid", "Groups"))
    if uids == wanted and gids == wanted and not groups:
        return ""
    return f"uids {' '.join(uids)}, gids {' '.join(gids)}, groups {' '.join(groups) or 'none'}"


def capabilities(process: Process, _: Scene) -> str:
    held = [name for name in CAPABILITY_SETS if int(process.status[name][0], 16)]
    return f"not empty: {', '.join(held)}" if held else ""


def no_new_privs(process: Process, _: Scene) -> str:
    return "" if process.status["NoNewPrivs"] == ["1"] else "may gain rights by running a program"


def seccomp(process: Process, _: Scene) -> str:
    mode, filters = process.status["Seccomp"][0], process.status.get("Seccomp_filters", ["0"])[0]
    return "" if mode == "2" and int(filters) >= 1 else f"mode {mode}, {filters} filters"


def root_of_its_own(process: Process, scene: Scene) -> str:
    """`/` is the last mount there, and not the host's."""
    ours = _at(process.mounts, "/")
    host = _at(scene.daemon.mounts, "/")
    if ours is None:
        return "has no root of its own"
    if host is not None and (ours.device, ours.root) == (host.device, host.root):
        return "sees the host's root"
    return "" if "ro" in ours.options else "its root is writable"


def mounts(process: Process, scene: Scene) -> str:
    """Nothing is mounted, writable, or honours set-uid and device files, where that is not allowed."""
    allowed = (*MOUNTS[1:], *scene.expected.mounts, *scene.expected.writable)
    writable = (*WRITABLE, *scene.expected.writable)
    wrong: list[str] = []
    for mount in process.mounts:
        if mount.target != "/" and not _within(mount.target, allowed):
            wrong.append(f"{mount.target} is not expected")
        if "rw" in mount.options and mount.target != "/" and not _within(mount.target, writable):
            wrong.append(f"{mount.target} is writable")
        if "nosuid" not in mount.options:
            wrong.append(f"{mount.target} lacks nosuid")
        if "nodev" not in mount.options and not _within(mount.target, ("/dev",)):
            wrong.append(f"{mount.target} lacks nodev")
    return ", ".join(wrong)


def _at(mounts: Iterable[Mount], target: str) -> Mount | None:
    """What is seen at a target: of several mounts the last."""
    return next((mount for mount in reversed(tuple(mounts)) if mount.target == target), None)


def _within(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def membership(process: Process, scene: Scene) -> str:
    """It is in its group's directory of every hierarchy that bounds or kills."""
    wanted: dict[str, str] = {name: scene.expected.limits_path for name in CONTROLLERS if name in scene.mounts.v1}
    wanted["" if _kind(scene) != "v1" else "freezer"] = scene.expected.path
    wrong = [
        f"{name or 'v2'} cgroup {process.cgroups.get(name, 'none')}"
        for name, path in wanted.items()
        if not process.cgroups.get(name, "").endswith(path)
    ]
    return ", ".join(wrong)


def _kind(scene: Scene) -> str:
    return scene.expected.kind or (scene.mounts.kinds() or ("v2",))[0]


def rlimits(process: Process, _: Scene) -> str:
    if process.core_hard != "0":
        return f"may write core files of {process.core_hard} bytes"
    if process.nofile_hard == "unlimited" or int(process.nofile_hard) > NOFILE_MAX:
        return f"may open {process.nofile_hard} files"
    return ""


def untraced(process: Process, _: Scene) -> str:
    tracer = process.status["TracerPid"][0]
    return "" if tracer == "0" else f"traced by pid {tracer}"


def oom_score(process: Process, _: Scene) -> str:
    """An agent must not be spared at the cost of the host."""
    return "" if process.oom_score_adj >= 0 else f"oom_score_adj {process.oom_score_adj}"


CHECKS: Final[tuple[tuple[str, str, Check], ...]] = (
    *((f"ns-{name}", "its own", namespace(name)) for name in NAMESPACES if name != "net"),
    ("ns-net", "not the host's", network),
    ("credentials", "its own uid and gid, no other groups", credentials),
    ("capabilities", "none, and none to be had", capabilities),
    ("no-new-privs", "set", no_new_privs),
    ("seccomp", "filtering", seccomp),
    ("root", "its own, read-only", root_of_its_own),
    ("mounts", "only what is allowed, nosuid and nodev", mounts),
    ("cgroup", "in its own", membership),
    ("rlimits", "no core files, open files bounded", rlimits),
    ("untraced", "nobody traces it", untraced),
    ("oom-score", "not spared", oom_score),
)
"""Name of the layer, what to say when it holds, and what looks."""

_FILES: Final = {
    "memory": ("memory.max", "memory.limit_in_bytes"),
    "cpu": ("cpu.max", "cpu.cfs_quota_us"),
    "pids": ("pids.max", "pids.max"),
}
"""Where a limit is read: in v2, in v1."""


def _limits_row(scene: Scene) -> Row:
    """The limits as the kernel holds them, against those expected."""
    limits = scene.expected.limits
    memory = None if limits.memory_bytes is None else limits.memory_bytes // _PAGE * _PAGE
    said: list[str] = []
    wrong: list[str] = []
    for controller, wanted in (("memory", memory), ("cpu", cpu_quota_us(limits)), ("pids", limits.pids)):
        found = _limit(scene, controller)
        (said if found == wanted else wrong).append(f"{controller} {_words(found)}")
        if found != wanted:
            wrong[-1] += f", expected {_words(wanted)}"
    return Row("limits", OFF if wrong else ON, "; ".join(wrong or said))


def _words(limit: float | None) -> str:
    return "unlimited" if limit is None else "unreadable" if limit < 0 else str(limit)


def _limit(scene: Scene, controller: str) -> int | None:
    """None: unlimited; -1: cannot be read, which equals no limit that was ever set."""
    in_v1 = controller in scene.mounts.v1
    name = _FILES[controller][in_v1]
    base = scene.mounts.v1[controller] if in_v1 else scene.mounts.unified
    for path in _candidates(base, scene.expected.limits_path, scene.daemon.cgroups.get("", "/")):
        with contextlib.suppress(OSError):
            text = _lines(f"{path}/{name}")[0].split()[0]
            return None if text in {"max", "-1"} or int(text) >= _UNLIMITED else int(text)
    return -1


def _candidates(base: str, limits_path: str, daemon_path: str) -> tuple[str, ...]:
    """At the top of the hierarchy, or in what systemd delegated to the daemon, which sits in a leaf of it."""
    return (f"{base}{limits_path}", f"{base}{os.path.dirname(daemon_path).rstrip('/')}{limits_path}")


def _landlock_row(expected: Expected) -> Row:
    abi = expected.landlock_abi
    if not abi:
        return Row("landlock", OFF, "not applied")
    return Row("landlock", ON, f"ABI {abi}: {covered(abi)}; by the word of the launch, as /proc does not show it")
