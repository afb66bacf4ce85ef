"""While the disk refuses the record: one retry at a time, however long it lasts, and one word of it."""

import trio

from agentix_kernel.kernel import JOURNAL_RETRY_S
from agentix_syscalls import records


async def test_retries_do_not_multiply(bench, autojump_clock):
    bench.disk.fail_after = 0
    bench.kernel.record(records.STEP, data=("step", "refused"))
    bench.kernel.flush()
    await trio.sleep(20 * JOURNAL_RETRY_S)
    assert len(bench.kernel.nursery.child_tasks) == 1
    assert len(bench.faults) == 1
    bench.disk.fail_after = None
    await trio.sleep(2 * JOURNAL_RETRY_S)
    assert bench.kernel.journal.failed is None
    assert not bench.kernel.nursery.child_tasks
    assert [record.data[1] for record in bench.kept(records.STEP)] == ["refused"]
