"""Policies as weapons: what a document, or the file that it lies in, may be. Each is refused by its place and name, the
refusal is recorded, and no agent runs with less protection than was asked for.
"""

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

import pytest
from attrs import frozen
from authority.test_documents import BAD

from agentix import control
from agentix_syscalls import signals
from agentix_syscalls.errors import CallError

HEAD = "version: 1\nname: a\nmode: enforce\n"
ALLOWED = "allow: [{file: /, action: [read, write]}]\n"


def rule(text: str) -> str:
    """A document whose fifth line is this rule."""
    return f"{HEAD}allow:\n  - {text}\n"


BROKEN = (
    "", "capability", "capability:", "capability:/", "capability://", "capability://?action=read", "CAPABILITY://file?action=read",
    "capability://file", "capability://file?", "capability://file?action", "capability://file?action=",
    "capability://file?action=,", "capability://file?action=read,", "capability://file?action=read,read",
    "capability://file?action=read&action=write", "capability://file?action=READ", "capability://file?action=exec",
    "capability://file?action=*,read", "capability://file?read", "capability://file?=read", "capability://file?action=read&",
    "capability://file?action=read&&max=1", "capability://file?action=read&max", "capability://file?action=read&max=",
    "capability://file?action=read&max=0", "capability://file?action=read&max=-1", "capability://file?action=read&max=1e9",
    "capability://file?action=read&max=0x10", "capability://file?action=read&max=99999999999999999999",
    "capability://file?action=read&max=1&max=2", "capability://file?action=read&rate=1", "capability://file?action=read&rate=/s",
    "capability://file?action=read&rate=1/", "capability://file?action=read&rate=1/fortnight",
    "capability://file?action=read&rate=0/s", "capability://file?action=read&rate=1/s/s",
    "capability://tool/x?action=exec&timeout=1", "capability://tool/x?action=exec&timeout=-1s",
    "capability://tool/x?action=exec&timeout=1 s", "capability://file?action=read&expires=tomorrow",
    "capability://file?action=read&expires=2026-02-30T00:00:00Z", "capability://file?action=read&expires=2026-01-01",
    "capability://file?action=read&expires=99999-01-01T00:00:00Z", "capability://file?action=read&allowlist=",
    "capability://file?action=read&allowlist=a/b", "capability://file?action=read&allowlist=a,,b",
    "capability://file?action=read&allowlist=..", "capability://file?action=read&allowlist=*",
    "capability://file?action=read&colour=red", "capability://file?action=read&constraint=max",
    "capability://file?action=read&constraint=max:", "capability://file?action=read#x", "capability://file/../etc?action=read",
    "capability://file/./state?action=read", "capability://file/state/%?action=read", "capability://file/state/%zz?action=read",
    "capability://file/state/%00?action=read", "capability://file/state/%2f?action=read", "capability://file/state/%2E%2E?action=read",
    "capability://file/state/***?action=read", "capability://file/state/a**?action=read",
    "capability://file/state/" + "*a" * 9 + "?action=read", "capability://file/" + "**/a/" * 9 + "x?action=read",
    "capability://file/" + "a/" * 70 + "b?action=read", "capability://file/state/" + "n" * 4096 + "?action=read",
    "capability://file/state//" * 3, "capability://tool/a/b?action=exec", "capability://tool/?action=exec&rate=1/s&rate=1/m",
    "capability://nothing/x?action=read", "capability://File?action=read", "capability://fil%65?action=read",
    "capability://user@file/state?action=read", "capability://file:80/state?action=read",
    " capability://file?action=read x",
    "capability://file/etc/shadow?action=read", "capability://call/OPEN?action=make", "capability://net/example.org?action=connect",
    "capability://file?action=read" + "&max=1" * 2000, "capability://signal/self/SIGNOPE?action=send",
    "capability://signal/self/SIGTERM/x?action=send", "capability://agent/../x?action=spawn",
    "capability://" + "\u2060file?action=read", "c\u0430pability://file?action=read", "capability://file/state\\?action=read\\",
)
"""Capabilities in every kind of broken syntax, and some that say what cannot be."""

