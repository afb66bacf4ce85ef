"""The historian: a process beside agentd that fills the index and answers what is asked of the journal.

    python -I -m agentix_kernel.history.historian FD JOURNAL KEY INDEX

FD is a SOCK_SEQPACKET socket. A question is one packet, [operation, uid, arguments], with the descriptor that the
answer is written to. It is answered by a fork, so that a long answer holds up neither others nor the index, a slow
reader nobody but itself, and what it took goes back at its end. Packets to agentd are sentences for its log.
It ends when agentd does.
"""

import errno
import gc
import os
import select
import socket
import sqlite3
import sys
from typing import Any, Final

from attrs import define, evolve, field

from agentix_kernel.history.fill import Filler
from agentix_kernel.history.index import Index
from agentix_kernel.history.question import PACKET_MAX_BYTES
from agentix_kernel.history.reply import answer, refuse
from agentix_kernel.journal.disk import RealDisk
from agentix_kernel.journal.errors import JournalError, JournalKeyError
from agentix_kernel.journal.key import open_key, read_keys
from agentix_syscalls import wire
from agentix_syscalls.errors import CallError

LOOK_S: Final = 1.0
"""How often the journal is looked at for what is new."""
WORST_S: Final = 30.0
"""How long it is left alone after something failed."""
FILLING_NICE, ANSWERING_NICE = 19, 5
ANSWERS_MAX: Final = 64
ANSWERS_OF_ONE_MAX: Final = 8
"""Answers under way: of all together, and of one uid other than root's."""


@define
class Historian:
    """`told`: what agentd has been told last; said once, however often it happens."""

    sock: socket.socket
    index: Index
    filler: Filler
    answering: dict[int, int] = field(factory=dict[int, int])
    """The uid for whom each fork answers, by its pid."""
    told: str = ""
    _ready: bool = False

    def run(self) -> None:
        """Until agentd hangs up."""
        pause = 0.0
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while True:
            if poll.poll(pause * 1000) and not self._serve():
                return
            self._reap()
            pause = self._fill()

    def _fill(self) -> float:
        """Some more of the index; seconds until the next time."""
        try:
            if not self._ready:
                self._tell(self.filler.open())
                self._ready = True
            return 0.0 if self.filler.advance() else LOOK_S
        except sqlite3.DatabaseError as error:  # damaged, deleted, or the disk is full
            self._ready = False  # open() finds out, and makes it anew if it must
            self._tell(f"{self.index.path}: {error}")
        except JournalKeyError as error:
            if self._renew():
                return 0.0
            self._tell(str(error))
        except (JournalError, OSError) as error:
            self._tell(str(error))
        self.filler.rest()
        return WORST_S

    def _renew(self) -> bool:
        """Read the keys of the journal again; whether there is another one."""
        known = self.index.key
        try:
            key = read_keys(known.path)
        except OSError:  # what cannot be judged without it says so
            return False
        if all(known.of(one.id) for one in (key, *key.others)):
            return False
        self.index = self.filler.index = evolve(self.index, key=key)
        self.filler.rest()
        return True

    def _tell(self, sentence: str) -> None:
        if sentence and sentence != self.told:
            self.told = sentence
            self.sock.send(sentence.encode("utf-8", "backslashreplace")[:4096])

    def _serve(self) -> bool:
        """Take one question; False when there will be no more."""
        packet, fds, _, _ = socket.recv_fds(self.sock, PACKET_MAX_BYTES, 1)
        if not packet or not fds:
            return bool(packet)
        operation, uid, args = wire.decode(packet)
        self._reap()
        busy = sum(1 for one in self.answering.values() if one == uid)
        if (uid and busy >= ANSWERS_OF_ONE_MAX) or len(self.answering) >= ANSWERS_MAX:
            refuse(fds[0], operation, CallError(
                errno.EAGAIN, f"{len(self.answering)} questions to the record are being answered, {busy} of them for "
                f"uid {uid}", remedy="ask again when one of them is"))
        elif child := os.fork():
            self.answering[child] = uid
        else:
            self._answer(fds[0], operation, args)
        os.close(fds[0])
        return True

    def _answer(self, fd: int, operation: int, args: Any) -> None:
        """In the fork. Whatever happens, it does not come back from here."""
        status = 1
        try:
            self.sock.close()
            os.setpriority(os.PRIO_PROCESS, 0, ANSWERING_NICE)
            self._renew()
            answer(self.index, fd, operation, args)
            status = 0
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while self.answering:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            uid = self.answering.pop(pid)
            if status:
                self._tell(f"an answer to uid {uid} broke off, with status {os.waitstatus_to_exitcode(status)}")


def main(fd: str, journal_dir: str, key_path: str, index_dir: str) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, FILLING_NICE)
    os.umask(0o077)
    disk = RealDisk(journal_dir)
    index = Index(index_dir, disk, open_key(key_path, os.urandom, disk))
    gc.freeze()  # forks share what is here
    with socket.socket(fileno=int(fd)) as sock:
        Historian(sock, index, Filler(index)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
