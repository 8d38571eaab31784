"""ASGI responses of the event endpoints, and the middleware that serves their bodies."""

from collections.abc import Mapping
from functools import cache
from typing import Final

from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.core import sse
from proxy.streams.stream import LineStream, Stream
from proxy.upstream.answers import printable

_COME_BACK: Final = 5000
"""Milliseconds after which a client that was turned away may try again."""


class FeedResponse(EventSourceResponse):
    """An `EventSourceResponse` that drives its body itself.

    The parent runs four or five tasks for each stream (body, ping, disconnect, two for shutdown), encodes for each
    client, and sends its ping on a fixed beat: 45 KiB and 35 to 70 microseconds of CPU for each event. Replaced are:
    the body (frames that were encoded once, pushed to the connection without waking a task), the ping (one timer for
    all streams, after silence only, never inside a frame) and the end: a stream that stops before its final event is
    broken off without the last chunk, so that clients see a break and come back. Kept are headers, HEAD, and the
    response's place in Starlette.
    """

    def __init__(self, stream: Stream, headers: Mapping[str, str] | None = None) -> None:
        # What the parent works out is the same for every stream: 15 microseconds of each one's opening.
        vars(self).update(vars(_pattern("text/plain" if isinstance(stream, LineStream) else "text/event-stream")))
        own = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self.raw_headers = [*self.raw_headers, *own]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin the stream; its body is written by whoever unwinds (see `StreamOutsideMiddleware`), or here."""
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        self._stream.connect(scope)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        unwinding: list[Stream] | None = scope.get("state", {}).get("unwinding")
        if unwinding is None:
            await self._stream.serve(receive, send)
        else:
            unwinding.append(self._stream)


@cache
def _pattern(media_type: str) -> EventSourceResponse:
    charset = "; charset=utf-8" if media_type == "text/plain" else ""
    response = EventSourceResponse(iter(()), headers=sse.HEADERS | {"Content-Type": media_type + charset})
    # A server's own affair, which it says itself where it must: to HTTP/1.0, and to who asked for a close.
    del response.headers["Connection"]
    return response


class StreamOutsideMiddleware:
    """The outermost application: a stream's body is written once the frames of all inner ones are off the stack.

    A waiting stream would hold a dozen of them, and what they refer to: a third of its memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unwinding: list[Stream] = []
        scope.setdefault("state", {})["unwinding"] = unwinding
        await self._app(scope, receive, send)
        if unwinding:
            visit = scope["state"].get("visit")
            _shrink(scope)
            try:
                await unwinding.pop().serve(receive, send)
            finally:
                if visit is not None:
                    visit.ended(scope["path"])


def _shrink(scope: Scope) -> None:
    """Let go of the request: the server needs its method from now on, and a log its path. A tenth of the memory."""
    kept = {name: scope[name] for name in ("type", "method", "path")}
    scope["headers"].clear()
    scope.clear()
    scope.update(kept)


class RetryLater(Response):
    """The answer of an event endpoint to a condition that will pass: 200, why, when to come back, and a break."""

    def __init__(self, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={**sse.HEADERS, **(headers or {})})
        del self.headers["Content-Length"]
        self._why = " ".join(printable(why).split())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say why, and break off without the last chunk."""
        del receive
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send(_body(b"", more=False))
        else:
            await send(_body(f": {self._why}\nretry: {_COME_BACK}\n".encode()))


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
