"""What may be done a number of times is not done once more, by whichever of the ways there are."""

import json
import os
from pathlib import Path

import pytest
from hostile.outside import contents
from hostile.test_attempts import live, outside, spawn, until_said

from agentix_syscalls import signals

MOST = 3
POLICY = f"""\
version: 1
name: counted
mode: enforce
allow:
  - {{file: /, action: read}}
  - {{file: /mem, action: write}}
  - {{file: /state, action: write, max: {MOST}}}
"""
FILE, OTHER, NEXT = "ME + 'state/file'", "ME + 'state/other'", "ME + 'state/new'"
WAYS = {
    "open to write": f"os.open({FILE}, WO)", "open to read and write": f"os.open({FILE}, RW)",
    "open to append": f"os.open({FILE}, WO | os.O_APPEND)", "open to cut": f"os.open({FILE}, RO | CUT)",
    "make a file": f"os.open({NEXT}, NEW)", "make a folder": f"os.mkdir({NEXT})",
    "make a link": f"os.symlink('x', {NEXT})", "make a pipe": f"os.mkfifo({NEXT})",
    "make a node": f"os.mknod({NEXT}, 0o100644)", "give another name": f"os.link({FILE}, {NEXT})",
    "rename": f"os.rename({FILE}, {NEXT})", "rename over another": f"os.rename({FILE}, {OTHER})",
    "exchange": f"exchanged({FILE}, {OTHER})", "remove": f"os.unlink({FILE})", "cut": f"os.truncate({FILE}, 0)",
    "change the mode": f"os.chmod({FILE}, 0o600)", "change the times": f"os.utime({FILE}, (1, 1))",
    "bind a socket": f"socket.socket(socket.AF_UNIX).bind({NEXT})", "copy onto it": f"copied('/etc/hosts', {FILE})",
    "open again by a descriptor": f"reopened({FILE}, RO, WO)", "open by a place": f"reopened({FILE}, os.O_PATH, WO)",
    "open to write, by a call": "libc.open('state/file', WO)",
    "open to cut, by a call": "libc.open('state/file', RO | CUT)",
    "make a file, by a call": "libc.open('state/new', NEW)", "make a folder, by a call": "libc.mkdir('state/new')",
    "cut, by a call": "libc.truncate('state/file', 0)", "remove, by a call": "libc.unlink('state/file')",
    "rename, by a call": "libc.rename('state/file', 'state/new')",
    "narrow it, and use that": "libc.grant(3, libc.getpid(), 'capability://file/state/file?action=write&max=1') and "
                               "libc.open('state/file', WO)",
}


@pytest.fixture(scope="module")
def counted(outside):
    """What each way answered once there was no use left; the folder before and after."""
    uses = [["", f"libc.close(libc.open('state/file', {flags}))"] for flags in ("WO", "RW", "WO | os.O_APPEND")]
    agent = spawn(outside, "counted", [*uses, *([name, tries] for name, tries in WAYS.items())], {"wait": True},
                  policy=["counted.yaml", POLICY.encode()])
    outside.attacker = agent
    until_said(outside, agent, b"ready")
    for name in ("file", "other"):
        Path(outside.tree(f"state/{name}")).write_text("kept")
        os.chown(outside.tree(f"state/{name}"), *[outside.kernel.agent(agent)["uid"]] * 2)
    before = contents(outside.tree("state"))
    outside.client.call("feed", agent, b"g")
    answers = dict(json.loads(line) for line in until_said(outside, agent, b"end") if line.startswith(b"["))
    assert [answers[number] for number in range(MOST)] == ["None"] * MOST
    yield {name: answers[number] for number, name in enumerate(WAYS, MOST)}, before, contents(outside.tree("state"))
    outside.client.call("signal", agent, signals.SIGKILL)


@pytest.mark.parametrize("name", WAYS)
def test_it_is_not_done_once_more(counted, name):
    answers, before, after = counted
    assert answers[name] == "EDQUOT"
    assert after == before


__all__ = ["live", "outside"]
