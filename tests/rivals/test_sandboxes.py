"""nono and srt: sandboxes without a kernel behind them."""

import errno
import json
import os
import socket

import pytest

from agentix_syscalls import calls

W = calls.O_WRONLY | calls.O_CREAT

PROBE = r"""
import ctypes, errno, json, os, resource, socket
LIBC = ctypes.CDLL(None, use_errno=True)
def tried(act):
    try:
        return act()
    except OSError as error:
        return errno.errorcode[error.errno]
def status(name):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name + ":"))
def udp():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (HOST, PORT))
def abstract():
    meeting = socket.socket(socket.AF_UNIX)
    meeting.bind("\0" + NAME)
    meeting.listen()
    globals()["kept"] = meeting
    return "bound"
def unshare():
    ctypes.set_errno(0)
    return "made" if LIBC.unshare(0x10000000) == 0 else errno.errorcode[ctypes.get_errno()]
def forks():
    made = 0
    try:
        while made < 300:
            if os.fork() == 0:
                import signal; signal.pause()
            made += 1
    except OSError as error:
        return [made, errno.errorcode[error.errno]]
    return made
print(json.dumps({"udp": tried(udp), "caps": status("CapEff"), "seccomp": status("Seccomp"),
    "pids": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "stat": [tried(lambda path=path: os.stat(path)) for path in (SECRET, "/root", "/root/.bashrc", "/home", "/var")],
    "abstract": tried(abstract), "userns": unshare(), "init": tried(lambda: os.kill(1, 0) or "may"),
    "forks": forks(), "end": True}), flush=True)
import signal
signal.pause()
"""


@pytest.fixture(scope="module")
def told(kernel, scripts, tmp_path_factory):
    """What a probe found out in its sandbox, while the host listened for it."""
    secret = tmp_path_factory.mktemp("secrets") / "key"
    secret.write_text("kept")
    name = f"agentix-rivals-{os.getpid()}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.setblocking(False)
        head = f"HOST, PORT, NAME, SECRET = '127.0.0.1', {ear.getsockname()[1]}, {name!r}, {str(secret)!r}\n"
        agent = kernel.spawn("--pids", "32", scripts(head + PROBE))
        kernel.until_logged(agent, "end")
        found = json.loads(kernel.ctl("logs", agent, check=0).stdout)
        with pytest.raises(BlockingIOError):
            ear.recv(1)
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(f"\0{name}")
    yield found | {"agent": agent}
    kernel.ctl("kill", "-KILL", agent, check=0)


def test_nono_datagrams_do_not_leave(told):
    """There TCP was refused and UDP sent."""
    assert told["udp"] in {"ENETUNREACH", "EPERM", 1}  # or into its own loopback, where nobody is


def test_nono_and_srt_run_with_no_capability_and_a_filter(told):
    """There, started as root, the command had all capabilities, and no filter of Linux calls."""
    assert (told["caps"], told["seccomp"]) == ("0" * 16, "2")


def test_nono_processes_of_the_host_are_not_seen(told):
    """There 127 of them were listed."""
    assert told["pids"] <= 3


def test_nono_and_srt_what_may_not_be_read_is_not_known_either(told):
    """There stat told what exists, and root's files could be read."""
    assert told["stat"] == ["ENOENT"] * 5


def test_nono_abstract_sockets_meet_nobody(told):
    """There agents and the host could meet on them: what the fixture tried from outside was refused."""
    assert told["abstract"] == "bound"


def test_srt_no_namespace_of_users_is_made(told, kernel):
    """There it could be, with all capabilities in it."""
    assert told["userns"] == "EPERM"
    assert "seccomp unshare" in {row["rule"] for row in kernel.record(told["agent"], "denial")}


def test_nono_and_srt_forks_are_counted(told):
    """There nothing bounded them."""
    made, refused = told["forks"]
    assert (made < 32, refused) == (True, "EAGAIN")


def test_nono_processors_are_limited_too(kernel, attack):
    """There memory alone was."""
    agent, _ = attack("--cpus", "0.5")
    limits, = [row for row in kernel.json("verify", agent)["layers"] if row["layer"] == "limits"]
    assert (limits["state"], "cpu 50000" in limits["detail"]) == ("on", True), limits


def test_nono_a_rule_holds_for_all_that_an_agent_starts(kernel, scripts):
    """There a command that was denied could be started by a child."""
    agent = kernel.spawn("--deny", "WRITE:/state/held", scripts("""
import os, shlex, subprocess
os.mkdir("/agent/self/state/held")
script = "echo x > /agent/self/state/held/f"
for _ in range(3):
    script = f"sh -c {shlex.quote(script)} & wait"
subprocess.run(["sh", "-c", script])
print("end", flush=True)
"""))
    kernel.until_logged(agent, "end")
    assert not os.path.exists(kernel.tree(agent, "state/held/f"))
    assert "deny WRITE:/state/held" in {row["rule"] for row in kernel.record(agent, "denial")}


def test_srt_a_denial_holds_for_what_is_not_there_yet_and_deep_below(attack):
    """There denials covered what existed, three folders deep."""
    _, attacker = attack("--deny", "WRITE:/state/held")
    deep = b"state/held"
    for name in (b"", b"/a", b"/b", b"/c", b"/d", b"/e", b"/f"):
        deep += name
        attacker.done("MKDIR", deep)
    assert attacker.call("OPEN", deep + b"/new", W)[1] == errno.EPERM


def test_srt_patterns_are_read(attack, tmp_path):
    """There they were not, on Linux."""
    policy = tmp_path / "keys.yaml"
    policy.write_text("version: 1\nname: keys\nmode: enforce\nallow: [{file: /, action: [read, write]}]\n"
                      "deny: [{file: '/state/**/*.pem', action: '*'}]\n")
    _, attacker = attack("--policy", policy)
    attacker.done("MKDIR", b"state/deep")
    assert attacker.call("OPEN", b"state/a.pem", W)[1] == errno.EPERM
    assert attacker.call("OPEN", b"state/deep/b.pem", W)[1] == errno.EPERM
    attacker.done("OPEN", b"state/deep/b.txt", W)


def test_srt_a_read_that_was_denied_is_in_the_record(kernel, attack):
    """There only writes were."""
    agent, attacker = attack("--deny", "READ:/state/key")
    assert attacker.call("OPEN", b"state/key")[1] == errno.EPERM
    denial, = kernel.record(agent, "denial")
    assert (denial["rule"], denial["data"]["object"]) == ("deny READ:/state/key", "/state/key")
