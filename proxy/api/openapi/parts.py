"""Parts of the OpenAPI document that operations share: parameters, headers, bodies and responses."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from proxy.core.job import Status
from proxy.core.media_types import SERVED

Json = dict[str, Any]


def ref(schema: type[BaseModel] | str) -> Json:
    """Return a reference to a schema, by its model or its name."""
    return {"$ref": f"#/components/schemas/{schema if isinstance(schema, str) else schema.__name__}"}


def json(schema: type[BaseModel] | str) -> Json:
    """Return the content of a JSON body."""
    return {"application/json": {"schema": ref(schema)}}


def text(media_type: str = "text/plain") -> Json:
    """Return the content of a text body."""
    return {media_type: {"schema": {"type": "string"}}}


def stream(message: str, data: str = "Event") -> Json:
    """Return the content of a stream of server-sent events: text, or the result of parsing one message.

    Some clients parse a message into a message object (schemathesis), some into its data (@hey-api/openapi-ts).
    openapi-python-client cannot read the text unless the schema allows a string. OpenAPI describes
    streams only since version 3.2.
    """
    return {"text/event-stream": {"schema": {"anyOf": [{"type": "string"}, ref(message), ref(data)]}}}


def described_response(description: str, content: Json | None = None, *headers: str) -> Json:
    """Return a response with these headers and `X-Request-Id`, which all responses have."""
    shown = {name: {"$ref": f"#/components/headers/{name}"} for name in (*headers, "X-Request-Id")}
    return {"description": description, "headers": shown, **({"content": content} if content else {})}


_EXAMPLE: Final = """\
retry: 2000
data: {"status":"Processing started","job":"job_01...","model":"suno","n":1,"at":"2026-11-20T12:00:00Z"}
id: 1

: keep-alive
data: {"status":"Completed","job":"job_01...","model":"suno","n":2,"at":"2026-11-20T12:01:30Z","url":"https:..."}
id: 2

"""

# --- bodies ---

EVENTS: Final[Json] = {"text/event-stream": stream("Message")["text/event-stream"] | {"example": _EXAMPLE}}
ACCOUNT_EVENTS: Final[Json] = stream("AccountMessage")

LINES: Final[Json] = {
    "text/plain": {
        "schema": {
            "type": "string",
            "description": "With `Accept: text/plain`: one line for each event, for terminals. The first line has "
            "the job's id. The last line is the URL alone, or begins with `Error: ` or `Canceled: `.",
        }
    }
}
MARKS: Final[Json] = stream("MarkMessage", "Mark")
BYTES: Final[Json] = {media_type.split(";")[0]: {} for media_type in SERVED}
ORDER: Final[Json] = {
    "required": True,
    "description": "Read as JSON, whatever its Content-Type. Maximum size: 1 MiB.",
    "content": {
        "application/json": {
            "schema": ref("Order"),
            "example": {"model": "suno", "prompt": "An upbeat pop song about summer"},
        }
    },
}
_FILE: Final[Json] = {
    "type": "string",
    "contentMediaType": "application/octet-stream",
    # OpenAPI 3.1 no longer defines this format, but generators recognize a file by it (three tested, 2026-12).
    "format": "binary",
}
ASSET: Final[Json] = {
    # The JSON body is described in words, because @hey-api/openapi-ts 0.95 sends JSON if there are two media types.
    "description": "A file of at most `POLLCAST_ASSET_LIMIT` bytes. Alternatively, send a JSON body "
    '`{"url": "https://..."}` with `Content-Type: application/json`, and the server fetches the file from that public '
    "https URL.",
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": _FILE}},
            "encoding": {"file": {"contentType": "application/octet-stream"}},
        },
    },
}

# --- parameters ---


def _parameter(name: str, place: str, description: str, **schema: Any) -> Json:
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, "description": description, "schema": schema or {"type": "string"}, **required}


_BOOLEAN_TEXTS: Final = ["1", "true", "0", "false"]

PARAMETERS: Final[Mapping[str, Json]] = {
    parameter["name"]: parameter
    for parameter in (
        _parameter("job", "path", "Id of the job."),
        _parameter("n", "path", "Number of the output. The first is 0.", type="integer", minimum=0),
        _parameter("asset", "path", "Id of the asset."),
        _parameter(
            "Idempotency-Key",
            "header",
            "A unique value of your choice for this order, stored for at least one day. The same key and body return "
            "the same job. The same key with another body returns 422.",
            type="string",
            minLength=1,
            maxLength=255,
        ),
        _parameter(
            "Last-Event-ID", "header", "Id of the last event that you received. An unknown id restarts the stream."
        ),
        _parameter("lastEventId", "query", "The same as `Last-Event-ID`, for clients that cannot set headers."),
        _parameter("Range", "header", "One byte range, such as `bytes=0-1023`. Other values are ignored."),
        _parameter("If-Range", "header", "The range applies only if this is the current `ETag`."),
        _parameter("If-None-Match", "header", "The `ETag` of your copy. Returns 304 if it is current."),
        _parameter("If-Modified-Since", "header", "Forwarded to the provider, if the provider stores the content."),
        _parameter(
            "status", "query", "Return only jobs with this status. Empty returns all.", enum=["", *map(str, Status)]
        ),
        _parameter("model", "query", "Return only jobs of this model."),
        _parameter("limit", "query", "Maximum number of entries.", type="integer", minimum=1, maximum=200, default=50),
        _parameter("before", "query", "The `next` of the previous page."),
        _parameter("after", "query", "Number of an event. The default is the newest one.", type="integer", minimum=0),
        _parameter("wait", "query", "Maximum wait, in seconds.", type="integer", minimum=0, maximum=60, default=0),
        _parameter(
            "jobs", "query", "Ids of jobs, separated by commas. Only their events are sent; unknown ids are ignored."
        ),
        _parameter("marks", "query", "Number of timed marks to send.", type="integer", minimum=1, maximum=20),
        _parameter(
            "gap", "query", "Milliseconds between two marks.", type="integer", minimum=0, maximum=15_000, default=500
        ),
        _parameter(
            "silence", "query", "Seconds without any data before the last mark.", type="number", minimum=0, maximum=90
        ),
        _parameter(
            "dry_run", "query", "Create and charge nothing. Return the request that would be sent.", enum=_BOOLEAN_TEXTS
        ),
    )
}

HEADERS: Final[Mapping[str, str]] = {
    "Location": "URL of the job or the content.",
    "Idempotency-Replayed": "`true` if an earlier request with this `Idempotency-Key` created the job.",
    "Retry-After": "Seconds to wait before the next attempt, if known.",
    "RateLimit": "Remaining requests (`r`), and seconds until more are available (`t`). In every response to a counted "
    "request.",
    "RateLimit-Policy": "Maximum number of requests (`q`) of an account in a window of `w` seconds.",
    "WWW-Authenticate": "`Bearer`.",
    "Content-Range": "The range and the total size.",
    "Content-Disposition": "A suggested file name.",
    "Accept-Ranges": "`bytes`.",
    "ETag": "Identifies this version of the content.",
    "X-Request-Id": "Id of this request, also in the server's log.",
}
