"""agentctl run where no kernel runs: it starts one, and ends it."""

import os
import sys

from agentix.agentctl import private


def test_run_without_a_kernel_needs_root(operator, script, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = operator.run("run", "--prefix", str(tmp_path / "other"), script)
    assert (result.exit_code, "only root can start one" in result.stderr) == (125, True)


AGENTD = """#!{python}
import signal, sys
sys.path.insert(0, {here!r})
from conftest import FakeKernel
from pathlib import Path
from agentix_syscalls.control import BY_NAME
import os, threading
assert sys.argv[1] == "--prefix" and sys.argv[3:] == ["--foreground", "--unlisted"], sys.argv
(Path(sys.argv[2]) / "run").mkdir()
fake = FakeKernel(Path(sys.argv[2]) / "run/control.sock")
done = threading.Event()
for name, answer in (("spawn", {{"id": 7, "name": "scout"}}), ("wait", {ended!r}),
                     ("logs", lambda *a: ([1, b"hi\\n", 0] for _ in "x")), ("shutdown", lambda why: done.set()),
                     ("hello", {{}})):
    fake.on(BY_NAME[name].number, answer)
done.wait(30)
fake.close()
"""


def test_run_starts_a_private_kernel_and_shuts_it_down(operator, script, tmp_path, monkeypatch):
    daemon = tmp_path / "agentd"
    here = os.path.dirname(__file__)
    daemon.write_text(AGENTD.format(python=sys.executable, here=here, ended={**operator.ENDED, "status": 5}))
    daemon.chmod(0o755)
    monkeypatch.setattr(private, "agentd", lambda: str(daemon))
    prefix = tmp_path / "p"
    result = operator.run("run", "--prefix", str(prefix), script)
    assert (result.stdout, result.exit_code) == ("hi\n", 5), result.stderr
    assert f"its record stays under {prefix}" in result.stderr


def test_run_says_why_a_private_kernel_does_not_start(operator, script, tmp_path, monkeypatch):
    daemon = tmp_path / "agentd"
    daemon.write_text("#!/bin/sh\necho 'landlock is off' >&2\nexit 3\n")
    daemon.chmod(0o755)
    monkeypatch.setattr(private, "agentd", lambda: str(daemon))
    result = operator.run("run", "--prefix", str(tmp_path / "p"), script)
    assert result.exit_code == 125
    assert "agentctl: agentd: landlock is off\n" in result.stderr
    assert "agentd ended with status 3" in result.stderr
