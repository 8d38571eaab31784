"""The OpenAPI 3.1 document of the HTTP API.

Orders are described by the models that validate them, errors by the error tree, responses by `shapes`. Tests compare
the routes with the document in both directions, and run thousands of generated requests against it.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from proxy.api.openapi.calls import CALLS, TAGS, Call
from proxy.api.openapi.parts import HEADERS, PARAMETERS, Json, described_response, ref
from proxy.api.openapi.schemas import schemas
from proxy.api.openapi.shapes import Error
from proxy.core.errors import PollcastError, RateLimited
from proxy.providers.registry import Registry

MAX_DOCUMENTS: Final = 8
"""Number of documents that are cached. A running server needs one."""
_VERSION: Final = "1"
"""Version of the API. Changes only add to it."""

_ABOUT: Final = """\
Submit an order and read one stream of server-sent events, for every model of every provider.

Authenticate with `Authorization: Bearer <key>`. Where a Link is accepted, its URL is enough: it carries `key`,
`expires` and `signature`. Every GET endpoint also answers HEAD. All errors, for every path and method, have the form
`{"status": "Error", "message": ..., "code": ...}`. Times are RFC 3339 in UTC. You can send an `X-Request-Id` (1 to 128
letters, digits and `_.:/+=@-`); otherwise the server generates one. It is returned in the response and logged.

A stream begins with `retry: 2000`. Each frame has one `data` line (an Event) and one `id` line (its number). During
silence, the comment `: keep-alive` is sent every few seconds. A finished stream ends cleanly; any other end is a lost
connection. Reconnect with the last id that you received in `Last-Event-ID`, and no event is missed."""

_SECURITY: Final[Json] = {
    "key": {"type": "http", "scheme": "bearer", "description": "The key of an account."},
    "link": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "A Link: use the URL unchanged, with its `key`, `expires` and `signature`.",
    },
}
_ERROR_HEADERS: Final[Mapping[int, Sequence[str]]] = {
    401: ("WWW-Authenticate",),
    416: ("Content-Range",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
"""Headers of error responses, by status."""
_UNMETERED: Final = frozenset({401, 414, 431, 500})
"""Statuses of responses without `RateLimit` headers, because the request was refused before it was counted."""


@lru_cache(maxsize=MAX_DOCUMENTS)
def document(server: str, registry: Registry) -> Json:
    """Return the document of an installation with the base URL `server` and the providers of `registry`.

    It is cached, so callers must not change it.
    """
    paths: dict[str, Json] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pollcast", "version": _VERSION, "description": _ABOUT},
        "servers": [{"url": server}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas(registry.offered.values()),
            "parameters": dict(PARAMETERS),
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()},
            "securitySchemes": _SECURITY,
        },
    }


def _operation(call: Call) -> Json:
    responses = {**call.responses, **_error_responses(call.errors)}
    if RateLimited in call.errors:
        responses = {
            status: response if status in _UNMETERED else _add_limit_headers(response)
            for status, response in responses.items()
        }
    operation: Json = {
        "operationId": call.name,
        "tags": [call.tag],
        "summary": call.summary,
        "description": call.description,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in call.parameters],
        "requestBody": call.body,
        "responses": {str(status): responses[status] for status in sorted(responses)},
        "security": [{scheme: []} for scheme in call.security],
    }
    return {name: value for name, value in operation.items() if value or name == "security"}


def _add_limit_headers(response: Json) -> Json:
    """Return the response with the headers of a metered request."""
    names = ("RateLimit", "RateLimit-Policy")
    return response | {
        "headers": response["headers"] | {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    }


def _error_responses(kinds: Iterable[type[PollcastError]]) -> dict[int, Json]:
    """Return the responses for these errors, one for each status."""
    by_status: dict[int, list[type[PollcastError]]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    return {status: _error_response(status, same) for status, same in by_status.items()}


def _error_response(status: int, kinds: Sequence[type[PollcastError]]) -> Json:
    description = " ".join(f"`{kind.code}`: {(kind.__doc__ or '').splitlines()[0]}" for kind in kinds)
    code: dict[str, Any] = {"properties": {"code": {"enum": [kind.code for kind in kinds]}}}
    content = {"application/json": {"schema": {"allOf": [ref(Error), code]}}}
    return described_response(description, content, *_ERROR_HEADERS.get(status, ()))
