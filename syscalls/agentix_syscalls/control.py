"""The table of control operations: what agentctl asks of a kernel over the control socket.

Same frames as system calls. Who asks is known by SO_PEERCRED; root and the group agentix are let in.
A streaming operation answers with frames flagged F_MORE and a last one without.
"""

import stat
from typing import Any, Final

from attrs import frozen

from agentix_syscalls import question, spawn, types
from agentix_syscalls.tables import Arg, Operation

STATES: Final = ("ready", "running", "stopped", "zombie", "dead")
"""What an agent's state is called in every answer."""

DESCRIPTORS_MAX: Final = 64
"""So many descriptors travel beside one frame."""

KERNELS_DIR: Final = "/run/agentix-kernels"
"""Holds a link for each private kernel that runs, to its prefix."""


@frozen
class Control(Operation):
    """One operation. `root` ones are refused to plain members of the group."""

    streams: bool = False
    root: bool = False


def _permissions(value: Any) -> int:
    mode = types.uint(value)
    if mode & ~0o777:
        raise types.BadArgument(f"mode {mode:#o} has bits that are no permissions")
    return mode


def _file_mode(value: Any) -> int:
    """A mode with its type; none is S_IFREG."""
    mode = types.uint(value)
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind not in {stat.S_IFREG, stat.S_IFLNK}:
        raise types.BadArgument(f"mode {mode:#o} is neither of a regular file nor of a symbolic link")
    return kind | _permissions(mode & ~kind)


_TARGET = Arg("agent", types.anything, "id (a number), name (text), or the beginning of one name")
_PATH = Arg("path", types.path, "from the root of its tree, or absolute below /agent/<id> or /agent/self")
_FOLLOW = Arg("follow", types.boolean, "a symbolic link at the end, too; those before it always", True)
_ATTRIBUTES = "{mode, ino, nlink, uid, gid, size, blocks, atime_ns, mtime_ns, ctime_ns, target}"
_PATH_ERRORS = (
    ("ESRCH", "no such agent"), ("ENOENT", "no such file"), ("ENOTDIR", "a part of the path is not a directory"),
    ("EACCES", "outside of the agent's tree, or its own mode bits forbid it"), ("ELOOP", "too many symbolic links"))
_READ_ONLY = ("EROFS", "a read-only part of the tree")
_QUOTA = ("EDQUOT", "the agent's quota is used up")

_WHERE = Arg("where", question.where, "conditions (question.py)", {})
_BESIDE = "nil, and a descriptor from which the answer is read, in frames as of a stream: "
_ASKED_ERRORS = (("EAGAIN", "as many questions as there may be are being answered"),
                 ("EIO", "the journal is damaged there"), ("ESRCH", "no such agent"))
"""What asks the historian: agentd only hands the answer's descriptor on."""

SET_RESULTS: Final = ("set", "restarted", "needs-restart", "refused")
"""What policy_set says of each agent."""


ARRAY_MAX: Final = 5000
"""Agents of one request, and the like."""


def _array(value: Any) -> tuple[Any, ...]:
    if type(value) not in {list, tuple} or len(value) > ARRAY_MAX:
        raise types.BadArgument(f"wants an array of at most {ARRAY_MAX} values")
    return tuple(value)


_POLICY = Arg("policy", spawn.policy, "the name of a shipped one, or [file, text]")
_BAD_POLICY = (("EINVAL", "not a policy; the message has all that is wrong, with file, line and column"),)
_UNRECORDED = (("ENOSPC", "nothing can be recorded: the disk of the journal is full"),)

