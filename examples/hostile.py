"""A hostile agent: it tries to escape, to dodge signals, to harm its neighbours and to confuse the kernel.

Each attempt tells what happened to it. What ends the agent that tries it is tried by a child agent, and the parent
reads its fate from the kernel. Nothing here harms a machine when it works as it should, and the whole refuses to
run where it is not confined.

Run it:  agentctl run --spawn-max 64 examples/hostile.py
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

from agentix import libc

LIBC = ctypes.CDLL(None, use_errno=True)
HARMLESS = "refused"
ESCAPED = "ESCAPED"
ATTEMPTS: list[tuple[str, Callable[[], str]]] = []
DEADLY: dict[str, tuple[Callable[[], object], dict[str, object]]] = {}
SYSCALL = {"x86_64": {"ptrace": 101, "bpf": 321, "kexec_load": 246, "init_module": 175, "io_uring_setup": 425,
                      "keyctl": 250, "perf_event_open": 298, "userfaultfd": 323, "process_vm_readv": 310,
                      "open_by_handle_at": 304, "pivot_root": 155, "reboot": 169, "acct": 163},
           "aarch64": {"ptrace": 117, "bpf": 280, "kexec_load": 104, "init_module": 105, "io_uring_setup": 425,
                       "keyctl": 219, "perf_event_open": 241, "userfaultfd": 282, "process_vm_readv": 270,
                       "open_by_handle_at": 265, "pivot_root": 41, "reboot": 142, "acct": 89}}[os.uname().machine]


def assert_confined() -> None:
    """Refuse to try anything as an ordinary process of the host."""
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    confined = (os.getuid() != 0 and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1"
                and status["Seccomp"] == "2" and "AGENTIX_ID" in os.environ and os.getpid() < 1000)
    if not confined:
        sys.exit("hostile: this process is not a confined agent; nothing was tried. Run it with agentctl run")


def attempt(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def keep(function: Callable[[], str]) -> Callable[[], str]:
        ATTEMPTS.append((name, function))
        return function
    return keep


def deadly(name: str, **options: object) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def keep(function: Callable[[], object]) -> Callable[[], object]:
        DEADLY[name] = (function, options)
        return function
    return keep


def linux(name: str, *args: int) -> str:
    """Make a Linux call that must be refused."""
    ctypes.set_errno(0)
    result = LIBC.syscall(SYSCALL[name], *args)
    return f"{ESCAPED}: {name} gave {result}" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def refused(action: Callable[[], object]) -> str:
    """Run something that must raise OSError; says which."""
    try:
        result = action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return f"{ESCAPED}: {result!r}"


# --- files -----------------------------------------------------------------------------------------------------------

@attempt("read the host's password hashes")
def shadow() -> str:
    return refused(lambda: open("/etc/shadow", "rb").read())


@attempt("read root's keys")
def home() -> str:
    return refused(lambda: os.listdir("/root/.ssh"))


@attempt("write a program into /usr/bin")
def usr() -> str:
    return refused(lambda: open("/usr/bin/agentix-was-here", "w"))


@attempt("change its own policy through the mount")
def policy() -> str:
    return refused(lambda: open("/agent/self/policy/effective", "w").write("Mode: audit"))


@attempt("change its own policy by a system call")
def policy_call() -> str:
    return refused(lambda: libc.open("policy/effective", libc.O_WRONLY))


@attempt("see other agents in /agent")
def others() -> str:
    mine = {os.environ["AGENTIX_ID"], "self"}
    seen = set(os.listdir("/agent")) - mine
    return f"{ESCAPED}: {seen}" if seen else "sees its own tree only"


@attempt("reach another agent's tree with '..' in a call")
def dotdot() -> str:
    return refused(lambda: libc.listdir("/agent/self/../../1/state"))


@attempt("plant a link to /etc and follow it by a call")
def link() -> str:
    path = f"/agent/{os.environ['AGENTIX_ID']}/mem/working/way-out"
    os.symlink("/etc/passwd", path)
    return refused(lambda: libc.open("mem/working/way-out"))


@attempt("rewrite its episodic memory")
def episodic() -> str:
    fd = libc.open("mem/episodic/past", libc.O_WRONLY | libc.O_CREAT | libc.O_APPEND)
    libc.write(fd, b"what happened\n")
    libc.close(fd)
    outcomes = [refused(lambda: libc.truncate("mem/episodic/past", 0)),
                refused(lambda: libc.unlink("mem/episodic/past")),
                refused(lambda: libc.rename("mem/episodic/past", "mem/episodic/x")),
                refused(lambda: os.truncate("/agent/self/mem/episodic/past", 0))]
    return " ".join(sorted(set(outcomes)))


@attempt("make a device node")
def device() -> str:
    return refused(lambda: os.mknod("/tmp/sda", 0o60600, os.makedev(8, 0)))


@attempt("open a file by its handle, around the path walk")
def handle() -> str:
    return linux("open_by_handle_at", -100, 0, 0)


@attempt("fill its scratch memory beyond the quota")
def quota() -> str:
    def fill() -> None:
        with open("/agent/self/mem/working/big", "wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass
    outcome = refused(fill)
    os.unlink("/agent/self/mem/working/big")
    return outcome


@attempt("set the kernel's core_pattern")
def core_pattern() -> str:
    return refused(lambda: open("/proc/sys/kernel/core_pattern", "w"))


# --- privileges and namespaces ---------------------------------------------------------------------------------------

@attempt("become root")
def setuid() -> str:
    return refused(lambda: os.setuid(0))


@attempt("gain rights through a setuid program")
def suid() -> str:
    done = subprocess.run(["/usr/bin/su", "-c", "id"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return f"{ESCAPED}: {done.stdout!r}" if b"uid=0" in done.stdout else f"su failed with {done.returncode}"


@attempt("mount a file system")
def mount() -> str:
    ctypes.set_errno(0)
    done = LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None)
    return ESCAPED if done == 0 else errno.errorcode[ctypes.get_errno()]


@attempt("pivot into another root")
def pivot() -> str:
    return linux("pivot_root", 0, 0)


@attempt("make a user namespace of its own")
def namespace() -> str:
    ctypes.set_errno(0)
    return ESCAPED if LIBC.unshare(0x10000000) == 0 else errno.errorcode[ctypes.get_errno()]


@attempt("enter the host's namespaces through /proc/1")
def setns() -> str:
    def enter() -> int:
        fd = os.open("/proc/1/ns/mnt", os.O_RDONLY)
        return int(LIBC.setns(fd, 0)) or fd
    outcome = refused(enter)
    return "the init inside is not the host's: " + outcome


@attempt("use io_uring to make calls that no filter sees")
def io_uring() -> str:
    return linux("io_uring_setup", 8, 0)


@attempt("read the kernel's keyrings")
def keyctl() -> str:
    return linux("keyctl", 0, -3, 0)


@attempt("trap page faults (userfaultfd)")
def userfaultfd() -> str:
    return linux("userfaultfd", 0)


@attempt("spy on the machine's performance counters")
def perf() -> str:
    return linux("perf_event_open", 0, 0, -1, -1, 0)


@attempt("raise its own limits")
def limits() -> str:
    outcome = "kept"
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
    except (ValueError, PermissionError):
        outcome = "EPERM"
    return outcome if outcome != "kept" else ESCAPED


# --- network and neighbours ------------------------------------------------------------------------------------------

@attempt("open a raw socket")
def raw() -> str:
    return refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))


@attempt("sniff packets")
def packet() -> str:
    return refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))


@attempt("talk to the kernel over netlink")
def netlink() -> str:
    return refused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))


@attempt("connect to the internet by TCP")
def tcp() -> str:
    def go() -> None:
        with socket.socket() as sock:
            sock.settimeout(2)
            sock.connect(("192.0.2.1", 80))
    return refused(go)


@attempt("send a datagram past the firewall (UDP)")
def udp() -> str:
    def go() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("192.0.2.1", 53))
    return refused(go)


@attempt("meet another agent on an abstract socket")
def abstract() -> str:
    def go() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("\0agentix-meeting")
    return refused(go)


@attempt("reach the operator's control socket")
def control() -> str:
    def go() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("/run/agentix/control.sock")
    return refused(go)


# --- processes and signals -------------------------------------------------------------------------------------------

@attempt("kill its own init")
def kill_init() -> str:
    try:
        os.kill(1, signal.SIGKILL)
    except PermissionError:
        return "EPERM"
    time.sleep(0.05)
    return "the init ignored it"


@attempt("see or signal processes of the host")
def processes() -> str:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return f"sees {len(pids)} processes, its own" if len(pids) < 10 else f"{ESCAPED}: {len(pids)}"


@attempt("signal another agent")
def signal_other() -> str:
    stranger = 1 if libc.getpid() != 1 else 2
    return refused(lambda: libc.kill(stranger, libc.SIGKILL))


@attempt("send SIGPOLICY itself")
def send_policy() -> str:
    return refused(lambda: libc.kill(libc.getpid(), "SIGPOLICY"))


@attempt("catch SIGPOLICY and SIGKILL")
def catch() -> str:
    names = ("SIGPOLICY", "SIGKILL")
    return " ".join(sorted({refused(lambda name=name: libc.syscall(25, libc.Signals[name], 2)) for name in names}))


# --- the protocol ----------------------------------------------------------------------------------------------------

def talk(*frames: bytes) -> str:
    """Send raw frames on a fresh connection; says how the kernel answers the last one."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(os.environ["AGENTIX_SOCKET"])
        sock.sendall(struct.pack("<IHHQ", 2, 0, 0, 1) + b"\x91\x01")
        sock.recv(4096)
        try:
            for frame in frames:
                sock.sendall(frame)
            answer = sock.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            return "connection closed"
        if not answer:
            return "connection closed"
        flags = struct.unpack_from("<IHHQ", answer)[2]
        return "answered with an error" if flags & 0x8000 else f"{ESCAPED}: {answer!r}"


