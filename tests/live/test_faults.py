"""agentd ended at each boundary of the table of fault points, and what the next boot makes of it.

A chain of boots shares one prefix: each boot but the first has to recover what the fault of the one before left, is
held against all that was acknowledged so far, and is then worked with until its own fault ends it.
"""

import errno
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from attrs import define, field
from emulation import WAIT_S

from agentix.control import Client, NoKernelError, socket_path
from agentix_kernel import faults
from agentix_syscalls.errors import CallError

QUICK = """
fault_injection = true
journal_segment_bytes = 1048576
restart_delay_s = 0.01
start_limit_burst = 0
"""
SPAN = 65536
PIECE = bytes(range(256)) * 64


@define
class Model:
    """What was acknowledged, and so must be found after any death."""

    names: dict[int, str] = field(factory=dict)
    statuses: dict[int, int] = field(factory=dict)
    removed: set[int] = field(factory=set)
    files: dict[tuple[int, str], bytes] = field(factory=dict)
    keeper: int = 0
    removing: set[int] = field(factory=set)
    """Asked for, and not answered."""


def work(client: Client, model: Model, turn: int) -> None:
    """A bit of everything that crosses a boundary. Each answer goes into the model."""
    if not model.keeper:
        model.keeper = spawn(client, model, "keeper", "exec sleep 600", restart="always")
    agent = spawn(client, model, f"note{turn}", "echo $$; echo one > ../../state/n; mv ../../state/n ../../state/kept;"
                  " echo x > ../../state/y; rm ../../state/y; sync -d ../../state/kept; exit 3")
    model.statuses[agent] = client.call("wait", agent)["status"]
    model.files[agent, "state/kept"] = b"one\n"
    client.call("write", model.keeper, f"state/{turn}", PIECE)
    model.files[model.keeper, f"state/{turn}"] = PIECE
    sleeper = spawn(client, model, f"sleeper{turn}", "exec sleep 600")
    client.call("signal", sleeper, 1)
    other = spawn(client, model, f"victim{turn}", "exec sleep 600")
    client.call("signal", other, 4)
    model.statuses[other] = client.call("wait", other)["status"]
    model.removing.add(other)
    client.call("rm", other)
    model.removed.add(other)
    client.call("rename", sleeper, f"renamed{turn}")
    model.names[sleeper] = f"renamed{turn}"
    client.call("audit_rotate_key")
    for number in range(9):  # their records are large: another segment is begun
        loud = spawn(client, model, f"loud{turn}.{number}", argv=("/bin/true", *["x" * 2000] * 60))
        model.statuses[loud] = client.call("wait", loud)["status"]
    client.call("shutdown", "the end of the work")


def spawn(client, model, name, script="", *, argv=(), kind="exec", options=None, **more) -> int:
    argv = argv or ("/bin/sh", "-c", script)
    agent = client.call("spawn", kind, argv, {"name": name, **(options or {}), **more})["id"]
    model.names[agent] = name
    return agent


class Died(Exception):
    """The kernel ended while it was asked."""


@contextmanager
def asking(live) -> Iterator[Client]:
    try:
        with Client(socket_path(live.prefix)) as client:
            yield client
    except NoKernelError as gone:
        raise Died from gone
    except CallError as gone:
        if gone.number != errno.ECONNRESET:
            raise
        raise Died from gone


# --- the invariants ------------------------------------------------------------------------------------------------

def check(live, model: Model) -> list[str]:
    """What is not as it must be after a boot. Raises Died: the kernel's own fault came before the judgement."""
    with asking(live) as client:
        rows = {row["id"]: row for row in client.call("ps", True, True)}
        found = [f"agent {agent}: {problem}" for agent, name in model.names.items()
                 for problem in check_agent(rows.get(agent), agent, name, model)]
        for (agent, path), content in model.files.items():
            read = b"".join(list(client.stream("read", agent, path))[1:])
            if read != content:
                found.append(f"{path} of agent {agent}: {read[:40]!r}")
        found += check_record(list(client.stream("trace")), rows, model)
        found += client.call("audit_verify")["problems"]
        found += check_left(live, {row["id"]: row for row in client.call("ps", True, True)})
        client.call("info")  # it answers: what was found is its own doing
    return found


def check_agent(row, agent, name, model):
    if row is None:
        if agent not in model.removed | model.removing:
            yield "is gone"
        return
    if agent in model.removed:
        yield "was removed, and is back"
    if row["name"] != name and not row["name"].startswith("renamed"):
        yield f"is called {row['name']}"
    if agent == model.keeper:
        if row["state"] not in {"running", "ready"} or row["life"] < 2:
            yield f"was not restarted: {row['state']}, life {row['life']}"
    elif agent in model.statuses:
        if (row["state"], row["status"]) != ("dead", model.statuses[agent]):
            yield f"ended with {model.statuses[agent]}, and now {row['state']}, {row['status']}"
    elif row["state"] != "dead" or not row["why"]:
        yield f"{row['state']} without a reason"


def check_record(records, rows, model):
    if [record["seq"] for record in records] != list(range(1, len(records) + 1)):
        yield "the record has holes"
    boots = [record["data"]["boot"] for record in records if record["kind"] == "boot"]
    if boots != sorted(set(boots)):
        yield f"boots {boots}"
    spawned = {record["agent"] for record in records
               if (record["kind"], record["phase"], record["verdict"]) == ("spawn", "outcome", "allowed")}
    if missing := model.names.keys() - spawned:
        yield f"spawns of {missing} are not recorded"
    ended = {record["agent"] for record in records if record["kind"] == "exit"}
    if missing := model.statuses.keys() - ended:
        yield f"ends of {missing} are not recorded"
    if missing := model.removed - {record["agent"] for record in records if record["kind"] == "remove"}:
        yield f"removals of {missing} are not recorded"
    lost = [(record["agent"], record["life"]) for record in records if record["kind"] == "lost"]
    if len(lost) != len(set(lost)):
        yield f"lost twice: {lost}"
    for agent, row in rows.items():
        if row["why"] == "lost" and (agent, row["life"]) not in lost:
            yield f"agent {agent} was lost, and no record says so"


