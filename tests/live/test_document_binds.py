"""A document's binds and limits on a real kernel: opened by whoever asks, kept by restarts and boots, never passed."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from agentix import control
from agentix_syscalls.errors import CallError

MEMBER = {"user": 4243, "group": 4243, "extra_groups": [65534]}
SLEEP = ("--", "/bin/sh", "-c", "cat /in/note; touch /in/x || echo only read; touch /out/$AGENTIX_ID; exec sleep 1000")


@pytest.fixture(scope="module")
def live(running):
    with running("group = 'nogroup'\nrestart_delay_s = 0.01\n") as kernel:
        os.chmod(kernel.prefix, 0o755)
        yield kernel


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="agentix-binds-") as path:
        os.chmod(path, 0o755)
        for name in ("in", "out"):
            os.mkdir(f"{path}/{name}")
            os.chown(f"{path}/{name}", 4243, 4243)
        Path(path, "in/note").write_text("seen\n")
        yield path


def document(folder: str, name: str = "shows.yaml", binds: str | None = None, more: str = "") -> str:
    Path(folder, name).write_text(f"""\
version: 1
name: shows
mode: enforce
{more}limits: {{memory: 64M, pids: 20, timeout: 1h}}
binds:
{binds if binds is not None else f'''  - {{host: {folder}//in/, at: /in, mode: ro}}
  - {{host: {folder}/out, at: /out, mode: rw}}
'''}allow:
  - {{file: /, action: [read, write]}}
