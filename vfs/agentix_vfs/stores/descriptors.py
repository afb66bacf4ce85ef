"""Descriptors of host files, opened when needed and at most so many at a time.

A file is opened by name in its folder's descriptor, never by a path and never through a symbolic link, so nothing
that an agent plants in its tree can lead the daemon elsewhere on the host.
"""

import os
from collections import OrderedDict
from typing import Final

from attrs import define, field

from agentix_vfs.nodes import Directory, Mount, Node

FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOATIME


@define(eq=False)
class Descriptors:
    """An LRU of descriptors by inode number. A descriptor is good until the next call that may open another."""

    limit: int = 256
    _open: OrderedDict[int, tuple[int, Mount]] = field(init=False, factory=OrderedDict[int, tuple[int, Mount]])

    def __len__(self) -> int:
        return len(self._open)

    def keep(self, node: Node, descriptor: int) -> None:
        """From now on the cache's own, and closed by it."""
        assert node.ino not in self._open, "a node has one descriptor"
        while len(self._open) >= self.limit:
            os.close(self._open.popitem(last=False)[1][0])
        self._open[node.ino] = descriptor, node.mount

    def find(self, node: Node) -> int | None:
        found = self._open.get(node.ino)
        if found is None:
            return None
        self._open.move_to_end(node.ino)
        return found[0]

    def drop(self, node: Node) -> None:
        self._drop(node.ino)

    def drop_all(self, mount: Mount) -> None:
        """Those of every node of a mount."""
        for ino in [ino for ino, (_, held) in self._open.items() if held is mount]:
            self._drop(ino)

    def _drop(self, ino: int) -> None:
        found = self._open.pop(ino, None)
        if found is not None:
            os.close(found[0])

    def folder(self, node: Directory, top: Directory, path: str) -> int:
        """Descriptor of a folder of the store whose root `top` lies at `path`. Raises OSError."""
        missing: list[Directory] = []
        while (descriptor := self.find(node)) is None and node is not top:
            missing.append(node)
            node = node.parent
        if descriptor is None:
            descriptor = os.open(path, FOLDER_FLAGS)
            self.keep(node, descriptor)
        for below in reversed(missing):
            # keep() may close the oldest descriptor: that is never the one just used.
            descriptor = os.open(below.names[0][1], FOLDER_FLAGS, dir_fd=descriptor)
            self.keep(below, descriptor)
        return descriptor
