"""Each error in the table of calls is part of the contract: an agent produces it here, or another test is named."""

import json

import pytest

from agentix_syscalls.calls import CALLS, EVERY_CALL

PRELUDE = """
import errno, json, os, socket, struct, sys, time
from agentix import libc
from agentix_syscalls import calls as table
import msgpack
S = {call.name: call.number for call in table.CALLS}
me = libc.getpid()
def call(name, *args):
    try:
        libc.syscall(S[name], *args)
        return 'ok'
    except OSError as error:
        return errno.errorcode[error.errno]
def raw(*frames):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(os.environ['AGENTIX_SOCKET'])
        data = b''
        for frame in frames:
            sock.sendall(frame)
            data = sock.recv(1 << 16)
            if not data:
                return 'closed'
        body = msgpack.unpackb(data[16:])
        failed = struct.unpack_from('<IHHQ', data)[2] & 0x8000
        return errno.errorcode[body[0]] if failed else 'ok'
def frame(number, body=b'\\x90', flags=0):
    return struct.pack('<IHHQ', len(body), number, flags, 1) + body
hello = frame(0, b'\\x91\\x01')
fd = libc.open('state/file', libc.O_RDWR | libc.O_CREAT)
ro = libc.open('state/file')
wo = libc.open('state/file', libc.O_WRONLY)
libc.mkdir('state/dir'); libc.mkdir('state/full')
libc.close(libc.open('state/full/x', libc.O_WRONLY | libc.O_CREAT))
tree = os.environ['AGENTIX_TREE']
os.symlink('loop', tree + '/state/loop')
log = libc.open('mem/episodic/log', libc.O_WRONLY | libc.O_CREAT | libc.O_APPEND)
libc.mkdir('state/dark'); os.chmod(tree + '/state/dark', 0)
big = 'x' * 256
found = {}
"""

WALK = {
    "ENOENT": "'state/none/x'", "ENOTDIR": "'state/file/x'", "ENAMETOOLONG": "'state/' + big",
    "ELOOP": "'state/loop/x'", "EACCES": "'/etc/passwd'",
}
MORE = {"MKDIR": ", 0o755", "UNLINK": "", "TRUNCATE": ", 1", "OPEN": ", 0", "STAT": "", "READDIR": ""}

CASES: dict[tuple[str, str], str] = {
    ("*", "EINVAL"): "call('OPEN')", ("*", "EPERM"): "call('GETPOLICY')", ("*", "ENOSYS"): "call('FORK')",
    ("HELLO", "EPROTO"): "raw(hello, hello)",
    ("OPEN", "EROFS"): "call('OPEN', 'policy/effective', os.O_WRONLY)",
    ("OPEN", "EEXIST"): "call('OPEN', 'state/file', os.O_CREAT | os.O_EXCL | os.O_WRONLY)",
    ("OPEN", "EISDIR"): "call('OPEN', 'state/dir', os.O_WRONLY)",
    ("OPEN", "EPERM"): "call('OPEN', 'mem/episodic/log', os.O_WRONLY)",
    ("CLOSE", "EBADF"): "call('CLOSE', 9999)",
    ("READ", "EBADF"): "call('READ', wo, 1)", ("READ", "EISDIR"): "call('READ', libc.open('state/dir'), 1)",
    ("WRITE", "EBADF"): "call('WRITE', ro, b'x')",
    ("SEEK", "EBADF"): "call('SEEK', 9999, 0)",
    ("MKDIR", "EROFS"): "call('MKDIR', 'policy/x')", ("MKDIR", "EEXIST"): "call('MKDIR', 'state/dir')",
    ("UNLINK", "EROFS"): "call('UNLINK', 'policy/effective')", ("UNLINK", "EISDIR"): "call('UNLINK', 'state/dir')",
    ("UNLINK", "ENOTEMPTY"): "call('UNLINK', 'state/full', table.AT_REMOVEDIR)",
    ("UNLINK", "EPERM"): "call('UNLINK', 'mem/episodic/log')",
    ("RENAME", "EROFS"): "call('RENAME', 'policy/effective', 'policy/x')",
    ("RENAME", "EEXIST"): "call('RENAME', 'state/file', 'state/full/x', table.RENAME_NOREPLACE)",
    ("RENAME", "EXDEV"): "call('RENAME', 'state/file', 'mem/working/file')",
    ("RENAME", "EISDIR"): "call('RENAME', 'state/file', 'state/dir')",
    ("RENAME", "ENOTEMPTY"): "call('RENAME', 'state/dir', 'state/full')",
    ("RENAME", "EPERM"): "call('RENAME', 'mem/episodic/log', 'mem/episodic/x')",
    ("RENAME", "ENOENT"): "call('RENAME', 'state/none/x', 'state/y')",
    ("RENAME", "ENOTDIR"): "call('RENAME', 'state/file/x', 'state/y')",
    ("RENAME", "ENAMETOOLONG"): "call('RENAME', 'state/file', 'state/' + big)",
    ("RENAME", "ELOOP"): "call('RENAME', 'state/loop/x', 'state/y')",
    ("RENAME", "EACCES"): "call('RENAME', 'state/dark/x', 'state/y')",
    ("TRUNCATE", "EROFS"): "call('TRUNCATE', 'policy/effective', 0)",
    ("TRUNCATE", "EISDIR"): "call('TRUNCATE', 'state/dir', 0)",
    ("TRUNCATE", "EPERM"): "call('TRUNCATE', 'mem/episodic/log', 0)",
    ("TRUNCATE", "EFBIG"): "call('TRUNCATE', 'state/file', 1 << 62)",
    ("WRITE", "EFBIG"): "call('WRITE', libc.open('mem/working/far', os.O_CREAT | os.O_WRONLY), b'x', 1 << 62)",
    ("SYNC", "EBADF"): "call('SYNC', 9999)",
    ("SPAWN", "ENOENT"): "call('SPAWN', 'exec', ['/no/such/program'])",
    ("SPAWN", "ENOEXEC"): "call('SPAWN', 'exec', ['/data/foreign'])",
    ("SPAWN", "EACCES"): "call('SPAWN', 'exec', ['/data/plain'])",
    ("SPAWN", "EEXIST"): "call('SPAWN', 'exec', ['/bin/true'], {'name': 'prober'})",
    ("SPAWN", "E2BIG"): "call('SPAWN', 'exec', ['/bin/true', 'x' * (200 << 10)])",
    ("SPAWN", "EPERM"): "call('SPAWN', 'exec', ['/bin/true'], {'mode': 'audit'})",
    ("EXEC", "ENOENT"): "call('EXEC', 'no.such.tool', {})",
    ("EXEC", "ETIMEDOUT"): "call('EXEC', 'shell.execute', {'command': 'sleep 60'}, 0.2)",
    ("WAIT", "ECHILD"): "call('WAIT', 1 << 40)",
    ("WAIT", "ETIMEDOUT"): "call('WAIT', libc.spawn(exec='/bin/sleep', args=['60']), 0, 0.1)",
    ("SIGNAL", "ESRCH"): "call('SIGNAL', 1 << 40, 5)", ("SIGNAL", "EPERM"): "call('SIGNAL', me, 8)",
    ("SIGACTION", "EINVAL"): "call('SIGACTION', 4, 2)",
    ("SIGWAIT", "EAGAIN"): "call('SIGWAIT', 1 << 6, 0.05)",
    ("GRANT", "EPERM"): "call('GRANT', 4, me, 'capability://file?action=read')",
    ("GRANT", "EBADF"): "call('GRANT', 999, me)", ("GRANT", "ECHILD"): "call('GRANT', 1, 1 << 40)",
    ("REVOKE", "EBADF"): "call('REVOKE', me, 999)", ("CAPS", "ECHILD"): "call('CAPS', 1 << 40)",
    ("CHECKPOLICY", "EINVAL"): "call('CHECKPOLICY', 'NOPE')", ("CANCEL", "ESRCH"): "call('CANCEL', 99)",
}
CASES |= {(name, error): f"call('{name}', {path}{more})" for name, more in MORE.items() for error, path in WALK.items()}

