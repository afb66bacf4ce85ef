"""Blocks of the clients in C and shell: the header's numbers and shapes, and manual pages read from the sources."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from blocks import block, constants, items, sentence, text

from agentix_syscalls import calls, signals, spawn, types, wire

USERSPACE: Final = Path(__file__).resolve().parent.parent / "userspace"
HEADER: Final = USERSPACE / "c/agentix.h"
SHELL: Final = USERSPACE / "sh/agentix.sh"

_CALL: Final = re.compile(r"^// --- (?P<section>\w[\w ]*) -+\n(?P<body>.*?)(?=^// ---|^#ifdef|\Z)",
                          re.MULTILINE | re.DOTALL)
_FUNCTION: Final = re.compile(r"^(?P<doc>(?://[^\n]*\n)+)(?P<declaration>[^/\n#][^;{}]*\bagx_\w+\([^;{}]*\);)",
                              re.MULTILINE)
_DECLARED: Final = re.compile(r"(?P<result>.*?\W)(?P<name>agx_\w+)\((?P<parameters>.*)\);", re.DOTALL)

_KINDS: Final[dict[Callable[[Any], Any], tuple[str, str]]] = {
    spawn.name: ("const char *{}", "TEXT"), spawn.mode: ("const char *{}", "TEXT"),
    spawn.absolute: ("const char *{}", "TEXT"), types.data: ("struct agx_bytes {}", "DATA"),
    types.environ: ("const char *const *{}", "PAIRS"), types.texts: ("const char *const *{}", "TEXTS"),
    types.uint: ("int64_t {}", "INT"), spawn.memory: ("int64_t {}", "INT"), spawn.pids: ("int64_t {}", "INT"),
    types.positive: ("double {}", "SECONDS"),
}
"""How an option of a spawn is declared in C, and how agentix.c puts it on the wire."""


@block
def c_numbers() -> list[str]:
    """The numbers of the ABI as macros: those that calls.py defines, the wire's, the signals'."""
    lines: list[str] = []
    for name, value in constants():
        called = calls.BY_NAME.get(name.removeprefix("SYS_"))
        said = f" // {called.doc.partition('. ')[0].rstrip('.')}." if called else ""
        lines.append(f"#define AGX_{name} {value:#x}{said}" if name.startswith("O_") else
                     f"#define AGX_{name} {f'({value})' if value < 0 else value}{said}")
    lines.append("")
    lines += [f"#define AGX_{row.name} {row.number} // {row.doc}" for row in signals.SIGNALS]
    lines += [f"#define AGX_DOORBELL {signals.DOORBELL}",
              f"#define AGX_ALL_SIGNALS UINT64_C({signals.ALL_MASK:#x})", ""]
    lines += [f"#define AGX_{name} {getattr(wire, name)}" for name in ("PROTOCOL", "HEADER_BYTES", "BODY_MAX_BYTES")]
    lines += [f"#define AGX_{name} {getattr(wire, name):#x}" for name in ("F_MORE", "F_REPLY", "F_ERROR")]
    return lines


@block
def c_integers(call: str) -> list[str]:
    """The fields of a result that is an array of whole numbers, as the table of calls names them."""
    fields = calls.BY_NAME[call].returns.strip("[]").split(", ")
    return [f"    int64_t {field};" for field in fields]


def _options() -> Iterator[tuple[spawn.Option, str, str]]:
    for option in spawn.OPTIONS:
        if option.agent_may:
            yield option, *_KINDS[option.type]


@block
def c_spawn_options() -> list[str]:
    return [f"    {declared.format(option.name)}; // {option.doc}" for option, declared, _ in _options()]


@block
def c_spawn_table() -> list[str]:
    return [f'    {{"{option.name}", {kind}, offsetof(struct agx_spawn_options, {option.name})}},'
            for option, _, kind in _options()]


@block
def c_functions(*words: str) -> list[str]:
    """The functions of one section of the header, each with its declaration and the comment before it."""
    section = next(found["body"] for found in _CALL.finditer(HEADER.read_text()) if found["section"] == " ".join(words))
    return items([(_prototype(found["declaration"]), _prose(found["doc"])) for found in _FUNCTION.finditer(section)])


def _prototype(declaration: str) -> str:
    plain = re.sub(r" __attribute__.*;", ";", " ".join(declaration.split()))
    found = _DECLARED.match(plain)
    assert found is not None, declaration
    parameters = [] if found["parameters"] == "void" else found["parameters"].split(", ")
    words = " ".join(f'"{word}"' for word in parameters)
    return f'Ft "{found["result"].strip()}" Fn {found["name"]} {words}'.rstrip()


def _prose(comment: str) -> str:
    return sentence(" ".join(line.removeprefix("//").strip() for line in comment.splitlines()))


@block
def sh_functions() -> list[str]:
    """The functions of the shell client: their usage, and what the comment before them says."""
    comments = re.findall(r"^((?:# [^\n]*\n)+)agx_\w+\(\)", SHELL.read_text(), re.MULTILINE)
    told = [" ".join(line.removeprefix("#").strip() for line in comment.splitlines()) for comment in comments]
    usages = [usage.partition(": ") for usage in told]
    return items([(" , ".join(f"Ic {text(form)}" for form in usage.split(", ")), sentence(doc))
                  for usage, _, doc in usages])
