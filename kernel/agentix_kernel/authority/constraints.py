"""Constraints of a capability: how long, how often, how many times, which ones, until when.

One table row each, with how it is written, how two are compared, and what the canonical form is. Meters count what was
used; the clocks' readings are arguments.
"""

import errno
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from attrs import define, evolve, field, frozen

from agentix_kernel.authority import patterns
from agentix_kernel.authority.patterns import Malformed
from agentix_syscalls.errors import CallError

SECOND_NS: Final = 1_000_000_000
COUNT_MAX: Final = 10**9
LIST_MAX: Final = 256

PERIODS: Final = {"s": SECOND_NS, "min": 60 * SECOND_NS, "h": 3600 * SECOND_NS, "day": 86400 * SECOND_NS}
"""Nanoseconds of what a rate may be counted over, by the unit that is printed."""
_LONG: Final = {"second": "s", "minute": "min", "hour": "h", "d": "day"}
UNITS: Final = {"ms": SECOND_NS // 1000, "s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS}
"""Nanoseconds of the units that a timeout is written in."""

_COUNT = re.compile(r"[1-9][0-9]{0,9}\Z")
_AMOUNT = re.compile(r"([1-9][0-9]{0,9})([a-z]+)\Z")


@frozen
class Rate:
    """At most `count` in any burst, and `count` a period in the long run: a token bucket that starts full."""

    count: int
    unit: str

    @property
    def period_ns(self) -> int:
        return PERIODS[self.unit]


@frozen
class Constraints:
    """What narrows a capability; None says nothing. `timeout_ns` is for one operation, `expires_ns` wall time."""

    timeout_ns: int | None = None
    rate: Rate | None = None
    max: int | None = None
    allowlist: frozenset[bytes] | None = None
    expires_ns: int | None = None

    @property
    def metered(self) -> bool:
        """Whether each use is asked of a meter."""
        return self.rate is not None or self.max is not None or self.expires_ns is not None

    def within(self, other: "Constraints") -> bool:
        """Whether these allow at most what the other ones allow."""
        return all(_at_most(getattr(self, row.field), getattr(other, row.field), row) for row in CONSTRAINTS)

    def admit(self, names: tuple[bytes, ...]) -> bool:
        """Whether the allowlist, if there is one, has the object's last name."""
        return self.allowlist is None or (bool(names) and names[-1] in self.allowlist)

    def written(self) -> list[tuple[str, str]]:
        """Names and canonical texts, in the table's order."""
        found = ((row, getattr(self, row.field)) for row in CONSTRAINTS)
        return [(row.name, row.show(value)) for row, value in found if value is not None]


FREE: Final = Constraints()
"""No constraint at all."""


@frozen
class Constraint:
    """One row of the table. `read` raises Malformed; `narrower` says whether the first allows at most the second."""

    name: str
    field: str
    doc: str
    read: Callable[[str], Any]
    show: Callable[[Any], str]
    narrower: Callable[[Any, Any], bool]


def _at_most(mine: Any, theirs: Any, row: Constraint) -> bool:
    return theirs is None or (mine is not None and row.narrower(mine, theirs))


def read_count(text: str) -> int:
    if not _COUNT.match(text) or int(text) > COUNT_MAX:
        raise Malformed(f"{text!r} is not a number from 1 to {COUNT_MAX:,}", 0)
    return int(text)


def read_duration(text: str) -> int:
    """Nanoseconds. Raises Malformed."""
    found = _AMOUNT.match(text)
    if not found or found[2] not in UNITS or int(found[1]) > COUNT_MAX:
        raise Malformed(f"{text!r} is not a time such as 30s: a whole number and one of {', '.join(UNITS)}", 0)
    return int(found[1]) * UNITS[found[2]]


def show_duration(value_ns: int) -> str:
    unit = next(unit for unit in reversed(UNITS) if value_ns % UNITS[unit] == 0)
    return f"{value_ns // UNITS[unit]}{unit}"


def read_rate(text: str) -> Rate:
    count, slash, unit = text.partition("/")
    unit = _LONG.get(unit, unit)
    if not slash or unit not in PERIODS:
        raise Malformed(f"{text!r} is not a rate such as 100/min: a number, '/' and one of {', '.join(PERIODS)}", 0)
    return Rate(read_count(count), unit)


def _slower(mine: Rate, theirs: Rate) -> bool:
    """No larger burst, and no more in the long run: then no use of the one is refused by the other."""
    return mine.count <= theirs.count and mine.count * theirs.period_ns <= theirs.count * mine.period_ns


def _read_allowlist(text: str) -> frozenset[bytes]:
    names = text.split(",")
    for name in names:
        if not name or "*" in name or "/" in name:
            raise Malformed(f"{name!r} in the list: wants whole names, without '*' and '/'", 0)
    if len(names) > LIST_MAX:
        raise Malformed(f"over {LIST_MAX} names in the list", 0)
    found = frozenset(patterns.unescape(name, 0) for name in names)
    if any(b"/" in name or b"\0" in name or name in {b".", b".."} for name in found):
        raise Malformed("a name in the list is '.', '..' or has a '/' or NUL", 0)
    return found


def _show_allowlist(names: frozenset[bytes]) -> str:
    return ",".join(patterns.escape(name) for name in sorted(names))


def _read_expires(text: str) -> int:
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Malformed(f"{text!r} is not a moment such as 2026-12-01T00:00:00Z (UTC)", 0) from None
    return int(moment.timestamp()) * SECOND_NS


def _show_expires(value_ns: int) -> str:
    moment = datetime.fromtimestamp(value_ns // SECOND_NS, UTC)
    return f"{moment.year:04}-{moment:%m-%dT%H:%M:%SZ}"


CONSTRAINTS: Final = (
    Constraint("timeout", "timeout_ns", "how long one operation may take: 30s, 500ms, 2m, 1h",
               read_duration, show_duration, int.__le__),
    Constraint("rate", "rate", "how often: 100/min, 5/s, 1000/h, 10/day", read_rate,
               lambda rate: f"{rate.count}/{rate.unit}", _slower),
    Constraint("max", "max", "how many times in a life", read_count, str, int.__le__),
    Constraint("allowlist", "allowlist", "the last names that an object may have: ls,cat",
               _read_allowlist, _show_allowlist, frozenset[bytes].issubset),
    Constraint("expires", "expires_ns", "until when: 2026-12-01T00:00:00Z", _read_expires, _show_expires, int.__le__),
)
BY_NAME: Final = {row.name: row for row in CONSTRAINTS}


def constrain(constraints: Constraints, row: Constraint, text: str) -> Constraints:
    """The constraints and one more. Raises Malformed when it cannot be read."""
    return evolve(constraints, **{row.field: row.read(text)})


@define
class Meter:
    """What is left of one grant. Both clocks in nanoseconds; the monotonic one must not go back."""

    limits: Constraints
    used: int = 0
    _credit: int = field(init=False, default=0)
    """Of the bucket, in ns x count: one use costs a period, and `count` flows in each nanosecond. Exact."""
    _seen_ns: int | None = field(init=False, default=None)

    def check(self, monotonic_ns: int, wall_ns: int) -> None:
        """Raises CallError: EPERM when expired, EDQUOT when used up, EAGAIN when too soon. Takes nothing."""
        limits = self.limits
        if limits.expires_ns is not None and wall_ns >= limits.expires_ns:
            raise CallError(errno.EPERM, f"expired at {_show_expires(limits.expires_ns)}")
        if limits.max is not None and self.used >= limits.max:
            raise CallError(errno.EDQUOT, f"used up: at most {limits.max} in a life")
        if limits.rate is not None:
            short = limits.rate.period_ns - self._filled(limits.rate, monotonic_ns)
            if short > 0:
                wait_ms = -(-short // (limits.rate.count * 1_000_000))
                raise CallError(errno.EAGAIN, f"too soon: at most {limits.rate.count}/{limits.rate.unit}",
                                remedy=f"try again in {wait_ms} ms")

    def take(self, monotonic_ns: int) -> None:
        """Count one use that check() let pass."""
        self.used += 1
        if self.limits.rate is not None:
            self._credit = self._filled(self.limits.rate, monotonic_ns) - self.limits.rate.period_ns
            self._seen_ns = monotonic_ns
            assert self._credit >= 0, "taken without a check"

    def full(self, monotonic_ns: int) -> bool:
        """Whether a rate lets a whole burst pass again; what is counted for a life never comes back."""
        rate = self.limits.rate
        return rate is not None and self._filled(rate, monotonic_ns) == rate.count * rate.period_ns

    def left(self, monotonic_ns: int) -> int | None:
        """How many uses would pass now; None: any number."""
        limits = self.limits
        counts = [] if limits.max is None else [limits.max - self.used]
        if limits.rate is not None:
            counts.append(self._filled(limits.rate, monotonic_ns) // limits.rate.period_ns)
        return min(counts, default=None)

    def _filled(self, rate: Rate, monotonic_ns: int) -> int:
        full = rate.count * rate.period_ns
        if self._seen_ns is None:
            return full
        assert monotonic_ns >= self._seen_ns, "the monotonic clock went back"
        return min(full, self._credit + (monotonic_ns - self._seen_ns) * rate.count)
