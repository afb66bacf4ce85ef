"""The table of system calls. It is the ABI, and everything reads it: dispatch, libc, agentctl, man pages, fuzzers.

Numbers are append-only. A row with support other than "full" says why; "planned" rows answer ENOSYS.
"""

from typing import Final

from attrs import frozen

from agentix_syscalls import types
from agentix_syscalls.tables import Arg, Operation

EVERY_CALL: Final = (
    ("EINVAL", "the arguments are too few, too many, of the wrong type or out of range, or a flag is unknown"),
    ("EPERM", "a rule of the policy denies the call"),
    ("EDQUOT", "what the policy gives for a life is used up"),
    ("EAGAIN", "a rate of the policy is exceeded; the reply says when to try again"),
    ("ENOSYS", "the call is unknown, or planned and not built"),
    ("EIO", "the kernel's own fault; recorded"),
    ("ESHUTDOWN", "the kernel is shutting down"),
)
"""Errors that any call may answer; not repeated in the rows."""

# Flags of OPEN are Linux's numbers on this machine's architecture-independent part.
O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE = 0, 1, 2, 3
O_CREAT, O_EXCL, O_TRUNC, O_APPEND = 0o100, 0o200, 0o1000, 0o2000
O_DIRECTORY, O_NOFOLLOW = 0o200000, 0o400000
OPEN_FLAGS: Final = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_DIRECTORY | O_NOFOLLOW
AT_REMOVEDIR: Final = 0x200
AT_SYMLINK_NOFOLLOW: Final = 0x100
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
WNOHANG: Final = 1
SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK = 0, 1, 2
SIG_DFL, SIG_IGN, SIG_HANDLE = 0, 1, 2
SIGWAIT_DELIVERABLE: Final = 1
"""SIGWAIT flag of the libc's doorbell: take a signal that a handler is set for and no mask blocks; never wait."""
READ_MAX_BYTES: Final = 1 << 20
CURRENT: Final = -1
"""Offset of READ and WRITE: the handle's own position, which then moves."""


@frozen
class Call(Operation):
    """One system call. `capability` is what the caller must hold; `paths` are the arguments that rules look at."""

    capability: str = "self"
    writes: bool = False
    blocking: bool = False
    durable: bool = False
    """The reply waits until the record is on stable storage."""
    paths: tuple[str, ...] = ()
    since: str = "0.1"
    support: str = "full"


_PATH = Arg("path", types.path, "path in the agent's own tree; relative ones start at its root")
_FD = Arg("fd", types.uint, "handle from OPEN")
_WALK: Final = (
    ("ENOENT", "the path or a part of it does not exist"),
    ("ENOTDIR", "a part of the path is not a directory"),
    ("ENAMETOOLONG", "a name is over 255 bytes or the path over 4,095"),
    ("ELOOP", "more than 40 symbolic links on the way"),
    ("EACCES", "mode bits forbid it, or the path leads outside of the agent's own tree"),
)
_CHANGE: Final = (*_WALK, ("EROFS", "that part of the tree is read-only"))


def _planned(number: int, name: str, doc: str, support: str) -> Call:
    return Call(number, name, doc, support="planned: " + support)


