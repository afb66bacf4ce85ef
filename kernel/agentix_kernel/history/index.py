"""The index: which blocks of the journal hold records of an agent, a kind, a verdict, a call, a rule.

It says where to look, and never what was recorded. A block that may hold what is asked for is read and judged record
by record; one that the index rules out is not read. So an index that is behind, or gone, costs time and nothing else.
It is SQLite, made anew when it is damaged or does not fit the journal; blocks of dropped segments go with these. One
process at a time needs to fill it; two would do no harm, since each transaction begins where the last one ended.
"""

import errno
import sqlite3
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final
from urllib.parse import quote

from attrs import frozen

from agentix_kernel.history.blocks import Place
from agentix_kernel.history.question import Question
from agentix_kernel.journal import walk
from agentix_kernel.journal.errors import JournalError
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.walk import Cursor
from agentix_kernel.world import Disk

NAME: Final = "index.sqlite"
BUSY_S: Final = 10.0
PLACES_AT_ONCE: Final = 256
CALL, RULE = "call", "rule"
"""What words are said of."""
ANY_WORD: Final = 0
"""Stands for a word that the table of words has no room for: a block that has it is always read."""


@frozen
class Plan:
    """Where to look: in these blocks, and in all that stands behind `rest` (None: there is no journal)."""

    places: Iterator[Place]
    rest: Cursor | None


@frozen
class Index:
    """The index in `folder`, of the journal on `disk`. Each look opens it and closes it again: who asks may be a fork
    of who fills it, and SQLite does not bear a connection that is open across a fork.
    """

    folder: str
    disk: Disk
    key: Key

    @property
    def path(self) -> str:
        return f"{self.folder}/{NAME}"

    def plan(self, asked: Question, *, newest: bool) -> Plan:
        """Without an index, or with one that cannot be read: everything is to be read."""
        try:
            with connected(self.path, mode="ro") as db:
                rest = position(db, self.disk)
                found = _candidates(db, asked, rest.next_seq, newest=newest) if rest is not None else []
        except sqlite3.DatabaseError:
            rest, found = None, []
        if rest is None:
            return Plan(iter(()), walk.seek(self.disk, self.key, asked.from_seq))
        return Plan(self._places(found), rest)

    def _places(self, found: list[int]) -> Iterator[Place]:
        """Looked up some at a time, so that no answer keeps them all. Raises JournalError when the index fails now."""
        for at in range(0, len(found), PLACES_AT_ONCE):
            some = found[at:at + PLACES_AT_ONCE]
            try:
                with connected(self.path, mode="ro") as db:
                    rows = [db.execute(_ONE, (seq,)).fetchone() for seq in some]
            except sqlite3.DatabaseError as error:
                raise JournalError(errno.EIO, f"{self.path}: {error}; ask again, it is made anew") from None
            yield from (Place(*row) for row in rows if row is not None)  # None: retention has dropped it


@contextmanager
def connected(path: str, *, mode: str = "rw") -> Generator[sqlite3.Connection]:
    """A connection and one transaction. Raises sqlite3.DatabaseError."""
    with closing(sqlite3.connect(f"file:{quote(path)}?mode={mode}", uri=True, timeout=BUSY_S)) as db:
        db.execute("PRAGMA synchronous = NORMAL")
        with db:
            yield db


def position(db: sqlite3.Connection, disk: Disk) -> Cursor | None:
    """Up to where the journal was taken in; None: nothing of what is there."""
    row = db.execute("SELECT segment, place, link, next_seq FROM position").fetchone()
    there = walk.numbers(disk)
    return Cursor(*row) if row is not None and there and there[0] <= row[0] <= there[-1] else None


_ONE: Final = "SELECT segment, begin, end, link, first_seq, next_seq FROM blocks WHERE first_seq = ?"


def _candidates(db: sqlite3.Connection, asked: Question, before_seq: int, *, newest: bool) -> list[int]:
    """The blocks that may hold what is asked for, by their first records, in order."""
    limits = (("first_seq < ?", before_seq), ("next_seq > ?", asked.from_seq), ("first_seq <= ?", asked.to_seq),
              ("wall_max >= ?", asked.since_ns), ("wall_min <= ?", asked.until_ns))
    conditions: list[tuple[str, tuple[Any, ...]]] = [(sql, (value,)) for sql, value in limits if value is not None]
    if asked.correlation:
        conditions.append(("? BETWEEN correlation_min AND correlation_max", (asked.correlation,)))
    columns = (("agent", asked.agents), ("kind", asked.kinds), ("verdict", asked.verdicts))
    if any(values is not None for _, values in columns):
        parts = [f"{column} {_in(values)}" for column, values in columns if values is not None]
        conditions.append((f"first_seq IN (SELECT block FROM seen WHERE {' AND '.join(parts)})",
                           tuple(value for _, values in columns for value in sorted(values or ()))))
    if asked.calls is not None:
        conditions.append(_said(CALL, f"text {_in(asked.calls)}", tuple(map(_bytes, asked.calls))))
    if asked.rule:
        conditions.append(_said(RULE, "instr(text, ?)", (_bytes(asked.rule),)))
    sql = " AND ".join(sql for sql, _ in conditions)
    order = "DESC" if newest else "ASC"
    found = db.execute(f"SELECT first_seq FROM blocks WHERE {sql} ORDER BY first_seq {order}",
                       tuple(value for _, values in conditions for value in values))
    return [row[0] for row in found]


def _in(values: Collection[object]) -> str:
    return f"IN ({', '.join('?' * len(values))})"


def _said(what: str, sql: str, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    words = f"SELECT word FROM words WHERE what = '{what}' AND {sql}"
    return (f"first_seq IN (SELECT block FROM said WHERE what = '{what}' AND (word = {ANY_WORD} OR word IN ({words})))",
            values)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
