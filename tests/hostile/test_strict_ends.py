"""In strict mode the first violation is the last thing that an agent does, whichever enforcer sees it."""

import json
import os

import pytest
from hostile.test_attempts import PROBE, live, numbers, outside

from agentix_syscalls import signals

TEXT = b"""\
version: 1
name: strict
mode: strict
allow:
  - {file: /, action: [read, write]}
  - {signal: "*", to: self}
  - {tool: shell.execute}
deny:
  - {file: /state/held, action: "*"}
  - {file: /state/drop, action: read}
"""
HELD, DROP = "strict.yaml:9: deny", "strict.yaml:10: deny"
ENDS = {
    "a call": ("put('state/held')", HELD),
    "a call, by dots": ("put('state/../state//held')", HELD),
    "the mount": ("write(ME + 'state/held')", HELD),
    "a mere look": ("os.stat(ME + 'state/held')", HELD),
    "a link": ("os.symlink('held', ME + 'state/l') or write(ME + 'state/l')", HELD),
    "a file without a name": ("write(DROP) and nameless()", DROP),
    "a Linux call": ("linux('unshare', 0x10000000)", "seccomp unshare"),
    "a Linux call of a child process": ("in_child(lambda: linux('unshare', 0x10000000))", "seccomp unshare"),
    "a Linux call of a tool": ("libc.exec_tool('shell.execute', {'command': 'unshare -U true; sleep 1000'})",
                               "seccomp unshare"),
    "a signal to somebody": ("libc.kill(OUT['victim'], libc.SIGTERM)", "signals: itself and own children"),
    "a signal of the kernel's": ("libc.kill(libc.getpid(), libc.Signals.SIGTRUST)", "signals: SIGTRUST"),
    "such a signal at the mount": ("write(ME + 'proc/signal', WO, b'TRUST')", "signals: SIGTRUST"),
    "a tool that no rule allows": ("libc.exec_tool('root.shell', {})", "default deny"),
    "a child": ("libc.spawn(exec='/bin/true')", "default deny"),
    "what is caught": ("[answer(lambda: put('state/held')) for _ in range(1000)]", HELD),
}


@pytest.fixture(scope="module")
def ended(outside):
    """How each agent ended, and what it still could do afterwards."""
    client = outside.client
    outside.victim = client.call("spawn", "exec", ["/bin/sleep", "infinity"], {})["id"]
    told = json.dumps({"victim": outside.victim, "wait": False, "linux": numbers()})
    scripts = [["probe.py", json.dumps([["", tries], ["", "write(ME + 'state/lives')"]]), told] for tries, _ in
               ENDS.values()]
    options = {"source": PROBE, "policy": ["strict.yaml", TEXT]}
    made = [client.call("spawn", "script", argv, options)["id"] for argv in scripts]
    rows = [client.call("wait", agent, 60) for agent in made]
    lives = [os.path.exists(outside.kernel.tree(agent, "state/lives")) for agent in made]
    records = [[row for row in client.stream("trace", agent) if row["kind"] == "denial"] for agent in made]
    said = [b"".join(data for _, data, _ in client.stream("logs", agent)) for agent in made]
    assert client.call("inspect", outside.victim)["state"] == "running"
    client.call("signal", outside.victim, signals.SIGKILL)
    return dict(zip(ENDS, zip(rows, lives, records, said, strict=True), strict=True))


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_by_it(ended, name):
    row, lives, denials, said = ended[name]
    assert (row["why"], row["signal"]) == ("policy", "SIGPOLICY"), (row, said)
    assert ENDS[name][1] in row["rule"]
    assert not lives
    assert said == b"ready\n"  # nothing came back to it
    assert [one["rule"] for one in denials] == [row["rule"]]


__all__ = ["live", "outside"]
