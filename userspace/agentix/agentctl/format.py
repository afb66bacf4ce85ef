"""How things look: tables, sizes, durations, colours, JSON; and how sizes and durations are read."""

import itertools
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, cast

import click

_UNITS: Final = "KMGTP"
_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGTP]?)(?:i?B?)\Z", re.IGNORECASE)
_DURATION: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)(ms|s|m|h|d)?\Z")
_MOMENT_MAX: Final = (1 << 63) - 1
"""The wire has no later one; it is in the year 2262."""
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(value: object) -> str:
    """Text that cannot steer a terminal: what agents chose (arguments, paths) may hold escape sequences."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), str(value))


def colour(text: str, **style: Any) -> str:
    """Styled on a terminal, plain elsewhere and with NO_COLOR set (no-color.org)."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return click.style(text, **style)
    return text


COLUMN_MIN: Final = 16
"""The last column is not cut below that while another can give way."""

_STATES: Final = {
    "running": "green", "on": "green", "stopped": "yellow", "partial": "yellow", "off": "red", "zombie": "red",
    "ready": "green", "starting": "yellow", "changed": "yellow", "failed": "red",
}


def _coloured(text: str) -> str:
    return colour(text, fg=_STATES[text]) if text in _STATES else text


def terminal_columns() -> int | None:
    """How wide the terminal of stdout is, if it is one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[str] = (), *,
          bare: bool = False, fold: bool = False) -> None:
    """Print columns; those named in `right` are right-aligned, one named STATE is coloured; `bare`: without the header.

    On a terminal no line is longer than that is wide: what is cut ends in an ellipsis, or, with `fold`, goes on below
    in its column.
    """
    for line in lay_out(header, rows, right, terminal_columns(), bare=bare, fold=fold):
        click.echo(line)


def lay_out(header: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[str],
            width: int | None, *, bare: bool = False, fold: bool = False) -> Iterator[str]:
    """The lines of a table, the header first, at most `width` wide where that is given."""
    texts = [*([] if bare else [list(header)]), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    if width is not None and texts:
        _shrink(widths, header, right, width)
        texts = [piece for line in texts for piece in _folded(line, widths)] if fold else texts
    for number, line in enumerate(texts):
        cells: list[str] = []
        for title, text, room in zip(header, line, widths, strict=True):
            cell = cut(text, room)
            blanks = " " * (room - len(cell))
            shown = _coloured(cell) if (number or bare) and title == "STATE" else cell
            cells.append(blanks + shown if title in right else shown + blanks)
        yield "  ".join(cells).rstrip()


def _folded(line: list[str], widths: list[int]) -> Iterator[list[str]]:
    """A line of cells as several: each cell in pieces that its column has room for, below each other."""
    cells = [textwrap.wrap(text, room, break_on_hyphens=False) if len(text) > room else [text]
             for text, room in zip(line, widths, strict=True)]
    yield from (list(piece) for piece in itertools.zip_longest(*cells, fillvalue=""))


def _shrink(widths: list[int], header: Sequence[str], right: Collection[str], width: int) -> None:
    """Take from the last column first, then always from the widest, until all fit; numbers are never cut."""
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0 and header[-1] not in right:
        taken = min(over, max(widths[-1] - COLUMN_MIN, 0))
        widths[-1] -= taken
        over -= taken
    while over > 0:
        at = max(range(len(widths)), key=lambda at: 0 if header[at] in right else widths[at] - len(header[at]))
        if header[at] in right or widths[at] <= len(header[at]):
            return
        widths[at] -= 1
        over -= 1


def cut(text: str, room: int) -> str:
    """The text, or as much of it as there is room for, and then an ellipsis."""
    return text if len(text) <= room else f"{text[:max(room - 1, 0)]}…"


def facts(pairs: Iterable[tuple[str, Any]], indent: str = "") -> None:
    """Print `key: value` lines; what a key holds several of stands below it, further in. Units by the key's end."""
    known = list(pairs)
    width = max((len(name) for name, _ in known), default=0) + 2
    for name, value in known:
        head = f"{indent}{printable(name) + ':':{width}}"
        if isinstance(value, dict) and value:
            click.echo(head.rstrip())
            facts(cast("dict[str, Any]", value).items(), f"{indent}  ")
        elif len(lines := list(_lines(name, value))) == 1:
            click.echo(f"{head}{lines[0]}")
        else:
            click.echo("\n".join([head.rstrip(), *(f"{indent}  {line}" for line in lines)]))


