"""Defects that were measured in other systems for agents, each told as what must happen here instead."""

import os

import pytest
from hostile.conftest import Attacker, attack, kernel, make_kernel, resident, running, scripts


@pytest.fixture
def host(kernel, tmp_path):
    """A file of the host's that no agent is shown: its path, and what must be in it still when the test is over."""
    path = tmp_path / "precious"
    path.write_text("kept")
    yield path
    assert path.read_text() == "kept"


def of_uid(uid: int) -> list[int]:
    """Processes of the machine that have this uid."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and owner(int(name)) == uid]


def owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return -1


__all__ = ["Attacker", "attack", "host", "kernel", "make_kernel", "of_uid", "resident", "running", "scripts"]