ELSEWHERE = {
    ("*", "EDQUOT"): "tests/kernel/test_budgets.py", ("*", "EAGAIN"): "tests/kernel/test_budgets.py",
    ("*", "EIO"): "tests/kernel/test_dispatch.py", ("*", "ESHUTDOWN"): "tests/kernel/test_dispatch.py",
    ("OPEN", "EMFILE"): "test_quotas", ("OPEN", "EDQUOT"): "test_quotas", ("MKDIR", "EDQUOT"): "test_quotas",
    ("WRITE", "EDQUOT"): "test_quotas", ("TRUNCATE", "EDQUOT"): "test_quotas",
    ("WRITE", "ENOSPC"): "test_full_disk", ("SYNC", "ENOSPC"): "test_full_disk",
    ("SPAWN", "EAGAIN"): "test_as_many_as_there_may_be", ("EXEC", "EAGAIN"): "test_as_many_as_there_may_be",
    ("SPAWN", "ENOMEM"): "tests/kernel/test_dispatch.py",
    ("SPAWN", "ECANCELED"): "tests/kernel/test_cancel.py", ("EXEC", "ECANCELED"): "tests/kernel/test_cancel.py",
    ("WAIT", "ECANCELED"): "tests/kernel/test_cancel.py", ("SIGWAIT", "ECANCELED"): "tests/kernel/test_cancel.py",
    ("GRANT", "EMFILE"): "tests/kernel/test_capabilities.py", ("REVOKE", "EPERM"): "tests/kernel/test_capabilities.py",
    ("SPAWN", "EMFILE"): "tests/kernel/test_capabilities.py",
    ("WAIT", "EAGAIN"): "tests/hostile/test_floods.py",
}


def test_every_pair_of_call_and_error_has_a_case():
    table = {("*", error) for error, _ in EVERY_CALL}
    table |= {(call.name, error) for call in CALLS if call.support == "full" for error, _ in call.errors}
    named = set(CASES) | set(ELSEWHERE)
    assert sorted(table - named) == []
    assert sorted(named - table) == []


@pytest.fixture(scope="module")
def outcomes(kernel, scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "plain").write_text("not a program\n")
    (folder / "foreign").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    (folder / "foreign").chmod(0o755)
    folder.chmod(0o755)
    body = "".join(f"found[{json.dumps('/'.join(pair))}] = {code}\n" for pair, code in CASES.items())
    script = scripts(PRELUDE + body + "os.chmod(tree + '/state/dark', 0o755)\nprint(json.dumps(found))\n")
    done = kernel.ctl("run", "--name", "prober", "--spawn-max", "50", "--deny", "GETPOLICY",
                      "--bind-ro", f"{folder}:/data", script)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("pair", CASES, ids="/".join)
def test_errors(outcomes, pair):
    assert outcomes["/".join(pair)] == pair[1]
