"""The shell client in a sandbox, in the shells that people have, and what shellcheck says of it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "userspace/sh"
AGENT = ROOT / "tests/data/shell_agent.sh"

SAID = """\
{agent}
Name:\t{shell}

67108864
usage
enforce
MKDIR /state/refused is denied
no key: 1
no file: 1
no file: 1
no signal: 1
not mine to send: 1
one
two
a default
none: 1
not saved: {not_saved}
words
first words
second
slept: 138
trapped
slept: 0 these stay kept kept kept kept
"""


@pytest.mark.parametrize(("shell", "not_saved"), [("dash", 2), ("bash", 1)])  # statuses of a redirection that fails
def test_every_function(kernel, shell, not_saved):
    agent = kernel.spawn("--name", shell, "--memory", "64M", "--deny", "MKDIR:/state/refused",
                         "--bind-ro", f"{CLIENT}:/opt/agentix", "--bind-ro", f"{AGENT}:/opt/agent", "--", shell,
                         "/opt/agent")
    kernel.ctl("wait", agent, check=0)
    logged = kernel.ctl("logs", agent, check=0)
    assert logged.stdout == SAID.format(agent=agent, shell=shell, not_saved=not_saved)
    assert "agent: to stderr too\n" in logged.stderr
    assert "agent: proc/status has no key Nope\n" in logged.stderr
    assert "agent: signal NOPE was refused" in logged.stderr


def test_it_is_posix_and_passes_shellcheck():
    subprocess.run(["shellcheck", "--shell=sh", CLIENT / "agentix.sh"], check=True)
    subprocess.run(["shellcheck", "-x", AGENT], check=True)
