"""Tests of agents: what they do, what they are kept from, what is on record. As root: pytest test_my_agent.py"""

pytest_plugins = ["agentix.testing"]

COUNTER = """
    from agentix import libc

    with libc.openfile("state/count", "w") as file:
        file.write("3")
    try:
        libc.unlink("state/precious")
    except PermissionError as error:
        print(error.reason.rule)
"""

PATIENT = """
    import time
    from agentix import libc

    def stop(signal, info):
        print("asked to end")
        raise SystemExit

    libc.signal(libc.SIGTERM, stop)
    print("ready", flush=True)
    time.sleep(3600)
"""


def test_it_counts_and_keeps_its_hands_off(agentix_kernel):
    ended = agentix_kernel.run(COUNTER, deny=["UNLINK:/state/precious"])
    assert (ended.status, ended.stdout, ended.stderr) == (0, "deny UNLINK:/state/precious\n", "")
    assert (agentix_kernel.tree(ended.id) / "state/count").read_text() == "3"
    denial, = agentix_kernel.trace(ended.id, "denial")
    assert denial["rule"] == "deny UNLINK:/state/precious"


def test_it_ends_when_it_is_asked_to(agentix_kernel):
    agent = agentix_kernel.spawn(PATIENT)
    agentix_kernel.until(agent, "ready")
    agentix_kernel.kill(agent, "TERM")
    ended = agentix_kernel.wait(agent)
    assert (ended.status, ended.why, ended.stdout) == (0, "exit", "ready\nasked to end\n")


def test_it_stays_within_its_memory(agentix_kernel):
    ended = agentix_kernel.run("hoard = bytearray(1 << 30)", memory=64 << 20)
    assert (ended.status, ended.why) == (137, "memory")


def test_a_program_sees_what_it_is_shown(agentix_kernel, tmp_path):
    (tmp_path / "words").write_text("one two\n")
    tmp_path.chmod(0o755)
    ended = agentix_kernel.run(exec="/bin/cat", args=["/data/words"], bind_ro={tmp_path: "/data"})
    assert ended.stdout == "one two\n"
