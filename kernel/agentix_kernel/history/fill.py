"""Fills the index, some blocks at a time, and makes it anew when it is damaged or does not fit the journal."""

import os
import sqlite3
from collections.abc import Iterator
from itertools import islice
from typing import Final

from attrs import define, field

from agentix_kernel.history import blocks
from agentix_kernel.history.blocks import Block, Place
from agentix_kernel.history.index import ANY_WORD, CALL, RULE, Index, connected, position
from agentix_kernel.history.question import call_of
from agentix_kernel.journal import walk
from agentix_kernel.journal.errors import JournalError

FORMAT: Final = 1
AT_ONCE: Final = 16
"""Blocks of one transaction: about a MiB of the journal."""
WORDS_MAX: Final = 5000
WORD_MAX_BYTES: Final = 1024
"""Calls and rules that are told apart, and how long they are at most: an index has bounds, whatever is recorded."""

_SCHEMA: Final = f"""
CREATE TABLE blocks (
    first_seq INTEGER PRIMARY KEY, next_seq INTEGER, segment INTEGER, begin INTEGER, end INTEGER, link BLOB,
    wall_min INTEGER, wall_max INTEGER, correlation_min INTEGER, correlation_max INTEGER);
CREATE TABLE position (segment INTEGER, place INTEGER, link BLOB, next_seq INTEGER);
CREATE TABLE seen (
    agent INTEGER, kind INTEGER, verdict INTEGER, block INTEGER, PRIMARY KEY (agent, kind, verdict, block)
) WITHOUT ROWID;
CREATE TABLE words (word INTEGER PRIMARY KEY, what TEXT, text BLOB, UNIQUE (what, text));
CREATE TABLE said (what TEXT, word INTEGER, block INTEGER, PRIMARY KEY (what, word, block)) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""


@define
class Filler:
    """Of one index. Its methods raise OSError and sqlite3.OperationalError for what the disk does."""

    index: Index
    _reading: Iterator[Block] | None = field(init=False, default=None)
    _end: walk.Cursor | None = field(init=False, default=None)
    """Where the journal ended when it was read last."""

    def open(self) -> str:
        """Check what is there, or make it; a sentence about what was wrong with what was there, or ""."""
        os.makedirs(self.index.folder, 0o700, exist_ok=True)
        fault = "" if os.path.exists(self.index.path) else "new"
        try:
            with connected(self.index.path, mode="rwc") as db:
                fault = fault or _fault(db) or self._cut(db)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise  # the disk's; what is wrong with the statement is wrong with the tables
            fault = str(error)
        if fault:
            self._make()
        return "" if fault in {"", "new"} else f"{self.index.path}: {fault}; it is made anew"

    def _make(self) -> None:
        self.rest()
        for path in (self.index.path, f"{self.index.path}-journal"):
            if os.path.lexists(path):
                os.unlink(path)
        with connected(self.index.path, mode="rwc") as db:
            db.executescript(_SCHEMA)

    def _cut(self, db: sqlite3.Connection) -> str:
        """Forget blocks at the end that the journal does not have: a loss of power took what was not durable yet."""
        while (row := db.execute("SELECT segment, begin, end, link, first_seq, next_seq FROM blocks "
                                 "ORDER BY first_seq DESC LIMIT 1").fetchone()) is not None:
            place = Place(*row)
            try:
                blocks.load(blocks.Bytes(self.index.disk), self.index.key, place)
            except (JournalError, OSError):
                _forget(db, "first_seq = ?", place.first_seq)
                _set_position(db, place.number, place.begin, place.link, place.first_seq)
            else:
                return ""
        db.execute("DELETE FROM position")
        return ""

    def advance(self) -> bool:
        """Take in some blocks, if full ones are there; whether there may be more.

        Raises JournalError where the journal is damaged, sqlite3.DatabaseError where the index is.
        """
        if self._reading is None:
            if self._end is not None and _quiet(self.index, self._end):
                return False
            self._reading = self._read()
        taken = list(islice(self._reading, AT_ONCE))
        if len(taken) < AT_ONCE:
            self._reading = None  # at the end, which will be another one
        there = walk.numbers(self.index.disk)
        with connected(self.index.path) as db:
            _forget(db, "segment < ?", there[0] if there else 0)
            reached = position(db, self.index.disk)
            if taken and (reached is None or reached.next_seq <= taken[0].place.first_seq):
                _take(db, self.index, taken)
        return self._reading is not None

    def rest(self) -> None:
        """Begin anew where the index ends, next time: something failed on the way."""
        self._reading = self._end = None

    def _read(self) -> Iterator[Block]:
        """Whole blocks from where the index ends. What is not full yet is left for later."""
        disk, key = self.index.disk, self.index.key
        with connected(self.index.path, mode="ro") as db:
            cursor = position(db, disk)
        cursor = cursor or walk.seek(disk, key, 0)
        if cursor is None:
            return
        for block in blocks.blocks(disk, key, cursor):
            if block.full or walk.try_start(disk, key, block.place.number + 1) is not None:
                yield block
        self._end = cursor


def _quiet(index: Index, cursor: walk.Cursor) -> bool:
    """Nothing was written behind the cursor: looking at its place is cheaper than reading a segment's zeros."""
    here = walk.load(index.disk, cursor.number, cursor.offset, 8)
    return not here.strip(b"\0") and walk.try_start(index.disk, index.key, cursor.number + 1) is None


