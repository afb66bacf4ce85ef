"""The command line: which verbs there are, which kernel is meant, how errors look, what the exit statuses are."""
# ruff: noqa: ARG002 - the signatures of overridden methods are click's

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from agentix.control import Client

class ExitStatus(NamedTuple):
    """One row: the status, the verbs that it is special to (none: all), what it means."""

    status: str
    verbs: tuple[str, ...]
    doc: str


EXIT_STATUSES: Final = (
    ExitStatus("0", (), "done"),
    ExitStatus("1", (), "the operation failed, or what was checked is not as it should be"),
    ExitStatus("2", (), "the command line is wrong"),
    ExitStatus("3", ("policy",), "policy set: it needs a restart, which --now does; nothing has changed"),
    ExitStatus("124", ("wait",), "the time given is over, and the agent still there"),
    ExitStatus("125", ("run", "spawn", "exec", "attach", "wait"), "Agentix failed, not the agent"),
    ExitStatus("126", ("run", "spawn", "exec"), "found, but not executable or not readable"),
    ExitStatus("127", ("run", "spawn", "exec"), "not found"),
    ExitStatus("130", (), "Ctrl-C"),
    ExitStatus("141", (), "nobody reads the output any more, as after a SIGPIPE"),
    ExitStatus("128+n", ("run", "exec", "attach", "wait"),
               "Linux signal n ended the agent (137: killed, also by its policy or a limit)"),
    ExitStatus("other", ("run", "exec", "attach", "wait"), "the agent's own, or the program's"),
)
FAILED, NEEDS_RESTART, TIME_OVER, AGENTIX_FAILED, NOT_EXECUTABLE, NOT_FOUND = 1, 3, 124, 125, 126, 127
USAGE, INTERRUPTED, UNREAD = 2, 130, 141
MESSAGE_MAX: Final = 1000
"""Characters of a complaint: it may quote a word of any length."""


class Entry(NamedTuple):
    """Where a verb lives, without importing it: the room, and the line that describes it."""

    room: str
    summary: str


VERBS: Final = {
    "run": Entry("launch", "run an agent, show its output, wait for its end"),
    "spawn": Entry("launch", "start an agent in the background and print its id"),
    "exec": Entry("beside", "run a program beside an agent, in its sandbox"),
    "attach": Entry("beside", "look at an agent's output and type to it"),
    "ps": Entry("listing", "list agents"),
    "top": Entry("top", "watch agents and the kernel's load"),
    "kill": Entry("signalling", "send a signal to agents"),
    "stop": Entry("signalling", "freeze agents (SIGSTOP)"),
    "cont": Entry("signalling", "continue stopped agents (SIGCONT)"),
    "wait": Entry("agents", "wait for agents to end"),
    "restart": Entry("launch", "end agents and run them again"),
    "logs": Entry("agents", "show agents' output"),
    "rm": Entry("agents", "remove dead agents with their files"),
    "cat": Entry("files", "show files of agents' trees"),
    "cp": Entry("files", "copy files between the host and an agent's tree"),
    "rename": Entry("change", "give an agent another name"),
    "update": Entry("change", "change limits of agents that live"),
    "prune": Entry("change", "remove dead agents, all or those of some age"),
    "trace": Entry("record", "show the flight record"),
    "events": Entry("record", "show what happens: starts, ends, signals, denials"),
    "inspect": Entry("agents", "show all that the kernel knows of agents"),
    "verify": Entry("agents", "check what really confines agents"),
    "doctor": Entry("kernel", "check what this machine can enforce"),
    "syscalls": Entry("kernel", "list system calls, or explain one"),
    "signals": Entry("signalling", "list signals with both of their numbers"),
    "audit": Entry("audit", "ask, check, export and keep the journal"),
    "boots": Entry("boots", "list the kernel's boots, and how each ended"),
    "kernel-log": Entry("boots", "show what the kernel itself did and what failed"),
    "info": Entry("kernel", "show the kernel's version, place and load"),
    "shutdown": Entry("kernel", "shut the kernel down in order"),
    "postmortem": Entry("postmortem", "show what made a kernel panic, from the epitaph it left"),
    "runtimes": Entry("runtimes", "list runtimes: which interpreters agents run in"),
    "profiles": Entry("runtimes", "list profiles: named limits and settings"),
    "reload": Entry("runtimes", "read runtimes and profiles again"),
    "policy": Entry("policies", "read, ask and compare policies, and change them"),
    "why": Entry("why", "explain what an agent may not, and what would allow it"),
    "caps": Entry("capabilities", "list who holds which capability, from whom"),
    "grant": Entry("capabilities", "give an agent a capability"),
    "revoke": Entry("capabilities", "take a capability back, with all that was made of it"),
    "completion": Entry("completion", "print the script that completes this in a shell"),
}


