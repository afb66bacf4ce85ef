"""Answers a question about the journal of a kernel that does not run; agentctl starts it, for root.

    python -I -m agentix_kernel.history.offline [PREFIX] <QUESTION >ANSWER

The question is [operation, arguments] in msgpack; the answer is the historian's.
"""

import errno
import os
import sys
from collections.abc import Mapping
from typing import Any, cast

from agentix_kernel.config import ConfigError, check_folders, load
from agentix_kernel.history.index import Index
from agentix_kernel.history.reply import answer, refuse
from agentix_kernel.journal.disk import RealDisk
from agentix_kernel.journal.errors import JournalKeyError
from agentix_kernel.journal.key import open_key
from agentix_syscalls import control, wire
from agentix_syscalls.errors import CallError


def main(prefix: str | None = None) -> None:
    number, args = wire.decode(sys.stdin.buffer.read())
    operation = control.BY_NUMBER[number]
    try:
        index = _index(prefix)
        checked = _offline(operation.name, operation.parse(args))
    except CallError as error:
        refuse(sys.stdout.fileno(), number, error)
    else:
        answer(index, sys.stdout.fileno(), number, checked)


def _index(prefix: str | None) -> Index:
    """The journal, and the index as far as it was filled. Raises CallError."""
    try:
        config = load(prefix)
        check_folders(config)  # who may write there may have put any index there
    except ConfigError as error:
        raise CallError(errno.EINVAL, str(error)) from None
    if not os.path.isdir(config.journal_dir):
        raise CallError(errno.ENOENT, f"{config.journal_dir}: no journal is there",
                        remedy="name the folder of a private kernel with --prefix DIR")
    disk = RealDisk(config.journal_dir)
    try:
        if not os.path.exists(config.key_path):
            raise JournalKeyError(errno.ENOKEY, f"{config.key_path}: the key of the journal is missing; put it back")
        return Index(config.index_dir, disk, open_key(config.key_path, os.urandom, disk))
    except JournalKeyError as error:
        raise CallError(error.errno or errno.EINVAL, str(error.args[1])) from None


def _offline(name: str, args: list[Any]) -> list[Any]:
    """Arguments as agentd would hand them on. Raises CallError."""
    if name == "boots":
        return [False]
    for where in args:
        agents = cast("Mapping[str, Any]", where).get("agents", ()) if type(where) is dict else ()
        if any(isinstance(agent, str) for agent in agents):
            raise CallError(errno.EINVAL, "without a kernel, agents are known by their ids only")
    return args


if __name__ == "__main__":
    main(*sys.argv[1:])
