"""Who asks, and what mode bits let them do (path door only: on the mount Linux itself checks)."""

from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    from agentix_vfs.nodes import Node

READ: Final = 4
WRITE: Final = 2
SEARCH: Final = 1


@frozen
class Who:
    """A caller: uid and gid of the process, and `agent`, the id of the agent it belongs to (0: the host's people).

    uid 0 passes permission checks as root does on Linux; rules of mounts (append-only, read-only) bind it too.
    """

    uid: int
    gid: int
    agent: int = 0


def permits(who: Who, node: "Node", wanted: int) -> bool:
    """Whether the mode bits give `who` all of `wanted` (READ | WRITE | SEARCH). The most specific class decides."""
    if who.uid == 0:
        return True
    if who.uid == node.uid:
        granted = node.mode >> 6
    elif who.gid == node.gid:
        granted = node.mode >> 3
    else:
        granted = node.mode
    return granted & wanted == wanted
