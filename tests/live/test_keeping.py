"""The journal of a living kernel over time: anchored outside, dropped, with another key; and what is wrong with one is
named, with nothing overwritten.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess

from emulation import WAIT_S

SMALL = "journal_segment_bytes = 1048576\n"


def folder_of(live):
    return f"{live.prefix}/state/journal"


def content(live):
    """Every file of the journal, and what is in it."""
    found = {}
    for name in sorted(os.listdir(folder_of(live))):
        with open(f"{folder_of(live)}/{name}", "rb") as file:
            found[name] = file.read()
    return found


def offline(live, anchors=""):
    """What `audit verify` finds in the folder, without a kernel; (status, report)."""
    more = ("--anchors", anchors) if anchors else ()
    done = live.ctl("audit", "verify", "--json", "--journal", folder_of(live), *more)
    return done.returncode, json.loads(done.stdout)


def work(live):
    agent = live.spawn("--", "/bin/true")
    live.ctl("wait", agent, check=0)
    return agent


def refused(live):
    """What agentd says when it does not start."""
    command = [f"{os.path.dirname(live.words()[0])}/agentd", "--prefix", live.prefix]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


# --- anchors ---------------------------------------------------------------------------------------------------------

def test_an_end_that_was_cut_off_is_missed(make_kernel):
    live = make_kernel()
    work(live)
    live.until(lambda: live.json("audit", "verify")["unanchored_s"] == 0.0)
    live.stop()
    anchors = f"{live.prefix}/state/journal.anchors"
    status, report = offline(live, anchors)
    assert (status, report["ok"], report["unanchored_s"]) == (0, True, 0.0)  # the orderly end was anchored, too
    assert report["anchored_seq"] == report["last_seq"]
    path = f"{folder_of(live)}/00000001.seg"
    with open(path, "r+b") as file:
        data = file.read()
        end = len(data.rstrip(b"\0"))
        file.seek(end - 700)  # some groups, and zeros behind them as in a journal that ends there
        file.write(bytes(700))
    status, cut = offline(live, anchors)
    assert (status, cut["ok"]) == (1, False)
    (problem,) = [one["what"] for one in cut["problems"] if "at the end are missing" in one["what"]]
    assert f"records {cut['last_seq'] + 1} to {report['last_seq']} at the end are missing" in problem
    live.start()  # it takes what is there for the torn end of a crash; the anchors do not
    found = live.ctl("audit", "verify")
    assert found.returncode == 1
    assert "another chain" in found.stdout


def test_a_crash_is_no_alarm(make_kernel):
    live = make_kernel()
    for _ in range(2):
        work(live)
        live.process.kill()
        live.process.wait()
        live.start()
        assert live.json("audit", "verify")["ok"]


def test_witnesses_by_command_and_syslog(make_kernel, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as logger:
        logger.bind(f"{tmp_path}/log")
        logger.settimeout(WAIT_S)
        live = make_kernel(f"anchor_syslog = '{tmp_path}/log'\nanchor_file = '{tmp_path}/anchors'\n"
                           f"anchor_command = ['/bin/sh', '-c', 'cat >>{tmp_path}/told']\n")
        agent = work(live)
        shown = live.ctl("audit", "anchor", check=0)
        line = shown.stdout.strip()
        assert [row.split(": ")[1] for row in shown.stderr.splitlines()] == ["has it"] * 3
        for name in ("anchors", "told"):
            assert line in (tmp_path / name).read_text().splitlines()
        datagrams = b""
        while line.encode() not in datagrams:
            datagrams += logger.recv(4096) + b"\n"
        assert datagrams.startswith(b"<85>agentd[")
        last = live.record(agent)[-1]["seq"]
        live.stop()
    (tmp_path / "syslog").write_bytes(b"Nov 21 host kernel: other lines\n" + datagrams)
    for name in ("anchors", "told", "syslog"):
        status, report = offline(live, str(tmp_path / name))
        assert (status, report["ok"]) == (0, True)
        assert report["anchored_seq"] >= last
    (tmp_path / "none").write_text("no anchors here\n")
    told = live.ctl("audit", "verify", "--journal", folder_of(live), "--anchors", tmp_path / "none", check=1)
    assert "no anchor of this journal is there" in told.stderr
    assert live.ctl("audit", "verify", "--journal", tmp_path, check=1).stderr.endswith("no journal is here\n")


def test_a_witness_that_hangs_or_fails_holds_up_nothing(make_kernel, tmp_path):
    os.mkfifo(tmp_path / "never")
    (tmp_path / "broken").touch()
    script = f"test ! -e {tmp_path}/broken || exit 3; test -e {tmp_path}/mended || exec cat {tmp_path}/never"
    live = make_kernel(f"anchor_command = ['/bin/sh', '-c', '{script}']\n")

    def command():
        return next(row for row in live.json("info")["anchors"] if row["witness"] == "command /bin/sh")
    live.until(lambda: "ended with status 3" in command()["failing"])
    assert "what is recorded from now on is not anchored there" in live.log()
    (tmp_path / "broken").unlink()  # from here on it hangs
    work(live)
    live.until(lambda: live.json("audit", "verify")["unanchored_s"] == 0.0)  # by the file, beside it
    assert command()["seq"] == 0
    (tmp_path / "mended").touch()
    with contextlib.suppress(OSError):  # who hangs just now goes on
        os.close(os.open(tmp_path / "never", os.O_WRONLY | os.O_NONBLOCK))
    live.until(lambda: not command()["failing"] and command()["seq"])
    recorded = live.rows("audit", "query", "--kind", "anchor", "0")
    assert [(row["verdict"], row["data"]["witness"]) for row in recorded] == [
        ("failed", "command /bin/sh"), ("allowed", "command /bin/sh")]


# --- retention and keys ----------------------------------------------------------------------------------------------

def test_old_segments_are_compressed_and_dropped_and_the_rest_verifies(make_kernel):
    live = make_kernel(SMALL + "journal_keep_bytes = 1\n")
    agents = []
    for _ in range(4):
        agents.append(work(live))
        live.ctl("audit", "rotate", check=0)
    live.until(lambda: not os.path.exists(f"{folder_of(live)}/00000003.seg"))
    report = live.json("audit", "verify")
    assert (report["ok"], report["first_seq"]) == (True, report["dropped"] + 1)
    drops = live.rows("audit", "query", "--kind", "dropped", "0")
    assert drops[-1]["data"]["last_seq"] == report["dropped"]
    assert drops[-1]["data"]["summary"]["kinds"]["spawn"] >= 2
    assert not live.record(agents[0])
    live.stop()
    live.start()
    assert live.json("audit", "verify")["ok"]
    live.stop()
    first = min(os.listdir(folder_of(live)))
    shutil.move(f"{folder_of(live)}/{first}", live.prefix)
    status, report = offline(live)
    assert status == 1
    assert any("before it is missing" in problem["what"] for problem in report["problems"])
    shutil.move(f"{live.prefix}/{first}", folder_of(live))


def test_a_new_key(make_kernel):
    live = make_kernel(SMALL)
    agent = work(live)
    before = live.record(agent)
    new = live.ctl("audit", "rotate-key", check=0).stdout.strip()
    again = live.ctl("audit", "rotate-key", check=0).stdout.strip()
    later = work(live)
    live.ctl("audit", "rotate", check=0)
    live.until(lambda: os.path.getsize(f"{folder_of(live)}/00000001.seg") < 1 << 20)  # compressed
    live.until(lambda: live.record(agent) == before)
    assert live.rows("audit", "query", "--kind", "exit", str(agent), str(later))
    assert live.json("audit", "verify")["ok"]
    (made, _), (last, _) = [[row["data"]["key"], row["data"]["before"]]
                            for row in live.rows("audit", "query", "--kind", "key", "--phase", "outcome")]
    assert (made, last) == (new, again)
    live.stop()
    live.start()
    assert live.json("audit", "verify")["ok"]
    live.stop()
    keys = f"{live.prefix}/state/keys"
    old = next(name for name in os.listdir(keys) if new not in name and again not in name and name != "journal.key")
    shutil.move(f"{keys}/{old}", live.prefix)
    status, report = offline(live)
    assert status == 1
    assert old in report["problems"][0]["what"]
    shutil.move(f"{live.prefix}/{old}", keys)
    assert offline(live)[0] == 0


# --- what is wrong with a journal ------------------------------------------------------------------------------------

def spoilt_version(folder, keys):
    with open(f"{folder}/00000001.seg", "r+b") as file:
        file.seek(8)
        file.write(b"\x09")


def spoilt_key(folder, keys):
    with open(f"{keys}/journal.key", "wb") as file:
        file.write(b"w" * 32)


def spoilt_mode(folder, keys):
    os.chmod(f"{keys}/journal.key", 0o644)


def without_key(folder, keys):
    os.rename(f"{keys}/journal.key", f"{keys}/elsewhere")


def without_segment(folder, keys):
    os.unlink(f"{folder}/00000002.seg")


def swapped(folder, keys):
    os.rename(f"{folder}/00000003.seg", f"{folder}/x")
    os.rename(f"{folder}/00000002.seg", f"{folder}/00000003.seg")
    os.rename(f"{folder}/x", f"{folder}/00000002.seg")


SPOILT = (
    (spoilt_version, "newer agentix (format 9"), (spoilt_key, "this is key"), (spoilt_mode, "mode 0600"),
    (without_key, "is missing; put it back"), (without_segment, "00000002.seg is missing"),
    (swapped, "under another name"))


def test_what_is_wrong_is_named_and_nothing_is_overwritten(make_kernel):
    live = make_kernel(SMALL)
    work(live)
    for _ in range(2):
        live.ctl("audit", "rotate", check=0)
    live.stop()
    folder, keys = folder_of(live), f"{live.prefix}/state/keys"
    for path in (folder, keys):
        shutil.copytree(path, f"{path}.kept")
    for spoil, says in SPOILT:
        spoil(folder, keys)
        before = content(live)
        assert says in refused(live)
        assert content(live) == before
        for path in (folder, keys):
            shutil.rmtree(path)
            shutil.copytree(f"{path}.kept", path)
    live.start()
    assert live.json("audit", "verify")["ok"]


def test_foreign_files_and_a_read_only_journal(make_kernel):
    live = make_kernel()
    work(live)
    with open(f"{folder_of(live)}/notes.txt", "w") as file:
        file.write("hello")
    found = live.ctl("audit", "verify")
    assert (found.returncode, "notes.txt:0: not a file of a journal" in found.stdout) == (1, True)
    live.stop()
    live.start()  # it stands in nobody's way
    live.stop()
    with open(f"{folder_of(live)}/notes.txt") as file:
        assert file.read() == "hello"
    folder = folder_of(live)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        assert "Read-only file system" in refused(live)
    finally:
        subprocess.run(["umount", folder], check=True)
    live.start()


def test_two_kernels_on_one_folder(make_kernel):
    """Of prefixes that share a state directory: the second one goes away, and the first notices nothing."""
    live = make_kernel()
    agent = work(live)
    second = make_kernel(f"state_dir = '{live.prefix}/state'\nuid_first = 3_500_000_000\n", start=False)
    with open(f"{second.prefix}/agentd.toml", "w") as file:
        file.write(second.config)
    assert "another agentd has it open" in refused(second)
    assert live.record(agent)
    assert live.json("audit", "verify")["ok"]
