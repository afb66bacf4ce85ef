"""The shape of a row: an operation with its arguments, as calls.py and control.py list them."""

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import field, frozen

from agentix_syscalls import types
from agentix_syscalls.errors import CallError

REQUIRED: Final = object()


@frozen
class Arg:
    """One argument. `secret` ones are replaced before anything is written to the journal."""

    name: str
    type: Callable[[Any], Any]
    doc: str
    default: Any = REQUIRED
    secret: bool = False
    bulk: bool = False
    """Content, not an address: the record holds its size only."""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@frozen
class Operation:
    """What calls and control operations have in common: a number, a name and checked positional arguments."""

    number: int
    name: str
    doc: str
    args: tuple[Arg, ...] = ()
    returns: str = "nil"
    errors: tuple[tuple[str, str], ...] = ()
    """(errno name, when): the pairs that this operation itself may answer, beside those of every operation."""
    _required: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        count = sum(arg.required for arg in self.args)
        assert all(arg.required for arg in self.args[:count]), f"{self.name}: required arguments come first"
        object.__setattr__(self, "_required", count)

    def parse(self, raw: Any) -> list[Any]:
        """Check positional arguments that came from outside; fill in defaults. Raises CallError (EINVAL and kin)."""
        values: Sequence[Any] = raw
        if type(raw) is not tuple and type(raw) is not list:
            raise CallError(errno.EINVAL, f"{self.name}: wants an array of arguments, got {types.kind(raw)}")
        given, args = len(values), self.args
        if given > len(args) or given < self._required:
            wants = f"{self._required} to {len(args)}" if self._required < len(args) else f"{len(args)}"
            raise CallError(errno.EINVAL, f"{self.name}: wants {wants} arguments, got {given}")
        checked: list[Any] = []
        arg = None
        try:
            for arg, value in zip(args, values, strict=False):
                checked.append(arg.type(value))
        except types.BadArgument as bad:
            assert arg is not None
            number = int(getattr(errno, bad.errno_name))
            raise CallError(number, f"{self.name}: {arg.name}: {bad}") from None
        if given < len(args):
            checked.extend(arg.default for arg in args[given:])
        return checked
