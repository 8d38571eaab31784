"""One job under way, held by one claim: its order, its polls, and what is recorded of them.

The order of steps is what makes money safe: inputs are prepared (unpaid), the intent is recorded, the order is
submitted (paid, once), the ticket is recorded before anything else happens, and only then is the provider polled.
Between two polls a job is this one object: no task of its own waits.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from proxy.core import keys
from proxy.core.clock import Clock, ClockSteps, cut_short
from proxy.core.errors import (
    DeadlineExceeded,
    Internal,
    Interrupted,
    JobError,
    OutcomeUnknown,
    Unavailable,
    UpstreamProtocol,
    UpstreamRejected,
    UpstreamUnreachable,
)
from proxy.core.job import UNDER_WAY, Draft, Job, Output, Role, Status, Ticket
from proxy.core.links import Links
from proxy.providers import MODELS
from proxy.providers.base import NewOutput, Provider, Update
from proxy.runner.inputs import JobInputs
from proxy.runner.polling import Pace, Polling
from proxy.store.blobs import Blobs
from proxy.store.contract import Store
from proxy.store.types import Claim, ClaimLost
from proxy.telemetry import trace
from proxy.telemetry.metrics import Metrics
from proxy.upstream import breaker
from proxy.upstream.answers import NotTaken, ReadFailed, Transient, UnreadableAnswer
from proxy.upstream.fetch import Fetcher
from proxy.upstream.requests import Request

log = logging.getLogger(__name__)

Written = TypeVar("Written")
Awaited = TypeVar("Awaited")

_MOST_EVENTS: Final = 20_000
"""Events of one job, after which only outputs, streamed text and the end are recorded: a provider that never stops
talking must not fill the log."""
_MOST_TEXT: Final = 2_000_000
"""Characters of one streamed text: more than any model writes, less than a memory holds."""
_MOST_WORDS: Final = 200
"""Unknown words that are counted: what a provider makes up must not fill the memory."""
_LAST_LOOK: Final = 60.0
"""Seconds that a job which is taken up again has at the least, whatever its deadline was."""
_ASLEEP: Final = 10.0
"""Seconds by which a poll is late where this process was stopped for a while."""
_CANCEL: Final = 10.0
"""Seconds that a provider's cancel call may take."""
_WAITING: Final = "Waiting to be taken"
"""How the detail begins of an order that the provider did not take, and that is sent again."""
_REPEATING: Final = "Repeating the upload"
"""How the detail begins of an order whose inputs did not reach the provider, and are sent again."""
_TEXT_GAP: Final = 0.2
"""Seconds between two events of streamed text: at most five a second."""


