"""What happens to agents, in the words of the operator's log: one table, by kind of record."""

from collections.abc import Callable
from typing import Any, Final

from agentix_kernel.process import Process, Why
from agentix_kernel.service.log import ERR, INFO, NOTICE, WARNING, Say
from agentix_syscalls import records

Told = tuple[int, str]
"""Priority and words."""
_BY_ITSELF: Final = {Why.EXIT.value, Why.KILLED.value, Why.SHUTDOWN.value}


def _spawned(process: Process, phase: int, verdict: int, data: tuple[Any, ...]) -> Told | None:
    if phase != records.OUTCOME:
        return None
    if verdict == records.FAILED:
        return WARNING, f"could not be spawned: {': '.join(data[-1])}"
    by = f"agent {process.parent}" if process.parent else "the operator"
    return INFO, f"spawned by {by}, uid {process.uid}"


def _ended(_process: Process, _phase: int, _verdict: int, data: tuple[Any, ...]) -> Told:
    _, _, why, detail, _ = data
    return INFO if why in _BY_ITSELF else ERR if why == Why.UNKILLABLE.value else NOTICE, detail


def _limited(_process: Process, _phase: int, verdict: int, data: tuple[Any, ...]) -> Told:
    return ERR if verdict == records.FAILED else NOTICE, f"{data[0]}: {data[1]}"


def _lost(_process: Process, _phase: int, _verdict: int, data: tuple[Any, ...]) -> Told:
    return NOTICE, f"its kernel died while it was {data[1]}"


WORDS: Final[dict[int, Callable[[Process, int, int, tuple[Any, ...]], Told | None]]] = {
    records.SPAWN: _spawned, records.EXIT: _ended, records.LIMIT: _limited, records.LOST: _lost,
}


def teller(say: Say, boot: int) -> Callable[[int, Process, int, int, tuple[Any, ...]], None]:
    """What Kernel.on_record wants: says of each record of these kinds, and of no other."""
    def tell(kind: int, process: Process, phase: int, verdict: int, data: tuple[Any, ...]) -> None:
        told = WORDS[kind](process, phase, verdict, data) if kind in WORDS else None
        if told is not None:
            priority, words = told
            say(f"agent {process.id} ({process.name}): {words}", priority=priority, agent=process.id, boot=boot)
    return tell
