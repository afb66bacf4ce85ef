"""What the attempts of attempts.py are made of. The text of this file is run as an agent's script, never imported.

argv: the attempts as JSON [[name, expression], ...], then what the world outside looks like, as JSON. It tries nothing
where it is not confined.
"""

import array
import contextlib
import ctypes
import errno
import fcntl
import itertools
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading

from agentix import libc

LIBC = ctypes.CDLL(None, use_errno=True)
ME = "/agent/self/"
HELD, KEPT, DROP = ME + "state/held/secret", ME + "state/kept", ME + "state/drop"
RO, WO, RW, NEW, CUT = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT, os.O_TRUNC
OUT = {}
"""The world outside: numbers of Linux calls, the neighbour's id, where somebody listens."""


def assert_confined() -> None:
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    if not (os.getuid() and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
            and "AGENTIX_ID" in os.environ and os.getpid() < 1000 and not os.path.exists("/root")):
        sys.exit("not confined: nothing was tried")


# --- files -----------------------------------------------------------------------------------------------------------

def read(path, flags=RO, dir_fd=None):
    fd = os.open(path, flags, dir_fd=dir_fd)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def fetch(path, flags=RO):
    """By system calls."""
    fd = libc.open(path, flags)
    try:
        return libc.read(fd, 4096)
    finally:
        libc.close(fd)


def write(path, flags=NEW, data=b"mine"):
    fd = os.open(path, flags, 0o644)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def put(path, flags=NEW, data=b"mine"):
    fd = libc.open(path, flags)
    try:
        return libc.write(fd, data)
    finally:
        libc.close(fd)


def through_link(target, name, act):
    """Plant a symbolic link in the own state and act on it; it is gone afterwards."""
    path = f"{ME}state/{name}"
    os.symlink(target, path)
    try:
        return act(path)
    finally:
        os.unlink(path)


def reopened(path, first, second):
    """Open it as may be, then once more through /proc/self/fd."""
    fd = os.open(path, first)
    try:
        return read(f"/proc/self/fd/{fd}", second) if second == RO else write(f"/proc/self/fd/{fd}", second)
    finally:
        os.close(fd)


def nameless():
    """A file that may be written and not read, without its name: rules about the name hold no less."""
    fd = os.open(DROP, WO)
    os.unlink(DROP)
    try:
        return read(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def while_turned(turn, act, rounds=150):
    """All that comes of acting while another process does its turn over and over."""
    turner = os.fork()
    if turner == 0:
        while True:
            turn()
    try:
        return {answer(act) for _ in range(rounds)}
    finally:
        os.kill(turner, signal.SIGKILL)
        os.waitpid(turner, 0)


def raced(act):
    """While another process turns a link from an allowed file to the secret and back, act on the link."""
    link, spare = ME + "state/turning", ME + "state/turning-spare"
    write(ME + "state/harmless", data=b"harmless")
    os.symlink("harmless", link)

    def turn():
        for target in ("held/secret", "harmless"):
            os.symlink(target, spare)
            os.rename(spare, link)
    found = while_turned(turn, lambda: act(link))
    for path in (spare, link):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    os.symlink("held/secret", link)
    found.add(answer(lambda: act(link)))  # at least once it is the secret
    os.unlink(link)
    return " ".join(sorted(found - {"ENOENT", "ELOOP"}))


def raced_folder(act):
    """Likewise with a folder on the way: its place is taken by a link to the held one, and back."""
    folder, aside = ME + "state/way", ME + "state/way-aside"
    os.mkdir(folder)
    write(folder + "/secret", data=b"harmless")

    def turn():
        os.rename(folder, aside)
        os.symlink("held", folder)
        os.unlink(folder)
        os.rename(aside, folder)
    found = while_turned(turn, lambda: act(folder + "/secret"))
    for path in (folder, aside):
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):
            os.unlink(path + "/secret")
            os.rmdir(path)
    os.symlink("held", folder)
    found.add(answer(lambda: act(folder + "/secret")))
    os.unlink(folder)
    return " ".join(sorted(found - {"ENOENT", "ELOOP", "ENOTDIR"}))


