"""The table of attempts: one row is one thing that an agent tries, who must refuse it, and what must not come of it.

Expressions are evaluated by probe.py inside of the agent; effects are looked for by outside.py from the host.
"""

from attrs import frozen

# Who refuses. What these five refuse is in the record as a denial with its rule.
DISPATCH, MOUNT, SECCOMP, SIGNALS, CAPABILITIES = "dispatch", "mount", "seccomp", "signals", "capabilities"
MEDIATED = {DISPATCH, MOUNT, SECCOMP, SIGNALS, CAPABILITIES}
PROTOCOL = "protocol"
"""The frames themselves: a fault of the connection, recorded as such."""
CALL = "call"
"""The call's own checks, in the record with its errno."""
TREE = "tree"
"""What the mount refuses to everybody, root included: in the record as a file operation, unless Linux saw to it."""
LINUX = "linux"
"""Linux's own rights and limits, for a uid without capabilities: not seen per attempt."""
ABSENT = "absent by structure"
"""It is not there: no such mount, process, network, address."""
LANDLOCK = "landlock"
HARMLESS = "harmless"
"""It may be done, and does nothing to anybody."""


@frozen
class Attempt:
    """`answer`: what the agent is told, one of several with `|`. `rule`: part of the rule that the record must name.

    `effect`: which view of outside.py must not change by it.
    """

    name: str
    room: str
    tries: str
    stops: str
    answer: str
    effect: str
    rule: str = ""


POLICY = """\
version: 1
name: hostile
mode: enforce
limits: {pids: 40, memory: 256M}
allow:
  - {file: /, action: [read, write]}
  - {signal: "*", to: self}
  - {signal: SIGUSR2, to: child}
  - {tool: shell.execute}
  - {spawn: "kid-*", max: 4}
  - capability://agent/child?action=wait
deny:
  - {file: /state/held, action: "*"}
  - {file: /state/kept, action: write}
  - {file: /state/drop, action: read}
  - {file: "/state/key*", action: "*"}
  - {file: /state/deep/a/held, action: "*"}
  - {call: MKDIR, path: /state/flat}
  - {call: SYNC}
"""
HELD, KEPT, DROP, KEYS, DEEP, FLAT = (f"hostile.yaml:{line}: deny" for line in (13, 14, 15, 16, 17, 18))


def _both_doors(name: str, call: str, mount: str, rule: str, effect: str, answer: str = "EPERM") -> tuple[Attempt, ...]:
    return (Attempt(f"{name}, by a call", "files", call, DISPATCH, answer, effect, rule),
            Attempt(f"{name}, at the mount", "files", mount, MOUNT, answer, effect, rule))


