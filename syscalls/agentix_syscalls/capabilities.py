"""Names of the capabilities that calls require. What an agent holds, and how it is narrowed, is the kernel's."""

from typing import Final

from attrs import frozen


@frozen
class Capability:
    name: str
    doc: str


CAPABILITIES: Final = (
    Capability("file:read", "read files of the own tree"),
    Capability("file:write", "change files of the own tree"),
    Capability("agent:spawn", "spawn agents, at most so many"),
    Capability("agent:wait", "wait for own children"),
    Capability("agent:signal", "signal itself and own children"),
    Capability("tool:exec", "run a tool through the kernel"),
    Capability("self", "ask about and end itself; never refused"),
)

BY_NAME: Final = {c.name: c for c in CAPABILITIES}