def mapped(path):
    """Write through a shared mapping of a descriptor that only reads."""
    fd = os.open(path, RO)
    try:
        with mmap.mmap(fd, 4, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
            pages[:4] = b"mine"
        return "written"
    finally:
        os.close(fd)


def unprotected(path):
    """Likewise by mprotect after a read-only mapping."""
    fd = os.open(path, RO)
    try:
        LIBC.mmap.restype = ctypes.c_void_p
        at = LIBC.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        return result(LIBC.mprotect(ctypes.c_void_p(at), 4096, mmap.PROT_READ | mmap.PROT_WRITE))
    finally:
        os.close(fd)


def exchanged(one, two):
    return result(LIBC.renameat2(-100, one.encode(), -100, two.encode(), 2))


def linked_by_descriptor(path, name):
    """Linkat with AT_SYMLINK_FOLLOW on /proc/self/fd."""
    fd = os.open(path, os.O_PATH)
    try:
        return result(LIBC.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, name.encode(), 0x400))
    finally:
        os.close(fd)


def extended(path):
    return result(LIBC.setxattr(path.encode(), b"user.x", b"x", 1, 0))


def filled(path, piece=1 << 20):
    """Write until it is refused; the file is gone afterwards."""
    fd = os.open(path, NEW)
    try:
        while os.write(fd, bytes(piece)):
            pass
        return "without end"
    finally:
        os.close(fd)
        os.unlink(path)


def copied(source, goal):
    """copy_file_range, which no path is given to."""
    one, two = os.open(source, RO), os.open(goal, NEW)
    try:
        return os.copy_file_range(one, two, 100)
    finally:
        os.close(one)
        os.close(two)


# --- Linux -----------------------------------------------------------------------------------------------------------

def result(returned):
    """What a function of C has returned, as OSError when it failed."""
    if returned == -1:
        raise OSError(ctypes.get_errno(), "")
    return returned


def linux(name, *args):
    ctypes.set_errno(0)
    return result(LIBC.syscall(OUT["linux"][name], *args))


def in_child(act):
    """What happens to a child process that does it: its answer, or the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, answer(act).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    return said or signal.Signals(os.WTERMSIG(status)).name


def clone(flags):
    """A process with these flags, which ends at once if it comes to be."""
    ctypes.set_errno(0)
    pid = LIBC.syscall(OUT["linux"]["clone"], flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return result(pid)


def handle_of(path):
    return linux("name_to_handle_at", -100, ctypes.c_char_p(path.encode()), ctypes.create_string_buffer(b"\x80", 256),
                 ctypes.byref(ctypes.c_int()), 0)


def typed(request):
    """Push a character into a terminal of its own."""
    master, slave = os.openpty()
    try:
        return fcntl.ioctl(slave, request, b"x")
    finally:
        os.close(master)
        os.close(slave)


def from_memory(*argv):
    """A program that lies in no file: it is confined no less. Its rights as Linux sees them."""
    fd = os.memfd_create("program", 0)
    with open("/bin/cat", "rb") as program:
        os.write(fd, program.read())
    done = subprocess.run(argv, executable=f"/proc/self/fd/{fd}", pass_fds=(fd,), capture_output=True, check=False)
    os.close(fd)
    rows = dict(line.split(b":\t", 1) for line in done.stdout.splitlines() if b":\t" in line)
    return [rows[name].decode() for name in (b"CapEff", b"NoNewPrivs", b"Seccomp")]


def many(make, most=20_000):
    """How often it can be done before it is refused; what was made is let go."""
    kept = []
    try:
        kept.extend(make() for _ in range(most))
    finally:
        for fd in kept:
            if isinstance(fd, int) and fd > 2:
                os.close(fd)
            elif isinstance(fd, socket.socket):
                fd.close()
    return "without end"


def timers():
    """POSIX timers, which Linux keeps in its own memory; for a child process, with which they go."""
    kind = struct.pack("=QiiQQQQQQ", 0, 0, 1, 0, 0, 0, 0, 0, 0)  # SIGEV_NONE
    timer = ctypes.c_int()
    for _ in range(300_000):
        linux("timer_create", 1, kind, ctypes.byref(timer))
    return "without end"


def raised():
    """A limit higher than the hard one."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))


