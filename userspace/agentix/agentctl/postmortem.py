"""The verb that reads what a kernel left when it panicked; none has to run for it."""

import json
import os
from typing import Any, Final

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import Failure, Which, json_option, offer_files, verb
from agentix.agentctl.record import line
from agentix.control import NoKernelError
from agentix_syscalls.errors import CallError

SYSTEM_STATE: Final = "/var/lib/agentix"
FOLDER: Final = "epitaphs"
_FACTS: Final = ("boot", "pid", "uptime_s", "version", "python", "trio", "machine", "config", "degraded", "journal")


@verb(examples=(
    ("agentctl postmortem", "of the last panic of the system's kernel"),
    ("agentctl --prefix /tmp/k postmortem", "of a private one's"),
    ("agentctl postmortem --json 00000007.json | jq .records", "of a file that was copied here"),
))
@json_option
@click.argument("file", required=False, shell_complete=offer_files)
def postmortem(which: Which, file: str | None, *, as_json: bool) -> None:
    """Show what made a kernel panic: what failed and where, its last records,
    what it was doing. Without FILE the newest epitaph of the kernel is read.
    """
    path = file or _newest(f"{_state(which)}/{FOLDER}")
    epitaph = _read(path)
    if as_json:
        show.print_json(epitaph)
        return
    click.echo(f"{show.moment(epitaph['wall_ns'])}: {show.printable(epitaph['where'])}: "
               f"{show.printable(epitaph['what'])}")
    show.facts([("epitaph", path), *((name, epitaph[name]) for name in _FACTS)])
    _section("Agents that lived", (f"{row['id']}.{row['life']} {row['name']} {row['state']}"
                                   for row in epitaph["agents"]))
    _section("Layers", epitaph["layers"])
    _section(f"The last {len(epitaph['records'])} records", map(line, epitaph["records"]))
    _section("Traceback", epitaph["traceback"].splitlines())
    _section("Stacks", epitaph["stacks"].splitlines())


def _section(title: str, lines: Any) -> None:
    click.echo(f"\n{title}:")
    for text in lines:
        click.echo(f"  {show.printable(text)}")


def _state(which: Which) -> str:
    """The state directory, as the kernel says if one runs; else where it is unless configured elsewhere."""
    try:
        with which.connect(quiet=True) as client:
            return str(client.kernel["state"])
    except (NoKernelError, CallError, Failure):
        return f"{which.prefix}/state" if which.prefix else SYSTEM_STATE


def _newest(folder: str) -> str:
    """Raises Failure."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise Failure(f"{folder}: {error.strerror}", remedy="epitaphs are root's: use sudo") from None
    if not names:
        raise Failure(f"{folder}: no epitaph: no kernel that kept its state there has panicked",
                      remedy="agentctl boots tells how each boot ended")
    return f"{folder}/{names[-1]}"


def _read(path: str) -> dict[str, Any]:
    """Raises Failure for what is no epitaph."""
    try:
        with open(path, encoding="utf-8") as file:
            found: Any = json.load(file)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", remedy="epitaphs are root's: use sudo"
                      if isinstance(error, PermissionError) else "") from None
    except ValueError:
        found = None
    wanted = {"where", "what", "wall_ns", "agents", "layers", "records", "traceback", "stacks", *_FACTS}
    if wanted - set(getattr(found, "keys", tuple)()):
        raise Failure(f"{path}: not an epitaph of a kernel")
    return found  # type: ignore[no-any-return]  # it has a map's keys
