"""The verb policy: read, ask and compare policies, and show which one an agent has."""

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import (
    FAILED,
    NEEDS_RESTART,
    Failure,
    Which,
    complain,
    explain,
    json_option,
    offer_files,
    read_agent,
    verb,
)
from agentix.control import Client
from agentix_syscalls import spawn as table
from agentix_syscalls import types
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_METAVAR: Final = "FILE|NAME"


def offer(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """The shipped ones, and the host's files."""
    from click.shell_completion import CompletionItem

    shipped = [CompletionItem(name) for name in table.POLICIES if name.startswith(incomplete)]
    return [*shipped, *offer_files(ctx, param, incomplete)]


def offer_calls(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    from agentix_syscalls.calls import CALLS

    return [CompletionItem(call.name) for call in CALLS if call.name.startswith(incomplete.upper())]


def read(word: str) -> tuple[str, bytes | None]:
    """A shipped policy by name, or a file's name and text, read with the rights of whoever runs this.

    Raises Failure.
    """
    if word in table.POLICIES:
        return word, None
    try:
        with open(word, "rb") as file:
            text = file.read(table.POLICY_MAX_BYTES + 1)  # one too many is refused by who reads it, by its name
        called = word if len(word) <= table.CALLED_MAX else word.rpartition("/")[2]
        return table.policy((called, text))  # pyright: ignore[reportReturnType] - a text was given
    except OSError as error:
        shipped = f"shipped are {', '.join(table.POLICIES)}" if "/" not in word else ""
        raise Failure(f"{show.printable(word)}: {error.strerror}", remedy=shipped) from None
    except types.BadArgument as error:
        raise Failure(str(error)) from None


def complaints(error: CallError) -> str:
    """All that is wrong with a policy, a line each: what they quote of it has no line ends."""
    return "\n".join(show.printable(line) for line in error.message.split("\n"))


def _call(client: Client, operation: str, *args: Any) -> Any:
    try:
        return client.call(operation, *args)
    except CallError as error:
        if "\n" in error.message:
            raise Failure(complaints(error)) from None
        raise


@click.group()
def policy() -> None:
    """Read, ask and compare policies; see agentix-policy(5)."""


@verb(name="check", examples=(
    ("agentctl policy check bot.yaml", "status 1 and all complaints, with line and column"),
    ("agentctl policy check standard --json", "what a shipped one says, for a program"),
))
@json_option
@click.argument("policy", metavar=_METAVAR, shell_complete=offer)
def policy_check(which: Which, policy: str, *, as_json: bool) -> None:
    """Read a policy as a spawn would. Nothing is run."""
    with which.connect() as client:
        found = _call(client, "policy_check", read(policy))
    if as_json:
        show.print_json(found)
    else:
        for warning in found["warnings"]:
            click.echo(f"warning: {show.printable(warning)}")
        click.echo(f"{show.printable(policy)}: {show.printable(found['name'])}, mode {found['mode']}, "
                   f"{len(found['rules'])} rules")


@verb(name="test", examples=(
    ("agentctl policy test bot.yaml --call WRITE --path /state/x", "status 1 if it is refused, and by which line"),
    ("agentctl policy test strict --call EXEC --path shell.execute", "may it run this tool?"),
))
@json_option
@click.option("--call", required=True, metavar="CALL", shell_complete=offer_calls,
              help="The system call, as agentctl syscalls lists it.")
@click.option("--path", metavar="PATH", help="What it is about: a path of the agent's tree; for EXEC the tool, for "
              "SIGNAL self/NAME or child/NAME, for SPAWN the name.")
@click.argument("policy", metavar=_METAVAR, shell_complete=offer)
def policy_test(which: Which, policy: str, call: str, path: str | None, *, as_json: bool) -> int:
    """Ask a policy about a call, without an agent. The exit status is 1 when it would be refused."""
    with which.connect() as client:
        found = _call(client, "policy_test", read(policy), show.printable(call),
                      None if path is None else os.fsencode(path))
    if as_json:
        show.print_json(found)
    else:
        told = "allowed" if found["allowed"] else "refused"
        why = f": {found['message']} ({found['rule']})" if found["rule"] else ""
        click.echo(f"{told}{show.printable(why)}")
    return 0 if found["allowed"] else FAILED


@verb(name="diff", examples=(
    ("agentctl policy diff old.yaml new.yaml", "what would be wider, what narrower"),
    ("agentctl policy diff standard bot.yaml", "beside the default"),
))
@json_option
@click.argument("old", metavar=_METAVAR, shell_complete=offer)
@click.argument("new", metavar=_METAVAR, shell_complete=offer)
def policy_diff(which: Which, old: str, new: str, *, as_json: bool) -> None:
    """Compare two policies: what becomes different when the second takes the place of the first."""
    with which.connect() as client:
        found = _call(client, "policy_diff", read(old), read(new))
    if as_json:
        show.print_json(found)
    else:
        show.table(("EFFECT", "KEY", "BEFORE", "AFTER"), (
            (row["effect"], row["key"], row["before"] or "-", row["after"] or "-") for row in found), fold=True)


@verb(name="show", examples=(
    ("agentctl policy show scout", "its rules, with file and line"),
    ("agentctl policy show --text scout >mine.yaml", "the document, as a start for one's own"),
))
@json_option
@click.option("--text", is_flag=True, help="Print the text of its document, and nothing else.")
@click.argument("agent", metavar="AGENT", type=read_agent)
def policy_show(which: Which, agent: int | str, *, text: bool, as_json: bool) -> None:
    """Show the policy in force for an agent.

    Its text is kept: files that change, and versions with other shipped policies, leave it as it is.
    """
    with which.connect() as client:
        found = client.call("policy_show", agent, text)
    if as_json:
        show.print_json(found)
        return
    if text:
        for line in found["text"].decode().splitlines():
            click.echo(show.printable(line))
        return
    show.facts((name, found[name]) for name in ("name", "source", "shipped", "hash", "mode", "spawn_max"))
    show.table(("EFFECT", "RULE", "WHERE"), (
        (row["effect"], row["rule"], f"{row['file']}:{row['line']}" if row["line"] else "spawn")
        for row in found["rules"]), fold=True)


def _offer_subjects(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    return [*read_agent.shell_complete(ctx, param, incomplete), *offer(ctx, param, incomplete)]


@verb(name="explain", examples=(
    ("agentctl policy explain scout", "which enforcer holds which line of it"),
    ("agentctl policy explain bot.yaml", "of a file, before anything runs"),
))
@json_option
@click.argument("subject", metavar=f"AGENT|{_METAVAR}", shell_complete=_offer_subjects)
def policy_explain(which: Which, subject: str, *, as_json: bool) -> None:
    """Show which part of a policy is held by which enforcer.

    A number is an agent; what is a file here, or shipped, is a policy; anything else is an agent's name.
    """
    document = not subject.isdecimal() and (subject in table.POLICIES or os.path.exists(subject))
    agent = None if document else read_agent.convert(subject, None, None)
    with which.connect() as client:
        rows = _call(client, "policy_explain", agent, read(subject) if document else None)
    if as_json:
        show.print_json(rows)
        return
    show.table(("PART", "WHAT", "WHERE", "ENFORCER", "HOW"), (
        (row["part"], row["what"], f"{row['file']}:{row['line']}" if row["line"] else row["file"] or "-",
         ", ".join(row["enforcers"]) or "-", row["how"]) for row in rows), fold=True)


@verb(name="set", examples=(
    ("agentctl policy set scout tighter.yaml", "at once, open files and waiting calls included"),
    ("agentctl policy set 7 8 9 strict", "several; the policy is read once"),
    ("agentctl policy set --now scout other.yaml", "restarts it if its sandbox must be another"),
))
@json_option
@click.option("--now", is_flag=True, help="Restart who needs it, under the new policy.")
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
@click.argument("policy", metavar=_METAVAR, shell_complete=offer)
def policy_set(which: Which, agents: tuple[int | str, ...], policy: str, *, now: bool, as_json: bool) -> int:
    """Give living agents another policy, and with them all that they spawned.

    What the old one allowed and the new one does not is taken back at once. Binds are built into a sandbox: where they
    differ, nothing changes without --now, and the exit status is 3.
    """
    from agentix.agentctl.launch import open_shown

    document = read(policy)
    with contextlib.ExitStack() as files, which.connect() as client:
        try:
            shown, fds = open_shown(client, document if now else None, files)
            rows = client.call("policy_set", agents, document, now, shown, descriptors=fds)
        except CallError as error:
            raise Failure(complaints(error) if "\n" in error.message else explain(error)) from None
    if as_json:
        show.print_json(rows)
    else:
        for row in rows:
            _show_set(row)
    results = {row["result"] for row in rows}
    return FAILED if "refused" in results else NEEDS_RESTART if "needs-restart" in results else 0


def _show_set(row: dict[str, Any]) -> None:
    """A line for an agent, and one for each of its descendants and of what was taken back or stays."""
    if row["result"] == "refused":
        complain(show.printable(f"{row['message']}; {row['remedy']}" if row["remedy"] else row["message"]))
        return
    click.echo(f"{row['name']} ({row['id']}): {row['result']}")
    for need in row.get("needs", ()):
        click.echo(f"  {show.printable(need)}")
    for member in (row, *row.get("children", ())):
        if member is not row:
            click.echo(f"  {member['name']} ({member['id']}): set as well")
        for what in ("closed", "ended"):
            for name in member.get(what, ()):
                click.echo(f"  {what}: {show.printable(name)}")
    for target in row.get("stays", ()):
        click.echo(f"  still shown, by its spawn: {show.printable(target)}")


for _verb in (policy_check, policy_test, policy_diff, policy_show, policy_explain, policy_set):
    policy.add_command(_verb)
