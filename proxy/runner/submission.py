"""Submission of one order to its provider: prepare, record the intent, send once.

The order of steps keeps money safe. Inputs are prepared, which is unpaid and may be repeated. The intent is recorded,
so that a crash after it is noticed. The order is sent, which is paid, and happens once. An order whose answer was lost
is sent again only where the provider promises that a repeat with the same key buys once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from proxy.core.clock import Clock
from proxy.core.errors import (
    Internal,
    Interrupted,
    JobError,
    OutcomeUnknown,
    Unavailable,
    UpstreamProtocol,
    UpstreamRejected,
    UpstreamUnreachable,
)
from proxy.core.job import Ticket
from proxy.providers.base import Model, Provider, Update
from proxy.runner import intent
from proxy.runner.cancel_scope import CancelScope, DeadlinePassed
from proxy.runner.inputs import JobInputs
from proxy.runner.recording import ASKING_AGAIN, REPEATING_THE_UPLOAD, WAITING_TO_BE_TAKEN, Recording, pauses
from proxy.runner.services import RunnerServices
from proxy.upstream.answers import GatewayRefusal, NotTaken, ReadFailed, Transient, UnreadableAnswer
from proxy.upstream.requests import Request


@dataclass(frozen=True, slots=True)
class _NotLearnt:
    """The result of an attempt to learn a ticket that did not. `wait` is the provider's hint in seconds."""

    reason: str
    wait: float | None = None


