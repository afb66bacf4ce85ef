"""Asking the flight record: conditions as options, and answers, also without a kernel."""
# ruff: noqa: ARG002 - the signatures of overridden methods are click's

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import click

from agentix.agentctl.cli import Which, complain, period
from agentix.control import NoKernelError, pieces
from agentix_syscalls import control, question, records, types, wire

OFFLINE: Final = "agentix_kernel.history.offline"
"""Answers where no kernel runs: a program of the kernel's, for who may read its files."""


class _Word(click.ParamType):  # type: ignore[type-arg]  # generic in new clicks only
    """A value of a condition; what is none is told with the nearest that is."""

    def __init__(self, row: question.Condition, known: tuple[str, ...]) -> None:
        self.name = row.key
        self.row = row
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.row.read(value)
        except types.BadArgument as bad:
            raise click.BadParameter(f"{bad}.") from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in self.known if word.startswith(incomplete)]


def _words(option: str, key: str, metavar: str, known: tuple[str, ...], what: str) -> Callable[[Any], Any]:
    return click.option(f"--{option}", key, multiple=True, metavar=metavar, type=_Word(question.BY_KEY[key], known),
                        help=f"Only {what}; one of several will do.")


def _calls() -> tuple[str, ...]:
    from agentix_syscalls.calls import CALLS

    return tuple(call.name for call in CALLS)


_OPTIONS: Final = (
    _words("kind", "kinds", "KIND", tuple(records.BY_NAME), "records of this kind"),
    _words("verdict", "verdicts", "VERDICT", records.VERDICTS, "records with this verdict"),
    _words("phase", "phases", "PHASE", records.PHASES, "records of this phase: event, intent or outcome"),
    _words("call", "calls", "CALL", _calls(), "what is about this call"),
    click.option("--rule", metavar="TEXT", type=_Word(question.BY_KEY["rule"], ()),
                 help="Only what a rule decided whose text holds TEXT."),
    click.option("--correlation", type=click.IntRange(min=1), metavar="ID", help="Only records of this undertaking."),
    period,
)


def conditions(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for all conditions but the agents, which are arguments; see `where`."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def where(agents: tuple[int | str, ...], given: dict[str, Any]) -> dict[str, Any]:
    """The question that the options put."""
    asked = {"agents": agents, **given}
    return {key: value for key, value in asked.items() if value is not None and value != ()}


@contextlib.contextmanager
def answer(which: Which, name: str, *args: Any) -> Generator[Iterator[Any], None, None]:
    """The pieces of an answer. Where no kernel runs, root reads the journal without one, and is told so.

    Raises what Which.connect and Client.answer raise.
    """
    try:
        client = which.connect()
    except NoKernelError as error:
        if not error.absent or os.geteuid() != 0:
            raise
    else:
        with client:
            yield client.answer(name, *args)
        return
    complain("no kernel is running; reading what was recorded without one")
    yield from _offline(which.prefix, name, args)


def _offline(prefix: str | None, name: str, args: tuple[Any, ...]) -> Generator[Iterator[Any], None, None]:
    command = [sys.executable, "-I", "-m", OFFLINE, *([os.path.abspath(prefix)] if prefix else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(wire.pack([control.BY_NAME[name].number, args]))
        try:
            yield pieces(name, os.dup(process.stdout.fileno()))
        finally:
            process.kill()
