"""Jobs: ordered, listed, watched, canceled, forgotten; and what they made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from proxy import media, orders
from proxy.answers import ReadFailed
from proxy.api.reading import answer, body, idempotency_key, last_event_id, limit, number, refuse_fields, wants_lines
from proxy.api.services import Services
from proxy.clock import rfc3339
from proxy.errors import Conflict, FieldError, NotFound, Unavailable, UpstreamFailed
from proxy.feed import JobTail
from proxy.fetch import NotPublic, check_public
from proxy.job import Job, Order, Status
from proxy.media_types import kind_of
from proxy.providers.base import Reference, is_asset
from proxy.store.base import Admission, Admitted, Key
from proxy.stream import BrokenOff, FeedResponse, JobStream, LineStream

_LONGEST_WAIT: Final = 60
"""Seconds."""
_MOST: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Jobs:
    """The endpoints of jobs."""

    services: Services

    async def generate(self, request: Request) -> Response:
        """Admit an order and answer with its feed; the job goes on if the client leaves."""
        key = await self.services.auth.key(request)
        after = last_event_id(request)
        if "Last-Event-ID" in request.headers and "Idempotency-Key" not in request.headers:
            raise Conflict("A reconnecting POST needs the Idempotency-Key of its first try; no job was made.")
        admitted = await self._admit(request, key)
        tail = await self._tail(admitted.job.id, key)
        return self._feed(request, tail, after, _admitted_headers(admitted))

    async def jobs(self, request: Request) -> Response:
        """POST: admit an order. GET: the account's own jobs."""
        key = await self.services.auth.key(request)
        if request.method != "POST":
            return await self._list(request, key)
        admitted = await self._admit(request, key)
        return answer(self._job(admitted.job, key), 202, _admitted_headers(admitted))

    async def _list(self, request: Request, key: Key) -> Response:
        query = request.query_params
        page = await self.services.store.jobs(
            key.account,
            limit(request),
            query.get("before") or None,
            _status(query.get("status")),
            query.get("model") or None,
        )
        return answer({"jobs": [self._job(job, key) for job in page.items], "next": page.next})

    async def _admit(self, request: Request, key: Key) -> Admitted:
        self.services.check_running()
        if "dry_run" in request.query_params:
            refuse_fields([FieldError("dry_run", "this version cannot do that yet; no job was made")])
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
        )
        earlier = await self.services.store.replay(admission) if repeated is not None else None
        if earlier is not None:
            return Admitted(earlier, replayed=True)
        await self._check(key, reading.order, reading.references)
        return await self.services.store.admit(admission)

    async def _check(self, key: Key, order: Order, references: Sequence[Reference]) -> None:
        """What about an order depends on this installation and account. Raises InvalidRequest, ProviderUnavailable."""
        faults = [fault for reference in references if (fault := await self._media_fault(key, reference))]
        faults += self.services.catalogue.provider(order.model).refuse(order)
        if faults:
            refuse_fields(faults)
        await self.services.catalogue.check_available(order.model)

    async def _media_fault(self, key: Key, reference: Reference) -> FieldError | None:
        if not is_asset(reference.ref):
            try:
                await check_public(reference.ref)
            except NotPublic as error:
                return FieldError(reference.field, f"neither an asset's id nor a public https URL: {error}")
            return None
        asset = await self.services.store.asset(key.account, reference.ref)
        if asset is None:
            return FieldError(reference.field, f"there is no asset {reference.ref}")
        if kind_of(asset.type) not in reference.kinds:
            wanted = " or ".join(sorted(reference.kinds))
            return FieldError(reference.field, f"{reference.ref} is {asset.type}; this field takes {wanted}")
        return None

    # --- a job ---

    async def job(self, request: Request) -> Response:
        """GET: the job now, or with `wait` as soon as it has an event above `after` or is over. DELETE: forget it."""
        key = await self.services.auth.key(request)
        if request.method == "DELETE":
            return await self._delete(request, key)
        job = await self._found(request, key)
        seconds, beyond = number(request, "wait", 0, _LONGEST_WAIT), number(request, "after", job.event, _MOST)
        if seconds and job.event <= beyond and not job.status.final:
            await self.services.feed.reached(await self._tail(job.id, key), beyond, seconds)
            job = await self._found(request, key)
        return answer(self._job(job, key))

    async def _delete(self, request: Request, key: Key) -> Response:
        job = await self._found(request, key)
        for blob in await self.services.store.delete_job(key.account, job.id) or ():
            await self.services.blobs.delete(blob)
        return Response(status_code=204)

    async def cancel(self, request: Request) -> Response:
        """Ask for a job's end: a request, which the job's own end may overtake."""
        key = await self.services.auth.key(request)
        job = await self._found(request, key)
        if job.status.final:
            raise Conflict(f"{job.id} is over: it is {job.status}.")
        return answer(self._job(await self.services.store.request_cancel(key.account, job.id) or job, key), 202)

    async def events(self, request: Request) -> Response:
        """The feed: replay, then live, closing after the final event; 204 for who has it already."""
        try:
            self.services.check_running()
            key = await self.services.auth.key_or_link(request)
            tail = await self._tail(request.path_params["job"], key)
        except Unavailable as error:
            # EventSource gives up for good on any status but 200, and this will pass.
            return BrokenOff(error.message)
        after = last_event_id(request)
        if tail.ended and after == tail.head:
            return Response(status_code=204)
        return self._feed(request, tail, after, {})

    async def content(self, request: Request) -> Response:
        """Output n: our bytes, the provider's relayed, or a redirect to where they are now."""
        key = await self.services.auth.key_or_link(request)
        job = await self._found(request, key)
        if not job.status.final:
            raise Conflict(f"{job.id} is not over: there is no content yet.")
        n = _output_number(request.path_params.get("n", "0"))
        if n >= len(job.outputs) or job.outputs[n].failed:
            raise NotFound(f"{job.id} has no output {n}." + (f" {job.message}" if job.message else ""))
        output = job.outputs[n]
        if output.blob:
            return await media.stored(request, self.services.blobs, output.blob, f"{job.id}-{n}", output.type)
        provider = self.services.catalogue.provider(job.model)
        try:
            source = await provider.content(job.ticket or {}, output, n)
        except ReadFailed as error:
            raise UpstreamFailed(f"The provider does not say where the content is: {error.message}") from None
        if self.services.relay or source.keyed:
            return await media.relayed(
                request, self.services.fetcher, provider, source, name=f"{job.id}-{n}", media_type=output.type
            )
        return media.redirect(source.url)

    async def _found(self, request: Request, key: Key) -> Job:
        job_id = request.path_params["job"]
        job = await self.services.store.job(key.account, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id[:100]}.")
        return job

    async def _tail(self, job_id: str, key: Key) -> JobTail:
        tail = await self.services.feed.job(key.account, job_id)
        if tail is None:
            raise NotFound(f"There is no job {job_id[:100]}.")
        return tail

    def _feed(self, request: Request, tail: JobTail, after: int, headers: Mapping[str, str]) -> Response:
        kind = LineStream if wants_lines(request) else JobStream
        return FeedResponse(kind(self.services.feed, tail, after), headers)

    def _job(self, job: Job, key: Key) -> dict[str, Any]:
        outputs = [output.as_json(self.services.links.to_output(job.id, output, key.id)) for output in job.outputs]
        path = f"/api/jobs/{job.id}"
        shown = {
            "id": job.id,
            "model": job.model,
            "status": job.status,
            "event": job.event,
            "detail": job.detail,
            "progress": job.progress,
            "url": next((output["url"] for output in outputs if "url" in output), None),
            "outputs": outputs or None,
            "message": job.message,
            "code": job.code,
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


def _admitted_headers(admitted: Admitted) -> dict[str, str]:
    replayed = {"Idempotency-Replayed": "true"} if admitted.replayed else {}
    return {"Location": f"/api/jobs/{admitted.job.id}"} | replayed


def _output_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise NotFound("Outputs are numbered 0, 1, 2 ...")
    return int(text)


def _status(text: str | None) -> Status | None:
    if not text:
        return None
    if text not in set(Status):
        refuse_fields([FieldError("status", f"one of {', '.join(Status)}")])
    return Status(text)
