"""The interpreter of a runtime: where it is, whether it can be trusted, what it says of itself.

A zygote runs it as root. Whoever may write a file of it would be root, so before it is run for the first time, all of
its virtual environment and of its library must be root's.
"""

import glob
import json
import os
import subprocess
import sys
from typing import Any, Final

from attrs import frozen

from agentix_kernel.config import ConfigError, check_path, open_to_others, shown
from agentix_kernel.confine import template
from agentix_kernel.confine.zygotes import ENVIRONMENT, mark, own_packages
from agentix_syscalls import __version__

OLDEST: Final = (3, 11)
_ANSWER_S: Final = 30.0
_QUESTION: Final = f"""
import json, sys
told = [list(sys.version_info[:3])]
if sys.version_info >= {OLDEST}:
    from importlib import metadata
    try:
        agentix = metadata.version("agentix")
    except metadata.PackageNotFoundError:
        agentix = None
    told += [sys.prefix, sys.base_prefix, sys.path, agentix]
print(json.dumps(told))
"""
_SO: Final = "and with it what runs as root; take it from them with chown -R root and chmod -R go-w"


@frozen
class Interpreter:
    """`venv`: the virtual environment's folder, or "". `marks`: see world.Runtime; of the interpreter, pyvenv.cfg and
    the folders of its path, which are others when a package was installed or removed.
    """

    executable: str
    venv: str
    version: str
    folders: tuple[str, ...]
    marks: tuple[tuple[str, tuple[int, ...]], ...]


def own_version() -> str:
    """Of agentd's interpreter."""
    return ".".join(map(str, sys.version_info[:3]))


def look(python: str) -> Interpreter:
    """The interpreter at `python`, or of the virtual environment there. Runs it. Raises ConfigError."""
    executable, venv = _find(python)
    prefixes = [venv, *_library(executable)] if venv else [*_library(executable)]
    check_path(executable, _SO)
    for folder in prefixes:
        check_tree(folder)
    version, prefix, base, path = _ask(python, executable)
    for folder in path:
        if not any(template.within(folder, checked) for checked in (*prefixes, *sys.path)):
            check_tree(folder)
    folders = template.outside_of_usr({prefix, base, *path, *own_packages()})
    for folder in folders:
        ours = template.in_the_way(folder, ())
        if ours is not None:
            raise ConfigError(f"{python}: it lives in {folder}, and {ours} of a sandbox is its own; move it elsewhere, "
                              "such as below /opt or /srv")
    watched = (executable, *((f"{venv}/pyvenv.cfg",) if venv else ()), *path)
    return Interpreter(executable, venv, version, folders, tuple((each, mark(each)) for each in watched))


def check_tree(folder: str) -> None:
    """Nobody but root may change anything in the folder, or in what links in it lead to. Raises ConfigError."""
    check_path(folder, _SO)
    todo, seen = [os.path.realpath(folder)], set[str]()
    while todo:
        at = todo.pop()
        if at in seen or not os.path.isdir(at):
            continue
        seen.add(at)
        with os.scandir(at) as entries:
            todo += filter(None, [_checked(folder, entry) for entry in entries])


def _checked(folder: str, entry: "os.DirEntry[str]") -> str:
    """The folder that it is or leads to, or "". Raises ConfigError."""
    if fault := open_to_others(entry.stat(follow_symlinks=False)):
        raise ConfigError(f"{folder}: others than root may change {entry.path} ({fault}), {_SO}")
    if entry.is_symlink():
        check_path(entry.path, _SO)
        return os.path.realpath(entry.path)
    return entry.path if entry.is_dir(follow_symlinks=False) else ""


def _find(python: str) -> tuple[str, str]:
    """The interpreter's path and its virtual environment's, or ""."""
    venv = python
    if not os.path.isdir(python):
        venv = os.path.dirname(os.path.dirname(python))
        venv = venv if os.path.isfile(f"{venv}/pyvenv.cfg") else ""
    elif not os.path.isfile(f"{python}/pyvenv.cfg"):
        raise ConfigError(f"{python}: not a virtual environment (it has no pyvenv.cfg); make one with python3 -m venv "
                          f"{python}, or name an interpreter")
    executable = f"{python}/bin/python" if os.path.isdir(python) else python
    if not os.path.lexists(python):
        raise ConfigError(f"{python}: no such interpreter or virtual environment; make it: python3 -m venv {python}")
    if not os.access(executable, os.X_OK) or not os.path.isfile(executable):
        raise ConfigError(f"{python}: {executable} is not an executable; make the environment again with python3 -m "
                          f"venv --clear {python}" if venv else f"{python}: not an executable")
    return executable, venv


def _library(executable: str) -> list[str]:
    """The interpreter's own library, which it reads before it runs anybody's line; none if agentd's is the same."""
    base = os.path.dirname(os.path.dirname(os.path.realpath(executable)))
    return [] if base == os.path.realpath(sys.base_prefix) else glob.glob(f"{base}/lib*/python3*")


def _ask(python: str, executable: str) -> tuple[str, str, str, list[str]]:
    """Version, prefix, base prefix and the existing folders of its path."""
    command = [executable, "-IB", "-c", _QUESTION]
    try:
        done = subprocess.run(command, env=ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=_ANSWER_S, check=True)
        told: list[Any] = json.loads(done.stdout)
        version = ".".join(map(str, told[0]))
    except subprocess.CalledProcessError as error:
        last = (error.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {error.returncode}"])[-1]
        raise ConfigError(f"{python}: {executable} does not run: {shown(last)}") from None
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{python}: {executable} is not a Python that answers: {shown(str(error))}") from None
    if tuple(told[0]) < OLDEST:
        raise ConfigError(f"{python}: Python {version}, and agents need {'.'.join(map(str, OLDEST))} or newer")
    _, prefix, base, path, agentix = told
    if agentix not in {None, __version__}:
        raise ConfigError(f"{python}: its agentix is {agentix}, this kernel's {__version__}; install that there, or "
                          "none: the kernel lends its own")
    return version, prefix, base, [folder for folder in path if os.path.isdir(folder)]
