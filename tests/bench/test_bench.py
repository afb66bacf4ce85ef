"""The benchmarks: each runs quickly and tells what it must; the arithmetic behind the figures; nothing stays behind."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulation import WAIT_S, on_a_real_machine

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from harness import cage, figures, native, processes, report  # noqa: E402 - found through the line above

from agentix_kernel.world import Limits  # noqa: E402 - likewise

UNIT = re.compile(r"_(us|ms|s|kb|mb|ops_s|share|number|ratio_to_\w+)\Z")
GOALS = {"syscall": 6, "spawn": 5, "kill": 4, "cli": 4, "density": 4, "policy": 4, "recorder": 4}
QUICK_S = 40
"""What --quick promises; the test allows twice that, for a machine that does other things as well."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files, of a short name: sockets are in it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    yield folder
    folder.rmdir()  # fails when a benchmark has left something


def _run(name: str, scratch: Path) -> dict[str, Any]:
    argv = [sys.executable, BENCH / name, "--quick", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "TMPDIR": str(scratch)}) as bench:
        try:
            told, complained = bench.communicate(timeout=2 * QUICK_S)
        finally:
            bench.terminate()
    assert (bench.returncode, complained) == (0, "")
    assert _traces(str(scratch), f"agentix-bench-{bench.pid}") == []
    found: dict[str, Any] = json.loads(told)
    return found


def _traces(folder: str, cgroup: str) -> list[str]:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [path for path in mounts if path.startswith(folder)] + [
        str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{cgroup}")]


@on_a_real_machine
@pytest.mark.parametrize("name", GOALS)
def test_bench(name: str, scratch: Path) -> None:
    """The shape of what it tells, and that no kernel, cgroup or folder of it is left."""
    if name == "spawn" and not shutil.which("bwrap"):
        pytest.skip("bwrap is missing, which spawning is compared with: apt-get install bubblewrap")
    found = _run(name, scratch)
    assert list(found) == ["name", "machine", "figures", "goals"]
    assert found["name"] == name
    assert found["machine"].keys() >= {"cpus", "cpu", "linux", "python", "load_1min"}
    assert found["figures"]
    for figure, value in found["figures"].items():
        assert UNIT.search(figure), figure
        assert value >= 0
    assert len(found["goals"]) == GOALS[name]
    for goal in found["goals"]:
        assert list(goal) == ["name", "value", "op", "goal", "met"]
        assert goal["value"] > 0
        assert goal["goal"] > 0
        assert goal["op"] in {"<=", ">="}
        assert isinstance(goal["met"], bool)


def test_a_bench_that_is_ended_cleans_up(scratch: Path) -> None:
    """SIGTERM unwinds: its kernel is shut down, and the `scratch` fixture finds nothing left."""
    with subprocess.Popen([sys.executable, BENCH / "kill"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "TMPDIR": str(scratch)}) as bench:
        processes.wait_until(lambda: list(scratch.glob("*/run/control.sock")) != [] or bench.poll() is not None,
                             "its kernel answers", 30)
        bench.terminate()
        told, _ = bench.communicate(timeout=WAIT_S)
    assert (bench.returncode, told) == (128 + signal.SIGTERM, b"")
    assert _traces(str(scratch), f"agentix-bench-{bench.pid}") == []


def test_interpreter_is_found_or_asked_for(tmp_path: Path) -> None:
    """Under an interpreter without the project: that of the clone's environment, or a sentence on how to get it."""
    (tmp_path / "bench" / "harness").mkdir(parents=True)
    shutil.copy(BENCH / "harness" / "interpreter.py", tmp_path / "bench" / "harness")
    script = tmp_path / "bench" / "some"
    script.write_text("import sys; sys.path.insert(0, sys.argv[1]); import interpreter; interpreter.enter()")
    argv = [sys.executable, "-I", "-S", str(script), str(tmp_path / "bench" / "harness")]
    asked = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    assert "run .ci/prepare kernel bench" in asked.stderr
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho found "$1"\n')
    python.chmod(0o755)
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, f"found {script}\n")


# --- statistics -----------------------------------------------------------------------------------------------------

def test_median() -> None:
    assert figures.median([3, 1, 2]) == 2
    assert figures.median([4, 1, 3, 2]) == 2.5
    assert figures.median([7]) == 7


def test_percentile_is_a_sample() -> None:
    samples = list(range(1, 101))
    assert figures.p99(samples) == 99
    assert figures.percentile(samples, 100) == 100
    assert figures.percentile(samples, 0) == 1
    assert figures.p99([5, 9, 1]) == 9
    assert figures.percentile([10, 20, 30, 40], 50) == 20


@pytest.mark.parametrize("statistic", [figures.median, figures.p99])
def test_no_samples(statistic: Any) -> None:
    with pytest.raises(ValueError, match="no samples"):
        statistic([])


def test_ratios_are_taken_in_pairs() -> None:
    """A machine that was slow in one round was slow for both: the ratio does not see it."""
    assert figures.median_ratio([2, 20, 2], [1, 10, 1]) == 2
    with pytest.raises(ValueError, match="zip"):
        figures.median_ratio([1, 2], [1])


# --- reports --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("value", "op", "goal", "met"), [
    (0.5, "<=", 0.5, True), (0.51, "<=", 0.5, False), (0.3, ">=", 0.3, True), (0.29, ">=", 0.3, False),
])
def test_goal(value: float, op: str, goal: float, met: bool) -> None:
    assert report.Goal("g", value, op, goal).met is met


