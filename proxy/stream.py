"""The response that a stream is: one job's feed, written to one client."""

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Final

from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from proxy import sse
from proxy.feed import Feed, Tail

log = logging.getLogger(__name__)

_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}
_JOINED: Final = 1 << 16
"""Bytes of waiting frames that are joined into one write, at the most (a longer frame goes alone)."""
_WRITE: Final = 60.0
"""Seconds that one write may wait for a client that reads nothing."""
_SPREAD: Final = (500, 5000)
"""Milliseconds, from and to, over which the clients of a server that stops come back."""
_COME_BACK: Final = 5000
"""Milliseconds after which a client that was turned away may try again."""


class FeedResponse(EventSourceResponse):
    """An `EventSourceResponse` that drives its body itself.

    The parent runs four or five tasks for each stream (body, ping, disconnect, two for shutdown), encodes for each
    client, and sends its ping on a fixed beat. Replaced are: the body (a cursor in a shared list of encoded frames),
    the ping (only after silence, never inside a frame) and the end: a stream that stops before the job's final event is
    broken off without the last chunk, so that clients see a break and come back. Kept are headers, HEAD, and the
    response's place in Starlette.
    """

    def __init__(
        self, feed: Feed, job: str, *, known: int, after: int, heartbeat: float, headers: Mapping[str, str]
    ) -> None:
        super().__init__(iter(()), headers=_HEADERS | dict(headers))
        # A server's own affair, which it says itself where it must: to HTTP/1.0, and to who asked for a close.
        del self.headers["Connection"]
        self._feed = feed
        self._job = job
        self._known = known
        self._cursor = after
        self._heartbeat = heartbeat
        self._waiter: asyncio.Future[bool] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream to one client, until the job's end, the client's, or the server's."""
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        over = asyncio.ensure_future(_disconnected(receive))
        over.add_done_callback(self._wake)
        try:
            async with asyncio.timeout(None) as patience, self._feed.watch(self._job, self._known) as tail:
                await self._serve(tail, _impatient(send, patience), over)
        except TimeoutError:
            # A close would wait for the client to read what is still to be written.
            scope.get("state", {}).get("abort", _nothing)()
            log.info("A client of %s read nothing for %d seconds; its stream is dropped.", self._job, _WRITE)
        finally:
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)

    async def _serve(self, tail: Tail, send: Send, over: "asyncio.Future[None]") -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if await self._follow(tail, send, over):
            await send(_body(b"", more=False))
        elif self._feed.stopping:
            await send(_body(b"retry: %d\n" % random.randint(*_SPREAD)))

    async def _follow(self, tail: Tail, send: Send, over: "asyncio.Future[None]") -> bool:
        """Write what comes; True when the final event has been written, False when the stream must break."""
        await send(_body(sse.RETRY))
        while not (over.done() or self._feed.stopping):
            written = await self._catch_up(tail, send)
            if tail.ended and self._cursor >= len(tail.frames):
                return True
            if not written and not await self._woken(tail):
                await send(_body(sse.HEARTBEAT))
        return False

    async def _catch_up(self, tail: Tail, send: Send) -> bool:
        waiting: list[bytes] = []
        size = 0
        for frame in tail.frames[self._cursor :]:
            if waiting and size + len(frame) > _JOINED:
                break
            waiting.append(frame)
            size += len(frame)
        if waiting:
            await send(_body(b"".join(waiting)))
            self._cursor += len(waiting)
        return bool(waiting)

    async def _woken(self, tail: Tail) -> bool:
        """Wait for more, or for an end; False after a heartbeat's time of silence."""
        self._waiter = waiter = tail.wait()
        silence = asyncio.get_running_loop().call_later(self._heartbeat, _settle, waiter, False)
        try:
            return await waiter
        finally:
            silence.cancel()
            tail.forget(waiter)

    def _wake(self, _: object) -> None:
        if self._waiter is not None:
            _settle(self._waiter, True)


def _settle(waiter: "asyncio.Future[bool]", woken: bool) -> None:
    if not waiter.done():
        waiter.set_result(woken)


def _nothing() -> None:
    """Stand in for the abort that other servers do not offer."""


def _impatient(send: Send, patience: asyncio.Timeout) -> Send:
    """A `send` with a time-out: a client that has stopped reading does not hold its stream for ever."""

    async def sending(message: Message) -> None:
        patience.reschedule(asyncio.get_running_loop().time() + _WRITE)
        await send(message)
        patience.reschedule(None)

    return sending


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class BrokenOff(Response):
    """The answer of an event endpoint to a condition that will pass: 200, why, when to come back, and a break."""

    def __init__(self, why: str) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["Content-Length"]
        self._why = " ".join(why.split())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say why, and break off without the last chunk."""
        del receive
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send(_body(b"", more=False))
        else:
            await send(_body(f": {self._why}\nretry: {_COME_BACK}\n".encode()))
