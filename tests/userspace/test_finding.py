"""Which kernel agentctl speaks to without --prefix, and whom it does not take for one."""

import contextlib
import os
import socket

import pytest

import agentix.control
from agentix.agentctl import cli
from agentix.control import private_kernels
from agentix_syscalls import control

from .conftest import FakeKernel, Operator

STRANGER = 4242


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A machine of its own: no system kernel, none listed. Returns where kernels are listed."""
    os.makedirs(tmp_path / "kernels", mode=0o755)
    monkeypatch.delenv("AGENTIX_PREFIX", raising=False)
    monkeypatch.setattr(agentix.control, "SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    monkeypatch.setattr(control, "KERNELS_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def start(tmp_path, place):
    """Start a fake kernel below a prefix, or as the system's, and list it."""
    with contextlib.ExitStack() as made:
        def begin(name=None):
            prefix = tmp_path / (name or "")
            path = tmp_path / "system.sock"
            if name:
                os.makedirs(prefix / "run")
                path = prefix / "run" / "control.sock"
                (place / name.replace("/", "-")).symlink_to(prefix)
            fake = FakeKernel(path)
            made.callback(fake.close)
            operator = Operator(fake)
            operator.on("ps", [])
            return operator
        yield begin


@pytest.fixture
def impostor(tmp_path, place):
    """A listed prefix whose socket is served by somebody else than root."""
    os.makedirs(tmp_path / "evil" / "run")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "evil/run/control.sock"))
        os.seteuid(STRANGER)  # SO_PEERCRED tells who listened
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        (place / "evil").symlink_to(tmp_path / "evil")
        yield str(tmp_path / "evil")


def test_the_systems_kernel_goes_before_private_ones(start):
    private, system = start("private"), start()
    result = system.run("ps")
    assert (result.exit_code, result.stderr) == (0, "")
    assert (len(system.calls("ps")), len(private.calls("ps"))) == (1, 0)


def test_the_only_private_one_is_used_and_named_once(start, tmp_path):
    private = start("a b")
    result = private.run("ps")
    assert result.stderr == (
        f"agentctl: no system kernel is running: using the private one, --prefix '{tmp_path}/a b'\n")


def test_several_are_listed_and_none_is_used(start, tmp_path):
    one, two = start("one"), start("two")
    result = one.run("ps")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "agentctl: no system kernel is running, but 2 private ones; choose one:",
        f"  --prefix {tmp_path}/one", f"  --prefix {tmp_path}/two"]
    assert one.run("--prefix", f"{tmp_path}/two", "ps").exit_code == 0
    assert (one.calls("ps"), len(two.calls("ps"))) == ([], 1)


def test_a_prefix_that_was_given_is_never_replaced(start, tmp_path):
    private = start("private")
    result = private.run("--prefix", f"{tmp_path}/other", "ps")
    assert (result.exit_code, f"no kernel is running at {tmp_path}/other" in result.stderr) == (1, True)


def test_what_root_does_not_serve_is_no_kernel(start, impostor, tmp_path):
    assert private_kernels() == []
    named = start().run("--prefix", impostor, "ps")
    assert named.exit_code == 1
    assert f"served by uid {STRANGER}, not by root" in named.stderr
    start("honest")
    assert private_kernels() == [f"{tmp_path}/honest"]


def test_an_entry_or_a_list_that_others_made_does_not_count(start, place, tmp_path):
    start("honest")
    assert private_kernels() == [f"{tmp_path}/honest"]
    os.chown(place / "honest", STRANGER, STRANGER, follow_symlinks=False)
    assert private_kernels() == []
    os.chown(place / "honest", 0, 0, follow_symlinks=False)
    os.chmod(place, 0o777)
    assert private_kernels() == []
    os.chmod(place, 0o755)
    os.chown(place, STRANGER, STRANGER)
    assert private_kernels() == []


def test_entries_of_the_dead_and_oddities_are_passed_over(place, tmp_path):
    (place / "dead").symlink_to(tmp_path / "gone")
    (place / "long").symlink_to("/" + "x" * 200)
    (place / "file").touch()
    (place / "folder").mkdir()
    os.makedirs(tmp_path / "left/run")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left/run/control.sock"))
    (place / "left").symlink_to(tmp_path / "left")
    assert private_kernels() == []


def test_nothing_is_said_into_somebodys_prompt(start, monkeypatch, capfd):
    private = start("private")
    private.on("ps", [{"id": 7, "name": "scout", "state": "running"}])

    def complete():
        monkeypatch.setenv("COMP_WORDS", "agentctl stop sc")
        monkeypatch.setenv("COMP_CWORD", "2")
        monkeypatch.setenv("_AGENTCTL_COMPLETE", "bash_complete")
        with pytest.raises(SystemExit):
            cli.main(args=[])
        return capfd.readouterr()

    assert complete() == ("plain,scout\n", "")
    start("second")
    assert complete() == ("\n", "")  # no words