CALLS: Final = (
    Call(0, "HELLO", "Open a connection: agree on version and features. The first frame; once.",
         (Arg("version", types.uint, "protocol version, 1"),
          Arg("features", types.uint, "bits of features wanted; unknown ones are ignored", 0)),
         "[version, features, agent id, life, name]",
         (("EPROTO", "not the first frame, or a version that this kernel does not speak"),)),
    Call(1, "OPEN", "Open a file of the own tree.",
         (_PATH, Arg("flags", types.uint, "O_* bits as Linux has them", 0),
          Arg("mode", types.uint, "permission bits of a new file", 0o644)),
         "handle",
         (*_CHANGE, ("EEXIST", "O_CREAT and O_EXCL, and it exists"), ("EISDIR", "a directory, opened for writing"),
          ("EMFILE", "too many handles"), ("EDQUOT", "quota of files used up"),
          ("EPERM", "an append-only file, opened for writing without O_APPEND or with O_TRUNC")),
         capability="file:read", paths=("path",)),
    Call(2, "CLOSE", "Close a handle.", (_FD,), "nil", (("EBADF", "not an open handle"),)),
    Call(3, "READ", "Read from a handle.",
         (_FD, Arg("count", types.uint, "bytes at most; up to 1 MiB a call"),
          Arg("offset", types.integer, "where, or -1 for the handle's position", CURRENT)),
         "bytes, empty at the end",
         (("EBADF", "not open, or not for reading"), ("EISDIR", "a directory")),
         capability="file:read"),
    Call(4, "WRITE", "Write to a handle.",
         (_FD, Arg("data", types.data, "what to write; up to 1 MiB with its frame", bulk=True),
          Arg("offset", types.integer, "where, or -1 for the handle's position (the end with O_APPEND)", CURRENT)),
         "bytes written",
         (("EBADF", "not open, or not for writing"), ("EDQUOT", "quota used up"), ("EFBIG", "over the file size limit"),
          ("ENOSPC", "the disk is full")),
         capability="file:write", writes=True),
    Call(5, "SEEK", "Move a handle's position.",
         (_FD, Arg("offset", types.integer, "bytes"), Arg("whence", types.uint, "0 start, 1 position, 2 end", 0)),
         "new position", (("EBADF", "not an open handle"),)),
    Call(6, "STAT", "Attributes of a file.",
         (_PATH, Arg("flags", types.uint, "AT_SYMLINK_NOFOLLOW", 0)),
         "[mode, ino, nlink, uid, gid, size, blocks, atime_ns, mtime_ns, ctime_ns]", _WALK,
         capability="file:read", paths=("path",)),
    Call(7, "READDIR", "Names in a directory.", (_PATH,), "[[name, mode, ino], ...]", _WALK,
         capability="file:read", paths=("path",)),
    Call(8, "MKDIR", "Make a directory.",
         (_PATH, Arg("mode", types.uint, "permission bits", 0o755)), "nil",
         (*_CHANGE, ("EEXIST", "exists"), ("EDQUOT", "quota of files used up")),
         capability="file:write", writes=True, paths=("path",)),
    Call(9, "UNLINK", "Remove a name; with AT_REMOVEDIR an empty directory.",
         (_PATH, Arg("flags", types.uint, "AT_REMOVEDIR", 0)), "nil",
         (*_CHANGE, ("EISDIR", "a directory, without AT_REMOVEDIR"), ("ENOTEMPTY", "directory not empty"),
          ("EPERM", "append-only, or a fixed part of the tree")),
         capability="file:write", writes=True, paths=("path",)),
    Call(10, "RENAME", "Rename within one mount.",
         (Arg("old", types.path, "path"), Arg("new", types.path, "path"),
          Arg("flags", types.uint, "RENAME_NOREPLACE or RENAME_EXCHANGE", 0)), "nil",
         (*_CHANGE, ("EEXIST", "RENAME_NOREPLACE, and it exists"), ("EXDEV", "two mounts"),
          ("EISDIR", "onto a directory"), ("ENOTEMPTY", "onto a directory that is not empty"),
          ("EPERM", "append-only, or a fixed part of the tree")),
         capability="file:write", writes=True, paths=("old", "new")),
    Call(11, "TRUNCATE", "Set a file's size.",
         (_PATH, Arg("size", types.uint, "bytes")), "nil",
         (*_CHANGE, ("EISDIR", "a directory"), ("EPERM", "append-only"), ("EDQUOT", "quota used up"),
          ("EFBIG", "over the file size limit")),
         capability="file:write", writes=True, paths=("path",)),
    Call(12, "SYNC", "Bring a file's content and the record so far to stable storage.",
         (_FD,), "nil", (("EBADF", "not an open handle"), ("ENOSPC", "the disk is full")), durable=True),
    Call(16, "SPAWN", "Spawn a child agent, confined like the caller or more.",
         (Arg("kind", types.text, "script, module or exec"),
          Arg("argv", types.argv, "argv[0] is the script's path, the module or the executable"),
          Arg("options", types.mapping, "see agentctl-run(1); binds are inherited", None)),
         "agent id",
         (("EPERM", "the policy allows no such child, or it would hold more than the caller does"),
          ("EMFILE", "what it is to hold was passed on from parent to child as often as it may be"),
          ("ENOENT", "the executable or module does not exist"),
          ("ENOEXEC", "not an executable of this machine"), ("EACCES", "not executable"),
          ("EEXIST", "the name is taken"), ("EAGAIN", "the kernel has as many agents as it may"),
          ("E2BIG", "arguments over 128 KiB, or capabilities too many to look for"),
          ("ENOMEM", "no memory for another process"),
          ("ECANCELED", "cancelled before it began; one that has begun is finished, and answers with the agent's id")),
         capability="agent:spawn", writes=True, blocking=True, durable=True),
    Call(17, "EXEC", "Run a tool through the kernel, in a sandbox and with a uid of its own.",
         (Arg("tool", types.text, "name; shell.execute for now"), Arg("arguments", types.mapping, "as its schema says"),
          Arg("timeout_s", types.seconds, "seconds at most; nil for the tool's own limit", None)),
         "the tool's result (a map)",
         (("ENOENT", "no such tool"), ("ETIMEDOUT", "did not end in time; killed"),
          ("EAGAIN", "too many tools at once"), ("ECANCELED", "cancelled by the caller; killed")),
         capability="tool:exec", writes=True, blocking=True),
    Call(18, "WAIT", "Wait for a child to end.",
         (Arg("agent", types.integer, "id of a child, or -1 for any"), Arg("flags", types.uint, "WNOHANG", 0),
          Arg("timeout_s", types.seconds, "seconds at most, or nil", None)),
         "[agent id, exit code or nil, signal name or nil, why], or nil with WNOHANG",
         (("ECHILD", "not a child of the caller"), ("ETIMEDOUT", "none ended in time"),
          ("EAGAIN", "too many calls of the agent wait already"), ("ECANCELED", "cancelled by the caller")),
         capability="agent:wait", blocking=True),
    Call(19, "EXIT", "End the caller with this status. Does not return.",
         (Arg("status", types.uint, "exit status, 0 to 255", 0),), "never", writes=True, durable=True),
    Call(20, "GETPID", "The caller's agent id and its parent's.", (), "[agent id, parent id or 0]"),
    _planned(21, "FORK", "Branch the caller: processes, tree and all.", "needs branches of the tree (Files)"),
    Call(24, "SIGNAL", "Send a signal to itself or to an own child.",
         (Arg("agent", types.uint, "id"), Arg("signal", types.uint, "number, as signals.py lists them")),
         "nil", (("ESRCH", "no such agent"), ("EPERM", "neither itself nor an own child, or a signal of the kernel's")),
         capability="signal:send", writes=True, durable=True),
    Call(25, "SIGACTION", "Say what a signal does: the default, nothing, or a handler in the agent.",
         (Arg("signal", types.uint, "number"), Arg("disposition", types.uint, "SIG_DFL 0, SIG_IGN 1, SIG_HANDLE 2")),
         "the old disposition", (("EINVAL", "not a signal that can be caught"),), writes=True),
    Call(26, "SIGPROCMASK", "Change the set of blocked signals.",
         (Arg("how", types.uint, "SIG_BLOCK 0, SIG_UNBLOCK 1, SIG_SETMASK 2"), Arg("set", types.mask, "signals")),
         "the old set", writes=True),
    Call(27, "SIGWAIT", "Take a pending signal of a set, waiting for one if need be.",
         (Arg("set", types.mask, "signals"), Arg("timeout_s", types.seconds, "seconds at most, or nil", None),
          Arg("flags", types.uint, "SIGWAIT_DELIVERABLE: only what a handler is due for; never waits", 0)),
         "[signal, sender id, why], or nil with SIGWAIT_DELIVERABLE and nothing due",
         (("EAGAIN", "none came in time"), ("ECANCELED", "cancelled by the caller")), blocking=True),
    _planned(32, "PIPE", "Make a typed pipe.", "Tools and talk"),
    _planned(33, "SEND", "Send a message.", "Tools and talk"),
    _planned(34, "RECV", "Receive a message.", "Tools and talk"),
    _planned(40, "SNAPSHOT", "Snapshot the own tree.", "Files"),
    _planned(41, "ROLLBACK", "Go back to a snapshot.", "Files"),
    Call(48, "CHECKPOLICY", "Would this call be allowed? Asks; does nothing, counts nothing.",
         (Arg("call", types.text, "name, with or without SYS_"),
          Arg("path", types.optional(types.path), "the path it would be about", None)),
         "[allowed, mode, rule, message]", (("EINVAL", "no such call"),)),
    Call(49, "GETPOLICY", "The policy in force for the caller.", (),
         "[mode, [[rule, file, line], ...], spawn_max]; line 0: it stands in no file"),
    Call(50, "GRANT", "Narrow a capability that is held into another of the caller's own, or give it to an own child, "
         "narrowed or as it is. What it may be used for is counted against both.",
         (Arg("handle", types.uint, "of the one that is held, as CAPS lists them"),
          Arg("agent", types.uint, "the caller's own id, or that of a child"),
          Arg("capability", types.optional(types.text), "what is given, such as capability://file/state?action=read; "
              "nil for all of it", None)),
         "the handle of what was given, among that agent's",
         (("EPERM", "it is more than what is held; recorded, and a violation"),
          ("EBADF", "the caller has no such handle"), ("ECHILD", "neither the caller nor a child of it that lives"),
          ("EMFILE", "as many capabilities as one agent may hold, or passed on as often as it may be")),
         writes=True, durable=True),
    Call(51, "REVOKE", "Take a capability back from the caller itself or from who has it from the caller, and with it "
         "all that was made of it, whoever holds that. What is open or under way by it ends at once.",
         (Arg("agent", types.uint, "who holds it"), Arg("handle", types.uint, "its handle there")),
         "[[agent id, handle], ...]: what is gone",
         (("EPERM", "a child has it from somebody else"),
          ("EBADF", "no such handle of the caller, or of who descends from it")),
         writes=True, durable=True),
    Call(52, "CAPS", "The capabilities that the caller or a child of it holds.",
         (Arg("agent", types.uint, "0 for the caller, or the id of a child", 0),),
         "[[handle, capability, source, giver's id or 0, giver's handle or nil, uses left or nil], ...]",
         (("ECHILD", "not a child of the caller"),)),
    Call(56, "RUSAGE", "What the caller has used.", (),
         "[cpu_us, memory_bytes, memory_peak_bytes, processes, calls, denials]"),
    Call(57, "SYSINFO", "About this kernel.", (), "{version, protocol, boot, uptime_s, agents, layers}"),
    _planned(64, "RING_SETUP", "Set up a ring.", "The system-call path"),
    _planned(65, "RING_ENTER", "Submit to a ring.", "The system-call path"),
    Call(66, "CANCEL", "Cancel a call of this connection that waits. It is answered all the same: with ECANCELED, or, "
         "when it was done by then, with its result.",
         (Arg("user_data", types.user_data, "the user data of that call's frame"),), "nil",
         (("ESRCH", "no call with this user data waits: it is answered already, or never was one"),)),
)

