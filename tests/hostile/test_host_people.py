"""What people of the host may try: a prefix of theirs, descriptors on the control socket."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest
from emulation import WAIT_S

from agentix_syscalls import control, wire

AGENTD = os.path.join(os.path.dirname(sys.executable), "agentd")


@pytest.fixture
def prefix():
    folder = tempfile.mkdtemp(prefix="agentix-hostile.", dir="/tmp")
    yield folder
    shutil.rmtree(folder)


def boot(prefix: str) -> subprocess.CompletedProcess[str]:
    """A boot that must be refused before anything is written."""
    return subprocess.run([AGENTD, "--prefix", prefix], capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.mark.parametrize("change", [lambda path: os.chown(path, 12345, 12345), lambda path: os.chmod(path, 0o777)],
                         ids=["owner", "mode"])
@pytest.mark.parametrize("part", ["", "/run", "/state"])
def test_a_folder_that_others_may_change_is_refused(prefix, part, change):
    precious = f"{prefix}/precious"
    with open(precious, "w") as file:
        file.write("kept")
    os.makedirs(prefix + part, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.symlink(precious, f"{prefix}/run/agentd.lock")
    change(prefix + part)
    done = boot(prefix)
    assert done.returncode == 1
    assert "others than root may change" in done.stderr
    with open(precious) as file:
        assert file.read() == "kept"


def test_a_link_of_somebody_else_is_refused(prefix):
    goal = tempfile.mkdtemp(prefix="agentix-hostile.", dir="/tmp")
    os.symlink(goal, f"{prefix}/run")
    os.lchown(f"{prefix}/run", 12345, 12345)
    try:
        assert "others than root may change" in boot(prefix).stderr
        assert os.listdir(goal) == []
    finally:
        os.rmdir(goal)


def descriptors(kernel) -> int:
    return len(os.listdir(f"/proc/{kernel.process.pid}/fd"))


def flood(kernel, sock, fd: int) -> None:
    for _ in range(200):
        socket.send_fds(sock, [b"\0"], [fd] * 60)
        kernel.json("ps")


def test_descriptors_without_a_frame_are_not_hoarded(kernel):
    kernel.json("ps")
    before = descriptors(kernel)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(f"{kernel.prefix}/run/control.sock")
    null = os.open(os.devnull, os.O_PATH)
    try:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            flood(kernel, sock, null)
    finally:
        sock.close()
        os.close(null)
    kernel.until(lambda: descriptors(kernel) <= before + 2)


def test_a_spawn_that_is_refused_gives_its_descriptors_back(kernel):
    """Also when looking at them fails with another error than the expected: a name that is no text, a bad row."""
    before = descriptors(kernel)
    null = os.open("/", os.O_PATH)
    for bind in ([7, True, "x"], ["/d", 1, "x"], "text", None):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(f"{kernel.prefix}/run/control.sock")
            hello = wire.request(control.BY_NAME["hello"].number, 1, [wire.PROTOCOL])
            spawn = wire.request(control.BY_NAME["spawn"].number, 2, ["exec", ["true"], {"binds": [bind] * 20}])
            socket.send_fds(sock, [hello + spawn], [null] * 20)
            reader, seen = wire.Reader(), 0
            while seen < 2:
                reader.feed(sock.recv(65536))
                while reader.next() is not None:
                    seen += 1
    os.close(null)
    kernel.until(lambda: descriptors(kernel) <= before + 2)
