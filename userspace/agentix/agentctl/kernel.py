"""Verbs about the kernel and its machine: info, doctor, syscalls, shutdown."""

import contextlib
import json
import os
import select
import subprocess
from typing import TYPE_CHECKING, Any

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import FAILED, Failure, Which, json_option, patiently, verb
from agentix.agentctl.private import agentd
from agentix.control import NoKernelError

if TYPE_CHECKING:
    from agentix_syscalls.calls import Call


@verb(examples=(("agentctl info", "version, prefix, mount point, uptime and so on"),))
@json_option
def info(which: Which, *, as_json: bool) -> None:
    """Show the kernel's version, place and load."""
    with which.connect() as client:
        found = client.call("info")
    if as_json:
        show.print_json(found)
        return
    kernel = "private" if found.get("prefix") else "the system's"
    show.facts([("kernel", kernel), *found.items()])


@verb(examples=(
    ("agentctl doctor", "each layer, its state, and what to do about it"),
    ("agentctl doctor --json", "for a program"),
))
@json_option
def doctor(which: Which, *, as_json: bool) -> int:
    """Check what this machine can enforce, layer by layer.

    The running kernel is asked; without one, agentd looks for itself.
    The exit status is 1 when a required layer is off and nobody accepted that.
    """
    try:
        client = which.connect()
    except NoKernelError as error:
        if not error.absent:
            raise
        rows, status = _probe()
    else:
        with client:
            rows = client.call("doctor")
        off = any(row["required"] and not row["accepted"] and row["state"] == "off" for row in rows)
        status = FAILED if off else 0
    if as_json:
        show.print_json(rows)
    else:
        show.table(("LAYER", "STATE", "REQUIRED", "DETAIL"), map(_doctor_line, rows), fold=True)
    return status


def _doctor_line(row: dict[str, Any]) -> tuple[str, str, str, str]:
    required = "accepted" if row["accepted"] else "yes" if row["required"] else "no"
    return row["layer"], row["state"], required, f"{row['detail']}; {row['remedy']}" if row["remedy"] else row["detail"]


def _probe() -> tuple[list[dict[str, Any]], int]:
    """The rows that an agentd finds by itself, and its exit status. Raises Failure."""
    done = subprocess.run([agentd(), "--doctor", "--json"], stdout=subprocess.PIPE, check=False)
    try:
        return json.loads(done.stdout), done.returncode
    except ValueError:
        raise Failure(f"agentd --doctor ended with status {done.returncode}, and no answer") from None


@verb(examples=(
    ("agentctl syscalls", "number, name, support, capability"),
    ("agentctl syscalls open", "arguments, result and errors of one"),
))
@json_option
@click.argument("name", required=False)
def syscalls(_which: Which, name: str | None, *, as_json: bool) -> None:
    """List the system calls that agents can make, or explain one."""
    from agentix_syscalls import calls

    if name is not None:
        found = calls.find(name)
        if found is None:
            raise Failure(f"{name}: no such system call", remedy="agentctl syscalls lists them")
        show.print_json(_call_facts(found)) if as_json else _explain_call(found)
    elif as_json:
        show.print_json([_call_facts(call) for call in calls.CALLS])
    else:
        show.table(("NUMBER", "NAME", "SUPPORT", "CAPABILITY", "MEANING"),
                   ((c.number, c.name, c.support.partition(":")[0], c.capability, c.doc) for c in calls.CALLS),
                   right=("NUMBER",), fold=True)


def _call_facts(call: "Call") -> dict[str, Any]:
    from agentix_syscalls.calls import EVERY_CALL

    return {"number": call.number, "name": call.name, "support": call.support, "capability": call.capability,
            "doc": call.doc, "returns": call.returns, "since": call.since,
            "args": [{"name": arg.name, "type": arg.type.__name__, "required": arg.required, "doc": arg.doc}
                     for arg in call.args],
            "errors": [{"name": name, "when": when} for name, when in (*call.errors, *EVERY_CALL)]}


def _explain_call(call: "Call") -> None:
    from agentix_syscalls.calls import EVERY_CALL

    arguments = ", ".join(arg.name if arg.required else f"[{arg.name}]" for arg in call.args)
    click.echo(f"SYS_{call.name} ({call.number}): {call.doc}\n\n  {call.name.lower()}({arguments}) -> {call.returns}\n")
    for arg in call.args:
        click.echo(f"  {arg.name:<12} {arg.type.__name__}: {arg.doc}")
    click.echo(f"\nSupport: {call.support}. Capability: {call.capability}. Since: {call.since}.\n\nErrors:")
    for name, when in (*call.errors, *EVERY_CALL):
        click.echo(f"  {name:<12} {when}")


@verb(examples=(("agentctl shutdown --why 'new disk'", "every agent is ended, the record closed"),))
@click.option("--why", default="", metavar="TEXT", help="For the record.")
def shutdown(which: Which, *, why: str) -> None:
    """Shut the kernel down in order: agents are asked to end, then killed; the record is closed. Root only.

    It returns when the kernel has gone, and another can be started in its place.
    """
    with contextlib.ExitStack() as files, which.connect() as client:
        watched: list[int] = []
        with contextlib.suppress(OSError):  # it has gone already, or is in a pid namespace not seen from here
            watched.append(client.watch())
            files.callback(os.close, watched[0])
        client.call("shutdown", why)
        if watched:
            with patiently("agents are asked to end, and killed if they do not"):
                select.select(watched, [], [])