class Failure(Exception):  # noqa: N818 - it is the end of a command, not an error of ours
    """The command failed: one line on stderr, and this exit status."""

    def __init__(self, message: str, status: int = FAILED, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.status = status


def complain(message: str) -> None:
    """One line on stderr, if anybody still reads that."""
    with contextlib.suppress(OSError):
        click.echo(f"agentctl: {message}", err=True)


PATIENCE_S: Final = 1.0


@contextlib.contextmanager
def patiently(message: str) -> Generator[None, None, None]:
    """Say on a terminal what is waited for, once it takes longer than a moment."""
    import threading

    teller = threading.Timer(PATIENCE_S, complain, (message,))
    if sys.stderr.isatty():
        teller.start()
    try:
        yield
    finally:
        teller.cancel()


class Which:
    """Which kernel is meant: that under a prefix; else the system's; else the only private one that runs."""

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = prefix
        self.bell: int | None = None
        """What connections made from now on heed while they wait, as Client says."""

    def connect(self, *, quiet: bool = False) -> "Client":
        """A new connection. Raises NoKernelError, CallError, and Failure when several private ones could be meant.

        Unless it is to be quiet, it says so when it had to find a private one.
        """
        from agentix.control import Client, NoKernelError, socket_path

        try:
            return Client(socket_path(self.prefix), self.bell)
        except NoKernelError as error:
            found = _find() if error.absent and self.prefix is None else None
            if found is None:
                raise
        client = Client(socket_path(found), self.bell)
        self.prefix = found
        if not quiet:
            complain(f"no system kernel is running: using the private one, --prefix {_word(found)}")
        return client


def _find() -> str | None:
    """The prefix of the only private kernel that runs. Raises Failure when there are several."""
    from agentix.control import private_kernels

    found = private_kernels()
    if len(found) > 1:
        choices = "".join(f"\n  --prefix {_word(prefix)}" for prefix in found)
        raise Failure(f"no system kernel is running, but {len(found)} private ones; choose one:{choices}")
    return found[0] if found else None


def _word(path: str) -> str:
    """A path as it is typed in a shell."""
    import shlex

    from agentix.agentctl.format import printable

    return shlex.quote(printable(path))


def _set_prefix(context: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Which).prefix = value


def offer_files(_context: click.Context, _param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """For completion: the shell itself knows what is on the host."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def prefix_option(envvar: str | None = None) -> click.Option:
    return click.Option(
        ["--prefix"], metavar="DIR", envvar=envvar, expose_value=False, callback=_set_prefix,
        shell_complete=offer_files, help="Speak to the private kernel under DIR, not to the system's.")


class Verb(click.Command):
    """A command with examples, a --prefix, and errors of the kernel turned into one line and a status."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), failure: int = FAILED,
                 **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples = examples
        self.failure = failure
        self.params.append(prefix_option())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for command, what in self.examples:
                formatter.write(f"  {command}\n      {what}\n")

    def invoke(self, ctx: click.Context) -> Any:
        from agentix.control import NoKernelError
        from agentix_syscalls.errors import CallError

        try:
            return super().invoke(ctx)
        except NoKernelError as error:
            raise absent(error, self.failure) from None
        except CallError as error:
            raise Failure(explain(error), self.failure) from None


def explain(error: Any) -> str:
    """A CallError as one line: what, by which rule, what to do next."""
    from agentix.agentctl.format import printable

    text = printable(error.message)
    if error.rule:
        text += f" (rule: {printable(error.rule)})"
    return f"{text}; {printable(error.remedy)}" if error.remedy else text


def absent(error: Any, status: int) -> Failure:
    """The failure for a NoKernelError."""
    if error.number in {errno.EACCES, errno.EPERM}:
        return Failure(f"{error.path}: permission denied", status, "ask to be in the group agentix, or use sudo")
    if error.absent:
        prefix = str(error.path).removesuffix("/run/control.sock")
        private = f"agentd --prefix {prefix} --daemon"
        command = private if prefix != error.path else "systemctl start agentd, or agentd --daemon"
        return Failure(f"no kernel is running at {error.path}", status,
                       f"start it ({command}), or name another with --prefix DIR")
    return Failure(f"{error.path}: {os.strerror(error.number)}", status)


def verb(*, examples: Sequence[tuple[str, str]], failure: int = FAILED, cls: type[Verb] = Verb,
         name: str | None = None) -> Callable[[Callable[..., Any]], Verb]:
    """Make a verb of a function, which gets Which as its first argument and gives an exit status or None."""
    def make(function: Callable[..., Any]) -> Verb:
        named = name or function.__name__
        return click.command(named, cls=cls, examples=examples, failure=failure)(click.pass_obj(function))
    return make


def _when(name: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    from agentix.agentctl.format import read_moment

    return click.option(f"--{name}", f"{name}_ns", type=read_moment, metavar="TIME",
                        help=f"Only what came {what} TIME: 5m (ago), or as in 2026-11-21T18:00:00Z.")


def period(command: Callable[..., Any]) -> Callable[..., Any]:
    """--since and --until: `since_ns` and `until_ns`, wall times or None."""
    for decorate in (_when("until", "up to"), _when("since", "after")):
        command = decorate(command)
    return command


json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


_ID_DIGITS_MAX: Final = 18
"""What is longer has no form on the wire, and no agent has it."""


class _Agent(click.ParamType):  # type: ignore[type-arg]  # generic in new clicks only
    """An agent by id or name: a number or text, as the control socket wants it."""

    name = "agent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        word = str(value)
        return int(word) if word.isdecimal() and len(word) <= _ID_DIGITS_MAX else word

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        """Names, or ids once a digit is typed. Without a kernel nothing, and no word of that into somebody's prompt."""
        from click.shell_completion import CompletionItem

        from agentix.control import NoKernelError
        from agentix_syscalls.errors import CallError

        try:
            with ctx.ensure_object(Which).connect(quiet=True) as client:
                rows = client.call("ps", True, False)
        except (NoKernelError, CallError, Failure, OSError):
            return []
        words = [(str(row["id"] if incomplete[:1].isdecimal() else row["name"]), row) for row in rows]
        return [CompletionItem(word, help=f"{row['name']} ({row['id']}), {row['state']}") for word, row in words
                if word.startswith(incomplete)]


read_agent: Final = _Agent()


class _UnreadError(Exception):
    """Nobody reads the output any more. Not an OSError, for click would end with a status of its own."""


@contextlib.contextmanager
def _unread() -> Generator[None, None, None]:
    try:
        yield
    except BrokenPipeError:
        raise _UnreadError from None


class Verbs(click.Group):
    """All verbs, each imported when it is used: `agentctl --help` imports none."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _unread():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _unread():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = VERBS.get(cmd_name)
        if entry is None:
            return None
        room = importlib.import_module(f"agentix.agentctl.{entry.room}")
        name = cmd_name.replace("-", "_")
        found: click.Command = getattr(room, name, None) or getattr(room, f"{name}_")  # exec is Python's
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(name, help=entry.summary) for name, entry in VERBS.items()
                 if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)  # the group's own would import every room

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in VERBS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit status"):
            formatter.write_dl([(row.status, f"{', '.join(row.verbs)}: {row.doc}" if row.verbs else row.doc)
                                for row in EXIT_STATUSES])

    def main(self, *args: Any, **more: Any) -> NoReturn:
        """Run a command line and exit; errors are one line, an interrupt and a closed pipe are silent."""
        sys.exit(self._status(args, {**more, "prog_name": "agentctl", "standalone_mode": False}))

    def _status(self, args: tuple[Any, ...], more: dict[str, Any]) -> int:
        if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as we live
        try:
            status = super().main(*args, **more)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help(), err=True)
            return error.exit_code
        except (OSError, _UnreadError) as error:
            return _unwritten(error)
        except click.UsageError as error:
            return _misused(error)
        except Failure as error:
            complain(str(error))
            return error.status
        except click.Abort:
            return INTERRUPTED
        return status if isinstance(status, int) else 0


def _unwritten(error: OSError | _UnreadError) -> int:
    """The output cannot be written; what is something else is raised again."""
    number = errno.EPIPE if isinstance(error, _UnreadError) else error.errno
    if number not in {errno.ENOSPC, errno.EPIPE, errno.EIO}:
        raise error
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what is buffered would fail again at the exit
    if number != errno.ENOSPC:  # EIO: the terminal is gone
        return UNREAD
    complain(f"the output cannot be written: {os.strerror(number)}")
    return FAILED


def _misused(error: click.UsageError) -> int:
    from agentix.agentctl.format import printable

    path = error.ctx.command_path if error.ctx is not None else "agentctl"
    said = printable(error.format_message().replace(":\n\t", ": ").replace(",\n\t", ", "))  # click lists choices so
    said = said.replace("is not a valid integer range", "is not a whole number")
    said = f"{said[:MESSAGE_MAX]}..." if len(said) > MESSAGE_MAX else said
    said = said if said.endswith(("?", "...")) else f"{said.removesuffix('.')}."
    click.echo(f"{path}: {said} See {path} --help.", err=True)
    return error.exit_code


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
             params=[prefix_option("AGENTIX_PREFIX")])
@click.version_option(package_name="agentix", message="agentctl %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run AI agents as confined processes, and look after them.

    AGENT is an id, a name, or the beginning of one name.
    agentctl COMMAND --help explains each.
    """
    context.ensure_object(Which)
