"""What a record must be like, whatever happened: read from it alone."""

from collections import Counter
from collections.abc import Iterator

from agentix_kernel.journal.read import Record
from agentix_syscalls import records
from agentix_syscalls.calls import BY_NAME


def check_record(found: list[Record]) -> Iterator[str]:
    """Each end and each loss once; after its end a life does nothing; a child may no more than its parent."""
    ended: set[tuple[int, int]] = set()
    denied: dict[int, set[str]] = {}
    spawned: Counter[tuple[int, int]] = Counter()
    for record in found:
        life = record.agent, record.life
        if record.kind in {records.EXIT, records.LOST}:
            if life in ended:
                yield f"{life} ended twice, the second time with record {record.seq}"
            ended.add(life)
        elif life in ended and _acts(record):
            yield f"{life} was answered {record.data[0]} after its end, by record {record.seq}"
        elif record.kind == records.SPAWN and record.phase == records.OUTCOME and record.verdict == records.ALLOWED:
            spawned[life] += 1
            if spawned[life] > 1:
                yield f"{life} was spawned twice"
        elif record.kind == records.SPAWN and record.phase == records.INTENT:
            parent, deny = record.data[1], set(record.data[6][1])
            if not denied.get(parent, set()) <= deny:
                yield f"{life} is denied less than its parent {parent}"
            denied[record.agent] = deny


def _acts(record: Record) -> bool:
    """A call that was under way when the end came is recorded as it went; its answer goes to nobody."""
    if record.kind != records.CALL or record.verdict != records.ALLOWED:
        return False
    call = BY_NAME.get(record.data[0])
    return call is None or not call.blocking
