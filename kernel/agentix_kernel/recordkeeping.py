"""The journal's household: closed segments are compressed and dropped in time, keys and segments changed on demand."""

from functools import partial
from typing import Final

import trio

from agentix_kernel.journal import key as keys
from agentix_kernel.journal import retention
from agentix_kernel.journal.format import Broken
from agentix_kernel.journal.key import Key
from agentix_kernel.journal.walk import numbers
from agentix_kernel.kernel import Kernel
from agentix_syscalls import records

LOOK_S: Final = 2.0
"""How often it is looked whether a segment was closed; by age there may be something to drop each hour."""
AGE_LOOK_S: Final = 3600.0
DAY_NS: Final = 86400 * 10**9


async def keep(kernel: Kernel) -> None:
    """Compress and drop what is due, as long as the kernel runs. What fails is told once, and tried again."""
    told, looked_at, looked_s = "", 0, -AGE_LOOK_S
    while True:
        if kernel.journal.segment != looked_at or trio.current_time() - looked_s >= AGE_LOOK_S:
            looked_at, looked_s = kernel.journal.segment, trio.current_time()
            failed = await _look(kernel)
            if failed and failed != told and kernel.on_fault is not None:
                kernel.on_fault(f"journal: {failed}")
            told = failed
        await trio.sleep(LOOK_S)


async def _look(kernel: Kernel) -> str:
    """One round; returns what went wrong."""
    try:
        await _drop(kernel)
        await _compress(kernel)
    except (OSError, Broken) as error:
        return str(error)
    return ""


async def _compress(kernel: Kernel) -> None:
    """One segment at a time, so that a shutdown waits for no more than that."""
    disk, segment = kernel.journal.disk, kernel.journal.segment
    for number in numbers(disk):
        if number <= segment - retention.OPEN_SEGMENTS:
            await trio.to_thread.run_sync(retention.compress, disk, number)


async def _drop(kernel: Kernel) -> None:
    """Drop what is over the operator's limits; what is dropped is on record, durably, before it goes."""
    config, journal = kernel.config, kernel.journal
    drop = await trio.to_thread.run_sync(partial(
        retention.expired, journal.disk, journal.key, journal.segment, kernel.world.clock.wall_ns(),
        int(config.journal_keep_days * DAY_NS), config.journal_keep_bytes), abandon_on_cancel=True)
    if drop is not None:
        await kernel.settle(kernel.record(records.DROPPED, data=drop.data))
        await trio.to_thread.run_sync(retention.remove, journal.disk, drop)


async def rotate(kernel: Kernel) -> int:
    """Go on in a new segment; returns its number. Raises JournalError."""
    number = kernel.journal.roll()
    await kernel.settle(kernel.journal.published)
    return number


async def rotate_key(kernel: Kernel, by: str) -> tuple[Key, Key]:
    """Go on with a new key, in a new segment; the old one is kept for the old segments. Returns the old and the new.

    Both are on disk before the new one is used, and the journal says so with each. Raises JournalError, OSError.
    """
    async with kernel.rotating:
        return await _rotate_key(kernel, by)


async def _rotate_key(kernel: Kernel, by: str) -> tuple[Key, Key]:
    path, journal = kernel.config.key_path, kernel.journal
    new = await trio.to_thread.run_sync(keys.make_key, path, kernel.world.random)
    old, data = journal.key, (new.id.hex(), journal.key.id.hex(), by)
    correlation = kernel.next_correlation()
    await kernel.settle(kernel.record(records.KEY, phase=records.INTENT, correlation=correlation, data=data))
    try:
        journal.roll(new)
    except OSError:
        kernel.record(records.KEY, phase=records.OUTCOME, verdict=records.FAILED, correlation=correlation, data=data)
        kernel.flush()
        raise
    seq = kernel.record(records.KEY, phase=records.OUTCOME, verdict=records.ALLOWED, correlation=correlation, data=data)
    await kernel.settle(seq)
    await trio.to_thread.run_sync(keys.adopt, path, new)
    return old, new
