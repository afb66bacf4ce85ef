"""The flight recorder: durable records, how fast they are verified, and what a system call pays for being recorded.

1, 16 and 100 writers, as tasks of one loop: each appends a record of some 100 bytes, has it published, and goes on
when it is durable, so that what comes while a sync is under way shares the next. Round by round the same disk is asked
for a bare pwrite and fdatasync of as many bytes, in a row, and apsw for a transaction a record (WAL, synchronous=FULL),
which are the same for any number of writers. Ratios are taken within a round. The folder is made where TMPDIR says;
on a tmpfs nothing would be durable.

Verifying is of a journal in plain segments, read from the page cache, by one thread: every hash, link and sequence.
Its records are grouped as 16 writers' are; the time is the processor's.

The call is GETPID of one agent, as in bench/syscall; round by round through two kernels, one of which leaves calls out
of the record (harness/unrecorded).
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Final
from unittest import mock

import apsw
import trio
from attrs import define, field
from harness import unrecorded
from harness.command import command
from harness.figures import median, median_ratio, p99
from harness.kernel import PrivateKernel, private_kernel
from harness.native import build
from harness.report import Goal, Report, number

from agentix import private
from agentix_kernel.journal.disk import RealClock, RealDisk
from agentix_kernel.journal.journal import Journal
from agentix_kernel.journal.verify import verify
from agentix_syscalls import records

WRITERS: Final = (1, 16, 100)
DATA: Final = ("WRITE", [7, 4096], 0, "")
ROW: Final = b"x" * 100
GROUP: Final = 16
WINDOW_MS: Final = 20

APSW_GOAL: Final = 20.0
LATENCY_GOAL_US: Final = 100.0
VERIFY_RECORDS_S: Final = 1e6
VERIFY_MB_S: Final = 300.0
CALL_GOAL: Final = 1.15


@define
class Found:
    """Round by round. Rates are a second."""

    journal: dict[int, list[float]] = field(factory=lambda: {count: [] for count in WRITERS})
    journal_us: list[float] = field(factory=list[float])
    """Of a single writer: median of a round."""
    sync: list[float] = field(factory=list[float])
    sync_us: list[float] = field(factory=list[float])
    apsw: list[float] = field(factory=list[float])
    verify_records: list[float] = field(factory=list[float])
    verify_mb: list[float] = field(factory=list[float])
    recorded_us: list[float] = field(factory=list[float])
    unrecorded_us: list[float] = field(factory=list[float])


def measure(quick: bool) -> Report:
    rounds, seconds, count = (4, 0.3, 150_000) if quick else (12, 1.0, 1_000_000)
    found = Found()
    folder = tempfile.mkdtemp(prefix="agentix-bench-")
    try:
        for at in range(rounds):
            _round(found, f"{folder}/{at}", seconds)
        _verify(found, f"{folder}/verify", count, 3 if quick else 7)
        _calls(found, folder, rounds, int(seconds * 500))
    finally:
        shutil.rmtree(folder)
    return _report(found)


# --- durable records ------------------------------------------------------------------------------------------------

def _round(found: Found, folder: str, seconds: float) -> None:
    os.mkdir(folder)
    times = _timed(_syncer(folder), seconds)
    found.sync.append(len(times) / sum(times))
    found.sync_us.append(median(times) * 1e6)
    for count in WRITERS:
        took = trio.run(_write, f"{folder}/{count}", count, seconds)
        found.journal[count].append(len(took) / seconds)
        if count == 1:
            found.journal_us.append(median(took) * 1e6)
    times = _timed(_committer(folder), seconds)
    found.apsw.append(len(times) / sum(times))
    shutil.rmtree(folder)


def _timed(once: Callable[[], object], seconds: float) -> list[float]:
    """How long each took, in a row, for so long."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while (begin := time.monotonic()) < end:
        once()
        times.append(time.monotonic() - begin)
    return times


def _syncer(folder: str) -> Callable[[], object]:
    """Writes and syncs the next 100 bytes of a file that has its blocks: what the disk itself takes."""
    file = RealDisk(folder).create("sync", 8 << 20)
    places = iter(range(0, 8 << 20, len(ROW)))

    def once() -> None:
        file.pwrite(ROW, next(places))
        file.datasync()
    return once


def _committer(folder: str) -> Callable[[], object]:
    db = apsw.Connection(f"{folder}/apsw.db")
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE log (row BLOB)"):
        db.execute(statement).fetchall()

    def once() -> None:
        with db:
            db.execute("INSERT INTO log VALUES (?)", (ROW,))
    return once


async def _write(folder: str, writers: int, seconds: float) -> list[float]:
    """Seconds from each record's append until it was durable."""
    journal, _ = Journal.open(RealDisk(folder), RealClock(), random=os.urandom, key_path=f"{folder}.key")
    times: list[float] = []
    publishing = False

    async def publish() -> None:
        """Once for all that wait for their turn now, as the kernel does at the end of a tick."""
        nonlocal publishing
        publishing = False
        journal.publish()
        journal.request_commit()

    async def writer() -> None:
        nonlocal publishing
        while True:
            begin = time.monotonic()
            seq = journal.append(records.CALL, agent=7, life=1, verdict=records.ALLOWED, data=DATA)
            if not publishing:
                publishing = True
                nursery.start_soon(publish)
            await journal.committed(seq)
            times.append(time.monotonic() - begin)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(writers):
                nursery.start_soon(writer)
    journal.close()
    return times


