"""The operations, in the order in which a reader wants them: what each takes, answers and may refuse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.api.body import LinkRequest
from proxy.api.openapi import shapes
from proxy.api.openapi.parts import ACCOUNT_EVENTS, ASSET, BYTES, EVENTS, LINES, MARKS, ORDER, Json, answer, json, text
from proxy.core import errors
from proxy.core.errors import PollcastError


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: `answers` by status, `refusals` as the errors that it may raise, `security` as any one of."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    answers: Mapping[int, Json]
    refusals: Sequence[type[PollcastError]] = ()
    parameters: Sequence[str] = ()
    body: Json | None = None
    security: Sequence[str] = ()
    description: str = ""


TAGS: Final = {
    "orders": "Ask for something to be made, and watch it happen.",
    "jobs": "What became of an order, and what it made.",
    "links": "URLs for browsers: signed, expiring, without a key.",
    "assets": "Bytes that an order's media fields name.",
    "account": "Tokens.",
    "about": "What anyone may ask.",
}

_KEY: Final = ("key",)
_KEY_OR_LINK: Final = ("key", "link")
_ANY: Final = (errors.BadRequest, errors.UrlTooLong, errors.HeadersTooLong, errors.Internal)
"""What every request may meet: it cannot be read, is too long, or we fail."""
_KEYED: Final = (*_ANY, errors.Unauthorized, errors.RateLimited, errors.Unavailable)
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
_CONDITIONS: Final = ("Range", "If-Range", "If-None-Match", "If-Modified-Since")
_BYTES_HEADERS: Final = ("Content-Disposition", "Accept-Ranges", "ETag")
_CONTENT: Final = {
    200: answer("The bytes.", BYTES, *_BYTES_HEADERS),
    206: answer("The range that was asked for.", BYTES, *_BYTES_HEADERS, "Content-Range"),
    304: answer("You have it.", None, "ETag"),
}
_OUTPUT: Final = _CONTENT | {302: answer("The provider's public URL, asked for afresh.", None, "Location")}
_OUTPUT_REFUSALS: Final = (
    *_KEYED,
    errors.NotFound,
    errors.Conflict,
    errors.RangeNotSatisfiable,
    errors.UpstreamFailed,
    errors.UpstreamUnreachable,
)

_ORDERS: Final = (
    Call(
        "post",
        "/api/generate",
        "generate",
        "orders",
        "Order, and watch",
        {
            200: answer(
                "The job's stream, from its first event.",
                EVENTS | LINES,
                "Location",
                "Idempotency-Replayed",
            )
        },
        (*_ORDERED, errors.Conflict),
        ("Idempotency-Key", "Last-Event-ID"),
        ORDER,
        _KEY,
        "The job goes on if the client leaves. With `Last-Event-ID` this is a reconnect: the stream goes on after that "
        "event where the first try's `Idempotency-Key` is there; without one it is 409, and no job is made.",
    ),
    Call(
        "post",
        "/api/jobs",
        "createJob",
        "orders",
        "Order",
        {
            200: answer("With `dry_run`: what would be sent, and the price.", json(shapes.DryRun)),
            202: answer("The job.", json(shapes.Job), "Location", "Idempotency-Replayed"),
        },
        _ORDERED,
        ("Idempotency-Key", "dry_run"),
        ORDER,
        _KEY,
        "The answer's `links.events` is a Link that a browser opens with `new EventSource(...)`.",
    ),
)

_JOBS: Final = (
    Call(
        "get",
        "/api/jobs",
        "listJobs",
        "jobs",
        "The account's jobs, newest first",
        {200: answer("A page of jobs.", json(shapes.JobList))},
        (*_KEYED, errors.InvalidRequest),
        ("status", "model", "limit", "before"),
        security=_KEY,
    ),
    Call(
        "get",
        "/api/jobs/{job}",
        "getJob",
        "jobs",
        "A job: now, or when it has changed",
        {200: answer("The job.", json(shapes.Job))},
        (*_KEYED, errors.NotFound, errors.InvalidRequest),
        ("job", "after", "wait"),
        security=_KEY,
        description="With `wait` it is answered as soon as the job's `event` is above `after` or the job is over: for "
        "clients that cannot read a stream.",
    ),
    Call(
        "delete",
        "/api/jobs/{job}",
        "deleteJob",
        "jobs",
        "Forget a finished job, its events and outputs",
        {204: answer("Gone.")},
        (*_KEYED, errors.NotFound, errors.Conflict),
        ("job",),
        security=_KEY,
    ),
    Call(
        "post",
        "/api/jobs/{job}/cancel",
        "cancelJob",
        "jobs",
        "Ask for a job's end",
        {202: answer("It is asked for, also when repeated.", json(shapes.Job))},
        (*_KEYED, errors.NotFound, errors.Conflict),
        ("job",),
        security=_KEY,
        description="If the job ends first, that end stands. Tokens come back only if nothing was sent.",
    ),
    Call(
        "get",
        "/api/jobs/{job}/events",
        "watchJob",
        "jobs",
        "A job's stream",
        {
            200: answer(
                "Replay, then live, to the final event. What will pass is told by a comment that says why, a `retry` "
                "and a break: EventSource gives up for good on any other status.",
                EVENTS | LINES,
            ),
            204: answer("You have the final event; EventSource stops here."),
        },
        (*_ANY, errors.Unauthorized, errors.NotFound),
        ("job", "Last-Event-ID", "lastEventId"),
        security=_KEY_OR_LINK,
    ),
    Call(
        "get",
        "/api/events",
        "watchAccount",
        "jobs",
        "One stream for all jobs of the account",
        {
            200: answer(
                "It never ends by itself. Without `Last-Event-ID` it begins with the newest event of every unfinished "
                "job (with `jobs`: of every named one), then comes an event named `ready`, whose id is the head. After "
                "an id that is unknown or no longer kept, an event named `reset` comes before that. Text deltas are "
                "left out.",
                ACCOUNT_EVENTS,
            )
        },
        (*_ANY, errors.Unauthorized),
        ("jobs", "Last-Event-ID", "lastEventId"),
        security=_KEY_OR_LINK,
    ),
    Call(
        "get",
        "/api/jobs/{job}/content",
        "getContent",
        "jobs",
        "The first output's bytes",
        _OUTPUT,
        _OUTPUT_REFUSALS,
        ("job", *_CONDITIONS),
        security=_KEY_OR_LINK,
        description="409 before the job's end; 404 of a failed job or item.",
    ),
    Call(
        "get",
        "/api/jobs/{job}/content/{n}",
        "getOutput",
        "jobs",
        "An output's bytes",
        _OUTPUT,
        _OUTPUT_REFUSALS,
        ("job", "n", *_CONDITIONS),
        security=_KEY_OR_LINK,
        description="409 before the job's end; 404 of a failed job or item.",
    ),
)

_LINKS: Final = (
    Call(
        "post",
        "/api/links",
        "createLink",
        "links",
        "Make a Link",
        {201: answer("The Link.", json(shapes.Link))},
        (*_KEYED, errors.NotFound, errors.TooLarge, errors.InvalidRequest),
        body={"required": True, "content": json(LinkRequest)},
        security=_KEY,
        description="For a backend that hands its browser a stream without handing it the key. It is for GET and HEAD, "
        "and dies with the key that made it.",
    ),
)

_ASSETS: Final = (
    Call(
        "post",
        "/api/assets",
        "createAsset",
        "assets",
        "Bring in a file",
        {201: answer("The asset.", json(shapes.Asset))},
        (*_KEYED, errors.TooLarge, errors.UnsupportedType, errors.InvalidRequest),
        body=ASSET,
        security=_KEY,
    ),
    Call(
        "get",
        "/api/assets/{asset}",
        "getAsset",
        "assets",
        "An asset",
        {200: answer("The asset.", json(shapes.Asset))},
        (*_KEYED, errors.NotFound),
        ("asset",),
        security=_KEY,
    ),
    Call(
        "delete",
        "/api/assets/{asset}",
        "deleteAsset",
        "assets",
        "Forget an asset",
        {204: answer("Gone.")},
        (*_KEYED, errors.NotFound, errors.Conflict),
        ("asset",),
        security=_KEY,
    ),
    Call(
        "get",
        "/api/assets/{asset}/content",
        "getAssetContent",
        "assets",
        "An asset's bytes",
        _CONTENT,
        (*_KEYED, errors.NotFound, errors.RangeNotSatisfiable),
        ("asset", "Range", "If-Range", "If-None-Match"),
        security=_KEY_OR_LINK,
    ),
)

_ACCOUNT: Final = (
    Call(
        "get",
        "/api/account",
        "getAccount",
        "account",
        "Name and balance",
        {200: answer("The account.", json(shapes.Account))},
        (*_KEYED, errors.NotFound),
        security=_KEY,
    ),
    Call(
        "get",
        "/api/account/ledger",
        "getLedger",
        "account",
        "What moved the tokens, newest first",
        {200: answer("A page of entries.", json(shapes.Ledger))},
        (*_KEYED, errors.InvalidRequest),
        ("limit", "before"),
        security=_KEY,
    ),
)


def _open(path: str, name: str, summary: str, content: Json, *refusals: type[PollcastError]) -> Call:
    """What anyone may read."""
    return Call("get", path, name, "about", summary, {200: answer(f"{summary}.", content)}, (*_ANY, *refusals))


def _file(path: str, name: str, summary: str, media_type: str, *refusals: type[PollcastError]) -> Call:
    """A file of the playground."""
    answers = {200: answer(f"{summary}.", text(media_type), "ETag"), 304: answer("You have it.", None, "ETag")}
    return Call("get", path, name, "about", summary, answers, (*_ANY, *refusals), ("If-None-Match",))


_ABOUT: Final = (
    Call(
        "get",
        "/api/ping",
        "ping",
        "about",
        "`pong`, or timed marks",
        {200: answer("The text `pong`; with `marks`, a stream of so many.", text() | MARKS)},
        (*_ANY, errors.InvalidRequest, errors.Unavailable),
        ("marks", "gap", "silence"),
        description="Marks show, by when they arrive, what proxies do to streams; `doctor` reads them.",
    ),
    _open("/api/models", "listModels", "The catalogue: prices, fields, styles", json(shapes.Catalogue)),
    _open("/healthz", "healthz", "Alive", json(shapes.Health)),
    _open("/readyz", "readyz", "Ready to take work", json(shapes.Health), errors.Unavailable),
    _open("/metrics", "metrics", "What Prometheus reads", text(), errors.Unauthorized, errors.NotFound),
    _open("/openapi.json", "openapi", "This document", {"application/json": {"schema": {"type": "object"}}}),
    _open("/docs", "docs", "This document, to be read", text("text/html")),
    _file("/", "playground", "The playground, if it is on", "text/html", errors.NotFound),
    _file("/pollcast.js", "client", "The client for browsers", "text/javascript"),
    _file("/pollcast.d.ts", "clientTypes", "The types of the client for browsers", "application/typescript"),
)

CALLS: Final = (*_ORDERS, *_JOBS, *_LINKS, *_ASSETS, *_ACCOUNT, *_ABOUT)
