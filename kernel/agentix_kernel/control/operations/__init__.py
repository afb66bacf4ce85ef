"""What each control operation does. Each gets the client and its checked arguments; the rooms are named by what they
are about, and a function by its row in agentix_syscalls.control.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from agentix_kernel.control.operations import (
    agents,
    capabilities,
    change,
    explain,
    files,
    kernel,
    launch,
    policies,
    programs,
    record,
    replace,
    runtimes,
)
from agentix_syscalls.control import CONTROLS

ROOMS: Final = (kernel, launch, programs, agents, record, change, files, runtimes, policies, replace, explain,
                capabilities)


def _find(name: str) -> Callable[..., Any]:
    found: list[Callable[..., Any]] = [getattr(room, name) for room in ROOMS if _owns(room, name)]
    assert len(found) == 1, f"{name}: one room has it"
    return found[0]


def _owns(room: ModuleType, name: str) -> bool:
    return getattr(getattr(room, name, None), "__module__", None) == room.__name__


OPERATIONS: Final = {row.name: _find(row.name) for row in CONTROLS}