RULES = (
    *_both_doors("read what is denied", "fetch('state/held/secret')", "read(HELD)", HELD, "secrets"),
    *_both_doors("write what is denied", "put('state/held/secret')", "write(HELD)", HELD, "kept"),
    *_both_doors("make a file in a folder that is denied", "put('state/held/new')", "write(ME + 'state/held/new')",
                 HELD, "kept"),
    *_both_doors("list a folder that is denied", "libc.listdir('state/held')", "os.listdir(ME + 'state/held')", HELD,
                 "secrets"),
    *_both_doors("look at what is denied", "libc.stat('state/held/secret')", "os.stat(HELD)", HELD, "secrets"),
    *_both_doors("remove what is denied", "libc.unlink('state/held/secret')", "os.unlink(HELD)", HELD, "kept"),
    *_both_doors("cut what is denied", "libc.truncate('state/held/secret', 0)", "os.truncate(HELD, 0)", HELD, "kept"),
    *_both_doors("cut by opening to read", "libc.open('state/kept', RO | CUT)", "os.open(KEPT, RO | CUT)", KEPT,
                 "kept"),
    *_both_doors("cut what may only be read", "libc.truncate('state/kept', 0)", "os.truncate(KEPT, 0)", KEPT, "kept"),
    *_both_doors("write by way of dots", "put('state/../state/./kept')", "write(ME + 'state//..//state/./kept')", KEPT,
                 "kept"),
    *_both_doors("read by way of dots", "fetch('./state//held/../held/secret')",
                 "read(ME + 'mem/../state/held//secret')", HELD, "secrets"),
    *_both_doors("read by a link", "through_link('held/secret', 'a', lambda path: fetch('state/a'))",
                 "through_link('held/secret', 'b', read)", HELD, "secrets"),
    *_both_doors("read by a link to the folder",
                 "through_link('held', 'c', lambda path: fetch('state/c/secret'))",
                 "through_link('held', 'd', lambda path: read(path + '/secret'))", HELD, "secrets"),
    *_both_doors("read by `..` behind a link",
                 "through_link('../mem/working', 'e', lambda path: fetch('state/e/../../state/held/secret'))",
                 "through_link('../mem/working', 'f', lambda path: read(path + '/../../state/held/secret'))", HELD,
                 "secrets"),
    *_both_doors("write by a link to where nothing is",
                 "through_link('held/planted', 'g', lambda path: put('state/g'))",
                 "through_link('held/planted', 'h', write)", HELD, "kept"),
    *_both_doors("move it out", "libc.rename('state/held/secret', 'state/out')",
                 "os.rename(HELD, ME + 'state/out')", HELD, "kept"),
    *_both_doors("move its folder", "libc.rename('state/held', 'state/out')",
                 "os.rename(ME + 'state/held', ME + 'state/out')", HELD, "kept"),
    *_both_doors("move a folder far above it", "libc.rename('state/deep', 'state/out')",
                 "os.rename(ME + 'state/deep', ME + 'state/out')", DEEP, "kept"),
    *_both_doors("move another over it", "put('state/n1') and libc.rename('state/n1', 'state/kept')",
                 "write(ME + 'state/n2') and os.rename(ME + 'state/n2', KEPT)", KEPT, "kept"),
    *_both_doors("exchange it for another", "put('state/n3') and libc.syscall(10, 'state/n3', 'state/kept', 2)",
                 "write(ME + 'state/n4') and exchanged(ME + 'state/n4', KEPT)", KEPT, "kept"),
    *_both_doors("a name that no text can be", "put(b'state/key\\xff\\xfe')",
                 "write(b'/agent/self/state/key\\xff\\xfe')", KEYS, "kept"),
    *_both_doors("a name with a line's end", "put('state/key\\n')", "write(ME + 'state/key\\n')", KEYS, "kept"),
    *_both_doors("a name with a star", "put('state/key*')", "write(ME + 'state/key*')", KEYS, "kept"),
    *_both_doors("a call that is denied on a path", "libc.mkdir('state/flat')", "os.mkdir(ME + 'state/flat')", FLAT,
                 "kept"),
    *_both_doors("read what may only be written", "fetch('state/drop')", "read(DROP)", DROP, "secrets"),
    *_both_doors("read and write what may only be written", "fetch('state/drop', RW)", "read(DROP, RW)", DROP,
                 "secrets"),
    *_both_doors("turn a link while it is read", "raced(lambda path: fetch('state/turning'))", "raced(read)", HELD,
                 "secrets", "EPERM b'harmless'"),
    *_both_doors("turn a link while it is written", "raced(lambda path: put('state/turning', WO))",
                 "raced(lambda path: write(path, WO))", HELD, "kept", "4 EPERM"),
    *_both_doors("turn a folder on the way", "raced_folder(lambda path: fetch('state/way/secret'))",
                 "raced_folder(read)", HELD, "secrets", "EPERM b'harmless'"),
    Attempt("a call that is denied by name", "files", "libc.fsync(0)", DISPATCH, "EPERM", "kept", "deny"),
    Attempt("give it another name", "files", "os.link(HELD, ME + 'state/alias')", MOUNT, "EPERM", "secrets", HELD),
    Attempt("give what may be read a name that may be written", "files", "os.link(KEPT, ME + 'state/alias')", MOUNT,
            "EPERM", "kept", KEPT),
    Attempt("give it a name by a descriptor", "files", "linked_by_descriptor(KEPT, ME + 'state/alias')", MOUNT, "EPERM",
            "kept", KEPT),
    Attempt("open it again by its descriptor to write", "files", "reopened(KEPT, RO, RW)", MOUNT, "EPERM", "kept",
            KEPT),
    Attempt("cut it by its descriptor", "files", "reopened(KEPT, RO, WO | CUT)", MOUNT, "EPERM", "kept", KEPT),
    Attempt("open it again by its descriptor to read", "files", "reopened(DROP, WO, RO)", MOUNT, "EPERM", "secrets",
            DROP),
    Attempt("open a mere place of it", "files", "reopened(DROP, os.O_PATH, RO)", MOUNT, "EPERM", "secrets", DROP),
    Attempt("take its name away and read it", "files", "nameless()", MOUNT, "EPERM", "secrets", DROP),
    Attempt("let everybody write it", "files", "os.chmod(KEPT, 0o666)", MOUNT, "EPERM", "kept", KEPT),
    Attempt("let everybody read the folder", "files", "os.chmod(ME + 'state/held', 0o777)", MOUNT, "EPERM", "kept",
            HELD),
    Attempt("change its times", "files", "os.utime(KEPT, (1, 1))", MOUNT, "EPERM", "kept", KEPT),
    Attempt("copy it without a path", "files", "copied(HELD, ME + 'state/copy')", MOUNT, "EPERM", "secrets", HELD),
)

