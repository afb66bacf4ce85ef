"""What the policy forbids does not happen: every row of the table of attempts, tried by one agent on a real kernel.

Each is held to what the agent was told, to what the record says of it, and to what the host sees.
"""

import json
import os
import re
import secrets
from collections import Counter
from pathlib import Path

import pyseccomp
import pytest
from attrs import frozen
from hostile import attempts, attempts_beyond
from hostile.attempts import CALL, MEDIATED, PROTOCOL
from hostile.outside import Outside

from agentix import control
from agentix_syscalls import signals

ROWS = (*attempts.RULES, *attempts.TREES, *attempts_beyond.ALL)
PROBE = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("holding.py", "probe.py"))
LINUX = (*attempts_beyond.REFUSED, *attempts_beyond.SET_ID, "name_to_handle_at", "clone", "clone3", "openat2",
         "seccomp", "capset", "pidfd_getfd", "sched_setattr", "ioprio_set", "shmget", "timer_create")


def numbers() -> dict[str, int]:
    """Linux calls of this machine by name; what it does not have is not tried."""
    found = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in LINUX}
    newer = {"fchmodat2": 452, "lsm_set_self_attr": 460}
    return {name: newer.get(name, number) for name, number in found.items()}


@frozen
class Told:
    """What came of the attempts: answers and records by row, and the views from outside before and after."""

    answers: list[str]
    records: list[list[dict]]
    before: dict[str, object]
    after: dict[str, object]


@pytest.fixture(scope="module")
def live(running):
    with running() as kernel:
        yield kernel


@pytest.fixture(scope="module")
def outside(live, tmp_path_factory):
    with control.Client(f"{live.prefix}/run/control.sock") as client:
        made = Outside(live, client, str(tmp_path_factory.mktemp("host")), secrets.token_hex(16))
        yield made
        made.close()


def spawn(outside: Outside, name: str, tries: list[list[str]], told: dict, **options) -> int:
    """An agent that runs the probe."""
    fds = [os.open(f"{outside.folder}/{folder}", os.O_PATH) for folder in ("shared", "shown")]
    binds = [["/shared", True, f"{outside.folder}/shared"], ["/shown", False, f"{outside.folder}/shown"]]
    argv = ["probe.py", json.dumps(tries), json.dumps(told)]
    made = outside.client.call("spawn", "script", argv, {
        "name": name, "source": PROBE, "stdin": True, "binds": binds, **options}, descriptors=fds)
    for fd in fds:
        os.close(fd)
    return made["id"]


def until_said(outside: Outside, agent: int, word: bytes) -> list[bytes]:
    """The agent's output up to this line."""
    said = b""
    for _, data, _ in outside.client.stream("logs", agent, True):
        said += data
        if word in said.split(b"\n"):
            return said.split(b"\n")
    raise AssertionError(said.decode())


def segments(rows: list[dict]) -> list[list[dict]]:
    """The attacker's records, divided where it said that the next attempt begins."""
    found: list[list[dict]] = []
    for row in rows:
        data = row["data"]
        if row["kind"] == "call" and data["call"] == "CHECKPOLICY" and "state/attempt-" in str(data["args"][1]):
            found.append([])
        elif found:
            found[-1].append(row)
    return found


@pytest.fixture(scope="module")
def told(outside):
    meeting = {"meeting": f"{outside.token}-meeting", "wait": False}
    outside.victim = spawn(outside, "kid-precious", [["", "accomplice()"]], meeting)
    until_said(outside, outside.victim, b"up")
    Path(outside.kernel.tree(outside.victim, "state/precious")).write_text(outside.token)
    outside.attacker = spawn(outside, "attacker", [[row.name, row.tries] for row in ROWS], outside.told(
        linux=numbers(), wait=True), policy=["hostile.yaml", attempts.POLICY.encode()])
    until_said(outside, outside.attacker, b"ready")
    outside.furnish()
    before = outside.views()
    outside.client.call("feed", outside.attacker, b"go")
    said = until_said(outside, outside.attacker, b"end")
    after = outside.views()
    answers = dict(json.loads(line) for line in said if line.startswith(b"["))
    records = segments(list(outside.client.stream("trace", outside.attacker)))
    yield Told([answers[number] for number in range(len(ROWS))], records, before, after)
    for agent in (outside.attacker, outside.victim):
        outside.client.call("signal", agent, signals.SIGKILL, True)
        outside.client.call("wait", agent)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[f"{row.room}: {row.name}" for row in ROWS])
def test_it_is_refused_recorded_and_of_no_effect(told, number):
    row = ROWS[number]
    assert re.fullmatch(row.answer.replace("[", r"\[").replace("]", r"\]"), told.answers[number]), told.answers[number]
    assert told.after[row.effect] == told.before[row.effect]
    records = told.records[number]
    if row.stops in MEDIATED:
        denials = [one for one in records if one["kind"] == "denial" and row.rule in one["rule"]]
        assert denials, records
        assert {one["verdict"] for one in denials} == {"denied"}
        assert {one["data"]["enforcer"] for one in denials} <= {row.stops}
    elif row.stops == PROTOCOL:
        assert "fault" in {one["kind"] for one in records} or row.room == "resources"
    elif row.stops == CALL:
        assert [one for one in records if one["verdict"] == "failed"], records


def test_how_many_were_tried(capsys):
    """150 are asked for; each room has its part. The table is shown with -rP."""
    rooms, doors = Counter(row.room for row in ROWS), sorted({row.stops for row in ROWS})
    table = Counter((row.room, row.stops) for row in ROWS)
    print(f"{'attempts':12}{''.join(f'{door[:9]:>10}' for door in doors)}{'all':>10}")
    for room, count in rooms.most_common():
        print(f"{room:12}{''.join(f'{table[room, door] or str():>10}' for door in doors)}{count:>10}")
    print(f"{'all':12}{''.join(f'{sum(row.stops == door for row in ROWS):>10}' for door in doors)}{len(ROWS):>10}")
    assert len(ROWS) >= 150
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {room for room, count in rooms.items() if count >= 10} >= {
        "files", "processes", "signals", "identity", "resources", "linux", "frames", "policies", "capabilities"}
