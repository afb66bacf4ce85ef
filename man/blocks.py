"""What stands in the rendered blocks: one function a block, giving its lines."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import click

from agentix.agentctl.cli import EXIT_STATUSES, VERBS, Verb, cli
from agentix.agentctl.launch import LaunchVerb
from agentix_kernel import config, daemon
from agentix_kernel.confine import syscalls_table
from agentix_kernel.journal import format as journal_format
from agentix_kernel.layers import table
from agentix_kernel.layers.verify import CHECKS
from agentix_kernel.runtimes import files
from agentix_syscalls import calls, capabilities, control, errors, events, records, signals
from agentix_syscalls.tables import Arg

BLOCKS: Final[dict[str, Callable[..., list[str]]]] = {}
"""Blocks by name. A new page registers its own with @block."""


def block(render: Callable[..., list[str]]) -> Callable[..., list[str]]:
    BLOCKS[render.__name__.removesuffix("_").replace("_", "-")] = render
    return render


def constants() -> Iterator[tuple[str, int]]:
    """The plain numbers that calls.py defines, in its order: SYS_*, O_*, SIG_* and so on."""
    for name, value in vars(calls).items():
        if name.isupper() and type(value) is int:
            yield name, value


@block
def abi() -> list[str]:
    """The numbers that libc needs at import, as Python."""
    numbers = [*constants(), ("DOORBELL", signals.DOORBELL), ("ALL_SIGNALS", signals.ALL_MASK),
               ("CATCHABLE", signals.ALL_MASK & ~signals.mask_of(signals.UNMASKABLE | {signals.SIGSTOP}))]
    lines = [f"{name}: Final = {value}" for name, value in numbers]
    lines += ["", "", "class Signals(enum.IntEnum):", '    """Agentix\'s signals. The numbers are not Linux\'s."""', ""]
    lines += [f"    {row.name} = {row.number}" for row in signals.SIGNALS]
    lines += ["", ""]
    lines += [f"{row.name}: Final = Signals.{row.name}" for row in signals.SIGNALS]
    names = sorted([name for name, _ in numbers] + [row.name for row in signals.SIGNALS])
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in [*names, "Signals"]), "]"]
    return lines


def text(words: str) -> str:
    """A line of prose as mdoc: nothing in it is taken for a macro or an escape."""
    escaped = words.replace("\\", "\\e").replace("--", "\\-\\-").replace('"', "\\(dq")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def sentence(words: str) -> str:
    """A capital at the start, a full stop at the end, each sentence on a line of its own as mdoc wants it."""
    whole = words[:1].upper() + words[1:] + ("" if words.endswith((".", "?")) else ".")
    return re.sub(r"\. (?=[A-Z])", ".\n", text(whole))


def items(rows: "Iterator[tuple[str, str]] | list[tuple[str, str]]", kind: str = "-tag -width Ds") -> list[str]:
    """A list of (heading macros, lines under it)."""
    lines = [f".Bl {kind}"]
    for heading, below in rows:
        lines += [f".It {heading}", below]
    return [*lines, ".El"]


def command(words: tuple[str, ...]) -> click.Command:
    """The verb of a page, such as ("audit", "verify")."""
    found: click.Command = cli
    context = click.Context(cli)
    for word in words:
        assert isinstance(found, click.Group)
        inner = found.get_command(context, word)
        assert inner is not None, f"no verb {word}"
        found = inner
    return found


@block
def name(*words: str) -> list[str]:
    """NAME of a verb's page."""
    return [f".Nm {'-'.join(('agentctl', *words))}", f".Nd {text(VERBS[words[0]].summary)}"]


