"""Runtimes as sandboxes have them: another interpreter's zygote, kept ready, replaced, and in nobody's way."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import msgpack
import pytest
import trio
import trio.testing
from attrs import evolve
from emulation import WAIT_S

from agentix_kernel.confine import zygotes
from agentix_kernel.runtimes.interpreter import look
from agentix_kernel.world import LaunchError, Readiness, Runtime

SLEEPER = "import signal; print('in', flush=True)\nwhile True: signal.pause()"
PACKAGES = f"lib/python3.{sys.version_info.minor}/site-packages"


@pytest.fixture
def venv(tmp_path):
    path = tmp_path / "venv"
    subprocess.run([os.path.realpath(sys.executable), "-m", "venv", "--without-pip", path], check=True)
    return path


def of(venv, **more) -> Runtime:
    found = look(str(venv))
    return Runtime("other", found.executable, found.venv, folders=found.folders, marks=found.marks, **more)


async def until(condition):
    """Bounded retry for what tells no event."""
    with trio.fail_after(WAIT_S):
        while not (found := condition()):  # noqa: ASYNC110 - nobody can set an event for it
            await trio.sleep(0.005)
    return found


async def test_a_venv_without_our_packages_is_confined_as_ours_is(lab, venv, tmp_path):
    """Of another minor version, as far as that can be had: no compiled module of ours is for it."""
    packages = venv / PACKAGES
    (packages / "prctl.py").write_text("raise ImportError('compiled for another version')")
    shutil.copytree(os.path.dirname(msgpack.__file__), packages / "msgpack", ignore=shutil.ignore_patterns("*.so"))
    (packages / "its_own.py").write_text("print('imported by root')")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "note").write_text("shown")
    runtime = of(venv, preload=("its_own",), binds=((f"{tmp_path}/data", "/data"),), env=(("A", "1"), ("B", "1")))
    running = await lab.launch(
        "import os, sys, msgpack\n"
        "print(sys.prefix, 'its_own' in sys.modules, msgpack.__file__, open('/data/note').read(),"
        "os.environ['A'] + os.environ['B'], os.environ['VIRTUAL_ENV'], os.environ['PATH'].split(':')[0])\n"
        "for path in ('/data/x', sys.prefix + '/x'):\n"
        "    try: open(path, 'w')\n    except OSError as error: print(error.strerror)\n"
        "import agentix.libc\n" + SLEEPER, runtime=runtime, env={"B": "2"})
    assert await running.line() == f"{venv} True {packages}/msgpack/__init__.py shown 12 {venv} {venv}/bin"
    assert [await running.line(), await running.line()] == ["Read-only file system"] * 2
    assert await running.line() == "in"
    rows = await trio.to_thread.run_sync(lab.sandboxes.verify, running.sandbox)
    assert {row["state"] for row in rows if row["layer"] != "user namespace"} <= {"on"}, rows
    assert not list(venv.glob("**/__pycache__/its_own*")), "root writes nothing into it"
    result = await lab.run(kind="exec", argv=("python", "-c", "import sys; print(sys.prefix)"), runtime=runtime)
    assert result.text == f"{venv}\n"


async def test_what_is_kept_is_ready_before_it_is_asked_for_and_again_when_it_dies(lab):
    runtime, told = Runtime("kept", preload=("calendar",)), []
    lab.sandboxes.ready.told = lambda profile: told.append(profile.runtime.name)
    lab.sandboxes.keep((runtime,))
    first = (await until(lambda: (ready := lab.sandboxes.readiness(runtime)).state == "ready" and ready)).pid
    running = await lab.launch(SLEEPER + "\n", runtime=runtime)
    assert await running.line() == "in"
    assert list(lab.sandboxes.zygotes.pids.values()) == [first]
    os.kill(first, signal.SIGKILL)
    second = (await until(lambda: (ready := lab.sandboxes.readiness(runtime)).pid not in {0, first} and ready)).pid
    assert first not in children()
    assert running.sandbox.ended is None
    result = await lab.run("import sys; print('calendar' in sys.modules)", runtime=runtime)
    assert result.text == "True\n"
    assert list(lab.sandboxes.zygotes.pids.values()) == [second]
    assert told == ["kept", "kept"]


async def test_what_is_kept_no_more_ends_and_its_agents_live_on(lab):
    runtime = Runtime("kept", preload=("calendar",))
    lab.sandboxes.keep((runtime,))
    running = await lab.launch(SLEEPER, runtime=runtime)
    assert await running.line() == "in"
    await lab.run("pass")
    assert len(lab.sandboxes.zygotes.pids) == 2
    pid = lab.sandboxes.readiness(runtime).pid
    lab.sandboxes.keep((newer := evolve(runtime, serial=1),))
    await until(lambda: not os.path.exists(f"/proc/{pid}") and lab.sandboxes.readiness(newer).state == "ready")
    assert running.sandbox.ended is None
    lab.sandboxes.keep(())
    await until(lambda: len(lab.sandboxes.zygotes.pids) == 1)
    assert (await lab.run("print('default')")).text == "default\n"


async def test_a_module_that_cannot_be_imported_is_said_with_its_own_error(lab, venv, monkeypatch):
    (venv / PACKAGES / "broken.py").write_text("raise RuntimeError('no licence')")
    broken, missing = of(venv, preload=("broken",)), Runtime("missing", preload=("no_such_module",))
    lab.sandboxes.keep((broken, missing))
    await until(lambda: lab.sandboxes.readiness(broken).state == lab.sandboxes.readiness(missing).state == "failed")
    assert lab.sandboxes.readiness(broken) == Readiness("failed", 0, "RuntimeError: no licence")
    with pytest.raises(LaunchError, match="other: RuntimeError: no licence") as caught:
        await lab.launch("pass", runtime=broken)
    assert caught.value.stage == "runtime"
    with pytest.raises(LaunchError, match="missing: ModuleNotFoundError: No module named 'no_such_module'"):
        await lab.sandboxes.prepare(missing)
    (venv / PACKAGES / "broken.py").write_text("")
    with pytest.raises(LaunchError, match="no licence"):
        await lab.launch("pass", runtime=broken)  # not tried again at once, whoever asks
    monkeypatch.setattr(zygotes, "RETRY_S", 0.0)
    assert (await lab.run("print('mended')", runtime=broken)).text == "mended\n"
    assert lab.sandboxes.readiness(broken).state == "ready"


async def test_a_slow_import_holds_up_nobody_else_and_is_ended_when_it_is_given_up(lab, venv, tmp_path):
    os.mkfifo(tmp_path / "gate")
    (venv / PACKAGES / "slow.py").write_text(f"open({str(tmp_path / 'gate')!r}).read()")
    runtime = of(venv, preload=("slow",))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.sandboxes.prepare, runtime)
            assert (await lab.run("print('quick')")).text == "quick\n"
            pid = await until(lambda: next(filter(lambda child: str(venv) in command(child), children()), 0))
            scope.cancel()
    await until(lambda: not os.path.exists(f"/proc/{pid}"))


async def test_what_has_changed_is_not_run_before_it_was_looked_at(lab, venv):
    """Once root has removed a venv in a folder of all, as /tmp, anybody may put theirs in its place."""
    runtime = of(venv)
    lab.sandboxes.keep((runtime,))
    ready = await until(lambda: (ready := lab.sandboxes.readiness(runtime)).state == "ready" and ready)
    shutil.rmtree(venv)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(f"#!/bin/sh\ntouch {venv}/ran\n")
    (venv / "bin" / "python").chmod(0o755)
    os.kill(ready.pid, signal.SIGKILL)
    failed = await until(lambda: (now := lab.sandboxes.readiness(runtime)).state == "failed" and now)
    assert "changed since it was looked at" in failed.detail
    with pytest.raises(LaunchError, match="changed since it was looked at"):
        await lab.launch("pass", runtime=runtime)
    assert not (venv / "ran").exists()


def command(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/cmdline") as file:
        return file.read()
    return ""


def children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


async def test_the_spare_is_of_the_runtime_that_was_asked_for_last(lab):
    runtime = Runtime("kept", preload=("calendar",))
    for number, (wanted, spared) in enumerate([(runtime, False), (runtime, True), (runtime, True)]):
        tag = f"95{number}.1"
        lab.sandboxes.expect(tag)
        made = await until(lambda tag=tag: (there := lab.sandboxes.spare.sandbox) and there.group.tag == tag and there)
        running = await lab.launch(SLEEPER, tag=tag, runtime=wanted)
        assert (running.sandbox is made) is spared
        assert await running.line() == "in"


async def test_nothing_may_be_bound_over_what_a_runtime_shows(lab, tmp_path):
    from agentix_kernel.world import Bind

    runtime = Runtime("kept", binds=((str(tmp_path), "/data"),), folders=("/opt/python",))
    fd = os.open(tmp_path, os.O_PATH)
    try:
        for target in ("/data", "/data/x", "/opt", "/opt/python/lib"):
            with pytest.raises(LaunchError, match="the sandbox's own"):
                await lab.launch("pass", runtime=runtime, binds=(Bind(fd, target, writable=False, source="x"),))
    finally:
        os.close(fd)
