r"""The file format of the journal, version 1. All numbers little-endian.

A folder holds segments `00000001.seg`, `00000002.seg` ..., each preallocated and zeroed. A segment:

    0    head: magic "AGXJRNL\0", version u16, bytes of the head u16, flags u32, number u64, first sequence u64,
         wall time u64, key id 8, boot id 16, previous link 32, sha256 of all that 32, link 32
    512  groups, one behind the other; zeros end them

    group: tag 8, flags u16, reserved u16, bytes of records u32, bytes of bodies u32, count u32, first sequence u64,
           durable sequence u64, monotonic ns u64, wall ns u64, digest 32, link 32, records, bodies

- `digest` is sha256 over the fields before it and the records: one look tells whether a group is whole (a checksum
  beside it would tell nothing more). `link` is keyed blake2b over the previous link and the digest; heads are links
  of the same chain, so alteration, insertion, deletion and reordering are seen anywhere.
- `durable` is the sequence known to be on stable storage when the group was written. A hole followed by a group that
  says the hole had been durable is damage; any other hole is what a power loss leaves, and is cut.
- `tag` is keyed and of the segment: content that an agent chose can never be taken for a group.
- records: msgpack arrays [ns since the group's time, agent, life, kind, phase, verdict, rule, correlation, data],
  the sequence being the first plus the index. A record of a kind that may lose its body (redo, write-ahead) has nil
  as data, then the length of its body, which stands in `bodies`. Such a group has flag 1, and its records begin with
  the sha256 of the bodies: so that these may go after a checkpoint, and the chain still verifies. Gone they are when
  they are 32 bytes that only who has the key can make (`drop_mark`), then zeros; anything else is a torn write.
- Unknown versions and flags are refused, never skipped. A closed segment that was compressed has version 2: packed.py.

Two hashes and not one, because sha256 runs at 1.7 GB/s where the CPU helps and keyed blake2b at 0.7: bulk goes through
the first, 64 bytes a group through the second.
"""

import errno
import hashlib
import re
import struct
from typing import Any, Final

import msgpack
from attrs import define, frozen

from agentix_kernel.journal.errors import JournalNewer
from agentix_kernel.journal.key import LINK_BYTES, Key

MAGIC: Final = b"AGXJRNL\0"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sHHIQQQ8s16s32s")
HEAD_BYTES: Final = HEAD.size + 32 + LINK_BYTES
FIRST_GROUP: Final = 512
GROUP: Final = struct.Struct("<8sHHIIIQQQQ")
DIGEST_AT: Final = GROUP.size
LINK_AT: Final = DIGEST_AT + 32
GROUP_BYTES: Final = LINK_AT + LINK_BYTES
SEGMENT_BYTES: Final = 8 << 20
SEGMENT_MIN_BYTES: Final = 4096
SEGMENT_MAX_BYTES: Final = 1 << 30
F_BODIES: Final = 1
OVERHEAD_MAX_BYTES: Final = GROUP_BYTES + 32
"""What a group takes beside its records and bodies, at most."""
NO_LINK: Final = bytes(LINK_BYTES)
"""What the first segment follows."""

_NAME: Final = re.compile(r"(\d{8})\.seg")
_ARRAY32: Final = b"\xdd"


def newer(what: str) -> JournalNewer:
    return JournalNewer(errno.EPROTONOSUPPORT, f"the journal was written by a newer agentix ({what}); run that one")


class Broken(ValueError):  # noqa: N818 - it is said of a place: here it is broken
    """The bytes here are not a whole head or group; the text says what is wrong with them."""


@frozen
class Head:
    """The head of a segment that is in use."""

    number: int
    first_seq: int
    wall_ns: int
    key_id: bytes
    boot_id: bytes
    previous: bytes
    link: bytes


@define
class Group:  # not frozen: that doubles what verifying a small group takes
    """A whole group at `start` of the bytes it was found in; `end` is where the next one begins."""

    start: int
    end: int
    count: int
    first_seq: int
    durable: int
    mono_ns: int
    wall_ns: int
    records_at: int
    bodies_at: int
    dropped: bool
    digest: bytes
    link: bytes

    @property
    def next_seq(self) -> int:
        return self.first_seq + self.count


def name_of(number: int) -> str:
    return f"{number:08d}.seg"


