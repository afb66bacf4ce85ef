"""Fault points: where a test ends this daemon for good, or has it fail, to see what becomes of that.

A row names a function at a boundary (a write, sync, rename, mount, clone or cgroup call) and the side of it on which
the daemon dies. Nothing stands in the way of the usual kernel: a point is put around its function when it is armed,
by AGENTIX_FAULT=POINT:N (the Nth hit kills) and a configuration with `fault_injection`. The idea: FreeBSD's fail(9);
that a table lists them all, so that a test can walk it: SQLite's crash tests.
"""

import functools
import importlib
import itertools
import os
import signal
import time
import types
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from attrs import frozen

from agentix_kernel.config import Config, ConfigError

VARIABLE: Final = "AGENTIX_FAULT"
BEFORE, HALF, AFTER = "before", "half", "after"
FAIL, STALL = "fail", "stall"
STALL_S: Final = 3.0


@frozen
class Point:
    """One row: at the `side` of what `path` leads to in `module` the process ends; HALF is of a write's data. At a FAIL
    an assertion does not hold instead, at a STALL the function takes STALL_S longer.
    """

    name: str
    module: str
    path: str
    side: str
    doc: str


def _both(name: str, module: str, path: str, doc: str) -> tuple[Point, Point]:
    return (Point(name, module, path, BEFORE, f"before {doc}"), Point(f"{name}.done", module, path, AFTER,
                                                                     f"after {doc}"))


def _write(name: str, module: str, path: str, doc: str) -> tuple[Point, ...]:
    before, after = _both(name, module, path, doc)
    return before, Point(f"{name}.torn", module, path, HALF, f"in the middle of {doc}"), after


POINTS: Final = (
    *_both("boot.lock", "boot", "os.ftruncate", "the lock file is emptied for our pid"),
    *_both("boot.count", "boot", "os.replace", "the number of this boot is put in place"),
    *_both("boot.sweep", "cgroups.hierarchies", "Hierarchies._swept", "a cgroup of a dead kernel is swept"),
    *_both("boot.unmount", "boot", "_unmount_stale", "mounts of a dead kernel are detached"),
    *_both("boot.sockets", "reactor", "clear_sockets", "sockets of a dead kernel are removed"),
    *_both("boot.settle", "journal.journal", "Journal.commit", "the record is synced before anything runs"),
    *_both("boot.unborn", "registry", "shutil.rmtree", "a folder of an agent that never began is removed"),
    *_both("key.rename", "journal.key", "os.rename", "a key of the journal gets its name"),
    *_both("key.keep", "journal.key", "os.link", "the key before is kept under its own name"),
    *_write("journal.write", "journal.disk", "RealFile.pwrite", "a write to a segment"),
    *_both("journal.sync", "journal.disk", "RealFile.datasync", "a sync of a segment"),
    *_both("journal.fill", "journal.disk", "_fill", "a new segment is filled with zeros"),
    *_both("journal.link", "journal.disk", "os.link", "a new segment gets its name"),
    *_both("registry.id", "registry", "os.pwrite", "the last id is written"),
    *_both("registry.folder", "registry", "os.mkdir", "an agent's folder is made"),
    *_both("registry.replace", "registry", "os.replace", "an agent's record is put in place"),
    *_both("agent.socket", "reactor", "os.chmod", "an agent's socket is opened to it"),
    *_both("agent.doors", "reactor", "shutil.rmtree", "an agent's socket is removed"),
    *_write("agent.log", "logs", "os.pwrite", "a write of an agent's output"),
    *_both("file.make", "vfs:stores.host", "os.fchown", "a file of an agent gets its owner"),
    *_write("file.write", "vfs:stores.host", "os.pwrite", "a write to a file of an agent"),
    *_both("file.rename", "vfs:stores.host", "os.rename", "a file of an agent is renamed"),
    *_both("file.unlink", "vfs:stores.host", "os.unlink", "a file of an agent is removed"),
    *_both("file.sync", "vfs:stores.host", "os.fdatasync", "a sync of a file of an agent"),
    *_both("tree.aside", "vfs:tree", "os.rename", "a removed agent's folder is set aside"),
    Point("tree.erase", "lifecycle", "trio.run_process", BEFORE, "before folders set aside are erased"),
    *_both("mount", "vfs:fuse.server", "linux.mount", "the agents' trees are mounted"),
    *_both("unmount", "vfs:fuse.server", "linux.umount", "the agents' trees are unmounted"),
    *_both("control.listen", "control.server", "listen", "the control socket listens"),
    *_both("spawner.start", "confine.zygotes", "subprocess.Popen", "the spawner is started"),
    *_both("spawner.ask", "confine.zygotes", "messages.send", "a word to the spawner or to a zygote that starts"),
    *_both("clone.ask", "confine.sandboxes", "messages.send", "a zygote is asked for a clone"),
    *_both("clone.order", "confine.sandbox", "messages.send", "a clone gets its order"),
    *_both("clone.hear", "confine.sandbox", "messages.receive_bytes", "a word of a clone is heard"),
    *_both("cgroup.make", "cgroups.hierarchies", "Hierarchies._create", "an agent's cgroups are made"),
    *_both("cgroup.write", "cgroups.kernfs", "os.write", "a write to a cgroup's file"),
    *_both("cgroup.remove", "cgroups.kernfs", "os.rmdir", "a cgroup is removed"),
    Point("task.fails", "lifecycle", "_stop", FAIL, "in a task of the kernel's own"),
    Point("run.fails", "service.notify", "attend", FAIL, "in what the kernel's run consists of"),
    Point("request.fails", "about", "inspect", FAIL, "in an operator's request"),
    Point("loop.stalls", "reactor", "Reactor.tick", STALL, "in a tick of the loop"),
)