def _fault(db: sqlite3.Connection) -> str:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        return f"format {version}, not {FORMAT}"
    for table in ("blocks", "position", "seen", "words", "said"):
        db.execute(f"SELECT * FROM {table} LIMIT 1")
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if found == "ok" else str(found)


def _forget(db: sqlite3.Connection, which: str, value: int) -> None:
    """Forget blocks: of segments that were dropped, or that are not there after all."""
    if db.execute(f"SELECT 1 FROM blocks WHERE {which} LIMIT 1", (value,)).fetchone() is None:
        return
    for table in ("seen", "said"):
        db.execute(f"DELETE FROM {table} WHERE block IN (SELECT first_seq FROM blocks WHERE {which})", (value,))
    db.execute(f"DELETE FROM blocks WHERE {which}", (value,))


def _set_position(db: sqlite3.Connection, number: int, place: int, link: bytes, next_seq: int) -> None:
    db.execute("DELETE FROM position")
    db.execute("INSERT INTO position VALUES (?, ?, ?, ?)", (number, place, link, next_seq))


def _take(db: sqlite3.Connection, index: Index, taken: list[Block]) -> None:
    words = {(what, bytes(text)): word for word, what, text in db.execute("SELECT word, what, text FROM words")}
    for block in taken:
        _insert(db, index, words, block)
    place, link = taken[-1].place, taken[-1].groups[-1][1].link
    _set_position(db, place.number, place.end, link, place.next_seq)


def _insert(db: sqlite3.Connection, index: Index, words: dict[tuple[str, bytes], int], block: Block) -> None:
    """Note what a block holds."""
    found = [record for group in block.groups for record in blocks.records(index.disk, group)]
    place, times = block.place, [record.wall_ns for record in found]
    correlations = [record.correlation for record in found if record.correlation]
    db.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (
        place.first_seq, place.next_seq, place.number, place.begin, place.end, place.link,
        min(times, default=0), max(times, default=0), min(correlations, default=0), max(correlations, default=0)))
    db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)", {
        (record.agent, record.kind, record.verdict, place.first_seq) for record in found})
    said = {(RULE, record.rule) for record in found} | {(CALL, call_of(record)) for record in found}
    db.executemany("INSERT OR IGNORE INTO said VALUES (?, ?, ?)", {
        (what, _word(db, words, what, text), place.first_seq) for what, text in said if text})


def _word(db: sqlite3.Connection, words: dict[tuple[str, bytes], int], what: str, text: str) -> int:
    """The number of a word, made when it is a new one."""
    raw = text.encode("utf-8", "surrogateescape")
    word = words.get((what, raw))
    if word is None:
        if len(words) >= WORDS_MAX or len(raw) > WORD_MAX_BYTES:
            return ANY_WORD
        word = words[what, raw] = len(words) + 1
        db.execute("INSERT INTO words VALUES (?, ?, ?)", (word, what, raw))
    return word