TREES = (
    Attempt("give it an attribute", "files", "extended(KEPT)", LINUX, "EOPNOTSUPP|ENOTSUP", "kept"),
    Attempt("write it through a mapping", "files", "mapped(KEPT)", LINUX, "EACCES", "kept"),
    Attempt("make a mapping of it writable", "files", "unprotected(KEPT)", LINUX, "EACCES", "kept"),
    Attempt("cut it by a descriptor that reads", "files", "os.ftruncate(os.open(KEPT, RO), 0)", LINUX, "EINVAL",
            "kept"),
    Attempt("give it away", "files", "os.chown(ME + 'state', 0, 0)", LINUX, "EPERM", "kept"),
    Attempt("make a disk", "files", "os.mknod(ME + 'state/sda', 0o60666, os.makedev(8, 0))", LINUX, "EPERM|EACCES",
            "kept"),
    Attempt("the name in capitals", "files", "fetch('state/HELD/secret')", ABSENT, "ENOENT", "secrets"),
    Attempt("the name in letters that look alike", "files", "read(ME + 'state/\\u04bbeld/secret')", ABSENT, "ENOENT",
            "secrets"),
    Attempt("the name with a blank", "files", "read(ME + 'state/held /secret')", ABSENT, "ENOENT", "secrets"),
    Attempt("a path with a NUL", "files", "libc.open(b'state/free\\0/../held/secret')", CALL, "EINVAL", "secrets"),
    Attempt("a name that is too long", "files", "libc.open('state/' + 'n' * 256, NEW)", CALL, "ENAMETOOLONG", "kept"),
    Attempt("a path that is too long", "files", "libc.open('state/' + './' * 3000 + 'held/secret')", CALL,
            "ENAMETOOLONG|EINVAL", "secrets"),
    Attempt("a link to itself", "files", "through_link('loop', 'loop', lambda path: fetch('state/loop'))", CALL,
            "ELOOP", "kept"),
    Attempt("a host's file by a call", "files", "fetch('/etc/passwd')", CALL, "EACCES", "secrets"),
    Attempt("a host's file by a link and a call", "files",
            "through_link('/etc/passwd', 'pw', lambda path: fetch('state/pw'))", CALL, "EACCES", "secrets"),
    Attempt("a host's file by dots and a call", "files", "fetch('state/../../../../etc/passwd')", CALL, "ENOENT",
            "secrets"),
    Attempt("the neighbour's file by a call", "files", "fetch(f'/agent/{OUT[\"victim\"]}/state/precious')", CALL,
            "EACCES", "secrets"),
    Attempt("the neighbour's file by its name", "files", "fetch(f'/agent/by-name/{OUT[\"name\"]}/state/precious')",
            CALL, "EACCES", "secrets"),
    Attempt("the neighbour's file at the mount", "files", "read(f'/agent/{OUT[\"victim\"]}/state/precious')", ABSENT,
            "ENOENT", "secrets"),
    Attempt("the neighbour's file by dots", "files", "read(ME + f'../{OUT[\"victim\"]}/state/precious')", ABSENT,
            "ENOENT", "secrets"),
    Attempt("the names of neighbours", "files",
            "sorted(set(os.listdir('/agent')) - {'self', os.environ['AGENTIX_ID']})", ABSENT, "[]", "secrets"),
    Attempt("a secret of the host", "files", "read(OUT['secret'])", ABSENT, "ENOENT", "secrets"),
    Attempt("the password hashes", "files", "read('/etc/shadow')", ABSENT, "ENOENT", "secrets"),
    Attempt("the home of root", "files", "os.listdir('/root')", ABSENT, "ENOENT", "secrets"),
    Attempt("the kernel's key", "files", "read(OUT['prefix'] + '/state/keys/journal.key')", ABSENT, "ENOENT",
            "secrets"),
    Attempt("write a program", "files", "write('/usr/bin/agentix-was-here')", LINUX, "EACCES|EROFS", "host"),
    Attempt("write the names of hosts", "files", "write('/etc/hosts', WO)", LINUX, "EACCES|EROFS", "host"),
    Attempt("write who one is", "files", "write('/run/etc/passwd', WO)", LINUX, "EACCES|EROFS", "confined"),
    Attempt("make a folder at the root", "files", "os.mkdir('/new')", LINUX, "EACCES|EROFS", "confined"),
    Attempt("write a folder that was shown to be read", "files", "write('/shown/file')", LINUX, "EACCES|EROFS", "host"),
    Attempt("remove from a folder that was shown to be read", "files", "os.unlink('/shown/file')", LINUX,
            "EACCES|EROFS", "host"),
    Attempt("link from a folder shown to be read into one to be written", "files",
            "os.link('/shown/file', '/shared/file')", LINUX, "EXDEV|EACCES|EPERM", "host"),
    Attempt("link from what all are shown", "files", "os.link('/etc/hosts', '/tmp/hosts')", LINUX, "EPERM|EXDEV|EACCES",
            "host"),
    Attempt("climb out of a shown folder", "files",
            "read('../secret', dir_fd=os.open('/shared', RO | os.O_DIRECTORY))", ABSENT, "ENOENT", "secrets"),
    Attempt("a link in a shown folder to the host", "files",
            "os.symlink(OUT['secret'], '/shared/link') or read('/shared/link')", ABSENT, "ENOENT", "secrets"),
    Attempt("a device in a shown folder", "files", "os.mknod('/shared/sda', 0o60666, os.makedev(8, 0))", LINUX,
            "EPERM|EACCES", "host"),
    Attempt("write the policy by a call", "policies", "put('policy/effective', WO)", CALL, "EROFS", "policy"),
    Attempt("write the policy at the mount", "policies", "write(ME + 'policy/effective', WO)", LINUX, "EACCES",
            "policy"),
    Attempt("remove the policy", "policies", "libc.unlink('policy/effective')", CALL, "EROFS|EACCES", "policy"),
    Attempt("move the policy away", "policies", "os.rename(ME + 'policy/effective', ME + 'policy/x')", LINUX,
            "EACCES|EROFS|EPERM", "policy"),
    Attempt("another folder for policies", "policies", "libc.mkdir('policy2')", CALL, "EPERM|EACCES", "policy"),
    Attempt("the folder of policies away", "policies", "os.rename(ME + 'policy', ME + 'p')", TREE, "EPERM|EBUSY",
            "policy"),
    Attempt("let oneself write the policy", "policies", "os.chmod(ME + 'policy/effective', 0o666)", TREE,
            "EROFS|EPERM|EACCES", "policy"),
    Attempt("take the last denial away", "policies", "libc.truncate('policy/last-denial', 0)", CALL,
            "EROFS|EACCES|EPERM", "policy"),
    Attempt("cut the past", "files",
            "put('mem/episodic/log', NEW | os.O_APPEND) and libc.truncate('mem/episodic/log', 0)",
            CALL, "EPERM", "past"),
    Attempt("write over the past", "files", "put('mem/episodic/log', WO)", CALL, "EPERM", "past"),
    Attempt("write over the past at the mount", "files", "write(ME + 'mem/episodic/log', WO)", TREE, "EPERM", "past"),
    Attempt("remove the past", "files", "os.unlink(ME + 'mem/episodic/log')", TREE, "EPERM", "past"),
    Attempt("move the past", "files", "libc.rename('mem/episodic/log', 'mem/episodic/l')", CALL, "EPERM", "past"),
    Attempt("map the past and write it", "files", "mapped(ME + 'mem/episodic/log')", LINUX, "EACCES", "past"),
    Attempt("a file in proc", "files", "libc.open('proc/mine', NEW)", CALL, "EPERM|EACCES", "policy"),
    Attempt("write one's own state", "files", "put('proc/status', WO)", CALL, "EACCES|EPERM|EROFS", "policy"),
    Attempt("a set-id file by a call", "files", "libc.close(libc.open('state/setid', NEW, 0o4755))", CALL, "EPERM",
            "set-id"),
    Attempt("a file of the neighbour's uid", "files", "os.chown(ME + 'state/n1', 0, -1)", LINUX, "EPERM", "kept"),
    Attempt("give descriptors of one's folders to another agent", "files",
            "by_accomplice()", LANDLOCK, "(E\\w+,?)+ (E\\w+,?)+", "accomplice"),
    Attempt("lend one's connection to another agent", "identity", "lent()", DISPATCH, "EPERM", "secrets", HELD),
)
