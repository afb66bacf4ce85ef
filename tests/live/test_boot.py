"""Boot and shutdown as operators see them: the order, what is refused and how it is said, both ends of a kernel."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import zlib

import pytest
from emulation import WAIT_S

from agentix.control import Client, socket_path

BIN = os.path.dirname(sys.executable)
STEPS = ["config", "lock", "layers", "runtimes", "sweep", "journal", "agents", "mount", "spawner", "sockets"]


def agentd(*args, python=(), **more):
    """Run agentd where it must end by itself."""
    program = [sys.executable, *python, f"{BIN}/agentd"] if python else [f"{BIN}/agentd"]
    return subprocess.run([*program, *args], capture_output=True, text=True, timeout=WAIT_S, check=False, **more)


def steps(live):
    return [line.split(" agentd: ")[1].split(":")[0] for line in live.log().splitlines()]


def test_each_step_is_said_and_recorded_in_order(make_kernel):
    live = make_kernel()
    assert steps(live) == [*STEPS, "ready"]
    recorded = live.rows("trace")
    assert recorded[0]["kind"] == "boot"
    assert recorded[0]["data"]["boot"] == 1
    assert [row["data"]["step"] for row in recorded if row["kind"] == "step"] == STEPS
    assert live.json("info")["records"] == len(recorded)
    live.stop()
    assert steps(live)[-1] == "down"


def test_the_record_goes_on_with_the_next_boot(make_kernel):
    live = make_kernel()
    first = live.spawn("--", "/bin/true")
    live.ctl("wait", first, check=0)
    live.stop()
    live.start()
    rows = live.rows("trace")
    assert [row["data"]["boot"] for row in rows if row["kind"] == "boot"] == [1, 2]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert "SIGTERM" in next(row for row in rows if row["kind"] == "shutdown")["data"]["why"]
    assert live.spawn("--", "/bin/true") == first + 1
    assert live.agent(first)["why"] == "exit"
    assert live.json("audit", "verify")["ok"]


def test_a_second_kernel_on_the_same_prefix_is_refused(make_kernel):
    live = make_kernel()
    refused = agentd("--prefix", live.prefix)
    assert refused.returncode == 1
    assert f"(pid {live.process.pid})" in refused.stderr
    assert "another --prefix" in refused.stderr
    live.ctl("ps", check=0)


def test_two_kernels_side_by_side_share_nothing(make_kernel, kernel):
    other = make_kernel()
    one, two = kernel.spawn("--", "/bin/sleep", "60"), other.spawn("--", "/bin/sleep", "60")
    assert kernel.agent(one)["uid"] != other.agent(two)["uid"]
    assert other.json("verify", two)["ok"]
    kernel.ctl("kill", "-9", one, check=0)
    assert other.agent(two)["state"] == "running"


@pytest.mark.parametrize(("text", "told"), [
    ("agent_max = 3", ["unknown key 'agent_max'", "'agents_max'"]), ("agents_max = 0", ["agents_max", "from 1"]),
    ("agents_max = ", ["agentd.toml"]), ("mount = 'here'", ["mount", "absolute path"]),
    ("cgroup = 'v3'", ["v2, hybrid"]), ("accept_missing = ['landlok']", ["'landlok'", "agentctl doctor"]),
    ("accept_missing = 'net'", ["list of texts"]),
])
def test_bad_configuration_is_refused_by_name(make_kernel, text, told):
    live = make_kernel(text + "\n", start=False)
    with open(f"{live.prefix}/agentd.toml", "w") as file:
        file.write(live.config)
    refused = agentd("--prefix", live.prefix)
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()[-1:]) == 1
    assert all(word in refused.stderr for word in told), refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_config_that_is_named_must_exist(tmp_path):
    refused = agentd("--prefix", str(tmp_path), "--config", f"{tmp_path}/no.toml")
    assert (refused.returncode, "no.toml: no such file" in refused.stderr) == (1, True)


def test_python_without_assertions_is_refused(tmp_path):
    refused = agentd("--prefix", str(tmp_path), python=("-O",))
    assert refused.returncode == 1
    assert "python -O" in refused.stderr
    assert os.listdir(tmp_path) == []


def test_without_root_it_says_what_root_is_for(tmp_path):
    refused = agentd("--prefix", str(tmp_path), user=65534, group=65534, extra_groups=[])
    assert refused.returncode == 1
    assert "needs root" in refused.stderr
    assert "sudo" in refused.stderr


def test_a_prefix_too_long_for_sockets_is_refused(tmp_path):
    refused = agentd("--prefix", f"{tmp_path}/{'x' * 99}")
    assert (refused.returncode, "shorter prefix" in refused.stderr) == (1, True)


def test_a_mount_point_in_use_is_refused_and_left_alone(make_kernel):
    live = make_kernel(start=False)
    os.mkdir(f"{live.prefix}/agent")
    subprocess.run(["mount", "-t", "tmpfs", "somebody", f"{live.prefix}/agent"], check=True)
    try:
        with open(f"{live.prefix}/agent/theirs", "w"):
            pass
        refused = agentd("--prefix", live.prefix)
        assert refused.returncode == 1
        assert f"mount {live.prefix}/agent" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert os.listdir(f"{live.prefix}/agent") == ["theirs"]
    finally:
        subprocess.run(["umount", f"{live.prefix}/agent"], check=True)
    live.start()  # nothing of the failed boot is in the way
    live.ctl("ps", check=0)


WITHOUT_LANDLOCK = """
import errno, os, sys
import pyseccomp as seccomp
rules = seccomp.SyscallFilter(seccomp.ALLOW)
rules.set_attr(seccomp.Attr.CTL_NNP, 0)
for call in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"):
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), call)
rules.load()
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_missing_layer_is_refused_until_it_is_accepted_by_name(make_kernel):
    """A Linux without Landlock, as the daemon sees it."""
    live = make_kernel(start=False)
    live.wrapper = (sys.executable, "-c", WITHOUT_LANDLOCK)
    refused = subprocess.run([*live.wrapper, f"{BIN}/agentd", "--prefix", live.prefix], capture_output=True, text=True,
                             timeout=WAIT_S, check=False)
    assert refused.returncode == 1
    assert "landlock: " in refused.stderr
    assert "remedy: boot with lsm=landlock" in refused.stderr
    assert "accept_missing" in refused.stderr
    assert live.traces() == []
    live.config += "accept_missing = ['landlock']\n"
    live.start()
    assert "accepted as missing: landlock" in live.log()
    agent = live.spawn("--", "/bin/sleep", "60")
    assert live.agent(agent)["degraded"] == ["landlock"]
    assert "without landlock" in live.ctl("ps", check=0).stdout
    row = next(row for row in live.json("doctor") if row["layer"] == "landlock")
    assert (row["state"], row["accepted"], row["required"]) == ("off", True, True)
    assert live.rows("trace")[0]["data"]["layers_accepted"] == ["landlock"]
    with open(live.tree(agent, "proc/status")) as file:
        assert "Missing:\tlandlock\n" in file.read()
    told = json.loads(live.ctl("verify", agent, "--json", check=1).stdout)
    assert [row["layer"] for row in told["layers"] if row["state"] == "off"] == ["landlock", "all"], told


