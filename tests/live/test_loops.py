"""Loops on a real kernel: an agent that is stuck is told, or ends; one that waits for something is left alone."""

import json

POLICY = """\
version: 1
name: stuck
mode: enforce
allow:
  - {file: /, action: [read, write]}
  - {tool: "*"}
loops: {calls: 5, window: 10m}
"""
AGENT = """
import json, threading, time
from agentix import libc
heard = []
libc.signal(libc.SIGLOOP, lambda signal, info: heard.append(info.why))
with open("/agent/self/state/grows", "ab", buffering=0) as file:
    follower = libc.open("state/grows")
    for number in range(20):
        file.write(b"x")
        libc.read(follower, 1)
        libc.read(follower, 1)
        libc.stat("state/grows")
        try:
            libc.wait(timeout=0)
        except OSError:
            pass
waiting = list(heard)
for number in range(20):
    libc.exec_tool("shell.execute", {"command": "echo stuck"})
print(json.dumps([waiting, heard]), flush=True)
while True:
    try:
        libc.stat("state/none")
    except OSError:
        pass
    if len(heard) == 2:
        libc.signal(libc.SIGLOOP, libc.SIG_DFL)
        libc.listdir("state")
"""


def test_a_stuck_agent_is_told_of_it_and_a_waiting_one_is_not(kernel, scripts, tmp_path):
    path = tmp_path / "stuck.yaml"
    path.write_text(POLICY)
    agent = kernel.spawn("--policy", path, scripts(AGENT))
    waiting, [loop] = json.loads(kernel.until_logged(agent, "]]"))
    assert waiting == []
    assert "EXEC(shell.execute, {'command': 'echo stuck'}, None), the same answer" in loop
    row = kernel.until_state(agent, "dead")
    assert (row["why"], row["signal"], row["rule"]) == ("loop", "SIGLOOP", f"{path}: loops: 5 in 10m")
    assert "READDIR(state), the same answer" in row["detail"]
    assert [record["rule"] for record in kernel.record(agent, "signal") if record["data"]["signal"] == "SIGLOOP"] == [
        f"{path}: loops: 5 in 10m"] * 3
    assert kernel.json("inspect", agent)["loops"] == "5 in 10m"
