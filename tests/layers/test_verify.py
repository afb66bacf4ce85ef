"""verify on trees with one defect each, and on real processes."""

import os
import signal

import pytest
from attrs import evolve

from agentix_kernel.layers import OFF, ON, Expected, verify
from agentix_kernel.layers.verify import CHECKS, NAMESPACES
from agentix_kernel.world import Limits

AGENT, HOST = 70, 1
UID = 100_007
EXPECTED = Expected(UID, "agentix", "7.1", Limits(), own_netns=False, landlock_abi=7)

STATUS = """\
Name:\tpython3
State:\tS (sleeping)
Pid:\t{pid}
TracerPid:\t0
Uid:\t{uid}\t{uid}\t{uid}\t{uid}
Gid:\t{uid}\t{uid}\t{uid}\t{uid}
Groups:\t
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
"""
RLIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    0                    bytes
Max open files            1024                 4096                 files
"""
AGENT_MOUNTS = """\
90 80 0:50 / / ro,nosuid,nodev - tmpfs tmpfs rw,size=1024k
91 90 254:1 /usr /usr ro,nosuid,nodev - ext4 /dev/vda1 rw
92 90 0:51 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw
93 90 0:52 / /proc rw,nosuid,nodev,noexec - proc proc rw
94 90 0:6 /null /dev/null rw,nosuid - devtmpfs udev rw
95 90 0:60 /7 /agent/7 rw,nosuid,nodev - fuse agentix rw
"""
V2_LIMITS = {"memory.max": "536870912", "cpu.max": "100000 100000", "pids.max": "64"}
V1_LIMITS = {
    "memory": ("memory.limit_in_bytes", "536870912"), "cpu": ("cpu.cfs_quota_us", "100000"), "pids": ("pids.max", "64")
}  # fmt: skip


class Tree:
    """A made-up /proc of a daemon and of one agent, with every layer in place, on a machine with cgroup v2."""

    def __init__(self, path):
        self.path = path
        self.cgroup = path / "sys" / "fs" / "cgroup"
        self.process("self", HOST, uid=0, ns=1, mounts=self.host_mounts(), cgroup="0::/system.slice/x.service/daemon\n")
        self.process(AGENT, AGENT, uid=UID, ns=2, mounts=AGENT_MOUNTS, cgroup="0::/agentix/7.1\n")
        self.limits = self.cgroup / "agentix" / "7.1"
        self.limits.mkdir(parents=True)
        for name, text in V2_LIMITS.items():
            (self.limits / name).write_text(text + "\n")

    def host_mounts(self, rest=""):
        return (
            "20 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"
            f"26 20 0:23 / {self.cgroup} rw,nosuid - cgroup2 cgroup2 rw\n{rest}"
        )

    def process(self, name, pid, *, uid, ns, mounts, cgroup):
        folder = self.path / str(name)
        (folder / "ns").mkdir(parents=True)
        for space in NAMESPACES:
            (folder / "ns" / space).symlink_to(f"{space}:[{ns}]")
        texts = {"status": STATUS.format(pid=pid, uid=uid), "limits": RLIMITS, "mountinfo": mounts, "cgroup": cgroup,
                 "oom_score_adj": "0\n"}  # fmt: skip
        for file, text in texts.items():
            (folder / file).write_text(text)

    def edit(self, file, old, new):
        path = self.path / str(AGENT) / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def share(self, space):
        link = self.path / str(AGENT) / "ns" / space
        link.unlink()
        link.symlink_to(f"{space}:[1]")

    def verify(self, expected=EXPECTED, pids=(AGENT,)):
        return verify(list(pids), expected, str(self.path))

    def off(self, expected=EXPECTED):
        """The layers that do not hold, without the summary."""
        rows = self.verify(expected)
        off = [row.layer for row in rows[:-1] if row.state == OFF]
        assert rows[-1].layer == "all"
        assert rows[-1].state == (OFF if off else ON)
        return off


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_all_layers_hold(tree):
    rows = tree.verify()
    assert {row.state for row in rows} == {ON}
    assert [row.layer for row in rows] == [*(name for name, _, _ in CHECKS), "limits", "landlock", "all"]
    assert rows[-1].detail == "18 of 18 layers hold 1 process"


@pytest.mark.parametrize("space", NAMESPACES)
def test_a_shared_namespace(tree, space):
    tree.share(space)
    assert tree.off() == [f"ns-{space}"]


@pytest.mark.parametrize(
    ("layer", "file", "old", "new"),
    [
        ("credentials", "status", f"Uid:\t{UID}", "Uid:\t0"),
        ("credentials", "status", f"\t{UID}\nGid", "\t0\nGid"),
        ("credentials", "status", f"Gid:\t{UID}", "Gid:\t0"),
        ("credentials", "status", "Groups:\t", "Groups:\t27"),
        *(("capabilities", "status", f"{name}:\t0", f"{name}:\t2") for name in
          ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
        ("no-new-privs", "status", "NoNewPrivs:\t1", "NoNewPrivs:\t0"),
        ("seccomp", "status", "Seccomp:\t2", "Seccomp:\t0"),
        ("seccomp", "status", "Seccomp_filters:\t1", "Seccomp_filters:\t0"),
        ("root", "mountinfo", "/ / ro", "/ / rw"),
        ("root", "mountinfo", "0:50 / / ", "254:1 / / "),
        ("root", "mountinfo", " / / ro", " / /usr/lib ro"),
        ("mounts", "mountinfo", "/usr ro", "/usr rw"),
        ("mounts", "mountinfo", "/tmp rw,nosuid,nodev", "/tmp rw,nodev"),
        ("mounts", "mountinfo", "/tmp rw,nosuid,nodev", "/tmp rw,nosuid"),
        ("mounts", "mountinfo", "/usr /usr ", "/home /home "),
        ("mounts", "mountinfo", "/usr /usr ", "/usr /usrlocal "),
        ("cgroup", "cgroup", "/agentix/7.1", "/agentix/8.1"),
        ("cgroup", "cgroup", "/agentix/7.1", "/"),
        ("cgroup", "cgroup", "/agentix/7.1", "/agentix/7.1/deeper"),
        ("rlimits", "limits", "0                    bytes", "unlimited            bytes"),
        ("rlimits", "limits", "4096", "unlimited"),
        ("rlimits", "limits", "4096 ", "99999"),
        ("untraced", "status", "TracerPid:\t0", "TracerPid:\t9"),
        ("oom-score", "oom_score_adj", "0", "-900"),
    ],
)  # fmt: skip
def test_a_defect_is_seen(tree, layer, file, old, new):
    tree.edit(file, old, new)
    assert tree.off() == [layer]


def test_a_read_only_file_system_is_read_only(tree):
    tree.edit("mountinfo", "/ / ro,nosuid,nodev - tmpfs tmpfs rw", "/ / rw,nosuid,nodev - tmpfs tmpfs ro")
    assert tree.off() == []


def test_the_detail_names_the_process(tree):
    tree.edit("status", "NoNewPrivs:\t1", "NoNewPrivs:\t0")
    row = next(row for row in tree.verify() if row.layer == "no-new-privs")
    assert row.detail.startswith(f"pid {AGENT}: ")


def test_one_bad_process_of_two(tree):
    tree.process(71, 71, uid=0, ns=2, mounts=AGENT_MOUNTS, cgroup="0::/agentix/7.1\n")
    rows = tree.verify(pids=(AGENT, 71))
    assert [row.layer for row in rows if row.state == OFF] == ["credentials", "all"]
    assert "pid 71" in rows[NAMESPACES.index("net") + 1].detail
    assert rows[-1].detail == "17 of 18 layers hold 2 processes; not: credentials"


@pytest.mark.parametrize("name", V2_LIMITS)
@pytest.mark.parametrize("value", ["max", "7777", None])
def test_a_limit_that_is_not_set(tree, name, value):
    if value is None:
        (tree.limits / name).unlink()
    else:
        (tree.limits / name).write_text(value)
    assert tree.off() == ["limits"]


def test_no_limit_expected(tree):
    unlimited = evolve(EXPECTED, limits=Limits(memory_bytes=None, cpus=None, pids=None))
    assert tree.off(unlimited) == ["limits"]
    for name in V2_LIMITS:
        (tree.limits / name).write_text("max\n")
    assert tree.off(unlimited) == []


def test_memory_in_whole_pages(tree):
    assert tree.off(evolve(EXPECTED, limits=Limits(memory_bytes=(512 << 20) + 5))) == []


def test_limits_in_a_delegated_subtree(tree):
    (tree.cgroup / "system.slice" / "x.service").mkdir(parents=True)
    (tree.cgroup / "agentix").rename(tree.cgroup / "system.slice" / "x.service" / "agentix")
    tree.edit("cgroup", "0::/agentix", "0::/system.slice/x.service/agentix")
    assert tree.off() == []


def test_hybrid(tree):
    rest, lines = "", "0::/agentix/7.1\n"
    for number, (controller, (name, text)) in enumerate(V1_LIMITS.items()):
        mount = tree.path / "v1" / controller
        (mount / "agentix" / "7.1").mkdir(parents=True)
        (mount / "agentix" / "7.1" / name).write_text(text)
        rest += f"4{number} 20 0:3{number} / {mount} rw - cgroup cgroup rw,{controller}\n"
        lines += f"{number + 2}:{controller}:/agentix/7.1\n"
    (tree.path / "self" / "mountinfo").write_text(tree.host_mounts(rest))
    (tree.path / str(AGENT) / "cgroup").write_text(lines)
    assert tree.off() == []
    tree.edit("cgroup", "memory:/agentix/7.1", "memory:/")
    assert tree.off() == ["cgroup"]
    (tree.path / "v1" / "memory" / "agentix" / "7.1" / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert tree.off() == ["cgroup", "limits"]


def test_a_tool_lives_below_its_caller(tree):
    tool = evolve(EXPECTED, tag="t1", parent="7.1")
    assert tree.off(tool) == ["cgroup"]
    tree.edit("cgroup", "/agentix/7.1", "/agentix/7.1/t1")
    assert tree.off(tool) == []


def test_agents_that_could_meet_on_abstract_sockets(tree):
    assert tree.off(evolve(EXPECTED, landlock_abi=5)) == ["ns-net"]
    assert tree.off(evolve(EXPECTED, landlock_abi=5, own_netns=True)) == []


def test_no_landlock(tree):
    assert tree.off(evolve(EXPECTED, landlock_abi=0, own_netns=True)) == ["landlock"]


def test_binds_are_expected_when_said(tree):
    tree.edit("mountinfo", "95 90", "96 90 254:1 /home/u /data rw,nosuid,nodev - ext4 x rw\n95 90")
    assert tree.off() == ["mounts"]
    assert tree.off(evolve(EXPECTED, mounts=("/data",))) == ["mounts"]
    assert tree.off(evolve(EXPECTED, writable=("/data",))) == []


def test_nothing_lives(tree):
    tree.edit("status", "S (sleeping)", "Z (zombie)")
    assert [(row.layer, row.state) for row in tree.verify(pids=(AGENT, 12345))] == [("all", OFF)]


def test_an_unconfined_process_fails_nearly_everything():
    """On the real /proc: a sleeping child of this very process."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        off = {row.layer for row in verify([pid], EXPECTED) if row.state == OFF}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert {*(f"ns-{space}" for space in NAMESPACES), "credentials", "no-new-privs", "root", "mounts", "cgroup",
            "limits", "all"} <= off  # fmt: skip
