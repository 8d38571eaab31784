"""One run of one job, under one claim: its order, its polls, its cancel and its deadline.

The order of steps keeps money safe: inputs are prepared (unpaid), the intent is recorded, the order is submitted (paid,
once). The ticket is recorded before anything else happens. Only then is the provider polled.
Between two polls a job is this one object, and no task waits for it.
"""

import asyncio
import logging
from contextlib import aclosing

from proxy.core.errors import DeadlineExceeded, Internal, JobError, UpstreamProtocol, UpstreamRejected
from proxy.core.job import Status, Ticket
from proxy.providers.base import Update
from proxy.runner.cancel_scope import Canceled, CancelScope, DeadlinePassed
from proxy.runner.poll_batches import BatchedPoll, PollBatches
from proxy.runner.polling import Pace, Polling
from proxy.runner.recording import Recording
from proxy.runner.services import RunnerServices
from proxy.runner.submission import Submission
from proxy.store.types import Claim, ClaimLost
from proxy.telemetry import trace
from proxy.upstream import breaker
from proxy.upstream.answers import ReadFailed, UnreadableAnswer

log = logging.getLogger(__name__)


class JobRun:
    """One run of one job, under one claim. The runner calls `run` for each step."""

    def __init__(self, services: RunnerServices, claim: Claim, pace: Pace, batches: PollBatches) -> None:
        self.claim = claim
        job = claim.job
        self._services = services
        self._clock = services.clock
        self._times = services.times
        self._pace = pace
        self._model = services.registry.models[job.model]
        self._provider = services.providers[job.model]
        self._batches = batches
        # Time in the account's backlog does not count: the jobs ahead of it there have deadlines.
        waits_since = claim.since or job.created_at
        age = self._age(job.intended_at or waits_since)
        deadline = self._clock.monotonic() + self._provider.settings.deadline - age
        self._scope = CancelScope(self._clock, deadline, is_canceled=job.cancel_requested)
        self._recording = Recording(services, claim, self._model, self._scope)
        self._submission: Submission | None = None
        """The order until its ticket is recorded."""
        self._polling: Polling | None = None
        """The polls, once there is a ticket."""
        self._recorder = services.traces.of(job.id) if services.traces else None
        self._subject = breaker.Subject(job.account, job.id)
        self._next_poll_at = 0.0
        """Monotonic time for which the next poll is scheduled."""
        self._last_poll_at = 0.0
        """Monotonic time at which the last poll began, or at which the first one became possible."""
        self._deadline_extended = False
        """True after the deadline was extended, once, for a last poll after this process was suspended."""
        if job.ticket is not None:
            # The job may have ended long ago, while no node ran it. It is polled before the deadline counts.
            self._scope.deadline = max(deadline, self._clock.monotonic() + self._times.last_look)
            self._start_polling(job.ticket, possible_since=self._clock.monotonic(), resumed=True)

    @property
    def status(self) -> Status:
        """The job's status, as last recorded."""
        return self._recording.job.status

    @property
    def cannot_be_resumed(self) -> bool:
        """True if another node could not continue this step.

        That is so from a submit until its ticket is recorded, and while a stream is read.
        """
        return self._model.streamed or (self._submission is not None and self._submission.may_be_taken)

    def cancel(self) -> None:
        """Cancel the job for its client. A step that waits ends now; a paid request is waited for."""
        self._scope.cancel()

    async def run(self) -> float | None:
        """Run the job's next step: its order up to the ticket, or one poll.

        Returns the seconds to the next step, or None when the job has ended. Raises ClaimLost.
        """
        breaker.subjects.set((self._subject,))  # for this step's own task, and for those that it starts
        if self._recorder is not None:
            trace.recorder.set(self._recorder)
        try:
            await (self._order() if self._polling is None else self._poll(self._polling))
        except Canceled:
            await self._cancel()
        except DeadlinePassed:
            await self._fail(self._deadline_exceeded("did not finish"))
        except JobError as error:
            await self._fail(error)
        except UnreadableAnswer as error:
            await self._fail(UpstreamProtocol(error.message))
        except ReadFailed as error:
            await self._fail(UpstreamRejected(error.message))
        except (ClaimLost, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("Internal error while running %s", self.claim.job.id)
            await self._recording.record_end(Update(status=Status.ERROR, error=Internal("Internal error in Pollcast.")))
        if self.status.final or self._polling is None:
            return None
        now = self._clock.monotonic()
        delay = 0 if self._scope.is_canceled else min(self._polling.delay, max(self._scope.deadline - now, 0))
        self._next_poll_at = now + delay
        return delay

    def _age(self, recorded: float) -> float:
        """Return the seconds since a recorded time, without the steps of the wall clock that this process has seen."""
        wall = self._clock.now() - recorded
        return max(wall - self._services.steps.forward(self._provider.settings.deadline), 0)

    def _deadline_exceeded(self, failure: str) -> DeadlineExceeded:
        seconds = self._provider.settings.deadline
        trouble = self._polling.trouble if self._polling else ""
        return DeadlineExceeded(f"{self._provider.name} {failure} within {seconds:g} seconds. {trouble}".rstrip())

    # --- the order ---

    async def _order(self) -> None:
        """Take the order to its ticket, or the provider's stream to its end."""
        submission = Submission(self._services, self._provider, self._model, self._recording, self._scope)
        self._submission = submission
        async with aclosing(submission):
            recovered = await submission.recover_order()
            if recovered is not None:
                await self._accept(submission, recovered)
            else:
                await self._send(submission)
        self._submission = None

    async def _send(self, submission: Submission) -> None:
        """Send an order that was certainly not sent before."""
        if not self._scope.is_canceled:
            self._check_waiting_time()
            await self._recording.record_start()
        self._scope.deadline = self._clock.monotonic() + self._provider.settings.deadline
        await self._accept(submission, await submission.send_until_taken(await submission.prepare()))

    async def _accept(self, submission: Submission, first: Update) -> None:
        """Record the first update of an order that the provider has taken, then poll it or read its stream."""
        taken_at = self._clock.monotonic()
        await self._recording.record(first)
        if first.ticket is None:
            await self._read_stream(submission)
        else:
            self._start_polling(first.ticket, possible_since=taken_at, resumed=False)

    def _check_waiting_time(self) -> None:
        """Raise DeadlineExceeded for an order that has waited too long for room at its provider."""
        if self._clock.monotonic() >= self._scope.deadline:
            raise self._deadline_exceeded("could not take this order")

    async def _read_stream(self, submission: Submission) -> None:
        """Record a streamed model's updates until the final one. Only a streamed model has them."""
        async with aclosing(submission.updates()) as updates:
            while not self.status.final:
                async with self._scope.step():
                    update = await anext(updates)
                await self._recording.record(update)

    # --- polls ---

    def _start_polling(self, ticket: Ticket, *, possible_since: float, resumed: bool) -> None:
        job = self._recording.job
        self._last_poll_at = possible_since
        self._polling = Polling(
            BatchedPoll(self._provider, self._batches),
            self._pace,
            ticket,
            self._clock,
            submitted_at=self._clock.monotonic() - self._age(job.intended_at or job.created_at),
            interval=self._provider.settings.poll_interval,
            resumed=resumed,
        )

    async def _poll(self, polling: Polling) -> None:
        now = self._clock.monotonic()
        if self._scope.is_canceled:
            raise Canceled
        if now - self._last_poll_at > polling.delay + self._times.suspension:
            self._extend_deadline(now)
        if now >= self._scope.deadline:
            raise DeadlinePassed
        self._last_poll_at = now
        if self._next_poll_at:
            self._services.metrics.poll_lag(self._provider.name).observe(max(now - self._next_poll_at, 0))
        self._services.polled[self.claim.job.id] = self._clock.now()
        since_last_poll = polling.delay
        try:
            async with self._scope.step():
                update = await polling.poll(now)
        except DeadlinePassed:
            later = self._clock.monotonic()
            if later - self._scope.deadline > self._times.suspension and self._extend_deadline(later):
                return
            raise
        finally:
            self._services.metrics.polls(self._provider.name, polling.outcome or "interrupted").inc()
        if update is None:
            return
        await self._recording.record(update)
        if update.status is Status.COMPLETED:
            # It ended between the last poll and this one. While few durations are known, that is a long time.
            self._pace.learn(polling.age(now) - since_last_poll / 2)

    def _extend_deadline(self, now: float) -> bool:
        """Extend, once, a deadline that passed while this process was suspended: the work may have ended meanwhile.

        Returns whether it was extended.
        """
        if self._deadline_extended or now < self._scope.deadline:
            return False
        self._deadline_extended, self._scope.deadline = True, now + self._times.last_look
        return True

    # --- the end ---

    async def _cancel(self) -> None:
        """End the job as its client wants."""
        ticket = self._recording.job.ticket
        if ticket is not None:
            await self._cancel_at_provider(ticket)
        may_be_taken = ticket is not None or (self._submission is not None and self._submission.may_be_taken)
        await self._recording.record_cancel(may_be_taken=may_be_taken)

    async def _cancel_at_provider(self, ticket: Ticket) -> None:
        try:
            async with asyncio.timeout(self._times.cancel_timeout):
                await self._provider.cancel(ticket)
        except (ReadFailed, TimeoutError) as error:
            log.warning("Cannot cancel %s at the provider: %s", self.claim.job.id, error)

    async def _fail(self, error: JobError) -> None:
        """End the job in `error`, unless a part of the work is done and can be returned."""
        ticket = self._recording.job.ticket
        partial = self._provider.partial_result(ticket, error.message) if ticket else None
        await self._recording.record_end(partial or Update(status=Status.ERROR, error=error))
