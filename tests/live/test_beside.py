"""exec, attach and terminals as people use them: on a terminal and in a pipe."""

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
from emulation import WAIT_S

IDLE = ("--", "sleep", "1000")
DAEMON_GID = 1
"""Of the group `daemon`, which every Debian has and nobody is in."""


class Screen:
    """agentctl on a terminal of its own, as a person sees it."""

    def __init__(self, kernel, *words, size=(24, 80)):
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(["setsid", "--ctty", *kernel.words(*words)], stdin=slave, stdout=slave,
                                        stderr=slave)
        self.shown = b""

    def until(self, text, seconds=60):
        """Wait until this is shown; what came before it and with it is taken away."""
        want, deadline = text.encode(), time.monotonic() + seconds
        while want not in self.shown:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not shown, but: {self.shown!r}"
            self.shown += os.read(self.master, 4096)
        before, _, self.shown = self.shown.partition(want)
        return before.decode(errors="replace")

    def type(self, text):
        os.write(self.master, text.encode())

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def status(self):
        return self.process.wait(WAIT_S)

    def sane(self):
        return termios.tcgetattr(self.slave) == self.before

    def close(self):
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def screen():
    made = []

    def make(kernel, *words, **more):
        made.append(Screen(kernel, *words, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_shell_on_a_terminal(kernel, screen):
    shown = screen(kernel, "run", "-it", "--rm", "--name", "box", "--", "bash", "--norc", size=(30, 100))
    shown.until("$ ")
    shown.type("echo $((6*7)) $(tty) $TERM\n")
    shown.until("42 /dev/pts/0")
    shown.type("stty size\n")
    shown.until("30 100")
    shown.resize(31, 101)
    shown.type("until [ \"$(stty size)\" = '31 101' ]; do :; done; echo resi''zed\n")
    shown.until("resized")
    shown.type("sleep 1000\n")
    kernel.until(lambda: "sleep" in kernel.ctl("exec", "box", "--", "sh", "-c", "cat /proc/[0-9]*/comm").stdout)
    shown.type("\x03")
    shown.type("echo still $((1+1))\n")
    shown.until("still 2")
    shown.type("exit 3\n")
    assert shown.status() == 3
    assert shown.sane()
    assert "box" not in [row["name"] for row in kernel.json("ps", "-a")]


def test_left_and_looked_at_again(kernel, screen):
    shown = screen(kernel, "run", "-it", "--name", "kept", "--", "bash", "--norc")
    shown.until("$ ")
    shown.type("value=kept-value\n\x10\x11")
    shown.until("agentctl attach ")
    assert (shown.status(), shown.sane()) == (0, True)
    again = screen(kernel, "attach", "-it", "kept")
    again.type('echo "<$value>"\n')
    again.until("<kept-value>")
    again.type("\x10exit 5\n")  # half of what leaves is a key like others: readline takes it for the line before
    again.until("exit")
    again.type("\x15exit 5\n")
    assert (again.status(), again.sane()) == (5, True)
    assert kernel.ctl("attach", "kept").returncode == 125


def test_a_kernel_that_dies_leaves_the_terminal_sane(make_kernel, screen):
    kernel = make_kernel()
    shown = screen(kernel, "run", "-it", "--", "bash", "--norc")
    shown.until("$ ")
    kernel.process.send_signal(signal.SIGKILL)
    kernel.process.wait()
    assert shown.status() == 125
    shown.until("agentctl: the kernel closed the connection")
    assert shown.sane()
    kernel.start()


def test_a_terminal_that_closes_takes_the_program_along(kernel, screen):
    agent = kernel.spawn(*IDLE)
    shown = screen(kernel, "exec", "-it", agent, "--", "sh", "-c", "echo $$; exec sleep 999")
    shown.until("\n")
    os.close(shown.master)
    shown.status()
    kernel.until(lambda: kernel.agent(agent)["processes"] == 2)


def test_what_is_run_beside_an_agent(kernel):
    agent = kernel.spawn("--env", "OF=agent", "--name", "beside", *IDLE)
    done = kernel.ctl("exec", "--env", "OWN=1", "--cwd", "/usr", "beside", "--", "sh", "-c",
                      "echo $OF $OWN $PWD; cat; echo err >&2; exit 7", check=7)
    assert (done.stdout, done.stderr) == ("agent 1 /usr\n", "err\n")
    data = os.urandom(300_000)  # more than all pipes on the way hold
    fed = subprocess.run(kernel.words("exec", "-i", agent, "cat"), input=data, capture_output=True,
                         timeout=WAIT_S, check=True)
    assert fed.stdout == data
    kernel.ctl("exec", agent, "--", "sh", "-c", "kill -TERM $$", check=143)
    outcomes = [row for row in kernel.record(agent, "exec") if row["phase"] == "outcome"]
    assert [row["data"]["status"] for row in outcomes] == [7, 0, 143]


def test_verify_counts_what_runs_beside(kernel):
    agent = kernel.spawn(*IDLE)
    running = kernel.begin("exec", agent, "--", "sh", "-c", "echo up; exec sleep 1000")
    assert running.stdout.readline() == "up\n"
    found = kernel.json("verify", agent)
    assert (found["ok"], found["processes"]) == (True, 3)
    running.kill()
    running.communicate()
    kernel.until(lambda: kernel.agent(agent)["processes"] == 2)
    [outcome] = [row for row in kernel.record(agent, "exec") if row["phase"] == "outcome"]
    assert outcome["data"]["detail"] == "who asked went away"


@pytest.mark.parametrize(("words", "status", "said"), [
    (("no-such-command",), 127, "no-such-command: No such file or directory"),
    (("/etc/passwd",), 126, "/etc/passwd: Permission denied"),
    (("--cwd", "/nowhere", "@", "true"), 127, "/nowhere"),
    (("--cwd", "nowhere", "@", "true"), 125, "absolute"),
    (("-t", "@", "true"), 125, "stdin is not a terminal"),
    (("--env", "NO_SUCH_VARIABLE_HERE", "@", "true"), 2, "no such variable"),
])
def test_what_cannot_be_run(kernel, words, status, said):
    agent = kernel.spawn(*IDLE)
    words = [agent if word == "@" else word for word in words] if "@" in words else [agent, *words]
    done = kernel.ctl("exec", *words, check=status, stdin=subprocess.DEVNULL)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_whom_nothing_is_run_beside(kernel):
    agent = kernel.spawn(*IDLE)
    kernel.ctl("stop", agent, check=0)
    kernel.until(lambda: kernel.agent(agent)["state"] == "stopped")
    assert f"agentctl cont {agent} first" in kernel.ctl("exec", agent, "true", check=125).stderr
    kernel.ctl("kill", "-9", agent, check=0)
    kernel.ctl("wait", agent, check=137)
    assert f"agentctl restart {agent} runs it again" in kernel.ctl("exec", agent, "true", check=125).stderr
    assert "has ended" in kernel.ctl("attach", agent, check=125).stderr


def test_stdin_of_an_agent(kernel):
    done = kernel.ctl("run", "-i", "--rm", "--", "sort", input="b\na\n", check=0)
    assert done.stdout == "a\nb\n"
    assert kernel.ctl("run", "--rm", "--", "cat", input="unread", check=0).stdout == ""
    kernel.ctl("run", "-i", "--rm", "--", "true", input="x" * 500_000, check=0)
    agent = kernel.spawn("-i", "--", "sh", "-c", 'read line; echo "<$line>"; exit 4')
    looking = kernel.ctl("attach", agent, input="typed\n", check=4)
    assert looking.stdout == "<typed>\n"


def test_an_agent_without_stdin_is_only_looked_at(kernel):
    agent = kernel.spawn("--", "sh", "-c", "while [ ! -e /tmp/stop ]; do echo seen; sleep 0.05; done; exit 6")
    for flag, said in (("-i", "no open stdin"), ("-t", "no terminal")):
        assert said in kernel.ctl("attach", flag, agent, check=125).stderr
    looking = kernel.begin("attach", agent)
    assert looking.stdout.readline() == "seen\n"
    kernel.ctl("exec", agent, "touch", "/tmp/stop")
    looking.communicate(timeout=WAIT_S)
    assert looking.returncode == 6


def test_only_root_and_the_owner_act_through_an_agent(make_kernel):
    kernel = make_kernel("group = 'daemon'\n")
    os.chmod(kernel.prefix, 0o755)
    member = {"user": 4242, "group": 4242, "extra_groups": [DAEMON_GID]}
    roots = kernel.spawn("-i", "--", "cat")
    own = int(kernel.ctl("spawn", "-i", "--", "cat", check=0, **member).stdout)
    assert [kernel.agent(agent)["owner"] for agent in (roots, own)] == [0, 4242]
    assert kernel.ctl("exec", own, "echo", "mine", check=0, **member).stdout == "mine\n"
    kernel.ctl("exec", own, "true", check=0)
    for words in (("exec", roots, "true"), ("attach", "-i", roots)):
        refused = kernel.ctl(*words, check=125, input="typed\n", **member)
        assert f"agent {roots} (agent-{roots}) is uid 0's, not yours" in refused.stderr
    assert {row["data"]["object"] for row in kernel.record(roots, "denial")} == {"uid 4242"}
    assert "typed" not in kernel.ctl("logs", roots, check=0).stdout


def test_what_takes_its_time_is_said_on_a_terminal(make_kernel, screen):
    kernel = make_kernel(start=False)
    kernel.config = "stop_timeout_s = 3\nshutdown_timeout_s = 1\n"
    kernel.start()
    agent = kernel.spawn("--", "sh", "-c", "trap '' TERM; while :; do sleep 1000; done")
    shown = screen(kernel, "restart", agent)
    shown.until(f"agentctl: {agent} is asked to end (SIGTERM), and killed if it does not")
    assert shown.status() == 0
    assert kernel.agent(agent)["life"] == 2
