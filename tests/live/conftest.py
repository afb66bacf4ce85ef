"""A real kernel for the tests of this folder: agentd as people start it, agentctl as people use it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from attrs import define, field

BIN = os.path.dirname(sys.executable)
READY_S = 60
COMMAND_S = 60


@define
class LiveKernel:
    """agentd on a prefix of its own."""

    prefix: str
    process: subprocess.Popen[bytes] = field(default=None)
    config: str = ""

    def start(self) -> None:
        if self.config:
            with open(f"{self.prefix}/agentd.toml", "w") as file:
                file.write(self.config)
        with open(f"{self.prefix}/agentd.log", "ab") as log:
            self.process = subprocess.Popen([f"{BIN}/agentd", "--prefix", self.prefix], stderr=log)
        self.until(lambda: "ready:" in self.log() or self.process.poll() is not None, READY_S)
        assert self.process.poll() is None, self.log()

    def log(self) -> str:
        with open(f"{self.prefix}/agentd.log") as file:
            return file.read()

    def until(self, condition, seconds=COMMAND_S):
        """Wait for a condition of the world outside, which sends no event: bounded, and the condition decides."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"did not come true in {seconds} s\n{self.log()}"
            time.sleep(0.01)
        return found

    def ctl(self, *args, check=None, **more):
        """Run agentctl; `check` is the exit status that it must have."""
        done = subprocess.run([f"{BIN}/agentctl", "--prefix", self.prefix, *map(str, args)], capture_output=True,
                              text=True, timeout=COMMAND_S, check=False, **more)
        if check is not None:
            assert done.returncode == check, f"{args}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done

    def json(self, *args):
        return json.loads(self.ctl(*args, "--json", check=0).stdout)

    def rows(self, *args):
        """JSON lines."""
        return [json.loads(line) for line in self.ctl(*args, "--json", check=0).stdout.splitlines()]

    def spawn(self, *args) -> int:
        return int(self.ctl("spawn", *args, check=0).stdout.split()[0])

    def agent(self, agent: int):
        return next(row for row in self.json("ps", "-a") if row["id"] == agent)

    def tree(self, agent: int, path: str = "") -> str:
        return f"{self.prefix}/agent/{agent}/{path}"

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(60) == 0, self.log()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def traces(self) -> list[str]:
        """What a dead kernel would leave: mounts and cgroups of this prefix."""
        with open("/proc/self/mountinfo") as file:
            mounts = [line for line in file if self.prefix in line]
        import zlib

        name = f"agentix-{zlib.crc32(os.path.realpath(self.prefix).encode()):08x}"
        found = [os.path.join(folder, name) for folder, names, _ in os.walk("/sys/fs/cgroup") if name in names]
        return mounts + found


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """A folder to put agents' scripts in; returns a function that writes one."""
    folder = tmp_path_factory.mktemp("scripts")
    count = 0

    def write(text: str) -> str:
        nonlocal count
        count += 1
        path = folder / f"agent{count}.py"
        path.write_text(text)
        return str(path)
    return write


@pytest.fixture
def make_kernel():
    """Make kernels that a test may break; each is stopped and its traces are looked for."""
    made: list[LiveKernel] = []

    def make(config: str = "stop_timeout_s = 1\nshutdown_timeout_s = 1\n", *, start: bool = True) -> LiveKernel:
        kernel = LiveKernel(tempfile.mkdtemp(prefix="agentix-test-"), config=config)
        made.append(kernel)
        if start:
            kernel.start()
        return kernel

    yield make
    for kernel in made:
        if kernel.process is not None:
            kernel.stop()
        assert kernel.traces() == []
        shutil.rmtree(kernel.prefix)


@pytest.fixture(scope="session")
def kernel():
    """One kernel for all tests that leave it whole."""
    live = LiveKernel(tempfile.mkdtemp(prefix="agentix-test-"), config="stop_timeout_s = 1\nshutdown_timeout_s = 1\n")
    live.start()
    yield live
    assert "FAULT" not in live.log(), live.log()
    live.stop()
    assert live.traces() == []
    shutil.rmtree(live.prefix)
