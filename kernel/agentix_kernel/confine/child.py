"""The clone confines itself: one stage after the other, the order being the argument.

Two halves: `prepare` does what is the same for every agent, perhaps long before there is one; `confine` the rest.
Cgroups while root; mounts and hostname while CAP_SYS_ADMIN is held; then the user, no capabilities, no_new_privs;
the parent-death signal again, since the change of uid cleared it; Landlock after the mounts whose inodes it rules;
seccomp last, since it takes away what the stages before it need.
"""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from agentix_kernel.confine import landlock, linux, privileges
from agentix_kernel.confine.template import HIDDEN_ROOT, HIDDEN_SOCKETS, HIDDEN_TREE, RUN_ETC, Template

TMP_MAX_BYTES: Final = 256 << 20
_ROOT_OPTIONS: Final = "size=1m,nr_inodes=512,mode=755"
_PTS_OPTIONS: Final = "newinstance,ptmxmode=0666,mode=620,max=32"
"""Terminals of its own; Linux has 4,096 for all."""
_PROC_OPTIONS: Final = "subset=pid,hidepid=invisible"
_PROC_FLAGS: Final = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


class Job:
    """One launch, as the child needs it: what the zygote knows, the descriptors by role, and agentd's `spec`.

    Until the order has come, `spec` is empty and `fds` are those of the clone.
    """

    def __init__(self, fds: dict[str, list[int]], profile: dict[str, Any], template: Template) -> None:
        self.spec: dict[str, Any] = {}
        self.fds = fds
        self.profile = profile
        self.template = template
        self.listener = -1


def join_cgroups(job: Job) -> None:
    """v1 by `tasks`; and by cgroup.procs where the clone could not be made inside of its v2 group."""
    for fd in (*job.fds.get("tasks", ()), *job.fds.get("procs", ())):
        os.write(fd, b"0")


def build_root(job: Job) -> None:
    """All of it that every agent has; below the root of the template, which still is ours."""
    linux.mount("tmpfs", HIDDEN_ROOT, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, _ROOT_OPTIONS)
    os.chdir(HIDDEN_ROOT)
    os.mkdir("tmp")  # first: an interpreter may live below it
    linux.mount("tmpfs", "tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"size={TMP_MAX_BYTES},mode=1777")
    for path in job.template.directories:
        os.mkdir(path[1:])
    for path, target in job.template.links:
        os.symlink(target, path[1:])
    for path in job.template.mounts:
        linux.mount(path, path[1:], None, linux.MS_MOVE)
    linux.mount("devpts", "dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, _PTS_OPTIONS)
    _mount_proc()


def finish_root(job: Job) -> None:
    """What differs for each agent."""
    if job.spec["tmp_bytes"] != TMP_MAX_BYTES:
        linux.mount(None, "tmp", None, linux.MS_REMOUNT | linux.MS_NOSUID | linux.MS_NODEV,
                    f"size={job.spec['tmp_bytes']}")
    _write_etc(job.spec["uid"], job.spec["hostname"], job.spec["home"])


def _write_etc(uid: int, hostname: str, home: str) -> None:
    _write("passwd", f"root:x:0:0:root:/:/usr/sbin/nologin\nagent:x:{uid}:{uid}:agent:{home}:/bin/sh\n"
                     "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")
    _write("group", f"root:x:0:\nagent:x:{uid}:\nnogroup:x:65534:\n")
    _write("hostname", hostname + "\n")


def _write(name: str, text: str) -> None:
    fd = os.open(f"{RUN_ETC[1:]}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(fd, text.encode())
    os.close(fd)


def _mount_proc() -> None:
    try:
        linux.mount("proc", "proc", "proc", _PROC_FLAGS, _PROC_OPTIONS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        linux.mount("proc", "proc", "proc", _PROC_FLAGS, "hidepid=2")  # before Linux 5.8


def bind_tree(job: Job) -> None:
    """The agent's own tree and its socket, from the directories that only the template can see."""
    tree, sockets = job.spec["tree"], job.spec["sockets"]
    if tree is not None:
        os.mkdir(f"agent/{tree}")
        linux.mount(f"{HIDDEN_TREE}/{tree}", f"agent/{tree}", None, linux.MS_BIND)
        os.symlink(tree, "agent/self")
    if sockets is not None:
        linux.mount(f"{HIDDEN_SOCKETS}/{sockets}", "run/agentix", None, linux.MS_BIND)


def bind_folders(job: Job) -> None:
    """Host folders and files, as mounts that the spawner made, at mount points in our own tmpfs."""
    for fd, (target, directory, _) in zip(job.fds.get("bind", ()), job.spec["binds"], strict=True):
        path = target[1:]
        os.makedirs(path if directory else os.path.dirname(path) or ".", exist_ok=True)
        if not directory:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        linux.attach(fd, path)


def enter_root(_job: Job) -> None:
    """The old root is stacked below the new one, and detached with all that was in it."""
    linux.pivot_root(".", ".")
    linux.umount(".")
    os.chdir("/")
    remount = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
    linux.mount(None, "/", None, remount | linux.MS_NOSUID | linux.MS_NODEV)


def set_hostname(job: Job) -> None:
    socket.sethostname(job.spec["hostname"])


def drop_rights(job: Job) -> None:
    privileges.become(job.spec["uid"])
    privileges.no_new_privs()
    privileges.die_with_parent()
    privileges.dumpable(False)


def restrict_paths(job: Job) -> None:
    writable = [("/tmp", True), ("/agent", True)]
    writable += [(target, is_dir) for target, is_dir, may_write in job.spec["binds"] if may_write]
    landlock.restrict(job.profile["landlock"], writable)


def enter_cwd(job: Job) -> None:
    os.chdir(job.spec["cwd"])


def filter_calls(job: Job) -> None:
    flags = linux.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        job.listener = linux.seccomp_load(job.profile["filter"], flags | linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        job.listener = linux.seccomp_load(job.profile["filter"], flags)  # before Linux 5.19


_Stages = tuple[tuple[str, Callable[[Job], None]], ...]
_BEFORE_THE_ORDER: Final[_Stages] = (
    ("cgroup", join_cgroups),
    ("root", build_root),
)
_AFTER_THE_ORDER: Final[_Stages] = (
    ("root", finish_root),
    ("tree", bind_tree),
    ("bind", bind_folders),
    ("pivot", enter_root),
    ("hostname", set_hostname),
    ("rights", drop_rights),
    ("landlock", restrict_paths),
    ("cwd", enter_cwd),
    ("seccomp", filter_calls),
)


class StageError(Exception):
    """A stage failed; nothing of the agent has run."""

    def __init__(self, stage: str, cause: OSError) -> None:
        super().__init__(cause.errno or errno.EIO, stage, f"{cause.strerror}: {cause.filename}" if cause.filename
                         else str(cause.strerror))


def prepare(job: Job) -> None:
    """Before the order. Raises StageError(errno, stage, message)."""
    privileges.die_with_parent()
    _pass(job, _BEFORE_THE_ORDER)


def confine(job: Job) -> None:
    """With the order. Raises StageError(errno, stage, message)."""
    _pass(job, _AFTER_THE_ORDER)


def _pass(job: Job, stages: _Stages) -> None:
    for stage, step in stages:
        try:
            step(job)
        except OSError as error:
            raise StageError(stage, error) from error