@block
def synopsis(*words: str) -> list[str]:
    """SYNOPSIS of a verb's page: its options, then its arguments."""
    found = command(words)
    head = f".Nm agentctl {' '.join(words)}"
    if isinstance(found, LaunchVerb):
        forms = ((".Ar SCRIPT",), (".Fl m Ar MODULE",), (".Fl -", ".Ar CMD"))
        return [line for form in forms for line in (head, ".Op Ar options", *form, ".Op Ar ARG ...")]
    lines = [head]
    lines += [f".{'' if option.required else 'Op '}{_flag(option, option.opts[:1])}" for option in _options(found)
              if option.name != "prefix"]
    for param in found.params:
        if isinstance(param, click.Argument):
            word = (param.metavar or str(param.name).upper()).removesuffix("...")
            dots = " ..." if param.nargs == -1 else ""
            lines.append(f".Ar {word}{dots}" if param.required else f".Op Ar {word.strip('[]')}{dots}")
    return lines


def _options(found: click.Command) -> list[click.Option]:
    return [param for param in found.params if isinstance(param, click.Option)]


def _flag(option: click.Option, spellings: list[str]) -> str:
    flags = " , ".join(f"Fl {word[1:]}" for word in [*spellings, *option.secondary_opts])
    return flags if option.is_flag else f"{flags} Ar {option.metavar}"


@block
def options(*words: str) -> list[str]:
    """The options of a verb, as its help has them."""
    return items([(_flag(option, option.opts), sentence(option.help or "")) for option in _options(command(words))])


@block
def examples(*words: str) -> list[str]:
    found = command(words)
    assert isinstance(found, Verb)
    lines: list[str] = []
    for example, what in found.examples:
        lines += [sentence(what), f".Dl {text(example)}", ".Pp"]
    return lines[:-1]


@block
def exit_status(*words: str) -> list[str]:
    """The exit statuses that this verb has; without one, all."""
    rows: list[tuple[str, str]] = []
    for row in EXIT_STATUSES:
        if words and row.verbs and words[0] not in row.verbs:
            continue
        special = f"{', '.join(row.verbs)}: " if row.verbs and not words else ""
        rows.append((text(row.status), sentence(special + row.doc)))
    return items(rows)


@block
def states() -> list[str]:
    """The states of an agent."""
    return [text(f"{', '.join(control.STATES[:-1])} or {control.STATES[-1]}")]


@block
def verbs() -> list[str]:
    return items([(f"Xr agentctl-{verb} 1", sentence(entry.summary)) for verb, entry in VERBS.items()])


def _argument(arg: Arg) -> str:
    return f".Op Ar {arg.name}" if not arg.required else f".Ar {arg.name}"


