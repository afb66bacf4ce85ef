r"""A closed segment, compressed: under the same name, so that it is one or the other at every moment.

    0    magic "AGXJRNL\0", version u16 (2), bytes of this head u16, flags u32 (1: zlib), bytes of what is packed u64,
         sha256 of all else
    56   the head of the segment as it was (160 bytes), then a zlib stream of its groups

The version lets a program that knows plain segments alone refuse it as newer. What a reader gets is the segment as it
was, to the zeros at its end: a record may end with some as well. The chain vouches for the content; the sha256 says of
any other byte that it is not as it was written.
"""

import hashlib
import struct
import zlib
from functools import lru_cache
from typing import Final

from agentix_kernel.journal import format as form
from agentix_kernel.journal.format import Broken

VERSION: Final = 2
F_ZLIB: Final = 1
HEAD: Final = struct.Struct("<8sHHIQ")
HEAD_BYTES: Final = HEAD.size + 32
_BEGINS: Final = struct.Struct("<8sHH")
LEVEL: Final = 1
"""Of zlib. On records of system calls 6 saves a tenth more room than 1 and takes three times as long."""

BEGIN: Final = HEAD_BYTES + form.HEAD_BYTES
"""How far its two heads go."""
_SALVAGED_BYTES: Final = 16384
"""What comes out at a time of a damaged one: so much is lost before the place where zlib gives up."""
_GAP: Final = bytes(form.FIRST_GROUP - form.HEAD_BYTES)


def is_packed(data: bytes) -> bool:
    """Whether the bytes at the begin of a file say so."""
    return data[:_BEGINS.size] == _BEGINS.pack(form.MAGIC, VERSION, HEAD_BYTES)


def pack(data: bytes) -> bytes:
    """The whole file for the content of a closed segment. Raises Broken for what would not come out as it is."""
    if len(data) < form.FIRST_GROUP or data[form.HEAD_BYTES:form.FIRST_GROUP] != _GAP:
        raise Broken("not a segment in use")
    head = HEAD.pack(form.MAGIC, VERSION, HEAD_BYTES, F_ZLIB, len(data))
    rest = data[:form.HEAD_BYTES] + zlib.compress(data[form.FIRST_GROUP:], LEVEL)
    return head + hashlib.sha256(head + rest).digest() + rest


def segment_head(data: bytes) -> bytes:
    """The head of the segment, of a packed file's first bytes."""
    return data[HEAD_BYTES:BEGIN]


@lru_cache(maxsize=1)
def content(data: bytes) -> bytes:
    """The segment's content, as far as it can be had. The last one is kept: readers ask for it piece by piece."""
    return unpack(data)[0]


def unpack(data: bytes) -> tuple[bytes, str]:
    """The segment's content, as far as it can be had, and what is wrong with the file ("": nothing).

    Raises JournalNewer.
    """
    if len(data) < BEGIN:
        return b"", "a compressed segment that was cut off"
    flags, packed = HEAD.unpack_from(data)[3:]
    if flags != F_ZLIB:
        raise form.newer(f"compressed format {VERSION}, flags {flags:#x}")
    whole = hashlib.sha256(data[:HEAD.size] + data[HEAD_BYTES:]).digest() == data[HEAD.size:HEAD_BYTES]
    wrong = "" if whole else "the compressed segment is not as it was written"
    if whole:
        groups = _inflate(data[BEGIN:], min(packed, form.SEGMENT_MAX_BYTES) - form.FIRST_GROUP, form.SEGMENT_BYTES)
    else:
        groups = _inflate(data[BEGIN:], form.SEGMENT_MAX_BYTES, _SALVAGED_BYTES)
    if whole and form.FIRST_GROUP + len(groups) != packed:
        wrong = "the compressed segment does not hold what it says"
    return segment_head(data) + _GAP + groups, wrong


def _inflate(data: bytes, most: int, piece: int) -> bytes:
    """As much as comes out before something is wrong, and at most so many bytes."""
    stream, pieces, room = zlib.decompressobj(), list[bytes](), most
    while data and room > 0 and not stream.eof:
        try:
            pieces.append(stream.decompress(data, min(room, piece)))
        except zlib.error:
            break
        room, data = room - len(pieces[-1]), stream.unconsumed_tail
    return b"".join(pieces)
