"""Answers of control operations that are more than a value."""

from typing import Any

from attrs import frozen


@frozen
class Handed:
    """A value with descriptors beside its frame; they are closed here once they are sent."""

    value: Any
    fds: tuple[int, ...]
