"""What an agent can see, reach and change: probed from inside, each probe asserting first that it is confined."""

import errno
import os
import stat
import sys

import pytest
import trio
from emulation import WAIT_S

from agentix_kernel.confine import linux, template
from agentix_kernel.confine.syscalls_table import ROWS, Action
from agentix_kernel.world import Bind, DeniedCall, Ended, LaunchError, Limits

CONFINED = """
import ctypes, errno, os, socket, stat
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
assert int(status['CapEff'], 16) == int(status['CapBnd'], 16) == 0 and os.getuid() > 0 and os.getpid() == 2
assert status['Seccomp'].strip() == '2' and not os.path.exists('/etc/shadow')
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(function, *args, **more):
    try:
        function(*args, **more)
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'OK'
"""
"""Opens every probe: the proof that it is confined, or it stops."""


async def test_first_statement_is_under_full_confinement(lab):
    running = await lab.launch("print(open('/proc/self/status').read(), flush=True); import signal; signal.pause()")
    lines = [await running.line() for _ in range(50)]
    told = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    uid = running.sandbox.what.uid
    assert told["Uid"] == told["Gid"] == "\t".join([str(uid)] * 4)
    assert told["Groups"].strip() == ""
    assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (told["NoNewPrivs"], told["Seccomp"], told["Pid"], told["PPid"]) == ("1", "2", "2", "1")
    for name in ("mnt", "pid", "ipc", "uts", "cgroup", "net"):
        ours, theirs = (os.readlink(f"/proc/{pid}/ns/{name}") for pid in ("self", running.sandbox.pid))
        assert ours != theirs, name
    for pid in running.sandbox.pids():
        assert running.sandbox.what.tag in await trio.Path(f"/proc/{pid}/cgroup").read_text()


async def test_root_holds_only_what_it_should(lab):
    result = await lab.run(CONFINED + "print(*sorted(os.listdir('/')))\nprint(*sorted(os.listdir('/dev')))\n"
                           "print(*sorted(os.listdir('/agent')), *os.listdir('/run/agentix'), *os.listdir('/tmp'))\n"
                           "print(*sorted(p for p in os.listdir('/proc') if p.isdigit()))\n")
    root, dev, agent, processes = result.text.split("\n")[:4]
    python = {folder.split("/")[1] for folder in template.python_folders()}
    assert set(root.split()) <= {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "dev", "proc", "tmp",
                                 "run", "agent"} | python
    assert dev == "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert (agent.split(), processes) == (below_tmp(), "2")  # hidepid: the init is not shown


def below_tmp() -> list[str]:
    """What an agent finds in its own /tmp at first: the way to the interpreter, where that lives below the host's."""
    return sorted({folder.split("/")[2] for folder in template.python_folders() if folder.startswith("/tmp/")})


async def test_nothing_of_the_host_is_there(lab, tmp_path):
    (tmp_path / "secret").write_text("secret")
    ways = "".join(f"{folder}/" for folder in template.python_folders())
    homes = [path for path in ("/root", "/home", "/var") if f"{path}/" not in ways]
    result = await lab.run(CONFINED + f"""
for path in (*{homes!r}, '/sys', '/boot', '/.agentix', '/etc/shadow', '/etc/hosts.allow',
             '/run/agentix.sock', '/proc/sys', '/proc/meminfo', '/proc/1/environ', {str(tmp_path)!r}):
    assert attempt(os.stat, path) in ('ENOENT', 'EACCES'), path
print(open('/etc/passwd').read().count('\\n'), open('/etc/resolv.conf').read() == '')
import pwd; print(pwd.getpwuid(os.getuid()).pw_name, os.uname().nodename)
""", hostname="lighthouse")
    assert result.text == "3 True\nagent lighthouse\n"


