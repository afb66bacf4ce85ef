"""What outlives a kernel about agents: their ids, uids, names and ends, one small file each; and claims of uids.

Not the truth about what happened (that is the journal), but what the next boot needs to show old agents again.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import zlib
from functools import lru_cache
from typing import Any, Final

from attrs import astuple, define, field

from agentix_kernel.authority import capability
from agentix_kernel.authority.holdings import Start
from agentix_kernel.authority.policy import inforce
from agentix_kernel.authority.policy.inforce import InForce, Source
from agentix_kernel.authority.policy.reading import Mark
from agentix_kernel.authority.policy.rules import ALLOW, Rule
from agentix_kernel.config import UID_SPAN, Config, ConfigError
from agentix_kernel.process import Command, Denial, End, Lives, Process, State, Why
from agentix_kernel.world import DEFAULT_RUNTIME, Bind, Limits
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import restart as parse_restart

RANGES_DIR: Final = "/run/agentix-uids"
FIRST_RANGE: Final = 16
"""Range n holds uids n*65536 and up; the first ones are people's and systemd's."""
LAST_RANGE: Final = 30000


@define
class Registry:
    """Ids and uids of one kernel. `root` None: nothing is kept (simulation)."""

    root: str | None
    uid_first: int
    uid_count: int = UID_SPAN
    last_id: int = 0
    unborn: list[int] = field(factory=list[int])
    """Ids whose kernel died before it saved anything of their agents, as `load` found them."""
    _uids: set[int] = field(factory=set[int])
    _next_uid: int = 0
    _last_fd: int = -1
    _unsaved: dict[int, Process] = field(factory=dict[int, Process])

    def folder(self, agent: int) -> str | None:
        """Where an agent's record, durable folders and logs live."""
        return None if self.root is None else f"{self.root}/{agent}"

    def next_id(self) -> int:
        """A new id; on disk before it is used, so that none is given twice in the life of the state directory.

        Raises CallError when the disk takes none.
        """
        self.last_id += 1
        if self.root is not None:
            try:
                self._keep_id(self.root)
            except OSError as error:
                raise CallError(error.errno or errno.EIO, f"no room for another agent: {error.strerror}",
                                remedy=f"make room on the disk of {self.root}") from error
        return self.last_id

    def _keep_id(self, root: str) -> None:
        # A number of fixed width is replaced by one write, which a crash of ours cannot tear.
        if self._last_fd < 0:
            self._last_fd = os.open(f"{root}/last-id", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(self._last_fd, b"%020d" % self.last_id, 0)
        os.mkdir(f"{root}/{self.last_id}", 0o700)

    def claim_uid(self) -> int:
        """A uid that nobody alive or with files has. Raises CallError(EAGAIN) when all are taken."""
        for _ in range(self.uid_count):
            uid = self.uid_first + self._next_uid
            self._next_uid = (self._next_uid + 1) % self.uid_count
            if uid not in self._uids:
                self._uids.add(uid)
                return uid
        raise CallError(errno.EAGAIN, f"all {self.uid_count} uids are taken",
                        remedy="remove dead agents with `agentctl rm`")

    def free_uid(self, uid: int) -> None:
        self._uids.discard(uid)

    def save(self, process: Process) -> None:
        """Keep what the next boot needs. What a full disk refuses is tried again with the next save, or by `retry`:
        no agent's life hangs on it, and the truth is in the journal.
        """
        self._unsaved[process.id] = process
        self.retry()

    def retry(self) -> None:
        """Save what could not be saved before."""
        for process in list(self._unsaved.values()):
            try:
                self._save(process)
            except OSError:
                return
            del self._unsaved[process.id]

    def _save(self, process: Process) -> None:
        if self.root is None:
            return
        command, limits, policy, end = process.command, process.limits, process.policy, process.end
        source = policy.source
        assert source.text is not None
        row = {
            "id": process.id, "life": process.life, "name": process.name, "uid": process.uid, "parent": process.parent,
            "state": process.state.value, "kind": command.kind, "argv": command.argv, "owner": command.owner,
            "limits": [limits.memory_bytes, limits.cpus, limits.pids, limits.timeout_s],
            "mode": policy.mode, "deny": policy.deny,
            "start": [[handle, str(one.capability), one.mark.file, one.mark.line, one.mark.column]
                      for handle, one in process.lives.start.rules.items()], "next": process.lives.start.next,
            "policy": [source.name, source.text.decode(), source.shipped],
            "started_wall_ns": process.started_wall_ns, "ended_wall_ns": process.ended_wall_ns,
            "runtime": command.runtime, "profile": command.profile,
            "calls": process.calls, "denials": process.denials,
            "last_denial": astuple(process.last_denial) if process.last_denial else None,
            "cwd": command.cwd, "env": command.env, "stdin": command.stdin,
            "terminal": command.terminal,
            "binds": [[bind.target, bind.writable, bind.source, bind.identity] for bind in command.binds],
            "restart": str(process.lives.policy), "wanted": process.lives.wanted,
            "end": [end.why.value, end.code, end.signal, end.detail, end.rule] if end else None,
        }
        _replace(f"{self.root}/{process.id}/agent.json", json.dumps(row).encode())

    def keep_source(self, process: Process) -> None:
        """Keep an agent's script. Where a full disk refuses it, this kernel alone can restart the agent."""
        if self.root is not None and process.command.source is not None:
            with contextlib.suppress(OSError):
                _replace(f"{self.root}/{process.id}/source", process.command.source)

    def source(self, agent: int) -> bytes:
        """The script of an agent of an earlier boot. Raises CallError(ENOENT)."""
        try:
            with open(f"{self.root}/{agent}/source", "rb") as file:
                return file.read()
        except OSError as error:
            raise CallError(errno.ENOENT, f"the script of agent {agent} was not kept: {error.strerror}",
                            remedy="spawn it anew") from None

    def load(self) -> list[Process]:
        """Agents of earlier boots, as they were last saved. Claims their uids. Raises ConfigError for a bad file."""
        if self.root is None:
            return []
        os.makedirs(self.root, 0o700, exist_ok=True)
        found: list[Process] = []
        for entry in sorted((name for name in os.listdir(self.root) if name.isdecimal()), key=int):
            path = f"{self.root}/{entry}/agent.json"
            try:
                with open(path, encoding="utf-8") as file:
                    found.append(_process(json.load(file)))
            except FileNotFoundError:
                self.unborn.append(int(entry))
            except (ValueError, KeyError, TypeError, CallError) as error:
                raise ConfigError(f"{path}: not an agent's record: {error}; move its folder away to boot without "
                                  "it") from None
        self._uids.update(process.uid for process in found)
        self.last_id = max(_read_number(f"{self.root}/last-id"), *(process.id for process in found), *self.unborn, 0)
        return found

    def drop_unborn(self) -> None:
        for agent in self.unborn:
            shutil.rmtree(f"{self.root}/{agent}")
        self.unborn.clear()

    def forget(self, process: Process) -> None:
        self.free_uid(process.uid)
        self._unsaved.pop(process.id, None)
        if self.root is not None:
            shutil.rmtree(f"{self.root}/{process.id}", ignore_errors=True)


def _process(row: dict[str, Any]) -> Process:
    end = row["end"]
    binds = tuple(Bind(-1, target, writable, source, tuple(identity))
                  for target, writable, source, identity in row.get("binds", ()))
    terminal = row.get("terminal")
    command = Command(  # the record of an earlier version has not all of these
        row["kind"], tuple(row["argv"]), None, row.get("env", {}), row.get("cwd", ""), binds,
        stdin=row.get("stdin", False), terminal=tuple(terminal) if terminal else None,
        runtime=row.get("runtime", DEFAULT_RUNTIME), profile=row.get("profile", ""), owner=row.get("owner", 0))
    policy, start = _policy(row)
    process = Process(
        row["id"], row["life"], row["name"], row["uid"], row["parent"], command, Limits(*row["limits"]),
        policy, row["started_wall_ns"],
        lives=Lives(parse_restart(row.get("restart", "never")), row.get("wanted", False), start=start),
        origin=row["id"])
    process.state, process.ended_wall_ns = State(row["state"]), row["ended_wall_ns"]
    process.calls, process.denials = row["calls"], row["denials"]
    last = row.get("last_denial")
    process.last_denial = Denial(*last) if last else None
    process.end = End(Why(end[0]), *end[1:]) if end else None
    return process


def _policy(row: dict[str, Any]) -> tuple[InForce, Start]:
    """What it had, and what its next life begins to hold. Raises CallError for what is no policy any more: its agent is
    not shown as one that had less.
    """
    name, text, *shipped = row.get("policy", (inforce.STANDARD, None))  # earlier versions kept no text of shipped ones
    source, deny = Source(name, None if text is None else text.encode(), *shipped), tuple(row["deny"])
    if "start" not in row:  # of an earlier version, which had a number beside the document
        count = row["spawn_max"] if row.get("spawn_given", True) else None
        policy = inforce.make(source, mode=row["mode"], deny=deny, spawn_max=count)
        return policy, Start.of(policy.allows)
    rules = {handle: Rule(ALLOW, _capability(text), Mark(*mark)) for handle, text, *mark in row["start"]}
    policy = inforce.restored(source, row["mode"], deny, tuple(rules.values()))
    return policy, Start(rules, row["next"])


_capability = lru_cache(capability.parse)
"""Most agents hold the same."""


def _replace(path: str, data: bytes) -> None:
    """Only root may read it: an agent's environment may hold secrets."""
    with open(f"{path}.new", "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
    os.replace(f"{path}.new", path)


def _read_number(path: str) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


@define
class UidRange:
    """A claim on a range of uids, held by a lock while the kernel lives, so that two kernels never share one."""

    first: int
    _lock: int = -1

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def claim_range(config: Config) -> UidRange:
    """The range that the configuration names, or the one this state directory had before, or a free one.

    Raises ConfigError when it is another living kernel's.
    """
    if config.uid_first:
        return UidRange(config.uid_first)
    os.makedirs(RANGES_DIR, 0o700, exist_ok=True)
    kept = f"{config.state_dir}/uid-range"
    number = _read_number(kept)
    if number:
        lock = _lock_range(number)
        if lock < 0:
            raise ConfigError(f"the uids from {number * UID_SPAN} are in use by another kernel; shut it down, or set "
                              "uid_first in the configuration to a range that is free")
        return UidRange(number * UID_SPAN, lock)
    start = zlib.crc32(config.state_dir.encode()) % (LAST_RANGE - FIRST_RANGE)
    for step in range(LAST_RANGE - FIRST_RANGE):
        number = FIRST_RANGE + (start + step) % (LAST_RANGE - FIRST_RANGE)
        lock = _lock_range(number)
        if lock >= 0:
            _replace(kept, b"%d" % number)
            return UidRange(number * UID_SPAN, lock)
    raise ConfigError("no range of uids is free; set uid_first in the configuration")


def _lock_range(number: int) -> int:
    lock = os.open(f"{RANGES_DIR}/{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return -1
    return lock
