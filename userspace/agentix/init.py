"""pid 1 of a sandbox, and the start of the agent as its pid 2.

The zygote calls `main` in a process that is confined already. Standard library alone, and little of it: an init runs
beside every agent. It reaps what is orphaned, tells how the agent ended, and ends with it, whereupon Linux kills
whatever else lives in the pid namespace. When the kernel's end of the leash closes, it ends at once.
"""

import contextlib
import errno
import importlib.util
import linecache
import os
import runpy
import select
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, Final, NoReturn

_PANIC: Final = 128 + signal.SIGKILL


def main(leash: int, listener: int, stdio: tuple[int, int, int], job: dict[str, Any],
         enter: Callable[[], None]) -> None:
    """Fork the agent that `job` (kind, argv, source, env) describes and look after it.

    Never returns in pid 1. In the agent it returns, or raises what the program raised, so that the interpreter ends
    as it always does: exit handlers, buffers, exit status. `enter` undoes in the agent what holds for the init only.
    """
    told, tell = os.pipe()
    agent = os.fork()
    if agent == 0:
        _prepare(stdio, job["env"], tell, enter)
        _run(job, 3)
        return
    os.chdir("/")
    os.close(tell)
    _look_after(agent, leash, listener, told, waiting=job["kind"] != "script")


# The agent.


def _prepare(stdio: tuple[int, int, int], env: dict[str, str], tell: int, enter: Callable[[], None]) -> None:
    """A session, standard descriptors and environment of its own (the zygote has none).

    Descriptor 3 is the pipe to the init; all others are closed.
    """
    os.setsid()
    enter()
    for number, fd in enumerate((*stdio, tell)):
        if fd != number:  # all that is not in its place already is 3 or higher, so nothing is lost before it is copied
            os.dup2(fd, number, inheritable=number < 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    for name, value in env.items():  # not update(): its search for a mapping's ways touches eighty pages
        os.environ[name] = value


def _run(job: dict[str, Any], tell: int) -> None:
    kind, argv = job["kind"], job["argv"]
    if kind == "exec":
        _exec(argv, tell)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.excepthook = sys.__excepthook__ = _hook(module)
    sys.argv[:] = argv
    if kind == "module":
        _run_module(argv[0], tell)
    else:
        os.close(tell)
        _run_script(module, argv[0], job["source"])


def _exec(argv: list[str], tell: int) -> NoReturn:
    """The pipe closes with a successful exec; before it, an errno goes through."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python; a program expects the default
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        _report(tell, error.errno or errno.EIO, f"{argv[0]}: {error.strerror}")
    except ValueError as error:
        _report(tell, errno.EINVAL, f"{argv[0]!r}: {error}")
    os._exit(127)


def _report(tell: int, number: int, message: str) -> None:
    os.write(tell, f"{number} {message}".encode("utf-8", "replace")[:2048])


def _run_script(module: types.ModuleType, path: str, source: bytes) -> None:
    """As `python path` would, had the file been there: tracebacks show its lines."""
    module.__dict__.update(__file__=path, __builtins__=__builtins__, __cached__=None)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    linecache.cache[path] = (lambda: importlib.util.decode_source(source),)
    exec(compile(source, path, "exec"), module.__dict__)


def _run_module(name: str, tell: int) -> None:
    """As `python -m name` would. Only the top package is looked for here: to look for more is to run its code."""
    sys.path.insert(0, os.getcwd())
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        _report(tell, errno.ENOENT, f"no module named {name!r}")
        os._exit(127)
    os.close(tell)
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]  # what `python -m` itself calls; no public twin


def _hook(module: types.ModuleType) -> Callable[..., None]:
    """An excepthook that leaves out the frames below the program, and finds the lines of a script in memory."""

    def show(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        first = trace
        while first is not None and first.tb_frame.f_globals is not module.__dict__:
            first = first.tb_next
        traceback.print_exception(kind, error, first)

    return show


# The init.


def _look_after(agent: int, leash: int, listener: int, told: int, *, waiting: bool) -> NoReturn:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _nothing)  # for the wake-up alone
    channel = socket.socket(fileno=leash)
    _introduce(channel, agent, listener, waiting=waiting)
    _close_others(leash, told, wake_read, wake_write)
    if waiting:
        _await_start(channel, told)
    _reap(channel, agent, wake_read)


def _terminated(_signal: int, _frame: types.FrameType | None) -> None:
    os._exit(128 + signal.SIGTERM)


def _nothing(_signal: int, _frame: types.FrameType | None) -> None:
    """A signal must have a handler for the wake-up descriptor to be written."""


def _introduce(channel: socket.socket, agent: int, listener: int, *, waiting: bool) -> None:
    pidfd = os.pidfd_open(agent)
    _tell(channel, b"agent waiting" if waiting else b"agent ready", [fd for fd in (listener, pidfd) if fd >= 0])


def _tell(channel: socket.socket, line: bytes, fds: list[int] | None = None) -> None:
    try:
        socket.send_fds(channel, [line], fds or [])
    except OSError:  # nobody holds the other end: the kernel is gone
        os._exit(_PANIC)


def _close_others(*kept: int) -> None:
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def _await_start(channel: socket.socket, told: int) -> None:
    """Until the agent has become its program (end of file), or has said why it cannot."""
    poll = select.poll()
    poll.register(channel, select.POLLHUP)
    poll.register(told, select.POLLIN)
    ready: set[int] = set()
    while told not in ready:
        ready = {fd for fd, _ in poll.poll()}
        if channel.fileno() in ready:
            os._exit(_PANIC)
    report = os.read(told, 4096)
    os.close(told)
    if report:
        number, _, message = report.partition(b" ")
        _tell(channel, b"error %s exec %s" % (number, message))
        os._exit(127)
    _tell(channel, b"ready")


def _reap(channel: socket.socket, agent: int, wake: int) -> NoReturn:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        _wait_children(channel, agent)
        if any(fd == channel.fileno() for fd, _ in poll.poll()):
            os._exit(_PANIC)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 512)


def _wait_children(channel: socket.socket, agent: int) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == agent:
                _tell(channel, b"ended %d" % ended[1])
                code = os.waitstatus_to_exitcode(ended[1])
                os._exit(code if code >= 0 else 128 - code)