def forked():
    """Fork until it is refused."""
    children = []
    try:
        while True:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def threads():
    """Threads without end are processes as well."""
    done = threading.Event()
    made = []
    try:
        for _ in range(10_000):
            thread = threading.Thread(target=done.wait)
            thread.start()
            made.append(thread)
    except RuntimeError:
        return "refused"
    finally:
        done.set()
        for thread in made:
            thread.join()
    return "without end"


# --- sockets and frames ----------------------------------------------------------------------------------------------

def meet(name, family=socket.AF_UNIX, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock:
        sock.settimeout(5)
        sock.connect(name)
        return sock.send(b"let me out")


def datagram(name, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"let me out", name)


def as_root():
    """Claim to be uid 0 to whom reads credentials."""
    one, two = socket.socketpair()
    with one, two:
        return one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", 1, 0, 0))])


HELLO = struct.pack("<IHHQ", 2, 0, 0, 1) + b"\x91\x01"
GETPID = struct.pack("<IHHQ", 1, 20, 0, 99) + b"\x90"


def talk(*frames, greet=HELLO):
    """Bytes on a connection of its own, then GETPID: `faulted` when the kernel hangs up, else the replies' errors.

    The errors are by name, in order; `served` stands for GETPID's own answer.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(os.environ["AGENTIX_SOCKET"])
        try:
            sock.sendall(greet)
            for data in frames:
                sock.sendall(data)
            sock.sendall(GETPID)
            found = replies(sock, skip=bool(greet))
            return "faulted" if "faulted" in found else " ".join(found)  # what came before may be lost with it
        except (ConnectionResetError, BrokenPipeError):
            return "faulted"


def replies(sock, *, skip, last=99):
    """Errors by name, `answered` for what is none; `served` for the last one's own answer, `faulted` at a hang-up."""
    data, found = b"", []
    while True:
        while len(data) < 16 or len(data) < 16 + struct.unpack_from("<I", data)[0]:
            more = sock.recv(65536)
            if not more:
                return [*found, "faulted"]
            data += more
        length, _, flags, user_data = struct.unpack_from("<IHHQ", data)
        body, data = data[16:16 + length], data[16 + length:]
        if skip:
            skip = False
            continue
        error = flags & 0x8000 and errno.errorcode[body[1 + (body[1] == 0xcc)]]
        found.append(error or ("served" if user_data == last else "answered"))
        if user_data == last and not error:
            return found


def frame(number, body=b"\x90", flags=0, user_data=5, length=None):
    return struct.pack("<IHHQ", len(body) if length is None else length, number, flags, user_data) + body


def crowd(most=1000):
    """Connections to the kernel: how many are served of this many."""
    held, served = [], 0
    try:
        for _ in range(most):
            sock = socket.socket(socket.AF_UNIX)
            held.append(sock)
            sock.settimeout(30)
            sock.connect(os.environ["AGENTIX_SOCKET"])
            try:
                sock.sendall(HELLO)
                served += bool(sock.recv(100))
            except (ConnectionResetError, BrokenPipeError):
                continue
    finally:
        for sock in held:
            sock.close()
    return "all" if served == most else "some" if served else "none"


def cancelled():
    """Cancel calls as they are made, and calls that never were: each is answered, once."""
    wait = [frame(27, b"\x93\x02\xcb" + struct.pack(">d", 0.001) + b"\x00", user_data=n) for n in range(100, 120)]
    stop = [frame(66, bytes([0x91, n]), user_data=7) for n in range(90, 110)]
    with own_connection() as sock:
        sock.sendall(b"".join(itertools.chain(*zip(wait, stop, strict=True))))
        answers = [reply(sock) for _ in range(40)]
    known = {"ECANCELED", "EAGAIN", "ESRCH", "answered"}
    return len(answers) == 40 and set(answers) <= known and "ESRCH" in answers


def reply(sock):
    """One reply, read to its last byte: its error's name, or `answered`."""
    length, _, flags, _ = struct.unpack("<IHHQ", sock.recv(16, socket.MSG_WAITALL))
    body = sock.recv(length, socket.MSG_WAITALL)
    return errno.errorcode[body[1 + (body[1] == 0xcc)]] if flags & 0x8000 else "answered"


def handed_over(fds, path="/shared/meeting"):
    """Give descriptors to the accomplice over a socket in the folder that both were shown; what it made of each."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(path)
        sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        return sock.recv(65536).decode()


def own_connection():
    """A greeted connection of this agent's."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(os.environ["AGENTIX_SOCKET"])
    sock.sendall(HELLO)
    sock.recv(1000)
    return sock


def by_accomplice():
    """What the accomplice can do with folders of this agent, one of them open to everybody, that it is handed."""
    lent = ME + "state/lent"
    os.mkdir(lent)
    os.chmod(lent, 0o777)
    write(lent + "/harmless", data=b"harmless")
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (lent, ME + "state/deep")]
    try:
        return handed_over(fds)
    finally:
        for fd in fds:
            os.close(fd)


