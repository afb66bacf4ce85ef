"""cp and cat against a small kernel that lies, and a host that changes while they work."""

import errno
import os
import stat

import pytest
from emulation import WAIT_S

from agentix.agentctl import copying
from agentix.agentctl.copying import engine, progress
from agentix.agentctl.files import Place, read_place
from agentix_syscalls import control
from agentix_syscalls.errors import CallError

FOLDER, FILE, LINK = stat.S_IFDIR | 0o750, stat.S_IFREG | 0o640, stat.S_IFLNK | 0o777


def fail(number, message="no"):
    def answer(*_args):
        raise CallError(number, message)
    return answer


def serve(operator, tree, before=lambda _path: None):
    """A tree of {path: content, [names] of a folder, or ("link", target)}; `before` sees each path that is read."""
    def mode(path):
        what = tree[find(path)]
        return FOLDER if isinstance(what, list) else LINK if isinstance(what, tuple) else FILE

    def attributes(path):
        what = tree[find(path)]
        return {"mode": mode(path), "mtime_ns": 1_000_000_000,
                "target": what[1] if isinstance(what, tuple) else None}

    def find(path):
        if path.endswith(b"/."):
            path = path[:-2]
        if path not in tree:
            raise CallError(errno.ENOENT, "no such file")
        return path

    def read(_agent, path, *_args):
        path = find(path.replace(b"/./", b"/"))
        before(path)
        yield attributes(path)
        yield from tree[path] if isinstance(tree[path], GeneratorOf) else [tree[path]]

    def readdir(_agent, path, _follow):
        path = find(path)
        before(path)
        yield [[name, mode(path + b"/" + name), hash(path + b"/" + name)] for name in tree[path]]

    operator.on("stat", lambda _agent, path, *_args: attributes(find(path)))
    operator.on("read", read)
    operator.on("readdir", readdir)
    operator.on("write", None)
    operator.on("mkdir", None)


class GeneratorOf(bytes):
    """Content that comes in pieces of one byte and then breaks."""

    def __iter__(self):
        for byte in bytes(self):
            yield bytes([byte])
        raise CallError(errno.EIO, "the disk broke")


def test_a_place_has_a_colon_in_its_first_name():
    assert read_place("scout:state/x") == Place("scout", b"state/x")
    assert read_place("7:") == Place(7, b".")
    assert read_place("scout:a:b") == Place("scout", b"a:b")
    assert read_place("od\udcffd:x\udcff") == Place("od\udcffd", b"x\xff")
    for word in ("./a:b", "/a:b", "a", ":x"):
        assert read_place(word) == word


@pytest.mark.parametrize("words", [("a", "b"), ("1:a", "2:b")])
def test_one_side_is_an_agents(operator, words):
    result = operator.run("cp", *words)
    assert (result.exit_code, "One of SRC and DST is AGENT:PATH" in result.stderr) == (2, True)


def test_a_tree_comes_out_as_it_is(operator, tmp_path):
    odd = b"od\xffd\n\x1b[31m"
    serve(operator, {b"state": [b"d", b"link", odd], b"state/d": [b"f"], b"state/d/f": b"deep",
                     b"state/link": ("link", b"../../etc"), b"state/" + odd: b"odd"})
    assert operator.run("cp", "-r", "-p", "scout:state", str(tmp_path / "out")).exit_code == 0
    out = os.fsencode(tmp_path / "out")
    assert sorted(os.listdir(out)) == [b"d", b"link", odd]
    assert os.readlink(out + b"/link") == b"../../etc"
    with open(out + b"/" + odd, "rb") as file:
        assert (file.read(), os.stat(file.fileno()).st_mtime, os.stat(file.fileno()).st_mode) == (b"odd", 1, FILE)
    assert (tmp_path / "out/d/f").read_bytes() == b"deep"


def test_names_that_lead_elsewhere_are_no_names(operator, tmp_path):
    tree = {b"state": [b"..", b"../x", b"/etc/x", b"", b".", b"good"], b"state/good": b"good"}
    tree |= {b"state/" + name: b"evil" for name in tree[b"state"][:5]}
    serve(operator, tree)
    (tmp_path / "out").mkdir()
    result = operator.run("cp", "-r", "scout:state/.", str(tmp_path / "out"))
    assert (result.exit_code, result.stderr.count("not a name")) == (1, 5)
    assert sorted(os.listdir(tmp_path)) == ["out", "run"]
    assert os.listdir(tmp_path / "out") == ["good"]


