"""agentd, the command."""

import faulthandler
import json
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click
import trio

from agentix_syscalls import __version__

if TYPE_CHECKING:
    from agentix_kernel.boot import Machine

EXIT_REFUSED = 1
LOG_NAME = "agentd.log"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.option("--prefix", metavar="DIR", help="A private kernel: sockets, state and mount below DIR.")
@click.option("--config", "config_path", metavar="FILE",
              help="Configuration (default: DIR/agentd.toml, or the system's).")
@click.option("--daemon/--foreground", default=False,
              help="Go to the background once agents can be spawned; or stay (the default).")
@click.option("--unlisted", is_flag=True, help="Do not let agentctl find it by itself, only by --prefix.")
@click.option("--doctor", is_flag=True, help="Print the matrix of layers of this machine and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --doctor: JSON.")
@click.option("--verify", metavar="DIR", help="Check the journal in DIR, print what was found as JSON, and exit.")
@click.option("--key", metavar="FILE", help="With --verify: its key (default: keys/journal.key beside DIR).")
@click.option("--anchors", metavar="FILE", help="With --verify: what it was anchored in.")
@click.version_option(__version__, prog_name="agentd")
def main(prefix: str | None, config_path: str | None, *, daemon: bool, unlisted: bool, doctor: bool,
         as_json: bool, verify: str | None, key: str | None, anchors: str | None) -> None:
    """Run the kernel for AI agents: in the foreground until SIGTERM, or with
    --daemon in the background.

    \b
    Examples:
      agentd                       the system's kernel (/etc/agentix/agentd.toml)
      agentd --prefix /tmp/k       a private one; then: agentctl --prefix /tmp/k ps
      agentd --doctor              what this machine has, and the remedies

    Exit status: 0 shut down in order, 1 refused to start or failed, 2 usage.
    """  # noqa: D301 - click reads the backspace
    if doctor:
        sys.exit(_doctor(as_json=as_json))
    if verify is not None:
        sys.exit(_verify(verify, key, anchors))
    if sys.flags.optimize:
        _refuse("python -O is not for agentd: its assertions guard hand-over points in production")
    if os.geteuid() != 0:
        _refuse("needs root, to make namespaces, cgroups and uids: run it with sudo")
    from agentix_kernel import faults
    from agentix_kernel.boot import Machine
    from agentix_kernel.config import ConfigError, check_folders, load
    from agentix_kernel.service.log import WARNING, open_log
    from agentix_kernel.service.notify import Manager

    try:
        config = load(prefix, config_path)
        check_folders(config)
        say = open_log()
        if armed := faults.arm(config, os.environ):
            say(f"faults: {armed}", priority=WARNING)
        machine = Machine(config, say, Manager.from_environment(say), listed=not unlisted)
        if daemon:
            _to_background(machine)
        _run(machine)
    except ConfigError as error:
        _refuse(str(error))


def _run(machine: "Machine", ready_fd: int = -1) -> None:
    from agentix_kernel import boot, epitaph
    from agentix_kernel.config import ConfigError
    from agentix_syscalls.errors import CallError

    def ready(_: object) -> None:
        if ready_fd >= 0:
            os.write(ready_fd, b"1")
            os.close(ready_fd)

    if machine.manager.watchdog_s:
        faulthandler.enable()  # its SIGABRT then shows where we hung
    try:
        boot.prepare(machine)
        trio.run(boot.run, machine, ready)
    except (boot.BootError, ConfigError, OSError, CallError) as error:
        _refuse(str(error))
    except BaseExceptionGroup as group:
        _refuse("\n".join(map(epitaph.describe, epitaph.leaves(group))))


def _to_background(machine: "Machine") -> None:
    """Fork; the parent exits 0 once the child is ready, or 1 with the reason in the log."""
    from agentix_kernel.service.log import open_log

    config = machine.config
    os.makedirs(config.state_dir, 0o700, exist_ok=True)
    log_path = f"{config.state_dir}/{LOG_NAME}"
    told_before = os.path.getsize(log_path) if os.path.exists(log_path) else 0
    reader, writer = os.pipe()
    named, name = os.pipe()
    if child := os.fork():
        os.close(writer)
        machine.manager.tell(MAINPID=child)  # while we are the main process, whose word counts
        os.close(name)
        ready = os.read(reader, 1)
        if ready:
            print(f"agentd: ready; its log is {log_path}", file=sys.stderr)
            os._exit(0)
        with open(log_path, "rb") as file:  # a kernel that runs may have written there before
            file.seek(told_before)
            print(file.read().decode("utf-8", "replace"), end="", file=sys.stderr)
        os._exit(EXIT_REFUSED)
    os.close(reader)
    os.close(name)
    os.read(named, 1)  # until the parent has named us
    os.close(named)
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    machine.say = open_log()  # stderr is another one now
    _run(machine, writer)
    os._exit(0)


def _doctor(*, as_json: bool) -> int:
    from agentix_kernel.boot import shown
    from agentix_kernel.layers import lacking, probe_all

    probed = probe_all()
    rows = [shown(row) for row in probed]
    if as_json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"{row['state']:8} {row['layer']:24} {row['detail']}")
            if row["state"] != "on" and row["remedy"]:
                print(f"{'':8} {'':24} remedy: {row['remedy']}")
    return 1 if lacking(probed) else 0


def _verify(folder: str, key: str | None, anchors: str | None) -> int:
    """Judge the journal in a folder that no kernel has to run on; prints one object."""
    from agentix_kernel.journal import anchor, verify, walk
    from agentix_kernel.journal.disk import RealDisk
    from agentix_kernel.journal.key import read_keys

    folder = os.path.abspath(folder)
    try:
        disk = RealDisk(folder, make=False)
        if not walk.numbers(disk):
            _refuse(f"{folder}: no journal is here")
        keys = read_keys(key or f"{os.path.dirname(folder)}/keys/journal.key")
        known = anchor.read(anchors, keys) if anchors is not None else []
        if anchors is not None and not known:
            _refuse(f"{anchors}: no anchor of this journal is there; each is a line that agentctl audit anchor prints")
        report = verify.verify(disk, keys, known)
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    print(json.dumps(report.to_wire()))
    return 0 if report.ok else EXIT_REFUSED


def _refuse(message: str) -> NoReturn:
    from agentix_kernel.service.log import ERR, Journald, is_journal

    if is_journal():
        Journald().say(message, priority=ERR)
    else:
        print(f"agentd: {message}", file=sys.stderr)
    sys.exit(EXIT_REFUSED)
