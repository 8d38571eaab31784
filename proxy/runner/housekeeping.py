"""Periodic maintenance: deletes expired jobs and orphaned blobs, and counts waiting jobs for the metrics.

An orphaned blob has no asset record. An asset's bytes are stored before its record, and its record is deleted before
its bytes, so that a record never lacks its bytes. A crash between the two steps leaves an orphan.
"""

import asyncio
import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping

from prometheus_client import Metric

from proxy.core.clock import ClockSteps
from proxy.core.errors import Unavailable
from proxy.runner.services import DEFAULT_TIMES, REAL_SLEEP, RunnerServices, RunnerTimes, Sleep
from proxy.store.blobs import Blobs
from proxy.store.contract import Store
from proxy.store.types import SweepResult
from proxy.telemetry.metrics import gauge

log = logging.getLogger(__name__)


class QueueCounter:
    """Counts the waiting jobs of all nodes, for the metrics."""

    def __init__(self, services: RunnerServices, queues: Collection[str]) -> None:
        self._services = services
        self._queues = queues
        self._counts: Mapping[str, int] = {}

    async def run(self) -> None:
        """Count repeatedly, until cancelled."""
        while True:
            try:
                self._counts = await self._services.store.waiting(self._queues)
            except Unavailable:  # whatever needs the store reports it; an old count would pass for a new one
                self._counts = {}
            await self._services.sleep(self._services.times.queue_count)

    def metrics(self) -> Iterator[Metric]:
        """Yield the number of waiting jobs by queue; none while they cannot be counted."""
        meaning = "Jobs waiting on all nodes together: for room at a provider, or (line) in their account's backlog."
        counts = {(queue,): count for queue, count in self._counts.items()}
        yield gauge("jobs_waiting", meaning, ("queue",), counts)


# --- retention ---


async def delete_expired(services: RunnerServices) -> None:
    """Delete jobs, assets and traces that are older than the retention, until cancelled.

    Each transaction deletes few jobs, so that no writer waits for it.
    """
    while True:
        swept = SweepResult(0, ())
        # Both times are read before the clock check: a clock step after it deletes nothing.
        now, file_time = services.clock.now(), time.time()
        age = _expiry_age(services)
        try:
            if age < math.inf:
                swept = await services.store.sweep(now - age, services.limits.swept_jobs)
            for name in swept.blobs:
                await services.blobs.delete(name)
            if services.traces is not None and not swept.deleted:
                await asyncio.to_thread(services.traces.sweep, file_time - age)
        except Unavailable as error:
            log.warning("Cannot delete expired jobs and assets: %s", error.message)
        await services.sleep(services.times.sweep_pause if swept.deleted else services.times.sweep)


def _expiry_age(services: RunnerServices) -> float:
    """Return the age in seconds from which records are deleted. It is infinite while the wall clock may be wrong."""
    steps, retention = services.steps, services.retention
    return retention + steps.forward(retention) if steps.is_settled() else math.inf


# --- orphans ---


async def delete_orphans_periodically(
    store: Store,
    blobs: Blobs,
    steps: ClockSteps,
    times: RunnerTimes = DEFAULT_TIMES,
    sleep: Sleep = REAL_SLEEP,
) -> None:
    """Delete orphaned blobs ten minutes after the start, and then every six hours, until cancelled.

    Nothing is deleted while the wall clock may be wrong, because a new upload could look old.
    """
    while True:
        # Blobs have the storage's own timestamps, and its clock is the machine's. It is read before the clock check.
        before = time.time() - times.orphan_age - steps.forward(times.orphan_age)
        if not steps.is_settled():
            await sleep(times.clock_check)
            continue
        try:
            await delete_orphans(store, blobs, before=before)
        except Unavailable as error:
            log.warning("Cannot look for orphaned blobs: %s", error.message)
        await sleep(times.orphan_sweep)


async def delete_orphans(store: Store, blobs: Blobs, *, before: float) -> int:
    """Delete blobs without an asset record that were stored before `before` (seconds since the epoch).

    Returns how many there were. Raises errors.Unavailable.
    """
    await blobs.drop_unfinished(before)
    # List all names first: a slowly read listing may break off when files disappear.
    orphans = [name async for name in blobs.list_older("assets", before) if await _is_orphan(store, name)]
    for name in orphans:
        await blobs.delete(name)
    if orphans:
        log.info("Deleted %d orphaned blobs, whose assets were never recorded or were deleted", len(orphans))
    return len(orphans)


async def _is_orphan(store: Store, name: str) -> bool:
    account, _, asset_id = name.removeprefix("assets/").partition("/")
    # The blobs of an unknown account may belong to another installation.
    return await store.account(account) is not None and await store.asset(account, asset_id) is None
