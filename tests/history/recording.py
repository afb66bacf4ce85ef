"""Journals with something in them to ask for, and questions about it."""

import random
from pathlib import Path

from journal.building import KEY, open_sim
from sim.disk import SimDisk

from agentix_kernel.history.fill import Filler
from agentix_kernel.history.index import Index
from agentix_kernel.history.question import Question
from agentix_kernel.history.search import search
from agentix_kernel.journal.read import Record, read
from agentix_syscalls import records

RULES = ("", "deny UNLINK:/state", "bot.yaml:3", "bot.yaml:31", "no utf-8 \udcff")
CALLS = ("OPEN", "UNLINK", "ptrace")
KINDS = (records.CALL, records.DENIAL, records.STEP, records.SIGNAL, records.REDO)


def made(seed: int, count: int = 400) -> SimDisk:
    """A journal of many small segments, written in groups of any size, on a clock that is set back now and then."""
    rnd, disk = random.Random(seed), SimDisk(seed)
    journal, _ = open_sim(disk)
    for _ in range(count):
        record(journal, rnd)
        if rnd.random() < 0.3:
            journal.publish()
        if rnd.random() < 0.02:
            back = rnd.randrange(10**5)
            journal._wall = lambda wall=journal._wall, back=back: wall() - back
    journal.close()
    return disk


def record(journal, rnd: random.Random) -> None:
    kind = rnd.choice(KINDS)
    call = rnd.choice(CALLS)
    data = {records.CALL: (call, [1, 2], 0, ""), records.DENIAL: ("dispatch", call, "/x", "no")}.get(kind, ("a", "b"))
    journal.append(kind, agent=rnd.choice((0, 1, 1, 2, 900)), life=1, phase=rnd.choice((0, 0, 1, 2)),
                   verdict=rnd.choice((0, 1, 1, 1, 2)), rule=rnd.choice(RULES),
                   correlation=rnd.choice((0, 0, 5, 6, 99)), data=data)


def question(rnd: random.Random, whole: list[Record]) -> Question:
    """One to three conditions, of values that occur and of some that do not."""
    some = rnd.choice(whole)
    values = {
        "agents": frozenset(rnd.sample((0, 1, 2, 900, 7), rnd.choice((1, 2)))),
        "kinds": frozenset({rnd.choice(KINDS), records.BOOT}),
        "phases": frozenset({rnd.choice((1, 2))}),
        "verdicts": frozenset({rnd.choice((0, 2, 3))}),
        "calls": frozenset({rnd.choice(("open", "unlink", "ptrace", "none"))}),
        "rule": rnd.choice(("yaml:3", "bot.yaml:31", "deny", "no rule", "\udcff", "")),
        "correlation": rnd.choice((0, 5, 99, 1000)),
        "since_ns": some.wall_ns, "until_ns": some.wall_ns,
        "from_seq": some.seq, "to_seq": rnd.choice(whole).seq,
    }
    return Question(**{name: values[name] for name in rnd.sample(sorted(values), rnd.choice((1, 1, 2, 3)))})


def index_of(disk: SimDisk, folder: Path) -> Index:
    return Index(str(folder / "index"), disk, KEY)


def filled(index: Index, blocks: int | None = None) -> Filler:
    """Its filler, after everything was taken in, or so many blocks."""
    filler = Filler(index)
    filler.open()
    while (blocks is None or (blocks := blocks - 1) >= 0) and filler.advance():
        pass
    return filler


def found(index: Index, asked: Question, *, newest: bool = False) -> list[Record]:
    return [record for _, records_ in search(index, asked, newest=newest) for record in records_]


def linear(disk: SimDisk, asked: Question) -> list[Record]:
    """The same by reading everything."""
    return [record for record in read(disk, KEY) if asked(record)]