def number_of(name: str) -> int | None:
    """The number of a segment by its file's name, or None for anything else."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found and int(found[1]) > 0 else None


def encode_head(key: Key, number: int, first_seq: int, wall_ns: int, boot_id: bytes, previous: bytes) -> bytes:
    """A head; its link is the last 32 bytes."""
    fields = HEAD.pack(MAGIC, VERSION, HEAD_BYTES, 0, number, first_seq, wall_ns, key.id, boot_id, previous)
    digest = hashlib.sha256(fields).digest()
    return fields + digest + key.link(previous, digest)


def decode_head(data: bytes) -> Head | None:
    """The head at the begin of a segment, or None when the segment was prepared and never used.

    Raises Broken, JournalNewer. The link is not judged here: that takes the key (`vouch_head`).
    """
    raw = data[:HEAD_BYTES]
    if len(raw) == HEAD_BYTES and not raw.strip(b"\0"):
        return None
    if len(raw) < HEAD_BYTES or raw[:8] != MAGIC:
        raise Broken("not the head of a segment")
    version, size, flags = HEAD.unpack_from(raw)[1:4]
    if (version, size, flags) != (VERSION, HEAD_BYTES, 0):
        raise newer(f"format {version}, flags {flags:#x}")
    number, first_seq, wall_ns, key_id, boot_id, previous = HEAD.unpack_from(raw)[4:]
    if hashlib.sha256(raw[:HEAD.size]).digest() != raw[HEAD.size:HEAD.size + 32]:
        raise Broken("the head is not as it was written")
    return Head(number, first_seq, wall_ns, key_id, boot_id, previous, raw[-LINK_BYTES:])


def vouch_head(key: Key, data: bytes) -> bool:
    """Whether the head at the begin of `data` was written by whoever holds the key."""
    digest = data[HEAD.size:HEAD.size + 32]
    previous = data[HEAD.size - LINK_BYTES:HEAD.size]
    return key.link(previous, digest) == data[HEAD_BYTES - LINK_BYTES:HEAD_BYTES]


def encode_group(tag: bytes, key: Key, previous: bytes, count: int, first_seq: int, durable: int, mono_ns: int,
                 wall_ns: int, records: bytes, bodies: bytes) -> tuple[bytes, bytes]:
    """A group and its link."""
    flags = 0
    if bodies:
        flags, records = F_BODIES, hashlib.sha256(bodies).digest() + records
    fields = GROUP.pack(tag, flags, 0, len(records), len(bodies), count, first_seq, durable, mono_ns, wall_ns)
    digest = hashlib.sha256(fields + records).digest()
    link = key.link(previous, digest)
    return b"".join((fields, digest, link, records, bodies)), link


def parse(data: bytes, start: int, tag: bytes, key: Key) -> Group | None:
    """The group at `start`, whole by its own digest, or None at the zeros behind the last one.

    Raises Broken, JournalNewer.
    """
    if data[start:start + 8] != tag or len(data) - start < GROUP_BYTES:
        if not data[start:start + 8].strip(b"\0"):
            return None
        raise Broken("no group begins here")
    _, flags, reserved, records, bodies, count, first_seq, durable, mono, wall = GROUP.unpack_from(data, start)
    bodies_at = start + GROUP_BYTES + records
    end = bodies_at + bodies
    if end > len(data):
        raise Broken("the group is longer than its segment")
    digest = data[start + DIGEST_AT:start + LINK_AT]
    content = data[start:start + DIGEST_AT] + data[start + GROUP_BYTES:bodies_at]
    if hashlib.sha256(content).digest() != digest:
        raise Broken("the group is not as it was written")
    if flags & ~F_BODIES or reserved:
        raise newer(f"group flags {flags:#x}")
    link, records_at, dropped = data[start + LINK_AT:start + GROUP_BYTES], start + GROUP_BYTES, False
    if flags & F_BODIES:
        records_at += 32
        dropped = _bodies_dropped(data[records_at - 32:records_at], data[bodies_at:end], drop_mark(key, link))
    return Group(start, end, count, first_seq, durable, mono, wall, records_at, bodies_at, dropped, digest, link)


def drop_mark(key: Key, link: bytes) -> bytes:
    """What stands at the begin of bodies that were dropped from the group with this link."""
    return key.link(link, b"bodies dropped")


def _bodies_dropped(digest: bytes, bodies: bytes, mark: bytes) -> bool:
    """Whether they are gone by intent; raises Broken when they are neither that nor whole."""
    if hashlib.sha256(bodies).digest() == digest:
        return False
    if bodies[:32] == mark and not bodies[32:].strip(b"\0"):
        return True
    raise Broken("the bodies are not as they were written")


def find(data: bytes, start: int, tag: bytes, key: Key) -> Group | None:
    """The first whole group at or behind `start`: how a reader gets past what is broken."""
    at = data.find(tag, start)
    while at >= 0:
        try:
            return parse(data, at, tag, key)
        except Broken:
            at = data.find(tag, at + 1)
    return None


def span(data: bytes, start: int = 0) -> int:
    """How many bytes from `start` on until only zeros follow. (Comparing zeros is far quicker than stripping them.)"""
    rest = data[start:]
    return 0 if rest == bytes(len(rest)) else len(rest.rstrip(b"\0"))


def rows(data: bytes, group: Group) -> Any:
    """The records of a whole group, as a tuple of arrays. Raises Broken when it holds something else."""
    raw = _ARRAY32 + group.count.to_bytes(4, "big") + data[group.records_at:group.bodies_at]
    try:
        return unpack(raw)
    except ValueError as error:
        raise Broken(f"the records do not decode: {error}") from None


def unpack(raw: bytes) -> Any:
    """One value. Names of files that are no UTF-8 come back as os.fsdecode had them. Raises ValueError."""
    return msgpack.unpackb(raw, use_list=False, strict_map_key=False, unicode_errors="surrogateescape")
