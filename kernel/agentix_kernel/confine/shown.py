"""What a path is inside of a sandbox, said from what the sandbox is built of: no file is looked at.

An agent's own tree is not answered here; its rules are.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

from agentix_kernel.confine import template
from agentix_kernel.confine.template import within
from agentix_kernel.world import Bind, Runtime

_PROCESS: Final = re.compile(r"/proc/[0-9]+(/|\Z)")
_NAMESPACE: Final = "mount namespace"
_READ_ONLY: Final = "read-only mount, Landlock"


@frozen
class Shown:
    """`there`: whether something is at the path; None: if the host, or the agent, has put it there. `keeps`: what keeps
    it from being read, if it is not there, and else from being written; "" when it can be.
    """

    there: bool | None
    what: str
    keeps: str = ""


def shown(path: str, own: str, binds: Sequence[Bind], runtime: Runtime) -> Shown:
    """`own` is the name of the agent's tree below /agent. Of places within one another the innermost answers."""
    path = posixpath.normpath(path)
    places = tuple(_places(own, binds, runtime))
    found = max((place for place in places if within(path, place[0])), key=lambda place: len(place[0]), default=None)
    if found is not None and (found[1].there is not False):
        return found[1]
    if any(within(place, path) for place, _ in places):
        return Shown(True, "a folder of the sandbox's own, with what is mounted below it", _READ_ONLY)
    if _PROCESS.match(path):
        return Shown(None, "one of its own processes, if there is one of that number", "uid, /proc's own rules")
    return found[1] if found is not None else Shown(
        False, "nothing of the host is there: a sandbox's root has what is mounted into it, and no more", _NAMESPACE)


def free(path: str, runtime: Runtime) -> str:
    """Where a host file of this path can be shown: there, if the place is free."""
    target = posixpath.normpath(path)
    taken = (*template.python_folders(), *runtime.folders, *(place for _, place in runtime.binds))
    return target if template.in_the_way(target, taken) is None else f"/host{target}"


def _places(own: str, binds: Sequence[Bind], runtime: Runtime) -> Iterator[tuple[str, Shown]]:
    """Every mount of a sandbox with what it is; what a folder leaves out, as a place of its own."""
    yield "/agent", Shown(False, f"of all trees only its own is mounted, at /agent/{own}", _NAMESPACE)
    yield "/tmp", Shown(None, "a tmpfs of its own, empty when it begins and gone with it")
    yield "/run/agentix", Shown(None, "the folder with the socket of its system calls", _READ_ONLY)
    yield template.RUN_ETC, Shown(None, "files of /etc that are its own", _READ_ONLY)
    yield from _etc()
    yield from _dev()
    yield "/proc", Shown(False, "its /proc shows the processes of its pid namespace, and nothing of the machine",
                         "/proc with subset=pid")
    for name in ("self", "thread-self"):
        yield f"/proc/{name}", Shown(None, "what Linux tells of its own processes", "uid, /proc's own rules")
    for folder in (*template.SYSTEM, *template.python_folders(), *runtime.folders):
        yield folder, Shown(None, f"the host's {folder}, shown read-only; mode bits are asked for its uid", _READ_ONLY)
    for source, target in runtime.binds:
        yield target, Shown(None, f"{source} of the host, which its runtime {runtime.name} shows", _READ_ONLY)
    for bind in binds:
        how = "read and written as its owner may" if bind.writable else "only to read"
        yield bind.target, Shown(None, f"{bind.source} of the host, bound {how}; mode bits are asked for its uid",
                                 "" if bind.writable else _READ_ONLY)


def _etc() -> Iterator[tuple[str, Shown]]:
    yield "/etc", Shown(False, "not among the files of /etc that a sandbox has", _NAMESPACE)
    for name in template.ETC_OF_AGENT:
        yield f"/etc/{name}", Shown(True, "its own: it names itself, root and nobody", _READ_ONLY)
    for name in (*template.ETC_MADE, *template.ETC_FILES):
        yield f"/etc/{name}", Shown(None, "a copy for all agents", _READ_ONLY)
    for name in template.ETC_DIRS:
        yield f"/etc/{name}", Shown(None, f"the host's /etc/{name}", _READ_ONLY)


def _dev() -> Iterator[tuple[str, Shown]]:
    yield "/dev", Shown(False, "not among the devices that a sandbox has", _NAMESPACE)
    for name in template.DEVICE_NAMES:
        yield f"/dev/{name}", Shown(True, "a device that every sandbox has")
    for name in ("pts", "fd", "stdin", "stdout", "stderr", "ptmx"):
        yield f"/dev/{name}", Shown(None, "its own terminals and open files")
    yield "/dev/shm", Shown(None, "its /tmp")
