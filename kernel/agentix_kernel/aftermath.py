"""Agents of earlier boots, as the record and the registry have them: shown again, their files served.

The registry is what a boot reads quickly; the record is the truth. An end that reached the record alone is taken from
there, and what neither has ended is lost: it ran, or was being made, when its kernel died. The order makes each loss be
recorded once, whatever ends this boot, too: first the record, durable, then the registry.
"""

from typing import Final

from agentix_kernel import restarts
from agentix_kernel.journal import read
from agentix_kernel.journal.read import Record
from agentix_kernel.kernel import Kernel
from agentix_kernel.lifecycle import furnish
from agentix_kernel.process import End, Process, State, Why
from agentix_syscalls import records

SEGMENTS: Final = 2
"""How far back the record is asked for ends: one may be new, and empty but for this boot."""
_ENDS: Final = frozenset({records.EXIT, records.LOST})


def adopt(kernel: Kernel) -> int:
    """Put all agents of earlier boots into the table; returns how many were lost. Blocks: nothing runs yet.

    Raises ConfigError for a registry that cannot be read, and what a journal raises.
    """
    registry = kernel.registry
    found, unborn = registry.load(), registry.unborn
    cut_off = [process for process in found if process.state is not State.DEAD]
    told = _ends(kernel, {process.id for process in cut_off} | set(unborn)) if cut_off or unborn else {}
    lost = sum(_conclude(kernel, process, told.get((process.id, process.life))) for process in cut_off)
    for agent in unborn:
        if (agent, 1) not in told:
            kernel.journal.append(records.LOST, agent=agent, life=1, data=(f"agent-{agent}", "being made"))
    kernel.journal.publish()
    kernel.journal.commit()
    for process in cut_off:
        registry.save(process)
    registry.drop_unborn()
    for process in found:
        _show(kernel, process)
    return lost


def _ends(kernel: Kernel, agents: set[int]) -> dict[tuple[int, int], Record]:
    """What the record says of the ends of these agents' lives, as far back as their kernel can have written it."""
    journal = kernel.journal
    found = read.tail(journal.disk, journal.key, journal.published, kinds=_ENDS, segments=SEGMENTS,
                      wanted=lambda record: record.agent in agents)
    return {(record.agent, record.life): record for record in found}


def _conclude(kernel: Kernel, process: Process, record: Record | None) -> bool:
    """Its end: as recorded, as its kernel knew it while its parent had not asked, or lost. Whether it was lost."""
    state = process.state
    process.state, process.parent = State.DEAD, 0
    if record is not None and record.kind == records.EXIT:
        code, signal, why, detail, _ = record.data
        process.end = End(Why(why), code, signal, detail, record.rule)
        process.ended_wall_ns = record.wall_ns
        process.lives.wanted = restarts.outlasts(process.lives, process.end)
    elif state is not State.ZOMBIE:
        process.end = End(Why.LOST, signal="SIGKILL", detail=f"its kernel died while it was {state.value}")
        process.ended_wall_ns = record.wall_ns if record is not None else kernel.world.clock.wall_ns()
        if record is None:
            kernel.record(records.LOST, process, data=(process.name, state.value))
            return True
    return False


def _show(kernel: Kernel, process: Process) -> None:
    process.held = True
    process.doom = process.end
    process.over.set()
    process.gone.set()
    kernel.table.add(process)
    furnish(kernel, process, ended=True)
