"""The record of a real kernel, asked beside it: by agentctl as people use it, with the kernel and without."""

import contextlib
import csv
import errno
import io
import json
import os
import signal
import socket
import subprocess

import pytest
from emulation import WAIT_S
from google.protobuf import json_format
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData

from agentix.control import pieces
from agentix_syscalls import control, wire
from agentix_syscalls.errors import CallError

WORK = """
from agentix import libc
libc.mkdir("state/d")
for name in ("one", "two"):
    try:
        libc.unlink(f"state/d/{name}")
    except PermissionError:
        pass
"""
MEMBER = {"user": 4242, "group": 4242, "extra_groups": [65534]}


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\n") as kernel:
        os.chmod(kernel.prefix, 0o755)
        yield kernel


@pytest.fixture(scope="module")
def worker(live, scripts):
    """An agent that was refused twice, and another that did nothing."""
    agent = live.spawn("--deny", "UNLINK:/state/d", scripts(WORK))
    live.ctl("wait", agent, check=0)
    other = live.spawn("--", "/bin/true")
    live.ctl("wait", other, check=0)
    return agent


def query(live, *args):
    return live.rows("audit", "query", *args)


def historian(live) -> int:
    """The pid of this kernel's historian."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            with open(f"/proc/{pid}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            continue
        if b"agentix_kernel.history.historian" in words and parent == live.process.pid:
            return int(pid)
    return 0


# --- asking ------------------------------------------------------------------------------------------------------

def test_conditions_are_those_of_a_linear_read(live, worker):
    whole = live.rows("trace")
    seen = [row for row in whole if row["agent"] == worker]
    assert query(live, worker) == seen
    assert query(live, worker, "--newest") == seen[::-1]
    denied = [row for row in seen if row["verdict"] == "denied"]
    assert len(denied) == 4
    assert query(live, worker, "--verdict", "denied") == denied
    assert query(live, "--rule", "deny UNLINK:/state/d", "--kind", "denial") == [
        row for row in denied if row["kind"] == "denial"]
    assert query(live, worker, "--call", "mkdir") == query(live, worker, "--call", "SYS_MKDIR") == [
        row for row in seen if row["data"].get("call") == "MKDIR"]
    spawned = [row for row in seen if row["kind"] == "spawn"]
    assert query(live, "--correlation", spawned[0]["correlation"]) == spawned
    assert query(live, worker, "--kind", "spawn", "--phase", "outcome") == spawned[1:]
    assert query(live, 0) == [row for row in whole if row["agent"] == 0]
    assert query(live, "--since", "2999-01-01") == query(live, "--until", "1999-01-01") == []
    assert live.rows("trace", worker, "--verdict", "denied") == denied
    assert live.rows("trace", worker, "--verdict", "denied", "--tail", 1) == denied[-1:]


def test_a_limit_says_when_there_is_more(live, worker):
    limited = live.ctl("audit", "query", worker, "--limit", 2, "--newest", check=0)
    assert [line.split()[2] for line in limited.stdout.splitlines()] == [
        str(row["seq"]) for row in query(live, worker)[:-3:-1]]
    assert limited.stderr == "agentctl: there are more than 2; a larger --limit shows them\n"
    assert live.ctl("audit", "query", worker, "--kind", "exit", "--limit", 1, check=0).stderr == ""


@pytest.mark.parametrize(("args", "said"), [
    (("--kind", "denail"), "the nearest is 'denial'"), (("--verdict", "refused"), "no verdict; there are none,"),
    (("--phase", "outcom"), "the nearest is 'outcome'"), (("--since", "yesterday"), "not a time"),
    (("--correlation", "0"), "not in the range"), (("--limit", "0"), "not in the range"),
    (("--rule", "x" * 5000), "over 4096 bytes"),
])
def test_what_cannot_be_asked_is_refused_by_its_name(live, args, said):
    refused = live.ctl("audit", "query", *args, check=2)
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_no_such_agent_record_or_boot(live):
    assert "no such agent" in live.ctl("audit", "query", "nobody", check=1).stderr
    assert "the journal has no record 999999" in live.ctl("audit", "show", 999999, check=1).stderr
    for boot in (7, -1):
        assert f"the journal has no boot {boot}" in live.ctl("kernel-log", "-b", boot, check=1).stderr


def test_one_record_whole(live, worker):
    intent, outcome = query(live, worker, "--kind", "spawn")
    told = live.json("audit", "show", intent["seq"], "--around", 1)
    assert told["record"] == intent
    assert told["partners"] == [outcome]
    assert [row["seq"] for row in (*told["before"], *told["after"])] == [intent["seq"] - 1, intent["seq"] + 1]
    place = told["place"]
    assert place["whole"]
    assert place["first_seq"] <= intent["seq"] < place["first_seq"] + place["records"]
    with open(f"{live.prefix}/state/journal/{place['segment']}", "rb") as file:
        file.seek(place["offset"])
        assert bytes.fromhex(place["link"]) in file.read(200)
    text = live.ctl("audit", "show", intent["seq"], check=0).stdout
    assert "whole: as it was written" in text


def test_a_damaged_place_is_said(make_kernel):
    live = make_kernel()
    live.ctl("wait", live.spawn("--", "/bin/true"), check=0)
    row = live.record(1, "spawn")[0]
    place = live.json("audit", "show", row["seq"])["place"]
    with open(f"{live.prefix}/state/journal/{place['segment']}", "r+b") as file:
        file.seek(place["offset"] - 1)
        byte = file.read(1)
        file.seek(place["offset"] - 1)
        file.write(bytes([byte[0] ^ 1]))
        file.flush()
        found = live.ctl("audit", "show", row["seq"], "--json", check=1)
        assert not json.loads(found.stdout)["place"]["whole"]
        asked = live.ctl("audit", "export", check=1)
        assert "damaged" in asked.stderr
        file.seek(place["offset"] - 1)
        file.write(byte)


def test_the_record_in_three_forms(live, worker):
    rows = query(live, worker)
    exported = live.ctl("audit", "export", worker, check=0).stdout
    assert [json.loads(line) for line in exported.splitlines()] == rows
    table = list(csv.DictReader(io.StringIO(live.ctl("audit", "export", worker, "--format", "csv", check=0).stdout)))
    assert [(int(row["seq"]), row["kind"], row["rule"], json.loads(row["data"])) for row in table] == [
        (row["seq"], row["kind"], row["rule"], row["data"]) for row in rows]
    logs = []
    for line in live.ctl("audit", "export", worker, "--format", "otel", check=0).stdout.splitlines():
        found = json_format.Parse(line, LogsData())  # refuses what the published schema does not have
        logs += [log for resource in found.resource_logs for scope in resource.scope_logs for log in scope.log_records]
    assert [log.time_unix_nano for log in logs] == [row["wall_ns"] for row in rows]
    attributes = [{pair.key: pair.value for pair in log.attributes} for log in logs]
    assert [found["agentix.seq"].int_value for found in attributes] == [row["seq"] for row in rows]
    denied = [log.severity_number for log, row in zip(logs, rows, strict=True) if row["verdict"] == "denied"]
    assert set(denied) == {13}


def test_whoever_stops_reading_ends_an_export_and_harms_nobody(live, worker):
    with subprocess.Popen(live.words("audit", "export"), stdout=subprocess.PIPE) as export:
        export.stdout.readline()
        export.stdout.close()
        assert export.wait(WAIT_S) == 141 or export.returncode == 0  # it may have written all by then
    assert query(live, worker)


# --- by whom -----------------------------------------------------------------------------------------------------

def ask(sock, name, *args):
    """The descriptor of an answer, or the error that came instead."""
    sock.sendall(wire.request(control.BY_NAME[name].number, 1, list(args)))
    reader, taken = wire.Reader(wire.CONTROL_BODY_MAX_BYTES), []
    while (frame := reader.next()) is None:
        data, fds, _, _ = socket.recv_fds(sock, 65536, 4)
        assert data
        taken += fds
        reader.feed(data)
    return taken[0] if not frame[1] & wire.F_ERROR else wire.decode(frame[3])


def connected(live):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WAIT_S)
    os.setegid(65534)
    os.seteuid(4242)
    try:
        sock.connect(f"{live.prefix}/run/control.sock")
    finally:
        os.seteuid(0)
        os.setegid(0)
    ask_hello(sock)
    return sock


def ask_hello(sock):
    sock.sendall(wire.request(control.BY_NAME["hello"].number, 1, [wire.PROTOCOL]))
    assert sock.recv(4096)


def test_a_member_may_look(live, worker):
    found = live.ctl("audit", "query", worker, "--json", check=0, **MEMBER)
    assert [json.loads(line) for line in found.stdout.splitlines()] == query(live, worker)
    assert live.ctl("boots", check=0, **MEMBER).stdout == live.ctl("boots", check=0).stdout


@pytest.fixture(scope="module")
def long(live, scripts):
    """An agent whose record is longer than a pipe takes."""
    agent = live.spawn(scripts("from agentix import libc\nfor _ in range(1000):\n    libc.getpid()\n"))
    live.ctl("wait", agent, check=0)
    return agent


def test_an_answer_that_breaks_off_is_never_taken_for_a_whole_one(live, long):
    with connected(live) as sock:
        answer = pieces("audit_export", ask(sock, "audit_export", {"agents": [long]}))
        got = [next(answer)]
        with open(f"/proc/{historian(live)}/task/{historian(live)}/children") as file:
            os.kill(int(file.read().split()[0]), signal.SIGKILL)
        with pytest.raises(CallError, match="broke off") as broken:
            got.extend(answer)
    assert broken.value.number == errno.EPIPE
    assert 0 < sum(len(rows) for _, rows in got) < 1000
    live.until(lambda: "an answer to uid 4242 broke off, with status -9" in live.ctl("kernel-log", check=0).stdout)


def test_a_member_who_reads_nothing_holds_up_nobody(live, worker, long):
    """Answers that nobody reads wait in forks of the historian: so many for one person, and others have theirs."""
    with connected(live) as sock, contextlib.ExitStack() as held:
        answers = [ask(sock, "audit_query", {}, 0, False) for _ in range(12)]
        files = [held.enter_context(open(fd, "rb", buffering=0)) for fd in answers]
        refused = [file for file in files if wire.HEADER.unpack(file.read(wire.HEADER_BYTES))[2] & wire.F_ERROR]
        assert len(refused) == 4
        assert all(b"8 of them for uid 4242" in file.read(4096) for file in refused)
        assert query(live, worker, "--kind", "exit")
    live.until(lambda: live.ctl("audit", "query", "--kind", "exit", **MEMBER).returncode == 0)


@pytest.mark.parametrize("args", [
    ("audit_query", {"agents": "all"}), ("audit_query", {"nothing": 1}), ("audit_query", {"kinds": []}),
    ("audit_query", {"kinds": ["spawn"] * 257}), ("audit_query", {"rule": 7}), ("audit_query", {"agents": [-1]}),
    ("audit_query", {"since_ns": 1 << 63}), ("audit_query", {}, -1), ("audit_show", -1), ("audit_show", 1, 2, 3),
    ("kernel_log", "x"), ("audit_query", {"calls": ["x" * 4000] * 200}), ("audit_query", {"agents": [10**15]}),
])
def test_odd_questions_are_answered_with_an_error(live, args):
    with connected(live) as sock:
        assert isinstance(ask(sock, *args), tuple)
    assert historian(live)


# --- what goes wrong ---------------------------------------------------------------------------------------------

def test_a_historian_and_its_index_that_go_are_replaced_and_it_is_said(make_kernel):
    live = make_kernel()
    first = live.until(lambda: historian(live))
    os.kill(first, signal.SIGKILL)
    whole = live.rows("audit", "query")  # waits for the next one
    assert historian(live) not in {0, first}
    assert "the historian ended with status -9" in live.ctl("kernel-log", check=0).stdout
    second = historian(live)
    live.process.kill()
    live.process.wait()
    live.until(lambda: not os.path.exists(f"/proc/{second}"))
    with open(f"{live.prefix}/state/index/index.sqlite", "r+b") as file:
        file.write(b"not a database" * 100)
    live.start()
    assert live.rows("audit", "query", "--kind", "boot")[0] == whole[0]
    said = live.until(lambda: [line for line in live.ctl("kernel-log").stdout.splitlines() if "made anew" in line])
    assert "history: " in said[0]
    assert os.stat(f"{live.prefix}/state/index").st_mode & 0o077 == 0


# --- boots, and no kernel at all ---------------------------------------------------------------------------------

def test_boots_tell_how_each_ended(make_kernel):
    live = make_kernel()
    live.spawn("--restart", "always", "--", "/bin/sleep", "1000")
    live.spawn("--", "/bin/sleep", "1000")
    assert [(row["boot"], row["end"]) for row in live.json("boots")] == [(1, "running")]
    live.process.kill()
    live.process.wait()
    dead = live.ctl("boots", "--json", check=0)
    assert dead.stderr == "agentctl: no kernel is running; reading what was recorded without one\n"
    assert [(row["end"], row["lost"]) for row in json.loads(dead.stdout)] == [("killed", 0)]
    live.start()
    first, second = live.json("boots")
    assert (first["end"], first["lost"], first["restarted"]) == ("killed", 2, 0)
    assert first["began_ns"] < first["ended_ns"] < second["began_ns"]
    assert (second["end"], second["ended_ns"], second["restarted"]) == ("running", None, 1)
    assert "of a dead kernel" in second["repaired"][0]
    live.ctl("shutdown", "--why", "enough", check=0)
    live.process.wait(WAIT_S)
    _, second = json.loads(live.ctl("boots", "--json", check=0).stdout)
    assert (second["end"], second["why"]) == ("in order", "enough")
    lines = live.ctl("kernel-log", "-b", -1, check=0).stdout.splitlines()
    assert lines == live.ctl("kernel-log", "-b", 1, check=0).stdout.splitlines()
    assert "boot=1" in lines[0]
    assert "config: " in lines[1]
    assert not any("boot=2" in line for line in lines)
    live.start()
    assert live.ctl("boots", check=0).stdout.splitlines()[-1].split()[0] == "3"


def test_without_a_kernel_root_is_answered_and_others_are_told(make_kernel):
    live = make_kernel()
    agent = live.spawn("--", "/bin/true")
    live.ctl("wait", agent, check=0)
    live.stop()
    before = sorted(os.listdir(f"{live.prefix}/state"))
    assert query(live, agent, "--kind", "exit")
    assert live.ctl("audit", "export", check=0).stdout.count("\n") > 10
    assert "known by their ids only" in live.ctl("audit", "query", "agent-1", check=1).stderr
    os.chmod(live.prefix, 0o755)
    assert "no kernel is running" in live.ctl("audit", "query", check=1, **MEMBER).stderr
    assert sorted(os.listdir(f"{live.prefix}/state")) == before
    key = f"{live.prefix}/state/keys/journal.key"
    os.rename(key, f"{key}.away")
    assert "key" in live.ctl("boots", check=1).stderr
    assert not os.path.exists(key)
    os.rename(f"{key}.away", key)
    nowhere = live.ctl("boots", "--prefix", f"{live.prefix}/nowhere", check=1)
    assert f"{live.prefix}/nowhere/state/journal: no journal is there" in nowhere.stderr
    assert not os.path.exists(f"{live.prefix}/nowhere")


# --- the agent's own view ----------------------------------------------------------------------------------------

LOOK = """
import os, subprocess
from agentix import libc
before = os.stat("/agent/self/proc/trace")
libc.mkdir("state/mine")
after = os.stat("/agent/self/proc/trace")
text = open("/agent/self/proc/trace").read()
fd = libc.open("proc/trace")
print(after.st_size > before.st_size, after.st_mtime_ns >= before.st_mtime_ns, "state/mine" in text, "hunter2" in text,
      libc.read(fd, 100) == text.encode()[:100], {line.split("\\t")[2].split("/")[0] for line in text.splitlines()})
