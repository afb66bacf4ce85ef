"""The questions that can be asked of the journal, by their operations. Each gives its answer piece by piece."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from attrs import evolve

from agentix_kernel.history import boots, place
from agentix_kernel.history.index import Index
from agentix_kernel.history.question import Question, question
from agentix_kernel.history.rows import event_row, row
from agentix_kernel.history.search import search
from agentix_kernel.journal.errors import JournalDamaged
from agentix_syscalls import control, types
from agentix_syscalls.errors import CallError

OTHERS_MAX: Final = 2000
"""Records that are shown with one, at most."""


def trace(index: Index, where: Mapping[str, Any], names: tuple[str, ...] | None,
          tail: int | None) -> Iterator[list[dict[str, Any]]]:
    """What is in the journal already, for a trace that may go on: rows, or events when `names` are given."""
    asked = question(where, names)
    show = row if names is None else event_row
    if tail is not None:
        asked = _last(index, asked, tail)
    for _, found in search(index, asked):
        if found:
            yield [show(record) for record in found]


def _last(index: Index, asked: Question, count: int) -> Question:
    """The same question, for its last answers only. (Counted first: so many records are not kept in memory.)"""
    newest = (record.seq for _, found in search(index, asked, newest=True) for record in found)
    first = next(islice(newest, count - 1, None), 0) if count else types.I63_MAX
    return evolve(asked, from_seq=first)


def query(index: Index, where: Mapping[str, Any], limit: int, newest: bool) -> Iterator[tuple[int, list[Any]]]:
    """(how far the search has come, rows), up to `limit` rows; 0: all."""
    left = limit or None
    for at, found in search(index, question(where), newest=newest):
        some = found[:left]
        yield at, [row(record) for record in some]
        if left is not None:
            left -= len(some)
            if not left:
                return


def export(index: Index, where: Mapping[str, Any]) -> Iterator[tuple[int, list[Any]]]:
    return query(index, where, 0, False)


def show(index: Index, seq: int, around: int) -> Iterator[dict[str, Any]]:
    """One record whole: where it stands, its partners, and those before and behind it. Raises CallError ENOENT."""
    where, record = place.find(index, seq)
    near = _others(index, seq, Question(from_seq=max(seq - around, 1), to_seq=seq + around)) if around else []
    partners = _others(index, seq, Question(correlation=record.correlation)) if record.correlation else []
    yield {"record": row(record), "place": where, "partners": partners,
           "before": [other for other in near if other["seq"] < seq],
           "after": [other for other in near if other["seq"] > seq]}


def _others(index: Index, seq: int, asked: Question) -> list[dict[str, Any]]:
    """Records beside one; of a damaged journal those that can be read."""
    others: list[dict[str, Any]] = []
    with suppress(JournalDamaged):
        for _, found in search(index, asked):
            others += [row(record) for record in found if record.seq != seq]
            if len(others) >= OTHERS_MAX:
                break
    return others[:OTHERS_MAX]


def kernel_log(index: Index, boot: int) -> Iterator[tuple[int, list[Any]]]:
    """What the kernel did and what failed in it, in one boot: its number, or 0 and below for the last ones."""
    begun = boots.begun(index)
    chosen = begun[boot - 1:][:1] if -len(begun) < boot <= 0 else [one for one in begun if one.boot == boot]
    if not chosen:
        raise CallError(errno.ENOENT, f"the journal has no boot {boot}", remedy="agentctl boots lists them")
    first = chosen[0].seq
    following = next((one.seq - 1 for one in begun if one.seq > first), None)
    for at, found in search(index, Question(agents=frozenset({0}), from_seq=first, to_seq=following)):
        yield at, [row(record) for record in found]


ANSWERS: Final[dict[int, Callable[..., Iterator[Any]]]] = {
    control.BY_NAME[name].number: answer for name, answer in (
        ("trace", trace), ("audit_query", query), ("audit_show", show), ("audit_export", export),
        ("boots", boots.boots), ("kernel_log", kernel_log))}
