"""Runtimes and profiles as an administrator and their users meet them: files, agentd's boot, agentctl."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from emulation import WAIT_S

BIN = os.path.dirname(sys.executable)
PACKAGES = f"lib/python3.{sys.version_info.minor}/site-packages"
GROUP = "daemon"


def make_venv(path, **modules):
    subprocess.run([os.path.realpath(sys.executable), "-m", "venv", "--without-pip", path], check=True)
    for name, text in modules.items():
        with open(f"{path}/{PACKAGES}/{name}.py", "w") as file:
            file.write(text)


def write(live, what, name, text):
    os.makedirs(f"{live.prefix}/{what}s", exist_ok=True)
    with open(f"{live.prefix}/{what}s/{name}.toml", "w") as file:
        file.write(text)


def runtime(live, name):
    return live.json("runtimes", name)


def until_ready(live, name):
    return live.until(lambda: (row := runtime(live, name))["state"] == "ready" and row)


@pytest.fixture(scope="module")
def configured(running, tmp_path_factory):
    """A kernel with the runtimes venv (with a module) and plain, and the profile small."""
    with running(f"group = '{GROUP}'\n") as live:
        venv = tmp_path_factory.mktemp("runtime") / "venv"
        make_venv(venv, heavy="VALUE = 1")
        write(live, "runtime", "venv", f'python = "{venv}"\npreload = ["heavy"]\nenv = {{A = "1"}}\ndoc = "tested"\n')
        write(live, "runtime", "plain", 'preload = ["calendar"]\n')
        write(live, "profile", "small", 'runtime = "venv"\npids = 9\nmemory_bytes = 67108864\nspawn_max = 2\n'
              'mode = "strict"\ndeny = ["UNLINK"]\nbinds_ro = ["/etc/hostname:/shown"]\nenv = {B = "1"}\n')
        assert live.ctl("reload", check=0).stdout == "runtimes: plain, venv\nprofiles: small\n"
        yield live, str(venv)


@pytest.fixture
def live(configured):
    return configured[0]


@pytest.fixture
def venv(configured):
    return configured[1]


def test_listings(live, venv):
    rows = {row["name"]: row for row in live.json("runtimes")}
    assert list(rows) == ["default", "plain", "venv"]
    assert all(row["state"] == "ready" and os.path.exists(f"/proc/{row['pid']}") for row in rows.values()), rows
    assert rows["venv"] == {
        "name": "venv", "version": ".".join(map(str, sys.version_info[:3])), "state": "ready", "detail": "",
        "pid": rows["venv"]["pid"], "agents": [], "preload": ["heavy"], "python": venv, "venv": venv, "binds": [],
        "environment": ["A"], "file": f"{live.prefix}/runtimes/venv.toml", "doc": "tested"}
    assert live.json("profiles") == [{
        "name": "small", "runtime": "venv", "agents": [], "environment": ["B"], "doc": "",
        "options": {"pids": 9, "memory_bytes": 67108864, "spawn_max": 2, "mode": "strict", "deny": ["UNLINK"]},
        "binds": [{"target": "/shown", "source": "/etc/hostname"}], "file": f"{live.prefix}/profiles/small.toml"}]
    told = live.ctl("profiles", check=0).stdout
    assert "memory_bytes=64.0M" in told
    assert "env=B  " not in live.ctl("runtimes", check=0).stdout
    assert "tested" in live.ctl("runtimes", "venv", check=0).stdout
    for verb in ("runtimes", "profiles"):
        refused = live.ctl(verb, "x" * 100_000, check=1)
        assert f"no such {verb[:-1]}; agentctl {verb} lists them" in refused.stderr
        assert len(refused.stderr) < 200


def test_a_profile_gives_what_the_command_line_does_not(live, venv, scripts):
    script = scripts("""