def test_a_missed_goal_is_shown_as_missed() -> None:
    goals = [report.Goal("fast", 3.0, "<=", 2.0), report.Goal("small", 1.0, "<=", 2.0)]
    text = report.Report("x", goals=goals).to_text()
    assert re.search(r"^fast +3 +<= +2 +NOT MET$", text, re.MULTILINE)
    assert re.search(r"^small +1 +<= +2 +met$", text, re.MULTILINE)


def test_report_as_json() -> None:
    made = report.Report("x", figures={"a_us": 1234.5678, "n": 3}, goals=[report.Goal("g", 1 / 3, "<=", 0.5)])
    found = json.loads(made.to_json())
    assert found["figures"] == {"a_us": 1235.0, "n": 3}
    assert found["goals"] == [{"name": "g", "value": 0.3333, "op": "<=", "goal": 0.5, "met": True}]


def test_a_goal_is_judged_before_it_is_rounded() -> None:
    goal = report.Goal("g", 0.50001, "<=", 0.5)
    assert (goal.to_json()["value"], goal.met) == (0.5, False)


def test_samples() -> None:
    made = report.Report("x")
    made.add_samples("spawn", [1.0, 2.0, 9.0], "ms")
    assert made.figures == {"spawn_median_ms": 2.0, "spawn_p99_ms": 9.0, "spawn_max_ms": 9.0}


def test_table() -> None:
    assert report.table([["name", "value"], ["a", "1"], ["long name", "22"]]) == [
        "name       value", "----------------", "a              1", "long name     22"]


# --- the C side -----------------------------------------------------------------------------------------------------

def _load(folder: Path, operation: str, pid: int, *targets: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([folder / "load", operation, "50", "10", str(pid), *targets], capture_output=True, text=True,
                          check=False, timeout=WAIT_S)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    for name in ("echo", "load"):
        native.build(name, str(folder))
    return folder


@pytest.mark.parametrize("operation", ["noop", "read", "write"])
@pytest.mark.parametrize("connections", [1, 16])
def test_load_and_echo(programs: Path, operation: str, connections: int) -> None:
    path = str(programs / f"{operation}.{connections}.sock")
    with native.echo_server(str(programs / "echo"), path) as pid:
        done = _load(programs, operation, pid, *[f"{path}:0"] * connections)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["operations"] >= connections
    assert 0 < found["p50_ns"] <= found["p99_ns"]
    assert found["mean_ops_s"] > 0
    assert found["best_ops_s"] > 0
    assert 0 <= found["same_core"] <= 1


@on_a_real_machine
def test_load_connects_as_the_uid_it_was_given(programs: Path) -> None:
    """A kernel knows agents by the uid of their socket; the way to its folder is root's alone all the same."""
    os.chmod(programs, 0o700)
    (programs / "1.1").mkdir(mode=0o755)
    path = str(programs / "1.1" / "kernel.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen()
        listener.settimeout(10)
        with subprocess.Popen([programs / "load", "noop", "50", "10", str(os.getpid()), f"{path}:65534"],
                              stderr=subprocess.PIPE) as load:
            connection, _ = listener.accept()
            with connection:
                _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                assert len(connection.recv(64)) == 19  # HELLO, which is not answered
            assert load.stderr is not None
            told = load.stderr.read()
    assert uid == 65534
    assert (load.returncode, told) == (1, b"load: the server closed the connection\n")


def test_load_fails_when_the_server_goes(programs: Path) -> None:
    """What is not answered is not counted: the client says so and fails."""
    path = str(programs / "gone.sock")
    with native.echo_server(str(programs / "echo"), path) as pid:
        pass
    done = _load(programs, "noop", pid, f"{path}:0")
    assert done.returncode == 1
    assert done.stdout == ""


# --- cages and processes --------------------------------------------------------------------------------------------

def test_cage_confines_and_leaves_nothing() -> None:
    uid = cage.own_uid()
    with cage.own_cgroups() as cgroups:
        with cage.caged(cgroups, "test.1", ["/bin/sleep", "infinity"], {}, uid, Limits(pids=8)) as group:
            processes.wait_until(lambda: "sleep" in map(processes.name_of, processes.of_uid(uid)), "it sleeps")
            pid, = group.pids()
            assert int(processes.status_of(pid)["CapEff"], 16) == 0
            assert processes.status_of(pid)["NoNewPrivs"] == "1"
            assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
            assert processes.private_bytes(pid) > 0
        assert processes.of_uid(uid) == []
        assert not os.path.exists(f"/proc/{pid}")
    assert list(Path("/sys/fs/cgroup").glob(f"**/agentix-bench-{os.getpid()}")) == []


def test_cage_goes_when_its_user_fails() -> None:
    uid = cage.own_uid()
    with cage.own_cgroups() as cgroups, contextlib.suppress(ZeroDivisionError), cage.caged(
            cgroups, "test.2", ["/bin/sleep", "infinity"], {}, uid, Limits(pids=8)):
        processes.wait_until(lambda: len(processes.of_uid(uid)) == 1, "sleeps")
        raise ZeroDivisionError
    assert processes.of_uid(uid) == []


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen(["/bin/sleep", "infinity"]) as gone:
        gone.send_signal(signal.SIGKILL)
    assert processes.status_of(gone.pid) == {}
    assert processes.name_of(gone.pid) == ""
    assert processes.waits_for(gone.pid) == ""
    assert processes.private_bytes(gone.pid) == 0
