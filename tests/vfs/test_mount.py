"""The mount, used by real processes as agents use it, beside system calls on the same tree."""

import errno
import os
import stat
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio
from emulation import WAIT_S

from agentix_vfs import Growing, Synthetic, Tree, Who
from agentix_vfs.fuse import readiness
from agentix_vfs.fuse.gate import OpenGate
from agentix_vfs.fuse.server import FuseServer

from .conftest import AGENT, OTHER_UID, UID, Mount, until
from .test_stores import get, names, put

ME = Who(UID, UID, AGENT)


async def in_thread(work, *args):
    """Touch the mount from a thread: the loop must go on answering."""
    return await trio.to_thread.run_sync(partial(work, *args))


async def test_listing_and_reading(mount: Mount) -> None:
    m = await mount({"status": Synthetic(lambda: b"Name:\tseven\n")}, {"rules": Synthetic(lambda: b"none\n")})
    put(m.tree, ME, b"state/f", b"hello\n")
    listing = await m.sh("ls -lR . && cat proc/status policy/rules state/f")
    assert "drwxr-s--- 2 61207" in listing
    assert listing.endswith("Name:\tseven\nnone\nhello\n")
    assert await m.sh("ls -a") == ".\n..\nipc\nmem\npolicy\nproc\nstate\n"
    assert await m.sh("cat ../by-name/seven/state/f", uid=0) == "hello\n"
    assert await m.sh("find . | sort | head -3") == ".\n./ipc\n./mem\n"


async def test_other_agents_see_nothing(mount: Mount) -> None:
    m = await mount()
    put(m.tree, ME, b"state/secret", b"hidden")
    for command in ("ls {0}", "cat {0}/state/secret", "stat {0}/state", "cat {0}/state/none", "echo x > {0}/state/f"):
        text = await m.sh("cd / && " + command.format(m.path / "7") + "; test $? -ne 0", uid=OTHER_UID)
        assert "Permission denied" in text, command
        assert "hidden" not in text
    assert names(m.tree, ME, b"state") == [b"secret"]


async def test_files_made_through_the_mount_are_there_for_calls(mount: Mount) -> None:
    m = await mount()
    await m.sh("cd state && mkdir d && echo one > d/f && ln d/f g && ln -s d/f s && mkfifo p && chmod 600 g")
    assert get(m.tree, ME, b"state/s") == b"one\n"
    info = m.tree.stat(ME, b"state/g")
    assert (info.nlink, info.uid, stat.S_IMODE(info.mode)) == (2, UID, 0o600)
    await m.sh("cd state && mv d/f h && rm g && truncate -s 2 h && touch -d @1000 h")
    info = m.tree.stat(ME, b"state/h")
    assert (info.nlink, info.size, info.mtime_ns) == (1, 2, 1000 * 10**9)
    assert await m.sh("cd state && (echo through > p & cat p)") == "through\n"


async def test_calls_change_what_the_mount_shows(mount: Mount) -> None:
    m = await mount()
    put(m.tree, ME, b"state/f", b"one")
    folder = m.path / "7/state"
    assert await in_thread((folder / "f").read_bytes) == b"one"
    reader = await in_thread(os.open, folder / "f", os.O_RDONLY)
    try:
        for number in range(20):
            text = b"version %d" % number
            put(m.tree, ME, b"state/f", text)
            assert await in_thread(os.pread, reader, 99, 0) == text
            assert (await in_thread(os.fstat, reader)).st_size == len(text)
            put(m.tree, ME, b"state/new%d" % number)
            assert f"new{number}" in await in_thread(os.listdir, folder)
            m.tree.rename(ME, b"state/new%d" % number, b"state/moved")
            assert (await in_thread(os.stat, folder / "moved")).st_size == 1
            m.tree.unlink(ME, b"state/moved")
            assert not await in_thread((folder / "moved").exists)
    finally:
        await in_thread(os.close, reader)


