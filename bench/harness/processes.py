"""Processes as /proc tells of them."""

import contextlib
import os
import time
from collections.abc import Callable

import click

_PAUSE_S = 0.002
_HELD = ("slab", "pagetables", "kernel_stack")


def of_uid(uid: int) -> list[int]:
    """Pids of all living processes with this real or effective uid, zombies aside: they execute nothing any more."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            status = status_of(int(name))
            if str(uid) in status.get("Uid", "").split() and not status.get("State", "").startswith(("Z", "X")):
                found.append(int(name))
    return found


def status_of(pid: int) -> dict[str, str]:
    """The rows of /proc/PID/status; empty when it is gone."""
    return _rows(f"/proc/{pid}/status")


def private_bytes(pid: int) -> int:
    """Memory that is this process's alone, from smaps_rollup; 0 when it is gone."""
    rows = _rows(f"/proc/{pid}/smaps_rollup")
    return sum(int(rows[name].split()[0]) for name in ("Private_Clean", "Private_Dirty") if name in rows) * 1024


def kernel_bytes(pid: int) -> int | None:
    """What Linux holds for the memory cgroup of a process (slab, page tables, stacks); None where it does not say."""
    paths = dict(line.split(":", 2)[1:] for line in _text(f"/proc/{pid}/cgroup").splitlines())
    for line in _text("/proc/self/mounts").splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(",") and "memory" in paths:
            held = _text(f"{mount}{paths['memory']}/memory.kmem.usage_in_bytes")
            return int(held) if held else None
        if kind == "cgroup2" and "memory" not in paths and "" in paths:
            rows = dict(row.split() for row in _text(f"{mount}{paths['']}/memory.stat").splitlines())
            return sum(int(rows[name]) for name in _HELD) if rows.keys() >= set(_HELD) else None
    return None


def waits_for(pid: int) -> str:
    """The function of Linux in which a process sleeps; empty when it does not sleep or is gone."""
    return _text(f"/proc/{pid}/wchan").removesuffix("0")


def name_of(pid: int) -> str:
    """What the process calls itself, 15 bytes at most; empty when it is gone."""
    return _text(f"/proc/{pid}/comm").strip()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Look until it is so. Raises ClickException naming `what` when it is not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise click.ClickException(f"{what}: not so after {timeout_s:g} s")
        time.sleep(_PAUSE_S)


def _rows(path: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in _text(path).splitlines())}


def _text(path: str) -> str:
    """The content of a file of /proc; empty when its process is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""
