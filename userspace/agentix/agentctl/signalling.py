"""Verbs about signals: kill, stop, cont, signals."""
# ruff: noqa: ARG002 - the signatures of overridden methods are click's

import errno
import re
from typing import TYPE_CHECKING, Any, Final

import click

from agentix.agentctl import format as show
from agentix.agentctl.agents import all_done, each
from agentix.agentctl.cli import Verb, Which, json_option, read_agent, verb
from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import SIGNALS, Signal, SignalNameError, from_user

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_SHORT: Final = re.compile(r"-(\d+|[A-Z][A-Z0-9]+)\Z")


class _Signal(click.ParamType):  # type: ignore[type-arg]  # generic in new clicks only
    """A signal by name, or by Linux's number; PROBE for 0, which only looks."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Signal | int":
        if value == "0":
            return PROBE
        try:
            return from_user(str(value))
        except SignalNameError as error:
            raise click.BadParameter(f"{error}.") from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        names = ((row.name.removeprefix("SIG"), row.doc) for row in SIGNALS)
        return [CompletionItem(name, help=doc) for name, doc in names if name.startswith(incomplete.upper())]


PROBE: Final = 0


class KillVerb(Verb):
    """Also takes -TERM and -9."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [f"--signal={found[1]}" if (found := _SHORT.match(word)) else word for word in args]
        return super().parse_args(ctx, words)


_agents: Final = click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
_group: Final = click.option("-g", "--group", is_flag=True, help="All that the agent spawned, too.")


def _send(which: Which, agents: tuple[int | str, ...], signal: int, *, group: bool) -> int:
    with which.connect() as client:
        return all_done(client.calls("signal", [(agent, signal, group) for agent in agents]))


def _look(which: Which, agents: tuple[int | str, ...]) -> int:
    with which.connect() as client:
        def look(agent: int | str) -> None:
            found = client.call("inspect", agent)
            if found["state"] in {"zombie", "dead"}:
                raise CallError(errno.ESRCH, f"agent {found['id']} ({found['name']}) has ended: {found['detail']}")
        return each(agents, look)


def _list(context: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(" ".join(row.name.removeprefix("SIG") for row in SIGNALS))
        context.exit()


@verb(cls=KillVerb, examples=(
    ("agentctl kill scout", "ask it to end (SIGTERM)"),
    ("agentctl kill -9 -g 7", "kill it and all that it spawned"),
    ("agentctl kill -USR1 7 8", "two at once; without a handler it ends them"),
    ("agentctl kill -0 scout", "nothing is sent; status 0 if it lives"),
))
@click.option("-s", "--signal", type=_Signal(), default="TERM", metavar="SIG", show_default=True,
              help="Name, or Linux's number; -SIG does as well; 0 only looks if they live.")
@click.option("-l", "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list,
              help="List the names of the signals, and nothing else.")
@_group
@_agents
def kill(which: Which, agents: tuple[int | str, ...], *, signal: Signal | int, group: bool) -> int:
    """Send a signal to agents. Bare numbers are Linux's: -9 is SIGKILL. See agentctl signals."""
    return _look(which, agents) if isinstance(signal, int) else _send(which, agents, signal.number, group=group)


@verb(examples=(("agentctl stop scout", "it executes nothing until agentctl cont scout"),))
@_group
@_agents
def stop(which: Which, agents: tuple[int | str, ...], *, group: bool) -> int:
    """Freeze agents. They cannot undo it, though a mask may put it off for some seconds."""
    return _send(which, agents, from_user("STOP").number, group=group)


@verb(examples=(("agentctl cont scout", "it goes on where it was"),))
@_group
@_agents
def cont(which: Which, agents: tuple[int | str, ...], *, group: bool) -> int:
    """Continue stopped agents."""
    return _send(which, agents, from_user("CONT").number, group=group)


@verb(examples=(("agentctl signals", "NUMBER is what agents see, LINUX what kill reads"),))
@json_option
def signals(_which: Which, *, as_json: bool) -> None:
    """List signals: the number inside Agentix, Linux's number for agentctl kill, and what each does."""
    if as_json:
        show.print_json([{"number": row.number, "name": row.name, "linux": row.linux, "default": row.default.value,
                          "caught": row.caught, "operator_only": row.operator_only, "doc": row.doc}
                         for row in SIGNALS])
        return
    show.table(("NUMBER", "NAME", "LINUX", "DEFAULT", "CAUGHT", "MEANING"),
               ((row.number, row.name, "-" if row.linux is None else row.linux, row.default.value,
                 row.caught, row.doc) for row in SIGNALS), right=("NUMBER", "LINUX"), fold=True)
