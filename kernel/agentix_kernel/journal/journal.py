"""The journal of a kernel: append, publish in groups, commit.

`append` buffers. `publish` writes everything buffered as one group: when it returns, the bytes have left our process
and survive its end by any signal. `request_commit` has them synced by a thread; `durable` tells how far, and they
survive a power loss. One thread calls append and publish.
"""

import errno
from collections.abc import Callable
from typing import Any, Final

import msgpack

from agentix_kernel.journal import format as form
from agentix_kernel.journal import walk
from agentix_kernel.journal.anchor import Anchor
from agentix_kernel.journal.commit import Committer
from agentix_kernel.journal.errors import JournalError, JournalFailed, JournalLocked, from_disk
from agentix_kernel.journal.follow import Follower
from agentix_kernel.journal.key import LINK_BYTES, Key, adopt, open_key
from agentix_kernel.journal.prepare import Preparer
from agentix_kernel.journal.read import Record, decode
from agentix_kernel.journal.recover import Opened, recover, write_all
from agentix_kernel.journal.walk import Cursor
from agentix_kernel.world import Clock, Disk, File
from agentix_syscalls import records as table

BUFFERED_MAX: Final = 100_000
"""Records that are kept while the disk refuses them; then `append` refuses, too."""

_FLIGHT: Final = {kind.number: kind.flight for kind in table.KINDS}


