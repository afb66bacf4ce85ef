"""Types of arguments. What comes from an agent is untrusted until one of these has read it (decode, then invoke).

Each type is a function from a decoded msgpack value to the checked value; it raises BadArgument with a sentence.
"""

import math
from collections.abc import Callable
from typing import Any, Final

NAME_MAX_BYTES: Final = 255
PATH_MAX_BYTES: Final = 4095
TEXT_MAX_BYTES: Final = 4096
ARGV_MAX: Final = 4096
ARGV_MAX_BYTES: Final = 128 * 1024
U64_MAX: Final = (1 << 64) - 1
I63_MAX: Final = (1 << 63) - 1


class BadArgument(ValueError):  # noqa: N818 - it is an argument, not an error of ours
    """The value is not of the type; `number` is the errno to answer when it is not EINVAL."""

    def __init__(self, message: str, errno_name: str = "EINVAL") -> None:
        super().__init__(message)
        self.errno_name = errno_name


def kind(value: object) -> str:
    names: dict[type[object], str] = {
        type(None): "nil", str: "text", bytes: "bytes", int: "an integer", float: "a float", bool: "a boolean",
        tuple: "an array", list: "an array", dict: "a map",
    }
    return names.get(type(value), type(value).__name__)


def uint(value: Any) -> int:
    if type(value) is not int:
        raise BadArgument(f"wants a whole number, got {kind(value)}")
    if value < 0 or value > I63_MAX:
        raise BadArgument(f"wants a number from 0 to 2^63-1, got {value}")
    return value


def integer(value: Any) -> int:
    if type(value) is not int:
        raise BadArgument(f"wants a whole number, got {kind(value)}")
    if not -I63_MAX <= value <= I63_MAX:
        raise BadArgument(f"number {value} is out of range")
    return value


def mask(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise BadArgument("wants a signal set (an unsigned 64-bit number)")
    return value


def user_data(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise BadArgument("wants user data of a frame (an unsigned 64-bit number)")
    return value


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise BadArgument(f"wants true or false, got {kind(value)}")
    return value


def data(value: Any) -> bytes:
    if type(value) is not bytes:
        raise BadArgument(f"wants bytes, got {kind(value)}")
    return value


def text(value: Any) -> str:
    if type(value) is not str:
        raise BadArgument(f"wants text, got {kind(value)}")
    if "\0" in value:
        raise BadArgument("text holds a NUL byte")
    if (len(value) > TEXT_MAX_BYTES or not value.isascii()) and len(_utf8(value)) > TEXT_MAX_BYTES:
        raise BadArgument(f"text is over {TEXT_MAX_BYTES} bytes", "E2BIG")
    return value


def path(value: Any) -> bytes:
    """A path as bytes: text (UTF-8) or bytes, no NUL, each name at most 255 bytes, the whole at most 4,095."""
    if type(value) is str:
        raw = _utf8(value)
    elif type(value) is bytes:
        raw = value
    else:
        raise BadArgument(f"wants a path (text or bytes), got {kind(value)}")
    if not raw:
        raise BadArgument("the path is empty", "ENOENT")
    if b"\0" in raw:
        raise BadArgument("the path holds a NUL byte")
    if len(raw) > PATH_MAX_BYTES:
        raise BadArgument(f"the path is over {PATH_MAX_BYTES} bytes", "ENAMETOOLONG")
    if len(raw) > NAME_MAX_BYTES and max(map(len, raw.split(b"/"))) > NAME_MAX_BYTES:
        raise BadArgument(f"a name in the path is over {NAME_MAX_BYTES} bytes", "ENAMETOOLONG")
    return raw


def seconds(value: Any) -> float | None:
    """A duration in seconds, or nil for no limit."""
    if value is None:
        return None
    if type(value) not in {int, float} or not math.isfinite(value) or value < 0:
        raise BadArgument("wants seconds (a number from 0), or nil for no limit")
    return float(value)


def positive(value: Any) -> float:
    if type(value) not in {int, float} or not math.isfinite(value) or value <= 0:
        raise BadArgument("wants a number above 0")
    return float(value)


def argv(value: Any) -> tuple[str, ...]:
    if type(value) not in {tuple, list}:
        raise BadArgument(f"wants an array of texts, got {kind(value)}")
    if not value:
        raise BadArgument("the argument list is empty")
    if len(value) > ARGV_MAX:
        raise BadArgument(f"more than {ARGV_MAX} arguments", "E2BIG")
    words = tuple(_word(word) for word in value)
    if sum(len(word.encode()) + 1 for word in words) > ARGV_MAX_BYTES:
        raise BadArgument(f"the arguments are over {ARGV_MAX_BYTES} bytes together", "E2BIG")
    return words


def texts(value: Any) -> tuple[str, ...]:
    if type(value) not in {tuple, list}:
        raise BadArgument(f"wants an array of texts, got {kind(value)}")
    words = tuple(text(word) for word in value)
    if sum(len(word.encode()) + 1 for word in words) > ARGV_MAX_BYTES:
        raise BadArgument(f"the texts are over {ARGV_MAX_BYTES} bytes together", "E2BIG")
    return words


def environ(value: Any) -> dict[str, str]:
    given: dict[Any, Any] = value
    if type(value) is not dict:
        raise BadArgument(f"wants a map of texts, got {kind(value)}")
    result: dict[str, str] = {}
    for name, content in given.items():
        if type(name) is not str or not name or "=" in name or "\0" in name:
            raise BadArgument(f"{name!r} is not a name of an environment variable")
        result[_word(name)] = _word(content)
    return result


def mapping(value: Any) -> dict[str, Any]:
    given: dict[Any, Any] = value
    if type(value) is not dict or any(type(name) is not str for name in given):
        raise BadArgument(f"wants a map with text keys, got {kind(given)}")
    return given


def anything(value: Any) -> Any:
    return value


def optional(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        return None if value is None else inner(value)
    read.__name__ = f"{inner.__name__} or nil"
    return read


def _utf8(value: str) -> bytes:
    """Half a surrogate pair is text to Python and to nobody else."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise BadArgument("text is not Unicode: it holds half a surrogate pair") from None


def _word(value: Any) -> str:
    if type(value) is not str:
        raise BadArgument(f"wants text, got {kind(value)}")
    if "\0" in value:
        raise BadArgument("text holds a NUL byte")
    if len(_utf8(value)) > ARGV_MAX_BYTES:
        raise BadArgument(f"text is over {ARGV_MAX_BYTES} bytes", "E2BIG")
    return value
