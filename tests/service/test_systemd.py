"""agentd under a real systemd, by the unit that is shipped. In order: each test leaves the service running."""

import json
import os
import signal
from pathlib import Path

from .conftest import run, until

AS_MEMBER = ("setpriv", "--reuid=4242", "--regid=4242", "--groups=1")
HOG = "x = []\nwhile True: x.append(bytearray(1 << 20))"


def cgroup(pid):
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


def test_it_is_ready_and_says_how_it_fares(service):
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText") == "0 agents alive"
    assert service.show("Type") == "notify"
    first = service.show("WatchdogTimestampMonotonic")
    until(lambda: service.show("WatchdogTimestampMonotonic") != first)


def test_it_lives_in_a_leaf_and_agents_beside_it(service):
    own = service.show("ControlGroup")
    assert cgroup(service.pid) == f"{own}/daemon"
    agent = service.ctl("spawn", "--", "/bin/sleep", "600").stdout.strip()
    inside = json.loads(service.ctl("inspect", agent, "--json").stdout)
    inside = inside[0] if isinstance(inside, list) else inside
    assert cgroup(inside["pid"]).startswith(f"{own}/agentix-")
    assert service.ctl("verify", agent).returncode == 0
    assert Path(f"/proc/{inside['pid']}/oom_score_adj").read_text() == "0\n"
    assert Path(f"/proc/{service.pid}/oom_score_adj").read_text() == "-900\n"
    service.ctl("kill", "-9", agent)
    service.ctl("wait", agent, check=False)
    entries = service.entries(f"AGENTIX_AGENT={agent}")
    assert len(entries) == 2, entries
    assert "spawned by the operator" in entries[0]
    assert "SIGKILL" in entries[1]
    assert [entry.partition(":")[0] for entry in service.entries("AGENTIX_STEP=mount", "AGENTIX_BOOT=1")] == ["mount"]


def test_an_agent_out_of_memory_does_not_stop_it(service, tmp_path):
    (tmp_path / "hog.py").write_text(HOG)
    pid = service.pid
    assert service.ctl("run", "--memory", "32M", tmp_path / "hog.py", check=False).returncode == 137
    assert (service.show("ActiveState"), service.pid) == ("active", pid)


def test_a_reload_is_passed_on(service):
    pid = service.pid
    run("systemctl", "reload", service.unit)
    until(lambda: service.entries("AGENTIX_STEP=reload"))
    assert service.pid == pid


def test_a_member_of_the_group_needs_no_root(service):
    ran = service.ctl("run", "--", "/bin/sh", "-c", "echo hello; exit 3", person=AS_MEMBER, check=False)
    assert (ran.stdout, ran.returncode) == ("hello\n", 3)
    assert "only root" in service.ctl("shutdown", person=AS_MEMBER, check=False).stderr


def test_killed_it_is_started_again_and_sweeps(service):
    agent = service.ctl("spawn", "--", "/bin/sleep", "600").stdout.strip()
    os.kill(service.pid, signal.SIGKILL)
    service.restarted(1)
    rows = {str(row["id"]): row for row in json.loads(service.ctl("ps", "-a", "--json").stdout)}
    assert (rows[agent]["state"], rows[agent]["why"]) == ("dead", "lost")
    assert service.entries("AGENTIX_STEP=sweep", "AGENTIX_BOOT=2") == []  # the boot's number is not known then
    assert any("1 mounts" in entry for entry in service.entries("AGENTIX_STEP=sweep"))
    service.ctl("run", "--", "/bin/true")


def test_a_daemon_that_hangs_is_started_again(service):
    os.kill(service.pid, signal.SIGSTOP)
    service.restarted(2)
    assert any("Watchdog timeout" in entry for entry in service.entries())
    service.ctl("run", "--", "/bin/true")


def test_stopped_it_ends_its_agents_in_order_and_leaves_nothing(service):
    script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.2; done"
    agent = service.ctl("spawn", "--", "/bin/bash", "-c", script).stdout.strip()
    until(lambda: "ready" in service.ctl("logs", agent).stdout)
    own = service.show("ControlGroup")
    run("systemctl", "stop", service.unit)
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    assert not os.path.exists(f"/sys/fs/cgroup{own}")
    assert service.prefix not in Path("/proc/self/mountinfo").read_text()
    assert any("exited with 7" in entry for entry in service.entries(f"AGENTIX_AGENT={agent}"))
    assert service.entries("AGENTIX_STEP=down")[-1] == "down: Linux signal SIGTERM"
