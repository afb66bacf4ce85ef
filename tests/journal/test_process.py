"""kill -9 of a real process that records: what it had published is there."""

import os
import random
import signal
import struct
import subprocess
import sys

from journal.building import judge, open_real, values

from agentix_kernel.journal.disk import RealDisk

KILLS = 20
WRITER = """
import os, struct, sys
from pathlib import Path
from journal.building import open_real, step
journal, opened = open_real(Path(sys.argv[1]))
n = opened.head_seq
while True:
    for _ in range(1 + n % 7):
        step(journal, n)
        n += 1
    os.write(1, struct.pack("<QQ", journal.publish(), journal.durable))
    if n % 5 == 0:
        journal.request_commit()
"""


def run_and_kill(folder, reports):
    """Returns the last sequence that the writer said was published, and the last that was durable."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE,
                              env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        told = writer.stdout.read(16 * reports)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        told += writer.stdout.read()
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
    return struct.unpack_from("<QQ", told, len(told) // 16 * 16 - 16)


def test_nothing_published_is_lost(tmp_path):
    chance = random.Random(0)
    head = 0
    for _ in range(KILLS):
        published, durable = run_and_kill(tmp_path, chance.randrange(1, 3000))
        journal, opened = open_real(tmp_path)
        assert opened.head_seq >= published > head
        assert published >= durable
        head = opened.head_seq
        journal.abandon()
    disk = RealDisk(str(tmp_path / "journal"))
    assert values(disk, journal.key) == list(range(head))
    assert judge(disk, journal.key).ok
    assert len(disk.names()) > 3
