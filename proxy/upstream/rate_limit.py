"""Rate limiter: requests to a provider leave evenly spaced, at most `rate` per second over all nodes."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable

from proxy.core.clock import Clock
from proxy.core.errors import Unavailable
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

ReserveSlots = Callable[[int, float], Awaitable[float]]
"""Reserves a number of consecutive slots, the given seconds apart, for this node. Returns the seconds to the first."""


class RateLimiter:
    """Paces the requests to one provider. With `reserve`, the nodes of a cluster share its `rate`."""

    def __init__(
        self,
        clock: Clock,
        rate: float,
        times: UpstreamTimes = DEFAULT_TIMES,
        *,
        reserve: ReserveSlots | None = None,
    ) -> None:
        self._clock = clock
        self._times = times
        self._interval = 1 / rate
        self._next_slot = -math.inf
        self._reserved: deque[float] = deque()
        self._reserve_lock = asyncio.Lock()
        self._alone_until = 0.0
        self._reserve = reserve

    async def acquire(self) -> float:
        """Take the next slot and wait for it. Return the seconds to the slot; 0 or less means that it was free."""
        wait = self._local_wait() if self._reserve is None else await self._shared_wait(self._reserve)
        if wait > 0:
            await self._clock.sleep(wait)
        return wait

    def _local_wait(self) -> float:
        """Return the seconds to the next slot, if this node alone used the rate."""
        now = self._clock.monotonic()
        # A slot may be used early, so that a short burst of requests leaves at once.
        self._next_slot = max(self._next_slot + self._interval, now - self._times.slot_burst)
        return self._next_slot - now

    async def _shared_wait(self, reserve: ReserveSlots) -> float:
        """Return the seconds to this node's next slot. While the store cannot be reached, this node paces alone."""
        async with self._reserve_lock:
            now = self._clock.monotonic()
            while self._reserved and self._reserved[0] < now - self._times.slot_grace:
                self._reserved.popleft()
            if self._reserved:
                return self._reserved.popleft() - now
            if now < self._alone_until:
                return self._local_wait()
            count = max(round(self._times.slot_burst / self._interval), 1)
            try:
                async with asyncio.timeout(self._times.slot_reserve):
                    first = now + await reserve(count, self._interval)
            except (Unavailable, TimeoutError):
                self._alone_until = self._clock.monotonic() + self._times.slots_alone
                return self._local_wait()
            self._reserved.extend(first + n * self._interval for n in range(1, count))
            return first - self._clock.monotonic()
