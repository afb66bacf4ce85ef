"""Kinds of journal records, their phases and verdicts. Numbers are on disk: append-only."""

from typing import Final

from attrs import frozen


@frozen
class Kind:
    """One row. `durable` records are fdatasync'ed before what they tell of is acknowledged.

    `fields` names the positions of the record's data array. Flight kinds are kept; `body` kinds (redo, write-ahead)
    may lose their data after a checkpoint, keeping its hash in the chain.
    """

    number: int
    name: str
    durable: bool
    fields: tuple[str, ...]
    doc: str
    flight: bool = True


KINDS: Final = (
    Kind(1, "boot", True, ("boot", "version", "machine", "layers_accepted"), "a kernel started"),
    Kind(2, "step", False, ("step", "detail"), "a step of the boot or of the shutdown"),
    Kind(3, "shutdown", True, ("why",), "a kernel ended in order"),
    Kind(4, "spawn", True, ("name", "parent", "uid", "spawn_kind", "argv", "limits", "policy", "runtime", "profile",
                            "failure"),
         "an agent was spawned"),
    Kind(5, "exit", True, ("code", "signal", "why", "detail", "usage"), "an agent ended, and all of it is gone"),
    Kind(6, "call", False, ("call", "args", "errno", "message"), "a system call with its verdict"),
    Kind(7, "signal", True, ("signal", "sender", "why", "delivery"), "a signal was sent"),
    Kind(8, "state", False, ("state", "why"), "an agent was stopped or continued"),
    Kind(9, "denial", True, ("enforcer", "call", "object", "message"), "something was refused"),
    Kind(10, "fault", True, ("what", "detail"), "a caller broke the protocol"),
    Kind(11, "limit", True, ("limit", "detail"), "an agent met a limit"),
    Kind(12, "tool", True, ("tool", "status", "detail"), "a tool ran"),
    Kind(13, "file", False, ("operation", "path", "errno", "by"),
         "a file operation through the mount, or by an operator over the control socket"),
    Kind(14, "lost", True, ("name", "state"), "an agent that ran when a kernel died; found at the next boot"),
    Kind(15, "error", True, ("where", "traceback"), "the kernel's own fault"),
    Kind(16, "anchor", True, ("head", "seq", "witness", "detail"),
         "the head of the chain was anchored on demand, or a witness began or ceased to fail"),
    Kind(17, "grant", True, ("capability", "source", "change", "handle", "giver", "giver_handle", "by"),
         "a capability was given: by a policy at the begin of a life, by an operator, or by who held it"),
    Kind(18, "revoke", True, ("capability", "source", "change", "handle", "giver", "giver_handle", "by"),
         "a capability was taken back, or it expired"),
    Kind(19, "policy", True, ("hash", "detail"), "a policy was set"),
    Kind(20, "dropped", True, ("first_seq", "last_seq", "summary"), "closed segments were dropped by retention"),
    Kind(21, "remove", True, ("name",), "a dead agent and its files were removed"),
    Kind(22, "rename", True, ("name", "before", "by"), "an agent got another name"),
    Kind(23, "update", True, ("limits", "before", "by"), "limits of an agent were changed"),
    Kind(24, "restart", True, ("why", "delay_s", "next_life"), "an agent is to be run again"),
    Kind(25, "exec", True, ("argv", "who", "status", "detail"), "a program was started beside an agent, or ended"),
    Kind(26, "reload", True, ("runtimes", "profiles", "detail"), "runtimes and profiles were put in force, or refused"),
    Kind(27, "budget", True, ("budget", "limit", "message"), "a budget of an agent's policy is exhausted"),
    Kind(28, "key", True, ("key", "before", "by"), "the journal goes on with another key"),
    Kind(29, "stall", True, ("seconds", "stacks"), "the kernel's loop did not turn for so long"),
    Kind(30, "panic", True, ("where", "what", "epitaph"), "the kernel ended itself: its state could not be relied on"),
    Kind(32, "redo", False, ("body",), "a change of the tree", flight=False),
    Kind(33, "ahead", True, ("body",), "a durable operation of a ring", flight=False),
)

BY_NUMBER: Final = {k.number: k for k in KINDS}
BY_NAME: Final = {k.name: k for k in KINDS}

(BOOT, STEP, SHUTDOWN, SPAWN, EXIT, CALL, SIGNAL, STATE, DENIAL, FAULT, LIMIT, TOOL, FILE, LOST, ERROR, ANCHOR,
 GRANT, REVOKE, POLICY, DROPPED, REMOVE, RENAME, UPDATE, RESTART, EXEC, RELOAD, BUDGET, KEY, STALL, PANIC,
 REDO, AHEAD) = (k.number for k in KINDS)

PHASES: Final = ("event", "intent", "outcome")
EVENT, INTENT, OUTCOME = range(3)

VERDICTS: Final = ("none", "allowed", "denied", "audited", "failed", "faulted")
NONE, ALLOWED, DENIED, AUDITED, FAILED, FAULTED = range(6)
