"""Budgets on a real kernel: what an agent, its tools and its children are refused, and what operators see of it."""

import json
from pathlib import Path

POLICY = """\
version: 1
name: frugal
mode: enforce
allow:
  - {file: /, action: [read, write]}
  - {tool: "*"}
  - {signal: "*", to: self}
  - {spawn: "*", max: 5}
  - capability://agent/child?action=wait
budgets: {calls: 60, tools: 1, children: 1/h}
"""
AGENT = """
import errno, json, time
from agentix import libc
heard, told = [], {}
def refused(act):
    try:
        act()
    except OSError as error:
        return [errno.errorcode[error.errno], error.reason.rule, error.reason.remedy.split(" in ")[0]]
libc.signal(libc.SIGBUDGET, lambda signal, info: heard.append(info.why))
run = lambda: libc.exec_tool("shell.execute", {"command": "true"})
told["tools"] = [refused(run) for _ in range(3)][1:]
spawn = lambda: libc.wait(libc.spawn(exec="/bin/true"))
told["children"] = [refused(spawn) for _ in range(2)]
told["heard"] = list(heard)
told["file"] = open("/agent/self/policy/budgets").read()
while refused(lambda: libc.stat("state")) is None:
    pass
told["last"] = refused(lambda: libc.stat("state"))
print(json.dumps(told | {"at the end": heard[2:]}), flush=True)
time.sleep(1000)
"""


def test_budgets_are_held_and_shown(kernel, scripts, tmp_path):
    path = tmp_path / "frugal.yaml"
    path.write_text(POLICY)
    agent = kernel.spawn("--policy", path, scripts(AGENT))
    told = json.loads(kernel.until_logged(agent, "}"))
    assert told["tools"] == [["EDQUOT", f"{path}: budgets: tools: 1",
                               "an operator can give it more: agentctl policy set"]] * 2
    assert told["children"] == [None, ["EAGAIN", f"{path}: budgets: children: 1/h", "try again"]]
    assert told["heard"] == [f"the budget of tools is spent ({path}: budgets: tools: 1)",
                             f"the budget of children is spent ({path}: budgets: children: 1/h)"]
    assert told["last"][:2] == ["EDQUOT", f"{path}: budgets: calls: 60"]
    assert told["at the end"] == [f"the budget of calls is spent ({path}: budgets: calls: 60)"]
    assert "Tools:\t1, 1 used, 0 left, spent\nChildren:\t1/h, 1 used, 0 left, spent\n" in told["file"]
    assert Path(kernel.tree(agent, "policy/budgets")).read_text().startswith("Calls:\t60, 60 used, 0 left, spent\n")
    assert {"budget": "calls", "limit": "60", "used": 60, "left": 0, "spent": True} in kernel.json(
        "inspect", agent)["budgets"]
    shown = kernel.ctl("ps", "--filter", "state=running", "--format", "id,why", check=0).stdout
    assert f"{agent}  spent its budget of calls, children, tools" in shown
    assert [row["data"]["budget"] for row in kernel.record(agent, "budget")] == ["tools", "children", "calls"]
    kernel.ctl("kill", "-9", agent, check=0)


def test_a_spent_budget_ends_a_program_that_knows_nothing_of_it(kernel, tmp_path):
    path = tmp_path / "patient.yaml"
    path.write_text("version: 1\nname: patient\nmode: enforce\nallow: [{file: /, action: [read, write]}]\n"
                    "deny: [{file: /state/held, action: write}]\nbudgets: {denials: 3}\n")
    done = kernel.ctl("run", "--restart", "always", "--policy", path, "--", "/bin/sh", "-c",
                      "while :; do echo x > /agent/self/state/held; done", check=137)
    assert "SIGBUDGET" in done.stderr
    assert f"{path}: budgets: denials: 3" in done.stderr
    assert done.stdout == ""
