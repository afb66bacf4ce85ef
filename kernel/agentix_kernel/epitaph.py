"""A panic: the kernel's state cannot be relied on, so it ends at once and leaves an epitaph that tools can read.

What panics: an assertion that fails in a task of the kernel's own (a life watched, killed, stopped, buried, begun
again), and whatever ends the kernel's run and is no plain refusal to start. What does not: an error in the handler of
a call or of an operator's request. That is answered with EIO and recorded, for who asks must not be able to end
everybody. Its agents end with the kernel (their leash falls), and the next boot finds what is left.
(The three kinds of error are hubris's: the caller's, the caller's supervisor's, the kernel's own.)
"""

import contextlib
import json
import os
import platform
import traceback
from typing import Any, Final, NoReturn

import trio

from agentix_kernel import stacks
from agentix_kernel.history import rows
from agentix_kernel.journal import read
from agentix_kernel.kernel import Kernel
from agentix_kernel.service.log import ERR, Say
from agentix_syscalls import __version__, records

EXIT_PANIC: Final = 70
"""EX_SOFTWARE of sysexits.h."""
RECORDS: Final = 100
"""The last ones, as an epitaph has them."""
KEPT: Final = 20
"""Epitaphs of a state directory: a kernel that panics at each boot must not fill the disk."""
FOLDER: Final = "epitaphs"


def panic(kernel: Kernel, say: Say, where: str, error: BaseException) -> NoReturn:
    """Leave the epitaph and end the process, without waiting for anything that is ours. Never returns."""
    try:
        path = write(kernel, where, error)
        say(f"PANIC: {where}: {describe(error)}; agentctl postmortem {path}", priority=ERR, boot=kernel.boot)
    except BaseException as worse:  # noqa: ASYNC103 - the process ends in the next line
        say(f"PANIC: {where}: {describe(error)}; and no epitaph: {worse!r}", priority=ERR, boot=kernel.boot)
    os._exit(EXIT_PANIC)


def write(kernel: Kernel, where: str, error: BaseException) -> str:
    """The epitaph, durable, and as far as the journal still can a record of it; returns its path. Raises OSError."""
    folder = f"{kernel.config.state_dir}/{FOLDER}"
    os.makedirs(folder, 0o700, exist_ok=True)
    path = f"{folder}/{kernel.boot:08}.json"
    with contextlib.suppress(Exception):  # the journal may be what failed; the epitaph stands without it
        kernel.journal.append(records.PANIC, data=(where, describe(error), path))
        kernel.journal.publish()
        kernel.journal.commit()
    data = json.dumps(collect(kernel, where, error), default=repr).encode("utf-8", "backslashreplace")
    with open(f"{path}.new", "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)
    for old in sorted(os.listdir(folder))[:-KEPT]:
        os.unlink(f"{folder}/{old}")
    return path


def collect(kernel: Kernel, where: str, error: BaseException) -> dict[str, Any]:
    """What an epitaph says: agentctl postmortem reads it by these names."""
    last: list[dict[str, Any]] = []
    unread = ""
    try:
        last += [rows.row(record) for record in
                 read.tail(kernel.journal.disk, kernel.journal.key, RECORDS, segments=2)]
    except Exception as damaged:  # noqa: ASYNC103 - the epitaph says it
        unread = describe(damaged)
    root = trio.lowlevel.current_root_task() if trio.lowlevel.in_trio_run() else None
    return {
        "where": where, "what": describe(error), "traceback": "".join(traceback.format_exception(error)),
        "wall_ns": kernel.world.clock.wall_ns(), "uptime_s": round(kernel.uptime_s(), 3), "boot": kernel.boot,
        "pid": os.getpid(), "version": __version__, "python": platform.python_version(), "trio": trio.__version__,
        "machine": platform.platform(), "config": kernel.config.source, "degraded": list(kernel.degraded),
        "layers": [f"{row['layer']}: {row['state']}" for row in kernel.layers],
        "agents": [{"id": process.id, "life": process.life, "name": process.name, "state": process.state.value}
                   for process in kernel.table.alive()],
        "journal": {"published": kernel.journal.published, "durable": kernel.journal.durable, "unread": unread},
        "records": last, "stacks": stacks.dump(root),
    }


def leaves(error: BaseException) -> list[BaseException]:
    """The errors that a group holds, however deep; an error that is no group is its own."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            for leaf in leaves(each)]  # pyright: ignore[reportUnknownArgumentType] - a bare group holds anything


def describe(error: BaseException) -> str:
    """An error in one line; of a group, what it holds."""
    return "; ".join(f"{type(leaf).__name__}: {leaf}" if str(leaf) else type(leaf).__name__ for leaf in leaves(error))
