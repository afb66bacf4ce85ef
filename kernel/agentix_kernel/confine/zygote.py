"""A zygote: an interpreter with modules preloaded, in a template root, that clones agents on demand.

Started by zygotes.command with FD as its argument; FD is its SOCK_SEQPACKET channel to agentd. The first
message is the profile; then each asks for a clone, which gets its order over its own leash. One thread, no secrets,
and private memory counts: every page that it writes later is a page for each agent. All agents of one zygote share
the seed of hash(); random numbers are reseeded.
The idea of a zygote is Android's; cloning straight into a cgroup and all namespaces, clone3(2)'s.
"""

import errno
import gc
import importlib
import os
import resource
import signal
import socket
import sys
from typing import Any, Final

from agentix_kernel.confine import child, leash, linux, messages, privileges, template

DOORBELL: Final = signal.SIGRTMIN + 1
"""signals.DOORBELL, held equal by a test: importing that table would put attrs into every agent's pages."""
_NAMESPACES: Final = (linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
                      | linux.CLONE_NEWCGROUP)
_LIMITS: Final = (
    (resource.RLIMIT_CORE, 0, 0),
    (resource.RLIMIT_NOFILE, 1024, 4096),
    (resource.RLIMIT_NPROC, resource.RLIM_INFINITY, resource.RLIM_INFINITY),  # the pids cgroup counts
    (resource.RLIMIT_FSIZE, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    (resource.RLIMIT_MEMLOCK, 64 << 10, 64 << 10),
    (resource.RLIMIT_MSGQUEUE, 819_200, 819_200),
    (resource.RLIMIT_NICE, 0, 0),
    (resource.RLIMIT_RTPRIO, 0, 0),
)
INIT_MODULE: Final = "agentix.init"


def prepare(profile: dict[str, Any]) -> template.Template:
    """Do once what every agent needs. Raises OSError or ImportError."""
    for name in profile["preload"]:
        importlib.import_module(name)
    sys.dont_write_bytecode = False  # what root did not write into a venv, an agent may into its own folders
    _be_killable()
    layout = template.build(profile["tree"], profile["sockets"], profile["binds"])
    for what, soft, hard in _LIMITS:
        _limit(what, soft, hard)
    os.umask(0o022)
    _reset_signals()
    # An agent's libc sets its handler later than the first doorbell may ring, and the default is to terminate.
    signal.signal(DOORBELL, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.environ.clear()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a TextIOWrapper at start
    privileges.drop_bounding_set()
    gc.collect()
    gc.freeze()
    return layout


def _reset_signals() -> None:
    """What agentd was started with (nohup, or `&` in a script) is not for agents; Python's own choices are."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _be_killable() -> None:
    """An agent is not spared by the out-of-memory killer where agentd is."""
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    if int(os.pread(fd, 16, 0)) < 0:
        os.pwrite(fd, b"0", 0)
    os.close(fd)


def _limit(what: int, soft: int, hard: int) -> None:
    """Lower it; or raise it where agentd may (CAP_SYS_RESOURCE), else keep its hard limit as low as it is."""
    try:
        resource.setrlimit(what, (soft, hard))
    except ValueError:
        _, most = resource.getrlimit(what)
        resource.setrlimit(what, (soft if 0 <= soft <= most else most, most))


def roles(names: list[str], fds: list[int]) -> dict[str, list[int]]:
    """Descriptors by what they are for."""
    found: dict[str, list[int]] = {}
    for name, fd in zip(names, fds, strict=True):
        found.setdefault(name, []).append(fd)
    return found


def clone(fds: dict[str, list[int]], *, own_netns: bool) -> int:
    """Answers the pid, 0 in the child; tells agentd over the leash. Raises OSError."""
    flags = _NAMESPACES | linux.CLONE_PARENT | (linux.CLONE_NEWNET if own_netns else 0)
    cgroup_fd = fds.get("cgroup", [-1])[0]
    try:
        pid, pidfd = linux.clone(flags, cgroup_fd)
    except OSError as error:
        if cgroup_fd < 0 or error.errno not in (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP):
            raise
        fds["procs"] = [os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup_fd)]
        pid, pidfd = linux.clone(flags)
    if pid:
        with socket.socket(fileno=os.dup(fds["leash"][0])) as channel:
            socket.send_fds(channel, [f"{leash.BORN} {pid}".encode()], [pidfd])
        os.close(pidfd)
    return pid


def complain(leash_fd: int, number: int, stage: str, message: str) -> None:
    """Tell agentd, if it still listens."""
    try:
        os.write(leash_fd, leash.error_line(number, stage, message))
    except OSError:
        return


def await_order(leash_fd: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The spec and the descriptors of it. Ends the process when agentd has no use for it any more.

    A spare waits here, root in its user namespace as its zygote is. Nobody can reach it: it is pid 1 of a pid
    namespace that no agent is in, with mounts that no agent shares; an agent has neither its uid nor a capability,
    and so may not signal or trace it; and the only other end of its leash is agentd's.
    """
    channel = socket.socket(fileno=leash_fd)
    received = messages.receive(channel)
    channel.detach()
    if received is None:
        os._exit(0)
    message, all_fds = received
    fds = roles(message["names"], all_fds)
    return messages.unpack(message["spec"] or messages.read_memory(fds["spec"][0])), fds


def become_agent(fds: dict[str, list[int]], profile: dict[str, Any], layout: template.Template) -> None:
    """In the clone. Comes back (or raises) in the agent alone, when its program has ended."""
    leash_fd = fds["leash"][0]
    job = child.Job(fds, profile, layout)
    try:
        child.prepare(job)
        job.spec, job.fds = await_order(leash_fd)
        child.confine(job)
    except child.StageError as failed:
        complain(leash_fd, *failed.args)
        os._exit(125)
    except BaseException as fault:  # noqa: ASYNC103 - ours: nothing of the agent has run, nor may it run unconfined
        complain(leash_fd, errno.EIO, "child", repr(fault))
        os._exit(125)
    stdio = tuple(job.fds.get(name, [number])[0] for number, name in enumerate(("stdin", "stdout", "stderr")))
    sys.modules[INIT_MODULE].main(leash_fd, job.listener, stdio, job.spec, lambda: privileges.dumpable(True),
                                  messages.receive)


def serve(channel: socket.socket, profile: dict[str, Any], layout: template.Template) -> bool:
    """Clone one agent for each message until agentd is gone. True in the agent, when its program has ended."""
    while (received := messages.receive(channel)) is not None:
        message, all_fds = received
        fds = roles(message["names"], all_fds)
        try:
            pid = clone(fds, own_netns=profile["own_netns"])
        except OSError as error:
            complain(fds["leash"][0], error.errno or errno.EIO, "clone", str(error.strerror))
            pid = -1
        if pid == 0:
            os.close(channel.detach())
            become_agent(fds, profile, layout)
            return True
        messages.close_all(all_fds + fds.get("procs", []))
    return False


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    received = messages.receive(channel)
    if received is None:
        return
    profile = received[0]
    try:
        layout = prepare(profile)
    except Exception as error:  # a preloaded module may raise anything, and the operator must read it
        number = errno.ENOENT if isinstance(error, ImportError) else getattr(error, "errno", None) or errno.EIO
        messages.send(channel, {"error": number, "message": f"{type(error).__name__}: {error}"})
        return
    messages.send(channel, {"error": 0})
    serve(channel, profile, layout)


if __name__ == "__main__":
    main()
