"""What goes in and out of the pretend providers: a request as it was received, and the three forms an answer has.

`gate` makes a `Received` of every request and keeps it for tests; providers read it and give an `Answer`;
`delivery` puts the answer on the wire, whole or broken.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

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
        """The part's bytes as text."""
        return self.body.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; `body` is its parsed JSON, `parts` its multipart form."""

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
        """Every string of the query and the body, a line each: where prompt words and matches are looked for."""
        texts = [part.text for part in self.parts if part.filename is None]
        return "\n".join([*self.query.values(), *strings(self.body), *texts])

    def part(self, name: str) -> Part | None:
        """The first part of that name."""
        return next((part for part in self.parts if part.name == name), None)

    def form(self) -> dict[str, str]:
        """The text parts by name; a file is not text, whatever its name."""
        return {part.name: part.text for part in self.parts if part.filename is None}


@dataclass(frozen=True, slots=True)
class File:
    """An answer that is a file of this package."""

    path: Path
    content_type: str


@dataclass(frozen=True, slots=True)
class Frames:
    """An answer that is a stream of server-sent events, each piece one whole frame."""

    pieces: AsyncGenerator[bytes]
    content_type: str = "text/event-stream"


Answer = web.Response | File | Frames
Handler = Callable[[Received], Awaitable[Answer]]


class Refused(Exception):
    """A request that the provider answers by an error; carries the answer."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(f"refused with {response.status}")
        self.response = response


class Role(StrEnum):
    """What an operation is to a job."""

    OTHER = "other"
    SUBMIT = "submit"
    STREAM = "stream"
    CHECK = "check"

    @property
    def paid(self) -> bool:
        """Whether a call that succeeds makes a job that costs something."""
        return self in {Role.SUBMIT, Role.STREAM}


@dataclass(frozen=True, slots=True)
class Operation:
    """A route of a provider, under the name that faults and counters use."""

    name: str
    method: str
    path: str
    handler: Handler
    role: Role = Role.OTHER


def strings(value: object) -> Iterator[str]:
    """Every string inside a parsed JSON value, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


async def receive(request: web.Request, operation: str) -> Received:
    """Read the whole request; a body that does not parse is kept raw, for the provider to refuse."""
    parts: tuple[Part, ...] = ()
    raw = b""
    if request.content_type == "multipart/form-data":
        parts = await _parts(request)
    else:
        raw = await request.read()
    body = _parsed(raw) if request.content_type == JSON else None
    return _received(request, operation, body=body, parts=parts, raw=raw)


def unread(request: web.Request, operation: str) -> Received:
    """The request without its body."""
    return _received(request, operation)


def _received(
    request: web.Request, operation: str, *, body: object = None, parts: tuple[Part, ...] = (), raw: bytes = b""
) -> Received:
    return Received(
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


def _parsed(raw: bytes) -> object:
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
    except ValueError:  # no boundary, or a form that breaks off: what was whole remains
        pass
    return tuple(parts)