def check_left(live, rows):
    """What a dead kernel must not have left behind: processes, cgroups, mounts, sockets, folders."""
    alive = {f"{row['id']}.{row['life']}": row["uid"] for row in rows.values() if row["state"] in {"running", "ready"}}
    spare = f"{max(rows, default=0) + 1}"
    with open(f"{live.prefix}/state/uid-range") as file:
        first = int(file.read()) * SPAN
    uids = {uid for uid in uids_of_processes() if first <= uid < first + SPAN}
    if uids - set(alive.values()):
        yield f"processes of uids {uids - set(alive.values())}"
    tags = {os.path.basename(path) for path in live.cgroups()} - {"tools"}
    tags = {tag for tag in tags if tag[0].isdecimal()}
    if left := {tag for tag in tags if tag not in alive and int(tag.split(".")[0]) < int(spare)}:
        yield f"cgroups {left}"
    with open("/proc/self/mountinfo") as file:
        mounts = [line for line in file if f" {live.prefix}/agent " in line]
    if len(mounts) != 1:
        yield f"{len(mounts)} mounts"
    if left := set(os.listdir(f"{live.prefix}/run/agents")) - set(alive):
        yield f"sockets {left}"
    folders = {int(name) for name in os.listdir(f"{live.prefix}/state/agents") if name.isdecimal()}
    if folders - set(rows):
        yield f"folders of {folders - set(rows)}"


def uids_of_processes():
    """Of what lives: an orphan that has ended waits for the first process of the machine to take note of it."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{name}/status").read_text().splitlines())
                if fields["State"][0] not in "ZX":
                    yield int(fields["Uid"].split()[0])


# --- chains --------------------------------------------------------------------------------------------------------

def chain(running, todo: list[str]) -> dict[str, list[str]]:
    """What was wrong after each fault, by fault: judged by the first boot after it that comes to be ready."""
    told: dict[str, list[str]] = {}
    model, unjudged = Model(), []

    def judge():
        told.update(dict.fromkeys(unjudged, check(live, model)))
        unjudged.clear()

    with running(QUICK, start=False) as live:
        try:
            for turn, fault in enumerate(todo):
                if live.boot(**{faults.VARIABLE: fault}):
                    with suppress(Died):
                        judge()
                        with asking(live) as client:
                            work(client, model, turn)
                code = live.process.wait(WAIT_S)
                unjudged.append(fault)
                if code != -signal.SIGKILL:
                    return told | {fault: [f"it was not met; agentd ended with {code}: {live.log(live.begun)}"]}
                if any(told.values()):
                    return told
        finally:
            live.process.kill()
            live.process.wait()
            live.start()
        judge()
    return told


CHAINS = ("""
key.rename:1 boot.lock:1 boot.lock.done:1 boot.count:1 boot.count.done:1 journal.write:1 journal.write.torn:1
journal.write.torn:9 journal.write.done:30 boot.sweep:1 boot.sweep.done:1 journal.sync:2 journal.sync:9
journal.sync.done:3 registry.id:1 registry.id.done:2 registry.folder:2 registry.folder.done:2 boot.unborn:1
boot.unborn.done:1 registry.replace:1 registry.replace.done:1 registry.replace:4 registry.replace.done:5
""", """
key.rename.done:1 key.keep:1 key.keep.done:1 key.rename:2 journal.fill.done:1 agent.socket:1 boot.unmount:1
boot.unmount.done:1 agent.socket.done:2
boot.sockets:1 boot.sockets.done:1 agent.doors:1 agent.doors.done:2 agent.log:1 agent.log.torn:1 agent.log.done:1
file.make:1 file.make.done:2 file.write:1 file.write.torn:2 file.write.done:1 file.rename:1 file.rename.done:1
""", """
journal.fill:3 file.unlink:1 file.unlink.done:1 file.sync:1 file.sync.done:1 tree.aside:1 tree.aside.done:1
tree.erase:1 mount:1 mount.done:1 unmount:1 unmount.done:1 control.listen:1 control.listen.done:1 boot.settle:1
boot.settle.done:1 journal.link:1
""", """
journal.link.done:3 spawner.start:1 spawner.start.done:1 spawner.ask:1 spawner.ask.done:2 clone.ask:1
clone.ask.done:3 clone.order:1 clone.order.done:2 clone.hear:1 clone.hear.done:5 cgroup.make:1 cgroup.make.done:2
cgroup.write:1 cgroup.write.done:9 cgroup.remove:1 cgroup.remove.done:3
""")
"""Each point, its first hit or a later one; in an order in which each boot meets what its point is about."""
FAULTS = [fault for chain in CHAINS for fault in chain.split()]


@pytest.fixture(scope="module")
def told(running):
    with ThreadPoolExecutor(len(CHAINS)) as pool:
        found = pool.map(lambda todo: chain(running, todo.split()), CHAINS)
        return {fault: problems for one in found for fault, problems in one.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_boot_finds_the_truth(told, fault):
    assert told[fault] == []


def test_each_point_is_met():
    deadly = {point.name for point in faults.POINTS if point.side in {faults.BEFORE, faults.HALF, faults.AFTER}}
    assert {fault.split(":")[0] for fault in FAULTS} == deadly