async def test_only_tmp_can_be_written(lab):
    result = await lab.run(CONFINED + """
for folder in ('/', '/usr', '/etc', '/dev', '/run', '/run/agentix', '/run/etc', '/agent', '/proc', '/usr/local/bin'):
    for made in (attempt(os.mkdir, folder + '/new'), attempt(os.open, folder + '/new', os.O_CREAT | os.O_WRONLY)):
        assert made in ('EROFS', 'EACCES', 'EPERM', 'ENOENT'), (folder, made)
assert attempt(os.open, '/etc/passwd', os.O_WRONLY) in ('EROFS', 'EACCES')
open('/tmp/mine', 'w').write('x'); open('/dev/shm/mine2', 'w').write('x'); open('/dev/null', 'w').write('x')
os.mkdir('/tmp/d'); os.rename('/tmp/mine', '/tmp/d/mine'); os.symlink('a', '/tmp/s'); os.mkfifo('/tmp/f')
print(sorted(os.listdir('/tmp')))
""")
    assert result.text == f"{sorted(['d', 'f', 'mine2', 's', *below_tmp()])}\n"
    assert (await lab.run("import os; print(sorted(os.listdir('/tmp')))")).text == f"{below_tmp()}\n"


async def test_tmp_is_bounded(lab):
    result = await lab.run("data = b'x' * (1 << 20)\ntry:\n"
                           "    with open('/tmp/big', 'wb') as file:\n        while True: file.write(data)\n"
                           "except OSError as error: print(error.errno)\n", limits=Limits(memory_bytes=64 << 20))
    assert result.text == f"{errno.ENOSPC}\n"


async def test_ties_to_the_outside_are_cut(lab):
    result = await lab.run(CONFINED + """
def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.connect(address)
def bind(family, address):
    with socket.socket(family) as s:
        s.bind(address)
print(attempt(connect, socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', 22)))
print(attempt(connect, socket.AF_INET, socket.SOCK_DGRAM, ('192.0.2.1', 53)))
print(attempt(bind, socket.AF_INET, ('127.0.0.1', 0)))
print(*(attempt(socket.socket, family) for family in (16, 17, 38, 40, 44)))
print(attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1))
""")
    # Landlock rules TCP from ABI 4 on; before, the empty network namespace alone cuts it.
    connect, bind = ("EACCES", "EACCES") if lab.sandboxes.landlock_abi >= 4 else ("ENETUNREACH", "OK")
    assert result.text == f"{connect}\nENETUNREACH\n{bind}\n" + " ".join(["EAFNOSUPPORT"] * 5) + "\nEPERM\n"


async def test_agents_cannot_meet_on_abstract_sockets_nor_see_each_other(lab):
    server = await lab.launch("import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0meet'); s.listen()\n"
                              "print('there', flush=True); s.accept()")
    assert await server.line() == "there"
    result = await lab.run("import socket\ntry: socket.socket(socket.AF_UNIX).connect('\\0meet')\n"
                           "except OSError as error: print(error.errno)")
    assert result.text in (f"{errno.EPERM}\n", f"{errno.ECONNREFUSED}\n")


async def test_each_has_its_own_network_when_asked(open_lab):
    async with open_lab(own_netns=True, landlock=False) as lab:
        first, second = [await lab.launch("import signal; signal.pause()") for _ in range(2)]
        assert len({os.readlink(f"/proc/{pid}/ns/net") for pid in ("self", first.sandbox.pid, second.sandbox.pid)}) == 3


