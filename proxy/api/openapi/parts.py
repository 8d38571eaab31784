"""What the operations are described with: parameters, headers, bodies, answers."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from proxy.core.job import Status
from proxy.core.media_types import SERVED

Json = dict[str, Any]


def ref(schema: type[BaseModel] | str) -> Json:
    """A schema of the document, by its shape or its name."""
    return {"$ref": f"#/components/schemas/{schema if isinstance(schema, str) else schema.__name__}"}


def json(schema: type[BaseModel] | str) -> Json:
    """A JSON body."""
    return {"application/json": {"schema": ref(schema)}}


def text(media_type: str = "text/plain") -> Json:
    """A body of text."""
    return {media_type: {"schema": {"type": "string"}}}


def stream(message: str, data: str = "Event") -> Json:
    """A body of server-sent events: as text, or as what clients that parse it make of each message.

    Some make the message (schemathesis), some what its data holds (@hey-api/openapi-ts), and openapi-python-client
    fails to read the text where the schema is no text. OpenAPI itself has a word for streams only since 3.2.
    """
    return {"text/event-stream": {"schema": {"anyOf": [{"type": "string"}, ref(message), ref(data)]}}}


def answer(description: str, content: Json | None = None, *headers: str) -> Json:
    """A response, with the headers that it has of its own, and the one that all have."""
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
            "description": "With `Accept: text/plain`, for a terminal: one line per event. The first names the job, "
            "the last is the bare URL, or begins with `Error: ` or `Canceled: `.",
        }
    }
}
MARKS: Final[Json] = stream("MarkMessage", "Mark")
BYTES: Final[Json] = {media_type.split(";")[0]: {} for media_type in SERVED}
ORDER: Final[Json] = {
    "required": True,
    "description": "Parsed as JSON whatever its Content-Type; at most 1 MiB.",
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
    # Not of OpenAPI 3.1, where it means nothing; generators know a file by it (three, asked in December 2026).
    "format": "binary",
}
ASSET: Final[Json] = {
    # The JSON form is told in words: of two media types, @hey-api/openapi-ts 0.95 sends the JSON one.
    "description": 'A file of at most `POLLCAST_ASSET_LIMIT` bytes. A JSON body `{"url": "https://..."}` with '
    "`Content-Type: application/json` is taken instead: that public https URL is fetched.",
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


_YES_AND_NO: Final = ["1", "true", "0", "false"]

PARAMETERS: Final[Mapping[str, Json]] = {
    parameter["name"]: parameter
    for parameter in (
        _parameter("job", "path", "A job's id."),
        _parameter("n", "path", "The output's number; the first is 0.", type="integer", minimum=0),
        _parameter("asset", "path", "An asset's id."),
        _parameter(
            "Idempotency-Key",
            "header",
            "Your own name for this order, kept for a day at the least: the same key and body give the same job, "
            "another body gives 422.",
            type="string",
            minLength=1,
            maxLength=255,
        ),
        _parameter("Last-Event-ID", "header", "Go on after this id. What is no id of ours is answered from the start."),
        _parameter("lastEventId", "query", "`Last-Event-ID`, for who cannot set headers."),
        _parameter("Range", "header", "One byte range, such as `bytes=0-1023`; what cannot be read is ignored."),
        _parameter("If-Range", "header", "The range only if this is still the `ETag`."),
        _parameter("If-None-Match", "header", "The `ETag` that you have: 304 if it is still right."),
        _parameter("If-Modified-Since", "header", "Passed on to the provider, where the bytes are its own."),
        _parameter("status", "query", "Only jobs that are this now; empty: all.", enum=["", *map(str, Status)]),
        _parameter("model", "query", "Only jobs of this model."),
        _parameter("limit", "query", "How many, at most.", type="integer", minimum=1, maximum=200, default=50),
        _parameter("before", "query", "The `next` of the page before."),
        _parameter("after", "query", "An event's number; the newest when absent.", type="integer", minimum=0),
        _parameter("wait", "query", "Seconds, at most.", type="integer", minimum=0, maximum=60, default=0),
        _parameter("jobs", "query", "Only these jobs: ids, with commas between. Unknown ones are skipped."),
        _parameter("marks", "query", "How many timed marks to send.", type="integer", minimum=1, maximum=20),
        _parameter("gap", "query", "Milliseconds between two.", type="integer", minimum=0, maximum=15_000, default=500),
        _parameter(
            "silence", "query", "Seconds before the last, without a byte.", type="number", minimum=0, maximum=90
        ),
        _parameter("dry_run", "query", "Make and charge nothing; say what would be sent.", enum=_YES_AND_NO),
    )
}

HEADERS: Final[Mapping[str, str]] = {
    "Location": "Where the job, or the content, is.",
    "Idempotency-Replayed": "`true` where an earlier request with this key has made the job.",
    "Retry-After": "Seconds after which to try again, where that is known.",
    "RateLimit": "How many requests are left (`r`), and in how many seconds there are more (`t`); on every answer to a "
    "request that is counted.",
    "RateLimit-Policy": "How many requests (`q`) an account has in how many seconds (`w`).",
    "WWW-Authenticate": "`Bearer`.",
    "Content-Range": "Which bytes, of how many.",
    "Content-Disposition": "A file name.",
    "Accept-Ranges": "`bytes`.",
    "ETag": "Changes with the bytes.",
    "X-Request-Id": "Names this request in the server's log.",
}