CONTROLS: Final = (
    Control(0, "hello", "Open a connection.",
            (Arg("version", types.uint, "protocol version"),),
            "{version, pid, prefix, mount, state, boot, root}"),
    Control(1, "spawn", "Spawn an agent. Descriptors of binds travel beside the frame, in the order of `binds`.",
            (Arg("kind", types.text, "script, module or exec"), Arg("argv", types.argv, "command"),
             Arg("options", types.mapping, "see spawn.py")),
            "{id, life, name, uid}",
            (("EEXIST", "the name is taken"), ("EAGAIN", "as many agents as the kernel may have"),
             ("ENOENT", "not found inside the sandbox"), ("ENOEXEC", "not an executable of this machine"),
             ("EACCES", "not executable"))),
    Control(2, "ps", "The table of agents.",
            (Arg("all", types.boolean, "dead ones too", False),
             Arg("usage", types.boolean, "with what they use now: some reads of each one's cgroups", True)),
            "[{...}, ...]"),
    Control(3, "signal", "Send a signal.",
            (_TARGET, Arg("signal", types.uint, "number"), Arg("group", types.boolean, "descendants too", False)),
            "[id, ...]: who got it", (("ESRCH", "no such agent"),)),
    Control(4, "wait", "Wait until an agent has ended and is gone.",
            (_TARGET, Arg("timeout_s", types.seconds, "seconds at most, or nil", None)),
            "{id, name, state, code, signal, why, detail, status}",
            (("ESRCH", "no such agent"), ("ETIMEDOUT", "still there"))),
    Control(5, "logs", "Output of an agent: stdout and stderr as they came.",
            (_TARGET, Arg("follow", types.boolean, "go on until it ends", False),
             Arg("tail_lines", types.optional(types.uint), "only the last lines", None),
             Arg("since_ns", types.optional(types.uint), "only what came from this wall time on", None),
             Arg("until_ns", types.optional(types.uint), "only what came up to this wall time; following ends then",
                 None)),
            "[stream (1 or 2), bytes, wall_ns] each; stream 0: a sentence about what is missing here",
            (("ESRCH", "no such agent"),), streams=True),
    Control(6, "rm", "Remove a dead agent: its tree, its logs, its id.",
            (_TARGET,), "id", (("ESRCH", "no such agent"), ("EBUSY", "not dead"))),
    Control(7, "inspect", "All that the kernel knows of an agent.", (_TARGET,), "{...}", (("ESRCH", "no such agent"),)),
    Control(8, "verify", "Read from /proc and the cgroups what confines an agent's processes.",
            (_TARGET,), "{layers: [{layer, state, detail}, ...], processes: n}",
            (("ESRCH", "no such agent"), ("EINVAL", "not alive"))),
    Control(9, "doctor", "The matrix of layers of this machine, as the running kernel sees it.", (),
            "[{layer, state, detail, remedy, accepted}, ...]"),
    Control(10, "trace", "Flight records, or the events that they are.",
            (Arg("agent", types.anything, "id or name, an array of these, or nil for all", None),
             Arg("follow", types.boolean, "go on", False),
             Arg("tail", types.optional(types.uint), "only the last ones", None),
             Arg("since_ns", types.optional(types.uint), "only from this wall time on", None),
             Arg("until_ns", types.optional(types.uint), "only up to this wall time; following ends then", None),
             Arg("events", types.optional(types.texts),
                 "give events (events.py) of these names, of all for an empty array; nil: give records", None),
             Arg("where", question.where, "further conditions (question.py)", {})),
            "{...} each; {missed, first_seq, last_seq} in place of what came too fast",
            (("ESRCH", "no such agent"),), streams=True),
    Control(11, "audit_verify", "Check the chain of the journal, its end against the file of anchors.", (), "{...}"),
    Control(12, "info", "About the kernel.", (), "{...}"),
    Control(13, "shutdown", "Shut the kernel down in order.", (Arg("why", types.text, "for the record", ""),), "nil",
            root=True),
    Control(14, "execute", "Run a program beside an agent, behind the same walls. Its stdin, stdout and stderr travel "
            "beside the frame, or its terminal beside the first answer. It gets SIGHUP when the asker goes away.",
            (_TARGET, Arg("argv", types.argv, "command"),
             Arg("options", types.mapping, "env, cwd, terminal ([rows, columns])", {})),
            "{pid}, then {code, signal, status}",
            (("ESRCH", "no such agent"), ("EBUSY", "it is stopped"), ("EAGAIN", "as many as there may be"),
             ("ENOENT", "not found inside the sandbox"), ("ENOEXEC", "not an executable of this machine"),
             ("EACCES", "not executable")), streams=True),
    Control(15, "feed", "Write to an agent's stdin or terminal as much as it takes in time.",
            (_TARGET, Arg("data", types.data, "bytes"), Arg("end", types.boolean, "nothing more will come", False),
             Arg("timeout_s", types.seconds, "seconds at most", 1.0)),
            "how many bytes it took", (("ESRCH", "no such agent"), ("EPIPE", "it reads no more"),
                                       ("ENOTTY", "it has neither"))),
    Control(16, "resize", "Say how large an agent's terminal is.",
            (_TARGET, Arg("rows", types.uint, "rows"), Arg("columns", types.uint, "columns")), "nil",
            (("ESRCH", "no such agent"), ("ENOTTY", "it has none"))),
    Control(17, "restart", "End an agent if it lives, and run it again: its next life. Descriptors of its binds, "
            "opened anew, travel beside the frame, in the order in which `inspect` shows them.",
            (_TARGET, Arg("binds", types.uint, "how many descriptors", 0)),
            "{id, life, name, uid}",
            (("ESRCH", "no such agent"), ("EBUSY", "its parent has not waited for it yet"),
             ("EINVAL", "not as many descriptors as binds"),
             ("EPERM", "neither root nor its owner, or a writable bind of somebody else's"),
             ("ECANCELED", "it broke its policy while it was asked to end, or the kernel shuts down"),
             ("EAGAIN", "as many agents as the kernel may have"))),
    Control(18, "rename", "Give an agent another name. Its hostname inside stays what it was.",
            (_TARGET, Arg("name", spawn.name, "the new name; must be free")), "id",
            (("ESRCH", "no such agent"), ("EEXIST", "the name is taken"))),
    Control(19, "update", "Change limits of a living agent, now. Those of its children stay as they are.",
            (_TARGET, Arg("limits", types.mapping, "those of spawn.LIMITS that change; timeout_s counts from now, nil "
                          "is no limit")),
            "{id, memory_bytes, cpus, pids, timeout_s, used_bytes}",
            (("ESRCH", "no such agent, or it has ended"), ("EBUSY", "Linux cannot take back the memory in use"))),
    Control(22, "stat", "Attributes of a file in an agent's tree.",
            (_TARGET, _PATH, _FOLLOW), _ATTRIBUTES, _PATH_ERRORS),
    Control(23, "readdir", "Names in a folder of an agent's tree.", (_TARGET, _PATH, _FOLLOW),
            "[[name (bytes), mode, inode], ...] each: some at a time", _PATH_ERRORS, streams=True),
    Control(24, "read", "Content of a file in an agent's tree: what there was when it was opened.",
            (_TARGET, _PATH, _FOLLOW, Arg("wait", types.boolean, "for proc/wait: until there is something", False)),
            f"first {_ATTRIBUTES}, then bytes each",
            (*_PATH_ERRORS, ("EISDIR", "a directory"), ("EOPNOTSUPP", "a FIFO or socket")), streams=True),
    Control(25, "write", "Make or replace a file of an agent's tree, as the agent; it has its name when it is whole.",
            (_TARGET, _PATH, Arg("data", types.data, "a piece of it; a symbolic link's target", bulk=True),
             Arg("offset", types.uint, "0 begins; further pieces of this connection follow one another", 0),
             Arg("more", types.boolean, "it is not whole yet", False),
             Arg("mode", _file_mode, "permission bits, with S_IFLNK for a symbolic link", stat.S_IFREG | 0o644),
             Arg("mtime_ns", types.optional(types.uint), "time of the change, or nil for now", None)),
            "nil", (*_PATH_ERRORS, ("EISDIR", "a directory"), ("EPERM", "append-only or fixed"), _READ_ONLY, _QUOTA,
                    ("ESTALE", "removed while it was written"))),
    Control(26, "mkdir", "Make a folder in an agent's tree, as the agent.",
            (_TARGET, _PATH, Arg("mode", _permissions, "permission bits", 0o755)), "nil",
            (*_PATH_ERRORS, ("EEXIST", "exists already"), ("EPERM", "append-only or fixed"), _READ_ONLY, _QUOTA)),
    Control(27, "runtimes", "The runtimes in force, the kernel's own first.", (), "[{...}, ...]"),
    Control(28, "profiles", "The profiles in force.", (), "[{...}, ...]"),
    Control(29, "reload", "Read the files of runtimes and profiles again, make the runtimes ready, and put them in "
            "force; when one is bad, all stays as it was.", (), "{runtimes, profiles}",
            (("EINVAL", "a file is bad, or a runtime cannot be made ready"),), root=True),
    Control(30, "policy_check", "Read a policy as a spawn would.", (_POLICY,),
            "{name, source, shipped, hash, mode, spawn_max, rules, binds, limits, warnings}",
            _BAD_POLICY),
    Control(31, "policy_test", "What a policy says of a call, as CHECKPOLICY does.",
            (_POLICY, Arg("call", types.text, "name, with or without SYS_"),
             Arg("path", types.optional(types.path), "what it would be about: a path of the tree; for EXEC the tool, "
                 "for SIGNAL self/NAME or child/NAME, for SPAWN the name", None)),
            "{allowed, mode, rule, message}", _BAD_POLICY),
    Control(32, "policy_diff", "What becomes different when the second policy takes the place of the first.",
            (_POLICY, Arg("other", spawn.policy, "likewise")), "[{key, before, after, effect}, ...]", _BAD_POLICY),
    Control(33, "policy_show", "The policy in force for an agent.",
            (_TARGET, Arg("text", types.boolean, "with the document's text", False)),
            "{name, source, shipped, hash, mode, spawn_max, rules, binds, limits}", (("ESRCH", "no such agent"),)),
    Control(34, "caps", "Who holds which capability, from whom: of one agent, or the whole tree, givers before what "
            "they gave.",
            (Arg("agent", types.anything, "id or name, or nil for all", None),),
            "[{agent, name, handle, capability, source, from, from_handle, depth, held, left}, ...]; from 0: its "
            "policy or an operator", (("ESRCH", "no such agent"),)),
    Control(35, "grant", "Give an agent a capability, for this life and all that follow.",
            (_TARGET, Arg("capability", types.text, "what, such as capability://file/state?action=read")),
            "{agent, handle, capability}",
            (("ESRCH", "no such agent, or it has ended"), ("EINVAL", "not a capability that can be held"),
             ("EPERM", "neither root nor its owner"), ("EMFILE", "as many as one agent may hold"))),
    Control(36, "revoke", "Take a capability of an agent back, and all that was made of it, whoever holds that.",
            (_TARGET, Arg("handle", types.uint, "its handle there, as caps lists it")),
            "{gone: [{agent, handle, capability, source}, ...], stays: [{agent, closed, ended, binds, children}, ...]} "
            "of which closed and ended were taken back as well, binds and children were not",
            (("ESRCH", "no such agent, or it has ended"), ("EBADF", "no such handle"),
             ("EPERM", "neither root nor its owner"))),
    Control(37, "policy_set", "Give agents another policy, and their descendants with them. Descriptors of its binds "
            "travel beside the frame.",
            (Arg("agents", _array, "ids or names"), _POLICY,
             Arg("now", types.boolean, "restart who needs it", False),
             Arg("binds", _array, "as in spawn, of the policy's own binds", ())),
            "[{id, name, result, needs, closed, ended, stays, children, message, remedy}, ...]: result is one of "
            + ", ".join(SET_RESULTS),
            (("ESRCH", "no such agent"), ("EPERM", "neither root nor its owner"), *_BAD_POLICY)),
    Control(38, "policy_explain", "Which part of a policy is held by which enforcer: of an agent's, or of a document.",
            (Arg("agent", types.anything, "id or name, or nil", None),
             Arg("policy", types.optional(spawn.policy), "likewise, or nil", None)),
            "[{part, what, file, line, enforcers, how}, ...]", (("ESRCH", "no such agent"), *_BAD_POLICY)),
    Control(39, "why", "What decides about a call or a path of an agent, by which enforcer, and what would allow it. "
            "Neither: what was refused last.",
            (_TARGET, Arg("call", types.optional(types.text), "a system call, or one of Linux, by name", None),
             Arg("object", types.optional(types.path), "what the call is about, as policy_test's path", None),
             Arg("path", types.optional(types.path), "a path as the agent's programs see it", None)),
            "{id, name, mode, answers: [{asked, allowed, enforcer, message, rule, file, line, remedy}, ...]}: allowed "
            "is nil where it depends, as message says",
            (("ESRCH", "no such agent"), ("EINVAL", "no such call, or not a path"))),
    Control(40, "audit_query", "Flight records that meet conditions.",
            (_WHERE, Arg("limit", types.uint, "so many at most; 0: all", 0),
             Arg("newest", types.boolean, "the newest first", False)),
            _BESIDE + "[how far the search has come, [{...}, ...]] each", _ASKED_ERRORS),
    Control(41, "audit_show", "One flight record, where it stands, and what belongs to it.",
            (Arg("seq", types.uint, "its number"), Arg("around", types.uint, "so many before and behind it, too", 0)),
            _BESIDE + "{record, place, partners, before, after}",
            (*_ASKED_ERRORS, ("ENOENT", "no such record"))),
    Control(42, "audit_export", "All flight records that meet conditions, the oldest first.", (_WHERE,),
            _BESIDE + "as audit_query's", _ASKED_ERRORS),
    Control(43, "boots", "The boots of this state directory, the oldest first.", (), _BESIDE + "{...} each",
            _ASKED_ERRORS),
    Control(44, "kernel_log", "What the kernel itself did and what failed in it, in one boot.",
            (Arg("boot", types.integer, "its number, or 0 for this one, -1 for the one before and so on", 0),),
            _BESIDE + "as audit_query's", (*_ASKED_ERRORS, ("ENOENT", "no such boot"))),
    Control(45, "audit_anchor", "Have the head of the journal's chain kept by every witness, now.", (),
            "{line, witnesses: [{witness, seq, age_s, failing}, ...]}", _UNRECORDED, root=True),
    Control(46, "audit_rotate_key", "Go on with a new key of the journal, in a new segment. The old one is kept.", (),
            "{key, before}: ids", _UNRECORDED, root=True),
    Control(47, "audit_rotate", "Go on in a new segment of the journal.", (), "its number", _UNRECORDED, root=True),
)

BY_NUMBER: Final = {c.number: c for c in CONTROLS}
BY_NAME: Final = {c.name: c for c in CONTROLS}
