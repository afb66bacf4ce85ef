"""Verbs about capabilities: caps, grant, revoke."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import Failure, Which, json_option, read_agent, verb

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def offer_handles(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Handles of the agent that stands before."""
    from click.shell_completion import CompletionItem

    from agentix.control import NoKernelError
    from agentix_syscalls.errors import CallError

    del param
    try:
        with ctx.ensure_object(Which).connect(quiet=True) as client:
            held = client.call("caps", ctx.params["agent"])
    except (NoKernelError, CallError, Failure, OSError, KeyError):
        return []
    return [CompletionItem(str(row["handle"]), help=row["capability"]) for row in held
            if str(row["handle"]).startswith(incomplete)]


def offer_resources(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """How a capability begins, by what it is about."""
    from click.shell_completion import CompletionItem

    from agentix_syscalls.capabilities import RESOURCES

    del ctx, param
    built = (row for row in RESOURCES if row.held and not row.support.startswith("planned"))
    return [CompletionItem(f"capability://{row.name}", help=row.doc) for row in built
            if f"capability://{row.name}".startswith(incomplete)]


def _giver(row: dict[str, Any]) -> str:
    return f"agent {row['from']}, {row['from_handle']}" if row["from"] else "-"


def _left(row: dict[str, Any]) -> str:
    return "-" if row["left"] is None else str(row["left"])


@verb(examples=(
    ("agentctl caps scout", "what it holds, by handle, and where each comes from"),
    ("agentctl caps --tree", "who got what from whom, in the whole kernel"),
    ("agentctl caps --json", "the same for a program"),
))
@click.option("--tree", "as_tree", is_flag=True, help="Indent what was given below what it was given from.")
@json_option
@click.argument("agent", type=read_agent, required=False)
def caps(which: Which, agent: int | str | None, *, as_tree: bool, as_json: bool) -> None:
    """List the capabilities that an agent holds, or who holds what in the whole kernel."""
    with which.connect() as client:
        held = client.call("caps", None if as_tree else agent)
        if as_tree and agent is not None:
            held = _below(held, {(row["agent"], row["handle"]) for row in client.call("caps", agent)})
    if as_json:
        show.print_json(held)
    elif as_tree:
        for line in _indented(held):
            click.echo(line)
    else:
        show.table(("AGENT", "HANDLE", "CAPABILITY", "SOURCE", "FROM", "LEFT"), (
            (row["name"] or row["agent"], row["handle"], row["capability"], row["source"], _giver(row), _left(row))
            for row in held if row["held"]), right=("HANDLE", "LEFT"), fold=True)


def _below(tree: Iterable[dict[str, Any]], wanted: set[tuple[int, int]]) -> list[dict[str, Any]]:
    """The part of the tree that hangs below these, they included."""
    found: list[dict[str, Any]] = []
    depth: int | None = None
    for row in tree:
        if depth is None or row["depth"] <= depth:
            depth = row["depth"] if (row["agent"], row["handle"]) in wanted else None
        if depth is not None:
            found.append(row)
    return found


def _indented(tree: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in tree:
        who = row["name"] or f"agent {row['agent']}"
        ended = "" if row["held"] else " (ended)"
        left = "" if row["left"] is None else f", {row['left']} left"
        source = "" if row["from"] else f", {row['source']}"
        yield show.printable(f"{'  ' * row['depth']}{who}:{row['handle']}{ended} {row['capability']}{source}{left}")


@verb(examples=(
    ("agentctl grant scout 'capability://file/state?action=read'", "at once, and in its lives to come"),
    ("agentctl grant scout 'capability://tool/shell.execute?action=exec&rate=5/min'", "five runs a minute"),
))
@json_option
@click.argument("agent", type=read_agent)
@click.argument("capability", shell_complete=offer_resources)
def grant(which: Which, agent: int | str, capability: str, *, as_json: bool) -> None:
    """Give an agent a capability beside what its policy allows. Prints its handle."""
    with which.connect() as client:
        given = client.call("grant", agent, capability)
    if as_json:
        show.print_json(given)
    else:
        click.echo(given["handle"])


@verb(examples=(
    ("agentctl revoke scout 3", "at once, with all that it gave to others of it"),
    ("agentctl revoke scout 3 --json", "what went, and what no revocation takes back"),
))
@json_option
@click.argument("agent", type=read_agent)
@click.argument("handle", type=click.IntRange(0, (1 << 63) - 1), shell_complete=offer_handles)
def revoke(which: Which, agent: int | str, handle: int, *, as_json: bool) -> None:
    """Take a capability of an agent back, and all that was made of it. Says what went, and what stays."""
    with which.connect() as client:
        taken = client.call("revoke", agent, handle)
    if as_json:
        show.print_json(taken)
        return
    for line in _told(taken):
        click.echo(show.printable(line))


def _told(taken: dict[str, Any]) -> Iterator[str]:
    for row in taken["gone"]:
        yield f"agent {row['agent']}: {row['handle']} {row['capability']} is taken back"
    files = any(row["capability"].startswith("capability://file") for row in taken["gone"])
    spawns = any(row["capability"].startswith("capability://agent") for row in taken["gone"])
    for row in taken["stays"]:
        who = f"agent {row['agent']}"
        yield from (f"{who}: {path}, which is open: what is not allowed any more is refused" for path in row["closed"])
        yield from (f"{who}: {call}, which was under way, is ended" for call in row["ended"])
        if files:
            yield from (f"{who}: stays as it is, shown by a mount: {bind}" for bind in row["binds"])
        if spawns and row["children"]:
            yield f"{who}: children live on: {', '.join(map(str, row['children']))}"
