"""Messages of the simulated providers: a received request, and the three forms of an answer.

`dispatch` converts each request to a `ReceivedRequest` and records it for tests. A provider returns an `Answer`, and
`delivery` sends it, intact or with a fault.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import orjson
from aiohttp import BodyPartReader, web
from multidict import CIMultiDict, CIMultiDictProxy

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body."""

    name: str
    filename: str | None
    content_type: str
    body: bytes

    @property
    def text(self) -> str:
        """The part's bytes, decoded as UTF-8."""
        return self.body.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A received request. `body` is its parsed JSON, `parts` its multipart form."""

    operation: str
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: CIMultiDictProxy[str] = field(default_factory=lambda: CIMultiDictProxy(CIMultiDict()))
    body: object = None
    parts: tuple[Part, ...] = ()
    raw: bytes = b""

    @property
    def text(self) -> str:
        """All strings of the query and the body, one per line. Fault words and matches are searched here."""
        texts = [part.text for part in self.parts if part.filename is None]
        return "\n".join([*self.query.values(), *strings(self.body), *texts])

    def part(self, name: str) -> Part | None:
        """Return the first part of that name, or None."""
        return next((part for part in self.parts if part.name == name), None)

    def form(self) -> dict[str, str]:
        """Return the text parts by name, without files."""
        return {part.name: part.text for part in self.parts if part.filename is None}


@dataclass(frozen=True, slots=True)
class File:
    """Answer with a file of this package."""

    path: Path
    content_type: str


@dataclass(frozen=True, slots=True)
class Frames:
    """Answer with a stream of server-sent events. Each piece is a whole frame."""

    pieces: AsyncGenerator[bytes]
    content_type: str = "text/event-stream"


Answer = web.Response | File | Frames
Handler = Callable[[ReceivedRequest], Awaitable[Answer]]


class Refusal(Exception):
    """The provider answers a request with an error. Carries the response."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(f"refused with {response.status}")
        self.response = response


class Role(StrEnum):
    """Role of an operation in the life of a job."""

    OTHER = "other"
    SUBMIT = "submit"
    STREAM = "stream"
    CHECK = "check"

    @property
    def is_paid(self) -> bool:
        """True if a successful call creates a paid job."""
        return self in {Role.SUBMIT, Role.STREAM}


class Errors(Protocol):
    """Error responses in the format of one API."""

    def error(self, status: int, message: str = "") -> web.Response:
        """Return the error of an HTTP status."""

    def reject(self) -> web.Response:
        """Return the parameter error that the prompt word `[reject]` causes."""

    def no_credit(self) -> web.Response:
        """Return the error for an account without credit."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A route of a provider, with the name that faults and counters use."""

    name: str
    method: str
    path: str
    handler: Handler
    role: Role = Role.OTHER
    errors: Errors | None = None
    """Format of its errors. None: the provider's."""


def strings(value: object) -> Iterator[str]:
    """Yield all strings of a parsed JSON value, without keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


async def receive(request: web.Request, operation: str) -> ReceivedRequest:
    """Read the whole request. A body that is not valid JSON is kept in `raw` only, and the provider refuses it."""
    parts: tuple[Part, ...] = ()
    raw = b""
    if request.content_type == "multipart/form-data":
        parts = await _parts(request)
    else:
        raw = await request.read()
    body = _parse_json(raw) if request.content_type == JSON else None
    return _to_received(request, operation, body=body, parts=parts, raw=raw)


def without_body(request: web.Request, operation: str) -> ReceivedRequest:
    """Return the request without its body."""
    return _to_received(request, operation)


def _to_received(
    request: web.Request, operation: str, *, body: object = None, parts: tuple[Part, ...] = (), raw: bytes = b""
) -> ReceivedRequest:
    return ReceivedRequest(
        operation,
        request.method,
        request.path,
        params=dict(request.match_info),
        query=dict(request.query),
        headers=request.headers,
        body=body,
        parts=parts,
        raw=raw,
    )


def _parse_json(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


async def _parts(request: web.Request) -> tuple[Part, ...]:
    parts = []
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader):
                content_type = part.headers.get("Content-Type", "text/plain")
                parts.append(Part(part.name or "", part.filename, content_type, bytes(await part.read())))
    except ValueError:  # no boundary, or an incomplete form: the complete parts remain
        pass
    return tuple(parts)
