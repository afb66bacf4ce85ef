"""run, spawn and restart: start an agent from what the command line says, or as it was started before."""
# ruff: noqa: ARG002 - the signatures of overridden methods are click's

import contextlib
import errno
import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from agentix.agentctl import foreground, private, terminal
from agentix.agentctl.agents import each
from agentix.agentctl.cli import (
    AGENTIX_FAILED,
    NOT_EXECUTABLE,
    NOT_FOUND,
    USAGE,
    Failure,
    Verb,
    Which,
    explain,
    patiently,
    read_agent,
    verb,
)
from agentix.agentctl.format import print_json, read_duration, read_size
from agentix.agentctl.policies import complaints
from agentix.agentctl.policies import offer as offer_policies
from agentix.agentctl.policies import read as read_policy
from agentix.control import Client
from agentix_syscalls import spawn as table
from agentix_syscalls import types
from agentix_syscalls.errors import CallError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from agentix_syscalls.spawn import Option

SOURCE_MAX_BYTES: Final = (16 << 20) - (256 << 10)
"""A script's size: the cap of a control request, less what arguments and options may take."""
_BINDS: Final = {"bind_ro": "Show a host file or folder inside, read-only.",
                 "bind": "Show a host folder of your own inside, writable."}


_SWITCHES: Final = {types.boolean, table.terminal}
"""Types of options that take no value on the command line."""


class Command(NamedTuple):
    """What to run: the kind as in spawn.KINDS, and the words."""

    kind: str
    argv: list[str]


class LaunchVerb(Verb):
    """A verb whose command line ends in SCRIPT [ARGS...], -m MODULE [ARGS...] or -- CMD [ARGS...]."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Cut the command off before click reads the options: all that follows is the agent's."""
        valued = {word for param in self.params if isinstance(param, click.Option) and not param.is_flag
                  for word in param.opts}
        options, command = split(args, valued)
        rest = super().parse_args(ctx, options)
        if not command.argv and not ctx.resilient_parsing:
            raise click.UsageError("What to run is missing: SCRIPT, -m MODULE or -- CMD.", ctx)
        ctx.params["command"] = command
        return rest

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        options = super().shell_complete(ctx, incomplete)
        return options if incomplete.startswith("-") else [*options, CompletionItem(incomplete, type="file")]

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "SCRIPT|-m MODULE|-- CMD", "[ARGS]..."]


def split(args: list[str], valued: set[str]) -> tuple[list[str], Command]:
    """The options, and the command after them. `valued` are the options that take the next word as their value."""
    at = 0
    while at < len(args):
        word = args[at]
        if word == "--":
            return args[:at], Command("exec", args[at + 1:])
        if word == "-m":
            return args[:at], Command("module", args[at + 1:])
        if not word.startswith("-"):
            return args[:at], Command("script", args[at:])
        at += 2 if word in valued else 1
    return args, Command("script", [])


def _click_type(option: "Option") -> Any:
    if option.name.endswith("_bytes"):
        return read_size
    if option.name.endswith("_s"):
        return read_duration
    if option.type is types.positive:
        return click.FLOAT
    return click.INT if option.type in {types.uint, table.pids} else click.STRING


def _options() -> Iterator[click.Option]:
    """The options of a spawn, as their table has them."""
    for option in table.OPTIONS:
        if option.type in _SWITCHES:
            yield click.Option([option.flag, option.name], is_flag=True, help=_sentence(option.doc))
            continue
        for flag in filter(None, option.flag.split(", ")):
            word, metavar = flag.split(" ")
            binds = option.name == "binds"
            name = word.removeprefix("--").replace("-", "_") if binds else option.name
            yield click.Option(
                [word, name], metavar=metavar, type=_click_type(option),
                multiple=binds or option.type in {types.environ, types.texts},
                shell_complete=offer_policies if option.type is table.policy else None,
                help=_BINDS[name] if binds else _sentence(_at_the_shell(option)))


def _at_the_shell(option: "Option") -> str:
    return f"{option.doc}, or as in 5m" if option.name.endswith("_s") else option.doc


def _sentence(doc: str) -> str:
    return doc[0].upper() + doc[1:] + "."


