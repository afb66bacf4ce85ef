"""The keys of the chain: 32 random bytes each, in files of their own, away from what they vouch for.

Who has only the journal's folder cannot forge a link. Segments carry the id of their key, so that a later key takes
over with a new segment. The one in use lies in `journal.key`; beside it `journal-<id>.key` are those that older
segments verify with, and for a moment the one that is about to take over.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from attrs import evolve, field, frozen

from agentix_kernel.journal.errors import JournalKeyError
from agentix_kernel.world import Disk

KEY_BYTES: Final = 32
LINK_BYTES: Final = 32
TAG_BYTES: Final = 8

_ID: Final = b"agentix-key-id"
_LINK: Final = b"agentix-link"
_TAG: Final = b"agentix-tag"
_BESIDE: Final = re.compile(r"journal-[0-9a-f]{16}\.key")


@frozen
class Key:
    """A secret of 32 bytes. `path` is where it was read, to show to people; `others` are the keys kept beside it,
    which may have it among them.
    """

    secret: bytes = field(repr=False)
    path: str = "the given key"
    others: "tuple[Key, ...]" = field(default=(), repr=False, eq=False)
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

    def of(self, key_id: bytes) -> "Key | None":
        """This key or the one beside it that has the id."""
        return next((key for key in (self, *self.others) if key.id == key_id), None)

    def of_tag(self, number: int, tag: bytes) -> "Key":
        """The key by which groups of segment `number` begin so; this one when it is none of them."""
        return next((key for key in (self, *self.others) if key.tag(number) == tag), self)

    def lead(self, first: "Key") -> "Key":
        """`first`, with this one and those beside it kept beside."""
        every = {key.id: evolve(key, others=()) for key in (*self.others, self, *first.others)}
        return evolve(first, others=tuple(every.values()))

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
    """Read the key with those beside it, or make it when the journal on `disk` is new.

    Raises JournalKeyError when it is missing though segments exist, when others may read one, or when one is no key.
    """
    if not os.path.lexists(path):
        if any(name.endswith(".seg") for name in disk.names()):
            raise JournalKeyError(
                errno.ENOKEY, f"{path}: the key of the journal in {disk} is missing; put it back from a copy, or move "
                "the journal away to begin a new one")
        _write(path, random(KEY_BYTES))
    return read_keys(path)


def read_keys(path: str) -> Key:
    """The key in `path` and those beside it. Raises JournalKeyError, OSError."""
    folder = os.path.dirname(path) or "."
    beside = [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if _BESIDE.fullmatch(name)]
    return Key(_read(path), path, tuple(Key(_read(other), other) for other in beside))


def make_key(path: str, random: Callable[[int], bytes]) -> Key:
    """A new key, kept durably beside the one in `path`, which stays in use until `adopt`. Raises OSError."""
    key = Key(random(KEY_BYTES))
    beside = f"{os.path.dirname(path) or '.'}/journal-{key.id.hex()}.key"
    _write(beside, key.secret)
    return evolve(key, path=beside)


def adopt(path: str, key: Key) -> None:
    """Make `key` the one in `path`; what was there is kept beside it. A crash leaves every key somewhere."""
    old = Key(_read(path), path)
    if old.id == key.id:
        return
    folder = os.path.dirname(path) or "."
    with suppress(FileExistsError):
        os.link(path, f"{folder}/journal-{old.id.hex()}.key")
    _write(path, key.secret)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise JournalKeyError(errno.EACCES, f"{path}: the key of the journal must be a file of mode 0600, not "
                                  f"{stat.filemode(status.st_mode)}; who could read it could forge the record")
        return file.read(KEY_BYTES + 1)


def _write(path: str, secret: bytes) -> None:
    """Whole and durable, or what was there before: written beside, and renamed."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fresh = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        file.write(secret)
        os.fsync(fd)
    os.rename(fresh, path)
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
