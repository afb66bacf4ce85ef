"""Finds records: the index says which blocks to read, each record is judged by itself, what is not indexed is read.

What comes is exact: as if the whole journal had been read from one end to the other.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from agentix_kernel.history import blocks
from agentix_kernel.history.blocks import Grouped
from agentix_kernel.history.index import Index
from agentix_kernel.history.question import Question
from agentix_kernel.journal import walk
from agentix_kernel.journal.errors import JournalError
from agentix_kernel.journal.read import Record
from agentix_kernel.journal.walk import Cursor

GROUPS_AT_ONCE: Final = 256
"""Of those that are read from the end on."""

Piece = tuple[int, list[Record]]
"""How far the search has come (a sequence), and what it found there: perhaps nothing."""


def search(index: Index, asked: Question, *, newest: bool = False) -> Iterator[Piece]:
    """Records that are meant, oldest first or `newest` first, a block at a time.

    Raises JournalDamaged where the journal is, after what came before that; JournalKeyError, JournalNewer.
    """
    plan = index.plan(asked, newest=newest)
    known = _known(index, plan.places)
    rest = iter(()) if plan.rest is None else _rest(index, plan.rest, newest=newest)
    for groups in chain(rest, known) if newest else chain(known, rest):
        first, last = groups[0][1].first_seq, groups[-1][1].next_seq - 1
        if first <= (asked.to_seq or last) and last >= asked.from_seq:
            yield (first if newest else last), _meant(index, asked, groups, newest=newest)
        elif newest == (last < asked.from_seq):
            return


def _known(index: Index, places: Iterable[blocks.Place]) -> Iterator[list[Grouped]]:
    held = blocks.Bytes(index.disk)
    for place in places:
        try:
            yield blocks.load(held, index.key, place)
        except (JournalError, OSError):
            if place.number in walk.numbers(index.disk):  # else retention has just dropped it
                raise


def _rest(index: Index, cursor: Cursor, *, newest: bool) -> Iterator[list[Grouped]]:
    """What stands behind the cursor."""
    if newest:
        yield from _backwards(index, cursor)
        return
    for block in blocks.blocks(index.disk, index.key, cursor):
        yield block.groups
    walk.check_end(index.disk, index.key, cursor)


def _backwards(index: Index, cursor: Cursor) -> Iterator[list[Grouped]]:
    """The same from the end on, a segment at a time."""
    disk, key = index.disk, index.key
    for number in reversed(walk.numbers(disk)):
        begin = cursor if number == cursor.number else walk.try_start(disk, key, number)
        if number < cursor.number or begin is None:
            continue
        at = Cursor(begin.number, begin.offset, begin.link, begin.next_seq)
        groups = list(walk.chain(walk.load(disk, number, at.offset), key, at))
        walk.check_end(disk, key, at)
        while groups:
            some = groups[-GROUPS_AT_ONCE:]
            del groups[-GROUPS_AT_ONCE:]
            yield some


def _meant(index: Index, asked: Question, groups: list[Grouped], *, newest: bool) -> list[Record]:
    agent = next(iter(asked.agents)) if asked.agents is not None and len(asked.agents) == 1 else None
    decoded = (blocks.records(index.disk, group, agent, asked.kinds) for group in groups)
    found = [record for records in decoded for record in records if asked(record)]
    return found[::-1] if newest else found
