"""agentctl logs against agents that write more than is kept, and against a disk that is full."""

import os

import pytest
from emulation import WAIT_S

COUNTER = """
import sys
for number in range(int(sys.argv[1])):
    sys.stdout.write(f"{number:099}\\n")
sys.stdout.flush()
"""
WAVES = """
import sys
for number in range(3):
    print(f"out {number}", flush=True)
    print(f"err {number}", file=sys.stderr, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def small(running):
    """A kernel that keeps 64 KiB of output, twice."""
    with running("log_bytes = 65536\n") as live:
        yield live


def counted(text):
    return [int(line) for line in text.splitlines()]


def test_what_was_rotated_is_shown_too(small, scripts):
    agent = small.spawn(scripts(COUNTER), "1000")
    small.ctl("wait", agent, check=0)
    numbers = counted(small.ctl("logs", agent, check=0).stdout)
    assert numbers == list(range(numbers[0], 1000))
    assert len(numbers) * 100 > 65_536
    assert counted(small.ctl("logs", "--tail", "3", agent, check=0).stdout) == [997, 998, 999]
    over = small.ctl("logs", "--tail", str(len(numbers) - 2), agent, check=0).stdout  # begins in the older file
    assert counted(over) == numbers[2:]


def test_a_flood_is_bounded_and_ends_by_itself(small, scripts):
    """50 MB at full speed while somebody reads along: nothing grows, the agent is not held up, gaps are said."""
    agent = small.spawn("--name", "flood", scripts(COUNTER), "500000")
    with small.begin("logs", "-f", agent) as follow:
        said, complaints = follow.communicate(timeout=WAIT_S)
    assert follow.returncode == 0
    small.ctl("wait", agent, check=0)
    assert said.endswith(f"{499_999:099}\n")
    missing = sum(int(line.split()[2]) for line in complaints.splitlines())
    assert all("were dropped by rotation" in line for line in complaints.splitlines())
    folder = f"{small.prefix}/state/agents/{agent}"
    sizes = {name: os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder) if name.startswith("log")}
    assert sum(sizes.values()) < 4 * 65536 + (1 << 20)
    assert len(said) + missing <= 500_000 * 100


def test_following_begins_before_a_rotation_and_ends_after_it(small):
    agent = small.spawn("--", "/bin/bash", "-c", "trap 'for n in {1000..1899}; do printf %099d\\\\n $n; done' USR1; "
                        "echo up; while :; do sleep 0.02; done")
    small.until_logged(agent, "up")
    with small.begin("logs", "-f", agent) as follow:
        assert follow.stdout.readline() == "up\n"
        small.ctl("kill", "-USR1", agent, check=0)
        assert [int(follow.stdout.readline()) for _ in range(900)] == list(range(1000, 1900))
        small.ctl("rm", "-f", agent, check=0)
        assert (follow.wait(WAIT_S), follow.stdout.read(), follow.stderr.read()) == (0, "", "")


def test_marks_and_bounds_of_time(small):
    agent = small.spawn("--name", "marked", "--", "/bin/sh", "-c", "echo one; echo two >&2")
    small.ctl("wait", agent, check=0)
    shown = small.ctl("logs", "-t", "--streams", agent, check=0)
    stamp, stream, text = shown.stdout.split()
    assert (stream, text, shown.stderr.split()[1:]) == ("out", "one", ["err", "two"])
    assert small.ctl("logs", "--since", stamp, agent, check=0).stdout == "one\n"
    assert small.ctl("logs", "--until", "1h", agent, check=0).stdout == ""
    assert small.ctl("logs", "--until", "1h", "--tail", "9", "-f", agent, check=0).stdout == ""
    other = small.spawn("--", "/bin/sh", "-c", "echo three")
    small.ctl("wait", other, check=0)
    both = small.ctl("logs", agent, other, check=0)
    assert both.stdout.splitlines() == [f"{agent} | one", f"{other} | three"]


def test_a_full_disk_takes_output_and_neither_agent_nor_kernel(disk):
    live, folder, fill = disk
    agent = live.spawn("--name", "writer", "--", "/bin/bash", "-c", "trap 'printf %0500000d 7; echo' USR1; "
                       "trap 'echo again; exit 0' USR2; echo up; while :; do sleep 0.02; done")
    live.until_logged(agent, "up")
    fill()
    live.ctl("kill", "-USR1", agent, check=0)
    live.until(lambda: "the disk is full" in live.ctl("logs", agent, check=0).stderr)
    os.unlink(f"{folder}/ballast")
    live.ctl("kill", "-USR2", agent, check=0)
    live.ctl("wait", agent, check=0)
    shown = live.ctl("logs", agent, check=0)
    assert shown.stdout.startswith("up\n")
    assert shown.stdout.endswith("again\n")
    lost, = shown.stderr.splitlines()
    assert lost.startswith(f"agentctl: {agent}: ")
    assert lost.endswith(" bytes were lost: the disk was full")
    told = [row["data"] for row in live.rows("events", "--filter", "event=limit")]
    assert told == [{"limit": "log", "detail": "the disk is full: output of it is lost, and it runs on"}]
    faults = [line for line in live.log().splitlines() if "FAULT" in line]
    assert [line for line in faults if "FAULT: anchor: file" not in line] == []  # that is on the same disk