def lent():
    with own_connection() as sock:
        return handed_over([sock.fileno()])


def accomplice():
    """The other agent: for each descriptor it is handed, it says what it can do with it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("/shared/meeting")
        os.chmod("/shared/meeting", 0o777)
        listener.listen()
        meeting = socket.socket(socket.AF_UNIX)
        meeting.bind("\0" + OUT["meeting"])
        meeting.listen()
        print("up", flush=True)
        while True:
            sock, _ = listener.accept()
            with sock:
                _, ancillary, _, _ = sock.recvmsg(10, socket.CMSG_SPACE(40))
                fds = array.array("i", ancillary[0][2])
                sock.sendall(" ".join(try_descriptor(fd) for fd in fds).encode())
                for fd in fds:
                    os.close(fd)


def try_descriptor(fd):
    try:
        os.listdir(fd)
    except NotADirectoryError:
        with socket.socket(fileno=os.dup(fd)) as sock:
            sock.settimeout(30)
            sock.sendall(frame(1, b"\x91\xc4\x11state/held/secret"))
            return reply(sock)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ",".join([
        answer(lambda: read("a/held/secret", dir_fd=fd)), answer(lambda: read("harmless", dir_fd=fd)),
        answer(lambda: os.open("planted", NEW, dir_fd=fd)), answer(lambda: os.mkdir("planted", dir_fd=fd)),
        answer(lambda: os.rename("harmless", "taken", src_dir_fd=fd, dst_dir_fd=fd)),
        answer(lambda: os.unlink("harmless", dir_fd=fd)),
        answer(lambda: os.listdir(os.open("../..", RO, dir_fd=fd)))])


# --- the loop --------------------------------------------------------------------------------------------------------

def answer(act):
    """What came of it: a value, or the name of the error."""
    try:
        found = act()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except (ValueError, RuntimeError, MemoryError, OverflowError) as error:
        return type(error).__name__
    return found if isinstance(found, str) else repr(found)[:300]


def main():
    assert_confined()
    attempts, outside = map(json.loads, sys.argv[1:3])
    OUT.update(outside)
    libc.signal(libc.SIGUSR2, libc.SIG_IGN)
    put("mem/episodic/log", NEW | os.O_APPEND, b"then\n")
    print("ready", flush=True)
    if outside["wait"]:
        os.read(0, 1)
    for number, (_, expression) in enumerate(attempts):
        libc.checkpolicy("OPEN", f"state/attempt-{number}")  # where it begins in the record
        print(json.dumps([number, answer(lambda code=expression: eval(code, globals()))]), flush=True)
    libc.checkpolicy("OPEN", f"state/attempt-{len(attempts)}")
    print("end", flush=True)
    signal.pause()


main()