import json, os, sys
import agentix.libc
print(json.dumps([sys.prefix, "heavy" in sys.modules, os.environ["A"], os.environ["B"], os.path.exists("/shown")]))
""")
    agent = live.spawn("--profile", "small", "--pids", "12", "--mode", "enforce", "--env", "B=2", "--deny", "MKDIR",
                       script)
    live.ctl("wait", agent, check=0)
    assert json.loads(live.ctl("logs", agent).stdout) == [venv, True, "1", "2", True]
    told = live.json("inspect", agent)
    assert (told["profile"], told["runtime"], told["mode"], told["deny"]) == (
        "small", "venv", "enforce", ["UNLINK", "MKDIR"])
    assert told["limits"] == {"memory_bytes": 67108864, "cpus": 1.0, "pids": 12, "timeout_s": None}
    row = live.agent(agent)
    assert (row["profile"], row["runtime"]) == ("small", "venv")
    asked = live.record(agent, "spawn")[0]["data"]
    assert (asked["profile"], asked["runtime"]) == ("small", "venv")
    plain = live.ctl("run", "--profile", "small", "--runtime", "default", "--", "sh", "-c", "echo $VIRTUAL_ENV:$A:$B",
                     check=0)
    assert plain.stdout == "::1\n"


def test_a_program_finds_its_runtimes_python_first(live, venv):
    done = live.ctl("run", "--runtime", "venv", "--", "sh", "-c", "command -v python; echo $VIRTUAL_ENV $A", check=0)
    assert done.stdout == f"{venv}/bin/python\n{venv} 1\n"
    own = live.ctl("run", "--runtime", "venv", "--env", "PATH=/usr/bin", "--", "sh", "-c", "echo $PATH", check=0)
    assert own.stdout == "/usr/bin\n"


def test_a_child_has_its_parents_runtime_and_may_choose_none(live, scripts):
    done = live.ctl("run", "--profile", "small", scripts("""
import sys
from agentix import libc
from agentix.libc import abi
if len(sys.argv) > 1:
    sys.exit(7 if "heavy" in sys.modules else 8)
for option in ({"runtime": "default"}, {"runtime": "plain"}, {"profile": "small"}):
    try:
        libc.syscall(abi.SYS_SPAWN, "exec", ["true"], option)
    except OSError as error:
        print(error.errno, error.strerror)