BY_NAME: Final = {point.name: point for point in POINTS}


def arm(config: Config, environment: MutableMapping[str, str]) -> str:
    """Arm the point that the environment names, which is taken out of it; what was armed, in words, or "".

    Raises ConfigError for a word that is no point, and for any where the configuration does not allow it.
    """
    word = environment.pop(VARIABLE, "")
    if not word:
        return ""
    if not config.fault_injection:
        raise ConfigError(f"{VARIABLE} is set, and {config.source} has no fault_injection: it is for tests; unset it")
    name, _, count = word.partition(":")
    point = BY_NAME.get(name)
    if point is None or not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"{VARIABLE}={word}: wants POINT:N, of {', '.join(BY_NAME)}")
    _surround(point, int(count))
    return f"{point.name}, hit {count}: {point.doc}"


def _surround(point: Point, count: int) -> None:
    """Put the fault around the function. A module of somebody else's stays whole: ours gets a copy of it."""
    room, _, name = point.module.rpartition(":")
    holder: Any = importlib.import_module(f"agentix_{room or 'kernel'}.{name}")
    *way, last = point.path.split(".")
    for step in way:
        inner = getattr(holder, step)
        if isinstance(inner, types.ModuleType):
            copy = types.ModuleType(inner.__name__)
            copy.__dict__.update(inner.__dict__)
            setattr(holder, step, copy)
            inner = copy
        holder = inner
    setattr(holder, last, _deadly(getattr(holder, last), point.side, itertools.count(1), count))


def _deadly(function: Callable[..., Any], side: str, hits: "itertools.count[int]", count: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def deadly(*args: Any, **more: Any) -> Any:
        if next(hits) != count:
            return function(*args, **more)
        if side == STALL:
            time.sleep(STALL_S)
            return function(*args, **more)
        if side == FAIL:
            raise AssertionError("a fault that was asked for")
        if side == HALF:
            function(*(arg[:len(arg) // 2] if isinstance(arg, bytes) else arg for arg in args), **more)
        elif side == AFTER:
            function(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("signal 9 ends every process")
    return deadly
