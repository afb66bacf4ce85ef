"""ps: the table of agents, as rows, as a tree, filtered, in the columns that were asked for."""

import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import click
from attrs import frozen

from agentix.agentctl import format as show
from agentix.agentctl.cli import Which, json_option, verb
from agentix_syscalls.control import STATES

Row = dict[str, Any]


@frozen
class Column:
    """One column: what it shows of a row of the kernel's, and whether that needs `usage`, which costs reads."""

    show: Callable[[Row], object]
    title: str = ""
    number: bool = False
    usage: bool = False


def why(row: Row) -> str:
    """As in: exit 3; killed SIGKILL; policy SIGPOLICY, deny MKDIR; spent its budget of calls; without landlock."""
    result = row["signal"] or ("" if row["code"] is None else str(row["code"]))
    words = [f"{row['why']} {result}".strip()] if row["why"] else []
    if row["rule"] and words:
        words[0] += f", {row['rule']}"
    if row["next"]:
        words.append(row["next"])
    if row["spent"] and not row["why"]:
        words.append(f"spent its budget of {', '.join(row['spent'])}")
    if row["degraded"]:
        words.append("without " + ",".join(row["degraded"]))
    return "; ".join(words) or "-"


def command_line(row: Row) -> str:
    import shlex

    return {"module": "-m ", "exec": "-- "}.get(row["kind"], "") + shlex.join(row["argv"])


def _age(row: Row) -> str:
    end_ns = row["ended_wall_ns"] or time.time_ns()
    return show.duration((end_ns - row["started_wall_ns"]) / 1e9)


COLUMNS: Final[dict[str, Column]] = {
    "id": Column(lambda row: row["id"], number=True),
    "parent": Column(lambda row: row["parent"] or "-", number=True),
    "name": Column(lambda row: row["name"] or "-"),
    "state": Column(lambda row: row["state"]),
    "life": Column(lambda row: row["life"], number=True),
    "uid": Column(lambda row: row["uid"], number=True),
    "owner": Column(lambda row: row["owner"], number=True),
    "mode": Column(lambda row: row["mode"]),
    "runtime": Column(lambda row: row["runtime"]),
    "profile": Column(lambda row: row["profile"] or "-"),
    "cpu": Column(lambda row: show.duration(row["cpu_us"] / 1e6), number=True, usage=True),
    "memory": Column(lambda row: show.size(row["memory_bytes"]), "MEM", number=True, usage=True),
    "pids": Column(lambda row: row["processes"], number=True, usage=True),
    "calls": Column(lambda row: row["calls"], number=True),
    "denials": Column(lambda row: row["denials"], number=True),
    "started": Column(lambda row: show.moment(row["started_wall_ns"])),
    "age": Column(_age, number=True),
    "why": Column(why),
    "command": Column(command_line),
}
"""By the name that --format takes, in the order in which they stand when all are shown."""

USUAL: Final = ("id", "name", "state", "cpu", "memory", "pids", "age", "why", "command")
FOREST: Final = ("id", "parent", *USUAL[1:])


def _read_state(word: str) -> Callable[[Row], bool]:
    if word not in STATES:
        raise click.BadParameter(f"{word!r} is not a state: {', '.join(STATES)}.")
    return lambda row: row["state"] == word


FILTERS: Final[dict[str, Callable[[str], Callable[[Row], bool]]]] = {
    "state": _read_state,
    "name": lambda word: lambda row: fnmatchcase(row["name"], word),
    "parent": lambda word: lambda row: str(row["parent"]) == word,
    "why": lambda word: lambda row: fnmatchcase(row["why"], word),
}
_OF_THE_DEAD: Final = ("state", "why")
"""Who filters by these means dead agents as well."""


class Filter(NamedTuple):
    key: str
    matches: Callable[[Row], bool]


