"""Runs jobs on one node: claims them, renews their leases, and runs each job's next step when it is due.

Several nodes may run jobs of one store, each with a `Runner`. The runner knows when a step is due; the step itself is
its `JobRun`'s.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import Metric

from proxy.core.errors import Unavailable
from proxy.providers.base import Provider
from proxy.runner.housekeeping import QueueCounter, delete_expired
from proxy.runner.job_run import JobRun
from proxy.runner.poll_batches import PollBatches
from proxy.runner.polling import MAX_DURATIONS, Pace
from proxy.runner.services import RunnerServices
from proxy.runner.timer_wheel import TimerWheel
from proxy.store.types import Claim, ClaimLost, QueueRoom
from proxy.telemetry.metrics import gauge, total

log = logging.getLogger(__name__)

_RENEWALS_PER_LEASE: Final = 3
"""Renewals within one lease. A lease survives two that fail."""


class Runner:
    """Runs jobs on one node, until `run` is cancelled. It then releases its jobs to the other nodes."""

    def __init__(
        self, services: RunnerServices, node: str, *, lease: float = 30.0, max_jobs: int | None = None
    ) -> None:
        self._services = services
        self._store = services.store
        self._node = node
        self._lease = lease
        self._max_jobs = max_jobs
        """Unfinished jobs that an account may have outside its backlog; None is no limit."""
        self._wake = asyncio.Event()
        self._steps: dict[asyncio.Task[None], JobRun] = {}
        """The steps that run now."""
        self._is_draining = False
        self._job_runs: dict[str, JobRun] = {}
        """The jobs of this node, by id."""
        self._idle: set[JobRun] = set()
        """Jobs without a running step. They are on the timer wheel."""
        self._unknown_model_jobs: set[str] = set()
        """Ids of jobs that were released because this version does not know their model."""
        self._claims_in_doubt = False
        """True when the store may list claims of this node that it is not running.

        That is so after missed changes, and after a failed release."""
        self._canceled_early: set[str] = set()
        """Ids of jobs that clients canceled after the last claim began, and perhaps before its reply was read."""
        self._batches = PollBatches(services.clock, services.times)
        self._wheel = TimerWheel[JobRun](services.clock, self._start_step)
        providers = {provider.name: provider.settings for provider in services.providers.values()}
        # Waiting for room at a provider has its own deadline, as long as the deadline of the work.
        self._rooms = {name: QueueRoom(settings.concurrency, settings.deadline) for name, settings in providers.items()}
        self._queue_counter = QueueCounter(services, self._rooms)
        self.paces = {model: Pace(provider.settings.poll_interval) for model, provider in services.providers.items()}
        """Each model's pace of polls."""

    async def run(self) -> None:
        """Claim and run jobs, until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for work in (
                    self._follow_changes(),
                    self._renew_leases(),
                    self._queue_counter.run(),
                    delete_expired(self._services),
                    self._wheel.run(),
                    self._batches.run(),
                ):
                    self._tasks.create_task(work)
                await self._load_durations()
                await self._claim_jobs()
        finally:
            await asyncio.gather(*(self._release(job_run.claim) for job_run in self._idle))

    async def drain(self, seconds: float) -> None:
        """Stop claiming jobs, and wait up to `seconds` for the steps that no other node could continue."""
        self._is_draining = True
        steps = [task for task, job_run in self._steps.items() if job_run.cannot_be_resumed]
        if steps:
            await asyncio.wait(steps, timeout=seconds)

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics of this node's jobs and of its providers, as they are now."""
        jobs = Counter((job_run.claim.job.model, job_run.status) for job_run in self._job_runs.values())
        yield gauge("jobs", "Jobs that this node runs.", ("model", "status"), jobs)
        yield from self._queue_counter.metrics()
        words = self._services.unknown_words
        meaning = "Status words that the provider's page does not name: the provider has changed."
        yield total("unknown_words", meaning, ("provider", "word"), words)
        providers = {provider.name: provider for provider in self._services.providers.values()}
        is_open = {(name,): float(provider.upstream.breaker.wait > 0) for name, provider in providers.items()}
        yield gauge("breaker_open", "1 while a provider's circuit breaker is open.", ("provider",), is_open)
        if self._services.traces is not None:
            meaning = "Exchanges that the flight recorder dropped, because too many waited to be written."
            yield total("trace_dropped", meaning, (), {(): self._services.traces.dropped})

    # --- claiming ---

    async def _load_durations(self) -> None:
        """Load the durations of earlier jobs, of all nodes, into the paces."""
        for model, pace in self.paces.items():
            with contextlib.suppress(Unavailable):
                for seconds in reversed(await self._store.durations(model, MAX_DURATIONS)):
                    pace.learn(seconds)

    async def _claim_jobs(self) -> None:
        """Claim as many jobs as there is room for, whenever there may be room or a released job."""
        while True:
            self._wake.clear()
            claims = await self._claim()
            await self._release_unknown_models([claim for claim in claims if not await self._start(claim)])
            if await self._release_strays() or await self._advance_backlogs():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._services.times.claim_interval, self._lease)):
                    await self._wake.wait()

    async def _claim(self) -> list[Claim]:
        claims: list[Claim] = []
        may_be_more = not self._is_draining
        batch = self._services.limits.claims
        self._canceled_early.clear()
        try:
            while may_be_more:
                found = await self._store.claim(self._node, self._current_rooms(), batch)
                claims += found
                may_be_more = len(found) == batch
        except Unavailable as error:
            log.warning("Cannot claim jobs: %s", error.message)
        return claims

    def _current_rooms(self) -> Mapping[str, QueueRoom]:
        """Return the rooms. A longer wait is allowed where a clock step makes orders look older than they are."""
        forward = self._services.steps.forward
        return {
            name: QueueRoom(room.limit, room.max_wait + forward(room.max_wait)) for name, room in self._rooms.items()
        }

    async def _start(self, claim: Claim) -> bool:
        """Run a claimed job. Return False if this version of Pollcast knows neither its model nor its provider file."""
        provider = await self._provider_of(claim)
        if provider is None:
            return False
        job_id = claim.job.id
        pace = self.paces.setdefault(claim.job.model, Pace(provider.settings.poll_interval))
        if lost := self._job_runs.get(job_id):  # this node lost the job without noticing, and has claimed it again
            self._idle.discard(lost)
        job_run = self._job_runs[job_id] = JobRun(self._services, claim, provider, pace, self._batches)
        if job_id in self._canceled_early:  # canceled between the claim and its reply
            job_run.cancel()
        self._idle.add(job_run)
        self._start_step(job_run)
        return True

    async def _provider_of(self, claim: Claim) -> Provider | None:
        """Return the provider with which the claimed job runs, in the version that the job began with."""
        versions = self._services.versions
        if versions.is_current(claim):
            return self._services.providers[claim.job.model]
        try:
            return await versions.earlier(claim.version)
        except Unavailable:
            return None

    # --- steps ---

    def _start_step(self, job_run: JobRun) -> None:
        """Start the job's next step as a task, unless one is running."""
        if job_run not in self._idle:
            return
        self._idle.discard(job_run)
        task = self._tasks.create_task(self._run_step(job_run))
        self._steps[task] = job_run
        task.add_done_callback(self._steps.pop)

    async def _run_step(self, job_run: JobRun) -> None:
        delay = None
        job_id = job_run.claim.job.id
        try:
            delay = await job_run.run()
        except ClaimLost:
            log.warning("Another node has taken over %s; stopped running it", job_id)
        except asyncio.CancelledError:
            await self._release(job_run.claim)
            raise
        except Exception:
            retry = self._services.times.claim_retry
            log.exception("Internal error while recording %s; retrying in %g seconds", job_id, retry)
            await self._release_later(job_run.claim)
        if self._job_runs.get(job_id) is not job_run:
            return  # a newer claim has the job now
        if delay is None:
            del self._job_runs[job_id]
            self._services.polled.pop(job_id, None)
        else:
            self._idle.add(job_run)
            self._wheel.add(job_run, delay)

    # --- releasing ---

    async def _release(self, claim: Claim) -> None:
        """Release a job, so that any node can resume it from its record."""
        try:
            await asyncio.shield(self._store.release(claim))
        except Unavailable:
            self._claims_in_doubt = True

    async def _release_later(self, claim: Claim) -> None:
        """Wait, then release the claim so that the job is retried: the internal error may have been a rare one."""
        try:
            await self._services.clock.sleep(self._services.times.claim_retry)
        finally:
            await self._release(claim)

    async def _release_unknown_models(self, claims: Sequence[Claim]) -> None:
        """Release jobs of models that this version does not know, for another node or a later version."""
        for claim in claims:
            if claim.job.id not in self._unknown_model_jobs:
                self._unknown_model_jobs.add(claim.job.id)
                log.error("%s has the unknown model %s; it waits for a version with it", claim.job.id, claim.job.model)
            await self._release(claim)

    async def _release_strays(self) -> bool:
        """Release jobs that the store lists as claimed by this node, but that it is not running.

        Returns whether there were any.
        """
        is_in_doubt, self._claims_in_doubt = self._claims_in_doubt, False
        try:
            strays = await self._store.unknown_claims(self._node, self._job_runs) if is_in_doubt else ()
        except Unavailable:
            self._claims_in_doubt = True
            return False
        for claim in strays:
            log.warning("%s was claimed by this node, but not running; released it", claim.job.id)
            await self._release(claim)
        self._claims_in_doubt = self._claims_in_doubt or bool(strays)  # there may be more
        return bool(strays)

    async def _advance_backlogs(self) -> bool:
        """Move jobs from account backlogs to queues. Returns whether any moved, and so may be claimed."""
        try:
            return await self._store.release_backlog(self._max_jobs, self._services.limits.claims) > 0
        except Unavailable:
            return False

    # --- other tasks ---

    async def _follow_changes(self) -> None:
        """Cancel and claim jobs as the store's changes demand."""
        async for change in self._store.changes():
            if change.lost:
                self._claims_in_doubt = True
            if change.cancel:
                self._canceled_early.add(change.job)
            if change.deleted and self._services.traces is not None:
                self._services.traces.forget(change.job)
            if change.cancel and (job_run := self._job_runs.get(change.job)):
                job_run.cancel()
                self._start_step(job_run)
            elif change.cancel or change.lost or (change.event and (change.n == 1 or change.event.final)):
                # There is a new order, room for one, or an order that need not wait for room any more.
                self._wake.set()

    async def _renew_leases(self) -> None:
        while True:
            await self._services.sleep(self._lease / _RENEWALS_PER_LEASE)
            try:
                await self._store.renew(self._node)
            except Unavailable as error:
                log.warning("Cannot renew leases: %s", error.message)
