"""How long a job will still take, told by the model's jobs that this installation has completed, on whichever node."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from proxy.core.clock import Clock
from proxy.core.errors import Unavailable
from proxy.core.job import Job
from proxy.store.contract import Jobs

_NEWEST: Final = 200
"""Completed jobs of a model that are looked at."""
_ENOUGH: Final = 10
"""Completed jobs without which nothing is said."""
_FEW: Final = 3
"""Of those, how many must have taken longer than this one so far."""
_EARLY, _LATE = 0.05, 0.95
"""The quantiles that are told."""
_BELIEVED: Final = 30.0
"""Seconds that what was read is believed."""


class Eta:
    """What is known of every model's jobs; read from the store when it is asked for, and so the same on every node."""

    def __init__(self, store: Jobs, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, tuple[float, Sequence[float]]] = {}

    async def remaining(self, job: Job) -> tuple[int, int] | None:
        """Whole seconds, low and high, to the end of an unfinished job; None where too little is known.

        It is in the place of those that took longer than it has so far. While it waits to be sent, that is nothing.
        """
        if job.status.final:
            return None
        took = await self._durations(job.model)
        age = 0.0 if job.intended_at is None else max(self._clock.now() - job.intended_at, 0)
        longer = took[bisect_right(took, age) :]
        if len(took) < _ENOUGH or len(longer) < _FEW:
            return None
        last = len(longer) - 1
        low, high = (longer[round(quantile * last)] - age for quantile in (_EARLY, _LATE))
        return math.floor(low), math.ceil(high)

    async def _durations(self, model: str) -> Sequence[float]:
        """In ascending order."""
        now = self._clock.monotonic()
        until, took = self._known.get(model, (now, ()))
        if until <= now:
            with suppress(Unavailable):  # what was read last is better than no answer
                took = sorted(await self._store.durations(model, _NEWEST))
            self._known[model] = now + _BELIEVED, took
        return took
