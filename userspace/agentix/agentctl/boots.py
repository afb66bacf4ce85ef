"""Verbs about the kernel's own past: boots and kernel-log."""

from typing import Any, Final

import click

from agentix.agentctl import format as show
from agentix.agentctl.asking import answer
from agentix.agentctl.cli import Which, json_option, verb
from agentix.agentctl.record import line


@verb(examples=(
    ("agentctl boots", "when the kernel was started, and how it ended"),
    ("agentctl boots --json | jq '.[] | select(.end == \"killed\")'", "those that were killed, for a program"),
))
@json_option
def boots(which: Which, *, as_json: bool) -> None:
    """List the boots of the kernel, the oldest first.

    LOST counts the agents that ran when it died; RESTARTED those of earlier
    boots that it ran again; NOTE says why it ended and what it had repaired.
    """
    with answer(which, "boots") as found:
        rows = list(found)
    if as_json:
        show.print_json(rows)
        return
    show.table(("BOOT", "BEGAN", "ENDED", "END", "LOST", "RESTARTED", "VERSION", "NOTE"), map(_boot_line, rows),
               right=("BOOT", "LOST", "RESTARTED"), fold=True)


def _boot_line(row: dict[str, Any]) -> tuple[object, ...]:
    note = "; ".join([*([row["why"]] if row["why"] else []), *(f"repaired: {what}" for what in row["repaired"])])
    return (row["boot"], show.moment(row["began_ns"]), show.moment(row["ended_ns"] or 0), row["end"], row["lost"],
            row["restarted"], row["version"], note)


@verb(name="kernel-log", examples=(
    ("agentctl kernel-log", "what the kernel did since it was started, and what failed"),
    ("agentctl kernel-log -b -1", "the same of the boot before this one"),
))
@click.option("-b", "--boot", type=click.IntRange(-(1 << 31), 1 << 31), default=0, metavar="N",
              help="Of which boot: its number, or 0 for the last one, -1 for the one before it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
def kernel_log(which: Which, boot: int, *, as_json: bool) -> None:
    """Show what the kernel itself did and what failed in it, in order."""
    with answer(which, "kernel_log", boot) as found:
        for _, rows in found:
            for row in rows:
                click.echo(show.dump(row) if as_json else _log_line(row))


_TOLD: Final = {"error": ("in {where}", "traceback"), "stall": ("no turn of the loop for {seconds} s", "stacks"),
                "panic": ("in {where}: {what}; agentctl postmortem tells more", "")}
"""What went wrong, by its kind: a sentence, and the field that stands below it."""


def _log_line(row: dict[str, Any]) -> str:
    """Steps and errors as people tell them; other records as a trace shows them."""
    data, at = row["data"], row["wall_ns"]
    time = f"{show.moment(at)}.{at // 10**6 % 1000:03}"
    if row["kind"] == "step":
        return f"{time} {show.printable(data['step'])}: {show.printable(data['detail'])}"
    if row["kind"] not in _TOLD:
        return line(row, dated=True)
    told, below = _TOLD[row["kind"]]
    head = show.printable(told.format_map(data))
    lines = [show.printable(text) for text in str(data.get(below, "")).rstrip().splitlines()]
    return "\n    ".join([f"{time} {show.colour(row['kind'].upper(), fg='red')}: {head}", *lines])
