"""A kernel for one run: started when none is running, shut down afterwards, its record kept."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from typing import Final

from agentix.agentctl.cli import AGENTIX_FAILED, Failure, Which, complain
from agentix.agentctl.format import duration
from agentix.control import NoKernelError
from agentix_syscalls.errors import CallError

READY_S: Final = 60.0
SHUTDOWN_S: Final = 30.0
_POLL_S: Final = 0.01
_LOG_LINES: Final = 5


@contextlib.contextmanager
def kernel(which: Which) -> Generator[Which, None, None]:
    """The kernel that is meant; if it is not running, one that runs only as long as this. Raises Failure."""
    try:
        which.connect().close()
    except NoKernelError as error:
        if not error.absent:
            raise
        if os.geteuid() != 0:
            raise Failure(
                f"no kernel is running at {error.path}, and only root can start one "
                "(it mounts, makes cgroups and gives each agent a uid)", AGENTIX_FAILED,
                "use sudo, or ask for agentd to be started and to be in the group agentix") from None
    else:
        yield which
        return
    program = agentd()
    prefix = os.path.abspath(which.prefix or tempfile.mkdtemp(prefix="agentix-", dir="/var/tmp"))
    with _running(program, prefix):
        yield Which(prefix)


def agentd() -> str:
    """The path of agentd: beside this Python, or on PATH. Raises Failure."""
    beside = os.path.join(os.path.dirname(sys.executable), "agentd")
    found = beside if os.access(beside, os.X_OK) else shutil.which("agentd")
    if found is None:
        raise Failure("agentd: not found", AGENTIX_FAILED, "install it, or put it on PATH")
    return found


@contextlib.contextmanager
def _running(program: str, prefix: str) -> Generator[None, None, None]:
    log_path = os.path.join(prefix, "agentd.log")
    complain(f"no kernel is running: starting a private one under {prefix}")
    begun = time.monotonic()
    os.makedirs(prefix, exist_ok=True)
    with open(log_path, "ab") as log:
        # Its own session, so that Ctrl-C is the agent's and not the kernel's; unlisted, so that nobody else's agent
        # comes to depend on a kernel that ends with ours.
        child = subprocess.Popen([program, "--prefix", prefix, "--foreground", "--unlisted"], stdin=subprocess.DEVNULL,
                                 stdout=log, stderr=log, start_new_session=True)
    try:
        await_ready(child, Which(prefix), log_path)
        complain(f"kernel ready after {duration(time.monotonic() - begun)}")
        yield
    finally:
        shut_down(child, Which(prefix))
        complain(f"kernel ended; its record stays under {prefix}: agentd --prefix {prefix} --daemon, then agentctl "
                 f"--prefix {prefix} trace")


def await_ready(child: "subprocess.Popen[bytes]", which: Which, log_path: str) -> None:
    """Until agentd answers on its control socket. Raises Failure; the end of its log is on stderr then."""
    deadline = time.monotonic() + READY_S
    while child.poll() is None and time.monotonic() < deadline:
        try:
            which.connect().close()
        except NoKernelError:
            time.sleep(_POLL_S)
        else:
            return
    what = f"ended with status {child.returncode}" if child.returncode is not None else f"not ready in {READY_S:.0f} s"
    with open(log_path, errors="backslashreplace") as log:
        for line in log.read().splitlines()[-_LOG_LINES:]:
            complain(f"agentd: {line}")
    raise Failure(f"agentd {what}", AGENTIX_FAILED, f"see {log_path}; agentctl doctor shows what is missing")


def shut_down(child: "subprocess.Popen[bytes]", which: Which) -> None:
    """In order if it listens; if not, by SIGTERM."""
    try:
        with which.connect() as client:
            client.call("shutdown", "the run it was started for has ended")
        child.wait(SHUTDOWN_S)
    except (NoKernelError, CallError, subprocess.TimeoutExpired):
        child.terminate()
        child.wait()