NESTED = "[" * 5000
DOCUMENTS = {
    **{f"document: {name}": text for name, (text, _) in BAD.items()},
    **{f"capability {number}: {text[:50]!r}": rule(f"'{text}'") for number, text in enumerate(BROKEN)},
    "ten thousand rules": HEAD + "deny:\n" + "".join(f"  - {{call: OPEN, path: /state/{n}}}\n" for n in range(10_000)),
    "more values than may be": HEAD + "deny: [" + "{tool: x}," * 4200 + "]\n",
    "a byte too many": (HEAD + ALLOWED + "#").ljust((64 << 10) + 1, "x"),
    "a bomb": "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(30)),
    "a bomb of keys": HEAD + "limits: &l {pids: 5}\nallow: [*l, *l]\n",
    "a cycle": HEAD + "allow: &a [*a]\n",
    "a cycle of keys": "&a ? *a : x\n",
    "a tag that makes an object": HEAD + "allow: !!python/object/apply:os.system ['touch /tmp/agentix-was-here']\n",
    "a tag on everything": "!x\n" + HEAD,
    "a tag of another document": "%TAG ! tag:x,2026:\n---\n" + HEAD,
    "the same key twice": HEAD + "deny: [{file: /state, action: write}]\nmode: audit\n",
    "the same key in other words": HEAD + '"mode": audit\n',
    "a mode that is none": HEAD.replace("enforce", "Enforce"),
    "an unknown key": HEAD + ALLOWED + "except: [{file: /state, action: write}]\n",
    "an unknown key of a rule": HEAD + "deny: [{file: /state, action: write, unless: friday}]\n",
    "tabs": HEAD + "deny:\n\t- {tool: x}\n",
    "a byte order mark": b"\xef\xbb\xbf" + HEAD.encode(),
    "UTF-16": HEAD.encode("utf-16-le"),
    "UTF-32": HEAD.encode("utf-32-be"),
    "a NUL in a rule": HEAD + 'deny: [{file: "/state/a\\0b", action: write}]\n',
    "a raw NUL": HEAD + "deny: [{file: /state/a\0b, action: write}]\n",
    "bytes that are no text": HEAD.encode() + b"deny: [{file: /state/\xff\xfe, action: write}]\n",
    "text in overlong bytes": HEAD.encode() + b"deny: [{file: /state/\xc0\xaf, action: write}]\n",
    "half a pair": HEAD.encode() + b"deny: [{file: /state/\xed\xa0\x80, action: write}]\n",
    "a file that is cut off": (HEAD + "deny:\n  - {file: /state/held, act").encode(),
    "a file that is cut off in a text": HEAD + "deny:\n  - 'capability://file/state/held?action=",
    "what contradicts itself": HEAD + "allow: [{file: /state/a, action: write}]\ndeny: [{file: /state, action: '*'}]\n",
    "the same rule twice": HEAD + "allow: [{file: /, action: read}, {file: /, action: read}]\n",
    "a list where a text should be": HEAD.replace("enforce", "[enforce]"),
    "a map where a list should be": HEAD + "deny: {file: /state, action: write}\n",
    "rules of another system": "apiVersion: governance.toolkit/v1\nname: x\ndefault_action: allow\nrules: []\n",
    "JSON of another": '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}',
    "a script": "#!/bin/sh\ntouch /tmp/agentix-was-here\n",
    "nothing but nesting": NESTED,
    "nesting in a map": HEAD + "allow: " + "{a: " * 200,
    "a number of two to the hundredth": HEAD + f"limits: {{pids: {1 << 100}}}\n",
    "no number at all": HEAD + "limits: {cpus: .inf}\n",
    "a bind of everything": HEAD + "binds: [{host: /../../, at: /etc, mode: rw}]\n",
    "a bind onto the tree": HEAD + "binds: [{host: /srv, at: relative, mode: rw}]\n",
    "a time before time": HEAD + "allow: [{file: /, action: read, expires: 0000-00-00T00:00:00Z}]\n",
}


@frozen
class Refusals:
    """What was said to each document, and the kernel afterwards."""

    said: dict[str, CallError | None]
    recorded: list[str]
    agents: list[str]


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\n") as kernel:
        os.chmod(kernel.prefix, 0o755)
        yield kernel


@pytest.fixture(scope="module")
def client(live):
    with control.Client(f"{live.prefix}/run/control.sock") as made:
        yield made


@pytest.fixture(scope="module")
def refusals(client):
    said: dict[str, CallError | None] = {}
    for number, (name, text) in enumerate(DOCUMENTS.items()):
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        try:
            client.call("spawn", "exec", ["/bin/sleep", "1000"], {"policy": [f"p{number}.yaml", data]})
            said[name] = None
        except CallError as error:
            said[name] = error
    told = [row["data"]["detail"] for row in client.stream("trace") if row["kind"] == "policy"]
    return Refusals(said, told, [row["name"] for row in client.call("ps", True, False)])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_bad_document_is_refused_by_its_place_and_recorded(refusals, name):
    error = refusals.said[name]
    assert error is not None, "an agent was spawned"
    file = f"p{list(DOCUMENTS).index(name)}.yaml"
    assert error.number == errno.EINVAL
    lines = error.message.split("\n")
    places = rf"{re.escape(file)}:[1-9]\d*:[1-9]\d*: .|and \d+ more"
    assert all(re.match(places, line) for line in lines), lines
    assert len(error.message) < 20_000
    assert [one for one in refusals.recorded if f"refused: {file}:" in one]


def test_no_bad_document_ran_anything(refusals):
    assert refusals.agents == []
    assert not os.path.exists("/tmp/agentix-was-here")


