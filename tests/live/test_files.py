"""Files of agents from outside: cat and cp, what the mount shows of it, and what nobody gets by it."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from emulation import WAIT_S

from agentix.control import Client, socket_path
from agentix_syscalls.errors import CallError

MEMBER = {"user": 4242, "group": 4242, "extra_groups": [4]}
"""Of adm, a group that every Debian has."""
STRANGER = {"user": 4243, "group": 4243, "extra_groups": []}
WAITING = "import signal\nprint('up', flush=True)\nsignal.pause()\n"


@pytest.fixture(scope="module")
def live(running):
    import grp

    group = next(row.gr_name for row in grp.getgrall() if row.gr_gid == 4)
    with running(f"group = '{group}'\ndurable_bytes = 4194304\n") as kernel:
        os.chmod(kernel.prefix, 0o755)
        yield kernel


@pytest.fixture
def members(live):
    """An agent of the member's own."""
    made = int(live.ctl("spawn", "--name", "theirs", "--", "/bin/sleep", "600", check=0, **MEMBER).stdout)
    yield made
    live.ctl("rm", "-f", made, check=0)


@pytest.fixture
def agent(live, scripts):
    made = live.spawn("--name", "scout", scripts(WAITING))
    live.until_logged(made, "up")
    yield made
    live.ctl("rm", "-f", made, check=0)


@pytest.fixture
def folder():
    """A folder that everybody may use."""
    made = tempfile.mkdtemp(prefix="agentix-files.")
    os.chmod(made, 0o777)
    yield made
    shutil.rmtree(made)


