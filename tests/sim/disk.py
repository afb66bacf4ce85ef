"""A disk that can lose power: everything written since the last sync may be kept, dropped, torn or reordered."""

import errno
import random
from collections.abc import Iterator

from attrs import define, field

SECTOR = 512
EVERYTHING = frozenset({"create", "pwrite", "datasync"})


@define
class Inode:
    """Bytes as a reader sees them now, bytes that are on stable storage, and the writes between the two."""

    now: bytearray
    stable: bytearray
    writes: list[tuple[int, bytes]] = field(factory=list)

    def sync(self) -> None:
        self.stable[:] = self.now
        self.writes.clear()


class SimFile:
    """world.File."""

    def __init__(self, disk: "SimDisk", inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def pwrite(self, data: bytes, offset: int) -> int:
        done = self._disk.admit("pwrite", len(data))
        inode = self._inode
        end = offset + done
        if end > len(inode.now):
            inode.now.extend(bytes(end - len(inode.now)))
        inode.now[offset:end] = data[:done]
        inode.writes.append((offset, bytes(data[:done])))
        return done

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(self._inode.now[offset:offset + count])

    def datasync(self) -> None:
        self._disk.admit("datasync", 0)
        self._inode.sync()

    def size(self) -> int:
        return len(self._inode.now)

    def close(self) -> None:
        pass


class SimDisk:
    """world.Disk in memory.

    `crash` loses power, deterministically for a seed; `kill` is the end of the process alone, which loses nothing.
    `full`: create raises ENOSPC. `fail_after`: so many operations still work, the next one fails with `fail_with`;
    a pwrite that fails has written a part before, and goes on failing until `fail_after` is None. `fail_on`: which
    operations those are.
    A crash at every write boundary is had with `fail_after` and then `crash` or `kill`.
    """

    def __init__(self, seed: int = 0) -> None:
        self.full = False
        self.fail_after: int | None = None
        self.fail_with = errno.EIO
        self.fail_on = EVERYTHING
        self.operations = 0
        self.files: dict[str, Inode] = {}
        self._random = random.Random(seed)
        self._locked = False

    def __str__(self) -> str:
        return "of the simulation"

    # --- world.Disk ----------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(self.files)

    def create(self, name: str, size_bytes: int) -> SimFile:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", name)
        self.admit("create", 0)
        if name in self.files:
            raise FileExistsError(errno.EEXIST, "File exists", name)
        inode = self.files[name] = Inode(bytearray(size_bytes), bytearray(size_bytes))
        return SimFile(self, inode)

    def open(self, name: str, *, write: bool = False) -> SimFile:
        del write
        return SimFile(self, self._inode(name))

    def truncate(self, name: str, size_bytes: int) -> None:
        inode = self._inode(name)
        for content in (inode.now, inode.stable):
            del content[size_bytes:]
            content.extend(bytes(size_bytes - len(content)))

    def replace(self, name: str, data: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", name)
        self.admit("replace", 0)
        self._inode(name)
        self.files[name] = Inode(bytearray(data), bytearray(data))

    def remove(self, name: str) -> None:
        self.admit("remove", 0)
        self._inode(name)
        del self.files[name]

    def lock(self) -> None:
        if self._locked:
            raise BlockingIOError(errno.EAGAIN, "locked")
        self._locked = True

    def unlock(self) -> None:
        self._locked = False

    # --- what can happen to it -----------------------------------------------------------------------------------

    def admit(self, operation: str, size: int) -> int:
        """Count an operation, or fail it; a pwrite may be cut short first. Returns how many bytes are done."""
        self.operations += 1
        if self.fail_after is None or operation not in self.fail_on:
            return size
        if self.fail_after > 0:
            self.fail_after -= 1
            return size
        if operation == "pwrite" and size > 1 and self.fail_after == 0:
            self.fail_after = -1
            return self._random.randrange(1, size)
        raise OSError(self.fail_with, f"injected into {operation}")

    def kill(self) -> None:
        """End the process by signal 9: what was written stays."""
        self._locked = False
        self.fail_after = None

    def crash(self, seed: int) -> None:
        """Power loss. Of what was written since each file's last sync anything may have arrived, in any order."""
        chance = random.Random(seed)
        for name in sorted(self.files):
            inode = self.files[name]
            survivors = [piece for write in inode.writes for piece in _pieces(chance, write)]
            chance.shuffle(survivors)
            for offset, data in survivors:
                end = offset + len(data)
                inode.stable.extend(bytes(max(0, end - len(inode.stable))))
                inode.stable[offset:end] = data
            inode.now[:] = inode.stable
            inode.writes.clear()
        self.kill()

    def _inode(self, name: str) -> Inode:
        try:
            return self.files[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name) from None


def _pieces(chance: random.Random, write: tuple[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """What arrived of one write: all, nothing, a part of any length, or some of its sectors."""
    offset, data = write
    fate = chance.choice(("all", "none", "begin", "end", "sectors"))
    cut = chance.randrange(len(data) + 1)
    if fate == "all":
        yield offset, data
    elif fate == "begin":
        yield offset, data[:cut]
    elif fate == "end":
        yield offset + cut, data[cut:]
    elif fate == "sectors":
        for at in range(0, len(data), SECTOR):
            if chance.random() < 0.5:
                yield offset + at, data[at:at + SECTOR]
