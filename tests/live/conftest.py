"""A real kernel for the tests of this folder: agentd as people start it, agentctl as people use it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib

import pytest
from attrs import define, field
from emulation import WAIT_S

BIN = os.path.dirname(sys.executable)
READY_S = WAIT_S
COMMAND_S = WAIT_S


@define
class LiveKernel:
    """agentd on a prefix of its own."""

    prefix: str
    process: subprocess.Popen[bytes] = field(default=None)
    config: str = ""
    begun: int = 0
    known: dict = field(factory=dict)
    wrapper: tuple[str, ...] = ()
    options: tuple[str, ...] = ("--unlisted",)

    def start(self) -> None:
        assert self.boot(), self.log()

    def boot(self, **environment: str) -> bool:
        """Run agentd, with more in its environment; whether it came to be ready."""
        if self.config:
            with open(f"{self.prefix}/agentd.toml", "w") as file:
                file.write(self.config)
        with open(f"{self.prefix}/agentd.log", "ab") as log:
            self.begun = log.tell()
            command = [*self.wrapper, f"{BIN}/agentd", "--prefix", self.prefix, *self.options]
            self.process = subprocess.Popen(command, stderr=log, env=os.environ | environment)
        self.until(lambda: "ready:" in self.log(self.begun) or self.process.poll() is not None, READY_S)
        return self.process.poll() is None

    def log(self, begin: int = 0) -> str:
        """What agentd said; from `begun` on: since the last start."""
        with open(f"{self.prefix}/agentd.log") as file:
            return file.read()[begin:]

    def until(self, condition, seconds=COMMAND_S):
        """Wait for a condition of the world outside, which sends no event: bounded, and the condition decides."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"did not come true in {seconds} s\n{self.log()}"
            time.sleep(0.01)
        return found

    def words(self, *args) -> list[str]:
        """A command line of agentctl for this kernel."""
        return [f"{BIN}/agentctl", "--prefix", self.prefix, *map(str, args)]

    def ctl(self, *args, check=None, **more):
        """Run agentctl; `check` is the exit status that it must have."""
        done = subprocess.run(self.words(*args), capture_output=True, text=True, timeout=COMMAND_S, check=False,
                              **more)
        if check is not None:
            assert done.returncode == check, f"{args}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done

    def json(self, *args):
        return json.loads(self.ctl(*args, "--json", check=0).stdout)

    def rows(self, *args):
        """JSON lines."""
        return [json.loads(line) for line in self.ctl(*args, "--json", check=0).stdout.split("\n") if line]

    def spawn(self, *args) -> int:
        return int(self.ctl("spawn", *args, check=0).stdout.split()[0])

    def agent(self, agent: int):
        return next(row for row in self.json("ps", "-a") if row["id"] == agent)

    def begin(self, *args, **more) -> subprocess.Popen[str]:
        """An agentctl at work, with pipes for its output."""
        return subprocess.Popen(self.words(*args), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)

    def connect(self, agent: int) -> socket.socket:
        """A connection through an agent's own socket, as the agent's uid: what a process of it could say."""
        if agent not in self.known:
            self.known[agent] = self.agent(agent)
        row = self.known[agent]
        sock, here = socket.socket(socket.AF_UNIX), os.open(".", os.O_PATH)
        sock.settimeout(WAIT_S)
        try:
            os.chdir(f"{self.prefix}/run/agents/{agent}.{row['life']}")  # as root: the folder above is root's alone
            os.seteuid(row["uid"])
            sock.connect("kernel.sock")
        finally:
            os.seteuid(0)
            os.fchdir(here)
            os.close(here)
        return sock

    def record(self, agent: int, kind: str = ""):
        """An agent's flight records, of one kind if it is named."""
        return [row for row in self.rows("trace", agent) if kind in {"", row["kind"]}]

    def until_state(self, agent: int, *states: str):
        return self.until(lambda: (row := self.agent(agent))["state"] in states and row)

    def until_logged(self, agent: int, text: str) -> str:
        return self.until(lambda: text in (said := self.ctl("logs", agent, check=0).stdout) and said)

    def tree(self, agent: int, path: str = "") -> str:
        return f"{self.prefix}/agent/{agent}/{path}"

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(WAIT_S) == 0, self.log()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def traces(self) -> list[str]:
        """What a dead kernel would leave: mounts and cgroups of this prefix."""
        with open("/proc/self/mountinfo") as file:
            mounts = [line for line in file if self.prefix in line]
        return mounts + self.cgroups()

    def cgroups(self) -> list[str]:
        """Every cgroup of this kernel, in whatever hierarchies."""
        name = f"agentix-{zlib.crc32(os.path.realpath(self.prefix).encode()):08x}"
        return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if name in folder.split("/")]


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


CONFIG = "stop_timeout_s = 1\nshutdown_timeout_s = 1\n"


@contextlib.contextmanager
def keep(live: LiveKernel):
    """A kernel's life around tests: afterwards it is stopped, and its traces are looked for."""
    try:
        yield live
    finally:
        if live.process is not None:
            live.stop()
        traces = live.traces()
        shutil.rmtree(live.prefix)
    assert traces == []


@pytest.fixture(scope="session")
def running():
    """A context manager that runs a kernel, for fixtures of wider scope than make_kernel's; gives LiveKernel."""
    @contextlib.contextmanager
    def run(config: str = "", *, start: bool = True):
        with keep(LiveKernel(tempfile.mkdtemp(prefix="agentix-test-"), config=CONFIG + config)) as live:
            if start:
                live.start()
            yield live
            assert "FAULT" not in live.log(), live.log()
    return run


@pytest.fixture
def make_kernel():
    """Make kernels that a test may break; each is stopped and its traces are looked for."""
    with contextlib.ExitStack() as made:
        def make(config: str = "", *, start: bool = True) -> LiveKernel:
            kernel = LiveKernel(tempfile.mkdtemp(prefix="agentix-test-"), config=CONFIG + config)
            made.enter_context(keep(kernel))
            if start:
                kernel.start()
            return kernel
        yield make


@pytest.fixture
def own_run(tmp_path):
    """What to put before a command so that its /run is the folder `run` of the test's."""
    for folder in (f"{tmp_path}/run/agentix-uids", "/run/agentix-uids"):
        os.makedirs(folder, 0o700, exist_ok=True)
    # Ranges of uids are claimed there, by all kernels of the machine.
    script = 'mount --bind /run/agentix-uids "$0/agentix-uids" && mount --rbind "$0" /run && exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, f"{tmp_path}/run")


@pytest.fixture(scope="session")
def kernel(running):
    """One kernel for all tests that leave it whole."""
    with running() as live:
        yield live


@pytest.fixture
def disk(make_kernel, request):
    """A kernel whose state lies on a disk of 40 MiB, that disk's folder, and what takes all room that is left there.

    An indirect parameter is more of its configuration.
    """
    folder = tempfile.mkdtemp(prefix="agentix-disk-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "agentix-test", folder], check=True)
    live = make_kernel(f"state_dir = '{folder}/state'\njournal_segment_bytes = 1048576\n"
                       + getattr(request, "param", ""), start=False)

    def fill():
        with open(f"{folder}/ballast", "wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    try:
        live.start()
        yield live, folder, fill
    finally:
        live.stop()
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)
