"""Ways out of the sandbox, beyond those of examples/hostile.py. The probe refuses to run where it is not confined."""

PROBE = r"""
import ctypes, errno, os, resource, socket, sys
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
if not (os.getuid() and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        and "AGENTIX_ID" in os.environ and os.getpid() < 1000):
    sys.exit("not confined: nothing was tried")
LIBC = ctypes.CDLL(None, use_errno=True)

def attempt(name, act):
    try:
        found = act()
    except OSError as error:
        found = errno.errorcode[error.errno]
    except Exception as error:
        found = type(error).__name__
    print(name, found, flush=True)

def linux(number, *args):
    ctypes.set_errno(0)
    done = LIBC.syscall(number, *args)
    return done if done >= 0 else errno.errorcode[ctypes.get_errno()]

def pair(family):
    two = (ctypes.c_int * 2)()
    ctypes.set_errno(0)
    return "MADE" if LIBC.socketpair(family, 2, 0, two) == 0 else errno.errorcode[ctypes.get_errno()]

attempt("init-root", lambda: os.listdir("/proc/1/root"))
attempt("init-mem", lambda: os.open("/proc/1/mem", os.O_RDWR))
attempt("init-fds", lambda: os.listdir("/proc/1/fd"))
attempt("init-pidfd-getfd", lambda: linux(438, os.pidfd_open(1), 3, 0))
attempt("netlink-pair", lambda: pair(16))
attempt("inet-pair", lambda: pair(2))
attempt("socket-folder", lambda: os.open("/run/agentix/x", os.O_CREAT | os.O_WRONLY))
attempt("socket-unlink", lambda: os.unlink("/run/agentix/kernel.sock"))
attempt("socket-rename", lambda: os.rename("/run/agentix/kernel.sock", "/run/agentix/k"))
attempt("above-the-tree", lambda: sorted(set(os.listdir("/agent/..")) & {"home", "root", "var", "sys", ".agentix"}))
attempt("above-a-descriptor", lambda: os.open("../../../../etc/shadow", 0, dir_fd=os.open("/agent/self", 0)))
attempt("own-tree-by-proc", lambda: os.listdir("/proc/self/root/agent/.."). __contains__("home"))
attempt("cgroup", lambda: os.listdir("/sys/fs/cgroup"))
attempt("link-of-passwd", lambda: os.link("/etc/hosts", "/tmp/hosts"))
attempt("remount-etc", lambda: os.open("/etc/hosts", os.O_WRONLY))
attempt("run-etc", lambda: os.open("/run/etc/passwd", os.O_WRONLY))
attempt("kcore", lambda: os.open("/proc/kcore", 0))
attempt("sysrq", lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY))
attempt("fuse", lambda: os.open("/dev/fuse", os.O_RDWR))
PROGRAM = ctypes.create_string_buffer(bytes.fromhex("060000000000ff7f"))
attempt("second-listener", lambda: linux(317, 1, 8, ctypes.byref(ctypes.create_string_buffer(
    (1).to_bytes(8, "little") + ctypes.addressof(PROGRAM).to_bytes(8, "little")))))
attempt("others", lambda: os.kill(-1, 0) or "only its own")
print("end", flush=True)
"""

REFUSED = {
    "init-root": "ENOENT", "init-mem": "ENOENT", "init-fds": "ENOENT", "init-pidfd-getfd": "EPERM",
    "netlink-pair": "EAFNOSUPPORT", "inet-pair": "EAFNOSUPPORT", "socket-folder": "EACCES", "socket-unlink": "EACCES",
    "socket-rename": "EACCES", "above-the-tree": "[]", "above-a-descriptor": "ENOENT", "own-tree-by-proc": "False",
    "cgroup": "ENOENT", "remount-etc": "EACCES", "run-etc": "EACCES", "kcore": "ENOENT", "sysrq": "ENOENT",
    "fuse": "ENOENT", "second-listener": "EBUSY",
}


def test_ways_out_are_closed(kernel, scripts):
    agent = kernel.spawn(scripts(PROBE))
    told = dict(line.split(" ", 1) for line in kernel.until_logged(agent, "end").splitlines() if " " in line)
    assert {name: told.get(name) for name in REFUSED} == REFUSED
    assert told["link-of-passwd"] in {"EPERM", "EXDEV", "EACCES"}
