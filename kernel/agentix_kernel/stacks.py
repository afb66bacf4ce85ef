"""What everything in this process is doing, as text: trio's tasks, each with what it awaits, and the threads.

From any thread, also while the loop hangs: it reads only, and what moves meanwhile may be shown half a step ahead.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Final

import trio

_TRIO: Final = os.path.dirname(trio.__file__) + os.sep
TASKS_MAX: Final = 200
"""Tasks shown with their stacks; with thousands of agents most wait at the same place."""


def dump(root: trio.lowlevel.Task | None) -> str:
    """Every thread's stack, then every task's, outermost call first; `root` is the task that trio.run began with."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
             for ident, frame in sys._current_frames().items()]  # pyright: ignore[reportPrivateUsage] - documented
    tasks = list(_tasks(root)) if root is not None else []
    parts += [f"task {depth * '  '}{task.name}:\n{''.join(_awaits(task))}" for depth, task in tasks[:TASKS_MAX]]
    if len(tasks) > TASKS_MAX:
        parts.append(f"and {len(tasks) - TASKS_MAX} more tasks\n")
    return "\n".join(parts)


def _tasks(task: trio.lowlevel.Task, depth: int = 0) -> Iterator[tuple[int, trio.lowlevel.Task]]:
    yield depth, task
    for nursery in list(task.child_nurseries):
        for child in list(nursery.child_tasks):
            yield from _tasks(child, depth + 1)


def _awaits(task: trio.lowlevel.Task) -> Iterator[str]:
    """The chain of awaits without trio's own; of the task that runs now its stack is its thread's."""
    frames = traceback.StackSummary.extract(task.iter_await_frames())
    return iter(traceback.format_list([frame for frame in frames if not frame.filename.startswith(_TRIO)]))
