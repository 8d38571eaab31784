"""Estimates a job's remaining time from the durations of its model's completed jobs.

The durations come from the store, so every node gives the same estimate.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from proxy.core.clock import Clock
from proxy.core.errors import Unavailable
from proxy.core.job import Job
from proxy.store.contract import Jobs

_SAMPLE_SIZE: Final = 200
"""Maximum number of a model's newest completed jobs that are compared."""
_MIN_COMPLETED: Final = 10
"""Minimum number of completed jobs before an estimate is made."""
_MIN_LONGER: Final = 3
"""Minimum number of completed jobs that took longer than this one has so far."""
_LOW_QUANTILE, _HIGH_QUANTILE = 0.05, 0.95
"""The quantiles of the estimate: nine of ten jobs end in between."""
_CACHE_SECONDS: Final = 30.0
"""Cache lifetime of a model's durations, in seconds."""


class Eta:
    """Estimates remaining times. A model's durations are read from the store and cached."""

    def __init__(self, store: Jobs, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._cache: dict[str, tuple[float, Sequence[float]]] = {}

    async def remaining(self, job: Job) -> tuple[int, int] | None:
        """Return the remaining time as (low, high) in seconds.

        Return None for a finished job, and when too few jobs have completed. Only jobs that took longer than this
        one's current age are compared. A job not yet submitted has age 0.
        """
        if job.status.final:
            return None
        durations = await self._durations(job.model)
        age = 0.0 if job.intended_at is None else max(self._clock.now() - job.intended_at, 0)
        longer = durations[bisect_right(durations, age) :]
        if len(durations) < _MIN_COMPLETED or len(longer) < _MIN_LONGER:
            return None
        last = len(longer) - 1
        low, high = (longer[round(quantile * last)] - age for quantile in (_LOW_QUANTILE, _HIGH_QUANTILE))
        return math.floor(low), math.ceil(high)

    async def _durations(self, model: str) -> Sequence[float]:
        """Return the durations of the model's completed jobs, in seconds, ascending."""
        now = self._clock.monotonic()
        until, durations = self._cache.get(model, (now, ()))
        if until <= now:
            with suppress(Unavailable):  # keep the previous durations while the store is unavailable
                durations = sorted(await self._store.durations(model, _SAMPLE_SIZE))
            self._cache[model] = now + _CACHE_SECONDS, durations
        return durations
