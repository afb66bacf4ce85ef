"""Who speaks: what an agent may try to be taken for somebody else, and who falls for it: never who was visited."""

import json
import os
import socket

import pytest

CONFINED = """
import array, ctypes, errno, json, os, signal, socket, struct, sys, time
from agentix import libc
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
if not (os.getuid() and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        and "AGENTIX_ID" in os.environ and os.getpid() < 1000):
    sys.exit("not confined: nothing was tried")
"""
VISITOR = CONFINED + """
child = libc.spawn(exec="/bin/sleep", args=["1000"])
print(f"child {child}", flush=True)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/next/kernel.sock")
    print("connected", sock.recv(1), flush=True)
    time.sleep(1000)
"""
RULE = "identity: its own socket, with its own uid"


def door(kernel, agent) -> str:
    return f"{kernel.prefix}/run/agents/{agent}.{kernel.agent(agent)['life']}"


def alive(attacker) -> bool:
    return attacker.call("GETPID")[1] == 0


def test_an_agent_in_anothers_door_falls_with_its_children_and_the_other_does_not_notice(kernel, attack, scripts):
    victim, attacker = attack()
    agent = kernel.spawn("--restart", "always", "--spawn-max", 2, "--bind-ro", f"{door(kernel, victim)}:/next",
                         scripts(VISITOR))
    row = kernel.until_state(agent, "dead")
    assert (row["why"], row["signal"], row["rule"], row["restarts"]) == ("trust", "SIGTRUST", RULE, 0)
    assert f"came through the socket of agent {victim}" in row["detail"]
    said = kernel.ctl("logs", agent, check=0).stdout.split()
    child = kernel.agent(int(said[1]))
    assert (child["why"], f"agent {agent}, ended so" in child["detail"]) == ("trust", True)
    assert said[2:] in ([], ["connected", "b''"]), "all it ever heard is that the kernel hung up"
    [fault] = kernel.record(agent, "fault")
    assert (fault["data"]["what"], fault["rule"]) == ("identity", RULE)
    assert kernel.record(victim, "fault") == []
    assert alive(attacker)


HOST = CONFINED + """
os.umask(0)
with socket.socket(socket.AF_UNIX) as meeting:
    meeting.bind("/meet/here")
    meeting.listen()
    print("up", flush=True)
    guest = meeting.accept()[0]
mine = socket.socket(socket.AF_UNIX)
mine.connect(os.environ["AGENTIX_SOCKET"])
socket.send_fds(guest, [b"x"], [WHAT])
print("given", flush=True)
time.sleep(1000)
"""
GUEST = CONFINED + """
with socket.socket(socket.AF_UNIX) as meeting:
    meeting.connect("/meet/here")
    [given] = socket.recv_fds(meeting, 1, 1)[1]
USE
print("used", flush=True)
time.sleep(1000)
"""
BY_FOLDER = """
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(f"/proc/self/fd/{given}/" + os.path.basename(os.environ["AGENTIX_SOCKET"]))
    sock.recv(1)
"""
BY_CONNECTION = """
from agentix_syscalls import wire, calls
with socket.socket(fileno=given) as sock:
    reader = wire.Reader(1 << 20)
    def call(name, *args):
        sock.sendall(wire.request(calls.BY_NAME[name].number, 1, args))
        while (frame := reader.next()) is None:
            reader.feed(sock.recv(1 << 16))
        return wire.decode(frame[3])
    call("HELLO", 1)
    print(json.dumps([os.environ["AGENTIX_ID"], call("GETPID")[0], call("UNLINK", b"state/x")[0]]), flush=True)
"""


@pytest.fixture
def two(kernel, scripts, tmp_path):
    """Two agents that share a folder of the host; the first gives the second a descriptor, which it uses."""
    made = []

    def begin(what, use):
        (tmp_path / "meet").mkdir()
        host = kernel.spawn("--bind", f"{tmp_path}/meet:/meet", "--deny", "UNLINK", scripts(HOST.replace("WHAT", what)))
        made.append(host)
        kernel.until_logged(host, "up")
        os.chmod(tmp_path / "meet" / "here", 0o777)
        guest = kernel.spawn("--bind", f"{tmp_path}/meet:/meet", scripts(GUEST.replace("USE", use)))
        made.append(guest)
        return host, guest
    yield begin
    kernel.ctl("kill", "-9", *made)


