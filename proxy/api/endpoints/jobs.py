"""Jobs: ordered, listed, watched, canceled, forgotten."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from proxy.api import dry_run, orders
from proxy.api.metering import refusal_of
from proxy.api.negotiation import wants_lines
from proxy.api.request import answer, body, idempotency_key, last_event_id, limit, number, refuse_fields, told_event_id
from proxy.api.services import ApiServices
from proxy.core.clock import rfc3339
from proxy.core.errors import Conflict, FieldError, NotFound, RateLimited, RequestError, Unavailable
from proxy.core.job import Event, Job, Order, Status
from proxy.core.media_types import kind_of
from proxy.providers import MODELS
from proxy.providers.base import Passage, Reference, is_asset
from proxy.store.base import Admission, Admitted, Asset, Key
from proxy.streams.feed import JobTail
from proxy.streams.responses import FeedResponse, RetryLater
from proxy.streams.stream import JobStream, LineStream
from proxy.upstream.fetch import NotPublic, check_public

log = logging.getLogger(__name__)

_LONGEST_WAIT: Final = 60
"""Seconds."""
_MOST: Final = 1 << 53

_LOOK_UPS: Final = 4
"""Names that one order has looked up at once."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """The endpoints of jobs."""

    services: ApiServices

    async def generate(self, request: Request) -> Response:
        """Admit an order and answer with its feed; the job goes on if the client leaves."""
        key = await self.services.auth.key(request)
        dry_run.refuse(request)
        after = last_event_id(request)
        if told_event_id(request) and "Idempotency-Key" not in request.headers:
            raise Conflict("A reconnecting POST needs the Idempotency-Key of its first try; no job was made.")
        with self.services.limits.coming(key.account) as refusal:
            admitted = await self._admit(request, key, refusal)
            tail = await self._tail(admitted.job.id, key, admitted.event)
        if refusal is not None:
            # The job is there, and is not kept from who ordered it: they are to come back, as at the GET endpoints.
            return RetryLater(refusal.message, self._admitted_headers(request, admitted))
        return self._feed(request, key, tail, after, self._admitted_headers(request, admitted))

    async def jobs(self, request: Request) -> Response:
        """POST: admit an order. GET: the account's own jobs."""
        key = await self.services.auth.key(request)
        if request.method != "POST":
            return await self._list(request, key)
        if dry_run.is_asked(request):
            return await self._dry_run(request, key)
        admitted = await self._admit(request, key)
        return answer(await self._job(admitted.job, key), 202, self._admitted_headers(request, admitted))

    async def _list(self, request: Request, key: Key) -> Response:
        query = request.query_params
        page = await self.services.store.jobs(
            key.account,
            limit(request),
            query.get("before") or None,
            _status(query.get("status")),
            query.get("model") or None,
        )
        return answer({"jobs": [await self._job(job, key) for job in page.items], "next": page.next})

    async def _admit(self, request: Request, key: Key, refusal: RateLimited | None = None) -> Admitted:
        """The job that the order makes, or has made before; only a new one is refused. Raises RateLimited."""
        self.services.check_running()
        repeated = idempotency_key(request)
        reading = orders.read(await body(request))
        admission = Admission(
            key.account,
            key.id,
            reading.order,
            self.services.catalogue.price(reading.order),
            repeated,
            reading.fingerprint,
            tuple({reference.ref for reference in reading.references if is_asset(reference.ref)}),
            self.services.catalogue.provider(reading.order.model).name,
            self.services.limits.jobs,
            self.services.limits.line,
        )
        try:
            if refusal := refusal_of(request) or refusal:
                raise refusal
            return _told(await self._new(key, reading, admission))
        except RequestError:
            # What was taken before is given again, whatever would be refused now.
            earlier = await self.services.store.replay(admission) if repeated is not None else None
            if earlier is None:
                raise
            return _told(Admitted(earlier, replayed=True))

    async def _new(self, key: Key, reading: orders.ParsedOrder, admission: Admission) -> Admitted:
        await self._check(key, reading.order, reading.references)
        await self.services.catalogue.check_available(reading.order.model, key.account)
        try:
            admitted = await self.services.store.admit(admission)
        except RateLimited:
            self.services.limits.refused_job()
            raise
        if admitted.job.detail is not None and not admitted.replayed:  # its place in line
            self.services.metrics.queued.inc()
        return admitted

    async def _dry_run(self, request: Request, key: Key) -> Response:
        """Show what an order would send and cost; it is checked like any other, but its provider is not asked."""
        idempotency_key(request)
        reading = orders.read(await body(request))
        await self._check(key, reading.order, reading.references)
        return answer(await dry_run.shown(self.services, key.account, reading.order))

    async def _check(self, key: Key, order: Order, references: Sequence[Reference]) -> None:
        """What about an order depends on this installation and account. Raises InvalidRequest."""
        gate = asyncio.Semaphore(_LOOK_UPS)
        refs = list(dict.fromkeys(reference.ref for reference in references))
        seen = dict(zip(refs, await asyncio.gather(*(self._seen(key, ref, gate) for ref in refs)), strict=True))
        found = [_media_fault(reference, seen[reference.ref]) for reference in references]
        faults = [*filter(None, found), *self.services.catalogue.provider(order.model).validate(order)]
        faults = faults or self._sum_fault(MODELS[order.model].media, references, seen)
        if faults:
            refuse_fields(faults)

    async def _seen(self, key: Key, ref: str, gate: asyncio.Semaphore) -> Asset | str | None:
        """The asset of that id, or what is wrong with a reference; None for a URL that may be fetched."""
        if is_asset(ref):
            return await self.services.store.asset(key.account, ref) or f"there is no asset {ref}"
        try:
            async with gate:
                await check_public(ref)
        except NotPublic as error:
            return f"neither an asset's id nor a public https URL: {error}"
        return None

    def _sum_fault(
        self, media: Passage, references: Sequence[Reference], seen: Mapping[str, Asset | str | None]
    ) -> list[FieldError]:
        """The reference at which an order's assets become too large together; a linked one is never read here."""
        limit, size, counted = self.services.asset_limit, 0, set[str]()
        for reference in references if media != "linked" else ():
            asset = seen[reference.ref]
            if isinstance(asset, Asset) and (media == "inline" or reference.ref not in counted):
                size += asset.size
            counted.add(reference.ref)
            if size > limit:
                return [FieldError(reference.field, f"the order's inputs are larger than {limit} bytes together")]
        return []

    # --- a job ---

    async def job(self, request: Request) -> Response:
        """GET: the job now, or with `wait` as soon as it has an event above `after` or is over. DELETE: forget it."""
        key = await self.services.auth.key(request)
        if request.method == "DELETE":
            return await self._delete(request, key)
        job = await self._found(request, key)
        seconds, beyond = number(request, "wait", 0, _LONGEST_WAIT), number(request, "after", job.event, _MOST)
        if seconds and job.event <= beyond and not job.status.final:
            tail = await self._tail(job.id, key)
            self.services.limits.check_stream(key.account)
            await self.services.feed.reached(tail, beyond, seconds, key.id)
            key = await self.services.auth.key(request)  # it may have been revoked meanwhile
            job = await self._found(request, key)
        return answer(await self._job(job, key))

    async def _delete(self, request: Request, key: Key) -> Response:
        job = await self._found(request, key)
        blobs = await self.services.store.delete_job(key.account, job.id)
        self.services.feed.forget(key.account, job.id)
        for blob in blobs or ():
            await self.services.blobs.delete(blob)
        return Response(status_code=204)

    async def cancel(self, request: Request) -> Response:
        """Ask for a job's end: a request, which the job's own end may overtake."""
        key = await self.services.auth.key(request)
        job = await self._found(request, key)
        if job.status.final:
            raise Conflict(f"{job.id} is over: it is {job.status}.")
        return answer(await self._job(await self.services.store.request_cancel(key.account, job.id) or job, key), 202)

    async def events(self, request: Request) -> Response:
        """The feed: replay, then live, closing after the final event; 204 for who has it already."""
        try:
            self.services.check_running()
            key = await self.services.auth.key_or_link(request)
            tail = await self._tail(request.path_params["job"], key)
            after = last_event_id(request)
            if tail.ended and after == tail.head:
                return Response(status_code=204)
            self.services.limits.check_stream(key.account)
        except (Unavailable, RateLimited) as error:
            # EventSource gives up for good on any status but 200, and this will pass.
            return RetryLater(error.message)
        return self._feed(request, key, tail, after, {})

    def _admitted_headers(self, request: Request, admitted: Admitted) -> dict[str, str]:
        prefix = self.services.links.prefix or quote(request.scope.get("root_path", "").rstrip("/"))
        replayed = {"Idempotency-Replayed": "true"} if admitted.replayed else {}
        return {"Location": f"{prefix}/api/jobs/{admitted.job.id}"} | replayed

    async def _found(self, request: Request, key: Key) -> Job:
        return await self.services.job(key, request.path_params["job"])

    async def _tail(self, job_id: str, key: Key, first: Event | None = None) -> JobTail:
        tail = await self.services.feed.job(key.account, job_id, first)
        if tail is None:
            raise NotFound(f"There is no job {job_id[:100]}.")
        return tail

    def _feed(self, request: Request, key: Key, tail: JobTail, after: int, headers: Mapping[str, str]) -> Response:
        kind = LineStream if wants_lines(request) else JobStream
        return FeedResponse(kind(self.services.feed, tail, after, key.id), headers)

    async def _job(self, job: Job, key: Key) -> dict[str, Any]:
        outputs = [output.as_json(self.services.links.to_output(job.id, output, key.id)) for output in job.outputs]
        path = f"/api/jobs/{job.id}"
        left = await self.services.eta.remaining(job)
        polled = None if job.status.final else self.services.polled.get(job.id)
        shown = {
            "id": job.id,
            "model": job.model,
            "status": job.status,
            "event": job.event,
            "detail": job.detail,
            "progress": job.progress,
            "eta": None if left is None else {"low": left[0], "high": left[1]},
            "polled_at": None if polled is None else rfc3339(polled),
            "url": next((output["url"] for output in outputs if "url" in output), None),
            "outputs": outputs or None,
            "message": job.message,
            "code": job.code,
            "finish_reason": job.finish_reason,
            "tokens": job.tokens,
            "refunded": job.refunded,
            "metadata": job.order.metadata,
            "created_at": rfc3339(job.created_at),
            "updated_at": rfc3339(job.updated_at),
            "order": job.order.as_json(),
            "links": {
                "self": self.services.links.absolute(path),
                "events": self.services.links.sign(f"{path}/events", key.id),
                "content": self.services.links.sign(f"{path}/content", key.id),
            },
        }
        return {name: value for name, value in shown.items() if value is not None}


def _media_fault(reference: Reference, seen: Asset | str | None) -> FieldError | None:
    if isinstance(seen, str):
        return FieldError(reference.field, seen)
    if seen is not None and kind_of(seen.type) not in reference.kinds:
        wanted = " or ".join(sorted(reference.kinds))
        return FieldError(reference.field, f"{reference.ref} is {seen.type}; this field takes {wanted}")
    return None


def _told(admitted: Admitted) -> Admitted:
    """What was admitted, once the log says which request made which job."""
    job = admitted.job
    facts = {"job": job.id, "model": job.model, "account": job.account, "tokens": job.tokens}
    log.info("job replayed" if admitted.replayed else "job ordered", extra=facts)
    return admitted


def _status(text: str | None) -> Status | None:
    if not text:
        return None
    if text not in set(Status):
        refuse_fields([FieldError("status", f"one of {', '.join(Status)}")])
    return Status(text)
