"""The verb why: which rule, line or wall decides, and what would allow it."""

import os
from typing import Any

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import Which, json_option, read_agent, verb
from agentix.agentctl.policies import offer_calls

_WORDS = {True: "allowed", False: "refused", None: "it depends"}


@verb(examples=(
    ("agentctl why scout", "what was refused last, by which line, and what would allow it"),
    ("agentctl why scout --call WRITE /state/key", "before it is tried"),
    ("agentctl why scout --call ptrace", "a Linux call"),
    ("agentctl why scout --path /etc/shadow", "a path as its programs see it"),
))
@json_option
@click.option("--last", is_flag=True, help="What was refused last: the default.")
@click.option("--call", metavar="CALL", shell_complete=offer_calls,
              help="A system call as agentctl syscalls lists it, or one of Linux.")
@click.option("--path", metavar="PATH", help="A path of the sandbox, or of its tree below /agent/self.")
@click.argument("agent", type=read_agent)
@click.argument("obj", metavar="[OBJECT]", required=False)
def why(which: Which, agent: int | str, obj: str | None, *, last: bool, call: str | None, path: str | None,
        as_json: bool) -> None:
    """Explain what decides for an agent: the rule with its file and line, the enforcer, and what would allow it.

    OBJECT is what a call is about: a path of its tree; for EXEC the tool, for SIGNAL self/NAME or child/NAME.
    """
    if (call is not None) + (path is not None) + last > 1:
        raise click.UsageError("One of --last, --call and --path.")
    if obj is not None and call is None:
        raise click.UsageError("An OBJECT goes with --call.")
    with which.connect() as client:
        found = client.call("why", agent, None if call is None else show.printable(call), _raw(obj), _raw(path))
    if as_json:
        show.print_json(found)
    elif not found["answers"]:
        click.echo(f"{found['name']} ({found['id']}): nothing was refused so far")
    for answer in () if as_json else found["answers"]:
        _tell(answer)


def _raw(word: str | None) -> bytes | None:
    """As it was typed: a path need not be UTF-8."""
    return None if word is None else os.fsencode(word)


def _tell(answer: dict[str, Any]) -> None:
    click.echo(show.printable(f"{answer['asked']}: {_WORDS[answer['allowed']]}"))
    show.facts(((name, answer[key]) for name, key in (
        ("why", "message"), ("rule", "rule"), ("enforcer", "enforcer"), ("to allow it", "remedy")) if answer[key]),
        indent="  ")