class Submission:
    """One order on its way to its provider. Close it with `aclose`, which closes the provider's stream."""

    def __init__(
        self, services: RunnerServices, provider: Provider, model: Model, recording: Recording, scope: CancelScope
    ) -> None:
        self._services = services
        self._clock = services.clock
        self._provider = provider
        self._model = model
        self._recording = recording
        self._scope = scope
        self._stream: AsyncGenerator[Update] | None = None
        """The updates of a streamed model, after the first."""
        self.may_be_taken = False
        """True from the moment of sending, unless the provider certainly did not take the order."""

    async def recover_order(self) -> Update | None:
        """Return the first update of an order that an earlier run may have sent; None if it certainly sent nothing.

        After a crash this decides what happens to the order, as `send_until_taken` does after a lost answer. Raises
        OutcomeUnknown or Interrupted if the ticket cannot be had.
        """
        job = self._recording.job
        if job.intended_at is None:
            return None
        lost = OutcomeUnknown(
            "Pollcast stopped while it sent the order. The provider may have taken it, so it is not sent again."
        )
        record = await self._recording.intended_request()
        if record is not None:
            self.may_be_taken = True
            request = intent.load(record, self._provider)
            if request is None:
                raise lost
            return await self._recover(request, lost)
        if self._model.streamed and job.updated_at > job.intended_at:
            raise Interrupted("Pollcast stopped while it read the provider's stream, which cannot be resumed.")
        raise lost

    def _sent_model(self, request: Request) -> Model:
        """Return the model as which a request is sent. What its provider promises holds for this model."""
        return next((model for model in self._provider.models if model.name == request.model), self._model)

    async def _recover(self, request: Request, lost: OutcomeUnknown) -> Update:
        """Learn the ticket of an order that was sent, and whose answer was lost with the error `lost`.

        A client's cancel does not end it, because the order can be deleted at the provider only with its ticket.
        Raises OutcomeUnknown if the ticket is not learnt in time, and another JobError if the provider refused the
        order.
        """
        times, now = self._services.times, self._clock.now()
        if self._sent_model(request).repeatable:
            attempt, since, limit = self._repeat, self._recording.job.intended_at or now, times.repeat_limit
        else:
            attempt, since, limit = self._look_up, now, times.lookup_limit
        reason = ""
        try:
            for pause in pauses():
                if self._clock.now() - since >= limit:
                    break
                async with self._scope.recovery():
                    await self._provider.upstream.wait_for_rate()
                    found = await attempt(request)
                if not isinstance(found, _NotLearnt):
                    return Update(ticket=found)
                reason = f" The last attempt to learn its outcome: {found.reason}"
                await self._recording.record(Update(detail=f"{ASKING_AGAIN}: {found.reason}"))
                async with self._scope.recovery():
                    await self._clock.sleep(max(pause, found.wait or 0))
        except DeadlinePassed:
            pass
        raise OutcomeUnknown(f"{lost.message}{reason}")

    async def _repeat(self, request: Request) -> "Ticket | _NotLearnt":
        """Send the same order again, with the same key, and return its ticket.

        Only the provider's refusal of the order itself is final. Others (the key, credit, the load, a gateway's) are
        about the repeat: the provider may have taken the first request.
        """
        try:
            ticket = await self._provider.submit(request)
        except NotTaken as refusal:
            return _NotLearnt(refusal.error.message, refusal.wait)
        except GatewayRefusal as error:
            return _NotLearnt(error.message)
        except UpstreamRejected:
            self.count_submit(UpstreamRejected.code)
            raise
        except JobError as error:
            return _NotLearnt(error.message)
        self.count_submit("repeated")
        return ticket

    async def _look_up(self, request: Request) -> "Ticket | _NotLearnt":
        """Look up the order's job by its key, and return its ticket."""
        try:
            ticket = await self._provider.lookup(request)
        except ReadFailed as error:
            return _NotLearnt(error.message, error.wait)
        return _NotLearnt("The provider finds no such order.") if ticket is None else ticket

    async def prepare(self) -> Request:
        """Make the request to send: fetch and upload the order's inputs, which is unpaid and may be repeated.

        Raises a JobError, Canceled and DeadlinePassed.
        """
        services, job = self._services, self._recording.job
        inputs = JobInputs(job, services.store, services.blobs, services.fetcher, services.links, services.asset_limit)
        failure: JobError
        for pause in pauses():
            try:
                async with self._scope.step():
                    return replace(await self._provider.prepare(job.order, inputs), key=job.id)
            except Transient as error:
                wait, failure = error.wait, UpstreamUnreachable(f"{error.message} Nothing was ordered.")
                await self._recording.record(Update(detail=f"{REPEATING_THE_UPLOAD}: {error.message}"))
            except UnreadableAnswer as error:  # most likely a gateway's page: nothing is paid yet, so it is repeated
                wait, failure = error.wait, UpstreamProtocol(f"{error.message} Nothing was ordered.")
                await self._recording.record(Update(detail=f"{REPEATING_THE_UPLOAD}: {error.message}"))
            except Unavailable as error:  # an asset's record, or its bytes
                wait, failure = None, Internal(f"{error.message} Nothing was ordered.")
            if self._clock.monotonic() + pause > self._scope.deadline:
                break
            await self._wait(max(pause, wait or 0))
        raise failure

    async def send_until_taken(self, request: Request) -> Update:
        """Send the order until the provider takes it, and return its first update.

        Each attempt is recorded as an intent first. The intent is withdrawn, and the order sent again, only if the
        provider certainly did not take it. After a lost answer the order is sent again with the same key, or looked up,
        where the provider offers that. Otherwise OutcomeUnknown is raised, which ends the job. Also raises other
        JobErrors, Canceled and DeadlinePassed.
        """
        model = self._sent_model(request)
        can_recover = model.repeatable or model.can_lookup
        record = intent.dump(self._provider, request, with_body=model.repeatable) if can_recover else None
        for pause in pauses():
            # Wait for the rate limit before recording the intent: if we are stopped while waiting, nothing was sent.
            async with self._scope.step():
                await self._provider.upstream.wait_for_rate()
            await self._recording.record_intent(record)
            try:
                return await self.send_once(request)
            except OutcomeUnknown as lost:
                if not can_recover:
                    raise
                return await self._recover(request, lost)
            except NotTaken as refusal:
                await self._recording.withdraw_intent()
                wait = max(pause, refusal.wait or 0)
                if self._clock.monotonic() + wait > self._scope.deadline:
                    raise refusal.error from None
                await self._recording.record(Update(detail=f"{WAITING_TO_BE_TAKEN}: {refusal.error.message}"))
                await self._wait(wait)
        raise AssertionError("pauses() never ends")

    async def send_once(self, request: Request) -> Update:
        """Send the paid order, once. Only this call spends money at a provider: `_repeat` buys nothing more.

        A client's cancel does not end it. Returns the first update: the ticket of a polled model, or the first of a
        streamed one, which refuses before it. Raises NotTaken if the order may be sent again, and otherwise a JobError,
        Canceled and DeadlinePassed.
        """
        async with self._scope.paid_request():
            self.may_be_taken = True
            try:
                if self._model.streamed:
                    self._stream = self._provider.stream(request)
                    first = await anext(self._stream)
                else:
                    first = Update(ticket=await self._provider.submit(request))
            except NotTaken:
                self.may_be_taken = False
                self.count_submit("not taken")
                raise
            except JobError as error:
                self.count_submit(error.code)
                raise
        self.count_submit("taken")
        return first

    def count_submit(self, outcome: str) -> None:
        """Count a paid request by its outcome: "taken", "not taken", or an error's code."""
        self._services.metrics.submits(self._provider.name, outcome).inc()

    def updates(self) -> AsyncGenerator[Update]:
        """Return the further updates of a streamed model, with its text joined to few pieces."""
        assert self._stream is not None, "only a streamed model has further updates"  # noqa: S101
        return join_text(self._stream, self._services.times.text_gap, self._clock)

    async def aclose(self) -> None:
        """Close the provider's stream, if there is one."""
        if self._stream is not None:
            await self._stream.aclose()

    async def _wait(self, seconds: float) -> None:
        async with self._scope.step():
            await self._clock.sleep(seconds)


async def join_text(updates: AsyncIterator[Update], gap: float, clock: Clock) -> AsyncGenerator[Update]:
    """Join streamed text, so that its updates are at least `gap` seconds apart. Other updates pass unchanged."""
    pending = ""
    coming = asyncio.ensure_future(anext(updates, None))
    pause: asyncio.Future[None] | None = None
    """Done `gap` seconds after the last text."""
    try:
        while True:
            waits: set[asyncio.Future[Any]] = {coming}
            if pending and pause and not pause.done():
                waits.add(pause)
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            has_come = coming.done()
            has_failed = has_come and coming.exception() is not None
            update = coming.result() if has_come and not has_failed else None
            pending += update.delta if update else ""
            more_text = update is not None and update.delta
            if pending and (pause is None or pause.done() or (has_come and not more_text)):
                if pause:
                    await pause
                yield Update(delta=pending)
                pending, pause = "", asyncio.ensure_future(clock.sleep(gap))
            if update is not None and not update.delta:
                yield update
            if has_come and update is None:
                coming.result()  # raises what the provider's stream raised
                return
            if has_come:
                coming = asyncio.ensure_future(anext(updates, None))
    finally:
        ended = [future for future in (coming, pause) if future]
        for future in ended:
            future.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