def _error_rows(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    return items([(f"Bq Er {errno}", sentence(when)) for errno, when in pairs])


def _call(call: calls.Call) -> list[str]:
    """One system call as a subsection."""
    lines = [f".Ss SYS_{call.name} ({call.number})", sentence(call.doc), ".Pp", f".Ic {call.name.lower()}",
             *map(_argument, call.args), ".Pp", sentence(f"Result: {call.returns}"),
             sentence(f"Capability: {call.capability}"), sentence(f"Support: {call.support}"),
             sentence(f"Since {call.since}")]
    if call.args:
        rows = [(f"Ar {arg.name}", text(f"{arg.type.__name__}: {arg.doc}")) for arg in call.args]
        lines += items(rows, "-tag -width Ds -compact")
    return lines + (_error_rows(call.errors) if call.errors else [])


@block
def system_calls() -> list[str]:
    """Every system call: arguments, result, errors."""
    return [line for call in calls.CALLS for line in _call(call)]


@block
def common_errors() -> list[str]:
    return _error_rows(calls.EVERY_CALL)


@block
def taxonomy() -> list[str]:
    """The errors, each with its category and whether to try again."""
    return items([(f"Bq Er {row.name}", sentence(
        f"{row.category.value}, {row.severity.value}{', retryable' if row.retryable else ''}: {row.doc}"))
        for row in errors.ERRORS])


@block
def capability_names() -> list[str]:
    return items([(f"Cm {row.name}", sentence(row.doc)) for row in capabilities.CAPABILITIES])


@block
def signal_rows() -> list[str]:
    """Every signal with both numbers and what it does."""
    return items([(f"Dv {row.name}", "\n".join(_signal(row))) for row in signals.SIGNALS])


def _signal(row: Any) -> list[str]:
    linux = f"Linux's number {row.linux}" if row.linux is not None else "not a signal of Linux"
    traits = [f"Number {row.number}", linux, f"default: {row.default.value}"]
    traits += {"never": ["never masked, ignored or handled"], "deferred": ["deferred by a mask, never handled"],
               "yes": []}[row.caught]
    traits += ["sent by the kernel and root only"] if row.operator_only else []
    traits += ["passed on as the Linux signal when there is no handler"] if row.forwarded else []
    return [sentence(row.doc), sentence("; ".join(traits))]


# --- agentd and its configuration ------------------------------------------------------------------------------------

@block
def agentd_synopsis() -> list[str]:
    return [".Nm", *(f".Op {_flag(option, option.opts[:1])}" for option in _options(daemon.main))]


@block
def agentd_options() -> list[str]:
    return items([(_flag(option, option.opts), sentence(option.help or "")) for option in _options(daemon.main)])


@block
def config_keys() -> list[str]:
    """Every key: what it means, what it takes, its default."""
    return items([(f"Ic {key.name}", "\n".join((sentence(key.doc), *_value_of(key)))) for key in config.KEYS])


@block
def runtime_keys() -> list[str]:
    return _file_keys(files.RUNTIME_KEYS)


@block
def profile_keys() -> list[str]:
    return _file_keys(files.PROFILE_KEYS)


def _file_keys(keys: tuple[config.Key, ...]) -> list[str]:
    """Keys that nobody has to give: what each means, what it takes."""
    return items([(f"Ic {key.name}", f"{sentence(key.doc)}\n{sentence(_taken(key))}") for key in keys])


def _taken(key: config.Key) -> str:
    return _wants(key).removeprefix("wants ").removesuffix(", got nil")


def _value_of(key: config.Key) -> list[str]:
    return [sentence(_wants(key).removeprefix("wants ")), f"Default: {_toml(key.default)}."]


def _wants(key: config.Key) -> str:
    """What the key's own check says of a value that nobody can want."""
    try:
        key.check(None)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{key.name} takes anything")


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return f"\\(dq{value}\\(dq"
    large = isinstance(value, int) and value >= 1_000_000
    return "[]" if value == () else f"{value:_}" if large else str(value)


# --- confinement -----------------------------------------------------------------------------------------------------

@block
def layers() -> list[str]:
    """The rows of doctor."""
    return items([(f"Cm {layer.name}", "\n".join((
        sentence(layer.doc), "Required." if layer.required else "Not required.", sentence(f"Remedy: {layer.remedy}"))))
        for layer in table.LAYERS])


@block
def verified() -> list[str]:
    """The rows of verify that come from checks of each process."""
    rows = [(f"Cm {name}", sentence(said)) for name, said, _ in CHECKS]
    return items(rows, "-tag -width no-new-privs -compact")


@block
def refused_calls(action: str) -> list[str]:
    """Linux calls that seccomp answers in one way, each with the reason."""
    rows = [row for row in syscalls_table.ROWS if row.action.name == action]
    found: list[tuple[str, str]] = []
    for why, group in groupby(rows, lambda row: row.why):
        names = dict.fromkeys(row.name for row in group)  # a call may have a row for each of its arguments' values
        found.append((" , ".join(f"Ic {name}" for name in names), sentence(why)))
    return items(found)


# --- the journal -----------------------------------------------------------------------------------------------------

@block
def record_kinds() -> list[str]:
    return items([(f"Cm {kind.name} Pq {kind.number}", "\n".join(_kind(kind))) for kind in records.KINDS])


def _kind(kind: records.Kind) -> list[str]:
    traits = ["durable before it is acknowledged"] if kind.durable else []
    traits += [] if kind.flight else ["its data may go after a checkpoint"]
    return [sentence(kind.doc), f"Data: {', '.join(kind.fields)}.", *(sentence(trait) for trait in traits)]


@block
def events_() -> list[str]:
    """Every event: what it means, its fields, the record that it is."""
    return items([(f"Cm {event.name}", "\n".join((
        sentence(event.doc), f"Fields: {', '.join(event.fields)}.",
        f"Record: {records.BY_NUMBER[event.kind].name}."))) for event in events.EVENTS])


@block
def phases() -> list[str]:
    return [f"{', '.join(f'{number} {name}' for number, name in enumerate(records.PHASES))}."]


@block
def verdicts() -> list[str]:
    return [f"{', '.join(f'{number} {name}' for number, name in enumerate(records.VERDICTS))}."]


@block
def journal_sizes() -> list[str]:
    form = journal_format
    return [f"The format is version {form.VERSION}.", f"The head of a segment takes {form.HEAD_BYTES} bytes.",
            f"Its first group begins at byte {form.FIRST_GROUP}.",
            f"The head of a group takes {form.GROUP_BYTES} bytes."]


# --- libc ------------------------------------------------------------------------------------------------------------

_WORDS: Final = {
    "getrusage": "What the agent has used so far.", "listdir": "The names in a directory.",
    "lseek": "Move the handle's position; the new one.", "pread": "As read, at an offset; the position stays.",
    "pwrite": "As write, at an offset; the position stays.", "rmdir": "Remove an empty directory.",
    "scandir": "The entries of a directory.", "sigwait": "As sigwaitinfo; the signal alone.",
    "unlink": "Remove a name that is no directory's.",
}
"""For functions without a docstring whose words are not simply those of the call of their name."""


@block
def libc_functions(room: str) -> list[str]:
    """The public functions of a room of libc, with what they do."""
    return _functions(f"agentix.libc.{room}", importlib.import_module(f"agentix.libc.{room}").__all__)


@block
def functions(module: str, *names: str) -> list[str]:
    """These functions of a module, with what they do."""
    return _functions(module, names)


@block
def methods(module: str, name: str) -> list[str]:
    """The public methods of a class, in its order."""
    public = [(word, found) for word, found in vars(getattr(importlib.import_module(module), name)).items()
              if inspect.isfunction(found) and not word.startswith("_")]
    return items([(f"Fn {word} {_parameters(partial(found, None))}".rstrip(), _told(word, found))
                  for word, found in public])


@block
def example(name: str) -> list[str]:
    """A file of examples/, as it is."""
    path = Path(__file__).parent.parent / "examples" / name
    lines = path.read_text().replace("\\", "\\e").splitlines()
    return [".Bd -literal -offset indent", *(f"\\&{line}" if line[:1] in {".", "'"} else line for line in lines), ".Ed"]


def _functions(module: str, names: Sequence[str]) -> list[str]:
    named = [(name, getattr(importlib.import_module(module), name)) for name in names]
    return items([(f"Fn {name} {_parameters(found)}".rstrip(), _told(name, found)) for name, found in named
                  if inspect.isfunction(found)])


def _parameters(function: Callable[..., object]) -> str:
    words: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "\\(**" not in words:
            words.append("\\(**")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        words.append(star + parameter.name + _default(parameter))
    return " ".join(f'"{word}"' for word in words)


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return ""
    octal = parameter.name == "mode" and isinstance(parameter.default, int)
    return f"={parameter.default:#o}" if octal else f"={parameter.default!r}".replace("'", "\\(aq")


def _told(name: str, function: Callable[..., object]) -> str:
    doc = inspect.getdoc(function) or _WORDS.get(name)
    if doc is None:
        call = calls.find(name)
        assert call is not None, f"libc.{name} has no words, nor has a call of that name"
        doc = call.doc
    return "\n.Pp\n".join(sentence(" ".join(part.replace("`", "").split())) for part in doc.split("\n\n"))
