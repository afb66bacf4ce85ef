"""The error taxonomy: Linux errno numbers, each with a category, a severity and whether to try again.

A reply may carry a `Reason` beside its errno; it is the same structure that the record and `agentctl` show.
"""

import enum
import errno as _errno
from typing import Final

from attrs import frozen


class Category(enum.Enum):
    """Whose business the error is."""

    CALLER = "caller"
    POLICY = "policy"
    RESOURCE = "resource"
    STATE = "state"
    PROTOCOL = "protocol"
    KERNEL = "kernel"
    UNSUPPORTED = "unsupported"


class Severity(enum.Enum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"


@frozen
class Error:
    """One row of the taxonomy. `name` is the errno's name; `number` Linux's."""

    name: str
    category: Category
    severity: Severity
    retryable: bool
    doc: str

    @property
    def number(self) -> int:
        return int(getattr(_errno, self.name))


_C, _S = Category, Severity

ERRORS: Final = (
    Error("EPERM", _C.POLICY, _S.WARNING, False, "forbidden by a rule or by who the caller is"),
    Error("ENOENT", _C.CALLER, _S.INFO, False, "no such file, agent's script or name"),
    Error("ESRCH", _C.CALLER, _S.INFO, False, "no such agent"),
    Error("EINTR", _C.STATE, _S.INFO, True, "interrupted by a signal or by the end of the agent"),
    Error("EIO", _C.KERNEL, _S.ERROR, False, "the kernel's own fault; it was recorded"),
    Error("E2BIG", _C.CALLER, _S.INFO, False, "argument list too long"),
    Error("ENOEXEC", _C.CALLER, _S.INFO, False, "not an executable of this machine"),
    Error("EBADF", _C.CALLER, _S.INFO, False, "not an open handle of this agent, or not open for that"),
    Error("ECHILD", _C.CALLER, _S.INFO, False, "not a child of the caller, or no child at all"),
    Error("EAGAIN", _C.RESOURCE, _S.INFO, True, "try again: a queue or a quota is full at the moment"),
    Error("ENOMEM", _C.RESOURCE, _S.WARNING, True, "not enough memory"),
    Error("EACCES", _C.POLICY, _S.WARNING, False, "permission denied by mode bits or owner"),
    Error("EBUSY", _C.STATE, _S.INFO, True, "in use"),
    Error("EEXIST", _C.CALLER, _S.INFO, False, "exists already"),
    Error("EXDEV", _C.CALLER, _S.INFO, False, "the two names lie on different mounts"),
    Error("ENOTDIR", _C.CALLER, _S.INFO, False, "a part of the path is not a directory"),
    Error("EISDIR", _C.CALLER, _S.INFO, False, "is a directory"),
    Error("EINVAL", _C.CALLER, _S.INFO, False, "an argument is out of range, of the wrong type or unknown"),
    Error("ENFILE", _C.RESOURCE, _S.WARNING, True, "the kernel's table is full"),
    Error("EMFILE", _C.RESOURCE, _S.INFO, False, "too many open handles in this agent"),
    Error("ENOTTY", _C.CALLER, _S.INFO, False, "no terminal there"),
    Error("EFBIG", _C.RESOURCE, _S.INFO, False, "larger than a file may be"),
    Error("ENOSPC", _C.RESOURCE, _S.WARNING, False, "no space left on the device that holds it"),
    Error("ESPIPE", _C.CALLER, _S.INFO, False, "cannot seek there"),
    Error("EROFS", _C.POLICY, _S.INFO, False, "read-only part of the tree"),
    Error("EMLINK", _C.RESOURCE, _S.INFO, False, "too many links"),
    Error("EPIPE", _C.STATE, _S.INFO, False, "the other end is gone"),
    Error("ENAMETOOLONG", _C.CALLER, _S.INFO, False, "a name is over 255 bytes or a path over 4,095"),
    Error("ENOSYS", _C.UNSUPPORTED, _S.INFO, False, "the call is not built yet"),
    Error("ENOTEMPTY", _C.CALLER, _S.INFO, False, "directory not empty"),
    Error("ELOOP", _C.CALLER, _S.INFO, False, "too many symbolic links"),
    Error("EOVERFLOW", _C.CALLER, _S.INFO, False, "value too large"),
    Error("EMSGSIZE", _C.PROTOCOL, _S.WARNING, False, "frame over the size cap"),
    Error("EOPNOTSUPP", _C.UNSUPPORTED, _S.INFO, False, "not supported on this file"),
    Error("ETIMEDOUT", _C.STATE, _S.INFO, True, "did not happen within the time given"),
    Error("EPROTO", _C.PROTOCOL, _S.ERROR, False, "the caller broke the protocol; its connection is closed"),
    Error("ESTALE", _C.STATE, _S.INFO, False, "the file it referred to is gone"),
    Error("EDQUOT", _C.RESOURCE, _S.WARNING, False, "the agent's quota is used up"),
    Error("ECANCELED", _C.STATE, _S.INFO, True, "cancelled"),
    Error("ESHUTDOWN", _C.STATE, _S.INFO, True, "the kernel is shutting down"),
)

BY_NUMBER: Final = {e.number: e for e in ERRORS}
BY_NAME: Final = {e.name: e for e in ERRORS}


@frozen
class Reason:
    """Why a call failed, in full. `rule` names the policy rule, with its file and line; `enforcer` is what saw that it
    was broken; `remedy` is one sentence on what to do next.
    """

    errno: int
    message: str
    rule: str = ""
    remedy: str = ""
    correlation: int = 0
    enforcer: str = ""

    @property
    def row(self) -> Error:
        return BY_NUMBER.get(self.errno, BY_NAME["EIO"])

    def to_wire(self) -> list[object]:
        """The body of an error reply: a positional array."""
        row = self.row
        return [self.errno, self.message, self.rule, self.remedy, self.correlation,
                row.category.value, row.severity.value, row.retryable, self.enforcer]

    @classmethod
    def from_wire(cls, body: object) -> "Reason":
        """Read an error reply; what a kernel sent is trusted in shape only, so raises ValueError otherwise."""
        if not isinstance(body, (list, tuple)) or len(body) < 5:  # pyright: ignore[reportUnknownArgumentType]
            raise ValueError("an error reply is an array of at least five values")
        number, message, rule, remedy, correlation = body[:5]  # pyright: ignore[reportUnknownVariableType]
        if not (isinstance(number, int) and isinstance(message, str) and isinstance(rule, str)
                and isinstance(remedy, str) and isinstance(correlation, int)):
            raise ValueError("an error reply has values of the wrong types")  # noqa: TRY004 - one kind for bad replies
        enforcer = body[8] if len(body) > 8 else ""  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return cls(number, message, rule, remedy, correlation, enforcer if isinstance(enforcer, str) else "")


MESSAGE_MAX: Final = 1000
"""Characters: a message may quote what the caller sent, and that may be a whole frame."""


class CallError(Exception):
    """A call fails with this reason. Raised anywhere in the kernel or the tree, turned into a reply at the edge."""

    def __init__(self, number: int, message: str, *, rule: str = "", remedy: str = "", enforcer: str = "") -> None:
        if len(message) > MESSAGE_MAX:
            message = f"{message[:MESSAGE_MAX]}..."
        super().__init__(number, message)
        self.number = number
        self.message = message
        self.rule = rule
        self.remedy = remedy
        self.enforcer = enforcer

    def reason(self, correlation: int = 0) -> Reason:
        return Reason(self.number, self.message, self.rule, self.remedy, correlation, self.enforcer)