""")
    return f"{folder}/{name}"


def test_what_a_document_shows_is_seen_and_outlasts_restart_and_boot(make_kernel, folder):
    kernel = make_kernel("group = 'nogroup'\nrestart_delay_s = 0.01\n")
    text = document(folder)
    agent = kernel.spawn("--restart", "always", "--policy", text, "--bind-ro", "/etc/hostname:/more", *SLEEP)
    kernel.until_logged(agent, "only read\n")
    shown = [(bind["source"], bind["target"], bind["writable"]) for bind in kernel.json("inspect", agent)["binds"]]
    assert sorted(shown) == sorted([
        (f"{folder}/in", "/in", False), (f"{folder}/out", "/out", True), ("/etc/hostname", "/more", False)])
    os.unlink(text)
    kernel.ctl("restart", agent, check=0)
    kernel.until(lambda: kernel.ctl("logs", agent, check=0).stdout.count("only read") == 2)
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait()
    kernel.start()
    kernel.until(lambda: kernel.ctl("logs", agent, check=0).stdout.count("seen\n") == 3)
    assert os.listdir(f"{folder}/out") == [str(agent)]
    assert os.listdir(f"{folder}/in") == ["note"]
    assert os.stat(f"{folder}/out/{agent}").st_uid == 4243
    effective = Path(kernel.tree(agent, "policy/effective")).read_text()
    assert f"Limit:\tmemory 67108864 ({text}:4)\n" in effective
    assert f"Bind:\t{folder}/in at /in ro ({text}:6)\n" in effective
    told = kernel.json("policy", "show", agent)
    assert f"Hash:\t{told['hash']}\n" in effective
    assert [(bind["host"], bind["at"], bind["line"]) for bind in told["binds"]] == [
        (f"{folder}/in", "/in", 6), (f"{folder}/out", "/out", 7)]


def test_the_caller_opens_them_with_rights_of_their_own(live, folder):
    os.mkdir(f"{folder}/root", 0o700)
    Path(folder, "root/secret").write_text("root's")
    ours = document(folder, "a.yaml", f"  - {{host: {folder}/root/secret, at: /in, mode: ro}}\n")
    assert f"{folder}/root/secret: Permission denied" in live.ctl(
        "spawn", "--policy", ours, "--", "/bin/cat", "/in", check=125, **MEMBER).stderr
    ours = document(folder, "b.yaml", f"  - {{host: {folder}, at: /in, mode: rw}}\n")
    assert "not yours" in live.ctl("spawn", "--policy", ours, "--", "/bin/true", check=125, **MEMBER).stderr
    ours = document(folder, "c.yaml", f"  - {{host: {folder}/none, at: /in, mode: ro}}\n")
    assert f"{folder}/none: No such file" in live.ctl("spawn", "--policy", ours, "--", "/bin/true", check=125).stderr
    agent = int(live.ctl("spawn", "--policy", document(folder), *SLEEP, check=0, **MEMBER).stdout)
    live.until_logged(agent, "only read\n")
    assert os.listdir(f"{folder}/out") == [str(agent)]
    live.ctl("rm", "-f", agent, check=0)


def test_the_kernel_itself_opens_nothing_that_a_document_names(live, folder):
    text = Path(document(folder)).read_bytes()
    with control.Client(control.socket_path(live.prefix)) as client, pytest.raises(CallError) as caught:
        client.call("spawn", "exec", ["/bin/true"], {"policy": ["shows.yaml", text]})
    assert caught.value.message == (
        f"shows.yaml:6:5: {folder}/in at /in ro is in the policy, and its descriptor did not come")
    fd = os.open(f"{folder}/out", os.O_PATH)
    try:
        with control.Client(control.socket_path(live.prefix)) as client, pytest.raises(CallError) as caught:
            client.call("spawn", "exec", ["/bin/true"], {"policy": ["shows.yaml", text], "binds": [
                ["/in", True, f"{folder}/in"]]}, descriptors=[fd])
    finally:
        os.close(fd)
    assert "/in ro is in the policy" in caught.value.message


@pytest.mark.parametrize(("bind", "words"), [
    ("{host: /srv, at: /usr/x, mode: ro}", "/usr is the sandbox's own"),
    ("{host: /srv, at: /proc, mode: ro}", "/proc is the sandbox's own"),
    ("{host: /srv, at: /, mode: ro}", "is the sandbox's own"),
])
def test_nothing_is_shown_in_place_of_what_a_sandbox_has(live, folder, bind, words):
    text = document(folder, binds=f"  - {bind}\n")
    assert words in live.ctl("spawn", "--policy", text, "--", "/bin/true").stderr
    checked = live.ctl("policy", "check", text, check=1).stderr
    assert words in checked
    assert f"{text}:6:5: " in checked


def test_a_profiles_document_shows_what_is_roots_and_nothing_writable(live, folder):
    profile, policy = Path(live.prefix, "profiles", "shows.toml"), Path(live.prefix, "shows.yaml")
    profile.parent.mkdir(exist_ok=True)
    profile.write_text(f'policy = "{policy}"\n')
    policy.write_text(Path(document(folder)).read_text())
    assert "is writable, and a profile shows nothing that is" in live.ctl("reload", check=1).stderr
    policy.write_text(Path(document(folder, binds="  - {host: /etc/hostname, at: /name, mode: ro}\n")).read_text())
    live.ctl("reload", check=0)
    seen = live.ctl("run", "--profile", "shows", "--", "/bin/cat", "/name", check=0, **MEMBER).stdout
    assert seen == Path("/etc/hostname").read_text()
    other = live.ctl("run", "--profile", "shows", "--policy", "standard", "--", "/bin/cat", "/name", check=1)
    assert "/name: No such file" in other.stderr
    profile.unlink()
    live.ctl("reload", check=0)


def test_an_update_does_not_go_past_the_document(live, folder):
    text = document(folder, binds="  []\n")
    agent = live.spawn("--policy", text, "--", "/bin/sleep", "1000")
    for flag, value, most in (("--memory", "65M", "67108864"), ("--pids", "21", "20"), ("--timeout", "2h", "3600"),
                              ("--timeout", "none", "3600")):
        line = f"{flag}: the policy of agent {agent} (agent-{agent}) gives {most} at most (rule: {text}:4:"
        assert line in live.ctl("update", flag, value, agent, check=1).stderr
    live.ctl("update", "--cpus", "2", "--memory", "32M", "--timeout", "10m", agent, check=0)
    assert live.json("inspect", agent)["limits"]["memory_bytes"] == 32 << 20
    live.ctl("update", "--memory", "64M", agent, check=0)
    live.ctl("rm", "-f", agent, check=0)
