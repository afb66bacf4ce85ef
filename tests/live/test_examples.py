"""The examples as examples/README.md runs them, against a real kernel: what they leave behind is right."""

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CORPUS = os.path.dirname(json.__file__)


def read(kernel, agent, path):
    return Path(kernel.tree(agent, path)).read_text()


def named(kernel, name):
    return next(row for row in kernel.json("ps", "-a") if row["name"] == name)


@pytest.fixture
def folder(tmp_path):
    """A folder that an agent may be shown: its way there may be root's alone, as the kernel opens it by descriptor."""
    made = tmp_path / "shown"
    made.mkdir()
    return made


def test_five_workers_and_one_that_fails(kernel, folder):
    done = kernel.ctl("run", "--name", "workers", "--spawn-max", "6", "--bind", f"{folder}:/out",
                      EXAMPLES / "workers.py", "3", CORPUS)
    assert done.returncode == 0, done.stdout + done.stderr
    imports = Counter()
    files = sorted(Path(CORPUS).rglob("*.py"))
    for path in files:
        imports.update(re.findall(r"^\s*(?:import|from)\s+([A-Za-z_]\w*)", path.read_text(), re.MULTILINE))
    report = read(kernel, named(kernel, "workers")["id"], "state/report.txt").splitlines()
    assert report[0] == f"{len(files)} files, {len(imports)} modules"
    assert {line.split()[1]: int(line.split()[0]) for line in report[1:]} == dict(imports)
    tripped, = re.findall(r"agent (\d+) failed: exit status 1, exit", done.stdout)
    assert re.findall(r"shard 3: agent (\d+) works", done.stdout)[0] == tripped
    assert "RuntimeError: this is the shard that trips" in kernel.ctl("logs", tripped).stderr
    assert sorted(os.listdir(folder)) == [f"part-{shard}.json" for shard in range(1, 6)]


def test_workers_that_fail_twice_are_told(kernel, folder):
    """Nobody can write to /out: it is bound read-only."""
    done = kernel.ctl("run", "--name", "stuck", "--spawn-max", "10", "--bind-ro", f"{folder}:/out",
                      EXAMPLES / "workers.py", "0", CORPUS)
    assert done.returncode == 1
    assert done.stdout.count("failed: exit status 1") == 10
    assert "not every shard was done" in done.stderr


def test_the_agent_in_bash(kernel, folder):
    shown = ("--bind-ro", f"{ROOT}/userspace/sh:/opt/agentix", "--bind-ro", f"{EXAMPLES}/shell_agent.sh:/opt/watch",
             "--bind-ro", f"{folder}:/watched")
    (folder / "a").write_text("a")
    (folder / "b c\\").write_text("b")
    agent = kernel.spawn("--name", "watch", *shown, "--", "/opt/watch", "/watched", "500")
    kernel.until_logged(agent, "new ./a\n")
    (folder / "a").write_text("changed")
    (folder / "b c\\").unlink()
    kernel.ctl("kill", "-USR1", agent, check=0)
    kernel.until_logged(agent, "gone ")
    kernel.ctl("kill", agent, check=0)
    kernel.ctl("wait", agent, check=0)
    remembered = [line.split(" ", 1)[1] for line in read(kernel, agent, "mem/episodic/log").splitlines()]
    assert sorted(remembered[:2]) == ["new ./a", "new ./b c\\\\"]
    assert remembered[2:] == ["changed ./a", "gone ./b c\\\\", "asked to end"]


def test_the_agent_in_node(kernel, folder):
    (folder / "one").write_text("Alpha beta, alpha. To be\n")
    (folder / "two").write_text("gamma ALPHA\n")
    done = kernel.ctl("run", "--name", "reader", "--bind-ro", f"{EXAMPLES}/node_agent.js:/opt/agent.js",
                      "--bind-ro", f"{folder}:/texts", "--deny", "MKDIR:/state/folder",
                      "--", "node", "/opt/agent.js", "/texts")
    assert done.returncode == 0, done.stderr
    agent = named(kernel, "reader")["id"]
    report = json.loads(read(kernel, agent, "state/report.json"))
    assert report == {"texts": 2, "different": 3, "top": {"alpha": 3, "beta": 1, "gamma": 1}}
    assert done.stdout.splitlines()[-1] == "EPERM: MKDIR /state/folder is denied"
    assert [line.split(" ", 1)[1] for line in read(kernel, agent, "mem/episodic/log").splitlines()] == [
        "read /texts/one", "read /texts/two"]


def test_each_example_is_in_the_readme():
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"## {path.name}:" in text for path in EXAMPLES.iterdir() if path.is_file() and path.name != "README.md")


def test_the_agent_in_bash_passes_shellcheck():
    subprocess.run(["shellcheck", "-x", EXAMPLES / "shell_agent.sh"], check=True)
