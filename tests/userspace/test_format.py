"""How agentctl shows and reads sizes, durations, colours and untrusted text."""

import os
import pty
import subprocess
import sys
import time

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix.agentctl import format as show


@pytest.mark.parametrize(("word", "count"), [
    ("0", 0), ("512M", 512 << 20), ("2G", 2 << 30), ("64Ki", 65536), ("64KiB", 65536), ("1.5k", 1536), ("10B", 10),
])
def test_sizes_are_read(word, count):
    assert show.read_size(word) == count


@pytest.mark.parametrize("word", ["", "M", "-1", "1X", "1 M x", "0x10", "1e9"])
def test_what_is_not_a_size(word):
    with pytest.raises(click.BadParameter):
        show.read_size(word)


@pytest.mark.parametrize(("word", "seconds"), [("5", 5), ("0.5s", 0.5), ("5m", 300), ("2h", 7200), ("1d", 86400),
                                               ("250ms", 0.25)])
def test_durations_are_read(word, seconds):
    assert show.read_duration(word) == seconds


@pytest.mark.parametrize("word", ["", "s", "5 m", "-5", "5w", "inf"])
def test_what_is_not_a_duration(word):
    with pytest.raises(click.BadParameter):
        show.read_duration(word)


@pytest.mark.parametrize(("word", "wall_ns"), [
    ("2026-11-21T18:00:00Z", 1_795_284_000_000_000_000), ("2026-11-21t18:00:00.25+01:00", 1_795_280_400_250_000_000),
    ("1970-01-01", 0),
])
def test_times_are_read(word, wall_ns, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert show.read_moment(word) == wall_ns


def test_a_duration_is_so_long_ago():
    before = time.time_ns()
    assert before - 300 * 10**9 <= show.read_moment("5m") <= time.time_ns() - 300 * 10**9


@pytest.mark.parametrize("word", ["", "yesterday", "2026-13-01", "18:00", "9" * 40])
def test_what_is_not_a_time(word):
    with pytest.raises(click.BadParameter):
        show.read_moment(word)


@pytest.mark.parametrize(("count", "word"), [
    (0, "0"), (1023, "1023"), (1024, "1.0K"), (12 << 20, "12.0M"), (300 << 20, "300M"), (1 << 62, "4096P"),
])
def test_sizes_are_shown(count, word):
    assert show.size(count) == word


@pytest.mark.parametrize(("seconds", "word"), [
    (-1, "0.00s"), (0.254, "0.25s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7830, "2h10m"),
    (86400 * 3 + 14400, "3d04h"),
])
def test_durations_are_shown(seconds, word):
    assert show.duration(seconds) == word


@given(st.text())
def test_nothing_printable_steers_a_terminal(text):
    shown = show.printable(text)
    assert all(ord(letter) >= 0x20 and not 0x7f <= ord(letter) <= 0x9f for letter in shown)
    shown.encode()


def on_a_terminal(**environment):
    """What a table looks like on a terminal 40 columns wide."""
    code = "from agentix.agentctl import format as f; f.table(('STATE', 'WHAT'), [('running', 'x' * 60)])"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True,
                   env={**os.environ, "COLUMNS": "40", "TERM": "xterm", **environment})
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    return shown.split("\r\n")[1]


def test_a_terminal_gets_colour_and_its_width():
    assert on_a_terminal(NO_COLOR="") == "\x1b[32mrunning\x1b[0m  " + "x" * 30 + "…"
    assert on_a_terminal(NO_COLOR="1") == "running  " + "x" * 30 + "…"


@given(st.lists(st.tuples(st.integers(0, 10**6), st.text("ab ", max_size=70), st.text("xyz", max_size=70)), max_size=5),
       st.integers(24, 100))
def test_what_is_cut_says_so(rows, width):
    """No line is wider than the terminal, numbers stay whole, and a cell is whole or ends in an ellipsis."""
    _, *lines = show.lay_out(("ID", "NAME", "COMMAND"), rows, ("ID",), width)
    for line, row in zip(lines, rows, strict=True):
        assert len(line) <= width
        assert line.split()[0] == str(row[0])
        assert line.endswith((row[2].rstrip(), "…")) or not row[2]
        assert row[1].strip() in line or "…" in line


def test_wide_columns_give_way_to_each_other():
    rows = [("n" * 60, "c" * 60)]
    assert list(show.lay_out(("NAME", "COMMAND"), rows, (), 40))[1] == "n" * 21 + "…  " + "c" * 15 + "…"


def test_what_is_folded_is_whole():
    rows = [("fuse", "off", "there is none; apt install fuse3"), ("root", "on", "")]
    assert list(show.lay_out(("LAYER", "STATE", "DETAIL"), rows, (), 32, fold=True))[1:] == [
        "fuse   off    there is none; apt", "              install fuse3", "root   on"]


def test_each_column_is_folded():
    rows = [("allow", "capability://file/state?action=read", "bot.yaml:9", "asked by READ"), ("deny", "x", "-", "y")]
    lines = list(show.lay_out(("PART", "WHAT", "WHERE", "HOW"), rows, (), 44, fold=True))
    assert all(len(line) <= 44 and "…" not in line for line in lines)
    assert "".join(line[7:].split("  ")[0].strip() for line in lines[1:-1]).startswith("capability://")
    assert lines[-1].split() == ["deny", "x", "-", "y"]
