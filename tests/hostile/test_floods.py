"""What one agent can make the kernel hold or do: bounded, and others are answered meanwhile."""

import errno
import os
import time

from emulation import on_a_real_machine

from agentix_syscalls import calls, signals

from .conftest import Attacker, resident

W = calls.O_WRONLY | calls.O_CREAT
MIB = 1 << 20


def test_waiting_calls_are_bounded(kernel, attack):
    _, attacker = attack()
    before = resident(kernel.process.pid)
    wait = [attacker.frame("SIGWAIT", signals.bit(signals.SIGUSR2), None) for _ in range(20_000)]
    attacker.send(*wait)
    value, number = attacker.answer()
    assert number == errno.EAGAIN, value
    attacker.send(attacker.frame("GETPID"))
    while attacker.answer()[1] == errno.EAGAIN:
        pass
    assert resident(kernel.process.pid) - before < 48 * MIB


def test_replies_that_nobody_reads_are_bounded(kernel, attack):
    _, attacker = attack()
    fd = attacker.done("OPEN", b"mem/working/big", calls.O_RDWR | calls.O_CREAT)
    for at in range(0, MIB, MIB // 2):
        attacker.done("WRITE", fd, bytes(MIB // 2), at)
    before = resident(kernel.process.pid)
    attacker.sock.setblocking(False)
    frames = b"".join(attacker.frame("READ", fd, MIB, 0) for _ in range(1000))
    attacker.sock.send(frames)
    peak = 0
    for _ in range(50):
        kernel.json("ps")
        peak = max(peak, resident(kernel.process.pid) - before)
    assert peak < 96 * MIB
    attacker.sock.settimeout(20)
    assert len(attacker.answer()[0]) == MIB  # and who reads gets all of them
    for _ in range(999):
        attacker.answer()


def test_tools_at_once_are_bounded_when_asked_in_one_breath(kernel, attack):
    _, attacker = attack("--pids", 200)
    attacker.send(*(attacker.frame("EXEC", "shell.execute", {"command": "sleep 2"}) for _ in range(40)))
    numbers = [attacker.answer()[1] for _ in range(24)]
    assert numbers == [errno.EAGAIN] * 24


def test_a_flood_of_terms_makes_one_reminder(kernel, scripts, attack):
    _, attacker = attack("--spawn-max", 1)
    source = b"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()\n"
    child = attacker.done("SPAWN", "script", ["deaf"], {"source": source})
    before = resident(kernel.process.pid)
    for _ in range(20):
        attacker.send(*(attacker.frame("SIGNAL", child, signals.SIGTERM) for _ in range(200)))
        for _ in range(200):
            attacker.answer()
    assert resident(kernel.process.pid) - before < 24 * MIB
    kernel.until_state(child, "dead", "zombie")


def slowest(kernel, victim, seconds: float = 2.0) -> float:
    """The longest that another agent waits for GETPID, in seconds."""
    worst, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        victim.done("GETPID")
        worst = max(worst, time.monotonic() - begun)
    return worst


@on_a_real_machine
def test_reading_the_record_all_the_time_does_not_hold_up_others(kernel, attack, scripts):
    _, victim = attack()
    _, noisy = attack()
    for _ in range(100):
        noisy.send(*(noisy.frame("GETPID") for _ in range(500)))
        for _ in range(500):
            noisy.answer()
    _, attacker = attack()
    attacker.send(*(attacker.frame("OPEN", b"proc/trace") for _ in range(60)))
    assert slowest(kernel, victim) < 0.5


@on_a_real_machine
def test_listing_a_huge_folder_over_and_over_does_not_hold_up_others(kernel, attack):
    _, victim = attack()
    _, attacker = attack()
    for start in range(0, 4000, 500):
        attacker.send(*(attacker.frame("MKDIR", b"mem/working/%0200d" % n) for n in range(start, start + 500)))
        for _ in range(500):
            attacker.answer()
    attacker.send(*(attacker.frame("READDIR", b"mem/working") for _ in range(200)))
    assert slowest(kernel, victim) < 0.5


@on_a_real_machine
def test_long_calls_on_many_connections_do_not_hold_up_others(kernel, attack):
    """Each walks 40 links of some 2,000 parts: 2 ms of the kernel's time a call, 3,000 of them at once."""
    _, victim = attack()
    agent, attacker = attack()
    for number in range(39):
        os.symlink("./" * 1900 + f"link{number + 1}", kernel.tree(agent, f"state/link{number}"))
    attacker.done("CLOSE", attacker.done("OPEN", b"state/link39", W))
    maze = b"".join(attacker.frame("STAT", b"state/link0") for _ in range(100))
    others = [kernel.connect(agent) for _ in range(30)]
    for sock in others:
        sock.sendall(Attacker(sock).frame("GETPID") + maze)
    assert slowest(kernel, victim) < 0.3
    for sock in others:
        sock.close()


@on_a_real_machine
def test_open_listings_of_a_huge_folder_are_bounded(kernel, scripts):
    agent = kernel.spawn(scripts("""
import os
os.chdir("/agent/self/state")
for number in range(20000):
    os.mkdir(str(number))
print("made", flush=True)
held = []
try:
    for _ in range(1000):
        held.append(os.scandir("."))
        next(held[-1])
except OSError as error:
    print("refused", error.errno, flush=True)
print("held", len(held), flush=True)
import signal
signal.pause()
"""))
    kernel.until_logged(agent, "made")
    between = resident(kernel.process.pid)
    kernel.until_logged(agent, "held")
    assert resident(kernel.process.pid) - between < 300 * MIB
    kernel.ctl("kill", "-9", agent, check=0)


def test_marks_of_a_log_are_bounded(make_kernel, scripts):
    kernel = make_kernel("log_bytes = 65536\n")
    agent = kernel.spawn(scripts("""
import os, time
for number in range(30000):
    os.write(1 + number % 2, b".")
    os.read(os.open("/agent/self/proc/usage", 0), 1) if number % 50 == 0 else None
print("end", flush=True)
"""))
    kernel.until_state(agent, "dead")
    folder = f"{kernel.prefix}/state/agents/{agent}"
    assert os.path.getsize(f"{folder}/log.marks") <= 65536