class Journal:
    """Made by `Journal.open`. `published` and `durable` are sequences; 0 before the first record.

    `failed` says why the last publish or any sync failed; None while all is well.
    """

    def __init__(self, disk: Disk, key: Key, clock: Clock, cursor: Cursor | None, *, boot_id: bytes,
                 segment_bytes: int, threaded: bool) -> None:
        self.disk = disk
        self.key = key
        self.published = 0 if cursor is None else cursor.next_seq - 1
        self._mono, self._wall = clock.monotonic_ns, clock.wall_ns
        self._boot_id = boot_id
        packer = msgpack.Packer(autoreset=True, use_bin_type=True, unicode_errors="surrogateescape")
        self._pack, self._reset = packer.pack, packer.reset
        self._seq = self.published
        self._records: list[bytes] = []
        self._bodies: dict[int, bytes] = {}
        self._mono_ns = self._wall_ns = 0
        self._refused: JournalError | None = None
        self._followers: list[Follower] = []
        self._capacity = segment_bytes - form.FIRST_GROUP - form.OVERHEAD_MAX_BYTES
        self._preparer = Preparer(disk, segment_bytes, threaded=threaded)
        self._committer = Committer(str(disk), self.published, threaded=threaded)
        self.commit_fd = self._committer.fd
        """An eventfd, readable when `durable` moved or a sync failed; `on_commit` drains it."""
        self._open = True
        self._link = form.NO_LINK
        self._number = self._offset = self._room = self._spoiled_to = 0
        self._vouched = self.published
        self._continue(cursor)

    @classmethod
    def open(cls, disk: Disk, clock: Clock, *, random: Callable[[int], bytes], key_path: str | None = None,
             key: Key | None = None, segment_bytes: int = form.SEGMENT_BYTES,
             threaded: bool = True) -> "tuple[Journal, Opened]":
        """Open the journal on `disk`, or make it, and say what was found.

        The key is `key`, or the one in `key_path`, made at first use. Without threads (a simulation) everything
        happens in the caller: `request_commit` syncs at once.
        Raises JournalLocked, JournalKeyError, JournalDamaged, JournalNewer (nothing was changed then), JournalFull,
        JournalFailed.
        """
        if segment_bytes < form.SEGMENT_MIN_BYTES:
            raise ValueError(f"a segment has at least {form.SEGMENT_MIN_BYTES} bytes")
        if (key is None) == (key_path is None):
            raise ValueError("a journal needs a key or the path of one")
        _lock(disk)
        try:
            held = key or open_key(key_path or "", random, disk)
            cursor, opened = recover(disk, held)
            if cursor is not None:
                held = held.lead(walk.key_in(disk, held, cursor.number))
                if key_path is not None:
                    adopt(key_path, held)  # a crash may have come between the first segment of a key and this
            journal = cls(disk, held, clock, cursor, boot_id=random(16), segment_bytes=segment_bytes, threaded=threaded)
        except BaseException:
            disk.unlock()
            raise
        return journal, opened

    # --- appending -----------------------------------------------------------------------------------------------

    def append(self, kind: int, *, agent: int = 0, life: int = 0, phase: int = table.EVENT, verdict: int = table.NONE,
               rule: str = "", correlation: int = 0, data: "tuple[Any, ...] | list[Any]" = ()) -> int:
        """Buffer one record, as records.py defines it; returns its sequence. It leaves with the next `publish`.

        Raises KeyError for a kind that is not in the table, TypeError or OverflowError for data that msgpack does not
        know, JournalError (EMSGSIZE) for a record longer than a segment, and JournalFull or JournalFailed when the disk
        has refused so many records that no more are kept. No sequence is used up then.
        """
        now = self._mono()
        buffered = self._records
        if not buffered:
            self._mono_ns, self._wall_ns = now, self._wall()
        try:
            if _FLIGHT[kind]:
                packed = self._pack((now - self._mono_ns, agent, life, kind, phase, verdict, rule, correlation, data))
            else:
                packed = self._pack_body((now - self._mono_ns, agent, life, kind, phase, verdict, rule, correlation,
                                          None), data)
        except BaseException:
            self._reset()
            raise
        if len(packed) > self._capacity or self._refused is not None:
            self._check_append(len(packed))
        buffered.append(packed)
        self._seq += 1
        return self._seq

    def publish(self) -> int:
        """Write what is buffered as one group; returns the last sequence that has left the process.

        Raises JournalFull, JournalFailed: then everything is still buffered, and a later publish writes it, the chain
        unbroken. After a failed sync there is no later.
        """
        if not self._records:
            return self.published
        if self._committer.failed is not None:
            raise self._committer.failed
        try:
            records = b"".join(self._records)
            bodies = b"".join(self._bodies.values()) if self._bodies else b""
            if form.OVERHEAD_MAX_BYTES + len(records) + len(bodies) <= self._room:
                self._write(len(self._records), records, bodies)
                self._records.clear()
                self._bodies.clear()
            else:
                self._publish_pieces()
        except OSError as error:
            failed = error if isinstance(error, JournalError) else from_disk(error, str(self.disk), doing="write")
            self._refused = failed
            raise failed from error
        self._refused = None
        return self.published

    def anchor(self) -> Anchor:
        """The head of the chain, as it is published. What is anchored must be durable: else a power loss looks like
        the work of somebody who cut off the end.
        """
        return Anchor.of(self.key, self.published, self._number, self._wall(), self._link)

    def roll(self, key: Key | None = None) -> int:
        """Publish, and go on in a new segment, with `key` from there on; returns its number.

        Raises JournalFull, JournalFailed: then all is as before.
        """
        self.publish()
        before = self.key
        try:
            self.key = before if key is None else before.lead(key)
            self._roll()
        except OSError as error:
            self.key = before
            raise from_disk(error, str(self.disk), doing="begin a segment") from error
        return self._number

    @property
    def segment(self) -> int:
        """Number of the segment that is written to."""
        return self._number

    @property
    def failed(self) -> JournalError | None:
        return self._committer.failed or self._refused

    @property
    def latest(self) -> tuple[int, int, bytes]:
        """The record that was appended last and not published yet, for `read.one`."""
        return self._mono_ns, self._wall_ns, self._records[-1]

    # --- durability ----------------------------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        return self._committer.durable

    @property
    def commit_turns(self) -> int:
        """Grows after each `request_commit` while the commit thread lives and its syncs do not fail."""
        return self._committer.turns

    def request_commit(self) -> None:
        """Have what is published made durable, soon; many requests are one sync. `commit_fd` tells when."""
        self._committer.request()

    def commit(self) -> int:
        """Make what is published durable, now (it blocks); returns the sequence. Raises JournalFull, JournalFailed."""
        self._committer.commit()
        return self._committer.durable

    def on_commit(self) -> None:
        """To be called when `commit_fd` is readable."""
        self._committer.drain()

    async def committed(self, seq: int) -> None:
        """Wait until the record `seq` is durable; it does not ask for that. Raises JournalFull, JournalFailed."""
        await self._committer.committed(seq)

    def close(self) -> None:
        """Publish, commit and give everything back; that also when it raises JournalFull or JournalFailed."""
        if self._open:
            try:
                self.publish()
                self.commit()
                self._seal()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Give everything back and write nothing, as if the process had ended here."""
        if self._open:
            self._open = False
            self._preparer.close()
            self._committer.close(JournalFailed(errno.ESHUTDOWN, f"journal {self.disk}: closed"))
            for follower in list(self._followers):
                follower.close()
            self.disk.unlock()

    # --- reading along -------------------------------------------------------------------------------------------

    def follow(self, *, wanted: Callable[[Record], bool] | None = None, limit: int = 4096) -> Follower:
        """Subscribe to records from now on, each after it was published; to those that are `wanted`, if that is given.
        To be closed by the subscriber.
        """
        follower = Follower(self._followers.remove, wanted=wanted, limit=limit)
        self._followers.append(follower)
        return follower

    # --- inside --------------------------------------------------------------------------------------------------

    def _pack_body(self, fields: tuple[Any, ...], data: "tuple[Any, ...] | list[Any]") -> bytes:
        """A record whose body may be dropped later: it stands apart."""
        body = self._pack(data)
        packed = self._pack((*fields, len(body)))
        self._check_append(len(packed) + len(body))
        self._bodies[len(self._records)] = body
        return packed

    def _check_append(self, size: int) -> None:
        if size > self._capacity:
            raise JournalError(errno.EMSGSIZE, f"a record of {size} bytes, over the {self._capacity} a segment holds; "
                               "record its hash instead")
        if self._refused is not None and len(self._records) >= BUFFERED_MAX:
            raise self._refused

    def _write(self, count: int, records: bytes, bodies: bytes) -> None:
        """One group, behind the last. What a failed write left is written over by the next."""
        first, durable = self.published + 1, self._committer.durable
        data, link = form.encode_group(self._tag, self.key, self._link, count, first, durable,
                                       self._mono_ns, self._wall_ns, records, bodies)
        size = len(data)
        try:
            if self._file.pwrite(data, self._offset) != size:
                write_all(self._file, data, self._offset)
        except OSError:
            self._spoiled_to = max(self._spoiled_to, self._offset + size)
            raise
        self._offset += size
        self._room -= size
        self._link = link
        self._vouched = durable
        self.published += count
        self._committer.published = self.published
        if self._followers:
            self._tell_followers(data)

    def _seal(self) -> None:
        """A group without records behind the last: it says that all before it were durable, so none is a torn tail."""
        if self._vouched < self.published and self._room >= form.GROUP_BYTES:
            try:
                self._write(0, b"", b"")
                self._file.datasync()
            except OSError as error:
                raise from_disk(error, str(self.disk), doing="close") from error

    def _publish_pieces(self) -> None:
        """What does not fit into this segment goes to the next, and what fits into none is several groups."""
        while self._records:
            count = size = 0
            for index, record in enumerate(self._records):
                more = len(record) + len(self._bodies.get(index, b""))
                if size + more > self._capacity:
                    break
                count, size = index + 1, size + more
            if form.OVERHEAD_MAX_BYTES + size > self._room:
                self._roll()
            bodies = b"".join(body for index, body in self._bodies.items() if index < count)
            self._write(count, b"".join(self._records[:count]), bodies)
            del self._records[:count]
            self._bodies = {index - count: body for index, body in self._bodies.items() if index >= count}

    def _roll(self) -> None:
        """Begin the next segment. Its head is durable before any group is written behind it."""
        if self._spoiled_to > self._offset:
            write_all(self._file, bytes(self._spoiled_to - self._offset), self._offset)
            self._file.datasync()
        self._begin(self._number + 1)

    def _begin(self, number: int) -> None:
        file = self._preparer.take(number)
        head = form.encode_head(self.key, number, self.published + 1, self._wall(), self._boot_id, self._link)
        write_all(file, head, 0)
        file.datasync()
        self._committer.follow(file)
        self._preparer.used()
        self._place(file, number, form.FIRST_GROUP, head[-LINK_BYTES:])

    def _continue(self, cursor: Cursor | None) -> None:
        """Take up where recovery says, or begin the first segment."""
        try:
            if cursor is None:
                self._begin(1)
            else:
                file = self.disk.open(form.name_of(cursor.number), write=True)
                self._committer.follow(file)
                self._place(file, cursor.number, cursor.offset, cursor.link)
        except OSError as error:
            self.abandon()
            if isinstance(error, JournalError):
                raise
            raise from_disk(error, str(self.disk), doing="begin") from error

    def _place(self, file: File, number: int, offset: int, link: bytes) -> None:
        """Append to segment `number` from `offset` on; have the next one made."""
        self._file, self._number, self._tag = file, number, self.key.tag(number)
        self._offset, self._link, self._spoiled_to = offset, link, 0
        self._room = file.size() - offset
        self._preparer.prepare(number + 1)

    def _tell_followers(self, data: bytes) -> None:
        """Decoded once for all, and only when somebody follows."""
        group = form.parse(data, 0, self._tag, self.key)
        assert group is not None
        for record in decode(data, group):
            for follower in self._followers:
                follower.offer(record)


def _lock(disk: Disk) -> None:
    try:
        disk.lock()
    except BlockingIOError as error:
        raise JournalLocked(errno.EBUSY, f"journal {disk}: another agentd has it open; stop that one first, or give "
                            "this one a prefix of its own") from error