print(libc.waitpid(libc.spawn(sys.argv[0], args=["child"])).code)
"""), check=0)
    assert done.stdout.splitlines() == [
        *["1 spawn: option 'runtime' is the operator's; a child inherits its parent's"] * 2,
        "1 spawn: option 'profile' is the operator's", "7"]


@pytest.mark.parametrize(("flags", "status", "told"), [
    (("--runtime", "vemv"), 2, "no runtime 'vemv'; the nearest is 'venv'"),
    (("--profile", "big"), 2, "no profile 'big'; the nearest is 'small'"),
    (("--profile", "9"), 2, "'9' is not a name"), (("--profile", "x" * 100_000), 2, "over 4096 bytes"),
    (("--profile", "small", "--bind-ro", "/etc/passwd:/shown"), 2, "it overlaps /shown"),
])
def test_one_clear_line(live, flags, status, told):
    done = live.ctl("run", *flags, "--", "true", check=status)
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 500


def test_a_member_of_the_group_may_use_them_and_not_reload(live):
    member = {"user": 1, "group": GROUP, "extra_groups": []}  # that of the machine's daemons
    os.chmod(live.prefix, 0o755)
    assert live.ctl("run", "--profile", "small", "--", "cat", "/shown", check=0, **member).stdout
    assert "only root may" in live.ctl("reload", check=1, **member).stderr
    os.chmod(live.prefix, 0o700)


def test_a_zygote_that_dies_is_made_again(live, scripts):
    first = until_ready(live, "plain")["pid"]
    agent = live.spawn("--runtime", "plain", scripts("import signal\nwhile True: signal.pause()"))
    os.kill(first, signal.SIGKILL)
    second = live.until(lambda: (row := runtime(live, "plain"))["pid"] not in {0, first} and row)
    assert (second["state"], second["agents"]) == ("ready", [agent])
    assert live.agent(agent)["state"] == "running"
    live.ctl("rm", "-f", agent, check=0)


def test_a_venv_that_changes_gets_a_new_zygote_and_one_that_goes_is_named(live, scripts, tmp_path):
    venv = f"{tmp_path}/venv"
    make_venv(venv)
    write(live, "runtime", "moving", f"python = '{venv}'\n")
    live.ctl("reload", check=0)
    script = scripts("import importlib.util, signal\nprint(bool(importlib.util.find_spec('later')), flush=True)\n"
                     "while True: signal.pause()")
    before = until_ready(live, "moving")["pid"]
    first = live.spawn("--runtime", "moving", script)
    live.until_logged(first, "False")
    with open(f"{venv}/{PACKAGES}/later.py", "w"):
        pass
    assert runtime(live, "moving")["state"] == "changed"
    second = live.spawn("--runtime", "moving", script)
    live.until_logged(second, "True")
    assert until_ready(live, "moving")["pid"] != before
    assert live.agent(first)["state"] == "running"
    shutil.rmtree(venv)
    refused = live.ctl("run", "--runtime", "moving", "--", "true", check=125).stderr
    assert f"runtimes/moving.toml: python: {venv}: no such interpreter or virtual environment" in refused
    assert refused.count("\n") == 1
    assert live.ctl("run", "--runtime", "moving", "--", "true", check=125).stderr == refused
    row = runtime(live, "moving")
    assert (row["state"], "no such interpreter" in row["detail"]) == ("failed", True)
    assert {live.agent(agent)["state"] for agent in (first, second)} == {"running"}
    os.unlink(f"{live.prefix}/runtimes/moving.toml")
    live.ctl("reload", check=0)
    live.until(lambda: not os.path.exists(f"/proc/{before}"))
    assert live.agent(second)["runtime"] == "moving"
    live.ctl("rm", "-f", first, second, check=0)


@pytest.mark.parametrize(("what", "text", "told"), [
    ("profile", "memory = 1", "profiles/bad.toml: unknown key 'memory'; the nearest known one is 'memory_bytes'"),
    ("profile", "runtime = 'none'", "profiles/bad.toml: runtime: there is no runtime 'none'"),
    ("runtime", "preload = ['no_such_module']", "runtime bad: ModuleNotFoundError: No module named 'no_such_module'"),
])
def test_a_reload_of_something_bad_changes_nothing(live, what, text, told):
    before = live.json("runtimes"), live.json("profiles")
    write(live, what, "bad", text)
    try:
        refused = live.ctl("reload", check=1).stderr
    finally:
        os.unlink(f"{live.prefix}/{what}s/bad.toml")
    assert told in refused
    assert refused.count("\n") == 1
    live.until(lambda: (live.json("runtimes"), live.json("profiles")) == before)
    assert told in live.rows("trace", "--tail", "1")[0]["data"]["detail"]


def test_sighup_reloads_and_a_bad_file_is_told_in_the_log(live):
    def said(text):
        live.process.send_signal(signal.SIGHUP)
        live.until(lambda: text in live.log(begun))

    begun = len(live.log())
    write(live, "profile", "late", "pids = 9")
    said("reload: plain, venv; profiles: late, small")
    write(live, "profile", "late", "pids = 'many'")
    said("late.toml: pids: wants a whole number, got text; nothing has changed")
    os.unlink(f"{live.prefix}/profiles/late.toml")
    said("profiles: small")


def test_boot_tells_its_runtimes_and_remembers_whose_agents_they_were(make_kernel):
    live = make_kernel(start=False)
    write(live, "runtime", "good", "preload = ['calendar']")
    write(live, "runtime", "bad", "preload = ['no_such_module']")
    write(live, "profile", "p", "runtime = 'good'")
    live.start()
    assert "runtimes: bad, good; profiles: p" in live.log()
    live.until(lambda: "zygote: of runtime bad: failed, ModuleNotFoundError: No module named" in live.log())
    live.until(lambda: "zygote: of runtime good: ready" in live.log())
    refused = live.ctl("run", "--runtime", "bad", "--", "true", check=125).stderr
    assert "spawn: runtime: bad: ModuleNotFoundError: No module named 'no_such_module'; agentctl runtimes" in refused
    agent = live.spawn("--profile", "p", "--", "true")
    live.ctl("wait", agent, check=0)
    live.stop()
    write(live, "profile", "p", "nope = 1")
    refused = subprocess.run([f"{BIN}/agentd", "--prefix", live.prefix], capture_output=True, text=True, timeout=WAIT_S,
                             check=False)
    assert refused.returncode == 1
    assert "profiles/p.toml: unknown key 'nope'" in refused.stderr.splitlines()[-1]
    os.unlink(f"{live.prefix}/profiles/p.toml")
    live.start()
    row = live.agent(agent)
    assert (row["runtime"], row["profile"], row["code"]) == ("good", "p", 0)
