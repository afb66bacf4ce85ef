"""The command line that all benchmarks have."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import click

from agentix_syscalls.errors import CallError
from harness.report import Report


def command(measure: Callable[[bool], Report], doc: str | None) -> click.Command:
    """A command that measures (quickly or in full) and prints a table, or one JSON object with --json.

    `doc` is the measuring module's own: what is measured, and how.
    """
    assert doc is not None, "a benchmark says what it measures"

    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

    @click.command(help=doc.replace("\n\n", "\n\n\b\n"), context_settings=settings)
    @click.option("--quick", is_flag=True, help="Fewer rounds: done within 40 s.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
    def run(*, quick: bool, as_json: bool) -> None:
        if os.geteuid() != 0:
            raise click.ClickException("needs root, as agentd does: run it with sudo")
        signal.signal(signal.SIGTERM, _end)
        try:
            report = measure(quick)
        except CallError as error:
            raise click.ClickException(f"the kernel says: {error.message}") from error
        print(report.to_json() if as_json else report.to_text())

    return run


def _end(number: int, frame: FrameType | None) -> None:
    """An end that unwinds, so that kernels are shut down and cgroups removed."""
    del frame
    sys.exit(128 + number)
