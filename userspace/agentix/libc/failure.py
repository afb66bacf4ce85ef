"""What a failed call raises: the OSError of its errno, which also knows the kernel's reason."""

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentix_syscalls.errors import Reason


class Error(OSError):
    """A system call failed. `errno` is Linux's number, `strerror` the kernel's sentence.

    It is raised as a subclass that is also the builtin of its errno: `except PermissionError` catches EPERM.
    """

    wire: Any = None
    """The body of the error reply: errors.Reason as it travels."""

    @property
    def reason(self) -> "Reason":
        """The structured reason: category, severity, whether to try again, rule, enforcer, remedy, correlation."""
        from agentix_syscalls.errors import Reason  # the tables cost 20 ms, and most who catch do not ask

        return Reason.from_wire(self.wire)


@functools.cache
def _class_of(number: int) -> type[Error]:
    builtin = type(OSError(number, ""))
    if builtin is OSError:
        return Error
    return type(builtin.__name__, (Error, builtin), {"__module__": "agentix.libc", "__doc__": builtin.__doc__})


def failure(body: Any) -> Error:
    """The exception for an error reply (errors.Reason.to_wire)."""
    number, message, rule, remedy = body[:4]
    error = _class_of(number)(number, message)
    error.wire = body
    for title, text in (("rule", rule), ("remedy", remedy)):
        if text:
            error.add_note(f"{title}: {text}")
    return error


def failed(number: int, message: str) -> Error:
    """The exception for what libc itself refuses, shaped as if the kernel had."""
    return failure((number, message, "", "", 0))


__all__ = ["Error"]
