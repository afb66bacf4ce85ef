"""How a process of a sandbox becomes its program: session, descriptors, terminal, then the program itself."""

import errno
import fcntl
import importlib.util
import linecache
import os
import runpy
import signal
import struct
import sys
import termios
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

TELL: Final = 3
"""Where a process that becomes a program has the pipe on which it says why it cannot; closed by its exec."""


def open_terminal(size: tuple[int, int]) -> tuple[int, int]:
    """A new terminal of this sandbox, `size` being (rows, columns): the descriptors of (master, slave)."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
    return master, slave


def prepare(stdio: Sequence[int], tell: int, enter: Callable[[], None], *, terminal: bool) -> None:
    """A session and standard descriptors of its own (the zygote has none), and a controlling terminal.

    TELL is the pipe to the init; all others are closed.
    """
    os.setsid()
    enter()
    for number, fd in enumerate((*stdio, tell)):
        if fd != number:  # all that is not in its place already is 3 or higher, so nothing is lost before it is copied
            os.dup2(fd, number, inheritable=number < TELL)
    os.closerange(TELL + 1, os.sysconf("SC_OPEN_MAX"))
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def run(job: dict[str, Any], tell: int) -> None:
    """Be what `job` (kind, argv, source, env) describes; see agentix.init.main."""
    for name, value in job["env"].items():  # not update(): its search for a mapping's ways touches eighty pages
        os.environ[name] = value
    kind, argv = job["kind"], job["argv"]
    if kind == "exec":
        become(argv, os.environ, tell)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.excepthook = sys.__excepthook__ = _hook(module)
    sys.argv[:] = argv
    if kind == "module":
        _run_module(argv[0], tell)
    else:
        os.close(tell)
        _run_script(module, argv[0], job["source"])


def become(argv: list[str], env: Mapping[str, str], tell: int) -> NoReturn:
    """The pipe closes with a successful exec; before it, an errno goes through."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python; a program expects the default
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        report(tell, error.errno or errno.EIO, f"{argv[0]}: {error.strerror}")
    except ValueError as error:
        report(tell, errno.EINVAL, f"{argv[0]!r}: {error}")
    os._exit(127)


def report(tell: int, number: int, message: str) -> None:
    """Say why it cannot: an errno and a sentence."""
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
        report(tell, errno.ENOENT, f"no module named {name!r}")
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
