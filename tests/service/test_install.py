"""./install: into a folder anywhere, and as the service of a machine in the guest."""

import os
import platform
import subprocess

import pytest

from .conftest import ROOT, run

AGENTCTL = "/usr/local/bin/agentctl"
FROM_WHEEL = "AGENTIX_TEST_WHEEL" in os.environ or os.environ.get("CI") == "true"


def install(*words, **more):
    return subprocess.run([f"{ROOT}/install", *words], capture_output=True, text=True, timeout=300, check=False, **more)


def test_what_it_refuses(tmp_path):
    os.makedirs(tmp_path / "opt/agentix")
    (tmp_path / "opt/agentix/theirs").touch()
    for words, told in (
            (["--bogus"], "--bogus: unknown"), (["--root"], "wants a folder"),
            (["--root", str(tmp_path)], "is none of ours"),
            (["--root", f"{tmp_path}/empty", "--remove"], "nothing to remove")):
        refused = install(*words)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert told in refused.stderr
    refused = install(user=4242, group=4242, extra_groups=[])
    assert (refused.returncode, "needs root" in refused.stderr) == (1, True)
    assert (tmp_path / "opt/agentix/theirs").exists()


@pytest.mark.skipif(platform.node() == "agentix-guest", reason="the guest installs it as its service")
@pytest.mark.skipif(not FROM_WHEEL, reason="installs the wheel of .venv, which an editable environment has not made")
def test_below_a_folder_again_and_removed(tmp_path):
    local = tmp_path / "usr/local"
    os.makedirs(local / "bin")
    (local / "bin/theirs").touch()
    for _ in range(2):
        done = install("--root", str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
    assert run(local / "bin/agentctl", "--version").stdout.startswith("agentctl ")
    assert run(local / "bin/agentd", "--version").stdout.startswith("agentd, version ")
    page = local / "share/man/man8/agentd.8"
    assert page.read_text() == (ROOT / "man/man8/agentd.8").read_text()
    completion = (local / "share/bash-completion/completions/agentctl").read_text()
    assert completion == run(local / "bin/agentctl", "completion", "bash").stdout
    unit = (local / "lib/systemd/system/agentd.service").read_text()
    started = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert os.access(started.removeprefix("ExecStart="), os.X_OK)
    assert started.startswith(f"ExecStart={tmp_path}/")
    assert install("--root", str(tmp_path), "--remove").returncode == 0
    left = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == [local / "bin/theirs"]


@pytest.fixture(scope="module")
def installed(guest):
    """For the tests below, which go on where the one before has ended."""
    yield install()
    install("--remove")


def test_as_the_service_of_a_machine(installed):
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert run("systemctl", "is-active", "agentd").stdout == "active\n"
    assert run("systemctl", "is-enabled", "agentd").stdout == "enabled\n"
    checked = run("systemd-analyze", "verify", "--man=no", "/usr/local/lib/systemd/system/agentd.service")
    assert checked.stdout + checked.stderr == ""
    assert "the system's" in run(AGENTCTL, "info").stdout
    group = os.stat("/run/agentix/control.sock").st_gid
    assert run("getent", "group", str(group)).stdout.startswith("agentix:")
    member = ("setpriv", "--reuid=4242", "--regid=4242", f"--groups={group}")
    assert run(*member, AGENTCTL, "run", "--", "/bin/echo", "hello").stdout == "hello\n"


def test_an_upgrade_ends_the_agents_and_starts_the_kernel_again(installed):
    agent = run(AGENTCTL, "spawn", "--", "/bin/sleep", "600").stdout.strip()
    again = install()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "starting the kernel again" in again.stdout
    assert run(AGENTCTL, "wait", agent, check=False).returncode == 143
    run(AGENTCTL, "run", "--", "/bin/true")


def test_a_kernel_that_was_started_by_hand_is_not_pulled_from_under_its_agents(installed):
    run("systemctl", "stop", "agentd")
    os.makedirs("/run/agentix", exist_ok=True)
    refused = run("flock", "/run/agentix/agentd.lock", f"{ROOT}/install", "--remove", check=False)
    assert (refused.returncode, "systemd did not start" in refused.stderr) == (1, True)
    assert os.path.exists(AGENTCTL)


def test_removed_it_leaves_what_agents_left(installed):
    assert install("--remove").returncode == 0
    assert run("systemctl", "is-active", "agentd", check=False).stdout == "inactive\n"
    for path in ("/opt/agentix", AGENTCTL, "/usr/local/lib/systemd/system/agentd.service"):
        assert not os.path.lexists(path)
    assert os.path.isdir("/var/lib/agentix/journal")
