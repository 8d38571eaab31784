"""When many jobs are due: one sleeper for all of them, however many wait."""

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from proxy.core.clock import Clock, cut_short

T = TypeVar("T")

_SLOT: Final = 0.05
"""Seconds whose timers go off together: what is due within wakes one task, not a thousand."""


class TimerWheel(Generic[T]):
    """Timers by the slot of time in which they are due; `run` calls `act` with each item, a slot late at the most."""

    def __init__(self, clock: Clock, act: Callable[[T], None]) -> None:
        self._clock = clock
        self._act = act
        self._slots: dict[int, list[T]] = {}
        self._next: list[int] = []
        self._leash: asyncio.Timeout | None = None

    def add(self, item: T, delay: float) -> None:
        """Have `item` acted on after `delay` seconds."""
        slot = math.ceil((self._clock.monotonic() + delay) / _SLOT)
        if slot in self._slots:
            self._slots[slot].append(item)
            return
        self._slots[slot] = [item]
        heapq.heappush(self._next, slot)
        if self._leash is not None and self._next[0] == slot:
            cut_short(self._leash)
            self._leash = None

    async def run(self) -> None:
        """Act on what is due, until cancelled."""
        while True:
            now = self._clock.monotonic()
            while self._next and self._next[0] * _SLOT <= now:
                for item in self._slots.pop(heapq.heappop(self._next)):
                    self._act(item)
            await self._sleep(self._next[0] * _SLOT - now if self._next else None)

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep so long, or until something is due earlier."""
        try:
            async with asyncio.timeout(None) as self._leash:
                if seconds is None:
                    await asyncio.Event().wait()
                else:
                    await self._clock.sleep(seconds)
        except TimeoutError:
            return
        finally:
            self._leash = None
