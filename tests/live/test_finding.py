"""agentctl without --prefix, where real private kernels run: which one it takes, and which it does not."""

import os
import signal
import subprocess
import sys

import pytest
from emulation import WAIT_S

BIN = os.path.dirname(sys.executable)
DAEMON_GID = 1
"""Of the group `daemon`, which every Debian has and nobody is in."""
AS_MEMBER = ("setpriv", "--reuid=4242", "--regid=4242", f"--groups={DAEMON_GID}")
AS_STRANGER = ("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups")


@pytest.fixture
def agentctl(own_run):
    """Run it without --prefix, in a /run where no kernel is but the test's."""
    environment = {name: value for name, value in os.environ.items() if name != "AGENTIX_PREFIX"}

    def run(*args, person=()):
        return subprocess.run([*own_run, *person, f"{BIN}/agentctl", *args], capture_output=True, text=True,
                              timeout=WAIT_S, check=False, env=environment)
    return run


@pytest.fixture
def listed(make_kernel, own_run):
    def make():
        live = make_kernel("group = 'daemon'\n", start=False)
        os.chmod(live.prefix, 0o755)
        live.wrapper, live.options = own_run, ()
        live.start()
        return live
    return make


def test_the_only_private_kernel_is_used_and_two_are_named(listed, agentctl, tmp_path):
    assert "no kernel is running at /run/agentix/control.sock" in agentctl("ps").stderr
    one = listed()
    for person in ((), AS_MEMBER):
        found = agentctl("info", person=person)
        assert found.returncode == 0, found.stderr
        assert found.stderr == f"agentctl: no system kernel is running: using the private one, --prefix {one.prefix}\n"
        assert found.stdout.startswith("kernel:")
        assert f"{one.prefix}\n" in found.stdout
    refused = agentctl("ps", person=AS_STRANGER)
    assert (refused.returncode, "no kernel is running" in refused.stderr) == (1, True)
    two = listed()
    several = agentctl("ps")
    assert several.returncode == 1
    assert [line.strip() for line in several.stderr.splitlines()[1:]] == [
        f"--prefix {prefix}" for prefix in sorted((one.prefix, two.prefix))]
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    assert len(os.listdir(f"{tmp_path}/run/agentix-kernels")) == 2
    assert f"--prefix {two.prefix}" in agentctl("ps").stderr
    two.stop()
    assert agentctl("ps").returncode == 1
    one.start()
    assert os.listdir(f"{tmp_path}/run/agentix-kernels") == [os.path.basename(one.cgroups()[0])]
    assert agentctl("ps").returncode == 0