def swap(folder, victim):
    folder.rename(folder.with_name("was"))
    folder.symlink_to(victim)


@pytest.mark.parametrize("when", [b"state/d", b"state/d/e", b"state/d/e/f"])
def test_a_folder_of_the_host_that_becomes_a_link_is_not_followed(operator, tmp_path, when):
    """The agent may own the folder, bound into its sandbox: it swaps it when the copy is just there."""
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    (victim / "e").mkdir()
    (victim / "f").write_text("precious")
    out.mkdir()

    def before(path):
        if path == when:
            swap(out / "state/d/e" if path == b"state/d/e/f" else out / "state/d", victim)

    serve(operator, {b"state": [b"d"], b"state/d": [b"e", b"f"], b"state/d/e": [b"f"], b"state/d/e/f": b"evil",
                     b"state/d/f": b"evil"}, before)
    result = operator.run("cp", "-r", "scout:state", str(out))
    assert (victim / "f").read_text() == "precious"
    assert os.listdir(victim / "e") == []
    assert sorted(os.listdir(victim)) == ["e", "f"]
    if when == b"state/d":  # before it was entered: it cannot be
        assert (result.exit_code, "Not a directory" in result.stderr) == (1, True)


def test_a_link_where_a_file_goes_is_replaced(operator, tmp_path):
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    out.mkdir()
    (out / "f").symlink_to(victim)
    serve(operator, {b"state": [b"f"], b"state/f": b"new"})
    assert operator.run("cp", "-r", "scout:state/.", str(out)).exit_code == 0
    assert (victim.read_text(), (out / "f").read_text(), (out / "f").is_symlink()) == ("precious", "new", False)


def test_what_a_file_may_not_take_the_place_of(operator, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").mkdir()
    serve(operator, {b"f": b"x"})
    for goal, why in (("link", "is a symbolic link"), ("fifo", "is not replaced"), ("d", "is a folder"),
                      ("none/", "no such folder"), ("none/x", "No such file")):
        result = operator.run("cp", "scout:f", f"{tmp_path}/{goal}")
        assert (result.exit_code, why in result.stderr) == (1, True), result.stderr
    assert sorted(os.listdir(tmp_path)) == ["d", "fifo", "link", "run"]


def test_half_a_file_is_never_there(operator, tmp_path):
    (tmp_path / "f").write_text("old")
    serve(operator, {b"f": GeneratorOf(b"half")})
    result = operator.run("cp", "scout:f", str(tmp_path / "f"))
    assert (result.exit_code, "the disk broke" in result.stderr) == (1, True)
    assert sorted(os.listdir(tmp_path)) == ["f", "run"]
    assert (tmp_path / "f").read_text() == "old"


def test_a_copy_that_never_ends_is_given_up(operator, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "NAMES_MAX", 50)

    def readdir(_agent, path, _follow):
        yield [[b"d", FOLDER, len(path)]]
    operator.on("stat", {"mode": FOLDER})
    operator.on("readdir", readdir)
    result = operator.run("cp", "-r", "scout:state", str(tmp_path / "out"))
    assert (result.exit_code, "over 50 names in one copy" in result.stderr) == (1, True)


def test_a_folder_is_entered_once(operator, tmp_path):
    def readdir(_agent, _path, _follow):
        yield [[b"again", FOLDER, 77]]
    operator.on("stat", {"mode": FOLDER})
    operator.on("readdir", readdir)
    result = operator.run("cp", "-r", "scout:state", str(tmp_path / "out"))
    assert (result.exit_code, "copied already" in result.stderr) == (1, True)
    assert os.listdir(tmp_path / "out/again") == []


def test_a_tree_goes_in_as_it_is(operator, tmp_path):
    source = tmp_path / "src"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(b"deep")
    os.utime(source / "d/f", (1, 1))
    (source / "d/empty").touch(0o600)
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "fifo")
    serve(operator, {b"state": []})
    result = operator.run("cp", "-r", "-p", str(source), "scout:state")
    assert (result.exit_code, "fifo: neither a file" in result.stderr) == (1, True)
    assert operator.calls("mkdir") == [("scout", b"state/src", 0o755), ("scout", b"state/src/d", 0o755)]
    kept = os.stat(source / "d/empty")
    assert operator.calls("write") == [
        ("scout", b"state/src/d/empty", b"", 0, False, 0o600, kept.st_mtime_ns),
        ("scout", b"state/src/d/f", b"deep", 0, False, 0o644, 1_000_000_000),
        ("scout", b"state/src/link", b"/etc/passwd", 0, False, LINK)]
    for name in ("mkdir", "write"):
        for call in operator.calls(name):
            control.BY_NAME[name].parse(call)