def put(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


def get(path):
    with open(path) as file:
        return file.read()


def refused(live, *words, why, **who):
    done = live.ctl("cp", *words, **who)
    assert (done.returncode, why in done.stderr) == (1, True), done.stderr


def test_what_cp_writes_is_in_the_mount_at_once_and_the_reverse(live, agent, folder):
    mounted = live.tree(agent, "state/f")
    for text in ("first", "second and longer", ""):
        put(f"{folder}/f", text)
        live.ctl("cp", f"{folder}/f", "scout:state/", check=0)
        assert (get(mounted), os.stat(mounted).st_size, os.stat(mounted).st_uid) == (
            text, len(text), live.agent(agent)["uid"])
    assert os.listdir(live.tree(agent, "state")) == ["f"]
    for text in ("from the mount", "again", ""):
        put(mounted, text)
        assert live.ctl("cat", "scout:/agent/self/state/f", check=0).stdout == text
        live.ctl("cp", f"{agent}:state/f", f"{folder}/back", check=0)
        assert get(f"{folder}/back") == text


def test_a_tree_there_and_back(live, agent, folder):
    os.makedirs(f"{folder}/tree/deep/er")
    put(f"{folder}/tree/deep/od\udcffd\n", "odd")
    with open(f"{folder}/tree/large", "wb") as file:
        file.write(os.urandom(2_500_000))
    os.symlink("../../../../etc/passwd", f"{folder}/tree/link")
    os.utime(f"{folder}/tree/large", ns=(7, 1_600_000_000_123_456_789))
    live.ctl("cp", "-rp", f"{folder}/tree", "scout:state", check=0)
    live.ctl("cp", "-rp", "scout:state/tree/.", f"{folder}/back", check=0)
    subprocess.run(["diff", "-r", "--no-dereference", f"{folder}/tree", f"{folder}/back"], check=True)
    assert os.stat(f"{folder}/back/large").st_mtime_ns == 1_600_000_000_123_456_789
    live.ctl("cp", "-r", "scout:", f"{folder}/all", check=0)
    assert "Name:\tscout" in get(f"{folder}/all/proc/status")
    assert get(f"{folder}/all/state/tree/deep/od\udcffd\n") == "odd"


def test_paths_that_lead_out_of_the_tree(live, agent, folder):
    for path, target in (("absolute", "/etc/passwd"), ("up", "../../../../../../etc/passwd"), ("loop", "loop")):
        os.symlink(target, live.tree(agent, f"state/{path}"))
    put(f"{folder}/f", "x")
    for path in ("/etc/passwd", "/agent/999/state", "/", "state/absolute", "state/up"):
        shown = live.ctl("cat", f"scout:{path}", check=1)
        assert (shown.stdout, "outside of the agent's own tree" in shown.stderr) == ("", True), shown.stderr
        assert "agentctl exec" in shown.stderr
        refused(live, f"{folder}/f", f"scout:{path}", why="outside of the agent's own tree")
    assert "does not exist" in live.ctl("cat", "scout:../../etc/passwd", check=1).stderr
    refused(live, f"{folder}/f", "scout:state/loop", why="too many symbolic links")


def test_the_rules_of_the_tree_hold_for_operators(live, agent, folder):
    put(f"{folder}/f", "mine")
    before = live.ctl("cat", "scout:policy/effective", check=0).stdout
    live.ctl("cp", f"{folder}/f", "scout:mem/episodic/log", check=0)
    put(f"{folder}/f", "another")
    for goal, why in (("policy/effective", "read-only"), ("proc/status", "permission denied"),
                      ("mem/episodic/log", "append-only"), ("state/none/f", "does not exist"),
                      ("new", "fixed")):
        refused(live, f"{folder}/f", f"scout:{goal}", why=why)
    with open(f"{folder}/huge", "wb") as file:
        file.truncate(5 << 20)
    refused(live, f"{folder}/huge", "scout:state/huge", why="quota of 4194304 bytes")
    assert os.listdir(live.tree(agent, "state")) == []
    assert live.ctl("cat", "scout:policy/effective", check=0).stdout == before
    assert live.ctl("cat", "scout:mem/episodic/log", check=0).stdout == "mine"


def test_an_owner_has_their_own_rights_on_the_host(live, members, folder):
    put(f"{folder}/secret", "root's")
    os.chmod(f"{folder}/secret", 0o600)
    os.mkdir(f"{folder}/roots", 0o755)
    put(live.tree(members, "state/f"), "the agent's")
    os.chmod(live.tree(members, "state/f"), 0o400)
    refused(live, f"{folder}/secret", "theirs:state/", why="Permission denied", **MEMBER)
    refused(live, "theirs:state/f", f"{folder}/roots/f", why="Permission denied", **MEMBER)
    live.ctl("cp", "theirs:state/f", f"{folder}/f", check=0, **MEMBER)
    assert (get(f"{folder}/f"), os.stat(f"{folder}/f").st_uid) == ("the agent's", 4242)
    live.ctl("cp", f"{folder}/f", "theirs:state/g", check=0, **MEMBER)
    assert os.stat(live.tree(members, "state/g")).st_uid == live.agent(members)["uid"]
    asked = [row["data"] for row in live.record(members, "file") if row["data"]["path"] == "state/g"]
    assert [(row["operation"], row["errno"], row["by"].split(",")[0]) for row in asked] == [("write", 0, "uid 4242")]
    live.ctl("update", "--pids", "9", "theirs", check=0, **MEMBER)
    live.ctl("rename", "theirs", "mine", check=0, **MEMBER)


def test_others_of_the_group_look_as_far_as_modes_allow(live, agent, folder):
    for name, mode in (("open", 0o640), ("closed", 0o600)):
        put(live.tree(agent, f"state/{name}"), name)
        os.chmod(live.tree(agent, f"state/{name}"), mode)
    assert live.ctl("cat", "scout:state/open", check=0, **MEMBER).stdout == "open"
    for path in ("state/closed", "proc/environ"):
        assert "permission denied" in live.ctl("cat", f"scout:{path}", check=1, **MEMBER).stderr
    put(f"{folder}/f", "x")
    os.mkdir(f"{folder}/d")
    refused(live, f"{folder}/f", "scout:state/h", why="not yours", **MEMBER)
    refused(live, "-r", f"{folder}/d", "scout:state", why="not yours", **MEMBER)
    for words in (("update", "--pids", "9"), ("rename",)):
        assert "not yours" in live.ctl(*words, "scout", *(["mine"] if words == ("rename",) else []), check=1,
                                       **MEMBER).stderr
    assert [row["data"]["call"] for row in live.record(agent, "denial")] == ["write", "mkdir", "update", "rename"]
    assert live.ctl("cat", "scout:state/open", **STRANGER).returncode == 1
    assert live.ctl("cp", f"{folder}/f", "scout:state/h", **STRANGER).returncode == 1
    assert sorted(os.listdir(live.tree(agent, "state"))) == ["closed", "open"]


def test_refusals_are_recorded(live, agent, folder):
    put(f"{folder}/f", "x")
    refused(live, f"{folder}/f", "scout:policy/x", why="read-only")
    live.ctl("cat", "scout:/etc/shadow", check=1)
    rows = [(row["verdict"], row["data"]["operation"], row["data"]["path"], row["data"]["errno"])
            for row in live.record(agent, "file") if row["data"]["by"].startswith("uid 0")]
    assert rows == [("failed", "write", "policy/x", errno.EROFS), ("failed", "open", "/etc/shadow", errno.EACCES)]


def test_a_client_that_goes_away_leaves_nothing_half(live, agent):
    with Client(socket_path(live.prefix)) as client:
        client.call("write", agent, "state/f", b"half", 0, True)
        client.call("write", agent, "state/g", b"", 0)
        client.call("write", agent, "state/f", b"half", 0, True)
        with pytest.raises(CallError, match="no piece before offset 3"):
            client.call("write", agent, "state/f", b"of it", 3, False)
        client.call("write", agent, "state/f", b"half", 0, True)
        assert len(os.listdir(live.tree(agent, "state"))) == 2
    live.until(lambda: os.listdir(live.tree(agent, "state")) == ["g"])


def test_bad_requests_are_refused(live, agent):
    with Client(socket_path(live.prefix)) as client:
        for name, *words in (("write", "f", b"x", 0, False, 0o4755), ("write", "f", b"x", 0, False, 0o10644),
                             ("write", "f", "text"), ("write", "f", b"x", 0, False, 0o644, -1),
                             ("mkdir", "d", 0o1777), ("write", "state/f", b"x", 7)):
            with pytest.raises(CallError) as caught:
                client.call(name, agent, *words)
            assert caught.value.number == errno.EINVAL, (name, words)
        for name in ("stat", "mkdir"):
            with pytest.raises(CallError) as caught:
                client.call(name, 999, "x")
            assert caught.value.number == errno.ESRCH


HOSTILE = """
mkfifo state/fifo
ln -s . state/self; ln -s self/self/self/x state/maze
(while :; do echo more; done >> mem/working/grows) 2>/dev/null &
mkdir state/d; echo inside > state/d/f; ln -s {victim} state/l
path=state
for i in $(seq 100); do path=$path/n; mkdir $path; done
echo up
while :; do mv -T state/d state/was; mv -T state/l state/d; mv -T state/d state/l; mv -T state/was state/d; done
"""


def test_an_agent_that_moves_everything_while_it_is_copied(live, folder):
    """Whatever the copy gets of it: it ends, and nothing outside of where it goes is touched or read."""
    os.mkdir(f"{folder}/inbound")
    put(f"{folder}/inbound/f", "inbound")
    os.mkdir(f"{folder}/victim")
    put(f"{folder}/victim/f", "precious")
    text = HOSTILE.format(victim=f"{folder}/victim")
    agent = live.spawn("--cpus", "0.2", "--cwd", "/agent/self", "--", "/bin/bash", "-c", text)
    try:
        live.until_logged(agent, "up")
        for number in range(2):
            done = live.ctl("cp", "-r", f"{agent}:", f"{folder}/out{number}")
            assert "state/fifo: neither a file" in done.stderr
            words = ["grep", "-rl", "precious", f"{folder}/out{number}"]
            shown = subprocess.run(words, stdout=subprocess.PIPE, check=False)
            assert shown.stdout == b""
            live.ctl("cp", "-r", f"{folder}/inbound", f"{agent}:state/d")
    finally:
        live.ctl("rm", "-f", agent, check=0)
    assert os.listdir(f"{folder}/victim") == ["f"]
    assert get(f"{folder}/victim/f") == "precious"


def test_the_files_of_the_dead_too(live, folder, scripts):
    script = scripts("import os\nopen(os.environ['AGENTIX_TREE'] + '/state/f', 'w').write('left')")
    live.ctl("run", "--name", "late", script, check=0)
    assert live.ctl("cat", "late:state/f", check=0).stdout == "left"
    assert live.ctl("cat", "late:proc/wait", check=0).stdout.split()[1:3] == ["exit", "0"]
    live.ctl("cp", put(f"{folder}/g", "added"), "late:state", check=0)
    assert live.ctl("cat", "late:state/f", "late:state/g", check=0).stdout == "leftadded"
    live.ctl("rm", "late", check=0)


def test_cat_of_what_waits_waits(live, agent):
    waiting = live.begin("cat", "scout:proc/wait")
    live.until(lambda: any(row["data"]["path"] == "proc/wait" for row in live.record(agent, "file")))
    assert waiting.poll() is None
    live.ctl("kill", "-9", agent, check=0)
    assert "killed SIGKILL" in waiting.communicate(timeout=WAIT_S)[0]


NAMES = 20_000
PROBE = """
import sys, threading
from agentix.control import Client, socket_path
path, agent = socket_path(sys.argv[1]), int(sys.argv[2])
with Client(path) as remover, Client(path) as other:
    removing = threading.Thread(target=remover.call, args=("rm", agent))
    removing.start()
    answers = 0
    while removing.is_alive():
        other.call("info")
        answers += 1
    removing.join()
print(answers)
"""


def test_the_kernel_answers_while_a_large_tree_is_removed(make_kernel, folder):
    """And what a kernel left that died meanwhile is removed at the next boot."""
    live = make_kernel()
    agent = live.spawn("--", "/bin/true")
    live.ctl("wait", agent, check=0)
    live.ctl("cp", put(f"{folder}/f", "x"), f"{agent}:state", check=0)
    live.stop()
    state = f"{live.prefix}/state"
    for number in range(NAMES):
        os.close(os.open(f"{state}/agents/{agent}/state/{number}", os.O_CREAT | os.O_WRONLY))
    left = f"{state}/removed/999/state/d"
    os.makedirs(left)
    live.start()
    assert len(os.listdir(live.tree(agent, "state"))) == NAMES + 1
    live.until(lambda: not os.path.lexists(f"{state}/removed/999"))
    done = subprocess.run([sys.executable, "-c", PROBE, live.prefix, str(agent)], capture_output=True, check=True)
    assert int(done.stdout) >= 10
    assert os.listdir(f"{state}/removed") == []
    assert os.listdir(f"{state}/agents") == ["last-id"]