def test_in_the_background(make_kernel):
    live = make_kernel(start=False)
    started = agentd("--prefix", live.prefix, "--daemon", "--unlisted")
    assert started.returncode == 0, started.stderr
    assert "ready; its log is" in started.stderr
    pid = live.json("info")["pid"]
    again = agentd("--prefix", live.prefix, "--daemon")
    assert again.returncode == 1
    assert f"(pid {pid})" in again.stderr
    live.ctl("shutdown", check=0)
    at_once = agentd("--prefix", live.prefix, "--daemon", "--unlisted")
    assert at_once.returncode == 0, at_once.stderr
    live.ctl("shutdown", check=0)
    assert live.ctl("ps").returncode == 1


def test_shutdown_in_order(make_kernel, scripts):
    live = make_kernel()
    polite = live.spawn(scripts("""
import sys, time
from agentix import libc
libc.sigaction(libc.SIGTERM, lambda *_: sys.exit(3))
print("ready", flush=True)
time.sleep(60)
"""))
    stubborn = live.spawn("--", "/bin/bash", "-c", "trap '' TERM INT HUP; echo ready; while :; do sleep 1; done")
    stopped = live.spawn("--", "/bin/sleep", "60")
    live.until_logged(polite, "ready")
    live.until_logged(stubborn, "ready")
    live.ctl("stop", stopped, check=0)
    live.until_state(stopped, "stopped")
    live.process.send_signal(signal.SIGTERM)
    assert live.process.wait(WAIT_S) == 0
    assert "FAULT" not in live.log()
    assert not os.path.exists(f"{live.prefix}/run/control.sock")
    live.start()
    assert (live.agent(polite)["why"], live.agent(polite)["code"]) == ("exit", 3)
    assert live.agent(stubborn)["why"] in {"shutdown", "killed"}
    assert live.agent(stopped)["signal"] == "SIGTERM"
    assert live.json("audit", "verify")["ok"]


