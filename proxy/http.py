"""uvicorn's HTTP/1.1 protocol, with manners of ours.

Its own would lose the body of a request that offers `Upgrade: h2c`, answer what is no HTTP in plain text, and leave no
way to get rid of a connection whose client has stopped reading, nor to write to one without a coroutine for each write.
And it would keep a request's head however long it grows, and wait for it however long it takes.

Requests of HTTP/1.0 are answered in chunks, as uvicorn does and RFC 9112, section 6.1, forbids: who still sends them is
nginx by its defaults, which reads chunks, passes each on at once for their sake, and tells by them a stream that broke.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.errors import BadRequest, HeadersTooLong, RequestError, UrlTooLong

_HEAD_END: Final = b"\r\n\r\n"
_OFFER: Final = re.compile(rb"\r\nupgrade:(?=[ \t]*h2c)", re.IGNORECASE)


_LONGEST_URL: Final = 16 << 10
"""Bytes of a path and query: twice what the longest Link needs."""
_LONGEST_HEAD: Final = 64 << 10
"""Bytes of all headers together."""
_PATIENCE: Final = 30.0
"""Seconds that a head may take to come, from the opening of the connection or from its own first byte."""


class Http(HttpToolsProtocol):
    """One connection."""

    # In slots: Python shares the keys of at most 30 attributes between objects, and uvicorn has 28. More of them
    # in the dictionary would give each connection a whole one of its own, of 1.3 KiB.
    __slots__ = ("_answering", "_head", "_held", "_in_head", "_late", "_pending", "_refusal")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._answering: RequestResponseCycle | None = None
        self._in_head = False
        self._head = 0
        self._pending = 0
        self._refusal: RequestError | None = None
        self._held: _Held | None = None
        self._late: asyncio.TimerHandle | None = self.loop.call_later(_PATIENCE, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell whoever answers: uvicorn tells the last request alone, which may still be in line."""
        super().connection_lost(exc)
        self._in_time()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; an offer of h2c is ignored, as RFC 9110, section 7.8 allows.

        Java's HttpClient makes it on every plain http request; httptools skips the body behind an offer, so it is
        renamed before it is parsed. Only the head of a request is looked at, where one begins.
        """
        if self.cycle is None or self.cycle.response_complete:
            head, end, rest = data.partition(_HEAD_END)
            data = _OFFER.sub(b"\r\nx-upgrade:", head) + end + rest
        began_before = self._in_head
        super().data_received(data)
        if self._in_head:
            self._wait_for_more(len(data) if began_before else 0)

    def _wait_for_more(self, size: int) -> None:
        """The head is not complete: bound what the parser keeps of it unseen (one field may have no end), and its time.

        What came with its first byte is not counted: some of that may have been the body before it.
        """
        self._pending += size
        if self._pending > _LONGEST_HEAD:
            self._refusal = _headers_too_long()
            self.send_400_response("")
        elif self._late is None:
            self._late = self.loop.call_later(_PATIENCE, self._give_up)

    def _give_up(self) -> None:
        self.transport.close()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, or is not read further, in the one form that errors have."""
        error = self._refusal or BadRequest(msg)
        body = orjson.dumps({"status": "Error", "message": error.message, "code": error.code})
        line = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"
        # No application has seen the request, and which origins it lets read; these few words any may.
        own = "content-type: application/json\r\naccess-control-allow-origin: *"
        head = f"{line}\r\n{own}\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request; its scope carries this connection, for streams."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._in_head, self._head, self._pending = True, 0, 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        super().on_url(url)
        if len(self.url) > _LONGEST_URL:
            self._refusal = UrlTooLong(f"The URL is longer than {_LONGEST_URL} bytes.")
            raise self._refusal

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value.rstrip(b" \t"))  # which is not of the value (RFC 9110, section 5.5)
        self._head += len(name) + len(value)
        if self._head > _LONGEST_HEAD:
            self._refusal = _headers_too_long()
            raise self._refusal

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head = False
        self._in_time()
        super().on_headers_complete()

    def push(self, chunk: bytes, /) -> bool:
        """Write a chunk of the response that is under way; False while the client has enough to read, or has gone."""
        # uvloop raises on a write to a connection that was reset, before its stream's task has heard of that.
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(chunk)
        return True

    def hold(self) -> None:
        """Keep what the response under way writes until `release`, so that its head and first event are one write."""
        if not self.pipeline:  # else `cycle` is that of the last request that waits
            self._held = _Held(self.cycle)
            self.cycle.transport = self._held  # type: ignore[assignment] # it is written to, and no more

    def release(self) -> None:
        """Write what was kept, and keep no more."""
        held, self._held = self._held, None
        if held is None:
            return
        held.cycle.transport = self.transport  # not that of `cycle`: another request may have come meanwhile
        if not self.transport.is_closing():  # uvloop raises, as in `push`
            self.transport.write(b"".join(held.pieces))

    def abort(self) -> None:
        """Drop the connection with all that is still to be written."""
        self.transport.abort()


class _Held:
    """A transport that keeps what a cycle writes."""

    __slots__ = ("cycle", "pieces")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)


def _headers_too_long() -> RequestError:
    return HeadersTooLong(f"The headers are longer than {_LONGEST_HEAD} bytes together.")
