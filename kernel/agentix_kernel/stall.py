"""Notices a loop that does not turn: says at once, from a thread of its own, what everything is doing.

The loop beats; the thread looks. The text goes to the operator's log and to a file, since a journal takes records from
the loop alone; the record follows when the loop turns again, or from the file at the next boot. Where even the thread
gets no turn, because something holds the interpreter's lock, faulthandler's watchdog writes the threads' stacks.
The idea is systemd's watchdog and Linux's hung-task detector, told from inside.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from attrs import define, field

from agentix_kernel import stacks
from agentix_kernel.kernel import Kernel
from agentix_kernel.service.log import ERR, Say
from agentix_syscalls import records

FILE: Final = "stall"
BEATS: Final = 4
"""In the time after which a loop counts as stalled."""
_RECORDED_MAX: Final = 64 << 10
"""Characters of stacks that a record holds; the log has all."""


@define(eq=False)
class Detector:
    """Watches one kernel's loop. `path`: where the text waits until it is recorded."""

    kernel: Kernel
    say: Say
    stall_s: float
    path: str
    now: Callable[[], float] = time.monotonic
    _beat_s: float = field(init=False)
    _root: trio.lowlevel.Task | None = field(default=None, init=False)
    _text: str = field(default="", init=False)
    """Of a stall that was noticed and not recorded yet."""
    _over: threading.Event = field(factory=threading.Event, init=False)

    async def run(self) -> None:
        """Beat until cancelled; record each stall once it is over."""
        self.record_left()
        self._root, self._beat_s = trio.lowlevel.current_root_task(), self.now()
        threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()
        try:
            while True:
                before, self._beat_s = self._beat_s, self.now()
                if self._text:
                    self._record(self._beat_s - before, self._text)
                    self._text = ""
                faulthandler.dump_traceback_later(2 * self.stall_s)
                await trio.sleep(self.stall_s / BEATS)
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._over.set()

    def record_left(self) -> None:
        """A stall that no later turn of the last kernel could record."""
        with suppress(FileNotFoundError), open(self.path, encoding="utf-8", errors="replace") as file:
            self._record(self.stall_s, f"of an earlier boot, which never turned again\n{file.read(_RECORDED_MAX)}")

    def look(self, late_s: float) -> None:
        """By the thread: whether the loop has beaten. `late_s`: how much later than it wanted the thread itself came;
        when all of us were stopped, nothing stalled.
        """
        silent_s = self.now() - self._beat_s - late_s
        if self._text or silent_s < self.stall_s:
            return
        text = f"the loop has not turned for {silent_s:.1f} s\n{stacks.dump(self._root)}"
        with suppress(OSError), open(self.path, "w", encoding="utf-8") as file:  # a full disk: the log has it
            file.write(text)
        self.say(f"STALL: {text}", priority=ERR, boot=self.kernel.boot)
        self._text = text

    def _watch(self) -> None:
        interval_s = self.stall_s / BEATS
        while True:
            begun = self.now()
            if self._over.wait(interval_s):
                return
            self.look(max(0.0, self.now() - begun - 2 * interval_s))

    def _record(self, seconds: float, text: str) -> None:
        self.kernel.record(records.STALL, data=(round(seconds, 1), text[:_RECORDED_MAX]))
        self.kernel.flush()
        with suppress(FileNotFoundError):
            os.unlink(self.path)
