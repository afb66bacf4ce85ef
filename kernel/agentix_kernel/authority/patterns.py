"""Patterns over objects: `/`-separated names, compared whole and as bytes.

`*` stands for any characters within one name, `**` as a name of its own for any number of names, none included. A
pattern whose last name has no `*` also covers all below it: `/state` is `/state` and `/state/a/b`. Any byte may be
written as `%2A`. Nothing becomes a regular expression: a name is matched by its fixed pieces from left to right,
which never goes back.
"""

import re
from typing import Final

from attrs import frozen

Name = tuple[bytes, ...]
"""The fixed pieces of one name between its stars: (b"a",) is `a`, (b"a", b"") is `a*`; the empty tuple is `**`."""

DEPTH: Final[Name] = ()
ANY: Final[Name] = (b"", b"")
PATTERN_MAX: Final = 4095
NAMES_MAX: Final = 64
STARS_MAX: Final = 8
"""Stars in one name, and `**` in one pattern: bounds what a comparison costs."""

_KEPT: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-~:@+$!()'")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")


class Malformed(ValueError):  # noqa: N818 - it is a text, not an error of ours
    """A pattern or capability cannot be read. `at` is the offset in characters where."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


@frozen
class Pattern:
    """What a rule or a capability is about. Two patterns that are written alike are equal."""

    names: tuple[Name, ...]

    def covers(self, names: tuple[bytes, ...]) -> bool:
        """Whether an object, given as its whole names, is meant."""
        places = self.rest({0})
        for name in names:
            places = self.step(places, name)
        return len(self.names) in places

    def rest(self, places: set[int]) -> frozenset[int]:
        """These places of the pattern and those that a `**` there lets be reached without a name."""
        found = set(places)
        for start in places:
            place = start
            while place < len(self.names) and self.names[place] == DEPTH:
                place += 1
                found.add(place)
        return frozenset(found)

    def step(self, places: frozenset[int], raw: bytes) -> frozenset[int]:
        """Where in the pattern one may be after one more name. The end is place len(names)."""
        found: set[int] = set()
        for place in places:
            if place == len(self.names):
                continue
            if self.names[place] == DEPTH:
                found.add(place)
            elif name_covers(self.names[place], raw):
                found.add(place + 1)
        return self.rest(found)

    def within(self, other: "Pattern") -> bool:
        """Whether every object of this pattern is one of the other's. May say no when unsure, never yes wrongly.

        Every name of this one must be taken up by a name of the other that matches as much, a `**` by a `**`. From the
        left, so that what differs there costs no more than that: an agent may ask this of many at once.
        """
        others = other.names
        places = other.rest({0})
        for one in self.names:
            places = other.rest({
                place if others[place] == DEPTH else place + 1 for place in places if place < len(others)
                and (others[place] == DEPTH or (one != DEPTH and name_within(one, others[place])))})
            if not places:
                return False
        return len(others) in places

    def meets(self, other: "Pattern") -> bool:
        """Whether there may be an object that both cover."""
        ones, others = self.names, other.names
        row = [all(name == DEPTH for name in others[j:]) for j in range(len(others) + 1)]
        for one in reversed(ones):
            below, row = row, [False] * (len(others) + 1)
            row[-1] = one == DEPTH and below[-1]
            for j in range(len(others) - 1, -1, -1):
                if DEPTH in {one, others[j]}:
                    row[j] = row[j + 1] or below[j]
                else:
                    row[j] = names_meet(one, others[j]) and below[j + 1]
        return row[0]

    def below(self) -> "Pattern":
        """The pattern and everything under what it covers: the reach of a denial."""
        return self if self.names[-1:] == (DEPTH,) else Pattern((*self.names, DEPTH))

    def __str__(self) -> str:
        names = self.names
        if names[-1:] == (DEPTH,) and (len(names) == 1 or len(names[-2]) == 1):
            names = names[:-1]  # the plain form says as much
        return "/".join("**" if name == DEPTH else "*".join(map(escape, name)) for name in names)


def parse(text: str, depth: int | None = None) -> Pattern:
    """Read a pattern; a leading slash and doubled ones say nothing. Raises Malformed.

    With a depth, objects have so many names: what is left out at the end is any name, and nothing is below.
    """
    if len(text.encode("utf-8", "surrogateescape")) > PATTERN_MAX:
        raise Malformed(f"a path of over {PATTERN_MAX} bytes", PATTERN_MAX)
    names: list[Name] = []
    at = 0
    for part in text.split("/"):
        if part:
            names.append(_parse_name(part, at))
        at += len(part) + 1
    names = [name for i, name in enumerate(names) if name != DEPTH or names[i - 1:i] != [DEPTH]]
    if len(names) > NAMES_MAX or names.count(DEPTH) > STARS_MAX:
        raise Malformed(f"over {NAMES_MAX} names, or over {STARS_MAX} times '**'", 0)
    if depth is not None:
        return Pattern(_fixed(names, depth))
    if not names or len(names[-1]) == 1:
        names.append(DEPTH)
    return Pattern(tuple(names))


def _fixed(names: list[Name], depth: int) -> tuple[Name, ...]:
    plain = names[:-1] if names[-1:] == [DEPTH] else names
    if DEPTH in plain or len(plain) > depth:
        raise Malformed(f"there are {depth} names here, or one" if depth > 1 else "there is one name here", 0)
    return (*plain, *[ANY] * (depth - len(plain)))


def _parse_name(part: str, at: int) -> Name:
    if part == "**":
        return DEPTH
    if "**" in part:
        raise Malformed("'**' stands alone between slashes; within a name write '*'", at + part.index("**"))
    name = tuple(unescape(piece, at) for piece in part.split("*"))
    if name in {(b".",), (b"..",)}:
        raise Malformed(f"{part!r} has no place in a path: write where it leads", at)
    if any(b"/" in piece or b"\0" in piece for piece in name):
        raise Malformed("a name has no '/' and no NUL", at)
    if len(name) > STARS_MAX + 1:
        raise Malformed(f"over {STARS_MAX} stars in one name", at)
    return name


def unescape(text: str, at: int) -> bytes:
    """The bytes that a piece of text stands for, `%2A` read. Raises Malformed for a `%` that is no escape."""
    raw = text.encode("utf-8", "surrogateescape")

    def one(found: re.Match[bytes]) -> bytes:
        if found[1] is None:
            raise Malformed("'%' wants two hexadecimal digits after it; '%' itself is written %25", at)
        return bytes([int(found[1], 16)])
    return _ESCAPE.sub(one, raw)


def escape(raw: bytes) -> str:
    """What unescape reads back: letters of any script as they are, everything that means something escaped."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte in _KEPT else f"%{byte:02X}" for byte in raw)
    return "".join(char if (char.isalnum() if char > "\x7f" else ord(char) in _KEPT) else
                   "".join(f"%{byte:02X}" for byte in char.encode()) for char in text)


def split(obj: bytes) -> tuple[bytes, ...]:
    """The names of an object."""
    return tuple(name for name in obj.split(b"/") if name)


def name_covers(name: Name, raw: bytes) -> bool:
    """Whether one whole name matches: the first piece at its start, the last at its end, the others in between."""
    if len(name) == 1:
        return raw == name[0]
    if not raw.startswith(name[0]):
        return False
    at, end = len(name[0]), len(raw) - len(name[-1])
    for piece in name[1:-1]:
        at = raw.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return at <= end and raw.endswith(name[-1])


def name_within(name: Name, other: Name) -> bool:
    """Whether every name that matches the one matches the other. NUL, which no name has, stands for the one's stars:
    only the other's stars can take it up.
    """
    return name_covers(other, b"\0".join(name))


def names_meet(name: Name, other: Name) -> bool:
    """Whether some name matches both. Two with stars do when their ends agree: the rest can be put in line."""
    if len(name) == 1:
        return name_covers(other, name[0])
    if len(other) == 1:
        return name_covers(name, other[0])
    (head, longer_head), (tail, longer_tail) = (sorted((name[at], other[at]), key=len) for at in (0, -1))
    return longer_head.startswith(head) and longer_tail.endswith(tail)
