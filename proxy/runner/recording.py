"""Recording of a job's events: an adapter's update becomes an event, with its outputs, links and refund.

The store assigns the event's number and moves the tokens in the same transaction.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from proxy.core.errors import Unavailable, UpstreamProtocol
from proxy.core.job import UNDER_WAY, Draft, Job, Output, Role, Status, Ticket
from proxy.providers.base import Model, NewOutput, Update
from proxy.runner.cancel_scope import CancelScope
from proxy.runner.services import RunnerServices
from proxy.store.types import Claim

log = logging.getLogger(__name__)

Written = TypeVar("Written")

WAITING_TO_BE_TAKEN: Final = "Waiting to be taken"
"""Start of the detail of an order that the provider did not take, and that is sent again."""
REPEATING_THE_UPLOAD: Final = "Repeating the upload"
"""Start of the detail of an order whose inputs did not reach the provider, and are sent again."""
ASKING_AGAIN: Final = "Asking again for the provider's answer"
"""Start of the detail of an order whose answer was lost, and which is repeated with its key or looked up."""


class Recording:
    """Records the events of one job, under one claim."""

    __slots__ = ("_claim", "_model", "_provider", "_scope", "_services", "_text_length", "job")

    def __init__(self, services: RunnerServices, claim: Claim, provider: str, model: Model, scope: CancelScope) -> None:
        self.job = claim.job
        """The job as it was last recorded."""
        self._services = services
        self._claim = claim
        self._model = model
        self._provider = provider
        self._scope = scope
        self._text_length = 0
        """Characters of streamed text that were recorded."""

    # --- before the ticket ---

    async def record_intent(self, request: bytes | None = None) -> None:
        """Record that the order is about to be sent, and the request's record. Raises ClaimLost."""
        self.job = await self._persist(lambda: self._services.store.record_intent(self._claim, request))

    async def intended_request(self) -> bytes | None:
        """Return the request's record of the last intent; None if there is none. Raises ClaimLost."""
        return await self._persist(lambda: self._services.store.intended_request(self._claim))

    async def withdraw_intent(self) -> None:
        """Record that the provider certainly did not take the order. Raises ClaimLost."""
        self.job = await self._persist(lambda: self._services.store.withdraw_intent(self._claim))

    async def record_start(self) -> None:
        """Replace the detail that says what an order waits for, if it has one. Raises ClaimLost."""
        if self.job.detail not in {None, UNDER_WAY}:
            await self._append(Draft(Status.PROCESSING, {"detail": UNDER_WAY}))

    # --- updates ---

    async def record(self, update: Update) -> None:
        """Record an update if it has news, or the job's end if it has a status.

        Raises ClaimLost, and UpstreamProtocol for a text that is too long.
        """
        if update.status is not None:
            await self.record_end(update)
            return
        is_full = self.job.event >= self._services.limits.events
        if is_full and not (update.outputs or update.delta or update.ticket):
            return
        draft = await self._draft(update)
        is_accepted = update.ticket is not None and self.job.ticket is None
        if draft.fields or is_accepted:
            await self._append(draft, update.ticket)

    async def record_end(self, update: Update) -> None:
        """Record the final event of an update, with its refund. Raises ClaimLost."""
        job, status = self.job, update.status or Status.ERROR
        outputs = tuple([await self._store_output(made, n) for n, made in enumerate(update.outputs)])
        ordered = 1 if self._model.one_result else self._model.units(job.order.fields)
        refunded = refund(job.tokens, status, outputs, ordered)
        fields: dict[str, Any] = {}
        if status is Status.COMPLETED:
            shown = self._as_json(outputs)
            fields = {"url": next(output["url"] for output in shown if "url" in output), "outputs": shown}
            fields |= _text_field(update.outputs)
            if update.finish_reason:
                fields["finish_reason"] = update.finish_reason
            if refunded:
                fields["refunded"] = refunded
        elif update.error is not None:
            fields = {"message": update.error.message, "code": update.error.code, "refunded": refunded}
        else:
            fields = {"message": update.message or "Canceled.", "refunded": refunded}
        await self._append_final(Draft(status, fields, outputs, refunded), update.ticket)

    async def record_cancel(self, *, may_be_taken: bool) -> None:
        """Record the end that the client asked for. Tokens are refunded only if nothing was sent. Raises ClaimLost."""
        job = self.job
        message, refunded = f"Canceled before anything was sent: {job.tokens} tokens are given back.", job.tokens
        if may_be_taken:
            message, refunded = "Canceled after the provider had taken the order: its tokens are not given back.", 0
        fields = {"message": message, "refunded": refunded}
        await self._append_final(Draft(Status.CANCELED, fields, job.outputs, refunded))

    async def _draft(self, update: Update) -> Draft:
        """Return the event with what the job's record does not have yet; its fields are empty without news."""
        self.count_unknown_words(update.unknown_words)
        job = self.job
        fields: dict[str, Any] = {}
        # An update without a detail still shows that the order was taken, so the wait is over.
        is_waiting = (job.detail or "").startswith((WAITING_TO_BE_TAKEN, REPEATING_THE_UPLOAD, ASKING_AGAIN))
        detail = update.detail or (UNDER_WAY if is_waiting else None)
        if detail and detail != job.detail:
            fields["detail"] = detail
        if update.progress is not None and (job.progress is None or update.progress > job.progress):
            fields["progress"] = update.progress
        if update.delta:
            fields |= {"delta": update.delta, "offset": self._text_length}
            self._text_length += len(update.delta)
            if self._text_length > (limit := self._services.limits.text):
                raise UpstreamProtocol(f"The provider's text is longer than {limit} characters. Pollcast stopped here.")
        outputs = tuple([await self._store_output(made, made.output.n) for made in update.outputs])
        if outputs:
            fields["outputs"] = self._as_json(outputs)
        return Draft(Status.PROCESSING, fields, outputs)

    def count_unknown_words(self, words: Sequence[str]) -> None:
        """Count status words that the provider's page does not name, and log each new one: the provider has changed."""
        counter = self._services.unknown_words
        for word in words:
            key = (self._provider, word)
            if key not in counter and len(counter) < self._services.limits.unknown_words:
                log.warning("%s uses a status word that its page does not name: %r", *key)
                counter[key] = 0
            if key in counter:
                counter[key] += 1

    # --- outputs ---

    def _as_json(self, outputs: tuple[Output, ...]) -> list[dict[str, Any]]:
        to_output = self._services.links.to_output
        return [output.as_json(to_output(self.job.id, output, self.job.key)) for output in outputs]

    async def _store_output(self, made: NewOutput, n: int) -> Output:
        """Store the bytes of an inline result, and return the output as number `n`."""
        if made.data is None:
            return replace(made.output, n=n)
        name, data = f"outputs/{self.job.id}/{n}", made.data
        await self._persist(lambda: self._services.blobs.put(name, data))
        return replace(made.output, n=n, blob=name)

    # --- writes ---

    async def _append_final(self, draft: Draft, ticket: Ticket | None = None) -> None:
        """Record the final event, which repeats the client's metadata."""
        metadata = self.job.order.metadata
        repeated = {"metadata": metadata} if metadata else {}
        await self._append(replace(draft, fields={**draft.fields, **repeated}), ticket)

    async def _append(self, draft: Draft, ticket: Ticket | None = None) -> None:
        before = self.job.status
        with self._services.metrics.store("append").time():
            self.job = await self._persist(lambda: self._services.store.append(self._claim, draft, ticket))
        if self.job.cancel_requested:
            self._scope.cancel()  # the store's notification of it may have been missed
        if "delta" not in draft.fields:
            level = logging.DEBUG if self.job.status is before else logging.INFO
            log.log(level, "job", extra=_log_fields(self.job))
        if self.job.status.final:
            self.count_end()

    def count_end(self) -> None:
        """Count the job's end, its duration and its refund in the metrics."""
        job, metrics = self.job, self._services.metrics
        metrics.ended(job.model, job.status, job.code or "").inc()
        metrics.job(job.model).observe(max(job.updated_at - job.created_at, 0))
        metrics.refunded(job.model).inc(job.refunded)

    async def _persist(self, write: Callable[[], Awaitable[Written]]) -> Written:
        """Write, and retry while the storage is unavailable: while this process lives, no known result is lost."""
        for pause in pauses():
            try:
                return await write()
            except Unavailable as error:
                log.warning("Cannot record %s, retrying: %s", self.job.id, error.message)
                await self._services.sleep(pause)
        raise AssertionError("pauses() never ends")


