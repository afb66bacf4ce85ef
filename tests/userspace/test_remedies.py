"""What agentctl tells a person who expected something else: what it is that was wrong, and what to write instead."""


def test_a_program_without_its_dashes(operator):
    result = operator.run("run", "no-bash", "-c", "echo hi")
    assert result.exit_code == 127
    assert result.stderr.endswith("; for a program of the sandbox write -- before it: -- no-bash\n")


def test_a_restart_policy_that_gave_up(operator):
    operator.on("spawn", {"id": 7})
    operator.on("logs", lambda *_args: ())
    operator.on("wait", {"id": 7, "name": "scout", "code": 3, "signal": None, "why": "exit", "status": 3,
                         "detail": "exited with 3", "next": "not restarted: restarted 5 times"})
    result = operator.run("run", "--restart", "on-failure:5", "--", "thing")
    assert result.exit_code == 3
    assert result.stderr == "agentctl: scout: exited with 3; not restarted: restarted 5 times\n"


def test_choices_are_named_in_one_line(operator):
    assert "'SHELL'. Choose from: bash, zsh, fish. See agentctl" in operator.run("completion").stderr
