"""What is bounded, and what is said at the bound."""

import json

import pytest

SMALL = """
handles_max = 8
working_files = 8
working_bytes = 65536
agents_max = 3
tools_max = 1
connections_max = 4
log_bytes = 65536
"""
PRELUDE = """
import errno, json, os, socket, threading, time
from agentix import libc
def name(what, *args, **more):
    try:
        what(*args, **more)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
"""


@pytest.fixture(scope="module")
def small(running):
    with running(SMALL) as live:
        yield live


def told(small, scripts, body, *flags):
    done = small.ctl("run", *flags, scripts(PRELUDE + body), check=0)
    return json.loads(done.stdout.splitlines()[-1])


def test_handles(small, scripts):
    found = told(small, scripts, """
fds = [libc.open(f"state/{n}", libc.O_CREAT | libc.O_RDWR) for n in range(8)]
full = name(libc.open, "state/0")
libc.close(fds[3])
print(json.dumps([full, libc.open("state/0") == fds[3]]))
""")
    assert found == ["EMFILE", True]


def test_files_and_bytes_of_working_memory(small, scripts):
    found = told(small, scripts, """
made = 0
while name(libc.mkdir, f"mem/working/{made}") == "ok":
    made += 1
full = [made, name(libc.mkdir, "mem/working/x"), name(libc.open, "mem/working/x", libc.O_CREAT | libc.O_WRONLY)]
libc.rmdir("mem/working/0")
fd = libc.open("mem/working/big", libc.O_CREAT | libc.O_WRONLY)
libc.write(fd, bytes(65000))
full += [name(libc.write, fd, bytes(9999)), name(libc.truncate, "mem/working/big", 99999)]
libc.truncate("mem/working/big", 0)
full += [name(libc.pwrite, fd, bytes(65536), 0), name(os.truncate, "/agent/self/mem/working/big", 99999)]
print(json.dumps(full))
""")
    assert found[0] in {7, 8}
    assert found[1:] == ["EDQUOT", "EDQUOT", "EDQUOT", "EDQUOT", "ok", "EDQUOT"]


def test_as_many_as_there_may_be(small, scripts):
    """Agents of the kernel, tools of an agent."""
    found = told(small, scripts, """
children = [libc.spawn(exec="/bin/sleep", args=["60"]) for _ in range(2)]
full = [name(libc.spawn, exec="/bin/sleep", args=["60"])]
libc.kill(children[0], libc.SIGKILL)
libc.waitpid(children[0])
full.append(name(libc.spawn, exec="/bin/true"))
def tool(command):
    while (said := name(libc.exec_tool, "shell.execute", {"command": command}, 60)) == "EAGAIN":
        pass
    full.append(said)
slow = threading.Thread(target=tool, args=("sleep 0.5",))
slow.start()
answers = []
while slow.is_alive() and "EAGAIN" not in answers:
    answers.append(name(libc.exec_tool, "shell.execute", {"command": "true"}))
slow.join()
full += ["EAGAIN" in answers, name(libc.exec_tool, "shell.execute", {"command": "true"})]
print(json.dumps(full))
""", "--spawn-max", "9")
    assert found == ["EAGAIN", "ok", "ok", True, "ok"]
    small.ctl("rm", "-f", *(row["id"] for row in small.json("ps")), check=0)
    agents = [small.spawn("--", "/bin/sleep", "60") for _ in range(3)]
    refused = small.ctl("spawn", "--", "/bin/true", check=125)
    assert "3 agents live already" in refused.stderr
    assert "agents_max" in refused.stderr
    small.ctl("rm", "-f", *agents, check=0)


def test_connections(small, scripts):
    found = told(small, scripts, """
socks = []
for _ in range(6):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(os.environ["AGENTIX_SOCKET"])
    try:
        sock.sendall(bytes.fromhex("03000000000000000000000000000000920100"))
    except BrokenPipeError:
        pass  # one too many is hung up on at once
    socks.append(sock)
answers = []
for sock in socks:
    try:
        answers.append(bool(sock.recv(4096)))
    except ConnectionResetError:
        answers.append(False)
for sock in socks:
    sock.close()
again = False
while not again:
    again = name(libc.getpid) == "ok"
print(json.dumps(answers))
""")
    assert found == [True] * 4 + [False] * 2


def test_output_is_rotated(small):
    agent = small.spawn("--", "/bin/bash", "-c", "for i in {1..4000}; do echo line $i of what a chatty one says; done")
    small.ctl("wait", agent, check=0)
    said = small.ctl("logs", agent, check=0).stdout
    assert len(said) < 3 * 65536
    assert said.endswith("line 4000 of what a chatty one says\n")
    with open(small.tree(agent, "proc/log")) as file:
        assert said.endswith(file.read())  # the one that is written now; logs shows the rotated one before it


def test_an_agent_that_never_reads_is_not_waited_for(small, scripts):
    """Its replies fill up, then its requests are not read; everybody else is served."""
    agent = small.spawn(scripts(PRELUDE + """
from agentix_syscalls import wire
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["AGENTIX_SOCKET"])
sock.sendall(wire.request(0, 0, (1,)))
fd = libc.open("state/f", libc.O_CREAT | libc.O_RDWR)
libc.write(fd, bytes(500_000))
sock.setblocking(False)
sent = 0
try:
    for sent in range(100_000):
        sock.send(wire.request(libc.SYS_READ, 1, (fd, 500_000, 0)))
except BlockingIOError:
    print("blocked", sent, flush=True)
time.sleep(60)
"""))
    small.until_logged(agent, "blocked")
    other = small.spawn("--", "/bin/true")
    small.ctl("wait", other, check=0)
    with open(f"/proc/{small.process.pid}/status") as file:
        rss_kb = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    assert rss_kb < 250_000
    small.ctl("rm", "-f", agent, check=0)
