"""Fault points: who may arm one, and that each row leads to something that is there."""

import importlib
import os

import pytest

from agentix_kernel import faults
from agentix_kernel.config import Config, ConfigError, load


def config(*, allowed):
    return Config("/k", "/k/agentd.toml", load("/k").values | {"fault_injection": allowed})


@pytest.mark.parametrize("point", faults.POINTS, ids=lambda point: point.name)
def test_each_point_is_at_something_that_can_be_called(point):
    room, _, name = point.module.rpartition(":")
    found = importlib.import_module(f"agentix_{room or 'kernel'}.{name}")
    for step in point.path.split("."):
        found = getattr(found, step)
    assert callable(found)


def test_names_are_one_points_each():
    assert len(faults.BY_NAME) == len(faults.POINTS)


def test_without_the_key_no_word_of_the_environment_counts():
    environment = {faults.VARIABLE: "journal.write:1"}
    with pytest.raises(ConfigError, match="no fault_injection"):
        faults.arm(config(allowed=False), environment)
    assert environment == {}  # nor do our children see it


@pytest.mark.parametrize("word", ["journal.write", "journal.write:", "journal.write:0", "journal.write:x", "nothing:1"])
def test_a_word_that_is_no_point_is_refused(word):
    with pytest.raises(ConfigError, match="wants POINT:N"):
        faults.arm(config(allowed=True), {faults.VARIABLE: word})


def test_nothing_is_armed_unless_asked():
    assert faults.arm(config(allowed=True), {}) == ""


@pytest.mark.parametrize(("side", "written"), [(faults.BEFORE, b""), (faults.HALF, b"ab"), (faults.AFTER, b"abcd")])
def test_the_process_ends_on_that_side_of_that_hit(tmp_path, side, written):
    path = tmp_path / "out"
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY)
            deadly = faults._deadly(os.pwrite, side, iter([1, 2]), 2)
            deadly(fd, b"", 0)
            deadly(fd, b"abcd", 0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert (os.WTERMSIG(status), path.read_bytes()) == (9, written)