@pytest.mark.parametrize(("name", "number", "args"), [
    ("unshare", 272, "0x10000000"), ("setns", 308, "0, 0"), ("mount", 165, "0, 0, 0, 0, 0"), ("umount2", 166, "0, 0"),
    ("chroot", 161, "0"), ("pivot_root", 155, "0, 0"), ("keyctl", 250, "0, 0"), ("io_uring_setup", 425, "1, 0"),
    ("userfaultfd", 323, "0"), ("perf_event_open", 298, "0"), ("open_by_handle_at", 304, "0"),
    ("clone", 56, "0x10000000 | 17"), ("personality", 135, "0x40000"), ("ioctl", 16, "0, 0x5412, 0"),
    ("ioctl", 16, "0, 0x100005412, 0"), ("sethostname", 170, "0, 0"), ("open_tree_attr", 467, "0"),
    ("fchmodat2", 452, "-1, 0, 0o4755, 0"), ("fsopen", 430, "0, 0"), ("swapon", 167, "0"),
])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86-64's")
async def test_denied_call_is_refused_and_told(lab, name, number, args):
    result = await lab.run(CONFINED + f"print(call({number}, {args}))", tag=f"d{number}.1")
    assert result.text == "EPERM\n"
    assert [(denied.name, denied.fatal) for denied in result.denied] == [(name, False)]


@pytest.mark.parametrize(("name", "number"), [
    ("ptrace", 101), ("process_vm_readv", 310), ("bpf", 321), ("kexec_load", 246), ("init_module", 175), ("iopl", 172),
    ("reboot", 169)])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86-64's")
async def test_call_that_no_honest_agent_makes_is_told_as_fatal_and_never_returns(lab, name, number):
    running = await lab.launch(CONFINED + f"call({number}, 0, 0, 0, 0); print('ran on', flush=True)\n")
    with trio.fail_after(WAIT_S):
        while not running.denied:  # noqa: ASYNC110 - what is told goes into a list
            await trio.sleep(0.005)
    assert await running.sandbox.kill()
    assert await running.rest() == ""
    assert running.denied == [DeniedCall(name, running.sandbox.pid, fatal=True)]


async def test_denial_is_told_with_the_pid_of_who_called(lab):
    running = await lab.launch(CONFINED + "import signal\nif os.fork() == 0: libc.unshare(0x20000); print(flush=True)\n"
                                          "signal.pause()")
    await running.line()
    [denied] = running.denied
    assert denied.pid in running.sandbox.pids()
    assert denied.pid != running.sandbox.pid


