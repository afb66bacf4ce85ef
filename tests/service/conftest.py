"""A real systemd, and the shipped unit under a name of the test's own."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from attrs import define

ROOT = Path(__file__).resolve().parents[2]
BIN = os.path.dirname(sys.executable)
UNIT = "agentd-test.service"
WAIT_S = 180
"""systemd and agentd in an emulated guest."""


def run(*words, check=True):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def until(condition):
    """Wait for what systemd does, which tells us nothing: bounded, and the condition decides."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not come true\n{run('systemctl', 'status', UNIT, check=False).stdout}"
        time.sleep(0.1)
    return found


@define
class Service:
    """agentd as systemd runs it."""

    unit: str
    prefix: str

    def show(self, name):
        return run("systemctl", "show", "--value", "-p", name, self.unit).stdout.strip()

    def ctl(self, *words, check=True, person=()):
        return run(*person, f"{BIN}/agentctl", "--prefix", self.prefix, *words, check=check)

    @property
    def pid(self):
        return int(self.show("MainPID"))

    def restarted(self, times):
        """Until systemd has started it again so many times, and it is ready."""
        until(lambda: int(self.show("NRestarts")) == times and self.show("ActiveState") == "active")

    def entries(self, *matches):
        """What the journal has of it: the messages."""
        run("journalctl", "--sync")
        words = ("journalctl", "-u", self.unit, "-o", "cat", *matches)
        return run(*words, check=False).stdout.splitlines()


@pytest.fixture(scope="session")
def systemd():
    if not os.path.isdir("/run/systemd/system"):
        pytest.skip("systemd does not run this machine: tests/vm/run tests/service runs this in a guest where it does")


@pytest.fixture(scope="session")
def guest(systemd):
    if platform.node() != "agentix-guest":
        pytest.skip("changes the machine: for the guest of tests/vm/run only")


@pytest.fixture(scope="session")
def service(systemd):
    """The shipped unit, with folders and a watchdog of the test's; a kernel without policy is below a prefix."""
    prefix = tempfile.mkdtemp(prefix="agentd-test-", dir="/var/tmp")
    os.chmod(prefix, 0o755)
    Path(prefix, "agentd.toml").write_text("group = 'daemon'\nstop_timeout_s = 1\nshutdown_timeout_s = 5\n")
    text = (ROOT / "systemd/agentd.service").read_text()
    for shipped, ours in (("/opt/agentix/bin/agentd", f"{BIN}/agentd --prefix {prefix} --unlisted"),
                          ("WatchdogSec=30", "WatchdogSec=10"), ("Directory=agentix", "Directory=agentd-test")):
        assert shipped in text
        text = text.replace(shipped, ours)
    path = Path("/run/systemd/system", UNIT)
    path.write_text(text)
    try:
        run("systemctl", "daemon-reload")
        run("systemctl", "start", UNIT)
        yield Service(UNIT, prefix)
    finally:
        run("systemctl", "stop", UNIT, check=False)
        path.unlink()
        run("systemctl", "daemon-reload")
        run("systemctl", "clean", "--what=all", UNIT, check=False)
        shutil.rmtree(prefix)
