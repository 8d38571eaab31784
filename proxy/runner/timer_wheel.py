"""Timer wheel: one sleeper for the timers of all jobs, however many there are."""

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from proxy.core.clock import Clock, cut_short

T = TypeVar("T")

_SLOT_SECONDS: Final = 0.05
"""Length of a slot. All timers of a slot expire together, so that a thousand of them wake one task."""


class TimerWheel(Generic[T]):
    """Timers in slots of time. `run` calls `act` with each item, at most one slot late."""

    def __init__(self, clock: Clock, act: Callable[[T], None]) -> None:
        self._clock = clock
        self._act = act
        self._slots: dict[int, list[T]] = {}
        """Items by slot number: the monotonic time at the slot's end, divided by its length."""
        self._due_slots: list[int] = []
        """Heap of the slot numbers."""
        self._timeout: asyncio.Timeout | None = None
        """Around the sleep, which an earlier timer ends."""

    def add(self, item: T, delay: float) -> None:
        """Call `act` with `item` after `delay` seconds."""
        slot = math.ceil((self._clock.monotonic() + delay) / _SLOT_SECONDS)
        if slot in self._slots:
            self._slots[slot].append(item)
            return
        self._slots[slot] = [item]
        heapq.heappush(self._due_slots, slot)
        if self._timeout is not None and self._due_slots[0] == slot:
            cut_short(self._timeout)
            self._timeout = None

    async def run(self) -> None:
        """Expire timers until cancelled."""
        while True:
            now = self._clock.monotonic()
            while self._due_slots and self._due_slots[0] * _SLOT_SECONDS <= now:
                for item in self._slots.pop(heapq.heappop(self._due_slots)):
                    self._act(item)
            await self._sleep(self._due_slots[0] * _SLOT_SECONDS - now if self._due_slots else None)

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep for `seconds` (None: without end), or until an earlier timer is added."""
        try:
            async with asyncio.timeout(None) as self._timeout:
                if seconds is None:
                    await asyncio.Event().wait()
                else:
                    await self._clock.sleep(seconds)
        except TimeoutError:
            return
        finally:
            self._timeout = None