def spawn_options(command: Verb) -> Verb:
    command.params[:0] = _options()
    return command


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a spawn from those of the command line, checked against the table. Raises UsageError."""
    given = {name: value for name, value in options.items() if value not in (None, ()) and value is not False}
    if "terminal" in given:
        given["terminal"] = terminal.size()
        given["env"] = (*given.get("env", ()), f"TERM={os.environ.get('TERM', 'dumb')}")
    if "env" in given:
        given["env"] = dict(variable(word) for word in given["env"])
    if "policy" in given:
        given["policy"] = read_policy(given["policy"])
    for name, value in given.items():
        check_option(name, value)
    return given


def check_option(name: str, value: Any) -> None:
    """Check the value of an option of a spawn as its table says. Raises UsageError, which names the flag."""
    try:
        table.BY_NAME[name].type(value)
    except types.BadArgument as bad:
        raise click.UsageError(f"{table.word(name)}: {bad}.") from None


def variable(word: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME alone for the value that it has here."""
    name, sign, value = word.partition("=")
    if not sign and name not in os.environ:
        raise click.UsageError(f"--env {word}: there is no such variable here; write NAME=VALUE.")
    return name, value if sign else os.environ[name]


def _open_bind(word: str, *, writable: bool, files: contextlib.ExitStack) -> tuple[list[Any], int]:
    """[target, writable, source] of HOST:PATH, and a descriptor opened with the rights of whoever runs this."""
    source, _, target = word.rpartition(":")
    if not source or not target.startswith("/"):
        raise click.UsageError(f"--bind {word}: wants HOST:PATH, PATH absolute.")
    return [target, writable, os.path.abspath(source)], _open_source(source, writable=writable, files=files)


def _open_source(source: str, *, writable: bool, files: contextlib.ExitStack) -> int:
    try:
        fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"{source}: {error.strerror}", AGENTIX_FAILED) from None
    files.callback(os.close, fd)
    if writable and os.geteuid() not in {0, os.fstat(fd).st_uid}:
        raise Failure(f"{source}: not yours, so not to be bound writable", AGENTIX_FAILED, "bind it with --bind-ro")
    return fd


def open_shown(client: Client, policy: tuple[str, bytes | None] | None,
               files: contextlib.ExitStack) -> tuple[list[list[Any]], list[int]]:
    """What the binds of a policy's file name, as _open_bind gives it. Raises Failure, and CallError for a bad file."""
    if policy is None or b"binds" not in (policy[1] or b""):  # to read it takes time, and most show nothing
        return [], []
    rows = client.call("policy_check", policy)["binds"]
    return ([[row["at"], row["writable"], row["host"]] for row in rows],
            [_open_source(row["host"], writable=row["writable"], files=files) for row in rows])


def read_script(path: str) -> bytes:
    """The text of a script, read with the rights of whoever runs this. Raises Failure (127, 126, 125)."""
    try:
        with open(path, "rb") as script:
            source = script.read(SOURCE_MAX_BYTES + 1)
    except OSError as error:
        missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
        remedy = f"for a program of the sandbox write -- before it: -- {path}" if missing and "/" not in path else ""
        raise Failure(f"{path}: {error.strerror}", NOT_FOUND if missing else NOT_EXECUTABLE, remedy) from None
    if len(source) > SOURCE_MAX_BYTES:
        raise Failure(f"{path}: over {SOURCE_MAX_BYTES >> 10} KiB, the most that a request to the kernel carries",
                      AGENTIX_FAILED, "put the data into a file and show it with --bind-ro")
    first = source[:256].split(b"\n", 1)[0]
    if first.startswith(b"\x7fELF") or (first.startswith(b"#!") and b"python" not in first):
        raise Failure(f"{path}: not a Python script", NOT_EXECUTABLE,
                      f"for a program of the sandbox write -- before it: -- {path}; another is shown inside: "
                      f"--bind-ro {path}:/opt/program -- /opt/program")
    return source


@contextlib.contextmanager
def _prepared(command: Command, options: dict[str, Any]) -> Generator[tuple[dict[str, Any], list[int]], None, None]:
    """Options complete with the script's text and the binds, and the descriptors of these; closed at the end."""
    binds = [(word, name == "bind") for name in _BINDS for word in options.pop(name)]
    given = _given(options)
    with contextlib.ExitStack() as files:
        if command.kind == "script":
            given["source"] = read_script(command.argv[0])
        opened = [_open_bind(word, writable=writable, files=files) for word, writable in binds]
        if opened:
            given["binds"] = [bind for bind, _ in opened]
        yield given, [fd for _, fd in opened]


