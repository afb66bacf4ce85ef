"""The wire: frames of a fixed header and a msgpack body over a SOCK_STREAM Unix socket.

Header `<IHHQ`: body length, operation, flags, user data (chosen by the caller, echoed in the reply).
A request's body is a positional array of arguments; a reply's is the result, or an error array (errors.Reason).
The first frame of a connection is HELLO.

Agents and operators speak the same frames; only the tables of operations differ (calls.py, control.py).
"""

import struct
from collections.abc import Iterable
from typing import Any, Final, cast

import msgpack

PROTOCOL: Final = 1
HEADER: Final = struct.Struct("<IHHQ")
HEADER_BYTES: Final = HEADER.size
BODY_MAX_BYTES: Final = 1 << 20
CONTROL_BODY_MAX_BYTES: Final = 16 << 20

F_PRIORITY: Final = 0x0003
F_BATCH: Final = 0x0004
F_DURABLE: Final = 0x0008
F_LINK: Final = 0x0010
F_MORE: Final = 0x0020
"""On a reply: more frames with the same user data follow (streams of the control socket)."""
F_REPLY: Final = 0x4000
F_ERROR: Final = 0x8000
REQUEST_FLAGS: Final = F_PRIORITY
"""What a request may carry today. Any other bit is EINVAL, so that it can mean something later."""

DEPTH_MAX: Final = 16
"""Arrays and maps inside of one another; whoever walks a decoded value may recurse."""
NESTING: Final = (tuple, dict)


class WireError(ValueError):
    """The bytes are not a frame of this protocol; the sender is at fault."""


_packer: Final = msgpack.Packer(autoreset=True, use_bin_type=True)
_pack: Final = _packer.pack


def pack(value: Any) -> bytes:
    """Encode one body. A failed pack would leave half a value in the reused packer: reset it, then raise."""
    try:
        return _pack(value)
    except Exception:
        _packer.reset()
        raise


def frame(operation: int, flags: int, user_data: int, body: bytes) -> bytes:
    return HEADER.pack(len(body), operation, flags, user_data) + body


def request(operation: int, user_data: int, args: "list[Any] | tuple[Any, ...]", flags: int = 0) -> bytes:
    return frame(operation, flags, user_data, pack(args))


def decode(body: bytes) -> Any:
    """Decode a body. Arrays come as tuples, maps with string keys only.

    Raises WireError for anything but exactly one well-formed msgpack value of bounded size and depth.
    Never called on memory that somebody else can change: `body` is our own copy.
    """
    size = len(body)
    try:
        value: Any = msgpack.unpackb(
            body, use_list=False, strict_map_key=True,
            max_str_len=size, max_bin_len=size, max_array_len=size, max_map_len=size, max_ext_len=0,
        )
    except (ValueError, RecursionError, TypeError) as error:
        raise WireError(f"body is not msgpack: {str(error) or type(error).__name__}") from None
    if type(value) in NESTING:
        _require_shallow(value, DEPTH_MAX - 1)
    return value


def _require_shallow(value: Any, room: int) -> None:
    items = cast("Iterable[Any]", value.values() if isinstance(value, dict) else value)
    for item in items:
        if type(item) in NESTING:
            if not room:
                raise WireError(f"body is nested more than {DEPTH_MAX} deep")
            _require_shallow(item, room - 1)


class Reader:
    """Cuts a byte stream into frames. Used by clients and by the control socket; agents' hot path has its own."""

    def __init__(self, body_max_bytes: int = BODY_MAX_BYTES) -> None:
        self._buffer = bytearray()
        self._body_max_bytes = body_max_bytes

    @property
    def empty(self) -> bool:
        """Not even a part of a frame waits."""
        return not self._buffer

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> tuple[int, int, int, bytes] | None:
        """The next whole frame as (operation, flags, user data, body), or None. Raises WireError when too long."""
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            return None
        length, operation, flags, user_data = HEADER.unpack_from(buffer, 0)
        if length > self._body_max_bytes:
            raise WireError(f"body of {length} bytes, over the cap of {self._body_max_bytes}")
        end = HEADER_BYTES + length
        if len(buffer) < end:
            return None
        body = bytes(memoryview(buffer)[HEADER_BYTES:end])
        del buffer[:end]
        return operation, flags, user_data, body
