"""Zygotes that are there before they are asked for: one for each runtime that is kept, made again when it ends."""

from collections.abc import Callable
from typing import Final

import trio
from attrs import define, field

from agentix_kernel.confine.zygotes import Profile, Zygotes
from agentix_kernel.world import LaunchError, Readiness

_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 60.0
_CALM_S: Final = 60.0
"""A zygote that ends after so long is not one that cannot live: the pauses begin anew."""


@define(eq=False)
class Ready:
    """`told(profile)`: called when a zygote is ready that was made here, or has failed to be; see `readiness`."""

    _zygotes: Zygotes
    told: Callable[[Profile], None] = field(default=lambda _profile: None)
    _kept: tuple[Profile, ...] = ()
    _failed: dict[Profile, str] = field(factory=dict[Profile, str])
    _changed: trio.Event = field(factory=trio.Event)
    _pause_s: float = _PAUSE_MIN_S

    def __attrs_post_init__(self) -> None:
        self._zygotes.lost = self._wake

    def keep(self, profiles: tuple[Profile, ...]) -> None:
        """Have these, and no others. What had failed is tried again."""
        self._kept, self._pause_s = profiles, _PAUSE_MIN_S
        self._failed.clear()
        self._wake()

    def readiness(self, profile: Profile) -> Readiness:
        pid = self._zygotes.pids.get(profile)
        if pid is not None:
            return Readiness("ready", pid)
        return Readiness("failed", 0, self._failed[profile]) if profile in self._failed else Readiness("starting")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            self._zygotes.retire(self._kept)
            async with trio.open_nursery() as nursery:  # a slow one holds up no other
                for profile in self._kept:
                    if profile not in self._zygotes.pids and profile not in self._failed:
                        nursery.start_soon(self._make, profile)
            await self._breathe()

    def _wake(self) -> None:
        self._changed.set()

    async def _make(self, profile: Profile) -> None:
        try:
            await self._zygotes.zygote(profile)
        except (LaunchError, OSError) as error:
            self._failed[profile] = error.message if isinstance(error, LaunchError) else str(error)
        self.told(profile)

    async def _breathe(self) -> None:
        """Longer each time that a zygote ends soon after it was made, so that none is made again without end."""
        begun = trio.current_time()
        await trio.sleep(self._pause_s)
        with trio.move_on_after(_CALM_S):
            await self._changed.wait()
        calm = trio.current_time() - begun >= _CALM_S
        self._pause_s = _PAUSE_MIN_S if calm else min(2 * self._pause_s, _PAUSE_MAX_S)
