"""The key of the chain: 32 random bytes in a file of their own, away from what they vouch for.

Who has only the journal's folder cannot forge a link. Segments carry the id of their key, so that a later key can
take over with a new segment.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from attrs import field, frozen

from agentix_kernel.journal.errors import JournalKeyError
from agentix_kernel.world import Disk

KEY_BYTES: Final = 32
LINK_BYTES: Final = 32
TAG_BYTES: Final = 8

_ID: Final = b"agentix-key-id"
_LINK: Final = b"agentix-link"
_TAG: Final = b"agentix-tag"


@frozen
class Key:
    """A secret of 32 bytes. `path` is where it was read, to show to people."""

    secret: bytes = field(repr=False)
    path: str = "the given key"
    id: bytes = field(init=False)
    _base: "hashlib.blake2b" = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise JournalKeyError(errno.EINVAL, f"{self.path}: a key has {KEY_BYTES} bytes, not {len(self.secret)}")
        object.__setattr__(self, "id", self._keyed(_ID, 8).digest())
        # The keyed state is made once and copied for each link: a third cheaper than keying anew.
        object.__setattr__(self, "_base", self._keyed(_LINK, LINK_BYTES))

    def _keyed(self, person: bytes, size: int) -> "hashlib.blake2b":
        return hashlib.blake2b(key=self.secret, person=person, digest_size=size)

    def link(self, previous: bytes, digest: bytes) -> bytes:
        """The next link of the chain: keyed blake2b over the previous link and the hash of what follows it."""
        state = self._base.copy()
        state.update(previous + digest)
        return state.digest()

    def tag(self, number: int) -> bytes:
        """How groups of segment `number` begin: unknown to agents, so that no content of theirs looks like a group."""
        state = self._keyed(_TAG, TAG_BYTES)
        state.update(number.to_bytes(8, "little"))
        tag = state.digest()
        return tag if tag[:1] != b"\0" else b"\1" + tag[1:]


def open_key(path: str, random: Callable[[int], bytes], disk: Disk) -> Key:
    """Read the key, or make it when the journal on `disk` is new.

    Raises JournalKeyError when it is missing though segments exist, when others may read it, or when it is no key.
    """
    try:
        return Key(_read(path), path)
    except FileNotFoundError:
        if any(name.endswith(".seg") for name in disk.names()):
            raise JournalKeyError(
                errno.ENOKEY, f"{path}: the key of the journal in {disk} is missing; put it back from a copy, or move "
                "the journal away to begin a new one") from None
    _make(path, random(KEY_BYTES))
    return Key(_read(path), path)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise JournalKeyError(errno.EACCES, f"{path}: the key of the journal must be a file of mode 0600, not "
                                  f"{stat.filemode(status.st_mode)}; who could read it could forge the record")
        return file.read(KEY_BYTES + 1)


def _make(path: str, secret: bytes) -> None:
    """Whole and durable, or not there: written beside and linked, so that a crash leaves no half key."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fresh = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        file.write(secret)
        os.fsync(fd)
    os.link(fresh, path)
    os.unlink(fresh)
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