@dataclass(frozen=True, slots=True)
class RunnerServices:
    """What driving a job takes, besides the job."""

    store: Store
    blobs: Blobs
    fetcher: Fetcher
    links: Links
    clock: Clock
    steps: ClockSteps
    metrics: Metrics
    providers: Mapping[str, Provider]
    """By model."""
    asset_limit: int
    retention: float
    """Seconds that finished jobs and assets are kept."""
    traces: trace.Traces | None = None
    """Where exchanges with providers are recorded, if they are."""
    polled: dict[str, float] = field(default_factory=dict)
    """When each job under way here was last asked about; a write for each poll would be too much for the store."""
    unknown_words: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each provider has used a word for a state that its page does not name."""


class JobRun:
    """One job under way, held by one claim."""

    def __init__(self, tools: RunnerServices, claim: Claim, pace: Pace) -> None:
        self._tools = tools
        self.claim = claim
        self._job = claim.job
        self._pace = pace
        self._model = MODELS[claim.job.model]
        self._provider = tools.providers[claim.job.model]
        # Standing in the account's line has no deadline: whatever is ahead there has one.
        waits_since = claim.since or claim.job.created_at
        age = self._age(claim.job.intended_at or waits_since)
        self._deadline = tools.clock.monotonic() + self._provider.settings.deadline - age
        """Monotonic, like every time here but those that are recorded: the wall clock may be set at any moment."""
        self._polling: Polling | None = None
        self._recorder = tools.traces.of(claim.job.id) if tools.traces else None
        self._subject = breaker.Subject(claim.job.account, claim.job.id)
        self._due = 0.0
        """When the next poll should be."""
        self._asked = 0.0
        """When the last poll was begun, or the first one became possible."""
        self._slept = False
        """Whether the deadline has been put off, once, for a last look after a sleep."""
        self._text = 0
        self._canceled = claim.job.cancel_requested
        self._wish: asyncio.Event | None = None
        """Set when the client asks for the end, while somebody waits for that."""
        self._leash: asyncio.Timeout | None = None
        """Around a poll, which need not be waited for when the client asks for the end."""
        self._sending = False
        """A paid request is under way: it is waited for, whatever else happens."""
        self._taken = claim.job.ticket is not None
        """The provider may have the order."""
        if claim.job.ticket is not None:
            # It may have been over for long, with nobody here to see it: it is looked at before the deadline counts.
            self._deadline = max(self._deadline, tools.clock.monotonic() + _LAST_LOOK)
            self._poll_from_now(claim.job.ticket, resumed=True)

    @property
    def status(self) -> Status:
        """Where the job stands."""
        return self._job.status

    @property
    def irreplaceable(self) -> bool:
        """Whether what is under way cannot be done again by another node: a submit, or the reading of a stream."""
        return self._sending or self._model.streamed

    def cancel(self) -> None:
        """The client asks for the job's end; whoever waits now waits no longer."""
        self._canceled = True
        if self._wish is not None:
            self._wish.set()
        if self._leash is not None:
            cut_short(self._leash)
            self._leash = None

    async def run(self) -> float | None:
        """Take the job a step further: through its order, or through one poll.

        Gives the seconds to the next step; None when it is over. Raises ClaimLost.
        """
        breaker.subject.set(self._subject)  # for this step's own task, and those that it starts
        if self._recorder is not None:
            trace.recorder.set(self._recorder)
        try:
            await (self._order() if self._polling is None else self._poll(self._polling))
        except _Canceled:
            await self._cancel()
        except JobError as error:
            await self._fail(error)
        except UnreadableAnswer as error:
            await self._fail(UpstreamProtocol(error.message))
        except ReadFailed as error:
            await self._fail(UpstreamRejected(error.message))
        except (ClaimLost, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s met a fault of ours.", self._job.id)
            await self._end(Update(status=Status.ERROR, error=Internal("Pollcast met a fault of its own.")))
        if self._job.status.final or self._polling is None:
            return None
        now = self._tools.clock.monotonic()
        delay = 0 if self._canceled else min(self._polling.delay, max(self._deadline - now, 0))
        self._due = now + delay
        return delay

    def _age(self, recorded: float) -> float:
        """Seconds since a recorded time, without the steps of the wall clock that this process has seen."""
        wall = self._tools.clock.now() - recorded
        return max(wall - self._tools.steps.forward(self._provider.settings.deadline), 0)

    def _check_record(self) -> None:
        """Raises how a job ends that was cut short between its intent and its ticket, or within its stream."""
        job = self._job
        if job.intended_at is None:
            self._check_patience()
            return
        if self._model.streamed and job.updated_at > job.intended_at:
            raise Interrupted("Pollcast stopped while it read the provider's stream, which cannot be resumed.")
        raise OutcomeUnknown(
            "Pollcast stopped while it sent the order, which may have been taken: it is not sent again."
        )

    def _check_patience(self) -> None:
        """Raises DeadlineExceeded for an order that has waited too long for room (and was not canceled)."""
        if self._tools.clock.monotonic() >= self._deadline and not self._canceled:
            raise self._overdue("could not take this order")

    def _overdue(self, failure: str) -> DeadlineExceeded:
        seconds = self._provider.settings.deadline
        trouble = self._polling.trouble if self._polling else ""
        return DeadlineExceeded(f"{self._provider.name} {failure} within {seconds:g} seconds. {trouble}".rstrip())

    async def _order(self) -> None:
        """Take the order to its ticket, or the provider's stream to its end."""
        self._check_record()
        self._deadline = self._tools.clock.monotonic() + self._provider.settings.deadline
        if not self._canceled and self._job.detail not in {None, UNDER_WAY}:
            # Nobody but Pollcast has said something of an order that was not sent: that it waits, which is over.
            await self._append(Draft(Status.PROCESSING, {"detail": UNDER_WAY}), None)
        self._wish = asyncio.Event()
        if self._canceled:
            self._wish.set()
        async with aclosing(self._updates()) as updates, aclosing(_joined(updates)) as joined:
            while not (self._job.status.final or self._polling):
                update = await self._bounded(anext(joined), self._wish)
                await self._record(update)
                if update.ticket is not None:
                    self._poll_from_now(update.ticket, resumed=False)
        self._wish = None

    def _poll_from_now(self, ticket: Ticket, *, resumed: bool) -> None:
        self._asked = self._tools.clock.monotonic()
        self._polling = Polling(
            self._provider,
            self._pace,
            ticket,
            self._tools.clock,
            submitted_at=self._asked - self._age(self._job.intended_at or self._job.created_at),
            interval=self._provider.settings.poll_interval,
            resumed=resumed,
        )

    async def _poll(self, polling: Polling) -> None:
        now = self._tools.clock.monotonic()
        if self._canceled:
            raise _Canceled
        if now - self._asked > polling.delay + _ASLEEP:
            self._put_off(now)
        if now >= self._deadline:
            raise self._overdue("did not finish")
        self._asked = now
        if self._due:
            self._tools.metrics.poll_lag(self._provider.name).observe(max(now - self._due, 0))
        self._tools.polled[self._job.id] = self._tools.clock.now()
        unseen = polling.delay
        try:
            async with asyncio.timeout(self._deadline - now) as self._leash:
                update = await polling.poll(now)
        except TimeoutError:
            if self._canceled:
                raise _Canceled from None
            later = self._tools.clock.monotonic()
            if later - self._deadline > _ASLEEP and self._put_off(later):
                return
            raise self._overdue("did not finish") from None
        finally:
            self._leash = None
            self._tools.metrics.polls(self._provider.name, polling.outcome or "interrupted").inc()
        if update is None:
            return
        await self._record(update)
        if update.status is Status.COMPLETED:
            # It ended at some moment since the poll before; while little is known, that is long ago.
            self._pace.learn(polling.age(now) - unseen / 2)

    def _put_off(self, now: float) -> bool:
        """Put off a deadline that passed in a sleep of this process, once: the work may have ended meanwhile."""
        if self._slept or now < self._deadline:
            return False
        self._slept, self._deadline = True, now + _LAST_LOOK
        return True

    async def _bounded(self, step: Awaitable[Awaited], wish: asyncio.Event) -> Awaited:
        """One step, within the deadline. Raises DeadlineExceeded, and _Canceled when the client wants the end."""
        left = self._deadline - self._tools.clock.monotonic()
        try:
            async with asyncio.timeout(max(left, 0)) as bound:
                return await self._unless_canceled(step, wish)
        except TimeoutError:
            if not bound.expired():
                raise
            raise self._overdue("did not finish") from None

    async def _unless_canceled(self, step: Awaitable[Awaited], wish: asyncio.Event) -> Awaited:
        """One step, unless the client wants the end; a submit that is under way is waited for all the same."""
        coming, canceled = asyncio.ensure_future(step), asyncio.ensure_future(wish.wait())
        try:
            await asyncio.wait({coming, canceled}, return_when=asyncio.FIRST_COMPLETED)
            if self._sending:
                await asyncio.wait({coming})
            if not coming.done():
                raise _Canceled
            return coming.result()
        finally:
            self._sending = False
            coming.cancel()
            canceled.cancel()
            await asyncio.gather(coming, canceled, return_exceptions=True)

    async def _cancel(self) -> None:
        """End as the client wants it; tokens come back only if nothing was sent."""
        job = self._job
        if job.ticket is not None:
            await self._provider_cancel(job.ticket)
        message, refund = f"Canceled before anything was sent: {job.tokens} tokens are given back.", job.tokens
        if self._taken:
            message, refund = "Canceled after the provider had taken the order: its tokens are not given back.", 0
        fields = {"message": message, "refunded": refund}
        await self._close(Draft(Status.CANCELED, fields, job.outputs, refund), None)

    async def _provider_cancel(self, ticket: Ticket) -> None:
        try:
            async with asyncio.timeout(_CANCEL):
                await self._provider.cancel(ticket)
        except (ReadFailed, TimeoutError) as error:
            log.warning("%s: the provider could not be told to stop: %s", self._job.id, error)

    # --- where updates come from ---

    async def _updates(self) -> AsyncGenerator[Update]:
        """The steps of an order, in the sequence that keeps money safe."""
        request = await self._prepared()
        async with aclosing(self._ordered(request)) as steps:
            async for step in steps:
                yield step

    async def _prepared(self) -> Request:
        tools = self._tools
        inputs = JobInputs(self._job, tools.store, tools.blobs, tools.fetcher, tools.links, tools.asset_limit)
        failure: JobError
        for pause in _pauses():
            try:
                return await self._provider.prepare(self._job.order, inputs)
            except Transient as error:
                wait, failure = error.wait, UpstreamUnreachable(f"{error.message} Nothing was ordered.")
                await self._record(Update(detail=f"{_REPEATING}: {error.message}"))
            except (
                UnreadableAnswer
            ) as error:  # a gateway's page, most likely: nothing is paid yet, so it is asked again
                wait, failure = error.wait, UpstreamProtocol(f"{error.message} Nothing was ordered.")
                await self._record(Update(detail=f"{_REPEATING}: {error.message}"))
            except Unavailable as error:  # an asset's record, or its bytes
                wait, failure = None, Internal(f"{error.message} Nothing was ordered.")
            if tools.clock.monotonic() + pause > self._deadline:
                break
            await tools.clock.sleep(max(pause, wait or 0))
        raise failure

    async def _ordered(self, request: Request) -> AsyncGenerator[Update]:
        """Send the order until it is taken, sending again only what surely was not; yields what comes of it.

        Each try is announced in the record before it, and withdrawn from it when it surely came to nothing.
        """
        clock = self._tools.clock
        for pause in _pauses():
            # Whoever is stopped while it waits has not sent it, and should not have said that it would.
            await self._provider.upstream.wait_for_rate()
            self._job = await self._persist(lambda: self._tools.store.record_intent(self.claim))
            try:
                async with aclosing(self._sent(request)) as updates:
                    async for update in updates:
                        yield update
            except NotTaken as refusal:
                self._counted("not taken")
                self._sending = self._taken = False
                self._job = await self._persist(lambda: self._tools.store.withdraw_intent(self.claim))
                wait = max(pause, refusal.wait or 0)
                if clock.monotonic() + wait > self._deadline:
                    raise refusal.error from None
                yield Update(detail=f"{_WAITING}: {refusal.error.message}")
                await clock.sleep(wait)
            else:
                return

    async def _sent(self, request: Request) -> AsyncGenerator[Update]:
        """Send the order once, and count what came of that."""
        if self._canceled:
            raise _Canceled
        self._sending = self._taken = True
        outcome = ""
        try:
            async with aclosing(self._answered(request)) as updates:
                async for update in updates:
                    outcome = outcome or self._counted("taken")
                    yield update
        except JobError as error:
            outcome = outcome or self._counted(error.code)
            raise

    async def _answered(self, request: Request) -> AsyncGenerator[Update]:
        """A ticket is one update; a stream is many, and refuses before its first."""
        if not self._model.streamed:
            yield Update(ticket=await self._provider.submit(request))
            return
        async with aclosing(self._provider.stream(request)) as updates:
            async for update in updates:
                yield update

    def _counted(self, outcome: str) -> str:
        self._tools.metrics.submits(self._provider.name, outcome).inc()
        return outcome

    # --- what becomes of them ---

    async def _record(self, update: Update) -> None:
        if update.status is not None:
            await self._end(update)
            return
        if self._job.event >= _MOST_EVENTS and not (update.outputs or update.delta or update.ticket):
            return
        draft = await self._news(update)
        accepted = update.ticket is not None and self._job.ticket is None
        if draft.fields or accepted:
            await self._append(draft, update.ticket)

    def _count(self, words: Sequence[str]) -> None:
        """Count words that the provider's page does not name, and say so when one is new: the provider has changed."""
        counter = self._tools.unknown_words
        for word in words:
            known = (self._provider.name, word)
            if known not in counter and len(counter) < _MOST_WORDS:
                log.warning("%s uses a word that its page does not name: %r.", *known)
                counter[known] = 0
            if known in counter:
                counter[known] += 1

    async def _news(self, update: Update) -> Draft:
        """What the job's record does not say yet."""
        self._count(update.unknown)
        job = self._job
        fields: dict[str, Any] = {}
        # What comes without a word of its own has been taken nevertheless.
        detail = update.detail or (UNDER_WAY if (job.detail or "").startswith((_WAITING, _REPEATING)) else None)
        if detail and detail != job.detail:
            fields["detail"] = detail
        if update.progress is not None and (job.progress is None or update.progress > job.progress):
            fields["progress"] = update.progress
        if update.delta:
            fields |= {"delta": update.delta, "offset": self._text}
            self._text += len(update.delta)
            if self._text > _MOST_TEXT:
                raise UpstreamProtocol(f"The provider's text is longer than {_MOST_TEXT} characters; it is given up.")
        outputs = tuple([await self._stored(made, made.output.n) for made in update.outputs])
        if outputs:
            fields["outputs"] = self._shown(outputs)
        return Draft(Status.PROCESSING, fields, outputs)

    async def _end(self, update: Update) -> None:
        job, status = self._job, update.status or Status.ERROR
        outputs = tuple([await self._stored(made, n) for n, made in enumerate(update.outputs)])
        refund = keys.refund(job.tokens, status, outputs, self._model.units(job.order.fields))
        fields: dict[str, Any] = {}
        if status is Status.COMPLETED:
            shown = self._shown(outputs)
            fields = {"url": next(output["url"] for output in shown if "url" in output), "outputs": shown}
            fields |= _text(update.outputs)
            if update.finish_reason:
                fields["finish_reason"] = update.finish_reason
            if refund:
                fields["refunded"] = refund
        elif update.error is not None:
            fields = {"message": update.error.message, "code": update.error.code, "refunded": refund}
        else:
            fields = {"message": update.message or "Canceled.", "refunded": refund}
        await self._close(Draft(status, fields, outputs, refund), update.ticket)

    async def _close(self, draft: Draft, ticket: Ticket | None) -> None:
        """Record the final event, which echoes the client's metadata."""
        metadata = self._job.order.metadata
        echoed = {"metadata": metadata} if metadata else {}
        await self._append(replace(draft, fields={**draft.fields, **echoed}), ticket)

    async def _fail(self, error: JobError) -> None:
        """End in `error`, unless a part of the work is done and worth keeping."""
        ticket = self._job.ticket
        left = self._provider.partial_result(ticket, error.message) if ticket else None
        await self._end(left or Update(status=Status.ERROR, error=error))

    def _shown(self, outputs: tuple[Output, ...]) -> list[dict[str, Any]]:
        to_output = self._tools.links.to_output
        return [output.as_json(to_output(self._job.id, output, self._job.key)) for output in outputs]

    async def _stored(self, made: NewOutput, n: int) -> Output:
        if made.data is None:
            return replace(made.output, n=n)
        name, data = f"outputs/{self._job.id}/{n}", made.data
        await self._persist(lambda: self._tools.blobs.put(name, data))
        return replace(made.output, n=n, blob=name)

    async def _append(self, draft: Draft, ticket: Ticket | None) -> None:
        before = self._job.status
        with self._tools.metrics.store("append").time():
            self._job = await self._persist(lambda: self._tools.store.append(self.claim, draft, ticket))
        if self._job.cancel_requested:
            self._canceled = True  # also where nobody could be told of it
        if "delta" not in draft.fields:
            log.log(logging.DEBUG if self._job.status is before else logging.INFO, "job", extra=_facts(self._job))
        if self._job.status.final:
            self._count_end()

    def _count_end(self) -> None:
        job, metrics = self._job, self._tools.metrics
        metrics.ended(job.model, job.status, job.code or "").inc()
        metrics.job(job.model).observe(max(job.updated_at - job.created_at, 0))
        metrics.refunded(job.model).inc(job.refunded)

    async def _persist(self, write: Callable[[], Awaitable[Written]]) -> Written:
        """Write, and write again while the storage is away: what is known must not be lost with this process alive."""
        for pause in _pauses():
            try:
                return await write()
            except Unavailable as error:
                log.warning("%s cannot be recorded now, trying again: %s", self._job.id, error.message)
                await asyncio.sleep(pause)
        raise AssertionError("_pauses never ends")


def _facts(job: Job) -> dict[str, Any]:
    """What the log says of a job's newest state."""
    over = {"refunded": job.refunded, "seconds": round(job.updated_at - job.created_at, 3)} if job.status.final else {}
    state = {"status": job.status, "detail": job.detail, "code": job.code, **over}
    named = {"job": job.id, "model": job.model, "account": job.account, "n": job.event}
    return named | {name: value for name, value in state.items() if value is not None}


class _Canceled(Exception):
    """The client wants the job's end."""


def _pauses() -> Iterator[float]:
    """Seconds to wait between tries: 1, 2, 4, 8, 16, 30, 30, ..."""
    pause = 1.0
    while True:
        yield pause
        pause = min(pause * 2, 30.0)


def _text(outputs: Any) -> dict[str, str]:
    made = next((made for made in outputs if made.output.role is Role.TEXT and made.data is not None), None)
    return {"text": made.data.decode()} if made else {}


async def _joined(updates: AsyncIterator[Update]) -> AsyncGenerator[Update]:
    """Join streamed text, so that at most one update in `_TEXT_GAP` seconds comes of it; the rest passes as it is."""
    clock = asyncio.get_running_loop().time
    pending, due = "", 0.0
    coming = asyncio.ensure_future(anext(updates, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=max(due - clock(), 0) if pending else None)
            failed = bool(done) and coming.exception() is not None
            update = coming.result() if done and not failed else None
            pending += update.delta if update else ""
            more_text = update is not None and update.delta
            if pending and (clock() >= due or (done and not more_text)):
                await asyncio.sleep(max(due - clock(), 0))
                yield Update(delta=pending)
                pending, due = "", clock() + _TEXT_GAP
            if update is not None and not update.delta:
                yield update
            if done and update is None:
                coming.result()  # raises what the provider's stream raised
                return
            if done:
                coming = asyncio.ensure_future(anext(updates, None))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
