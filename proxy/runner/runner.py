"""Runs jobs: claims those for which there is room, takes each a step further when it is due, and forgets old ones.

A `Runner` is one node's share of the work. It knows when a job is due, never what a step is: that is its `JobRun`.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import Metric

from proxy.core.errors import Unavailable
from proxy.runner.job_run import JobRun, RunnerServices
from proxy.runner.polling import REMEMBERED, Pace
from proxy.runner.timer_wheel import TimerWheel
from proxy.store.types import Claim, ClaimLost, QueueRoom, SweepResult
from proxy.telemetry.metrics import gauge, total

log = logging.getLogger(__name__)

_AT_ONCE: Final = 100
"""Jobs claimed in one transaction."""
_LOOK: Final = 1.0
"""Seconds between looks for jobs that another node has released, or a lease if that is shorter: a node takes over jobs
at the first look after it has watched a dead node for a lease."""
_REST: Final = 30.0
"""Seconds until a job is taken up again that met a fault of ours."""
_RENEWALS: Final = 3
"""How often leases are renewed in the time that they last."""
_COUNT: Final = 5.0
"""Seconds between looks at how many jobs wait."""
_SWEEP: Final = 60.0
"""Seconds between looks for what is older than the retention."""
_SWEPT: Final = 50
"""Jobs forgotten in one transaction."""
_BREATH: Final = 0.05
"""Seconds between two such transactions, for the writers that wait."""


class Runner:
    """One node's share of the work; `run` goes on until it is cancelled, then gives its jobs back."""

    def __init__(self, tools: RunnerServices, node: str, *, lease: float = 30.0, most: int | None = None) -> None:
        self._tools = tools
        self._store = tools.store
        self._node = node
        self._lease = lease
        self._most = most
        """Unfinished jobs of an account at once; the rest of them stands in its line."""
        self._wake = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], JobRun] = {}
        self._draining = False
        self._drives: dict[str, JobRun] = {}
        self._strange: set[str] = set()
        """Jobs that were passed on, as nobody here knows their model."""
        self._lost = False
        """Whether the store may have this node hold what it does not drive: changes went untold, or a release did."""
        self._unwanted: set[str] = set()
        """Jobs whose client has asked for their end since the last claim was begun."""
        self._counted: Mapping[str, int] = {}
        """How many jobs wait on all nodes together, where for."""
        self._waiting: set[JobRun] = set()
        """Those that no task is at work for: they are on the wheel."""
        self._wheel = TimerWheel[JobRun](tools.clock, self._step)
        providers = {provider.name: provider.settings for provider in tools.providers.values()}
        # Waiting for room at a provider has a deadline of its own, as long as the one for the work.
        self._rooms = {name: QueueRoom(settings.concurrency, settings.deadline) for name, settings in providers.items()}
        self._paces = {model: Pace(provider.settings.poll_interval) for model, provider in tools.providers.items()}

    async def run(self) -> None:
        """Claim and drive jobs."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for work in (self._listen(), self._renew(), self._count(), self._sweep(), self._wheel.run()):
                    self._tasks.create_task(work)
                await self._learn()
                await self._take()
        finally:
            await asyncio.gather(*(self._release(drive.claim) for drive in self._waiting))

    async def _learn(self) -> None:
        """Take up what was learnt before this start, and on other nodes, of how long jobs take."""
        for model, pace in self._paces.items():
            with contextlib.suppress(Unavailable):
                for seconds in reversed(await self._store.durations(model, REMEMBERED)):
                    pace.learn(seconds)

    async def _take(self) -> None:
        """Take what there is room for, whenever there may be some."""
        while True:
            self._wake.clear()
            claims = await self._claim()
            for claim in claims:
                if claim.job.model in self._paces:
                    self._begin(claim)
            await self._pass_on([claim for claim in claims if claim.job.model not in self._paces])
            if await self._has_let_go() or await self._has_advanced():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK, self._lease)):
                    await self._wake.wait()

    def _begin(self, claim: Claim) -> None:
        if lost := self._drives.get(claim.job.id):  # it comes back to this node, which had not noticed that it was lost
            self._waiting.discard(lost)
        drive = self._drives[claim.job.id] = JobRun(self._tools, claim, self._paces[claim.job.model])
        if claim.job.id in self._unwanted:  # it was said between the claim and its answer
            drive.cancel()
        self._waiting.add(drive)
        self._step(drive)

    async def _pass_on(self, claims: Sequence[Claim]) -> None:
        """Leave jobs of models that this version does not know to one that does, on another node or later."""
        for claim in claims:
            if claim.job.id not in self._strange:
                self._strange.add(claim.job.id)
                log.error("%s waits for a version that knows the model %s.", claim.job.id, claim.job.model)
            await self._release(claim)

    def _step(self, drive: JobRun) -> None:
        """Take a job a step further, in a task of its own; one that is under way already is left alone."""
        if drive not in self._waiting:
            return
        self._waiting.discard(drive)
        task = self._tasks.create_task(self._advance(drive))
        self._under_way[task] = drive
        task.add_done_callback(self._under_way.pop)

    async def _advance(self, drive: JobRun) -> None:
        delay = None
        try:
            delay = await drive.run()
        except ClaimLost:
            log.warning("%s was taken over; leaving it alone.", drive.claim.job.id)
        except asyncio.CancelledError:
            await self._release(drive.claim)
            raise
        except Exception:
            log.exception("%s cannot be driven; it is taken up anew in %d seconds.", drive.claim.job.id, _REST)
            await self._rest(drive.claim)
        if self._drives.get(drive.claim.job.id) is not drive:
            return  # another has the job now, by a newer claim
        if delay is None:
            del self._drives[drive.claim.job.id]
            self._tools.polled.pop(drive.claim.job.id, None)
        else:
            self._waiting.add(drive)
            self._wheel.add(drive, delay)

    async def _rest(self, claim: Claim) -> None:
        """Let a job be that met a fault of ours even while its end was recorded: once more may do."""
        try:
            await asyncio.sleep(_REST)
        finally:
            await self._release(claim)

    async def _release(self, claim: Claim) -> None:
        """Stopping: whoever starts next takes the job up where the record stands."""
        try:
            await asyncio.shield(self._store.release(claim))
        except Unavailable:
            self._lost = True

    def metrics(self) -> Iterator[Metric]:
        """What is under way here now, for a scrape."""
        jobs = Counter((drive.claim.job.model, drive.status) for drive in self._drives.values())
        yield gauge("jobs", "Jobs under way on this node.", ("model", "status"), jobs)
        what = "Jobs that wait, on all nodes together: for room at a provider, or (line) behind their account's others."
        yield gauge("jobs_waiting", what, ("queue",), {(place,): jobs for place, jobs in self._counted.items()})
        words = self._tools.unknown_words
        what = "Words of providers for a state that their pages do not name: they have changed."
        yield total("unknown_words", what, ("provider", "word"), words)
        providers = {provider.name: provider for provider in self._tools.providers.values()}
        resting = {(name,): float(provider.upstream.breaker.wait > 0) for name, provider in providers.items()}
        yield gauge("breaker_open", "Whether a provider is left alone for now.", ("provider",), resting)
        if self._tools.traces is not None:
            what = "Exchanges with providers that the flight recorder did not keep, for too many waited."
            yield total("trace_dropped", what, (), {(): self._tools.traces.dropped})

    async def drain(self, seconds: float) -> None:
        """Take no new jobs, and let submits and upstream streams, which nobody could go on with, finish for a while."""
        self._draining = True
        irreplaceable = [task for task, drive in self._under_way.items() if drive.irreplaceable]
        if irreplaceable:
            await asyncio.wait(irreplaceable, timeout=seconds)

    def _rooms_now(self) -> Mapping[str, QueueRoom]:
        """The rooms, with more patience where a step of the wall clock makes orders look older than they are."""
        forward = self._tools.steps.forward
        return {
            name: QueueRoom(room.limit, room.max_wait + forward(room.max_wait)) for name, room in self._rooms.items()
        }

    async def _claim(self) -> list[Claim]:
        claims: list[Claim] = []
        full = not self._draining
        self._unwanted.clear()
        try:
            while full:
                found = await self._store.claim(self._node, self._rooms_now(), _AT_ONCE)
                claims += found
                full = len(found) == _AT_ONCE
        except Unavailable as error:
            log.warning("Cannot claim jobs: %s", error.message)
        return claims

    async def _has_let_go(self) -> bool:
        """Let go of jobs that the store has us hold, but that nobody here drives; whether there were any."""
        lost, self._lost = self._lost, False
        try:
            strays = await self._store.unknown_claims(self._node, self._drives) if lost else ()
        except Unavailable:
            self._lost = True
            return False
        for claim in strays:
            log.warning("%s is taken up again: nobody here drives it.", claim.job.id)
            await self._release(claim)
        self._lost = self._lost or bool(strays)  # there may be more
        return bool(strays)

    async def _has_advanced(self) -> bool:
        """Let jobs go on from their accounts' lines; whether any did, and so may be claimed."""
        try:
            return await self._store.release_backlog(self._most, _AT_ONCE) > 0
        except Unavailable:
            return False

    async def _listen(self) -> None:
        async for change in self._store.changes():
            if change.lost:
                self._lost = True
            if change.cancel:
                self._unwanted.add(change.job)
            if change.deleted and self._tools.traces is not None:
                self._tools.traces.forget(change.job)
            if change.cancel and (drive := self._drives.get(change.job)):
                drive.cancel()
                self._step(drive)
            elif change.cancel or change.lost or (change.event and (change.n == 1 or change.event.final)):
                # An order to take, room for one, or one that need not wait for it any more.
                self._wake.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / _RENEWALS)
            try:
                await self._store.renew(self._node)
            except Unavailable as error:
                log.warning("Cannot renew leases: %s", error.message)

    async def _count(self) -> None:
        while True:
            try:
                self._counted = await self._store.waiting(self._rooms)
            except Unavailable:  # whatever needs the store now says that; an old figure would be taken for a new one
                self._counted = {}
            await asyncio.sleep(_COUNT)

    async def _sweep(self) -> None:
        """Forget what is older than the retention, in steps so small that no writer waits for one."""
        while True:
            swept = SweepResult(0, ())
            # Both are read before the check: a step that comes after it deletes nothing.
            now, file_time = self._tools.clock.now(), time.time()
            kept = self._kept_for()
            try:
                if kept < math.inf:
                    swept = await self._store.sweep(now - kept, _SWEPT)
                for name in swept.blobs:
                    await self._tools.blobs.delete(name)
                if self._tools.traces is not None and not swept.forgotten:
                    await asyncio.to_thread(self._tools.traces.sweep, file_time - kept)
            except Unavailable as error:
                log.warning("Cannot forget what is old: %s", error.message)
            await asyncio.sleep(_BREATH if swept.forgotten else _SWEEP)

    def _kept_for(self) -> float:
        """Age in seconds from which anything is deleted; infinite while the wall clock may be wrong."""
        steps, retention = self._tools.steps, self._tools.retention
        return retention + steps.forward(retention) if steps.is_settled() else math.inf
