"""The API described: the whole contract as an OpenAPI 3.1 document.

Orders are described by the models that validate them, errors by the tree that raises them, answers by `shapes`. The
tests hold the routes against the document in both directions, and thousands of generated requests against its word.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from proxy.api.openapi.calls import CALLS, TAGS, Call
from proxy.api.openapi.parts import HEADERS, PARAMETERS, Json, answer, ref
from proxy.api.openapi.schemas import schemas
from proxy.api.openapi.shapes import Error
from proxy.core.errors import PollcastError, RateLimited

_VERSION: Final = "1"
"""Of the contract; things are only added to it."""

_ABOUT: Final = """\
Submit an order and read one stream of server-sent events, whichever provider is behind the model.

A key goes into `Authorization: Bearer <key>`. Where a Link is taken, its URL is enough: it carries `key`, `expires` and
`signature`. Every GET answers HEAD too. Every error, for every path and method, is
`{"status": "Error", "message": ..., "code": ...}`. Times are RFC 3339, in UTC. An `X-Request-Id` (1 to 128 letters,
digits and `_.:/+=@-`) is taken and told in the answer and the log; without one, one is made.

A stream begins with `retry: 2000`; then come frames of one `data` line (an Event) and one `id` line (its number), and
`: keep-alive` after some seconds of silence. Only a finished stream ends cleanly. Any other end is a break: the client
comes back with the last id that it has in `Last-Event-ID`, and misses nothing."""

_SECURITY: Final[Json] = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key of an account."},
    "link": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "A Link: the URL as it was given, with its `key`, `expires` and `signature`.",
    },
}
_REFUSAL_HEADERS: Final[Mapping[int, Sequence[str]]] = {
    401: ("WWW-Authenticate",),
    416: ("Content-Range",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_UNCOUNTED: Final = frozenset({401, 414, 431, 500})
"""Statuses that are answered before a request is counted, or when counting is beside the point."""


@cache
def document(server: str) -> Json:
    """The document of an installation whose base URL is `server`; not to be changed by who reads it."""
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
            "schemas": schemas(),
            "parameters": dict(PARAMETERS),
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()},
            "securitySchemes": _SECURITY,
        },
    }


def _operation(call: Call) -> Json:
    answers = {**call.answers, **_refusals(call.refusals)}
    if RateLimited in call.refusals:
        answers = {status: shown if status in _UNCOUNTED else _counted(shown) for status, shown in answers.items()}
    written: Json = {
        "operationId": call.name,
        "tags": [call.tag],
        "summary": call.summary,
        "description": call.description,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in call.parameters],
        "requestBody": call.body,
        "responses": {str(status): answers[status] for status in sorted(answers)},
        "security": [{scheme: []} for scheme in call.security],
    }
    return {name: value for name, value in written.items() if value or name == "security"}


def _counted(answer_: Json) -> Json:
    """The answer with the headers that those to counted requests have."""
    names = ("RateLimit", "RateLimit-Policy")
    return answer_ | {
        "headers": answer_["headers"] | {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    }


def _refusals(kinds: Iterable[type[PollcastError]]) -> dict[int, Json]:
    """The answers that these errors are, those of one status together."""
    found: dict[int, list[type[PollcastError]]] = {}
    for kind in kinds:
        found.setdefault(kind.status, []).append(kind)
    return {status: _refusal(status, of_it) for status, of_it in found.items()}


def _refusal(status: int, kinds: Sequence[type[PollcastError]]) -> Json:
    description = " ".join(f"`{kind.code}`: {(kind.__doc__ or '').splitlines()[0]}" for kind in kinds)
    code: dict[str, Any] = {"properties": {"code": {"enum": [kind.code for kind in kinds]}}}
    content = {"application/json": {"schema": {"allOf": [ref(Error), code]}}}
    return answer(description, content, *_REFUSAL_HEADERS.get(status, ()))
