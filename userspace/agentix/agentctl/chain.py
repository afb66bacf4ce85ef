"""Verbs of audit about the journal's chain: check it, anchor it, begin a segment, change the key."""

from typing import Any, Final

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import FAILED, Failure, Which, json_option, verb
from agentix.agentctl.postmortem import SYSTEM_STATE
from agentix.control import NoKernelError


@verb(name="verify", examples=(
    ("agentctl audit verify", "status 1 when the record was altered"),
    ("agentctl audit verify --journal /mnt/copy/journal --anchors /mnt/other/anchors", "a copy, without its kernel"),
))
@click.option("--journal", type=click.Path(), metavar="DIR", help="Check this folder, without a kernel.")
@click.option("--key", type=click.Path(), metavar="FILE", help="Its key; those beside it are used, too. Without it: "
              "keys/journal.key beside the folder.")
@click.option("--anchors", type=click.Path(), metavar="FILE", help="What it was anchored in: any text with the lines.")
@json_option
def audit_verify(which: Which, *, journal: str | None, key: str | None, anchors: str | None, as_json: bool) -> int:
    """Check the chain: nothing altered, inserted, reordered or removed, nothing cut off that was anchored.

    The exit status is 1 when something is.
    """
    if journal is None and (key is not None or anchors is not None):
        raise click.UsageError("--key and --anchors are for --journal.")
    if journal is not None:
        found = _verify_folder(journal, key, anchors)
    else:
        try:
            with which.connect() as client:
                found = client.call("audit_verify")
        except NoKernelError as error:
            if not error.absent:
                raise
            state = f"{which.prefix}/state" if which.prefix else SYSTEM_STATE
            raise Failure(f"no kernel is running at {show.printable(error.path)}",
                          remedy=f"its journal is checked without it by --journal {state}/journal") from None
    if as_json:
        show.print_json(found)
        return 0 if found["ok"] else FAILED
    for problem in found["problems"]:
        click.echo(f"{problem['segment']}:{problem['offset']}: {show.printable(problem['what'])}")
    click.echo(show.printable(found["text"]))
    return 0 if found["ok"] else FAILED


def _verify_folder(journal: str, key: str | None, anchors: str | None) -> dict[str, Any]:
    """What agentd finds, which has the reader. Raises Failure."""
    import json
    import subprocess

    from agentix.agentctl.private import agentd

    argv = [agentd(), "--verify", journal]
    argv += ["--key", key] if key is not None else []
    argv += ["--anchors", anchors] if anchors is not None else []
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().removeprefix("agentd: ")
        raise Failure(said or f"agentd --verify ended with status {done.returncode}, and no answer") from None
    return found


@verb(name="anchor", examples=(
    ("agentctl audit anchor", "where the head of the chain is kept now"),
    ("agentctl audit anchor | ssh witness 'cat >>anchors'", "keep it on another machine as well"),
))
@json_option
def audit_anchor(which: Which, *, as_json: bool) -> int:
    """Anchor the journal now: every witness of the configuration keeps the head of its chain. Root only.

    The line that they keep is printed, to be kept elsewhere, too; what became of it at each goes to stderr.
    The exit status is 1 when one failed.
    """
    with which.connect() as client:
        found = client.call("audit_anchor")
    if as_json:
        show.print_json(found)
    else:
        click.echo(found["line"])
        for row in found["witnesses"]:
            click.echo(show.printable(f"{row['witness']}: {row['failing'] or 'has it'}"), err=True)
    return FAILED if any(row["failing"] for row in found["witnesses"]) else 0


@verb(name="rotate", examples=(("agentctl audit rotate", "close the segment, so that it can be copied away"),))
def audit_rotate(which: Which) -> None:
    """Go on in a new segment of the journal, and print its number. Root only."""
    with which.connect() as client:
        click.echo(client.call("audit_rotate"))


@verb(name="rotate-key", examples=(("agentctl audit rotate-key", "after somebody may have seen the key"),))
def audit_rotate_key(which: Which) -> None:
    """Go on with a new key, in a new segment, and print its id. Root only.

    The old one is kept beside it: what it vouches for is verified with it.
    """
    with which.connect() as client:
        click.echo(client.call("audit_rotate_key")["key"])


VERBS: Final = (audit_verify, audit_anchor, audit_rotate, audit_rotate_key)
