"""A provider with scripted answers, which records its requests.

It knows no provider: the tests hold the documents, in the shape of the providers' own pages.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; `pieces` are written one by one; after the last, `cut` tears the connection down, `held` keeps it."""

    pieces: tuple[bytes, ...]
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    streamed: bool = False
    cut: bool = False
    held: bool = False


def said(document: object, status: int = 200, **headers: str) -> Reply:
    """A JSON document; `Retry_After="3"` is a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply((json.dumps(document).encode(),), status, headers=named)


def page(status: int) -> Reply:
    """An answer of a gateway in front of an API."""
    return Reply((b"<html><body>Bad Gateway</body></html>",), status, "text/html")


def data(body: bytes, content_type: str) -> Reply:
    return Reply((body,), content_type=content_type)


def moved(url: str) -> Reply:
    return Reply((b"",), 302, "text/plain", {"Location": url})


def streamed(*pieces: bytes, cut: bool = False, held: bool = False) -> Reply:
    """Server-sent events, sent verbatim."""
    return Reply(pieces, content_type="text/event-stream", streamed=True, cut=cut, held=held)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body."""

    name: str
    filename: str | None
    content_type: str
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def written(self) -> str:
        return written(self.json)

    @property
    def parts(self) -> list[Part]:
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
        assert boundary is not None
        pieces = self.body.split(b"--" + boundary[1].encode())
        return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    named = dict(re.findall(r'(\w+)="([^"]*)"', lines["Content-Disposition"]))
    return Part(named["name"], named.get("filename"), lines.get("Content-Type", ""), body.removesuffix(b"\r\n"))


def written(document: object) -> str:
    """JSON as text, so that 10 is not 10.0, and an id is a number or a text."""
    return json.dumps(document, sort_keys=True)


class Literal:
    """An HTTP server that answers each (method, path) with its sequence, the last one repeated."""

    def __init__(self) -> None:
        self._script: dict[tuple[str, str], list[Reply]] = defaultdict(list)
        self.requests: list[Asked] = []
        self.origin = ""

    def on(self, method: str, path: str, *replies: Reply) -> None:
        self._script[method, path] = list(replies)

    def asked(self, method: str, path: str) -> list[Asked]:
        return [asked for asked in self.requests if (asked.method, asked.path) == (method, path)]

    def once(self, method: str, path: str) -> Asked:
        """The one request that was made there."""
        (asked,) = self.asked(method, path)
        return asked

    def clear(self) -> None:
        self._script.clear()
        self.requests.clear()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.path, dict(request.query), request.headers, await request.read())
        self.requests.append(asked)
        script = self._script.get((asked.method, asked.path), [])
        if not script:
            return web.json_response({"message": f"nothing is scripted for {asked.method} {asked.path}"}, status=404)
        reply = script[0] if len(script) == 1 else script.pop(0)
        headers = {"Content-Type": reply.content_type, **reply.headers}
        if not reply.streamed:
            return web.Response(status=reply.status, headers=headers, body=b"".join(reply.pieces))
        return await self._stream(request, reply, headers)

    async def _stream(self, request: web.Request, reply: Reply, headers: Mapping[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=headers)
        await response.prepare(request)
        for piece in reply.pieces:
            await response.write(piece)
        if reply.cut and request.transport is not None:
            request.transport.close()
        if reply.held:
            await asyncio.Event().wait()
        return response

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()


def words(events: list[dict[str, Any]]) -> list[str]:
    """The provider's own words, as the events showed them."""
    return [event["detail"] for event in events if "detail" in event]


def ended(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The final event, after a look at the rest: numbered without gaps, begun once, ended once."""
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    assert [event["status"] for event in events[:-1]] == ["Processing started", *["Processing"] * (len(events) - 2)]
    assert events[-1]["status"] in {"Completed", "Error", "Canceled"}
    return events[-1]
