"""ASGI responses of the event endpoints, and the middleware that writes their bodies."""

from collections.abc import Mapping
from functools import cache
from typing import Final

from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.core import sse
from proxy.core.text import replace_surrogates
from proxy.streams.stream import LineStream, Stream

_REFUSED_RETRY: Final = 5000
"""Reconnection time, in milliseconds, for a client whose stream was refused."""


class FeedResponse(EventSourceResponse):
    """An `EventSourceResponse` that writes its body itself.

    The parent runs four or five tasks for each stream (body, ping, disconnect, two for shutdown). It encodes each event
    for each client, and sends its ping at a fixed interval. This costs 45 KiB per stream and 35 to 70 microseconds of
    CPU per event. Three parts are replaced:

    - The body: frames are encoded once and pushed to the connection without waking a task.
    - The ping: one timer serves all streams. It writes only after silence, and never inside a frame.
    - The end: a stream that stops before its final event ends without the last chunk, so that clients reconnect.

    Headers, HEAD, and the response's place in Starlette are the parent's.
    """

    def __init__(self, stream: Stream, headers: Mapping[str, str] | None = None) -> None:
        # The parent's attributes are the same for every stream. Copying them saves 15 microseconds per stream.
        vars(self).update(vars(_template("text/plain" if isinstance(stream, LineStream) else "text/event-stream")))
        own = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self.raw_headers = [*self.raw_headers, *own]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head. `StreamOutsideMiddleware` writes the body; without it, the body is written here."""
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        self._stream.connect(scope)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        deferred: list[Stream] | None = scope.get("state", {}).get("deferred")
        if deferred is None:
            await self._stream.serve(receive, send)
        else:
            deferred.append(self._stream)


@cache
def _template(media_type: str) -> EventSourceResponse:
    charset = "; charset=utf-8" if media_type == "text/plain" else ""
    response = EventSourceResponse(iter(()), headers=sse.HEADERS | {"Content-Type": media_type + charset})
    # The server sets `Connection` itself where needed: for HTTP/1.0, and for clients that asked for a close.
    del response.headers["Connection"]
    return response


class StreamOutsideMiddleware:
    """The outermost middleware. It writes a stream's body after all inner applications have returned.

    Otherwise a waiting stream would hold a dozen of their stack frames and the objects in them: a third of its memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deferred: list[Stream] = []
        scope.setdefault("state", {})["deferred"] = deferred
        await self._app(scope, receive, send)
        if deferred:
            info = scope["state"].get("request_info")
            _shrink(scope)
            try:
                await deferred.pop().serve(receive, send)
            finally:
                if info is not None:
                    info.log_end(scope["path"])


def _shrink(scope: Scope) -> None:
    """Free the request's data, a tenth of a stream's memory. The server still needs the method, and a log the path."""
    kept = {name: scope[name] for name in ("type", "method", "path")}
    scope["headers"].clear()
    scope.clear()
    scope.update(kept)


class RetryLater(Response):
    """The refusal of an event endpoint that makes an EventSource reconnect later.

    It is a 200 with the reason as a comment, a `retry` line, and an end without the last chunk. After any other status
    an EventSource does not reconnect.
    """

    def __init__(self, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={**sse.HEADERS, **(headers or {})})
        del self.headers["Content-Length"]
        self._reason = " ".join(replace_surrogates(reason).split())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reason and the `retry` line, and end without the last chunk."""
        del receive
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send(_body(b"", more=False))
        else:
            await send(_body(f": {self._reason}\nretry: {_REFUSED_RETRY}\n".encode()))


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
