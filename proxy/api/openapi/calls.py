"""The operations of the OpenAPI document, in reading order: parameters, responses and errors of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.api.body import LinkRequest
from proxy.api.openapi import shapes
from proxy.api.openapi.parts import (
    ACCOUNT_EVENTS,
    ASSET,
    BYTES,
    EVENTS,
    LINES,
    MARKS,
    ORDER,
    Json,
    described_response,
    json,
    text,
)
from proxy.core import errors
from proxy.core.errors import PollcastError


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An operation. `responses` are by status. `security` lists alternatives; empty means no authentication."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str = ""
    parameters: Sequence[str] = ()
    body: Json | None = None
    responses: Mapping[int, Json]
    errors: Sequence[type[PollcastError]] = ()
    security: Sequence[str] = ()


TAGS: Final = {
    "orders": "Create jobs.",
    "jobs": "Read, watch and cancel jobs, and download their outputs.",
    "links": "Signed URLs that expire and need no key, for browsers.",
    "assets": "Upload the files that orders use.",
    "account": "Read the balance and the ledger of tokens.",
    "about": "Models, health and documentation. No key is needed.",
}

_KEY: Final = ("key",)
_KEY_OR_LINK: Final = ("key", "link")
_ANY: Final = (errors.BadRequest, errors.UrlTooLong, errors.HeadersTooLong, errors.Internal)
"""Errors of any request: it is malformed or too long, or the server fails."""
_KEYED: Final = (*_ANY, errors.Unauthorized, errors.RateLimited, errors.Unavailable)
"""Errors of any request with a key."""
_ORDERED: Final = (
    *_KEYED,
    errors.NotFound,
    errors.TooLarge,
    errors.InsufficientTokens,
    errors.InvalidRequest,
    errors.UnknownModel,
    errors.IdempotencyConflict,
    errors.ProviderUnavailable,
)
"""Errors of any order."""
_CONDITIONS: Final = ("Range", "If-Range", "If-None-Match", "If-Modified-Since")
_BYTES_HEADERS: Final = ("Content-Disposition", "Accept-Ranges", "ETag")
_NOT_MODIFIED: Final = described_response("Not modified: your copy is current.", None, "ETag")
_CONTENT: Final = {
    200: described_response("The content.", BYTES, *_BYTES_HEADERS),
    206: described_response("The requested range.", BYTES, *_BYTES_HEADERS, "Content-Range"),
    304: _NOT_MODIFIED,
}
_REDIRECT: Final = described_response("A redirect to the provider's current public URL.", None, "Location")
_OUTPUT: Final = _CONTENT | {302: _REDIRECT}
_OUTPUT_DESCRIPTION: Final = "Returns 409 while the job is running, and 404 if the job or this output failed."
_OUTPUT_ERRORS: Final = (
    *_KEYED,
    errors.NotFound,
    errors.Conflict,
    errors.RangeNotSatisfiable,
    errors.UpstreamFailed,
    errors.UpstreamUnreachable,
)

_ORDERS: Final = (
    Call(
        method="post",
        path="/api/generate",
        name="generate",
        tag="orders",
        summary="Create a job and stream its events",
        description="The job continues if you disconnect. To reconnect, send the same request with the same "
        "`Idempotency-Key` and a `Last-Event-ID`: the stream continues after that event. With `Last-Event-ID` but "
        "without `Idempotency-Key`, the response is 409 and no job is created.",
        parameters=("Idempotency-Key", "Last-Event-ID"),
        body=ORDER,
        responses={
            200: described_response(
                "The stream of the job, from its first event.", EVENTS | LINES, "Location", "Idempotency-Replayed"
            )
        },
        errors=(*_ORDERED, errors.Conflict),
        security=_KEY,
    ),
    Call(
        method="post",
        path="/api/jobs",
        name="createJob",
        tag="orders",
        summary="Create a job",
        description="`links.events` in the response is a Link that a browser can open with `new EventSource(...)`.",
        parameters=("Idempotency-Key", "dry_run"),
        body=ORDER,
        responses={
            200: described_response("With `dry_run`: the provider's request and the price.", json(shapes.DryRun)),
            202: described_response("The job.", json(shapes.Job), "Location", "Idempotency-Replayed"),
        },
        errors=_ORDERED,
        security=_KEY,
    ),
)

_JOBS: Final = (
    Call(
        method="get",
        path="/api/jobs",
        name="listJobs",
        tag="jobs",
        summary="List the jobs of your account, newest first",
        parameters=("status", "model", "limit", "before"),
        responses={200: described_response("A page of jobs.", json(shapes.JobList))},
        errors=(*_KEYED, errors.InvalidRequest),
        security=_KEY,
    ),
    Call(
        method="get",
        path="/api/jobs/{job}",
        name="getJob",
        tag="jobs",
        summary="Retrieve a job, or wait for it to change",
        description="With `wait`, the response is sent as soon as the job's `event` is greater than `after` or the job "
        "has ended (long polling). Use it in clients that cannot read a stream.",
        parameters=("job", "after", "wait"),
        responses={200: described_response("The job.", json(shapes.Job))},
        errors=(*_KEYED, errors.NotFound, errors.InvalidRequest),
        security=_KEY,
    ),
    Call(
        method="delete",
        path="/api/jobs/{job}",
        name="deleteJob",
        tag="jobs",
        summary="Delete a finished job with its events and outputs",
        parameters=("job",),
        responses={204: described_response("The job was deleted.")},
        errors=(*_KEYED, errors.NotFound, errors.Conflict),
        security=_KEY,
    ),
    Call(
        method="post",
        path="/api/jobs/{job}/cancel",
        name="cancelJob",
        tag="jobs",
        summary="Cancel a job",
        description="The job may still complete or fail before it is canceled. Tokens are refunded only if the order "
        "was not sent to the provider.",
        parameters=("job",),
        responses={
            202: described_response("Cancellation was requested. You can repeat the request.", json(shapes.Job))
        },
        errors=(*_KEYED, errors.NotFound, errors.Conflict),
        security=_KEY,
    ),
    Call(
        method="get",
        path="/api/jobs/{job}/events",
        name="watchJob",
        tag="jobs",
        summary="Stream the events of a job",
        parameters=("job", "Last-Event-ID", "lastEventId"),
        responses={
            200: described_response(
                "Past events, then live events, up to the final one. A temporary error is a comment with the reason, a "
                "`retry` line and a closed stream, because EventSource does not reconnect after other statuses.",
                EVENTS | LINES,
            ),
            204: described_response("You already have the final event. EventSource does not reconnect after 204."),
        },
        errors=(*_ANY, errors.Unauthorized, errors.NotFound),
        security=_KEY_OR_LINK,
    ),
    Call(
        method="get",
        path="/api/events",
        name="watchAccount",
        tag="jobs",
        summary="Stream the events of all jobs of your account",
        parameters=("jobs", "Last-Event-ID", "lastEventId"),
        responses={
            200: described_response(
                "A stream without an end. Without `Last-Event-ID` it begins with the newest event of every unfinished "
                "job (with `jobs`: of every job listed there). Then an event named `ready` follows, whose id is the "
                "current position. If your `Last-Event-ID` is unknown or no longer stored, an event named `reset` "
                "comes before all of these. Text deltas are not included.",
                ACCOUNT_EVENTS,
            )
        },
        errors=(*_ANY, errors.Unauthorized),
        security=_KEY_OR_LINK,
    ),
    Call(
        method="get",
        path="/api/jobs/{job}/content",
        name="getContent",
        tag="jobs",
        summary="Download the first output of a job",
        description=_OUTPUT_DESCRIPTION,
        parameters=("job", *_CONDITIONS),
        responses=_OUTPUT,
        errors=_OUTPUT_ERRORS,
        security=_KEY_OR_LINK,
    ),
    Call(
        method="get",
        path="/api/jobs/{job}/content/{n}",
        name="getOutput",
        tag="jobs",
        summary="Download an output of a job",
        description=_OUTPUT_DESCRIPTION,
        parameters=("job", "n", *_CONDITIONS),
        responses=_OUTPUT,
        errors=_OUTPUT_ERRORS,
        security=_KEY_OR_LINK,
    ),
)

_LINKS: Final = (
    Call(
        method="post",
        path="/api/links",
        name="createLink",
        tag="links",
        summary="Create a Link",
        description="A Link lets your backend give a browser access to one stream or file without your key. It is "
        "valid for GET and HEAD, until it expires or the key that created it is revoked.",
        body={"required": True, "content": json(LinkRequest)},
        responses={201: described_response("The Link.", json(shapes.Link))},
        errors=(*_KEYED, errors.NotFound, errors.TooLarge, errors.InvalidRequest),
        security=_KEY,
    ),
)

_ASSETS: Final = (
    Call(
        method="post",
        path="/api/assets",
        name="createAsset",
        tag="assets",
        summary="Upload a file",
        body=ASSET,
        responses={201: described_response("The asset.", json(shapes.Asset))},
        errors=(*_KEYED, errors.TooLarge, errors.UnsupportedType, errors.InvalidRequest),
        security=_KEY,
    ),
    Call(
        method="get",
        path="/api/assets/{asset}",
        name="getAsset",
        tag="assets",
        summary="Retrieve an asset",
        parameters=("asset",),
        responses={200: described_response("The asset.", json(shapes.Asset))},
        errors=(*_KEYED, errors.NotFound),
        security=_KEY,
    ),
    Call(
        method="delete",
        path="/api/assets/{asset}",
        name="deleteAsset",
        tag="assets",
        summary="Delete an asset",
        parameters=("asset",),
        responses={204: described_response("The asset was deleted.")},
        errors=(*_KEYED, errors.NotFound, errors.Conflict),
        security=_KEY,
    ),
    Call(
        method="get",
        path="/api/assets/{asset}/content",
        name="getAssetContent",
        tag="assets",
        summary="Download an asset",
        parameters=("asset", "Range", "If-Range", "If-None-Match"),
        responses=_CONTENT,
        errors=(*_KEYED, errors.NotFound, errors.RangeNotSatisfiable),
        security=_KEY_OR_LINK,
    ),
)

_ACCOUNT: Final = (
    Call(
        method="get",
        path="/api/account",
        name="getAccount",
        tag="account",
        summary="Retrieve the name and balance of your account",
        responses={200: described_response("The account.", json(shapes.Account))},
        errors=(*_KEYED, errors.NotFound),
        security=_KEY,
    ),
    Call(
        method="get",
        path="/api/account/ledger",
        name="getLedger",
        tag="account",
        summary="List the charges, refunds and grants of tokens, newest first",
        parameters=("limit", "before"),
        responses={200: described_response("A page of entries.", json(shapes.Ledger))},
        errors=(*_KEYED, errors.InvalidRequest),
        security=_KEY,
    ),
)


def _open(path: str, name: str, summary: str, content: Json, *kinds: type[PollcastError]) -> Call:
    """Return an operation that needs no authentication."""
    return Call(
        method="get",
        path=path,
        name=name,
        tag="about",
        summary=summary,
        responses={200: described_response(f"{summary}.", content)},
        errors=(*_ANY, *kinds),
    )


def _file(path: str, name: str, summary: str, media_type: str, *kinds: type[PollcastError]) -> Call:
    """Return the operation that delivers a file of the playground."""
    return Call(
        method="get",
        path=path,
        name=name,
        tag="about",
        summary=summary,
        parameters=("If-None-Match",),
        responses={200: described_response(f"{summary}.", text(media_type), "ETag"), 304: _NOT_MODIFIED},
        errors=(*_ANY, *kinds),
    )


_ABOUT: Final = (
    Call(
        method="get",
        path="/api/ping",
        name="ping",
        tag="about",
        summary="Test the connection: `pong`, or a stream of timed marks",
        description="The arrival times of the marks show whether proxies buffer or cut streams. `server.py doctor` "
        "evaluates them.",
        parameters=("marks", "gap", "silence"),
        responses={
            200: described_response("The text `pong`; with `marks`, a stream with that many marks.", text() | MARKS)
        },
        errors=(*_ANY, errors.InvalidRequest, errors.Unavailable),
    ),
    Call(
        method="get",
        path="/api/models",
        name="listModels",
        tag="about",
        summary="List the models",
        responses={200: described_response("The models with their prices, fields and styles.", json(shapes.Catalogue))},
        errors=_ANY,
    ),
    _open("/healthz", "healthz", "Liveness check", json(shapes.Health)),
    _open("/readyz", "readyz", "Readiness check", json(shapes.Health), errors.Unavailable),
    Call(
        method="get",
        path="/metrics",
        name="metrics",
        tag="about",
        summary="Metrics in Prometheus' text format",
        description="`POLLCAST_METRICS` controls who can read them. The default is this machine only.",
        responses={200: described_response("The metrics.", text())},
        errors=(*_ANY, errors.Unauthorized, errors.NotFound),
    ),
    _open("/openapi.json", "openapi", "This document", {"application/json": {"schema": {"type": "object"}}}),
    _open("/docs", "docs", "This document as a web page", text("text/html")),
    _file("/", "playground", "The playground, if it is enabled", "text/html", errors.NotFound),
    _file("/pollcast.js", "client", "The JavaScript client", "text/javascript"),
    _file("/pollcast.d.ts", "clientTypes", "The TypeScript types of the JavaScript client", "application/typescript"),
)

CALLS: Final = (*_ORDERS, *_JOBS, *_LINKS, *_ASSETS, *_ACCOUNT, *_ABOUT)
"""All operations."""
