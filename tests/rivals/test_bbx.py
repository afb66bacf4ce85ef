"""BBX, whose cgroups are never written, whose sandbox is a flag, and whose policy fails open."""

import errno
import os
import signal

from agentix_syscalls import calls

from .conftest import Attacker, of_uid

W = calls.O_WRONLY | calls.O_CREAT


def test_bbx_limits_are_the_kernels_of_linux(kernel, attack, scripts):
    """There no process was put into a cgroup, and every error on the way was passed over."""
    agent, attacker = attack("--pids", "8", "--memory", "64M")
    attacker.send(attacker.frame("EXEC", "shell.execute", {"command": "for i in 1 2 3 4 5 6 7 8 9; do sleep 9 & done"}))
    assert attacker.answer()[0]["status"] != 0
    hog = kernel.spawn("--memory", "64M", scripts("x = [bytearray(b'x' * (8 << 20)) for _ in range(64)]\n"))
    assert kernel.until_state(hog, "dead")["why"] == "memory"
    layers = {row["layer"]: row["state"] for row in kernel.json("verify", agent)["layers"]}
    assert layers["limits"] == "on", layers


def test_bbx_the_sandbox_is_not_a_flag(kernel, attack):
    """There `start_sandbox` set a state, and said that in production it would do something."""
    agent, _ = attack()
    pid = max(of_uid(kernel.agent(agent)["uid"]))
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    assert (status["CapEff"], status["CapBnd"]) == ("0" * 16, "0" * 16)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for name in ("mnt", "pid", "ipc", "uts", "cgroup"):
        assert os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino


def test_bbx_what_no_rule_allows_is_denied(attack, tmp_path):
    """There the default was to allow."""
    policy = tmp_path / "none.yaml"
    policy.write_text("version: 1\nname: none\nmode: enforce\nallow: [{file: /state, action: read}]\n")
    _, attacker = attack("--policy", policy, "--cwd", "/tmp")
    assert attacker.call("OPEN", b"state/x", W)[1] == errno.EPERM
    assert attacker.call("OPEN", b"mem/working")[1] == errno.EPERM
    assert attacker.call("EXEC", "shell.execute", {"command": "true"})[1] == errno.EPERM
    assert attacker.call("SPAWN", "exec", ["/bin/true"])[1] == errno.EPERM
    assert attacker.call("SIGNAL", attacker.done("GETPID")[0], 7)[1] == errno.EPERM


def test_bbx_a_policy_that_cannot_be_read_stops_the_agent(kernel, tmp_path):
    """There a hook that raised let the call pass."""
    policy = tmp_path / "bad.yaml"
    policy.write_text("version: 1\nname: bad\nmode: strict\ndeny: [{file: /state, action: write, unless: x}]\n")
    before = len(kernel.json("ps", "-a"))
    assert f"{policy}:4:" in kernel.ctl("spawn", "--policy", policy, "--", "/bin/true", check=2).stderr
    assert len(kernel.json("ps", "-a")) == before


def test_bbx_a_rule_names_a_path_and_not_a_beginning(attack, tmp_path):
    """There paths were compared by their first letters."""
    policy = tmp_path / "a.yaml"
    policy.write_text("version: 1\nname: a\nmode: enforce\nallow:\n  - {file: /, action: read}\n"
                      "  - {file: /state/a, action: write}\n")
    _, attacker = attack("--policy", policy)
    attacker.done("OPEN", b"state/a", W)
    for path in (b"state/ab", b"state/a.txt", b"state/a\xc3\xa9", b"state"):
        assert attacker.call("OPEN", path, W)[1] == errno.EPERM


def test_bbx_the_record_is_kept_and_says_what_was_done(make_kernel, scripts):
    """There it was the last 10,000 entries, in memory, with a hash for arguments. The ring stood still after 4,096."""
    kernel = make_kernel()
    agent = kernel.spawn(scripts("import signal\nprint('up', flush=True)\nsignal.pause()\n"))
    kernel.until_logged(agent, "up")
    with kernel.connect(agent) as sock:
        attacker = Attacker(sock)
        for begin in range(0, 10_500, 500):
            attacker.send(*(attacker.frame("STAT", b"state/%d" % number) for number in range(begin, begin + 500)))
            assert {attacker.answer()[1] for _ in range(500)} == {errno.ENOENT}
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait()
    kernel.start()
    told = [row["data"]["args"] for row in kernel.record(agent, "call") if row["data"]["call"] == "STAT"]
    assert [args[0] for args in told] == [f"state/{number}" for number in range(10_500)]
