"""Verbs that change agents, or clear them away: rename, update, prune."""

import math
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from agentix.agentctl import format as show
from agentix.agentctl.agents import each
from agentix.agentctl.cli import FAILED, Failure, Which, complain, explain, json_option, read_agent, verb
from agentix.agentctl.launch import check_option
from agentix_syscalls import spawn
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from agentix.control import Client


@verb(examples=(
    ("agentctl rename agent-7 scout", "also its link below /agent/by-name"),
))
@click.argument("agent", type=read_agent)
@click.argument("new")
def rename(which: Which, agent: int | str, new: str) -> None:
    """Give an agent another name. Its id, its files and its hostname inside stay."""
    with which.connect() as client:
        client.call("rename", agent, new)


def read_timeout(word: str) -> float:
    """Seconds; infinitely many for `none`. Raises BadParameter."""
    return math.inf if word == "none" else show.read_duration(word)


@verb(examples=(
    ("agentctl update --memory 2G --cpus 4 scout", "room for more work, at once"),
    ("agentctl update --timeout 10m 7 8", "killed in ten minutes from now, if they still live"),
    ("agentctl update --timeout none scout", "it may go on for ever"),
))
@click.option("--memory", "memory_bytes", type=show.read_size, metavar="SIZE", help="Memory limit.")
@click.option("--cpus", type=click.FLOAT, metavar="N", help="Processors, as a number such as 0.5.")
@click.option("--pids", type=click.INT, metavar="N", help="Processes and threads at most.")
@click.option("--timeout", "timeout_s", type=read_timeout, metavar="TIME",
              help="Kill it after so many seconds from now, or as in 5m; none: never.")
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
def update(which: Which, agents: tuple[int | str, ...], **limits: Any) -> int:
    """Change limits of agents that live, at once. What they spawned keeps its own limits."""
    given = {name: value for name, value in limits.items() if value is not None}
    if given.get("timeout_s") == math.inf:
        given["timeout_s"] = None
    if not given:
        raise click.UsageError(f"What to change is missing: {', '.join(map(spawn.word, spawn.LIMITS))}.")
    for name, value in given.items():
        if value is not None:
            check_option(name, value)

    with which.connect() as client:
        def change(agent: int | str) -> None:
            now = client.call("update", agent, given)
            if "memory_bytes" in given and now["used_bytes"] > now["memory_bytes"]:
                complain(f"{agent}: uses {show.size(now['used_bytes'])} of memory, over the new limit; Linux takes it "
                         "back, or ends the agent")
        return each(agents, change)


@verb(examples=(
    ("agentctl prune", "all that have ended, after a question"),
    ("agentctl prune --older-than 7d -f", "for a timer: those that ended a week ago or earlier"),
    ("agentctl prune --dry-run", "only show what would go"),
))
@click.option("--older-than", "older_s", type=show.read_duration, metavar="TIME", default="0", show_default=True,
              help="Only those that ended so long ago: seconds, or as in 1h.")
@click.option("-n", "--dry-run", is_flag=True, help="Remove nothing.")
@click.option("-f", "--force", is_flag=True, help="Ask nothing; needed where nobody can be asked.")
@json_option
def prune(which: Which, *, older_s: float, dry_run: bool, force: bool, as_json: bool) -> int:
    """Remove dead agents: their trees, logs and ids. Prints them, and what their files took up.

    An agent that its parent has not waited for yet is kept. The flight record stays.
    """
    with which.connect() as client:
        rows = _dead(client, older_s)
        if not dry_run:
            if rows and not force:
                _ask(rows)
            rows, failed = _removed(client, rows)
        else:
            failed = 0
    if as_json:
        show.print_json(rows)
    else:
        _show(rows, dry_run=dry_run)
    return FAILED if failed else 0


def _dead(client: "Client", older_s: float) -> list[dict[str, Any]]:
    """{id, name, ended_wall_ns, bytes, files} of each that has ended so long ago."""
    latest_ns = time.time_ns() - int(older_s * 1e9)
    rows: list[dict[str, Any]] = []
    for row in client.call("ps", True):
        if row["state"] == "dead" and row["ended_wall_ns"] <= latest_ns:
            with suppress(CallError):  # removed meanwhile
                held = client.call("inspect", row["id"])["held"]
                rows.append({"id": row["id"], "name": row["name"], "ended_wall_ns": row["ended_wall_ns"],
                             "bytes": held["bytes"] + held["log_bytes"], "files": held["files"]})
    return rows


def _ask(rows: list[dict[str, Any]]) -> None:
    what = f"{_count(rows)} with {_size(rows)} of files"
    if not sys.stdin.isatty():
        raise Failure(f"{what} would be removed, and nobody can be asked", remedy="say -f, or look with --dry-run")
    if not click.confirm(f"Remove {what}?", err=True):
        raise Failure("nothing is removed")


def _count(rows: list[dict[str, Any]]) -> str:
    return f"{len(rows)} dead agent{'' if len(rows) == 1 else 's'}"


def _size(rows: list[dict[str, Any]]) -> str:
    total: int = sum(row["bytes"] for row in rows)
    shown = show.size(total)
    return f"{shown} bytes" if shown.isdecimal() else shown


def _removed(client: "Client", rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Those that are gone, and how many would not go."""
    gone: list[dict[str, Any]] = []
    for row in rows:
        try:
            client.call("rm", row["id"])
            gone.append(row)
        except CallError as error:
            complain(f"{row['id']}: {explain(error)}")
    return gone, len(rows) - len(gone)


def _show(rows: list[dict[str, Any]], *, dry_run: bool) -> None:
    if rows:
        now_ns = time.time_ns()
        show.table(("ID", "NAME", "ENDED", "FILES", "SIZE"), (
            (row["id"], row["name"], show.duration((now_ns - row["ended_wall_ns"]) / 1e9) + " ago", row["files"],
             show.size(row["bytes"])) for row in rows), right=("ID", "FILES"))
    click.echo(f"{_count(rows)} {'would be ' if dry_run else ''}removed, {_size(rows)}"
               f"{'' if dry_run else ' freed'}")
