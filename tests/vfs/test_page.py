"""What agentix-fs(7) says that the mount does not do, with the errno that it names, and what it leaves to Linux."""

import errno
import os
import textwrap
from pathlib import Path

import pytest
import trio

from agentix_vfs import Synthetic, Waiting, Who

from .conftest import AGENT, UID, Mount, Mounted
from .test_stores import put

ME = Who(UID, UID, AGENT)
PAGE = Path(__file__).resolve().parents[2] / "man/man7/agentix-fs.7"

PRELUDE = """
import array, ctypes, errno, fcntl, mmap, os, socket, struct
C = ctypes.CDLL(None, use_errno=True)
def linux(name, *args):
    ctypes.set_errno(0)
    if getattr(C, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
def tell(what, attempt):
    try:
        print(f"{what}: {attempt()}")
    except OSError as error:
        print(f"{what}: {errno.errorcode[error.errno]}")
def size(value):
    return ctypes.c_long(value)
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.write(fd, bytes(8192))
"""

ABSENT = {
    "fallocate": 'linux("fallocate", fd, 0, size(0), size(20000))',
    "keep": 'linux("fallocate", fd, 1, size(0), size(20000))',
    "punch": 'linux("fallocate", fd, 3, size(0), size(4096))',
    "zero": 'linux("fallocate", fd, 16, size(0), size(4096))',
    "tmpfile": 'os.open(".", os.O_TMPFILE | os.O_RDWR)',
    "getxattr": 'os.getxattr("f", "user.a")',
    "setxattr": 'os.setxattr("f", "user.a", b"b")',
    "listxattr": 'os.listxattr("f")',
    "removexattr": 'os.removexattr("f", "user.a")',
    "clone": "fcntl.ioctl(fd, 0x40049409, fd)",
    "ioctl": 'fcntl.ioctl(fd, 0x80086601, array.array("l", [0]))',
    "whiteout": 'linux("renameat2", -100, b"f", -100, b"g", 4)',
    "device": 'os.mknod("c", 0o20600, os.makedev(1, 3))',
    "chown": 'os.chown("f", 0, 0)',
    "large": 'os.truncate("f", (1 << 40) + 1)',
    "link": 'os.link("f", "../mem/working/f")',
    "rename": 'os.rename("f", "../mem/working/f")',
}
ERRNO = {
    **dict.fromkeys(("fallocate", "keep", "punch", "zero", "tmpfile", "getxattr", "setxattr", "listxattr",
                     "removexattr", "clone"), "ENOTSUP"),
    "ioctl": "ENOTTY", "whiteout": "EINVAL", "device": "EPERM", "chown": "EPERM", "large": "EFBIG",
    "link": "EXDEV", "rename": "EXDEV",
}


async def python(m: Mounted, script: str) -> str:
    """Run it in the agent's state folder."""
    return await m.sh(f"cd state && exec python3 - <<'END'\n{PRELUDE}\n{textwrap.dedent(script)}\nEND")


async def test_what_is_absent_says_so(mount: Mount) -> None:
    m = await mount()
    script = "\n".join(f"tell({name!r}, lambda: {attempt})" for name, attempt in ABSENT.items())
    told = dict(line.split(": ") for line in (await python(m, script)).splitlines())
    assert told == ERRNO
    page = PAGE.read_text()
    for number in {value.replace("ENOTSUP", "EOPNOTSUPP") for value in ERRNO.values()}:
        assert f"Bq Er {number}" in page, number


async def test_holes_are_not_seen_and_posix_fallocate_falls_back(mount: Mount) -> None:
    m = await mount()
    told = await python(m, """
        os.truncate("f", 1 << 20)
        tell("data", lambda: os.lseek(fd, 4096, os.SEEK_DATA))
        tell("hole", lambda: os.lseek(fd, 4096, os.SEEK_HOLE))
        os.posix_fallocate(fd, 0, 2 << 20)
        tell("size", lambda: os.fstat(fd).st_size)""")
    assert told == f"data: 4096\nhole: {1 << 20}\nsize: {2 << 20}\n"


