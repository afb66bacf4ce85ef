"""The table of resources: what a capability may be about, what may be done with it, and what its path means.

Read by calls.py (which capability a call needs), by the kernel's capability strings and policy rules, and by the
published schema. What an agent holds, and how it is narrowed, is the kernel's.
"""

from typing import Final

from attrs import frozen

BROKER: Final = "planned: enforced from the broker on"
TALK: Final = "planned: Tools and talk"


@frozen
class Resource:
    """One row. `path` says what the names of an object are; `actions` are pairs of a name and a sentence.

    `depth`: how many names an object has; None: any number, as in a path, and what is named has all below it.
    `held` False: no agent needs to hold it; policies can only deny it.
    """

    name: str
    doc: str
    path: str
    actions: tuple[tuple[str, str], ...]
    depth: int | None = None
    held: bool = True
    support: str = "full"

    @property
    def action_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.actions)


@frozen
class Capability:
    """One action of one resource, as a call names what it needs: `file:read`."""

    name: str
    doc: str


RESOURCES: Final = (
    Resource("file", "files of the agent's own tree", "the path in the tree, such as /state/notes",
             (("read", "read files of the own tree"), ("write", "change files of the own tree"))),
    Resource("agent", "other agents", "whom: for spawn the name of the new one, for wait child",
             (("spawn", "spawn agents, at most so many"), ("wait", "wait for own children")), depth=1),
    Resource("signal", "signals", "whom, then which: self/SIGUSR1, child/SIGTERM; whom is self, child or a name",
             (("send", "signal itself and own children"),), depth=2),
    Resource("tool", "tools that the kernel runs", "the tool's name, such as shell.execute",
             (("exec", "run a tool through the kernel"),), depth=1),
    Resource("call", "system calls by name", "the call's name, then the path it is about, if any: RENAME/state",
             (("make", "make a system call"),), held=False),
    Resource("shell", "commands of tools that run a shell", "the program's name",
             (("execute", "run a command"),), depth=1, support=TALK),
    Resource("ipc", "mailboxes and pipes between agents", "whom, then the channel",
             (("send", "send to another agent"), ("receive", "take what another agent sent")),
             depth=2, support="partial: no call of this version needs it"),
    Resource("http", "requests over HTTP", "the host, then the path of the request",
             (("request", "make a request"),), support=BROKER),
    Resource("net", "the network", "the host, then the port", (("connect", "connect to a host"),), depth=2,
             support=BROKER),
)

SELF: Final = Capability("self", "ask about and end itself; never refused")
CAPABILITIES: Final = (*(Capability(f"{row.name}:{action}", doc) for row in RESOURCES for action, doc in row.actions),
                       SELF)

BY_NAME: Final = {c.name: c for c in CAPABILITIES}
RESOURCE_BY_NAME: Final = {row.name: row for row in RESOURCES}