_STATUSES: Final = {errno.ENOENT: NOT_FOUND, errno.ENOEXEC: NOT_EXECUTABLE, errno.EACCES: NOT_EXECUTABLE,
                    errno.EINVAL: USAGE}
"""The kernel's own judgement of a word, such as a --deny, is as good as ours: the command line is wrong."""


def _spawn(client: Client, command: Command, given: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    try:
        with contextlib.ExitStack() as files:
            shown, more = open_shown(client, given.get("policy"), files)
            if shown:
                given = {**given, "binds": [*given.get("binds", ()), *shown]}
            spawned: dict[str, Any] = client.call("spawn", command.kind, command.argv, given, descriptors=[*fds, *more])
    except CallError as error:
        said = complaints(error) if "policy" in given and "\n" in error.message else explain(error)
        raise Failure(said, _STATUSES.get(error.number, AGENTIX_FAILED)) from None
    return spawned


@spawn_options
@verb(cls=LaunchVerb, failure=AGENTIX_FAILED, examples=(
    ("agentctl run agent.py --verbose", "a Python script, with an argument of its own"),
    ("agentctl run --memory 1G --bind-ro .:/m --cwd /m -m bot", "a module of this folder"),
    ("agentctl run --bind-ro ~/data:/data -- bash -c 'ls /data'", "any program of the sandbox"),
))
@click.option("--rm", "remove", is_flag=True, help="Remove the agent and its files when it has ended.")
def run(which: Which, command: Command, *, remove: bool, **options: Any) -> int:
    """Run an agent in the foreground: its stdout and stderr come out here, its exit status is that of agentctl.

    Ctrl-C sends SIGINT to the agent, a second one within two seconds SIGKILL.
    With -it it has your terminal, which Ctrl-P Ctrl-Q gives back while it goes on.
    When no kernel is running and you are root, a private one is started for this one agent.
    """
    keyboard = foreground.Keyboard(feed=options["stdin"], terminal=options["stdin"] and options["terminal"])
    if keyboard.terminal:
        terminal.want_terminal()
    with _prepared(command, options) as (given, fds), private.kernel(which) as chosen:
        return foreground.attend(chosen, lambda client: _spawn(client, command, given, fds), keyboard, remove=remove)


@spawn_options
@verb(cls=LaunchVerb, failure=AGENTIX_FAILED, examples=(
    ("agentctl spawn --name scout agent.py", "prints the id of the new agent"),
    ("agentctl wait $(agentctl spawn bot.py)", "the same as run, without the output"),
))
@click.option("--json", "as_json", is_flag=True, help="Print id, life, name and uid as JSON.")
def spawn(which: Which, command: Command, *, as_json: bool, **options: Any) -> None:
    """Start an agent in the background and print its id. Its output is kept: see agentctl logs."""
    with _prepared(command, options) as (given, fds), which.connect() as client:
        spawned = _spawn(client, command, given, fds)
    print_json(spawned) if as_json else click.echo(spawned["id"])


@verb(examples=(
    ("agentctl restart scout", "SIGTERM, its end, and its next life"),
    ("agentctl restart 7 8", "also agents that have ended"),
))
@click.argument("agents", metavar="AGENT...", type=read_agent, nargs=-1, required=True)
def restart(which: Which, agents: tuple[int | str, ...]) -> int:
    """End agents that live and run them again as they were started; those that have ended, too.

    SIGTERM comes first, then, after stop_timeout_s, the proven kill. What is bound is opened anew, by you.
    """
    with which.connect() as client:
        def again(agent: int | str) -> None:
            with contextlib.ExitStack() as files:
                binds = client.call("inspect", agent)["binds"]
                fds = [_open_source(bind["source"], writable=bind["writable"], files=files) for bind in binds]
                with patiently(f"{agent} is asked to end (SIGTERM), and killed if it does not"):
                    client.call("restart", agent, len(fds), descriptors=fds)
        return each(agents, again)
