"""The table of events: what operators are told of, by the name that people use for it.

Each is derived from the flight record by its row: nothing is recorded twice, and past events are as good as new ones.
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from agentix_syscalls import records


@frozen
class Event:
    """One row. It happens with each record of this kind and phase and, where they are given, of this verdict and with
    this value in one of the record's fields. `fields` are those of the record's fields that are told.
    """

    name: str
    kind: int
    fields: tuple[str, ...]
    doc: str
    phase: int = records.EVENT
    verdict: int | None = None
    where: tuple[str, object] | None = None

    def tells(self, phase: int, verdict: int, fields: Mapping[str, Any]) -> bool:
        """Whether a record of `kind` is this event."""
        return (phase == self.phase and self.verdict in {None, verdict}
                and (self.where is None or fields.get(self.where[0]) == self.where[1]))


EVENTS: Final = (
    Event("boot", records.BOOT, ("boot", "version", "layers_accepted"), "a kernel started"),
    Event("shutdown", records.SHUTDOWN, ("why",), "a kernel ended in order"),
    Event("spawn", records.SPAWN, ("name", "parent", "uid"), "an agent runs", records.OUTCOME, records.ALLOWED),
    Event("spawn-failed", records.SPAWN, ("name", "parent", "failure"), "an agent could not be launched",
          records.OUTCOME, records.FAILED),
    Event("exit", records.EXIT, ("code", "signal", "why", "detail"), "an agent ended, and all of it is gone"),
    Event("restart", records.RESTART, ("why", "delay_s", "next_life"), "an ended agent is to be run again"),
    Event("lost", records.LOST, ("name", "state"), "an agent ran when its kernel died; found at the next boot"),
    Event("remove", records.REMOVE, ("name",), "a dead agent and its files were removed"),
    Event("rename", records.RENAME, ("name", "before", "by"), "an agent got another name"),
    Event("update", records.UPDATE, ("limits", "before", "by"), "limits of an agent were changed"),
    Event("stop", records.STATE, ("why",), "an agent was frozen", where=("state", "stopped")),
    Event("continue", records.STATE, ("why",), "an agent goes on", where=("state", "running")),
    Event("signal", records.SIGNAL, ("signal", "sender", "why", "delivery"), "a signal was sent"),
    Event("denial", records.DENIAL, ("enforcer", "call", "object", "message"), "something was refused by a rule",
          verdict=records.DENIED),
    Event("audited", records.DENIAL, ("enforcer", "call", "object", "message"),
          "something was allowed that a rule is against (mode audit)", verdict=records.AUDITED),
    Event("limit", records.LIMIT, ("limit", "detail"), "an agent met a limit"),
    Event("budget", records.BUDGET, ("budget", "limit", "message"), "a budget of an agent's policy is exhausted"),
    Event("fault", records.FAULT, ("what", "detail"), "a caller broke the protocol"),
    Event("tool", records.TOOL, ("tool", "status", "detail"), "a tool has run", records.OUTCOME),
    Event("exec", records.EXEC, ("argv", "who"), "a program is started beside an agent", records.INTENT),
    Event("exec-end", records.EXEC, ("argv", "status", "detail"),
          "a program beside an agent has ended, or was not started", records.OUTCOME),
    Event("reload", records.RELOAD, ("runtimes", "profiles", "detail"),
          "runtimes and profiles were put in force, or refused"),
    Event("error", records.ERROR, ("where", "traceback"), "the kernel's own fault"),
)

BY_NAME: Final = {event.name: event for event in EVENTS}
KINDS: Final = frozenset(event.kind for event in EVENTS)


def find(kind: int, phase: int, verdict: int, fields: Mapping[str, Any]) -> Event | None:
    """Which event a record is, if it is one."""
    return next((event for event in EVENTS if event.kind == kind and event.tells(phase, verdict, fields)), None)
