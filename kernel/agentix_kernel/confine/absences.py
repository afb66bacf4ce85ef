"""The table of Linux calls that fail in a sandbox though seccomp lets them pass: what is missing there, or counted."""

from typing import Final, NamedTuple


class Absence(NamedTuple):
    """One row. `enforcer` is what makes them fail, `answers` the errno of Linux's answer, `when` in which case."""

    names: tuple[str, ...]
    enforcer: str
    answers: str
    when: str


def _row(names: str, enforcer: str, answers: str, when: str) -> Absence:
    return Absence(tuple(names.split()), enforcer, answers, when)


ABSENCES: Final = (
    _row("chown fchown lchown fchownat", "no capability (CAP_CHOWN)", "EPERM", "a file is to be another uid's"),
    _row("setuid setreuid setresuid", "no capability (CAP_SETUID)", "EPERM", "another uid is wanted"),
    _row("setgid setregid setresgid setgroups", "no capability (CAP_SETGID)", "EPERM", "another group is wanted"),
    _row("capset", "no capability, and none to be had", "EPERM", "a capability is wanted"),
    _row("mknod mknodat", "no capability (CAP_MKNOD), Landlock", "EPERM or EACCES", "a device is to be made"),
    _row("setpriority", "rlimit (RLIMIT_NICE 0)", "EACCES", "a higher priority is wanted"),
    _row("sched_setscheduler sched_setattr", "rlimit (RLIMIT_RTPRIO 0)", "EPERM", "a real-time class is wanted"),
    _row("setrlimit prlimit64", "no capability (CAP_SYS_RESOURCE)", "EPERM", "a hard limit is to be raised"),
    _row("mlock mlock2 mlockall", "rlimit (RLIMIT_MEMLOCK 64 KiB)", "ENOMEM", "more than that is to be locked"),
    _row("kill tkill tgkill pidfd_open", "pid namespace", "ESRCH", "the process is not its own: it is not there"),
    _row("connect bind", "network namespace, Landlock", "EACCES", "it is TCP; other protocols find no route"),
    _row("fork vfork clone", "cgroup (pids)", "EAGAIN", "it has as many processes and threads as its limit says"),
)

BY_NAME: Final = {name: row for row in ABSENCES for name in row.names}