# --- verifying ------------------------------------------------------------------------------------------------------

def _verify(found: Found, folder: str, count: int, rounds: int) -> None:
    journal, _ = Journal.open(RealDisk(folder), RealClock(), random=os.urandom, key_path=f"{folder}.key")
    for _ in range(count // GROUP):
        for _ in range(GROUP):
            journal.append(records.CALL, agent=7, life=1, verdict=records.ALLOWED, data=DATA)
        journal.publish()
    journal.close()
    disk, key = RealDisk(folder), journal.key
    size_mb = sum(os.path.getsize(f"{folder}/{name}") for name in disk.names()[:journal.segment]) / 1e6
    for _ in range(rounds):
        begin = time.process_time()
        report = verify(disk, key)
        took = time.process_time() - begin
        assert report.ok, report
        found.verify_records.append(report.records / took)
        found.verify_mb.append(size_mb / took)


# --- what a call pays -----------------------------------------------------------------------------------------------

def _calls(found: Found, folder: str, rounds: int, duration_ms: int) -> None:
    load = build("load", folder)

    other = unrecorded.program(folder)

    def p50_us(kernel: PrivateKernel, target: str) -> float:
        argv = [load, "noop", str(duration_ms), str(WINDOW_MS), str(kernel.pid), target]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
        return float(json.loads(done.stdout)["p50_ns"]) / 1000

    with (private_kernel() as recorded, mock.patch.object(private, "agentd", return_value=other),
          private_kernel() as silent):
        targets = [kernel.socket_target(kernel.spawn("exec", ["/bin/sleep", "infinity"]))
                   for kernel in (recorded, silent)]
        for _ in range(rounds):
            found.recorded_us.append(p50_us(recorded, targets[0]))
            found.unrecorded_us.append(p50_us(silent, targets[1]))


# --- what is told ---------------------------------------------------------------------------------------------------

def _report(found: Found) -> Report:
    report = Report("recorder")
    latency_us = median([ours - bare for ours, bare in zip(found.journal_us, found.sync_us, strict=True)])
    speed = max(median(found.verify_records) / VERIFY_RECORDS_S, median(found.verify_mb) / VERIFY_MB_S)
    to_apsw = {count: median_ratio(found.journal[count], found.apsw) for count in WRITERS}
    call = median_ratio(found.recorded_us, found.unrecorded_us)
    report.figures = {
        **{f"journal_{count}_writers_ops_s": median(found.journal[count]) for count in WRITERS},
        **{f"journal_{count}_writers_ratio_to_apsw": to_apsw[count] for count in WRITERS},
        "fdatasync_ops_s": median(found.sync), "apsw_ops_s": median(found.apsw),
        "journal_1_writer_us": median(found.journal_us), "fdatasync_us": median(found.sync_us),
        "verify_ops_s": median(found.verify_records), "verify_mb_a_second_number": median(found.verify_mb),
        "call_recorded_p50_us": median(found.recorded_us), "call_unrecorded_p50_us": median(found.unrecorded_us),
        "call_p50_ratio_to_unrecorded": call,
    }
    rows = [["", "records/s", "slowest round", "fastest", "to apsw", "to fdatasync"]]
    series = [(f"journal, {count} writer{'s' * (count > 1)}", found.journal[count]) for count in WRITERS]
    peers = [("pwrite and fdatasync in a row", found.sync), ("apsw, one transaction each", found.apsw)]
    for name, rates in series + peers:
        rows.append([name, number(median(rates)), number(min(rates)), number(max(rates)),
                     f"{median_ratio(rates, found.apsw):.2f}", f"{median_ratio(rates, found.sync):.2f}"])
    report.tables.append((f"durable on return; medians of {len(found.sync)} rounds", rows))
    report.tables.append(("one at a time", [
        ["", "median us", "p99 of rounds"],
        ["append until durable, one writer", number(median(found.journal_us)), number(p99(found.journal_us))],
        ["pwrite and fdatasync", number(median(found.sync_us)), number(p99(found.sync_us))],
        ["no-op call, recorded", number(median(found.recorded_us)), number(p99(found.recorded_us))],
        ["no-op call, not recorded", number(median(found.unrecorded_us)), number(p99(found.unrecorded_us))]]))
    report.tables.append(("verify, one thread", [
        ["", "a second"], ["records", number(median(found.verify_records))],
        ["megabytes", number(median(found.verify_mb))]]))
    report.goals = [
        Goal(f"{WRITERS[-1]} writers: records a second, ratio to apsw", to_apsw[WRITERS[-1]], ">=", APSW_GOAL),
        Goal("one writer: us over fdatasync", max(latency_us, 0.001), "<=", LATENCY_GOAL_US),
        Goal(f"verify: ratio to {VERIFY_RECORDS_S:,.0f} records/s or {VERIFY_MB_S:g} MB/s", speed, ">=", 1.0),
        Goal("no-op call: p50, ratio to not recorded", call, "<=", CALL_GOAL),
    ]
    return report


main = command(measure, __doc__)
