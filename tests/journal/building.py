"""Journals to test with: on the simulated disk, without threads, of small segments."""

import hashlib
from pathlib import Path

from sim.disk import SimDisk

from agentix_kernel.journal.disk import RealClock, RealDisk
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.read import read
from agentix_kernel.journal.recover import Opened
from agentix_kernel.journal.verify import Report, verify
from agentix_syscalls import records

KEY = Key(b"k" * 32)
SEGMENT_BYTES = 4096


class SimClock:
    """Goes on by a microsecond at each look."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        self.now += 1000
        return self.now

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.monotonic_ns()


def not_random(count: int) -> bytes:
    return hashlib.sha256(count.to_bytes(4, "little")).digest()[:count]


def open_sim(disk: SimDisk, key: Key = KEY, segment_bytes: int = SEGMENT_BYTES) -> tuple[Journal, Opened]:
    return Journal.open(disk, SimClock(), random=not_random, key=key, segment_bytes=segment_bytes, threaded=False)


def open_real(folder: Path, *, threaded: bool = True, segment_bytes: int = 1 << 16) -> tuple[Journal, Opened]:
    """A journal in folder/journal, its key in folder/keys."""
    return Journal.open(RealDisk(str(folder / "journal")), RealClock(), random=not_random,
                        key_path=str(folder / "keys" / "journal.key"), segment_bytes=segment_bytes, threaded=threaded)


def step(journal: Journal, n: int, agent: int = 1) -> int:
    return journal.append(records.STEP, agent=agent, data=("step", n))


def fill(journal: Journal) -> None:
    """One record a group, until the disk refuses."""
    n = 0
    while True:
        step(journal, n)
        n += 1
        journal.publish()


def grouped(count: int, of: int = 2, disk: SimDisk | None = None) -> SimDisk:
    """A journal of `count` groups of `of` records each, closed in order."""
    disk = disk or SimDisk()
    journal, _ = open_sim(disk)
    for n in range(count):
        for index in range(of):
            step(journal, n * of + index)
        journal.publish()
        if n % 3 == 0:
            journal.commit()
    journal.close()
    return disk


def values(disk: SimDisk | RealDisk, key: Key = KEY) -> list[int]:
    """The numbers that `step` recorded, in order."""
    return [record.data[1] for record in read(disk, key)]


def judge(disk: SimDisk | RealDisk, key: Key = KEY) -> Report:
    return verify(disk, key)
