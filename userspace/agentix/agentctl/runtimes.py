"""Verbs about runtimes and profiles: runtimes, profiles, reload."""

from collections.abc import Callable
from typing import Any

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import Failure, Which, json_option, verb

_NAME_SHOWN_MAX = 64


@verb(examples=(
    ("agentctl runtimes", "each with its Python, its modules and the state of its zygote"),
    ("agentctl runtimes ml --json", "all that is known of one, for a program"),
))
@json_option
@click.argument("name", required=False)
def runtimes(which: Which, name: str | None, *, as_json: bool) -> None:
    """List the runtimes in force, or show all of one. agentix-runtimes(5) says how to make one.

    STATE is that of the zygote, the process that its agents are cloned from: ready, starting, failed, or changed when
    a package was installed or removed since; AGENTS counts those that live.
    """
    _list(which, "runtimes", name, as_json, ("NAME", "PYTHON", "STATE", "AGENTS", "MODULES", "ABOUT"), lambda row: (
        row["name"], row["version"], row["state"], len(row["agents"]), ",".join(row["preload"]) or "-",
        row["detail"] or row["doc"]))


@verb(examples=(
    ("agentctl profiles", "each with its runtime and what it sets"),
    ("agentctl profiles small", "all of one"),
))
@json_option
@click.argument("name", required=False)
def profiles(which: Which, name: str | None, *, as_json: bool) -> None:
    """List the profiles in force, or show all of one. agentix-profiles(5) says how to make one.

    AGENTS counts those that live.
    """
    _list(which, "profiles", name, as_json, ("NAME", "RUNTIME", "AGENTS", "SETS", "ABOUT"), lambda row: (
        row["name"], row["runtime"], len(row["agents"]), ",".join(_set(row)) or "-", row["doc"]))


def _set(row: dict[str, Any]) -> list[str]:
    """As in memory_bytes=64.0M."""
    words = [f"{name}={_value(name, value)}" for name, value in row["options"].items()]
    words += [f"env={'+'.join(row['environment'])}"] if row["environment"] else []
    return words + [f"binds_ro={'+'.join(bind['target'] for bind in row['binds'])}"] * bool(row["binds"])


def _value(name: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON
    return show.size(value) if name.endswith("_bytes") else str(value)


def _list(which: Which, what: str, name: str | None, as_json: bool, header: tuple[str, ...],
          line: Callable[[dict[str, Any]], tuple[object, ...]]) -> None:
    with which.connect() as client:
        rows = client.call(what)
    if name is None:
        show.print_json(rows) if as_json else show.table(header, map(line, rows), ("AGENTS",))
        return
    found = next((row for row in rows if row["name"] == name), None)
    if found is None:
        raise Failure(f"{show.printable(name[:_NAME_SHOWN_MAX])}: no such {what.removesuffix('s')}",
                      remedy=f"agentctl {what} lists them")
    show.print_json(found) if as_json else show.facts(found.items())


@verb(examples=(("agentctl reload", "after a change of a file in /etc/agentix/runtimes or profiles"),))
@json_option
def reload(which: Which, *, as_json: bool) -> None:
    """Read the files of runtimes and profiles again, and put them in force. Root only.

    Every runtime gets a new zygote, and this waits until all are ready. When a file is bad or a module cannot be
    imported, all stays as it was. Agents that run are left alone.
    """
    with which.connect() as client:
        found = client.call("reload")
    if as_json:
        show.print_json(found)
    else:
        for what, names in found.items():
            click.echo(f"{what}: {', '.join(names) or 'none'}")