async def test_same_size_changes_show(mount: Mount) -> None:
    m = await mount()
    handle = m.tree.open(ME, b"state/f", os.O_CREAT | os.O_RDWR)
    handle.write(b"0000", 0)
    reader = await in_thread(os.open, m.path / "7/state/f", os.O_RDONLY)
    try:
        for number in range(50):
            handle.write(b"%04d" % number, 0)
            assert await in_thread(os.pread, reader, 99, 0) == b"%04d" % number
    finally:
        await in_thread(os.close, reader)
    handle.close()


MAPPED_READER = """import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
for _ in sys.stdin:
    print(mapped[:4].decode(), flush=True)"""


async def test_mapped_readers_see_changes(mount: Mount) -> None:
    m = await mount()
    put(m.tree, ME, b"state/f", b"old!" * 1024)
    # A process of its own: a page fault would keep this one's interpreter lock while its loop must answer.
    reader = await trio.lowlevel.open_process(["python3", "-c", MAPPED_READER, m.path / "7/state/f"],
                                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def look() -> bytes:
        await reader.stdin.send_all(b"\n")
        line = await reader.stdout.receive_some(100)
        while not line.endswith(b"\n"):
            line += await reader.stdout.receive_some(100) or b"(ended)\n"
        return line

    try:
        with trio.fail_after(WAIT_S):
            assert await look() == b"old!\n"
            for number in range(5):
                handle = m.tree.open(ME, b"state/f", os.O_RDWR)
                handle.write(b"%04d" % number, 0)
                handle.close()
                while await look() != b"%04d\n" % number:  # at once, unless the machine is too busy for the thread
                    await trio.lowlevel.checkpoint()
    finally:
        reader.kill()
        await reader.wait()
        await reader.stdin.aclose()
        await reader.stdout.aclose()


async def test_appends_of_both_doors_never_overwrite_each_other(mount: Mount) -> None:
    m = await mount()
    for path in (b"state/log", b"mem/episodic/log"):
        host = m.path / "7" / path.decode()
        descriptor = await in_thread(os.open, host, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        expected = b""
        root = Who(0, 0, AGENT)
        handle = m.tree.open(root, path, os.O_WRONLY | os.O_APPEND)
        try:
            for number in range(20):
                handle.write(b"call %d\n" % number, 0)
                await in_thread(os.write, descriptor, b"mount %d\n" % number)
                expected += b"call %d\nmount %d\n" % (number, number)
        finally:
            await in_thread(os.close, descriptor)
        assert get(m.tree, root, path) == expected
        assert await in_thread(host.read_bytes) == expected


async def test_append_only_through_the_mount(mount: Mount) -> None:
    m = await mount()
    await m.sh("cd mem/episodic && echo one > log && echo two >> log && mkdir d")
    for command in ("echo three > log", "rm log", "mv log x", "truncate -s 0 log", "truncate -s 99 log",
                    "chmod 777 log", "ln log x", "ln log ../../state/x", "touch -d @0 log", "rmdir d",
                    "dd if=/dev/zero of=log conv=notrunc count=1", "exec 3<>log", "mv -T ../../state/f log"):
        text = await m.sh(f"touch state/f; cd mem/episodic && {command} 2>&1; test $? -ne 0")
        assert "not permitted" in text or "ross-device" in text, text
    # Append mode taken off after the open: still the true end.
    await m.sh("""cd mem/episodic && exec 3>>log && echo three >&3 && python3 -c '
import fcntl, os
fcntl.fcntl(3, fcntl.F_SETFL, 0)
os.pwrite(3, b"four\\n", 0)'""")
    assert await m.sh("cat mem/episodic/log") == "one\ntwo\nthree\nfour\n"
    assert get(m.tree, ME, b"mem/episodic/log") == b"one\ntwo\nthree\nfour\n"


async def test_fixed_and_read_only_through_the_mount(mount: Mount) -> None:
    m = await mount(policy={"rules": Synthetic(lambda: b"none\n", mode=0o644)})
    for command, error in (("rmdir state", "not permitted"), ("mv state x", "not permitted"),
                           ("mkdir x", "not permitted"), ("mv mem/working state/", "not permitted"),
                           ("chmod 777 state", "not permitted"), ("chmod 777 .", "not permitted"),
                           ("chown 0 state", "not permitted"), ("touch proc/x", "denied"),
                           ("echo x > policy/rules", "Read-only"), ("touch ipc/x", "Permission denied"),
                           ("rm policy/rules", "ermi"), ("mv mem/working/w state/", "")):
        text = await m.sh(f"echo w > mem/working/w; {command} 2>&1; test $? {'-eq' if not error else '-ne'} 0")
        assert error in text
    assert "Read-only" in await m.sh("touch ipc/x", uid=0, code=1)
    assert await m.sh("cat state/w") == "w\n"  # mv copies between mounts


async def test_setuid_and_devices_are_refused(mount: Mount) -> None:
    m = await mount()
    await m.sh("cd state && touch f && mkdir d")
    for command in ("chmod u+s f", "chmod 2755 f && test -g f", "mknod dev c 1 3", "install -m 4755 /bin/true t"):
        await m.sh(f"cd state && {command}; test $? -ne 0")
    assert "not permitted" in await m.sh("mknod state/dev c 1 3", uid=0, code=1)


async def test_quota_through_the_mount(mount: Mount) -> None:
    m = await mount(quota_bytes=100_000, quota_inodes=10)
    text = await m.sh("cd mem/working && head -c 200000 /dev/zero > big; test $? -ne 0")
    assert "quota exceeded" in text
    text = await m.sh("""cd mem/working && rm big && head -c 90000 /dev/zero > big
        for i in $(seq 20); do : > $i; done; true""")
    assert "quota exceeded" in text
    assert len(names(m.tree, ME, b"mem/working")) == 10


async def test_names_of_255_bytes(mount: Mount) -> None:
    m = await mount()
    await m.sh("cd state && n=$(printf 'n%.0s' {1..255}) && echo x > $n && cat $n && mv $n x && mv x $n && rm $n")
    assert "too long" in await m.sh("cd state && n=$(printf 'n%.0s' {1..256}) && touch $n", code=1)


async def test_rename_flags_through_the_mount(mount: Mount) -> None:
    m = await mount()
    put(m.tree, ME, b"state/a", b"a")
    put(m.tree, ME, b"state/b", b"b")
    script = """import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags): return libc.renameat2(-100, a, -100, b, flags) and errno.errorcode[ctypes.get_errno()]
print(rename(b"state/a", b"state/b", 1), rename(b"state/a", b"state/b", 2), rename(b"state/a", b"state/c", 1),
      rename(b"state/c", b"state/d", 3))"""
    assert await m.sh(f"python3 -c '{script}'") == "EEXIST 0 0 EINVAL\n"
    assert (get(m.tree, ME, b"state/c"), get(m.tree, ME, b"state/b")) == (b"b", b"a")


async def test_synthetic_writer(mount: Mount) -> None:
    seen: list[tuple[int, bytes]] = []
    m = await mount({"signal": Synthetic(write=lambda who, data: seen.append((who.agent, data)), mode=0o600)})
    await m.sh("echo TERM > proc/signal && echo STOP >> proc/signal")
    assert seen == [(AGENT, b"TERM\n"), (AGENT, b"STOP\n")]


async def test_tail_follows_a_growing_file(mount: Mount) -> None:
    log = bytearray(b"one\n")
    m = await mount({"log": Growing(lambda: len(log), lambda offset, count: bytes(log[offset:offset + count]))})
    tail = await trio.lowlevel.open_process(
        ["tail", "-s", "0.02", "-f", m.path / "7/proc/log"], stdout=subprocess.PIPE,
        user=UID, group=UID, extra_groups=[])
    try:
        got = b""
        with trio.fail_after(WAIT_S):
            for expected in (b"one\n", b"two\n", b"three\n"):
                if expected != b"one\n":
                    log += expected
                while expected not in got:
                    got += await tail.stdout.receive_some(100)
        assert got == b"one\ntwo\nthree\n"
    finally:
        tail.kill()
        await tail.wait()
        await tail.stdout.aclose()
    assert await m.sh("tail -c 6 proc/log && wc -c < proc/log") == "three\n14\n"


async def test_gate_denies_and_records(mount: Mount) -> None:
    m = await mount()
    put(m.tree, ME, b"state/f", b"x")
    await m.sh("""set -e; cd state; cat f; echo y > g; mkdir d; mv g d/h; truncate -s 0 d/h; rm d/h; rmdir d
        cat none""", code=1)
    wanted = [("open", b"/state/f"), ("create", b"/state/g"), ("mkdir", b"/state/d"), ("rename", b"/state/g"),
              ("truncate", b"/state/d/h"), ("unlink", b"/state/d/h"), ("rmdir", b"/state/d")]
    seen = [(operation, path) for operation, agent, path, error in m.gate.records if agent == AGENT and not error]
    assert [pair for pair in wanted if pair not in seen] == []
    m.gate.records.clear()
    for call, path, command, recorded in (
            ("READ", b"/state/f", "cat state/f", "open"), ("WRITE", b"/state/new", "touch state/new", "create"),
            ("TRUNCATE", b"/state/f", "echo > state/f", "open"), ("UNLINK", b"/state/f", "rm -f state/f", "unlink"),
            ("RENAME", b"/state/g", "mv state/f state/g", "rename"), ("READDIR", b"/state", "ls state", "readdir"),
            ("STAT", b"/state/f", "stat state/f", "stat"), ("READ", b"/state/f", "ln state/f state/g", "link"),
            ("WRITE", b"/state/f", "chmod 0 state/f", "setattr"), ("MKDIR", b"/state/d", "mkdir state/d", "mkdir")):
        m.gate.denied = {(call, path): errno.EPERM}
        assert "Operation not permitted" in await m.sh(command + "; test $? -ne 0"), command
        assert (recorded, AGENT, path, errno.EPERM) in m.gate.records, command
        await m.sh(command + "; true", uid=0) if call == "READ" else None
    m.gate.denied = {}


async def test_another_name_is_no_way_around_a_rule(mount: Mount) -> None:
    m = await mount()
    await m.sh("cd state && echo secret > f && ln f g")
    m.gate.denied = {("READ", b"/state/f"): errno.EPERM}
    assert "not permitted" in await m.sh("cat state/g", code=1)


async def test_own_faults_answer_eio_and_the_session_lives(mount: Mount) -> None:
    def broken() -> bytes:
        raise RuntimeError("broken on purpose")

    m = await mount({"bad": Synthetic(broken)})
    assert "Input/output error" in await m.sh("cat proc/bad", code=1)
    assert "Input/output error" in await m.sh("cat < proc/bad", code=1)
    m.gate.broken = True
    assert "Input/output error" in (await in_thread(_as_agent, m.path / "7/state/f"))
    m.gate.broken = False
    assert [where for where, _ in m.faults].count("open") == 2
    assert "broken on purpose" in m.faults[0][1]
    assert await m.sh("echo fine > state/g && cat state/g") == "fine\n"
    m.faults.clear()


def _as_agent(path: Path) -> str:
    done = subprocess.run(["cat", path], user=UID, group=UID, extra_groups=[], capture_output=True, text=True,
                          check=False)
    return done.stderr


async def test_removed_agents_vanish(mount: Mount) -> None:
    m = await mount()
    await m.sh("echo x > state/f")
    held = await in_thread(os.open, m.path / "7/state/f", os.O_RDONLY)
    m.tree.remove(AGENT)
    try:
        assert "7" not in await in_thread(os.listdir, m.path)
        with pytest.raises(OSError) as caught:
            await in_thread(os.stat, m.path / "7/state/f")
        assert caught.value.errno in {errno.ENOENT, errno.ESTALE}
    finally:
        await in_thread(os.close, held)
    m.tree.add(8, UID, "eight", proc={}, policy={})
    assert await in_thread(os.listdir, m.path / "8") == ["mem", "state", "policy", "ipc", "proc"]


async def test_lookup_counts_are_kept(mount: Mount) -> None:
    m = await mount()
    requests = m.server._requests
    await m.sh("""cd state && mkdir d && for i in $(seq 50); do echo $i > d/$i; done
        ls -l d > /dev/null; cat d/* > /dev/null""")
    inos = {m.tree.stat(ME, b"state/d/%d" % number).ino for number in range(1, 51)}
    assert all(requests.knows(ino) for ino in inos)
    await m.sh("rm -r state/d")
    await until(lambda: not any(requests.knows(ino) for ino in inos))


async def test_fast_wait_is_effective(mount: Mount) -> None:
    assert readiness.replaceable(), "pyfuse3 is of another version: measure, then add it to _KNOWN_VERSIONS"
    m = await mount()
    before = m.server.readiness.requests
    await m.sh("for i in $(seq 20); do : > state/$i; done")
    assert m.server.readiness.requests - before >= 40


async def test_stock_wait_works_too(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentix_vfs.fuse.server.replaceable", lambda: False)
    m = await mount()
    assert m.server.readiness is None
    assert await m.sh("echo fine > state/f && cat state/f") == "fine\n"


async def test_clear_errors_of_mounting(mount: Mount, tmp_path: Path) -> None:
    server = FuseServer(Tree(None), OpenGate(), lambda *_: None)
    with pytest.raises(OSError, match=r"nowhere: .*make the folder"):
        await server.run(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="not a folder"):
        await server.run(str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"mount point /proc is in use; `umount /proc` or choose another"):
        await server.run("/proc")
    m = await mount()
    (tmp_path / "second").mkdir()
    with pytest.raises(OSError, match="second needs a process of its own"):
        await server.run(str(tmp_path / "second"))
    assert await m.sh("ls -d .") == ".\n"


async def test_unmounted_from_outside_it_ends(mount: Mount) -> None:
    m = await mount()
    await m.sh("ls")
    await trio.run_process(["umount", m.path])
    with trio.fail_after(WAIT_S):
        await m.ended.wait()


async def test_applications(mount: Mount) -> None:
    m = await mount()
    await m.sh("""set -e; cd state; export GIT_CONFIG_GLOBAL=/dev/null
        git init -q repo; cd repo; git config user.email a@b; git config user.name a
        for i in $(seq 30); do echo $i > file$i; done; git add . ; git commit -qm first
        git gc -q; git fsck --strict; test -z "$(git status --porcelain)"
        git checkout -q -b other; git mv file1 moved; git commit -qam second; git checkout -q -; test -f file1""")
    await m.sh("""set -e; cd state; mkdir -p src/sub; head -c 300000 /dev/urandom > src/big; ln src/big src/hard
        ln -s big src/soft; echo x > src/sub/x; tar cf a.tar src; mkdir out; tar xpf a.tar -C out; diff -r src out/src
        cp -a src copy; diff -r src copy; rm -r src copy out a.tar""")
    for journal in ("DELETE", "WAL"):
        text = await m.sh(f"""cd state; python3 -c '
import sqlite3
base = sqlite3.connect("{journal}.db"); print(base.execute("pragma journal_mode={journal}").fetchone()[0].upper())
base.execute("create table t (a, b)")
for n in range(20):
    with base: base.executemany("insert into t values (?, ?)", [(n, "x" * 500)] * 20)
other = sqlite3.connect("{journal}.db")
print(other.execute("select count(*), sum(length(b)) from t").fetchone(),
      other.execute("pragma integrity_check").fetchone())'""")
        assert text == f"{journal}\n(400, 200000) ('ok',)\n"
