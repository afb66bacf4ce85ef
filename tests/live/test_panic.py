"""A kernel that finds itself in doubt, or that hangs: what it leaves, and who can read it."""

import json
import os
import signal
import stat

import pytest
from emulation import WAIT_S

from agentix_kernel import faults

TALKER = "from agentix import libc\nfor _ in range(100): libc.checkpolicy('SIGNAL')\n"
STALLING = "loop.stalls:60"
"""Later than any tick of the boot, and met by a talker."""
ALLOWED = "fault_injection = true\nstall_s = 1\n"


def booted(make_kernel, fault, **environment):
    live = make_kernel(ALLOWED, start=False)
    live.boot(**{faults.VARIABLE: fault})
    return live


def epitaph(live):
    return json.loads(live.ctl("postmortem", "--json", check=0).stdout)


def test_an_assertion_in_a_task_of_its_own_panics_and_the_epitaph_says_why(make_kernel):
    live = booted(make_kernel, "task.fails:1")
    agent = live.spawn("--name", "sleeper", "--", "/bin/sleep", "600")
    assert live.ctl("postmortem").returncode == 1  # none yet
    live.ctl("stop", agent)
    assert live.process.wait(WAIT_S) == 70
    found = epitaph(live)
    assert (found["where"], found["what"]) == ("_stop", "AssertionError: a fault that was asked for")
    assert [(row["name"], row["state"]) for row in found["agents"]] == [("sleeper", "running")]
    kinds = [record["kind"] for record in found["records"]]
    assert (kinds[0], kinds[-1], len(kinds) <= 100) == ("boot", "panic", True)
    assert "faults.py" in found["traceback"]
    assert "task" in found["stacks"]
    assert "Reactor.run" in found["stacks"]
    assert any(row.startswith("seccomp") for row in found["layers"])
    text = live.ctl("postmortem", check=0).stdout
    assert all(word in text for word in ("a fault that was asked for", "sleeper", "Traceback:", "Stacks:", "panic"))
    [name] = os.listdir(f"{live.prefix}/state/epitaphs")
    assert stat.S_IMODE(os.stat(f"{live.prefix}/state/epitaphs/{name}").st_mode) == 0o600
    live.start()
    assert (live.agent(agent)["why"], live.json("audit", "verify")["ok"]) == ("lost", True)
    assert [row["data"]["what"] for row in live.rows("trace") if row["kind"] == "panic"] == [found["what"]]
    assert live.ctl("postmortem", f"{live.prefix}/state/epitaphs/{name}", check=0).stdout == text


def test_an_end_of_its_run_that_nobody_asked_for_panics(make_kernel):
    live = booted(make_kernel, "run.fails:1")
    assert live.process.wait(WAIT_S) == 70
    assert epitaph(live)["where"] == "run"
    assert "PANIC: run: AssertionError" in live.log()
    live.start()
    assert [row["kind"] for row in live.rows("trace") if row["kind"] in {"panic", "shutdown"}] == ["panic"]


def test_an_error_in_a_request_is_answered_and_ends_nobody(make_kernel):
    live = make_kernel(ALLOWED, start=False)
    assert live.boot(**{faults.VARIABLE: "request.fails:1"})
    agent = live.spawn("--", "/bin/sleep", "600")
    refused = live.ctl("inspect", agent)
    assert (refused.returncode, "the kernel failed; it was recorded" in refused.stderr) == (1, True)
    assert live.agent(agent)["state"] == "running"
    live.ctl("inspect", agent, check=0)
    assert ["a fault that was asked for" in row["data"]["traceback"]
            for row in live.rows("trace") if row["kind"] == "error"] == [True]


def test_a_loop_that_stands_still_says_at_once_what_it_does_and_records_it_when_it_goes_on(make_kernel, scripts):
    live = booted(make_kernel, STALLING)
    live.ctl("run", scripts(TALKER), check=0)
    [stall] = live.until(lambda: [row for row in live.rows("trace") if row["kind"] == "stall"])
    assert stall["data"]["seconds"] >= faults.STALL_S / 2
    assert "time.sleep(STALL_S)" in stall["data"]["stacks"]
    assert "task" in stall["data"]["stacks"]
    assert "STALL: the loop has not turned for" in live.log()
    assert not os.path.exists(f"{live.prefix}/state/stall")


def test_a_stall_that_ended_the_kernel_is_recorded_by_the_next_boot(make_kernel, scripts):
    live = booted(make_kernel, STALLING)
    waiting = live.begin("run", scripts(TALKER))
    live.until(lambda: "STALL:" in live.log())
    live.process.kill()
    live.process.wait()
    waiting.communicate(timeout=WAIT_S)
    live.start()
    [stall] = live.until(lambda: [row for row in live.rows("trace") if row["kind"] == "stall"])
    assert "of an earlier boot" in stall["data"]["stacks"]
    assert "time.sleep(STALL_S)" in stall["data"]["stacks"]


def test_sigquit_shows_what_everything_does_and_ends_nothing(make_kernel):
    live = make_kernel()
    live.process.send_signal(signal.SIGQUIT)
    live.until(lambda: "stacks:\nthread" in live.log())
    assert "task" in live.log()
    live.ctl("ps", check=0)


@pytest.mark.parametrize("text", ["", "{}", "[]", "\0"])
def test_what_is_no_epitaph_is_named(kernel, tmp_path, text):
    (tmp_path / "file").write_text(text)
    refused = kernel.ctl("postmortem", tmp_path / "file")
    assert refused.returncode == 1
    assert refused.stderr == f"agentctl: {tmp_path}/file: not an epitaph of a kernel\n"


def test_without_an_epitaph_or_the_right_to_read_it_says_so(kernel, tmp_path):
    assert "no epitaph" in kernel.ctl("postmortem").stderr
    os.chmod(tmp_path, 0o755)
    refused = kernel.ctl("postmortem", f"{kernel.prefix}/state/epitaphs/1.json", user=65534, group=65534,
                         extra_groups=[])
    assert "Permission denied; epitaphs are root's: use sudo" in refused.stderr
