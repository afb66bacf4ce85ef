"""What a handler may say beside a plain result."""

from typing import Any

from attrs import frozen


class NoReplyError(Exception):
    """The caller has no use for a reply: it is ending."""


@frozen
class Recorded:
    """A result that is told only when the record `seq` is durable."""

    value: Any
    seq: int
