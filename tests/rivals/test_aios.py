"""AIOS, whose agents are threads of its server, and whose callers are whom they say they are."""

import errno
import os
import socket

import pytest

from agentix_syscalls import calls


def test_aios_nobody_without_rights_reaches_the_kernel(kernel):
    """There an open port without authentication started agents and changed the keys of the operator."""
    os.chmod(kernel.prefix, 0o755)
    with socket.socket(socket.AF_UNIX) as sock:
        os.seteuid(4242)
        try:
            with pytest.raises(PermissionError):
                sock.connect(f"{kernel.prefix}/run/control.sock")
        finally:
            os.seteuid(0)


def test_aios_an_agent_that_never_yields_is_killed(kernel, scripts):
    """There an agent was a thread, and no call ended one."""
    agent = kernel.spawn(scripts("print('up', flush=True)\nwhile True: pass\n"))
    kernel.until_logged(agent, "up")
    kernel.ctl("kill", "-KILL", agent, check=0)
    assert kernel.until_state(agent, "dead")["why"] == "killed"


def test_aios_a_tool_that_dies_answers_and_can_run_again(attack):
    """There a caller waited for ever when what it had asked for raised, and a tool that had failed once stayed lost."""
    _, attacker = attack()
    for _ in range(2):
        assert attacker.done("EXEC", "shell.execute", {"command": "kill -9 $$"})["status"] == 137
    assert attacker.call("EXEC", "no.such.tool", {})[1] == errno.ENOENT
    assert attacker.done("EXEC", "shell.execute", {"command": "echo again"})["stdout"] == b"again\n"


def test_aios_tools_do_not_wait_for_each_other(attack):
    """There one lock was held while a tool ran, and of several in a request one was answered."""
    _, attacker = attack()
    attacker.send(attacker.frame("EXEC", "shell.execute", {"command": "exec sleep 1000"}),
                  attacker.frame("EXEC", "shell.execute", {"command": "echo quick"}),
                  attacker.frame("EXEC", "shell.execute", {"command": "echo quick"}))
    slow = attacker.last - 2
    assert [attacker.answer()[0]["stdout"] for _ in range(2)] == [b"quick\n"] * 2
    attacker.send(attacker.frame("CANCEL", slow))
    assert sorted(attacker.answer()[1] for _ in range(2)) == [0, errno.ECANCELED]


@pytest.mark.parametrize("path", ["{host}", "/etc/passwd", "/agent/self/../../{host}", "state/link"])
def test_aios_a_path_of_the_host_is_not_written(kernel, attack, host, path):
    """There an absolute path was taken as it was, and any file that the server could write was written."""
    agent, attacker = attack()
    os.symlink(host, kernel.tree(agent, "state/link"))
    refused = attacker.call("OPEN", path.format(host=host).encode(), calls.O_WRONLY | calls.O_CREAT | calls.O_TRUNC)
    assert refused[1] in {errno.EACCES, errno.ENOENT}


def test_aios_the_table_is_of_what_is(kernel, scripts):
    """There the list of agents was files that nobody brought up to date."""
    agent = kernel.spawn(scripts("raise SystemExit(3)\n"))
    row = kernel.until_state(agent, "dead")
    assert (row["why"], row["code"]) == ("exit", 3)
    assert agent not in [row["id"] for row in kernel.json("ps")]