GOOD = {
    "the last byte there may be": (HEAD + ALLOWED + "#").ljust(64 << 10, "x"),
    "everything denied": HEAD + "deny: ['capability://file/**?action=*']\n",
    "as many rules as fit": HEAD + "allow: [{file: /, action: '*'}]\ndeny:\n" + "".join(
        f"  - {{file: /state/{n}, action: '*'}}\n" for n in range(1200)),
    "patterns that match nothing there is": HEAD + "allow: [{file: /, action: '*'}]\ndeny: ['capability://file/state/0?action=*']\n",
    "denials that overlap": HEAD + "allow: [{file: /, action: '*'}]\ndeny: [{file: /state/0, action: read}, "
                                   "{file: /state/0, action: '*'}, {file: '/state/*', action: '*'}]\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_at_the_edge_holds(client, name):
    """Read whole: the last rule counts as the first does."""
    asked = [client.call("policy_test", ["edge.yaml", GOOD[name].encode()], "WRITE", path)["allowed"]
             for path in (b"/state/0", b"/state/1199", b"/mem/x")]
    assert asked == {"the last byte there may be": [True] * 3, "everything denied": [False] * 3,
                     "as many rules as fit": [False, False, True], "denials that overlap": [False, False, True],
                     "patterns that match nothing there is": [False, True, True]}[name]


@contextlib.contextmanager
def fifo(path: Path, text: bytes):
    """A FIFO that gives this text to who opens it."""
    os.mkfifo(path)
    writer = os.fork()
    if writer == 0:
        os.write(os.open(path, os.O_WRONLY), text)
        os._exit(0)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(writer, 9)
        os.waitpid(writer, 0)


def refused(live, path, status, **more) -> str:
    """What agentctl says of a spawn with this file, which leaves no agent."""
    before = [row["id"] for row in live.json("ps", "-a")]
    done = live.ctl("spawn", "--policy", path, "--", "/bin/true", check=status, **more)
    assert [row["id"] for row in live.json("ps", "-a")] == before
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_file_that_is_none(live, tmp_path):
    assert "Is a directory" in refused(live, tmp_path, 1)
    assert "No such file" in refused(live, tmp_path / "missing.yaml", 1)
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    assert "No such file" in refused(live, tmp_path / "dangling.yaml", 1)
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    assert "symbolic links" in refused(live, tmp_path / "circle.yaml", 1)
    assert "/dev/zero:1:1: 65,537 bytes" in refused(live, "/dev/zero", 2)
    assert "/dev/null:1:1: empty" in refused(live, "/dev/null", 2)


def test_a_pipe_gives_what_it_gives(live, tmp_path):
    """It is read to its end, once: a writer that stops in the middle has written a bad policy."""
    path = tmp_path / "pipe.yaml"
    with fifo(path, HEAD.encode() + b"allow: [{file: /, action: [read, write]}]\ndeny:\n  - {file: /sta"):
        assert f"{path}:6:" in refused(live, path, 2)


def test_a_link_is_read_by_who_asks_and_not_by_the_kernel(live, tmp_path):
    """A member of the group names a file that only root may read."""
    os.chmod(tmp_path, 0o755)
    secret = tmp_path / "secret.yaml"
    secret.write_text("root's own: here\n")
    secret.chmod(0o600)
    (tmp_path / "link.yaml").symlink_to(secret)
    for path in (secret, tmp_path / "link.yaml"):
        said = refused(live, path, 1, user=4242, group=4242, extra_groups=[65534])
        assert "Permission denied" in said
        assert "root's own" not in said


def test_a_name_does_not_paint(live, tmp_path):
    path = tmp_path / "a\x1b[2J\nb.yaml"
    path.write_text("nonsense")
    assert "\x1b" not in refused(live, path, 1)


def test_a_policy_changes_nothing_by_changing_later(live, client, tmp_path):
    """An agent has what was read: the file may be emptied, widened or removed."""
    path = tmp_path / "kept.yaml"
    path.write_text(HEAD + "allow: [{file: /, action: read}, {file: /mem, action: write}]\n")
    agent = live.spawn("--policy", path, "--", "/bin/sleep", "1000")
    before = client.call("policy_show", agent)
    path.write_text(HEAD + ALLOWED)
    assert client.call("policy_show", agent) == before
    path.unlink()
    assert client.call("policy_show", agent) == before
    live.ctl("restart", agent, check=0)
    assert client.call("policy_show", agent) == before
    client.call("signal", agent, signals.SIGKILL)


def test_a_profiles_policy_is_a_file_of_roots(live, tmp_path):
    """The kernel itself reads it: a pipe would hold it up, what others may write would let them say what agents may."""
    profile, policy = Path(live.prefix, "profiles", "p.toml"), Path(live.prefix, "p.yaml")
    profile.parent.mkdir(exist_ok=True)
    profile.write_text(f'policy = "{policy}"\n')
    try:
        os.mkfifo(policy)
        assert "not a regular file" in live.ctl("reload", check=1).stderr
        policy.unlink()
        policy.write_text(HEAD)
        os.chown(policy, 4242, 4242)
        assert "what agents may do" in live.ctl("reload", check=1).stderr
        os.chown(policy, 0, 0)
        policy.chmod(stat.S_IRUSR | stat.S_IWUSR)
        profile.unlink()
        os.mkfifo(profile)
        assert "not a regular file" in live.ctl("reload", check=1).stderr
    finally:
        profile.unlink()
        policy.unlink()
    live.ctl("reload", check=0)