@attempt("send a frame that says it is 4 GiB long")
def oversized() -> str:
    return talk(struct.pack("<IHHQ", 0xFFFFFFFF, 20, 0, 2))


@attempt("send a body that is not msgpack")
def malformed() -> str:
    return talk(struct.pack("<IHHQ", 4, 20, 0, 2) + b"\xc1\xc1\xc1\xc1")


@attempt("call a number that does not exist")
def unknown() -> str:
    return talk(struct.pack("<IHHQ", 1, 4999, 0, 2) + b"\x90")


@attempt("claim to be another agent in HELLO")
def forged() -> str:
    return talk(struct.pack("<IHHQ", 4, 0, 0, 2) + b"\x93\x01\x00\x01")


@attempt("nest arrays to exhaust the kernel's stack")
def nested() -> str:
    return talk(struct.pack("<IHHQ", 60000, 20, 0, 2) + b"\x91" * 60000)


# --- what ends the agent that tries it -------------------------------------------------------------------------------

@deadly("look into another process (ptrace)")
def ptrace() -> object:
    return linux("ptrace", 16, 1, 0, 0)


@deadly("read another process's memory")
def vm_readv() -> object:
    return linux("process_vm_readv", 1, 0, 0, 0, 0, 0)


@deadly("load a program into the kernel (bpf)")
def bpf() -> object:
    return linux("bpf", 5, 0, 0)