def test_nothing_is_spawned_while_it_shuts_down(make_kernel):
    live = make_kernel()
    stubborn = live.spawn("--", "/bin/bash", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    live.until_logged(stubborn, "ready")
    with Client(socket_path(live.prefix)) as client:
        client.call("shutdown", "")
    refused = live.ctl("spawn", "--", "/bin/true")
    assert refused.returncode == 125
    assert "shutting down" in refused.stderr or "no kernel" in refused.stderr
    assert live.process.wait(WAIT_S) == 0


def alive_of(uids):
    """Which of these uids have a process."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.stat(f"/proc/{pid}").st_uid)
    return found & uids


def test_kill_9_takes_the_agents_along_and_the_next_boot_tidies_up(make_kernel, scripts):
    live = make_kernel()
    done = live.spawn("--", "/bin/sh", "-c", "echo kept; exit 4")
    live.ctl("wait", done, check=4)
    sleeper = live.spawn("--name", "sleeper", "--", "/bin/sh", "-c", "echo kept > ../../state/note; sleep 600")
    family = live.spawn("--spawn-max", "2", "--", "/bin/bash", "-c", "trap '' TERM HUP; setsid sleep 600 & sleep 600")
    frozen = live.spawn("--", "/bin/sleep", "600")
    live.until(lambda: os.path.exists(live.tree(sleeper, "state/note")))
    live.ctl("stop", frozen, check=0)
    live.known[frozen] = live.until_state(frozen, "stopped")
    uids = {live.agent(agent)["uid"] for agent in (sleeper, family, frozen)}
    assert alive_of(uids) == uids
    live.process.kill()
    live.process.wait()
    # What is frozen cannot see its leash fall: the sweep of the next boot ends it.
    live.until(lambda: alive_of(uids) <= {live.known[frozen]["uid"]})
    live.start()
    assert alive_of(uids) == set()
    assert "cgroups, 1 mounts, 3 sockets of a dead kernel" in live.log(live.begun)
    for agent in (sleeper, family, frozen):
        row = live.agent(agent)
        assert (row["state"], row["why"]) == ("dead", "lost"), row
        assert [lost["data"]["name"] for lost in live.record(agent, "lost")] == [row["name"]]
    assert (live.agent(done)["code"], live.ctl("logs", done).stdout) == (4, "kept\n")
    with open(live.tree(sleeper, "state/note")) as file:
        assert file.read() == "kept\n"
    assert live.json("audit", "verify")["ok"]
    assert live.spawn("--", "/bin/true") == frozen + 1
    live.ctl("rm", sleeper, check=0)
    live.spawn("--name", "sleeper", "--", "/bin/true")


def test_cgroups_of_a_prefix_have_a_name_of_their_own(kernel):
    agent = kernel.spawn("--", "/bin/sleep", "60")
    name = f"agentix-{zlib.crc32(os.path.realpath(kernel.prefix).encode()):08x}"
    with open(f"/proc/{kernel.json('inspect', agent)['pid']}/cgroup") as file:
        assert f"{name}/{agent}.1" in file.read()
    kernel.ctl("rm", "-f", agent, check=0)


def test_a_low_limit_of_descriptors_is_raised(make_kernel):
    live = make_kernel(start=False)
    live.wrapper = ("prlimit", "--nofile=256:2048")
    live.start()
    with open(f"/proc/{live.process.pid}/limits") as file:
        [line] = [line for line in file if line.startswith("Max open files")]
    assert int(line.split()[3]) >= 2048  # the hard one, or what is wanted where root may raise that, too
    assert live.ctl("run", "--", "/bin/sh", "-c", "ulimit -n", check=0).stdout == "1024\n"