def test_large_files_go_in_pieces(operator, tmp_path, monkeypatch):
    monkeypatch.setattr(copying.host, "PIECE_BYTES", 4)
    (tmp_path / "f").write_bytes(b"0123456789")
    serve(operator, {})
    assert operator.run("cp", str(tmp_path / "f"), "scout:f").exit_code == 0
    written = [call[2:5] for call in operator.calls("write")]
    assert written == [(b"0123", 0, True), (b"4567", 4, True), (b"89", 8, False)]


def test_a_source_that_becomes_a_link_is_not_read(operator, tmp_path):
    """A folder of the host may be bound into a sandbox, and the agent own it: no file of root's is carried in."""
    source, secret = tmp_path / "src", tmp_path / "secret"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_text("own")
    secret.mkdir()
    (secret / "f").write_text("secret")
    serve(operator, {b"state": []})
    operator.on("mkdir", lambda _agent, path, _mode: swap(source / "d", secret) if path.endswith(b"/d") else None)
    result = operator.run("cp", "-r", str(source), "scout:state")
    assert (result.exit_code, operator.calls("write")) == (1, [])
    assert "cannot be listed" in result.stderr


def test_a_full_quota_ends_the_copy_at_once(operator, tmp_path):
    for name in "abc":
        (tmp_path / "run" / name).write_text(name)
    serve(operator, {b"state": []})
    operator.on("write", fail(errno.EDQUOT, "quota of 1 bytes used up"))
    result = operator.run("cp", "-r", str(tmp_path / "run"), "scout:state")
    assert (result.exit_code, len(operator.calls("write"))) == (1, 1)
    assert "quota of 1 bytes used up" in result.stderr


def test_a_failure_keeps_no_other_file_from_it(operator, tmp_path):
    serve(operator, {b"state": [b"a", b"b"], b"state/a": GeneratorOf(b"x"), b"state/b": b"whole"})
    assert operator.run("cp", "-r", "scout:state", str(tmp_path / "out")).exit_code == 1
    assert os.listdir(tmp_path / "out") == ["b"]


def test_a_folder_needs_r(operator, tmp_path):
    serve(operator, {b"state": []})
    for words in (("scout:state", str(tmp_path / "out")), (str(tmp_path), "scout:state")):
        result = operator.run("cp", *words)
        assert (result.exit_code, "copy it with -r" in result.stderr) == (1, True)


def test_progress_is_drawn_on_a_terminal_after_a_second(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress(terminal=True)
    hidden = progress.Progress(terminal=False)
    for after in (0.5, 0.6, 0.1, 0.2):
        now[0] += after
        assert list(shown.count([b"x" * 1024])) == list(hidden.count([b"x" * 1024]))
    shown.clear()
    drawn = capsys.readouterr().err.split("\r")
    assert drawn[1:3] == ["2.0K in 0 files, 1.8K/s", "4.0K in 0 files, 2.9K/s"]
    assert drawn[3:] == [" " * 23, ""]


def test_cat(operator):
    serve(operator, {b"a": b"\xff\x00raw\x1b[31m", b"b": b"more"})
    result = operator.run("cat", "scout:a", "scout:none", "scout:b")
    assert (result.stdout_bytes, result.exit_code) == (b"\xff\x00raw\x1b[31mmore", 1)
    assert "scout:none: no such file" in result.stderr
    assert operator.run("cat", "no-place").exit_code == 2


def test_cat_does_not_steer_a_terminal(operator):
    import pty
    import subprocess
    import sys

    serve(operator, {b"a": b"\x1b]0;evil\x07line\n\ttab \xc3\xa9 \xff"})
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-m", "agentix.agentctl", "cat", "scout:a"], stdout=theirs, check=True,
                       timeout=WAIT_S, env={**os.environ, "PYTHONUTF8": "1"})
        assert os.read(ours, 4096).decode() == "\\x1b]0;evil\\x07line\r\n\ttab é \\xff"
    finally:
        os.close(ours)
        os.close(theirs)