def test_who_takes_up_the_offer_of_anothers_door_falls_and_who_offers_has_nothing_of_it(kernel, two):
    folder = 'os.open(os.path.dirname(os.environ["AGENTIX_SOCKET"]), os.O_PATH)'
    host, guest = two(folder, BY_FOLDER)
    row = kernel.until_state(guest, "dead")
    assert (row["why"], row["rule"]) == ("trust", RULE)
    assert kernel.agent(host)["state"] == "running"


def test_who_speaks_through_a_connection_it_was_given_is_held_to_be_its_giver(kernel, two):
    host, guest = two("mine.fileno()", BY_CONNECTION)
    said = json.loads(kernel.until_logged(guest, "used").splitlines()[0])
    assert said == [str(guest), host, 1], "the giver's id, and EPERM by the giver's rules"
    assert [row["data"]["call"] for row in kernel.record(host, "denial")] == ["UNLINK"]
    assert kernel.record(guest, "denial") == []
    assert {kernel.agent(agent)["state"] for agent in (host, guest)} == {"running"}


def connect_as(uid: int, folder: str) -> bytes:
    """What a connection of that uid hears, if anything, until it is closed. The folder above is root's alone."""
    here = os.open(".", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        try:
            os.chdir(folder)
            os.seteuid(uid)
            sock.connect("kernel.sock")
        finally:
            os.seteuid(0)
            os.fchdir(here)
            os.close(here)
        return sock.recv(1)


def test_a_tool_in_its_agents_door_is_its_agents_lie(kernel, attack):
    agent, attacker = attack()
    _, witness = attack()
    attacker.send(attacker.frame("EXEC", "shell.execute", {"command": "sleep 1000"}))
    uid = kernel.until(lambda: tool_uid(kernel, agent))
    assert connect_as(uid, door(kernel, agent)) == b""
    row = kernel.until_state(agent, "dead")
    assert (row["why"], row["rule"]) == ("trust", RULE)
    assert alive(witness)


def tool_uid(kernel, agent) -> int:
    """The uid of the tool that an agent runs; 0 when none does yet."""
    for folder in kernel.cgroups():
        if f"/{agent}.1-tool" in folder:
            with open(f"{folder}/cgroup.procs") as file:
                uids = {os.stat(f"/proc/{pid.strip()}").st_uid for pid in file} - {0}
            if uids:
                return uids.pop()
    return 0


@pytest.mark.parametrize("uid", [0, 65534])
def test_people_of_the_host_in_an_agents_door_harm_nobody(kernel, attack, uid):
    agent, attacker = attack()
    assert connect_as(uid, door(kernel, agent)) == b""
    assert alive(attacker)
    kernel.until(lambda: [row["data"]["what"] for row in kernel.record(agent, "fault")] == ["identity"])


def test_the_door_of_one_that_died_ends_nobody(kernel, attack):
    """A uid outlives its agent with its files: what it did once is recorded, and there is nobody to end."""
    agent, attacker = attack()
    dead = kernel.spawn("--", "/bin/true")
    uid = kernel.until_state(dead, "dead")["uid"]
    assert connect_as(uid, door(kernel, agent)) == b""
    assert alive(attacker)
    assert kernel.agent(dead)["why"] == "exit"


FORGED = CONFINED + """
told = []
for pid, uid in ((os.getpid(), 0), (1, os.getuid()), (os.getpid(), os.getuid() + 1)):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.environ["AGENTIX_SOCKET"])
        claim = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", pid, uid, uid))
        try:
            sock.sendmsg([struct.pack("<IHHQ", 2, 0, 0, 1) + b"\\x91\\x01"], [claim])
            told.append("sent")
        except OSError as error:
            told.append(errno.errorcode[error.errno])
print(json.dumps(told), flush=True)
"""


def test_credentials_are_not_forged(kernel, scripts):
    agent = kernel.spawn(scripts(FORGED))
    assert json.loads(kernel.until_logged(agent, "]")) == ["EPERM"] * 3
    assert kernel.until_state(agent, "dead")["code"] == 0
