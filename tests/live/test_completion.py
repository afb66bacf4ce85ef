"""Completion of agentctl's command lines: by a real bash, and for zsh and fish as their scripts ask."""

import os
import subprocess
import sys

import pytest
from emulation import WAIT_S

from agentix.agentctl.cli import VERBS

BIN = os.path.dirname(sys.executable)


@pytest.fixture(scope="module")
def herd(kernel):
    names = ("goat-1", "goat-2", "sheep")
    agents = [kernel.spawn("--name", name, "--", "/bin/sleep", "600") for name in names]
    yield dict(zip(names, agents, strict=True))
    kernel.ctl("rm", "-f", *agents, check=0)


def bash(prefix, *words):
    """What bash offers for the last of the words."""
    script = ('eval "$(agentctl completion bash)"; complete -p agentctl >/dev/null; COMP_WORDS=("$@"); '
              'COMP_CWORD=$(($# - 1)); _agentctl_completion "$1" "${@: -1}"; printf "%s\\n" "${COMPREPLY[@]}"')
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "AGENTIX_PREFIX": prefix}
    done = subprocess.run(["/bin/bash", "-c", script, "bash", *words], capture_output=True, text=True, check=False,
                          env=environment, timeout=WAIT_S)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(("words", "offered"), [
    (["kill", "go"], ["goat-1", "goat-2"]), (["kill", "sheep", "goat-1", "sh"], ["sheep"]),
    (["logs", "--tail", "3", "she"], ["sheep"]), (["kill", "-s", "US"], ["USR1", "USR2"]),
    (["why", "sheep", "--call", "WR"], ["WRITE"]),
    (["insp"], ["inspect"]), (["ps", "--fo"], ["--forest", "--format"]), (["kill", "none"], []),
])
def test_bash(kernel, herd, words, offered):
    assert bash(kernel.prefix, "agentctl", *words) == offered


def test_ids_once_a_digit_is_typed(kernel, herd):
    agent = str(herd["sheep"])
    assert agent in bash(kernel.prefix, "agentctl", "wait", agent[0])


def test_the_prefix_of_the_line_counts(kernel, herd, tmp_path):
    assert bash(str(tmp_path), "agentctl", "--prefix", kernel.prefix, "stop", "she") == ["sheep"]


def test_no_kernel_and_no_words_about_it(tmp_path):
    assert bash(str(tmp_path), "agentctl", "kill", "x") == []
    assert set(bash(str(tmp_path), "agentctl", "")) >= set(VERBS)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_others(kernel, herd, shell):
    script = kernel.ctl("completion", shell, check=0).stdout
    assert "_AGENTCTL_COMPLETE" in script
    words = {"zsh": {"COMP_WORDS": "agentctl kill go", "COMP_CWORD": "2"},
             "fish": {"COMP_WORDS": "agentctl kill go", "COMP_CWORD": "go"}}[shell]
    environment = {**os.environ, **words, "_AGENTCTL_COMPLETE": f"{shell}_complete", "AGENTIX_PREFIX": kernel.prefix}
    done = subprocess.run([f"{BIN}/agentctl"], capture_output=True, text=True, env=environment, check=False,
                          timeout=WAIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("goat-1", "goat-2"):
        assert name in done.stdout
        assert f"{name} ({herd[name]}), running" in done.stdout
    assert "sheep" not in done.stdout


@pytest.mark.parametrize("words", ["cp rep", "cp report.txt rep", "run rep", "--prefix rep"])
def test_files_are_the_shells_own_matter(tmp_path, words):
    asked = {"_AGENTCTL_COMPLETE": "bash_complete", "COMP_WORDS": f"agentctl {words}", "AGENTIX_PREFIX": str(tmp_path),
             "COMP_CWORD": str(len(words.split()))}
    done = subprocess.run([f"{BIN}/agentctl"], capture_output=True, text=True, env={**os.environ, **asked}, check=False,
                          timeout=WAIT_S)
    assert (done.stdout, done.stderr) == ("file,rep\n", "")


def test_an_unknown_shell_is_a_usage_error(kernel):
    assert kernel.ctl("completion", "tcsh").returncode == 2