async def test_flood_of_denied_calls_starves_nobody(lab):
    flood = await lab.launch("import ctypes; libc = ctypes.CDLL(None)\nprint('in', flush=True)\n"
                             "while True: libc.unshare(0x20000)")
    await flood.line()
    for _ in range(3):
        assert (await lab.run("print('served')")).text == "served\n"
    assert len(flood.denied) > 16  # more than one tick answers


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86-64's")
async def test_calls_that_are_absent_and_ways_around(lab):
    result = await lab.run(CONFINED + """
print(call(435, 0, 0), call(437, 0, 0, 0, 0), call(500), call(511))
os.mkdir('/tmp/d'); open('/tmp/f', 'w').close()
print(attempt(os.chmod, '/tmp/f', 0o4755), attempt(os.chmod, '/tmp/f', 0o2755), attempt(os.chmod, '/tmp/f', 0o755))
flags = os.O_CREAT | os.O_WRONLY
print(attempt(os.open, '/tmp/g', flags, 0o4755), attempt(os.mknod, '/tmp/h', stat.S_IFREG | 0o4755))
print(attempt(os.mknod, '/tmp/dev', stat.S_IFBLK | 0o600, os.makedev(254, 0)), attempt(os.setuid, 0))
print(call(135, 0xffffffff), attempt(os.kill, 1, 0), attempt(os.open, '/proc/1/mem', os.O_RDONLY))
""")
    assert result.text.splitlines() == [
        "ENOSYS ENOSYS ENOSYS ENOSYS", "EPERM EPERM OK", "EPERM EPERM", "EACCES EPERM", "0 OK ENOENT"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
async def test_calls_of_another_architecture_kill(lab):
    # mov eax, 20 (getpid of i386); int 0x80; ret
    result = await lab.run(CONFINED + """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex('b814000000cd80c3'))
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print('alive')
""")
    assert (result.ended, result.text) == (Ended(None, 31), "")


async def test_killing_the_init_from_inside_does_nothing(lab):
    result = await lab.run(CONFINED + "for n in (9, 19, 2, 1, 11): os.kill(1, n)\nprint('alive')")
    assert (result.ended, result.text) == (Ended(0, None), "alive\n")


async def test_limits_of_processes_and_files(lab):
    result = await lab.run("import resource as r; print(r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_NOFILE))")
    assert result.text == "(0, 0) (1024, 4096)\n"


async def test_verify_finds_every_layer_on(lab, folder):
    path, fd = folder
    binds = (Bind(fd, "/in/ro", writable=False, source=str(path)), Bind(fd, "/in/rw", writable=True, source=str(path)))
    running = await lab.launch("import signal; signal.pause()", binds=binds, tag="81.1")
    tool = await lab.launch("import signal; signal.pause()", parent="81.1", tag="81.1.tool")
    for sandbox in (running.sandbox, tool.sandbox):
        rows = await trio.to_thread.run_sync(lab.sandboxes.verify, sandbox)
        assert {row["layer"]: row for row in rows if row["state"] != "on"} == {}
        assert len(rows) > 10


async def test_out_of_memory_killer_does_not_spare_agents(open_lab, monkeypatch):
    own = trio.Path("/proc/self/oom_score_adj")
    before = await own.read_text()
    try:
        await own.write_text("-500")
    except PermissionError:
        pytest.skip("CAP_SYS_RESOURCE, to be spared more than before")
    try:
        async with open_lab() as lab:
            assert (await lab.run("print(open('/proc/self/oom_score_adj').read())")).text.strip() == "0"
    finally:
        await own.write_text(before)


# Host folders.


@pytest.fixture
def folder(tmp_path):
    """A host folder of user 12345 with a file, seen by all."""
    made = tmp_path / "folder"
    made.mkdir()
    (made / "file").write_text("from the host")
    for path in (made, made / "file"):
        os.chown(path, 12345, 54321)
    fd = os.open(made, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield made, fd
    os.close(fd)


async def test_read_only_bind(lab, folder):
    path, fd = folder
    result = await lab.run(CONFINED + """
print(open('/data/in/file').read(), attempt(os.mkdir, '/data/in/new'), attempt(os.open, '/data/in/file', os.O_WRONLY))
print(sorted(os.listdir('/data')), attempt(os.mkdir, '/data/beside'))
""", binds=(Bind(fd, "/data/in", writable=False, source=str(path)),))
    first, second = result.text.splitlines()
    assert first.startswith("from the host E")
    assert set(first.split()[3:]) <= {"EROFS", "EACCES"}
    assert second in ("['in'] EROFS", "['in'] EACCES")


async def test_writable_bind_maps_the_owner_both_ways(lab, folder):
    path, fd = folder
    (path / "roots").write_text("root's")
    result = await lab.run(CONFINED + """
assert os.stat('/data/file').st_uid == os.getuid() and os.stat('/data/file').st_gid == os.getgid()
open('/data/file', 'a').write(' and the agent'); open('/data/new', 'w').write('new')
print(os.stat('/data/roots').st_uid, attempt(os.open, '/data/roots', os.O_WRONLY))
print(attempt(os.chmod, '/data/new', 0o4755))
""", binds=(Bind(fd, "/data", writable=True, source=str(path)),))
    assert result.text in ("65534 EACCES\nEPERM\n", "65534 EPERM\nEPERM\n")
    assert (path / "file").read_text() == "from the host and the agent"
    made = (path / "new").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (12345, 54321, 0o644)


async def test_file_bind(lab, folder):
    path, _ = folder
    with (path / "file").open("rb") as file:
        result = await lab.run("print(open('/conf/settings').read())",
                               binds=(Bind(file.fileno(), "/conf/settings", writable=False, source="file"),))
    assert result.text == "from the host\n"


async def test_bind_below_tmp(lab, folder):
    path, fd = folder
    result = await lab.run("print(open('/tmp/a/b/file').read())",
                           binds=(Bind(fd, "/tmp/a/b", writable=False, source=str(path)),))
    assert result.text == "from the host\n"


async def test_writable_bind_of_a_file_system_without_mapped_owners_is_refused(lab):
    fd = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(LaunchError) as caught:
            await lab.launch("pass", binds=(Bind(fd, "/data", writable=True, source="/proc/self"),))
    finally:
        os.close(fd)
    assert caught.value.stage == "bind"
    assert "read-only" in caught.value.message


@pytest.mark.parametrize("target", ["/", "/proc", "/dev/x", "/agent", "/agent/7", "/run/agentix", "/run", "/usr/x",
                                    "/usr", "/etc/x", "/tmp", "/bin/x", "relative", "/a/../b", "//a", "/sys", "/opt",
                                    ""])
async def test_refused_targets(lab, folder, target):
    path, fd = folder
    if target == "/opt" and not any(name.startswith("/opt/") for name in sys.path):
        pytest.skip("no interpreter below /opt")
    with pytest.raises(LaunchError) as caught:
        await lab.launch("pass", binds=(Bind(fd, target, writable=False, source=str(path)),))
    assert (caught.value.number, caught.value.stage) == (errno.EINVAL, "bind")
    assert str(path) in caught.value.message


async def test_overlapping_binds_are_refused(lab, folder):
    path, fd = folder
    binds = tuple(Bind(fd, target, writable=False, source=str(path)) for target in ("/data", "/data/in"))
    with pytest.raises(LaunchError, match="overlaps"):
        await lab.launch("pass", binds=binds)


# The tree and the socket.


async def test_own_tree_and_socket_and_no_others(open_lab, tmp_path):
    trees, sockets = tmp_path / "trees", tmp_path / "sockets"
    uid = 1_999_000
    for name in ("5", "6"):
        (trees / name / "mem/working").mkdir(parents=True)
        (sockets / name).mkdir(parents=True)
        (sockets / name / "kernel.sock").write_text(name)
    for path in (trees / "5", trees / "5/mem", trees / "5/mem/working"):
        os.chown(path, uid, uid)
    async with open_lab(mountpoint=str(trees), sockets_dir=str(sockets)) as lab:
        result = await lab.run(CONFINED + """
print(sorted(os.listdir('/agent')), os.getcwd(), open('/run/agentix/kernel.sock').read())
print(os.environ['HOME'], os.environ['AGENTIX_TREE'], os.environ['AGENTIX_SOCKET'], os.path.realpath('/agent/self'))
open('result', 'w').write('made')
print(attempt(os.mkdir, '/agent/x') in ('EROFS', 'EACCES'), attempt(os.stat, '/agent/6'))
""", tree="5", socket_dir=str(sockets / "5"), uid=uid)
        assert result.text.splitlines() == [
            "['5', 'self'] /agent/5/mem/working 5",
            "/agent/5 /agent/5 /run/agentix/kernel.sock /agent/5", "True ENOENT"]
        assert (trees / "5/mem/working/result").read_text() == "made"
        with pytest.raises(LaunchError) as caught:
            await lab.launch("pass", tree="7")
        assert (caught.value.number, caught.value.stage) == (errno.ENOENT, "tree")
        with pytest.raises(LaunchError) as caught:
            await lab.launch("pass", socket_dir="/etc")
        assert caught.value.stage == "tree"


def test_every_row_of_the_table_says_why_and_acts_once():
    assert all(row.why for row in ROWS)
    assert len({(row.name, row.tests) for row in ROWS}) == len(ROWS)
    fatal = {row.name for row in ROWS if row.action is Action.FATAL}
    assert {"ptrace", "bpf", "kexec_load", "init_module", "process_vm_writev"} <= fatal


async def test_landlock_is_as_new_as_the_kernel(lab):
    assert lab.sandboxes.landlock_abi == min(linux.landlock_abi(), 7)