def _lines(name: str, value: Any) -> Iterator[str]:
    """A value as people read it; a list has one line for each member that has members itself, else one for all."""
    if value is None or value in ("", (), [], {}):
        yield "-"
    elif isinstance(value, (list, tuple)):
        members = cast("Sequence[Any]", value)
        nested = any(isinstance(member, dict) for member in members)
        yield from (printable(dump(member)) for member in members if nested)
        if not nested:
            yield ", ".join(map(printable, members))
    elif isinstance(value, str):
        yield from map(printable, value.splitlines())
    else:
        yield _measure(name, value)


def _measure(name: str, value: Any) -> str:
    """A number with the unit that its name's end tells."""
    unit = next((shown for end, shown in _MEASURES.items() if name.endswith(end)), None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit is None or not isinstance(value, (int, float)):
        return printable(value if isinstance(value, (int, float)) else dump(value))
    return unit(value)


def dump(value: Any, *, indent: int | None = None) -> str:
    """JSON of anything that came over the wire; bytes as text, with what is not UTF-8 escaped."""
    import json

    return json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def print_json(value: Any) -> None:
    click.echo(dump(value, indent=2))


def size(count: int) -> str:
    """Bytes as people read them, in powers of 1,024: 12.3M."""
    value, unit = float(count), ""
    for unit in ("", *_UNITS):
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f}{unit}" if not unit or value >= 100 else f"{value:.1f}{unit}"


def duration(seconds: float) -> str:
    """Time as people read it: 0.25s, 42s, 5m03s, 2h10m, 3d04h."""
    if seconds < 10:
        return f"{max(seconds, 0):.2f}s"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def moment(wall_ns: int) -> str:
    """Local date and time; a dash for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_ns // 10**9)) if wall_ns else "-"


_MEASURES: Final[dict[str, Callable[[Any], str]]] = {
    "_bytes": size, "_us": lambda count: duration(count / 1e6), "_wall_ns": moment, "_s": duration}


def clock(wall_ns: int) -> str:
    """Local time of day with microseconds."""
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 1000:06}"


def read_size(word: str) -> int:
    """Bytes of 512M, 2G, 64Ki or plain bytes; units are powers of 1,024. Raises BadParameter."""
    found = _SIZE.match(word)
    if found is None:
        raise click.BadParameter(f"{word!r} is not a size: a number with K, M, G, T or P, as in 512M.")
    power = _UNITS.index(found[2].upper()) + 1 if found[2] else 0
    return int(float(found[1]) * 1024 ** power)


def read_moment(word: str) -> int:
    """Wall time in ns of an RFC 3339 time (local without a zone; a date alone is its midnight) or of a duration ago.

    Raises BadParameter.
    """
    if _DURATION.match(word):
        return time.time_ns() - int(read_duration(word) * 1e9)
    from datetime import datetime

    try:
        moment = int(datetime.fromisoformat(word.upper()).timestamp() * 1e6) * 1000
        return min(max(moment, 0), _MOMENT_MAX)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{word!r} is not a time: 5m (ago), or as in 2026-11-21T18:00:00Z.") from None


def read_duration(word: str) -> float:
    """Seconds of a plain number, or of one with ms, s, m, h or d. Raises BadParameter."""
    found = _DURATION.match(word)
    if found is None:
        raise click.BadParameter(f"{word!r} is not a duration: seconds, or with ms, s, m, h or d, as in 5m.")
    return float(found[1]) * _SECONDS[found[2] or "s"]
