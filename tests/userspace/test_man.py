"""Man pages: as the tables say today, correct mdoc, one for each verb, no dangling references."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agentix import aio, libc
from agentix.agentctl.cli import VERBS
from agentix_kernel import boot, config, daemon, procfiles
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.confine import syscalls_table
from agentix_kernel.layers.table import LAYERS
from agentix_kernel.layers.verify import CHECKS
from agentix_kernel.runtimes import files
from agentix_kernel.trail import Trail
from agentix_syscalls import calls, errors, records, signals

MAN = Path(__file__).resolve().parents[2] / "man"
PAGES = sorted(MAN.glob("man?/*.[1-9]"))
SYSTEM = {("fork", "2"), ("cat", "1"), ("signal", "7"), ("fallocate", "2"), ("fcntl", "2"), ("flock", "2"),
          ("fsync", "2"), ("inotify", "7"), ("ioctl", "2"), ("posix_fallocate", "3"), ("rename", "2"), ("statfs", "2"),
          ("open", "2"), ("signal-safety", "7"), ("sd_notify", "3"), ("signalfd", "2")}
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
    name, section = page.name.rsplit(".", 1)
    assert f".Dt {name.upper()} {section}\n" in page.read_text()
    ours = {tuple(other.name.rsplit(".", 1)) for other in PAGES} | {("agentctl", "1")}
    referred = set(re.findall(r"^\.(?:It |Po )?Xr (\S+) (\d)", page.read_text(), re.MULTILINE))
    assert referred <= ours | SYSTEM


def test_each_verb_call_errno_and_signal_has_its_place():
    names = {page.name for page in PAGES}
    assert {f"agentctl-{verb}.1" for verb in VERBS} <= names
    page = (MAN / "man2/agentix-syscalls.2").read_text()
    assert all(f".Ss SYS_{call.name} ({call.number})\n" in page for call in calls.CALLS)
    assert all(f".It Bq Er {row.name}\n" in page for row in errors.ERRORS)
    page = (MAN / "man7/agentix-signals.7").read_text()
    assert all(f".It Dv {row.name}\n" in page for row in signals.SIGNALS)


def page(name):
    return (MAN / f"man{name[-1]}" / name).read_text()


def test_each_row_of_the_kernels_tables_has_its_place():
    assert all(f".It Ic {key.name}\n" in page("agentd.toml.5") for key in config.KEYS)
    assert all(f".It Ic {key.name}\n" in page("agentix-runtimes.5") for key in files.RUNTIME_KEYS)
    assert all(f".It Ic {key.name}\n" in page("agentix-profiles.5") for key in files.PROFILE_KEYS)
    assert all(f".It Cm {kind.name} Pq {kind.number}\n" in page("agentix-journal.5") for kind in records.KINDS)
    confinement = page("agentix-confinement.7")
    assert all(f".It Cm {layer.name}\n" in confinement for layer in LAYERS)
    assert all(f".It Cm {name}\n" in confinement for name in [*(name for name, _, _ in CHECKS), "limits", "all"])
    silent = syscalls_table.Action.NO_FAMILY
    assert all(re.search(rf"^\.It .*\bIc {row.name}\b", confinement, re.MULTILINE)
               for row in syscalls_table.ROWS if row.action is not silent)
    assert all(name in confinement for name in syscalls_table.ALLOWED_FAMILIES.values())


def test_agentd_has_its_options_and_the_steps_of_its_boot():
    text = page("agentd.8")
    assert all(f"Fl {option[1:]}" in text for parameter in daemon.main.params for option in parameter.opts)
    steps = re.findall(r'(?:machine\.step|_tell)\((?:machine, kernel, )?"(\w+)"', inspect.getsource(boot))
    assert len(steps) >= 10
    assert all(f".It {step}\n" in text for step in steps)


def test_each_file_of_proc_and_policy_has_its_place_and_its_keys():
    text = page("agentix-tree.5")
    process = cast("Any", SimpleNamespace(policy=make(deny=("UNLINK",)), trail=Trail(1)))
    assert all(f".It Pa proc/{name}\n" in text for name in procfiles.proc(cast("Any", None), process))
    assert all(f".It Pa policy/{name}\n" in text for name in procfiles.policy(cast("Any", None), process))
    keys = re.findall(r'"([A-Z][A-Za-z]+)": ', inspect.getsource(procfiles))
    assert len(keys) >= 25
    keys += [line.partition(":")[0] for line in process.policy.describe().splitlines()]
    assert all(f".It Ic {key}\n" in text for key in keys)


def test_each_function_of_libc_has_its_place():
    text = page("agentix-libc.3")
    functions = [name for name in libc.__all__ if inspect.isfunction(getattr(libc, name))]
    assert len(functions) > 30
    assert all(re.search(rf"^\.It Fn {name}\b", text, re.MULTILINE) for name in functions)


def test_each_function_of_the_c_client_has_its_place():
    header = (MAN.parent / "userspace/c/agentix.h").read_text()
    functions = set(re.findall(r"^[^/\n]*\b(agx_\w+)\(", header, re.MULTILINE))
    assert len(functions) > 35
    assert functions == set(re.findall(r"^\.It Ft .* Fn (agx_\w+)", page("agentix-c.3"), re.MULTILINE))


def test_what_aio_has_beside_libc_or_does_otherwise_has_its_place():
    text = page("agentix-aio.3")
    own = [name for name in aio.__all__ if inspect.isfunction(found := getattr(aio, name))
           and not hasattr(found, "__wrapped__") and found is not getattr(libc, name, None)]
    own.remove("sigtimedwait")  # as in libc
    assert "openfile" in own
    assert all(f".It Fn {name} " in text for name in [*own, "open_signal_receiver"] if name != "signal")


def test_each_function_of_the_shell_client_has_its_place():
    functions = set(re.findall(r"^(agx_\w+)\(\)", (MAN.parent / "userspace/sh/agentix.sh").read_text(), re.MULTILINE))
    assert len(functions) > 10
    assert functions == set(re.findall(r"\bIc (agx_\w+)", page("agentix-sh.3")))
