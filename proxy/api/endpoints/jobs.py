"""Endpoints of orders and jobs: order, list, watch, cancel, delete."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api import dry_run
from proxy.api.admission import Admissions
from proxy.api.auth import Auth
from proxy.api.dry_run import DryRuns
from proxy.api.job_view import JobView
from proxy.api.limits import AccountLimits
from proxy.api.negotiation import wants_lines
from proxy.api.request import (
    json_response,
    last_event_id,
    last_event_id_text,
    page_size,
    query_number,
    refuse_fields,
)
from proxy.api.services import check_running, find_job
from proxy.core.errors import Conflict, FieldError, RateLimited, Unavailable
from proxy.core.job import Event, Status
from proxy.store import contract
from proxy.store.blobs import Blobs
from proxy.store.types import Admitted, Key, no_job
from proxy.streams.feed import Feed, JobTail
from proxy.streams.responses import FeedResponse, RetryLater
from proxy.streams.stream import JobStream, LineStream

_MAX_WAIT: Final = 60
"""Maximum time that a request for a job waits for its next event, in seconds."""
_MAX_EVENT_NUMBER: Final = 1 << 53
"""Largest event number that a query may hold: JavaScript's numbers are exact up to here."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The endpoints that take orders."""

    admissions: Admissions
    dry_runs: DryRuns
    feed: Feed
    limits: AccountLimits
    view: JobView

    async def generate(self, request: Request, key: Key, refusal: RateLimited | None) -> Response:
        """Admit an order and respond with its stream. The job continues if the client disconnects."""
        dry_run.refuse(request)
        after = last_event_id(request)
        if last_event_id_text(request) and "Idempotency-Key" not in request.headers:
            message = "To reconnect with POST, send the Idempotency-Key of the first request. No job was created."
            raise Conflict(message)
        with self.limits.reserve_stream(key.account) as no_stream:
            check_running(self.feed)
            admitted = await self.admissions.admit(request, key, refusal or no_stream)
            tail = await _find_tail(self.feed, key, admitted.job.id, admitted.event)
        headers = self._headers(request, admitted)
        if no_stream is not None:
            # The job was paid for earlier, so the client is asked to retry, as by the GET endpoints.
            return RetryLater(no_stream.message, headers)
        return _stream(self.feed, request, key, tail, after=after, headers=headers)

    async def create(self, request: Request, key: Key, refusal: RateLimited | None) -> Response:
        """Admit an order and return its job, or perform a dry run."""
        if dry_run.is_requested(request):
            return json_response(await self.dry_runs.show(request, key))
        check_running(self.feed)
        admitted = await self.admissions.admit(request, key, refusal)
        return json_response(await self.view.as_json(admitted.job, key), 202, self._headers(request, admitted))

    def _headers(self, request: Request, admitted: Admitted) -> dict[str, str]:
        replayed = {"Idempotency-Replayed": "true"} if admitted.replayed else {}
        return {"Location": self.view.location(admitted.job, request.scope.get("root_path", ""))} | replayed


@dataclass(frozen=True, slots=True)
class JobEndpoints:
    """The endpoints that list, cancel and delete jobs."""

    store: contract.Jobs
    blobs: Blobs
    feed: Feed
    view: JobView

    async def list(self, request: Request, key: Key) -> Response:
        """Return a page of the account's jobs, newest first."""
        query = request.query_params
        before, model = query.get("before") or None, query.get("model") or None
        page = await self.store.jobs(key.account, page_size(request), before, _status(query.get("status")), model)
        return json_response({"jobs": [await self.view.as_json(job, key) for job in page.items], "next": page.next})

    async def delete(self, request: Request, key: Key) -> Response:
        """Delete a finished job with its events and outputs."""
        job = await find_job(self.store, key.account, request.path_params["job"])
        blobs = await self.store.delete_job(key.account, job.id)
        self.feed.forget(key.account, job.id)
        for blob in blobs or ():
            await self.blobs.delete(blob)
        return Response(status_code=204)

    async def cancel(self, request: Request, key: Key) -> Response:
        """Request that a job is canceled. The job may still end in another way first."""
        job = await find_job(self.store, key.account, request.path_params["job"])
        if job.status.final:
            raise Conflict(f"{job.id} has already ended: its status is {job.status}.")
        job = await self.store.request_cancel(key.account, job.id) or job
        return json_response(await self.view.as_json(job, key), 202)


@dataclass(frozen=True, slots=True)
class WatchedJobs:
    """The endpoints that show one job, now and as it changes."""

    auth: Auth
    store: contract.Jobs
    feed: Feed
    limits: AccountLimits
    view: JobView

    async def job(self, request: Request, key: Key) -> Response:
        """Return a job; with `wait`, as soon as it has an event above `after` or has ended (long polling)."""
        job = await find_job(self.store, key.account, request.path_params["job"])
        seconds = query_number(request, "wait", 0, maximum=_MAX_WAIT)
        after = query_number(request, "after", job.event, maximum=_MAX_EVENT_NUMBER)
        if seconds and job.event <= after and not job.status.final:
            tail = await _find_tail(self.feed, key, job.id)
            self.limits.check_stream(key.account)
            await self.feed.wait_for_event(tail, after, seconds, key.id)
            key = await self.auth.key(request)  # it may have been revoked during the wait
            job = await find_job(self.store, key.account, job.id)
        return json_response(await self.view.as_json(job, key))

    async def events(self, request: Request) -> Response:
        """Stream a job's events: replay, then live, to the final event. 204 if the client has that one already."""
        try:
            check_running(self.feed)
            key = await self.auth.key_or_link(request)
            tail = await _find_tail(self.feed, key, request.path_params["job"])
            after = last_event_id(request)
            if tail.ended and after == tail.head:
                return Response(status_code=204)
            self.limits.check_stream(key.account)
        except (Unavailable, RateLimited) as error:
            # EventSource does not reconnect after any status but 200, and these errors are temporary.
            return RetryLater(error.message)
        return _stream(self.feed, request, key, tail, after=after)


async def _find_tail(feed: Feed, key: Key, job_id: str, first: Event | None = None) -> JobTail:
    tail = await feed.job(key.account, job_id, first)
    if tail is None:
        raise no_job(job_id)
    return tail


def _stream(
    feed: Feed, request: Request, key: Key, tail: JobTail, *, after: int, headers: Mapping[str, str] | None = None
) -> FeedResponse:
    kind = LineStream if wants_lines(request) else JobStream
    return FeedResponse(kind(feed, tail, after, key.id), headers or {})


def _status(text: str | None) -> Status | None:
    if not text:
        return None
    if text not in set(Status):
        refuse_fields([FieldError("status", f"must be one of {', '.join(Status)}")])
    return Status(text)
