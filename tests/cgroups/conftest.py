"""Real cgroups of each kind that this machine has, and processes to put into them."""

import contextlib
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest
from emulation import WAIT_S

from agentix_kernel.cgroups import Cgroups, Group, detect
from agentix_kernel.cgroups.detect import KINDS, read_mounts

Start = Callable[[Group, str], subprocess.Popen[bytes]]


def join(pid: int, group: Group) -> None:
    """Put a process into a group, as the child itself does when it is confined."""
    if group.cgroup_fd >= 0:
        fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=group.cgroup_fd)
        with os.fdopen(fd, "wb", buffering=0) as procs:
            procs.write(b"%d" % pid)
    for fd in group.tasks_fds:
        os.write(fd, b"%d" % pid)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if request.param not in read_mounts().kinds():
        pytest.skip(f"this machine has no cgroups of kind {request.param}")
    return request.param


@pytest.fixture
def root_name() -> str:
    return f"agentix-test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What the test has started. Reaped after the cgroups were swept: what v1 has frozen does not die before."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait(timeout=WAIT_S)
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def cgroups(kind: str, root_name: str, processes: list[subprocess.Popen[bytes]]) -> Iterator[Cgroups]:
    """Closed after the test, with all that the test left in it killed and removed."""
    made = detect(root_name, prefer=kind)
    try:
        yield made
    finally:
        with contextlib.closing(detect(root_name, prefer=kind)) as again:
            again.sweep()
        made.close()
        assert not [path for path in made.directories if os.path.exists(path)]


@pytest.fixture
def start(processes: list[subprocess.Popen[bytes]]) -> Start:
    """Run a shell script inside a group: it runs only once it is in. It reads and writes pipes."""

    def run(group: Group, script: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"read go\n{script}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        processes.append(process)
        join(process.pid, group)
        process.stdin.write(b"go\n")
        return process

    return run