fd = libc.open("state/secret", libc.O_CREAT | libc.O_WRONLY)
libc.write(fd, b"hunter2")
for _ in range(3000):
    libc.getpid()
text = open("/agent/self/proc/trace").read()
print("hunter2" in text, text.count("\\n") < 300, [line for line in text.splitlines() if line.startswith("#")])
try:
    open("/agent/self/proc/trace", "w")
except PermissionError as error:
    print("read-only")
print(os.path.exists("/agent/1/proc/trace") and "/agent/1" != os.path.realpath("/agent/self"))
"""


def test_an_agent_sees_its_own_record_and_no_other(live, worker, scripts):
    agent = live.spawn("--env", "TOKEN=hunter2", scripts(LOOK))
    live.ctl("wait", agent, check=0)
    said = live.ctl("logs", agent, check=0).stdout.splitlines()
    assert said[0].startswith("True True True False True ")
    assert said[1].startswith("False True ['# ")
    assert f"more records: agentctl trace {agent}" in said[1]
    assert said[2:] == ["read-only", "False"]
    with open(live.tree(agent, "proc/trace"), "rb") as file:
        text = file.read()
        assert len(text) == os.fstat(file.fileno()).st_size
    seqs = [int(line.split(b"\t")[0]) for line in text.splitlines() if not line.startswith(b"#")]
    assert set(seqs) <= {row["seq"] for row in live.record(agent)}
    assert seqs[-1] == live.record(agent)[-1]["seq"]


def test_tail_follows_it_from_the_host(live):
    agent = live.spawn("--", "/bin/sleep", "1000")
    with subprocess.Popen(["tail", "-s", "0.05", "-n", "+1", "-f", live.tree(agent, "proc/trace")], text=True,
                          stdout=subprocess.PIPE) as tail:
        try:
            lines = iter(tail.stdout.readline, "")
            assert any("\tspawn/outcome\t" in line for line in lines)
            live.ctl("stop", agent, check=0)
            assert any("\tsignal\t" in line and "SIGSTOP" in line for line in lines)
        finally:
            tail.kill()
    live.ctl("kill", "-9", agent, check=0)
