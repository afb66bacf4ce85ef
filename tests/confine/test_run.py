"""What runs in a sandbox, and how its end is told."""

import errno
import os
import signal

import pytest
import trio

from agentix_kernel.confine import zygote
from agentix_kernel.world import Bind, Ended, LaunchError
from agentix_syscalls.signals import DOORBELL


async def test_script_sees_what_python_would_give_it(lab):
    result = await lab.run("import sys; print(__name__, __file__, sys.argv, sys.path[0])",
                           argv=("/somewhere/job.py", "-x", "é"))
    assert result.text == "__main__ /somewhere/job.py ['/somewhere/job.py', '-x', 'é'] /somewhere\n"
    assert result.ended == Ended(0, None)


async def test_module(lab):
    result = await lab.run(kind="module", argv=("calendar", "2024", "2"))
    assert result.ended == Ended(0, None)
    assert "February 2024" in result.text


async def test_exec(lab):
    result = await lab.run(kind="exec", argv=("sh", "-c", "echo $0 $1; exit 3", "zero", "one"))
    assert (result.ended, result.text) == (Ended(3, None), "zero one\n")


@pytest.mark.parametrize(("source", "code"), [
    ("", 0),
    ("raise SystemExit(7)", 7),
    ("import sys; sys.exit('gone wrong')", 1),
    ("1/0", 1),
    ("def f(:", 1),
    ("import os; os._exit(42)", 42),
])
async def test_exit_codes(lab, source, code):
    assert (await lab.run(source)).ended == Ended(code, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_death_by_signal_is_told_as_a_signal(lab, number):
    result = await lab.run(f"import os; os.kill(os.getpid(), {int(number)})")
    assert result.ended == Ended(None, number)


async def test_interrupt_is_a_keyboard_interrupt(lab):
    running = await lab.launch("import time\ntry:\n print('in', flush=True); time.sleep(100)\n"
                               "except KeyboardInterrupt:\n print('interrupted')")
    assert await running.line() == "in"
    assert running.sandbox.signal(signal.SIGINT)
    assert await running.line() == "interrupted"
    assert await running.sandbox.wait() == Ended(0, None)
    assert not running.sandbox.signal(signal.SIGINT)
    assert not running.sandbox.ring_doorbell()


async def test_traceback_shows_the_lines_of_the_script_and_nothing_of_ours(lab):
    result = await lab.run("def broken():\n    return 1 / 0\n\nbroken()\n", argv=("/x/agent.py",))
    assert result.text == (
        "Traceback (most recent call last):\n"
        '  File "/x/agent.py", line 4, in <module>\n    broken()\n'
        '  File "/x/agent.py", line 2, in broken\n    return 1 / 0\n           ~~^~~\n'
        "ZeroDivisionError: division by zero\n")


async def test_end_is_as_complete_as_an_interpreters(lab):
    """Exit handlers run, threads are waited for, files that nobody closed are flushed."""
    result = await lab.run(
        "import atexit, threading, subprocess, sys, time\n"
        "open_file = open('/tmp/left-open', 'w'); open_file.write('flushed')\n"
        "class Late:\n def __del__(self): print('deleted')\n"
        "late = Late()\n"
        "atexit.register(print, 'exit handler')\n"
        "threading.Thread(target=lambda: print('thread')).start()\n"
        "sys.stdout.write('no newline;')\n")
    assert result.ended == Ended(0, None)
    for expected in ("thread", "exit handler", "no newline;", "deleted"):
        assert expected in result.text


async def test_output_comes_line_by_line(lab):
    running = await lab.launch("import signal; print('first'); signal.pause()")
    assert await running.line() == "first"


async def test_threads_subprocesses_and_randomness_work(lab):
    source = ("import threading, subprocess, random, os, ssl, uuid\n"
              "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
              "print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout.strip())\n"
              "print(random.random(), os.urandom(4).hex(), uuid.uuid4())\n")
    first, second = await lab.run(source), await lab.run(source)
    assert first.text.splitlines()[:2] == ["thread", "child"]
    assert set(first.text.splitlines()[2].split()).isdisjoint(second.text.splitlines()[2].split())


async def test_multiprocessing_works(lab):
    result = await lab.run("import multiprocessing as m\n"
                           "with m.Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n")
    assert result.text == "[1, 2]\n"


@pytest.mark.parametrize(("argv", "number"), [
    (("no-such-program",), errno.ENOENT),
    (("/no/such/program",), errno.ENOENT),
    (("/etc/passwd",), errno.EACCES),
    (("/usr",), errno.EACCES),
])
async def test_exec_that_cannot_be_is_told_before_launch_returns(lab, argv, number):
    with pytest.raises(LaunchError) as caught:
        await lab.launch(kind="exec", argv=argv)
    assert (caught.value.number, caught.value.stage) == (number, "exec")
    assert argv[0] in caught.value.message


async def test_program_for_another_machine_is_enoexec(lab, tmp_path):
    program = tmp_path / "foreign"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(200))  # RISC-V
    program.chmod(0o755)
    with program.open("rb") as source, pytest.raises(LaunchError) as caught:
        await lab.launch(kind="exec", argv=("/data/foreign",), binds=(
            Bind(source.fileno(), "/data/foreign", writable=False, source=str(program)),))
    assert (caught.value.number, caught.value.stage) == (errno.ENOEXEC, "exec")


