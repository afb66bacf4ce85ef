"""Verbs about agents: wait, logs, rm, inspect, verify."""

import errno
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import (
    AGENTIX_FAILED,
    FAILED,
    TIME_OVER,
    Failure,
    Which,
    complain,
    explain,
    json_option,
    period,
    read_agent,
    verb,
)
from agentix.agentctl.foreground import tell
from agentix_syscalls import signals
from agentix_syscalls.errors import CallError


@verb(failure=AGENTIX_FAILED, examples=(
    ("agentctl wait scout", "exits as the agent did"),
    ("agentctl wait --timeout 5m 7 8", "two agents; 124 when five minutes are over"),
))
@click.option("--timeout", type=show.read_duration, metavar="TIME", help="Seconds at most, or as in 5m.")
@click.option("--json", "as_json", is_flag=True, help="Print how each ended as JSON; a list of several.")
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
def wait(which: Which, agents: tuple[int | str, ...], *, timeout: float | None, as_json: bool) -> int:
    """Wait until agents have ended and are gone. The exit status is the last one's own."""
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: list[dict[str, Any]] = []
    with which.connect() as client:
        for agent in agents:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                ended.append(client.call("wait", agent, left))
            except CallError as error:
                status = TIME_OVER if error.number == errno.ETIMEDOUT else AGENTIX_FAILED
                raise Failure(explain(error), status) from None
            tell(ended[-1])
    if as_json:
        _print_one_or_all(ended, agents)
    return int(ended[-1]["status"])


@verb(examples=(
    ("agentctl logs scout 2>/dev/null", "what it wrote to stdout"),
    ("agentctl logs -f --tail 20 7", "the last 20 lines, then what comes"),
    ("agentctl logs -t --since 5m scout", "the last five minutes, with the time of each line"),
    ("agentctl logs -f web-1 web-2", "of two agents, each line with its agent before it"),
))
@click.option("-f", "--follow", is_flag=True, help="Go on until the agents end.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each.")
@period
@click.option("-t", "--timestamps", is_flag=True, help="The time (UTC) before each line.")
@click.option("--streams", is_flag=True, help="Before each line where it came from: out or err.")
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
def logs(which: Which, agents: tuple[int | str, ...], *, follow: bool, tail: int | None, since_ns: int | None,
         until_ns: int | None, timestamps: bool, streams: bool) -> int:
    """Show agents' output: their stdout here on stdout, their stderr on stderr.

    Of one agent without marks it comes byte for byte; with marks, or of several, line by line.
    """
    from agentix.agentctl import output

    return output.copy(which, agents, output.Asked(follow, tail, since_ns, until_ns),
                       output.Marks(timestamps=timestamps, streams=streams))


@verb(examples=(
    ("agentctl rm 7 8", "two that have ended"),
    ("agentctl rm -f scout", "also if it is still alive"),
))
@click.option("-f", "--force", is_flag=True, help="Kill it first if it lives.")
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
def rm(which: Which, agents: tuple[int | str, ...], *, force: bool) -> int:
    """Remove dead agents: their trees, logs and ids. The flight record stays. Prints the ids."""
    with which.connect() as client:
        if force:
            client.calls("signal", [(agent, signals.SIGKILL, False) for agent in agents])
            client.calls("wait", [(agent, None) for agent in agents])
        removed = client.calls("rm", [(agent,) for agent in agents])
    for agent in removed:
        if not isinstance(agent, CallError):
            click.echo(agent)
    return all_done(removed)


def all_done(results: Sequence[Any]) -> int:
    """Complain of those of Client.calls that failed; the exit status."""
    failed = [result for result in results if isinstance(result, CallError)]
    for error in failed:
        complain(explain(error))
    return FAILED if failed else 0


def each(agents: tuple[int | str, ...], work: Callable[[int | str], object]) -> int:
    """Do it for each agent; one that fails does not keep the others from it. The exit status."""
    status = 0
    for agent in agents:
        try:
            work(agent)
        except (CallError, Failure) as error:
            complain(explain(error) if isinstance(error, CallError) else str(error))
            status = FAILED
    return status


@verb(examples=(
    ("agentctl inspect scout", "one fact a line"),
    ("agentctl inspect --json 7", "for a program; a list when several are asked for"),
))
@json_option
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
def inspect(which: Which, agents: tuple[int | str, ...], *, as_json: bool) -> int:
    """Show all that the kernel knows of agents. JSON has exact numbers; people get sizes and times with units."""
    found: list[dict[str, Any]] = []
    with which.connect() as client:
        status = each(agents, lambda agent: found.append(client.call("inspect", agent)))
    if as_json:
        _print_one_or_all(found, agents)
        return status
    for number, known in enumerate(found):
        if number:
            click.echo()
        show.facts(known.items())
    return status


def _print_one_or_all(found: list[dict[str, Any]], agents: tuple[int | str, ...]) -> None:
    """What was asked of one agent as an object, of several as a list."""
    if len(agents) > 1:
        show.print_json(found)
    elif found:
        show.print_json(found[0])


@verb(examples=(
    ("agentctl verify scout", "layer by layer, read from /proc and the cgroup"),
    ("agentctl verify 7 8 >/dev/null && echo confined", "status 1 when a layer of one is off"),
))
@json_option
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
def verify(which: Which, agents: tuple[int | str, ...], *, as_json: bool) -> int:
    """Check what really confines agents' processes, as Linux says, not as our own tables say.

    The exit status is 1 when a layer is off.
    """
    found: list[dict[str, Any]] = []
    with which.connect() as client:
        status = each(agents, lambda agent: found.append({"agent": agent, **client.call("verify", agent)}))
    if as_json:
        _print_one_or_all(found, agents)
    for checked in () if as_json else found:
        show.table(("LAYER", "STATE", "DETAIL"),
                   ((row["layer"], row["state"], row["detail"]) for row in checked["layers"]), fold=True)
        click.echo(f"agent {show.printable(checked['agent'])}: {checked['processes']} processes checked: "
                   f"{'confined' if checked['ok'] else 'NOT as it should be'}")
    return status if all(checked["ok"] for checked in found) else FAILED
