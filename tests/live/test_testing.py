"""agentix.testing as people use it: pytest runs of their own, and what is left after each."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from emulation import WAIT_S

from agentix import libc
from agentix.testing import Kernel, private_kernel
from agentix_syscalls import spawn
from agentix_syscalls.errors import CallError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/test_my_agent.py"
HEAD = 'pytest_plugins = ["agentix.testing"]\nimport os, signal\n'


@pytest.fixture
def folder():
    """Where a run of pytest works and has its temporary files; a short name, since sockets are in it."""
    made = Path(tempfile.mkdtemp(prefix="pt-"))
    (made / "tmp").mkdir()
    yield made
    assert mounts(made) == [], "a removal must never walk into a mount"
    shutil.rmtree(made)


def run(folder: Path, text: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    (folder / "test_it.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "test_it.py"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=2 * WAIT_S, check=False,
                          env=os.environ | {"TMPDIR": f"{folder}/tmp"} | environment)


def mounts(folder: Path) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line for line in file if str(folder) in line]


def left(folder: Path) -> list[str]:
    return mounts(folder) + [path.name for path in folder.glob("tmp/agentix-test-*")]


def test_the_example_passes_and_leaves_nothing(folder):
    done = run(folder, EXAMPLE.read_text())
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "4 passed" in done.stdout
    assert left(folder) == []


def test_ctrl_c_and_a_failure_leave_nothing(folder):
    done = run(folder, HEAD + """
def test_fails(agentix_kernel):
    print("pid", agentix_kernel.client.kernel["pid"], agentix_kernel.spawn(exec="/bin/sleep", args=["infinity"]))
    assert False

def test_is_interrupted(agentix_kernel):
    os.kill(os.getpid(), signal.SIGINT)
""")
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    pid = int(re.search(r"pid (\d+)", done.stdout)[1])
    assert not os.path.exists(f"/proc/{pid}")
    assert left(folder) == []


def test_a_killed_run_takes_its_kernel_along(folder):
    done = run(folder, HEAD + """
def test_is_killed(agentix_kernel):
    open("pid", "w").write(str(agentix_kernel.client.kernel["pid"]))
    os.kill(os.getpid(), signal.SIGKILL)
""")
    assert done.returncode == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # gone so soon
        kernel = os.pidfd_open(int((folder / "pid").read_text()))
        ended, _, _ = select.select([kernel], [], [], 30)
        os.close(kernel)
        assert ended, "agentd lives on"
    assert mounts(folder) == []


@pytest.mark.parametrize(("required", "told"), [("", "1 skipped"), ("1", "1 error")])
def test_without_root(folder, required, told):
    (folder / "conftest.py").write_text("import os\nos.geteuid = lambda: 1000\n")
    done = run(folder, HEAD + "def test_it(agentix_kernel): pass\n", AGENTIX_REQUIRED=required)
    assert told in done.stdout
    assert "takes root" in done.stdout


def test_a_kernel_that_does_not_come_up_says_why(folder):
    done = run(folder, HEAD + """
from agentix import testing
testing.private_kernel.__wrapped__.__defaults__ = ("nonsense = 1",)
def test_it(agentix_kernel): pass
""")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "no kernel for the tests: agentd ended with status" in done.stdout
    assert "nonsense" in done.stdout
    assert left(folder) == []


@pytest.fixture(scope="module")
def own():
    with private_kernel() as kernel:
        yield kernel


def test_what_is_run_is_said_in_one_way(own, tmp_path):
    (tmp_path / "agent.py").write_text("import sys; print(sys.argv); print('err', file=sys.stderr); sys.exit(3)")
    ended = own.run(tmp_path / "agent.py", ["a", "b"])
    assert (ended.status, ended.stderr, ended.why) == (3, "err\n", "exit")
    assert ended.stdout == f"[{str(tmp_path / 'agent.py')!r}, 'a', 'b']\n"
    assert own.run(module="this").stdout.startswith("The Zen")
    assert own.run("""
        if True:
            print("indented")
    """).stdout == "indented\n"
    with pytest.raises(TypeError, match="pathlib"):
        own.run("agent.py")
    with pytest.raises(TypeError, match="one of"):
        own.run("x = 1\n", exec="/bin/true")


def test_options_are_those_of_a_spawn(own, tmp_path):
    with pytest.raises(CallError, match="unknown option 'colour'"):
        own.run("pass\n", colour="red")
    with pytest.raises(FileNotFoundError):
        own.run("pass\n", bind_ro={tmp_path / "none": "/data"})
    ended = own.run("import time\ntime.sleep(3600)\n", timeout=0.2)
    assert (ended.status, ended.why) == (137, "timeout")
    assert "timeout" in ended.detail or "0.2" in ended.detail
    environment = os.environ | {"COLOUR": "red"}
    assert own.run("import os\nprint(os.environ['COLOUR'])\n", env=environment).stdout == "red\n"
    (tmp_path / "made").mkdir()
    own.run("open('/out/x', 'w').write('from inside')\n", bind={tmp_path / "made": "/out"})
    assert (tmp_path / "made/x").read_text() == "from inside"
    words = {"memory_bytes": "memory", "timeout_s": "timeout"}
    given = libc.processes.options(**{words.get(option.name, option.name): () for option in spawn.OPTIONS})
    assert set(given) == set(spawn.BY_NAME)


def test_an_agent_that_ends_before_it_said_what_was_waited_for(own):
    agent = own.spawn("print('something else')\n")
    with pytest.raises(AssertionError, match=r"never wrote 'ready'.*something else"):
        own.until(agent, "ready")


def test_signals_and_the_record(own):
    agent = own.spawn(exec="/bin/sleep", args=["infinity"])
    own.kill(agent, "KILL")
    assert own.wait(agent).status == 137
    assert [row["data"]["signal"] for row in own.trace(agent, "signal")] == ["SIGKILL"]
    assert {row["kind"] for row in own.trace(agent)} >= {"spawn", "signal", "exit"}


def test_output_that_is_missing_is_told():
    class Losing:
        def stream(self, *_args):
            return iter([[1, b"one\n", 1], [0, b"9 bytes were lost: the disk was full", 2], [2, b"two\n", 3]])
    stdout, stderr = Kernel(Path("/nowhere"), Losing()).output(1)
    assert (stdout, stderr) == ("one\n", "agentix: 9 bytes were lost: the disk was full\ntwo\n")