def read_filter(word: str) -> Filter:
    """KEY=VALUE. Raises BadParameter."""
    key, sign, value = word.partition("=")
    if not sign or key not in FILTERS:
        raise click.BadParameter(f"{word!r} is not a filter: {', '.join(f'{key}=' for key in FILTERS)} and a value.")
    return Filter(key, FILTERS[key](value))


def read_columns(word: str) -> tuple[str, ...]:
    """A list of columns' names with commas between. Raises BadParameter."""
    names = tuple(name.strip() for name in word.split(","))
    for name in names:
        if name not in COLUMNS:
            raise click.BadParameter(f"{name!r} is not a column: {', '.join(COLUMNS)}.")
    return names


@verb(examples=(
    ("agentctl ps", "agents that live"),
    ("agentctl ps -a --json", "all of them, for a program"),
    ("agentctl ps -f", "each below its parent"),
    ("agentctl ps --filter state=running --filter 'name=web-*'", "those that both are true of"),
    ("agentctl ps --format id,name,denials --no-header", "these columns, for a script"),
    ("agentctl kill $(agentctl ps -q)", "ids alone"),
))
@click.option("-a", "--all", "everything", is_flag=True, help="Dead ones too.")
@click.option("-f", "--forest", is_flag=True, help="As a tree: each agent below its parent.")
@click.option("-l", "--long", is_flag=True, help="All columns.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only, one a line.")
@click.option("--filter", "filters", multiple=True, type=read_filter, metavar="KEY=VALUE",
              help="Only agents with this state, name (* and ? match), parent (its id) or why; several must all hold.")
@click.option("--format", "columns", type=read_columns, metavar="COLUMNS",
              help=f"These columns, commas between: {', '.join(COLUMNS)}.")
@click.option("--no-header", is_flag=True, help="Without the line of titles.")
@json_option
def ps(which: Which, *, everything: bool, forest: bool, long: bool, quiet: bool, filters: tuple[Filter, ...],
       columns: tuple[str, ...] | None, no_header: bool, as_json: bool) -> None:
    """List agents. WHY says how one ended, or which layers it runs without."""
    if as_json and (quiet or columns or forest or long or no_header):
        raise click.UsageError("--json has everything: it goes with --all and --filter alone.")
    if quiet:
        columns = ("id",)
    names = columns or (tuple(COLUMNS) if long else FOREST if forest else USUAL)
    everything = everything or any(wanted.key in _OF_THE_DEAD for wanted in filters)
    with which.connect() as client:
        rows: list[Row] = client.call("ps", everything, as_json or any(COLUMNS[name].usage for name in names))
    rows = [row for row in rows if all(wanted.matches(row) for wanted in filters)]
    if as_json:
        show.print_json(rows)
    elif quiet:
        click.echo("".join(f"{row['id']}\n" for row in rows), nl=False)
    else:
        shown = planted(rows) if forest else ((row, 0) for row in rows)
        show.table([_title(name) for name in names], (_cells(row, depth, names) for row, depth in shown),
                   [_title(name) for name in names if COLUMNS[name].number], bare=no_header)


def _title(name: str) -> str:
    return COLUMNS[name].title or name.upper()


def _cells(row: Row, depth: int, names: tuple[str, ...]) -> list[object]:
    """One row; its name stands as far in as it is deep in the tree."""
    branch = "   " * (depth - 1) + r"\_ " if depth else ""
    return [f"{branch}{COLUMNS[name].show(row)}" if name == "name" else COLUMNS[name].show(row) for name in names]


def planted(rows: list[Row]) -> Iterator[tuple[Row, int]]:
    """Each row with its depth, children below their parents; whose parent is not among them stands at the edge."""
    children: dict[int, list[Row]] = {}
    ids = {row["id"] for row in rows}
    for row in rows:
        children.setdefault(row["parent"] if row["parent"] in ids else 0, []).append(row)
    waiting = [(row, 0) for row in reversed(children.get(0, []))]
    while waiting:
        row, depth = waiting.pop()
        yield row, depth
        waiting += [(child, depth + 1) for child in reversed(children.get(row["id"], []))]