@deadly("load a kernel module")
def module() -> object:
    return linux("init_module", 0, 0, 0)


@deadly("replace the kernel (kexec)")
def kexec() -> object:
    return linux("kexec_load", 0, 0, 0, 0)


@deadly("take 10 GB of memory", memory=64 << 20)
def memory() -> object:
    hoard = [bytearray(os.urandom(1 << 20) * 16) for _ in range(640)]
    return len(hoard)


@deadly("fork without end", pids=16)
def fork_bomb() -> object:
    refusals = 0
    while refusals < 20:
        try:
            if os.fork() == 0:
                time.sleep(3600)
        except BlockingIOError:
            refusals += 1
    print("  (fork refused: EAGAIN)", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return None


@deadly("leave a daemon behind by forking twice")
def daemon() -> object:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            time.sleep(3600)
        os._exit(0)
    os.wait()
    os._exit(7)


@deadly("ignore every signal, then be killed", kill="SIGKILL")
def ignore() -> object:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(3600)


@deadly("break a rule in strict mode and catch everything", mode="strict", deny=["UNLINK"])
def strict() -> object:
    with contextlib.suppress(BaseException):
        libc.unlink("state/nothing")
    while True:
        print("  still here", flush=True)


@deadly("break a rule through the mount in strict mode", mode="strict", deny=["MKDIR:/state"])
def strict_mount() -> object:
    with contextlib.suppress(OSError):
        os.mkdir("/agent/self/state/forbidden")
    time.sleep(3600)
    return None


def fate(name: str) -> str:
    """Have a child agent try it; the kernel says what became of it."""
    _, options = DEADLY[name]
    given = dict(options)
    killer = given.pop("kill", None)
    child = libc.spawn(__file__, [name], **given)  # type: ignore[arg-type] # options of the table above
    if killer is not None:
        time.sleep(0.2)
        libc.kill(child, str(killer))
    ended = libc.waitpid(child, timeout=60)
    if ended is None:
        return f"{ESCAPED}: it lives"
    how = f"exit {ended.code}" if ended.code is not None else str(ended.signal)
    return f"ended: {ended.why} ({how})"


def main() -> int:
    assert_confined()
    if len(sys.argv) > 1:
        outcome = DEADLY[sys.argv[1]][0]()
        print(f"  {sys.argv[1]}: {outcome}", flush=True)
        return 99
    print(f"{'#':>3}  {'attempt':52}  what happened", flush=True)
    escapes = 0
    tried = [(name, function) for name, function in ATTEMPTS]
    tried += [(name, lambda name=name: fate(name)) for name in DEADLY]
    for number, (name, function) in enumerate(tried, 1):
        try:
            outcome = function()
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        escaped = ESCAPED in outcome or "(exit 99)" in outcome
        escapes += escaped
        print(f"{number:3}  {name:52}  {ESCAPED + ': ' + outcome if escaped else outcome}", flush=True)
    print(f"{len(tried)} attempts, {escapes} escapes", flush=True)
    return 1 if escapes else 0


sys.exit(main())
