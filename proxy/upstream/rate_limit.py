"""When requests to a provider are let out: evenly, as many per second as its rate says, on all nodes together."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable

from proxy.core.clock import Clock
from proxy.core.errors import Unavailable
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

Reserve = Callable[[int, float], Awaitable[float]]
"""Takes so many turns in a row, that many seconds apart, which nobody else gets; gives the seconds to the first."""


class RateLimiter:
    """The turns of one provider, `rate` a second; a node of several has `reserve` hand them out for all."""

    def __init__(self, clock: Clock, rate: float, times: UpstreamTimes = DEFAULT_TIMES) -> None:
        self._clock = clock
        self._times = times
        self._gap = 1 / rate
        self._free_at = -math.inf
        self._reserved: deque[float] = deque()
        self._reserving = asyncio.Lock()
        self._alone_until = 0.0
        self.reserve: Reserve | None = None

    async def acquire(self) -> float:
        """Take the next turn, and wait for it; returns the seconds that it was away (at most 0: it was there)."""
        left = self._own() if self.reserve is None else await self._shared(self.reserve)
        if left > 0:
            await self._clock.sleep(left)
        return left

    def _own(self) -> float:
        """Seconds to the next turn, of which this node alone knows."""
        now = self._clock.monotonic()
        # A turn may be taken a little early: a burst of a tenth of a second's requests is let out at once.
        self._free_at = max(self._free_at + self._gap, now - self._times.slot_burst)
        return self._free_at - now

    async def _shared(self, reserve: Reserve) -> float:
        """Seconds to the next turn of this node; by its own reckoning while the others cannot be asked."""
        async with self._reserving:
            now = self._clock.monotonic()
            while self._reserved and self._reserved[0] < now - self._times.slot_grace:
                self._reserved.popleft()
            if self._reserved:
                return self._reserved.popleft() - now
            if now < self._alone_until:
                return self._own()
            number = max(round(self._times.slot_burst / self._gap), 1)
            try:
                async with asyncio.timeout(self._times.slot_reserve):
                    first = now + await reserve(number, self._gap)
            except (Unavailable, TimeoutError):
                self._alone_until = self._clock.monotonic() + self._times.slots_alone
                return self._own()
            self._reserved.extend(first + place * self._gap for place in range(1, number))
            return first - self._clock.monotonic()
