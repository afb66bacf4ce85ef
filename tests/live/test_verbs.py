"""Every verb under what befalls commands at a shell: readers that go away, Ctrl-C, Ctrl-Z, kernels that die."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from emulation import WAIT_S

from agentix.agentctl.cli import VERBS

BIN = os.path.dirname(sys.executable)

READING = {
    "ps": ("ps", "-a"), "inspect": ("inspect", "anchor"), "verify": ("verify", "anchor"), "logs": ("logs", "anchor"),
    "trace": ("trace",), "events": ("events",), "doctor": ("doctor",), "info": ("info",), "top": ("top", "-b"),
    "syscalls": ("syscalls",), "signals": ("signals",), "kill": ("kill", "-l"), "audit": ("audit", "verify"),
    "completion": ("completion", "zsh"), "help": ("--help",), "help of a verb": ("ps", "--help"),
}
"""What has output, by verb, with a name for an agent that is there."""
WAITING = {
    "logs": ("logs", "-f", "anchor"), "several logs": ("logs", "-f", "anchor", "buoy"), "events": ("events", "-f"),
    "trace": ("trace", "-f"), "wait": ("wait", "anchor"), "top": ("top", "-b", "-d", "60"),
}
"""What goes on until something happens."""
STATUS_OF_A_DEAD_KERNEL = {"wait": 125}


@pytest.fixture(scope="module")
def anchored(running):
    with running() as live:
        for name in ("anchor", "buoy"):
            live.spawn("--name", name, "--", "/bin/sh", "-c", "echo here; exec sleep 600")
            live.until_logged(name, "here")
        yield live
        live.ctl("rm", "-f", "anchor", "buoy", check=0)


def command(live, words):
    return [f"{BIN}/agentctl", "--prefix", live.prefix, *words]


def begun(live, words):
    """A verb that waits, once all of its connections are there."""
    process = live.begin(*words)
    try:
        live.until(lambda: connections(process.pid) == (2 if "buoy" in words else 1))
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process


def connections(pid):
    """How many connected Unix sockets a process has."""
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    inodes = {link[len("socket:["):-1] for link in links if link.startswith("socket:[")}
    with open("/proc/net/unix") as table:
        rows = [line.split() for line in table]
    return sum(row[5] == "03" and row[6] in inodes for row in rows[1:])


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_nobody_reads(anchored, words):
    """As `| head` leaves it: no word, and the status of a SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(anchored, words), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=WAIT_S)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_neither_output_nor_complaints_are_read(anchored, words):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(anchored, words), stdout=writing, stderr=writing, check=False, timeout=WAIT_S)
    os.close(writing)
    assert done.returncode == 141


@pytest.mark.parametrize("words", WAITING.values(), ids=WAITING)
def test_ctrl_c(anchored, words):
    with begun(anchored, words) as process:
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=WAIT_S)
    assert (process.returncode, complaint.strip()) == (130, "")


@pytest.mark.parametrize("words", WAITING.values(), ids=WAITING)
def test_stopped_and_continued(anchored, words):
    with begun(anchored, words) as process:
        process.send_signal(signal.SIGSTOP)  # what Ctrl-Z comes to; a real one needs a shell that controls jobs
        _, how = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(how)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=WAIT_S)
    assert (process.returncode, complaint.strip()) == (130, "")


def test_a_kernel_that_dies(make_kernel):
    live = make_kernel()
    for name in ("anchor", "buoy"):
        live.spawn("--name", name, "--", "/bin/sh", "-c", "echo here; exec sleep 600")
    verbs = {name: words for name, words in WAITING.items() if name != "top"}
    watching = {name: begun(live, words) for name, words in verbs.items()}
    live.process.kill()
    live.process.wait()
    for name, process in watching.items():
        _, complaint = process.communicate(timeout=WAIT_S)
        assert process.returncode == STATUS_OF_A_DEAD_KERNEL.get(name, 1), (name, complaint)
        assert set(complaint.splitlines()) - {"here"} == {complaint.splitlines()[0]}, (name, complaint)
        assert complaint.startswith("agentctl: the kernel closed the connection; "), (name, complaint)
    after = live.ctl("ps")
    assert (after.returncode, after.stderr.count("\n")) == (1, 1)
    live.start()


def test_the_tables_name_verbs():
    known = {*VERBS, "help", "help of a verb", "several logs"}
    assert {*READING, *WAITING} <= known