async def test_module_that_is_not_there_is_told_before_launch_returns(lab):
    with pytest.raises(LaunchError) as caught:
        await lab.launch(kind="module", argv=("no_such_module.main",))
    assert (caught.value.number, caught.value.stage) == (errno.ENOENT, "exec")


async def test_cwd_that_is_not_there(lab):
    with pytest.raises(LaunchError) as caught:
        await lab.launch("pass", cwd="/nowhere")
    assert (caught.value.number, caught.value.stage) == (errno.ENOENT, "cwd")


async def test_large_source_and_environment_and_argv(lab):
    source = "# " + "x" * (1 << 20) + "\nimport os, sys; print(len(os.environ['BIG']), len(sys.argv[1]))\n"
    result = await lab.run(source, env={"BIG": "e" * 100_000}, argv=("/big.py", "a" * 100_000))
    assert result.text == "100000 100000\n"


async def test_environment_is_exactly_what_it_should_be(lab, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_KERNEL", "1")
    result = await lab.run("import os; print(sorted(os.environ.items()))", env={"MINE": "ü"}, tag="77.3")
    assert result.text == str(sorted({
        "AGENTIX_ID": "77", "HOME": "/tmp", "LANG": "C.UTF-8", "MINE": "ü", "PATH": "/usr/local/bin:/usr/bin:/bin",
        "USER": "agent"}.items())) + "\n"
    exec_result = await lab.run(kind="exec", argv=("/usr/bin/env",))
    assert sorted(line.partition("=")[0] for line in exec_result.text.split()) == [
        "AGENTIX_ID", "HOME", "LANG", "PATH", "USER"]


@pytest.mark.parametrize("kind", ["script", "exec"])
async def test_nothing_but_standard_descriptors_is_open(lab, kind):
    secret = os.open("/", os.O_PATH)  # inheritable ones of the kernel must not get through either
    os.set_inheritable(secret, True)
    try:
        if kind == "script":
            result = await lab.run("import os; print(sorted(os.listdir('/proc/self/fd'), key=int)[:-1])")
            assert result.text == "['0', '1', '2']\n"
        else:
            result = await lab.run(kind="exec", argv=("sh", "-c", "echo /proc/self/fd/*; echo /proc/1/fd/*"))
            # 3 is the shell's own reading of the directory; init's files are not to be read at all.
            assert result.text in ("/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n/proc/1/fd/*\n",
                                   "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2\n/proc/1/fd/*\n")
    finally:
        os.close(secret)


async def test_standard_input(lab):
    read, write = os.pipe()
    try:
        running = await lab.launch(kind="exec", argv=("cat",), stdin_fd=read)
        os.write(write, b"through\n")
    finally:
        os.close(read)
        os.close(write)
    assert await running.rest() == "through\n"
    assert (await lab.run("import sys; print(repr(sys.stdin.read()))")).text == "''\n"


async def test_doorbell_before_libc_is_ready_kills_nobody(lab):
    running = await lab.launch("import signal; print(signal.getsignal(signal.SIGRTMIN + 1) == signal.SIG_IGN)\n"
                               "signal.pause()")
    assert running.sandbox.ring_doorbell()
    assert await running.line() == "True"
    assert running.sandbox.ended is None
    program = await lab.launch(kind="exec", argv=("sleep", "1000"))
    for _ in range(10):
        assert program.sandbox.ring_doorbell()
    assert program.sandbox.ended is None
    assert int(DOORBELL) == int(zygote.DOORBELL) == 35


async def test_orphans_are_reaped(lab):
    source = ("import os, time\n"
              "read, write = os.pipe()\n"
              "for _ in range(20):\n"
              " if os.fork() == 0:\n"
              "  if os.fork() == 0: os._exit(0)\n"  # the grandchild's parent is gone: pid 1 gets it
              "  os._exit(0)\n"
              " os.wait()\n"
              "def there(): return [p for p in os.listdir('/proc') if p.isdigit()]\n"
              "while there() != ['2']: time.sleep(0.001)\n"  # a zombie that nobody reaps would stay
              "print(there())\n")
    assert (await lab.run(source)).text == "['2']\n"


async def test_pid_is_the_hosts(lab):
    running = await lab.launch("import signal; print('in'); signal.pause()")
    await running.line()
    status = await trio.Path(f"/proc/{running.sandbox.pid}/status").read_text()
    assert f"NSpid:\t{running.sandbox.pid}\t2\n" in status
    assert set(running.sandbox.pids()) == {running.sandbox.pid, running.sandbox.init_pid}


async def test_thirty_at_once(lab):
    results = []

    async def one() -> None:
        results.append((await lab.run("print('x')")).ended)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(one)
    assert results == [Ended(0, None)] * 30


async def test_dispositions_of_whoever_started_the_kernel_are_not_inherited(open_lab):
    ignored = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}  # as nohup does, and a shell in the background
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        async with open_lab() as lab:
            program = await lab.launch(kind="exec", argv=("/bin/cat", "/proc/self/status"))
            status = dict(line.split(":\t", 1) for line in (await program.rest()).splitlines())
            asked = await lab.run("import signal\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [number for number in ignored if int(status["SigIgn"], 16) >> number - 1 & 1] == []
    assert asked.text == "True\n"
