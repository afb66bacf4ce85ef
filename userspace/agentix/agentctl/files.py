"""Verbs about agents' files: cat and cp."""

import codecs
import contextlib
import os
import re
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from agentix.agentctl.cli import FAILED, Failure, Which, complain, explain, offer_files, read_agent, verb
from agentix.agentctl.format import printable
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix.agentctl.copying import AgentGoal, HostGoal
    from agentix.control import Client


class Place(NamedTuple):
    """A path in an agent's tree, as AGENT:PATH names it."""

    agent: int | str
    path: bytes


def read_place(word: str) -> Place | str:
    """AGENT:PATH, or else a path of the host: a path whose first name has a colon is written ./NAME."""
    agent, colon, path = word.partition(":")
    return Place(read_agent(agent), os.fsencode(path) or b".") if colon and agent and "/" not in agent else word


def read_agents_place(word: str) -> Place:
    place = read_place(word)
    if isinstance(place, str):
        raise click.BadParameter(f"{word!r} is not AGENT:PATH.")
    return place


@verb(examples=(
    ("agentctl cat scout:state/report.txt", "one file of its tree"),
    ("agentctl cat 7:proc/status 7:policy/effective", "two, also what the kernel makes up"),
))
@click.argument("files", metavar="AGENT:PATH...", type=read_agents_place, nargs=-1, required=True)
def cat(which: Which, files: tuple[Place, ...]) -> int:
    """Show files of agents' trees: byte for byte, but on a terminal with control characters escaped."""
    status = 0
    with which.connect() as client:
        for place in files:
            write = _writer()
            try:
                pieces = client.stream("read", place.agent, place.path, True, True)
                next(pieces)  # its attributes
                for piece in pieces:
                    write(piece)
            except CallError as error:
                complain(f"{_shown(place)}: {explain(error)}")
                status = FAILED
    return status


def _shown(place: Place) -> str:
    return f"{place.agent}:{printable(place.path.decode('utf-8', 'backslashreplace'))}"


def _writer() -> Callable[[bytes], None]:
    """How to write a file's pieces: what an agent chose may not steer a terminal."""
    if not sys.stdout.isatty():
        def raw(piece: bytes) -> None:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return raw
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")  # a character may lie in two pieces

    def escaped(piece: bytes) -> None:
        text = decoder.decode(piece)
        click.echo("".join(part if part in {"\n", "\t"} else printable(part) for part in re.split(r"([\n\t])", text)),
                   nl=False)
    return escaped


@verb(examples=(
    ("agentctl cp report.txt scout:state/", "into a folder of its tree"),
    ("agentctl cp -r -p scout:state backup", "a folder, with modes and times"),
    ("agentctl cp -r data/. 7:mem/semantic", "what is in the folder, not the folder"),
))
@click.option("-r", "--recursive", is_flag=True,
              help="Folders too, with all that is in them; symbolic links stay links.")
@click.option("-p", "--preserve", is_flag=True, help="Keep modes and times.")
@click.argument("source", metavar="SRC", type=read_place, shell_complete=offer_files)
@click.argument("goal", metavar="DST", type=read_place, shell_complete=offer_files)
def cp(which: Which, source: Place | str, goal: Place | str, *, recursive: bool, preserve: bool) -> int:
    """Copy files between the host and an agent's tree: one of SRC and DST is AGENT:PATH.

    A file has its name when it is whole; what it replaces stays until then.
    """
    from agentix.agentctl.copying import AgentSource, Copying, HostSource, Progress

    if isinstance(source, str) == isinstance(goal, str):
        raise click.UsageError("One of SRC and DST is AGENT:PATH, the other a path of the host (./NAME if it has a "
                               "colon).")
    _raise_limit()
    with which.connect() as client, contextlib.ExitStack() as stack:
        progress = Progress()
        if isinstance(source, Place):
            assert isinstance(goal, str)
            mode: int = client.call("stat", source.agent, source.path)["mode"]
            _check_recursive(_shown(source), mode, recursive=recursive)
            base, folder = _base(source.path, str(source.agent)), stat.S_ISDIR(mode)
            host = _host_goal(goal, base, folder=folder, preserve=preserve)
            stack.callback(host.close)
            copying = Copying(AgentSource(client, *source, mode), host, progress)
        else:
            assert isinstance(goal, Place)
            info = _look(source)
            _check_recursive(source, info.st_mode, recursive=recursive)
            base, folder = _base(os.fsencode(source)), stat.S_ISDIR(info.st_mode)
            tree = _agent_goal(client, goal, base, folder=folder, preserve=preserve)
            copying = Copying(HostSource(source, info), tree, progress)
        stack.callback(progress.clear)
        copying.run()
    return FAILED if copying.failed else 0


def _raise_limit() -> None:
    """A folder that is being copied takes a descriptor for each level: an agent may have built 2,000 of them."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _base(path: bytes, root: str = "") -> bytes:
    """The name that a copy has in an existing folder; empty: its content goes straight into it.

    `root`: what the root itself is called, which has no name.
    """
    name = path.rstrip(b"/").rpartition(b"/")[2]
    if path == b"." and root:
        return root.encode()
    return b"" if name in {b".", b".."} else name


def _look(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise Failure(f"{printable(path)}: {error.strerror}") from None


def _check_recursive(shown: str, mode: int, *, recursive: bool) -> None:
    if stat.S_ISDIR(mode) and not recursive:
        raise Failure(f"{printable(shown)}: is a folder", remedy="copy it with -r")


def _host_goal(path: str, base: bytes, *, folder: bool, preserve: bool) -> "HostGoal":
    """Into `path` when it is a folder, else as `path` in the folder above it. Raises Failure."""
    from agentix.agentctl.copying import HostGoal

    try:
        if os.path.isdir(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return HostGoal(fd, path, (base,) if base else (), preserve)
        if os.path.islink(path):  # what a file of an agent is written through should be named by a person
            raise Failure(f"{printable(path)}: is a symbolic link", remedy="name what it points to")
        if os.path.lexists(path) and folder:
            raise Failure(f"{printable(path)}: is no folder")
        above, name = os.path.split(path.rstrip("/"))
        if path.endswith("/") and not folder:
            raise Failure(f"{printable(path)}: no such folder", remedy="make it first")
        fd = os.open(above or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"{printable(path)}: {error.strerror}") from None
    return HostGoal(fd, above, (os.fsencode(name),), preserve)


def _agent_goal(client: "Client", place: Place, base: bytes, *, folder: bool, preserve: bool) -> "AgentGoal":
    """Likewise in the agent's tree. Raises Failure, CallError."""
    import errno

    from agentix.agentctl.copying import AgentGoal

    agent, path = place
    try:
        there: dict[str, Any] | None = client.call("stat", agent, path)
    except CallError as error:
        if error.number != errno.ENOENT:
            raise
        there = None
    if there is not None and stat.S_ISDIR(there["mode"]):
        return AgentGoal(client, agent, path.rstrip(b"/") + b"/" + base if base else path, preserve)
    if there is not None and folder:
        raise Failure(f"{_shown(place)}: is no folder")
    if path.endswith(b"/") and not folder:
        raise Failure(f"{_shown(place)}: no such folder", remedy="make it first, by copying a folder with -r")
    return AgentGoal(client, agent, path.rstrip(b"/"), preserve)
