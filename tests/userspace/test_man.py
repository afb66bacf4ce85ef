"""Man pages: as the tables say today, correct mdoc, one for each verb, no dangling references."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentix.agentctl.cli import VERBS
from agentix_syscalls import calls, errors, signals

MAN = Path(__file__).resolve().parents[2] / "man"
PAGES = sorted(MAN.glob("man?/*.[1-9]"))
SYSTEM = {("fork", "2"), ("cat", "1"), ("signal", "7")}
"""Pages of the system that ours may refer to."""


def render(*args):
    return subprocess.run([sys.executable, MAN / "render.py", *args], capture_output=True, text=True, check=False)


def test_blocks_are_as_the_tables_say():
    result = render("--check")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_stale_block_is_noticed_and_rewritten(tmp_path):
    page = tmp_path / "page.1"
    page.write_text('before\n.\\" BEGIN name kill\nold\n.\\" END name kill\nafter\n')
    result = render("--check", str(page))
    assert (result.returncode, "-old" in result.stdout) == (1, True)
    assert "\nold\n" in page.read_text()
    assert render(str(page)).returncode == 0
    assert page.read_text() == (
        'before\n.\\" BEGIN name kill\n.Nm agentctl-kill\n.Nd send a signal to agents\n.\\" END name kill\nafter\n')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_correct_and_its_references_exist(page):
    lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, text=True, check=False)
    assert (lint.stdout, lint.returncode) == ("", 0)
    ours = {tuple(other.name.rsplit(".", 1)) for other in PAGES} | {("agentctl", "1")}
    referred = set(re.findall(r"^\.(?:It )?Xr (\S+) (\d)", page.read_text(), re.MULTILINE))
    assert referred <= ours | SYSTEM


def test_each_verb_call_errno_and_signal_has_its_place():
    names = {page.name for page in PAGES}
    assert {f"agentctl-{verb}.1" for verb in VERBS} <= names
    page = (MAN / "man2/agentix-syscalls.2").read_text()
    assert all(f".Ss SYS_{call.name} ({call.number})\n" in page for call in calls.CALLS)
    assert all(f".It Bq Er {row.name}\n" in page for row in errors.ERRORS)
    page = (MAN / "man7/agentix-signals.7").read_text()
    assert all(f".It Dv {row.name}\n" in page for row in signals.SIGNALS)