async def test_locks_sockets_and_shared_mappings_are_linuxs_own(mount: Mount) -> None:
    m = await mount()
    told = await python(m, """
        def other(lock):  # in another process, on an open file of its own
            child = os.fork()
            if not child:
                try:
                    lock(os.open("f", os.O_RDWR))
                except OSError as error:
                    os._exit(error.errno)
                os._exit(0)
            return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "taken")
        for lock in fcntl.flock, fcntl.lockf:
            lock(fd, fcntl.LOCK_EX)
            tell(lock.__name__, lambda: other(lambda fd: lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
            lock(fd, fcntl.LOCK_UN)
        with mmap.mmap(fd, 4096) as shared:
            shared[:5] = b"hello"
        tell("read", lambda: os.pread(fd, 5, 0))
        server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        server.bind("sock")
        server.listen()
        tell("connect", lambda: client.connect("sock"))""")
    assert told == "flock: EAGAIN\nlockf: EAGAIN\nread: b'hello'\nconnect: None\n"


async def test_files_run_as_programs_and_live_on_without_a_name(mount: Mount) -> None:
    m = await mount()
    script = "printf '#!/bin/sh\\necho ran\\n' > x; chmod +x x; ./x; exec 3<x; rm x; tail -1 <&3"
    assert await m.sh(f"cd state; {script}") == "ran\necho ran\n"


async def test_a_file_held_open_is_stale_when_its_tree_is_gone(mount: Mount) -> None:
    m = await mount()
    await m.sh("echo x > state/f")
    held = await trio.to_thread.run_sync(os.open, m.path / str(AGENT) / "state/f", os.O_RDWR)
    try:
        m.tree.remove(AGENT)
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            await trio.to_thread.run_sync(os.fchmod, held, 0o600)
    finally:
        await trio.to_thread.run_sync(os.close, held)


async def test_rules_bind_the_agent_at_the_open_and_root_never(mount: Mount) -> None:
    def deny() -> bytes:
        m.gate.denied = {(call, b"/state/f"): errno.EPERM for call in ("READ", "WRITE")}
        return b""

    m = await mount({"deny": Synthetic(deny)})
    text = await m.sh("echo x > state/f; exec 3>>state/f; cat proc/deny; echo y >&3; cat state/f", code=1)
    assert "not permitted" in text
    assert await m.sh("echo z >> state/f; cat state/f", uid=0) == "x\ny\nz\n"


async def test_reading_leaves_the_access_time_alone(mount: Mount) -> None:
    m = await mount()
    told = await python(m, """
        os.utime("f", (5, 5))
        tell("read", lambda: len(open("f", "rb").read()))
        tell("atime", lambda: os.stat("f").st_atime)""")
    assert told == "read: 8192\natime: 5.0\n"


async def test_statfs_is_of_the_whole_mount(mount: Mount) -> None:
    m = await mount(quota_bytes=100_000)
    sizes = (await m.sh("stat -f -c %b:%S state mem/working .")).split()
    assert len(set(sizes)) == 1
    blocks, size = map(int, sizes[0].split(":"))
    host = os.statvfs(str(m.tree.host_root))
    assert blocks * size == host.f_blocks * host.f_frsize


async def test_inotify_hears_of_the_mount_and_not_of_system_calls(mount: Mount) -> None:
    def call() -> bytes:
        put(m.tree, ME, b"state/by-a-call", b"x")
        return b"made\n"

    m = await mount({"call": Synthetic(call)})
    told = await python(m, """
        watch = C.inotify_init1(os.O_NONBLOCK)
        linux("inotify_add_watch", watch, b".", 0x100)  # IN_CREATE
        tell("call", lambda: open("../proc/call").read().strip())
        tell("there", lambda: os.path.exists("by-a-call"))
        open("through-the-mount", "w").close()
        tell("heard", lambda: os.read(watch, 4096)[16:].rstrip(bytes(1)))""")
    assert told == "call: made\nthere: True\nheard: b'through-the-mount'\n"


async def test_who_may_not_is_told_before_what_is_read_only(mount: Mount) -> None:
    """The agent meets the folders' mode bits first, root meets what the folders are."""
    m = await mount({"wait": Waiting(wait=_never)})
    for command, agent, root in (("touch ipc/x", "Permission denied", "Read-only"),
                                 ("touch policy/x", "Permission denied", "Read-only"),
                                 ("touch proc/x", "Permission denied", "not permitted"),
                                 ("mkdir x", "not permitted", "not permitted"),
                                 ("echo > proc/wait", "Permission denied", "Permission denied")):
        assert agent in await m.sh(f"{command} 2>&1; test $? -ne 0"), command
        assert root in await m.sh(f"{command} 2>&1; test $? -ne 0", uid=0), command


async def _never() -> bytes:
    raise AssertionError("nobody reads it")