BY_NUMBER: Final = {call.number: call for call in CALLS}
BY_NAME: Final = {call.name: call for call in CALLS}


def find(name: str) -> Call | None:
    """The call that is meant by `READ`, `read` or `SYS_READ`."""
    return BY_NAME.get(name.upper().removeprefix("SYS_"))


SYS_HELLO, SYS_OPEN, SYS_CLOSE, SYS_READ, SYS_WRITE, SYS_SEEK = (BY_NAME[n].number for n in (
    "HELLO", "OPEN", "CLOSE", "READ", "WRITE", "SEEK"))
SYS_STAT, SYS_READDIR, SYS_MKDIR, SYS_UNLINK, SYS_RENAME, SYS_TRUNCATE, SYS_SYNC = (BY_NAME[n].number for n in (
    "STAT", "READDIR", "MKDIR", "UNLINK", "RENAME", "TRUNCATE", "SYNC"))
SYS_SPAWN, SYS_EXEC, SYS_WAIT, SYS_EXIT, SYS_GETPID, SYS_FORK = (BY_NAME[n].number for n in (
    "SPAWN", "EXEC", "WAIT", "EXIT", "GETPID", "FORK"))
SYS_SIGNAL, SYS_SIGACTION, SYS_SIGPROCMASK, SYS_SIGWAIT = (BY_NAME[n].number for n in (
    "SIGNAL", "SIGACTION", "SIGPROCMASK", "SIGWAIT"))
SYS_PIPE, SYS_SEND, SYS_RECV, SYS_SNAPSHOT, SYS_ROLLBACK = (BY_NAME[n].number for n in (
    "PIPE", "SEND", "RECV", "SNAPSHOT", "ROLLBACK"))
SYS_CHECKPOLICY, SYS_GETPOLICY, SYS_GRANT, SYS_REVOKE, SYS_CAPS = (BY_NAME[n].number for n in (
    "CHECKPOLICY", "GETPOLICY", "GRANT", "REVOKE", "CAPS"))
SYS_RUSAGE, SYS_SYSINFO, SYS_RING_SETUP, SYS_RING_ENTER, SYS_CANCEL = (BY_NAME[n].number for n in (
    "RUSAGE", "SYSINFO", "RING_SETUP", "RING_ENTER", "CANCEL"))
