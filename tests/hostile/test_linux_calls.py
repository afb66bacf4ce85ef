"""Every Linux call of the table that agents may not make, made by a real agent: refused, named on record, no effect."""

import json
import os

import pyseccomp
import pytest

from agentix_kernel.confine.syscalls_table import LAST_KNOWN, LAST_RESERVED, ROWS, Action, Row

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers and machine code are x86-64's")

PROBE = r"""
import ctypes, errno, json, mmap, os, signal, socket, sys, time
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
if not (os.getuid() and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        and "AGENTIX_ID" in os.environ and os.getpid() < 1000):
    sys.exit("not confined: nothing was tried")
LIBC = ctypes.CDLL(None, use_errno=True)

def linux(number, *args):
    ctypes.set_errno(0)
    done = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(value) for value in args])
    return done if done >= 0 else errno.errorcode[ctypes.get_errno()]

def world():
    "What any of these calls might change of what the agent is and sees."
    spaces = [os.readlink(f"/proc/self/ns/{one}") for one in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")]
    lines = open("/proc/self/status").read().splitlines()
    kept = [line for line in lines if line.split(":")[0] in {"Uid", "Gid", "CapEff", "CapPrm", "Seccomp", "NoNewPrivs"}]
    return [spaces, kept, open("/proc/self/mountinfo").read(), socket.gethostname(), linux(135, 0xffffffff),
            len(os.listdir("/proc/self/fd"))]
"""


def number_of(row: Row) -> int:
    """Negative where this architecture has no such call."""
    return row.number if row.number is not None else pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, row.name)


def arguments(row: Row) -> list[int]:
    """What the row's tests are true of; all else is 0, which Linux would answer with EFAULT or EBADF."""
    args = [0] * 6
    for test in row.tests:
        args[test.argument] |= test.value + {"==": 0, ">": 1, "!=": 1}[test.op]
    return args


TRIED = [(row, number_of(row), arguments(row)) for row in ROWS if number_of(row) >= 0]
ANSWERS = {Action.REFUSE: "EPERM", Action.ABSENT: "ENOSYS", Action.NO_FAMILY: "EAFNOSUPPORT"}


def test_each_refused_call_is_answered_recorded_by_name_and_does_nothing(kernel, scripts):
    tried = [(row, number, args) for row, number, args in TRIED if row.action in ANSWERS]
    frames = [(number, *args) for _, number, args in tried]
    frames += [(number, 0, 0, 0, 0, 0, 0) for number in range(LAST_KNOWN + 1, LAST_RESERVED + 1)]
    agent = kernel.spawn(scripts(PROBE + f"""
before = world()
answers = [linux(*frame) for frame in {frames}]
print(json.dumps([answers, world() == before]), flush=True)
"""))
    answers, same = json.loads(kernel.until_logged(agent, "]"))
    expected = [ANSWERS[row.action] for row, _, _ in tried] + ["ENOSYS"] * (LAST_RESERVED - LAST_KNOWN)
    assert answers == expected
    assert same
    assert kernel.until_state(agent, "dead")["code"] == 0
    denials = kernel.record(agent, "denial")
    assert [row["data"]["call"] for row in denials] == [row.name for row, _, _ in tried if row.action is Action.REFUSE]
    assert {(row["data"]["enforcer"], row["rule"]) for row in denials} == {
        ("seccomp", f"seccomp {row['data']['call']}") for row in denials}
    assert len(denials) > 80


FAMILY = PROBE + """
from agentix import libc
if "NUMBER" in os.environ:
    linux(int(os.environ["NUMBER"]), 0, 0, 0, 0)
    print("ran on", flush=True)
    sys.exit(0)
ends = {}
for name, number in CALLS.items():
    child = libc.spawn(sys.argv[0], env={"NUMBER": str(number)})
    end = libc.waitpid(child)
    ends[name] = {"child": child, "why": end.why, "signal": end.signal}
print(json.dumps(ends), flush=True)
"""


def test_each_call_that_no_honest_agent_makes_ends_the_agent_that_makes_it(kernel, scripts):
    fatal = {row.name: number for row, number, _ in TRIED if row.action is Action.FATAL}
    agent = kernel.spawn("--spawn-max", len(fatal), scripts(FAMILY.replace("CALLS", str(fatal))))
    ends = json.loads(kernel.until_logged(agent, "}"))
    assert {name: (end["why"], end["signal"]) for name, end in ends.items()} == dict.fromkeys(
        fatal, ("policy", "SIGPOLICY"))
    rows = {row["id"]: row for row in kernel.json("ps", "-a")}
    denials = {row["agent"]: row for row in kernel.rows("trace") if row["kind"] == "denial"}
    for name, end in ends.items():
        assert rows[end["child"]]["rule"] == denials[end["child"]]["rule"] == f"seccomp {name}"
        with open(kernel.tree(end["child"], "proc/log")) as log:
            assert log.read() == ""
    assert len(ends) == 13


WAYS = {
    "int 0x80": "b814000000cd80c3",  # mov eax, 20 (getpid of i386); int 0x80; ret
    "int 0x80 mount": "b815000000cd80c3",
    "sysenter": "b8140000000f34c3",
    "x32 getpid": "b8270000400f05c3",  # mov eax, 39 | the bit of x32; syscall; ret
    "x32 ptrace": "b8090200400f05c3",  # 521, which only x32 has
}
DEATHS = """
def last(code):
    "How a child ends that runs machine code, or what the code returned."
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex(code))
    child = os.fork()
    if child == 0:
        found = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        print("returned", found, flush=True)
        os._exit(0)
    return signal.Signals(os.WTERMSIG(os.waitpid(child, 0)[1])).name
before = world()
"""


def test_calls_by_the_doors_of_other_architectures_kill_who_makes_them(kernel, scripts):
    agent = kernel.spawn(scripts(PROBE + DEATHS + f"""
print(json.dumps([[last(code) for code in {list(WAYS.values())}], world() == before]), flush=True)
"""))
    ends, same = json.loads(kernel.until_logged(agent, "]"))
    assert (set(ends) <= {"SIGSYS", "SIGSEGV", "SIGILL"}, same) == (True, True), dict(zip(WAYS, ends, strict=True))
    assert [end for way, end in zip(WAYS, ends, strict=True) if way.startswith("x32")] == ["SIGSYS"] * 2
    assert kernel.until_state(agent, "dead")["code"] == 0
    assert "returned" not in kernel.ctl("logs", agent, check=0).stdout


def test_a_tools_calls_are_its_agents(kernel, scripts):
    agent = kernel.spawn(scripts("""
from agentix import libc
print(libc.exec_tool("shell.execute", {"command": "unshare -U true || chmod 4755 /tmp"})["status"], flush=True)
"""))
    assert kernel.until_logged(agent, "\n").strip() != "0"
    calls = {row["data"]["call"] for row in kernel.record(agent, "denial")}
    assert "unshare" in calls
    assert calls & {"chmod", "fchmodat", "fchmodat2"}
