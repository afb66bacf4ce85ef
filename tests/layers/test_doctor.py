"""The probes on this machine, and the rule of which layer may be missing."""

import contextlib
import errno
import os
import time

import pytest

from agentix_kernel.cgroups.detect import detect, read_mounts
from agentix_kernel.layers import LAYERS, OFF, ON, PARTIAL, lacking, linux, probe_all, probes
from agentix_kernel.layers.rows import Found, Row
from agentix_kernel.layers.table import Layer
from agentix_kernel.world import Limits


@pytest.fixture(scope="module")
def rows():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return {row.layer: row for row in probe_all()}


def test_every_layer_has_a_row(rows):
    assert list(rows) == [layer.name for layer in LAYERS]
    assert len(rows) == len(LAYERS)
    for row in rows.values():
        assert row.state in (ON, OFF, PARTIAL)
        assert row.detail
        assert bool(row.remedy) == (row.state != ON)


def test_what_this_suite_runs_on_holds(rows):
    """The machines of the suite have at least Debian 12's layers."""
    assert lacking(rows.values()) == []


def test_the_kind_of_cgroups(rows):
    assert rows["cgroup"].detail.startswith(read_mounts().kinds()[0])


def children():
    """Of this process, ended ones as well; other tests' kernels may be among them."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
            if int(stat.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(pid)
    return found


def test_probes_leave_nothing(rows):
    before, born = os.listdir("/proc/self/fd"), children()
    with open("/proc/self/mountinfo") as mountinfo:
        mounted = mountinfo.read()
    probe_all()
    with open("/proc/self/mountinfo") as mountinfo:
        assert mountinfo.read() == mounted
    assert os.listdir("/proc/self/fd") == before
    assert not [path for path in rows["cgroup"].detail.split(": ")[1].split(", ") if os.path.exists(path)]
    assert children() <= born


def failing(error):
    def attempt():
        raise error

    return attempt


def test_a_refused_attempt_is_off_with_the_reason():
    assert linux.in_child(lambda: "done") == Found(ON, "done")
    assert linux.in_child(failing(OSError(errno.EPERM, "not permitted"))) == Found(OFF, "not permitted")
    assert linux.in_child(failing(AssertionError("no"))) == Found(OFF, "AssertionError('no')")


def test_an_attempt_that_dies_or_hangs_is_off(monkeypatch):
    assert linux.in_child(lambda: os._exit(0)).state == OFF
    monkeypatch.setattr(linux, "CHILD_DEADLINE_S", 0.05)
    assert linux.in_child(lambda: time.sleep(1000)).state == OFF


@pytest.mark.parametrize("name", ["ns-mount", "ns-pid", "ns-net", "pivot-root", "open-tree", "fuse"])
def test_probes_fail_without_rights(name):
    """In a child without root every one of these says off: the probe can fail."""
    layer = next(layer for layer in LAYERS if layer.name == name)

    def attempt():
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        return layer.probe(probes.Machine()).state

    assert linux.in_child(attempt) == Found(ON, OFF)


def test_root_names_what_is_lacking():
    def attempt():
        os.setresuid(65534, 65534, 65534)
        return probes.root(probes.Machine()).detail

    assert "CAP_SYS_ADMIN" in linux.in_child(attempt).detail


def test_landlock_below_abi():
    machine = probes.Machine()
    machine.landlock_abi = 2
    assert probes.landlock_tcp(machine).state == OFF
    assert probes.landlock_scopes(machine).state == OFF
    machine.landlock_abi = 0
    assert probes.landlock(machine).state == OFF
    machine.landlock_abi = 4
    assert probes.landlock_tcp(machine).state == ON
    assert probes.covered(2) == "files, moving files between folders"


def test_an_old_kernel(monkeypatch):
    releases = {"5.15.0-1-amd64": OFF, "6.0.9": OFF, "6.1.0-50-amd64": ON, "7.0-rc1": ON, "odd": OFF}
    for release, state in releases.items():
        monkeypatch.setattr(probes.platform, "release", lambda release=release: release)
        assert probes.linux_version(probes.Machine()) == Found(state, release)


def test_a_machine_without_cgroups():
    machine = probes.Machine()
    machine.cgroups = probes.CgroupsFound({"cgroup": Found(OFF, "none")})
    found = {row.layer for layer in LAYERS if layer.name.startswith("cgroup")
             for row in [Row(layer.name, layer.probe(machine).state, "")] if row.state == OFF}  # fmt: skip
    assert found == {layer.name for layer in LAYERS if layer.name.startswith("cgroup")}


def test_a_probe_that_cannot_be_made_says_so():
    layer = Layer("seccomp", "", True, lambda machine: failing(OSError(errno.EMFILE, "too many"))(), "close some")
    assert probe_all([layer]) == [Row("seccomp", OFF, "cannot be tried: [Errno 24] too many", "close some")]


def test_only_required_layers_that_nobody_accepted_stop_the_boot():
    rows = [Row("seccomp", OFF, ""), Row("landlock", PARTIAL, ""), Row("pgo", PARTIAL, ""), Row("root", ON, "")]
    assert [row.layer for row in lacking(rows)] == ["seccomp", "landlock"]
    assert [row.layer for row in lacking(rows, frozenset({"landlock"}))] == ["seccomp"]


def test_names_are_unique_and_every_layer_has_a_remedy():
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)
    assert all(layer.doc and layer.remedy for layer in LAYERS)


def test_what_a_dead_kernel_of_our_pid_left_is_no_obstacle():
    left = detect(f"agentix-doctor-{os.getpid()}")
    left.create("probe", Limits()).close()
    left.close()
    assert probes._try_cgroups().rows["cgroup"].state == ON
