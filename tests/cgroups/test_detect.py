"""What detect reads of machines that we are not on, and how it refuses."""

import errno
import importlib
import os

import pytest

from agentix_kernel.cgroups import detect
from agentix_kernel.cgroups.detect import Mounts, own_path, read_mounts
from agentix_kernel.cgroups.limits_v1 import V1Bounds
from agentix_kernel.cgroups.limits_v2 import V2Bounds, V2Tree, switch_on
from agentix_kernel.world import Limits
from agentix_syscalls.errors import CallError

SYSTEMD_V2 = """\
24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
26 24 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""
SYSTEMD_HYBRID = """\
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
34 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
35 25 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory
36 25 0:32 / /sys/fs/cgroup/pids rw,nosuid shared:17 - cgroup cgroup rw,pids
37 25 0:33 / /sys/fs/cgroup/freezer rw,nosuid shared:18 - cgroup cgroup rw,freezer
"""


def mounts(tmp_path, text):
    path = tmp_path / "mountinfo"
    path.write_text(text)
    return read_mounts(str(path))


def test_v2(tmp_path):
    found = mounts(tmp_path, SYSTEMD_V2)
    assert found == Mounts("/sys/fs/cgroup", {})
    assert found.kinds() == ("v2",)


def test_hybrid_can_also_be_v1(tmp_path):
    found = mounts(tmp_path, SYSTEMD_HYBRID)
    assert found.v1["cpu"] == found.v1["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.kinds() == ("hybrid", "v1")


def test_v1_alone(tmp_path):
    without_v2 = "".join(SYSTEMD_HYBRID.splitlines(keepends=True)[1:])
    assert mounts(tmp_path, without_v2).kinds() == ("v1",)


def test_nothing(tmp_path):
    assert mounts(tmp_path, "24 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n").kinds() == ()


def test_escaped_mount_points(tmp_path):
    found = mounts(tmp_path, r"26 24 0:23 / /a\040b\134c rw - cgroup2 none rw")
    assert found.unified == "/a b\\c"


def test_own_path(tmp_path):
    path = tmp_path / "cgroup"
    path.write_text("4:memory:/x\n0::/system.slice/agentd.service/daemon\n")
    assert own_path(str(path)) == "/system.slice/agentd.service/daemon"
    path.write_text("4:memory:/x\n")
    assert own_path(str(path)) == "/"


def test_a_kind_that_is_not_here_is_refused_with_the_remedy():
    absent = next(kind for kind in ("v2", "hybrid", "plan9") if kind not in read_mounts().kinds())
    with pytest.raises(CallError) as refused:
        detect("agentix-test", prefer=absent)
    assert refused.value.number == errno.EOPNOTSUPP
    assert absent in refused.value.message
    assert "CONFIG_CGROUPS" in refused.value.remedy


def test_a_tree_that_cannot_be_written_is_refused_with_the_remedy(monkeypatch):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", path)

    module = importlib.import_module("agentix_kernel.cgroups.detect")  # the package's `detect` is the function
    monkeypatch.setattr(module, "_make", refuse)
    with pytest.raises(CallError) as refused:
        detect("agentix-test")
    assert refused.value.number == errno.EROFS
    assert "agentix-test" in refused.value.message
    assert "Delegate=yes" in refused.value.remedy


@pytest.fixture
def folder(tmp_path):
    """A plain folder in place of a v2 cgroup: shows what is written where."""
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"):
        (tmp_path / "1.1" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "1.1" / name).touch()
    return tmp_path


@pytest.fixture
def folder_fd(folder):
    fd = os.open(folder, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_v1_out_of_memory_counts_before_the_kernel_has_counted(folder, folder_fd):
    """It tells, then kills, then counts: an owner that looks at once must see it."""
    control = folder / "1.1" / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 1\noom_kill 0\n")
    bounds = V1Bounds({"memory": folder_fd}, "1.1", oom_fd=os.eventfd(1, os.EFD_NONBLOCK))
    assert bounds.usage().oom_kills == 1
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert bounds.usage().oom_kills == 2
    bounds.close()


def test_v1_removal_is_not_out_of_memory(folder, folder_fd):
    bounds = V1Bounds({"memory": folder_fd}, "1.1", oom_fd=os.eventfd(1, os.EFD_NONBLOCK))
    assert bounds.usage().oom_kills == 0  # there is no memory.oom_control any more
    bounds.close()


def test_v2_limits_as_written(folder, folder_fd):
    bounds = V2Bounds(folder_fd, "1.1", frozenset({"memory", "cpu", "pids"}))
    bounds.set(Limits(memory_bytes=4096, cpus=1.5, pids=7))
    written = {path.name: path.read_text() for path in (folder / "1.1").iterdir()}
    assert written["memory.max"] == "4096"
    assert written["cpu.max"] == "150000 100000"
    assert written["pids.max"] == "7"


def test_v2_sets_only_controllers_that_are_there(folder, folder_fd):
    bounds = V2Tree(folder_fd, frozenset({"pids"})).create("1.1", Limits())
    bounds.lift_cpu()
    assert {path.name for path in (folder / "1.1").iterdir() if path.read_text()} == {"pids.max"}
    assert bounds.oom_fd == -1
    shared = bounds.share()
    shared.set(Limits(pids=1))
    assert (folder / "1.1" / "pids.max").read_text() == "64"


def test_switch_on_reads_back(folder, folder_fd):
    (folder / "cgroup.controllers").write_text("cpu io memory\n")
    (folder / "cgroup.subtree_control").write_text("")
    assert switch_on(folder_fd, ("memory", "cpu", "pids")) == frozenset()  # a plain file never says "memory"
    (folder / "cgroup.subtree_control").write_text("memory cpu")
    assert switch_on(folder_fd, ()) == frozenset()