def refund(charged: int, status: Status, outputs: Iterable[Output] = (), ordered: int = 1) -> int:
    """Return how many of the `charged` tokens the final event refunds (proxy/docs/models.md).

    An `Error` and the provider's own `Canceled` refund all. A completed job refunds an equal share for each of the
    `ordered` outputs that was not made. A client's cancel has its own rule (`record_cancel`).
    """
    if status is not Status.COMPLETED or not ordered:
        return charged
    missing = max(ordered - sum(not output.failed for output in outputs), 0)
    return charged * missing // ordered


def pauses() -> Iterator[float]:
    """Yield the seconds to wait between attempts: 1, 2, 4, 8, 16, 30, 30, ..."""
    pause = 1.0
    while True:
        yield pause
        pause = min(pause * 2, 30.0)


def _log_fields(job: Job) -> dict[str, Any]:
    """Return the fields of the log record of a job's newest state."""
    end = {"refunded": job.refunded, "seconds": round(job.updated_at - job.created_at, 3)} if job.status.final else {}
    state = {"status": job.status, "detail": job.detail, "code": job.code, **end}
    fields = {"job": job.id, "model": job.model, "account": job.account, "n": job.event}
    return fields | {name: value for name, value in state.items() if value is not None}


def _text_field(outputs: Sequence[NewOutput]) -> dict[str, str]:
    """Return the whole streamed text as a field of the final event, if the model makes text."""
    made = next((made for made in outputs if made.output.role is Role.TEXT and made.data is not None), None)
    return {"text": made.data.decode()} if made and made.data is not None else {}
