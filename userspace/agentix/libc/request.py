"""A call is written once: what it asks, and how its answer is read. libc makes it and waits; agentix.aio makes the same
call and lets other tasks run meanwhile.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast

from agentix.libc.connection import syscall

P = ParamSpec("P")
T = TypeVar("T")


def _as_it_is(answer: Any) -> Any:
    return answer


class Request(Generic[T]):
    """The number of a call and its arguments on the wire; `read` makes a result of what the kernel answers."""

    __slots__ = ("args", "number", "read")

    def __init__(self, number: int, *args: Any, read: Callable[[Any], T] = _as_it_is) -> None:
        self.number = number
        self.args = args
        self.read = read


if TYPE_CHECKING:
    class Call(Protocol[P, T]):
        """A function of libc; `__wrapped__` only says what it would ask."""

        __wrapped__: Callable[P, Request[T]]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T: ...


def call(ask: Callable[P, Request[T]]) -> "Call[P, T]":
    """Make a function that asks and waits for the answer of one that says what to ask."""
    ask.__annotations__["return"], = ask.__annotations__["return"].__args__  # help() shows what a caller gets

    @functools.wraps(ask)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        request = ask(*args, **kwargs)
        return request.read(syscall(request.number, *request.args))
    return cast("Call[P, T]", asked)  # pyright cannot tell what wraps() makes from its __wrapped__
