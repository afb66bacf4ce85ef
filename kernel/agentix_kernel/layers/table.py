"""The table of layers: the one home of their names, and what doctor, agentd's boot and the manual page read."""

from collections.abc import Callable, Iterable
from typing import Final

from attrs import frozen

from agentix_kernel.layers import linux, probes
from agentix_kernel.layers.rows import ON, Found, Row


@frozen
class Layer:
    """One layer. Where a `required` one is not ON, agentd does not boot unless the operator accepted it by name."""

    name: str
    doc: str
    required: bool
    probe: Callable[[probes.Machine], Found]
    remedy: str


_V2_REMEDY: Final = "boot with systemd.unified_cgroup_hierarchy=1, and add Delegate=yes to the unit of agentd"

LAYERS: Final = (
    Layer("root", "the daemon may confine others", True, probes.root,
          "run agentd as root; in a container: docker run --privileged"),
    Layer("linux", "a kernel that this was tested on: 6.1 or newer", True, probes.linux_version,
          "apt-get install linux-image-amd64 (6.1 or newer), then reboot"),
    Layer("ns-user", "user namespaces, for idmapped mounts", False, probes.unshares(linux.CLONE_NEWUSER),
          "sysctl -w user.max_user_namespaces=10000; CONFIG_USER_NS=y"),
    Layer("ns-mount", "an agent sees only its own mounts", True, probes.unshares(linux.CLONE_NEWNS),
          "sysctl -w user.max_mnt_namespaces=10000"),
    Layer("ns-pid", "an agent sees only its own processes", True, probes.unshares(linux.CLONE_NEWPID),
          "sysctl -w user.max_pid_namespaces=10000; CONFIG_PID_NS=y"),
    Layer("ns-ipc", "an agent shares no System V objects and POSIX queues", True, probes.unshares(linux.CLONE_NEWIPC),
          "sysctl -w user.max_ipc_namespaces=10000; CONFIG_IPC_NS=y"),
    Layer("ns-uts", "an agent has its own host name", True, probes.unshares(linux.CLONE_NEWUTS),
          "sysctl -w user.max_uts_namespaces=10000; CONFIG_UTS_NS=y"),
    Layer("ns-cgroup", "an agent does not see where its cgroup lies", True, probes.unshares(linux.CLONE_NEWCGROUP),
          "sysctl -w user.max_cgroup_namespaces=10000; CONFIG_CGROUPS=y"),
    Layer("ns-net", "an agent has no network but what it is granted", True, probes.unshares(linux.CLONE_NEWNET),
          "sysctl -w user.max_net_namespaces=10000; CONFIG_NET_NS=y"),
    Layer("pivot-root", "an agent lives in a root of its own", True, probes.pivot_root,
          "do not start agentd in a chroot or an initramfs; boot with init on a mounted root"),
    Layer("open-tree", "mounts are handed over as descriptors", True, probes.open_tree,
          "a kernel of 5.12 or newer; allow open_tree and mount_setattr in the container's seccomp profile"),
    Layer("idmap", "read-write folders of the host, owned by the agent inside", False, probes.idmap,
          "keep folders to be shared on ext4, xfs or btrfs"),
    Layer("cgroup", "control groups, in one of three arrangements", True, probes.cgroup("cgroup"), _V2_REMEDY),
    Layer("cgroup-memory", "memory is limited", True, probes.cgroup("memory"),
          "boot with cgroup_enable=memory; CONFIG_MEMCG=y"),
    Layer("cgroup-cpu", "CPU time is limited", True, probes.cgroup("cpu"), "CONFIG_CFS_BANDWIDTH=y"),
    Layer("cgroup-pids", "the number of processes is limited", True, probes.cgroup("pids"), "CONFIG_CGROUP_PIDS=y"),
    Layer("cgroup-freeze", "an agent can be stopped whole", True, probes.cgroup("freeze"), _V2_REMEDY),
    Layer("cgroup-kill", "an agent can be killed whole, proven", True, probes.cgroup("kill"), _V2_REMEDY),
    Layer("clone-into-cgroup", "an agent is born in its cgroup; without: it joins at once", False,
          probes.cgroup("clone"), _V2_REMEDY),
    Layer("pidfd", "a process is signalled and awaited by descriptor, never by number", True, probes.pidfd,
          "allow pidfd_open and pidfd_send_signal in the container's seccomp profile"),
    Layer("no-new-privs", "no program raises an agent's rights", True, probes.no_new_privs,
          "allow prctl in the container's seccomp profile"),
    Layer("seccomp", "Linux calls that no agent needs are refused", True, probes.seccomp, "CONFIG_SECCOMP_FILTER=y"),
    Layer("seccomp-notify", "refused Linux calls are recorded", True, probes.seccomp_notify,
          "a kernel of 5.5 or newer with CONFIG_SECCOMP_FILTER=y; not under another tracer's listener"),
    Layer("landlock", "a second wall around files", True, probes.landlock,
          "boot with lsm=landlock,lockdown,yama,integrity,apparmor; CONFIG_SECURITY_LANDLOCK=y"),
    Layer("landlock-tcp", "a second wall around TCP", False, probes.landlock_tcp, "a kernel of 6.7 or newer"),
    Layer("landlock-scopes", "abstract sockets and signals stay inside; without: a network namespace for each agent",
          False, probes.landlock_scopes, "a kernel of 6.12 or newer"),
    Layer("fuse", "agents' trees are mounted", True, probes.fuse, "apt-get install fuse3 && modprobe fuse"),
    Layer("pgo", "for information: a Python built with profile-guided optimisation", False, probes.pgo,
          "use the distribution's python3 or build with --enable-optimizations --with-lto"),
)  # fmt: skip

BY_NAME: Final = {layer.name: layer for layer in LAYERS}


def probe_all(layers: Iterable[Layer] = LAYERS) -> list[Row]:
    """Try every layer. To be called while the process has one thread and no trio loop; forks some times.

    Under pure v2 with a delegated unit the process is moved into its leaf, as `cgroups.detect` says.
    """
    machine = probes.Machine()
    return [_row(layer, machine) for layer in layers]


def _row(layer: Layer, machine: probes.Machine) -> Row:
    try:
        found = layer.probe(machine)
    except OSError as error:  # one probe that cannot even be made says so in its own row
        found = Found("off", f"cannot be tried: {error}")
    return Row(layer.name, found.state, found.detail, "" if found.state == ON else layer.remedy)


def lacking(rows: Iterable[Row], accepted: frozenset[str] = frozenset()) -> list[Row]:
    """Of these rows the required ones that are not ON and were not accepted by name: agentd does not boot."""
    return [row for row in rows if BY_NAME[row.layer].required and row.state != ON and row.layer not in accepted]
