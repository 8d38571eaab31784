"""Streams: a `Stream` is the feed's `Subscriber` for one client, and writes the body of its response.

A live stream needs no task: the feed pushes to its connection. Otherwise the stream's own task reads the tail, and
waits for the client where the client is slow. Servers without a `PushConnection` only have the second way.
"""

import asyncio
import logging
import math
import random
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from proxy.core import sse
from proxy.core.clock import cut_short
from proxy.core.errors import Unavailable
from proxy.core.text import escape_unprintable
from proxy.streams.feed import AccountTail, Feed, JobTail

log = logging.getLogger(__name__)

_STOP_RETRY_RANGE: Final = (500, 5000)
"""Smallest and largest reconnection time, in milliseconds, that a stopping server gives to its clients.

Each client gets a random one, so that they do not all reconnect at once.
"""
_ENDED_JOB_RETRY: Final = 60_000
"""Reconnection time, in milliseconds, after the stream of a job that had ended before the stream was opened.

Chromium loses `Last-Event-ID` where a service worker passes requests through (seen in December 2026). An EventSource
that its page does not close would then get the whole replay every two seconds. A longer time would keep Node programs
alive whose EventSource waits for a 204.
"""


class PushConnection(Protocol):
    """Direct access to a client's connection, beyond ASGI, in `scope["state"]["connection"]`.

    `serving.protocol` offers it. Other servers do not.
    """

    half_closed: bool
    """True if the client has ended its side. It may have left; only a write can tell."""

    def push(self, chunk: bytes, /) -> bool:
        """Write an HTTP chunk now. Return False if the client has enough to read already."""

    def hold(self) -> None:
        """Buffer writes until `release`, so that a stream's head and first event cost one write instead of two."""

    def release(self) -> None:
        """Write the buffered bytes."""

    def abort(self) -> None:
        """Drop the connection and all unwritten bytes, because a close would wait for the client."""


class _ClientDisconnected(Exception):
    """The client has closed its connection."""


class Stream:
    """One client's subscription to a feed: live while it accepts pushes, otherwise catching up in its own task.

    `key` is the id of the API key that authenticated it. The stream breaks off when that key is revoked.
    `heartbeat` is the silence in seconds after which it writes a heartbeat, if the feed cannot push one to it.
    """

    __slots__ = (
        "_connection",
        "_feed",
        "_heartbeat",
        "_tail",
        "_timed_out",
        "_timeout",
        "cursor",
        "cursor_unchecked",
        "jobs",
        "key",
        "last_write_tick",
        "push",
        "snapshot_rest",
    )

    def __init__(
        self, feed: Feed, tail: JobTail | AccountTail, cursor: int, key: str, heartbeat: float | None = None
    ) -> None:
        self.cursor = cursor
        # Each request reads its own copy of the id. The streams of a key share one.
        self.key = sys.intern(key)
        self.last_write_tick: float = math.inf
        self.jobs: Collection[str] | None = None
        self.snapshot_rest: Collection[str] = ()
        self.cursor_unchecked = True
        self.push: Callable[[bytes], bool] = _push_nothing
        self._feed = feed
        self._tail: Any = tail
        self._heartbeat = feed.heartbeat if heartbeat is None else heartbeat
        self._connection: PushConnection | None = None
        self._timeout: asyncio.Timeout | None = None
        self._timed_out = False  # True after a wait: if there is nothing to read then, a heartbeat is due

    def connect(self, scope: Scope) -> None:
        """Use the `PushConnection` of this request, if the server offers one. Call it before the head is sent."""
        self._connection = scope.get("state", {}).get("connection")
        if self._connection is not None:
            self.push = self._connection.push
            self.last_write_tick = self._feed.tick
            self._connection.hold()

    def wake(self) -> None:
        """Leave the live subscribers, and continue in the stream's own task."""
        if self._timeout is not None:
            cut_short(self._timeout)
            self._timeout = None

    async def serve(self, receive: Receive, send: Send) -> None:
        """Write the body, until the feed ends, the client disconnects, or the stream must break off."""
        tail = self._tail = self._feed.join(self._tail, self.key)
        try:
            await self._open(receive, send)
            if await self._follow(receive, send):
                await self._write(send, self._lines_after_end(), more=False)
            elif self._feed.stopping:
                await self._write(send, self._closing_lines())
        except _ClientDisconnected:
            pass
        except TimeoutError:
            log.info("A client read nothing for %g seconds. Its stream is dropped.", self._feed.times.write_timeout)
            if self._connection is not None:
                self._connection.abort()
        finally:
            self._feed.leave(tail, self.key)

    async def _open(self, receive: Receive, send: Send) -> None:
        try:
            await self._write(send, self._first_lines() + await self._next(receive))
        finally:
            if self._connection is not None:
                self._connection.release()

    async def _follow(self, receive: Receive, send: Send) -> bool:
        """Write events as they come. Return True at the end of the feed, False if the stream must break off."""
        tail = self._tail
        while not self._must_break_off():
            if data := await self._next(receive):
                await self._write(send, data)
            elif tail.is_finished_for(self):
                return True
            elif self._timed_out:
                await self._write(send, self._keep_alive())
            elif not self._must_break_off():  # checked again: during the read, `wake` had no effect
                tail.live.add(self)
                try:
                    await self._wait(receive, self._idle_timeout())
                finally:
                    tail.live.discard(self)
                self._timed_out = True
        return False

    async def _next(self, receive: Receive) -> bytes:
        try:
            frames: bytes = await self._tail.next_frames(self)
        except Unavailable:
            await self._wait(receive, self._feed.times.read_retry)
            return self._keep_alive()
        return self._render(frames) if frames else b""

    async def _wait(self, receive: Receive, seconds: float | None) -> None:
        """Wait until `wake`, or for `seconds` (None: without a limit). Raises _ClientDisconnected."""
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                while (await receive())["type"] != "http.disconnect":
                    if self._connection is not None and self._connection.half_closed:
                        return
        except TimeoutError:
            return
        finally:
            self._timeout = None
        raise _ClientDisconnected

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._feed.times.write_timeout):
            await send({"type": "http.response.body", "body": data, "more_body": more})
        self._timed_out = False
        self.last_write_tick = max(self.last_write_tick, self._feed.tick)

    def _idle_timeout(self) -> float | None:
        return self._heartbeat if self.push is _push_nothing else None

    def _must_break_off(self) -> bool:
        return self._feed.stopping or self.key in self._feed.revoked_keys

    def _first_lines(self) -> bytes:
        return sse.RETRY

    def _render(self, frames: bytes) -> bytes:
        return frames

    def _keep_alive(self) -> bytes:
        return sse.HEARTBEAT

    def _lines_after_end(self) -> bytes:
        """Return the bytes that follow the final event."""
        return b""

    def _closing_lines(self) -> bytes:
        """Return the last bytes of a stream that a stopping server breaks off: a random reconnection time."""
        return b"retry: %d\n" % random.randint(*_STOP_RETRY_RANGE)


def _push_nothing(_: bytes) -> bool:
    """Replace a connection's `push` on other servers: the stream then writes everything in its own task."""
    return False


class JobStream(Stream):
    """A job's events after event number `after`, as SSE."""

    __slots__ = ("_had_ended",)

    def __init__(self, feed: Feed, tail: JobTail, after: int, key: str, heartbeat: float | None = None) -> None:
        # An id above the head, for example of another stream, is answered from the first event.
        super().__init__(feed, tail, after if after <= tail.head else 0, key, heartbeat)
        self._had_ended = tail.ended

    def _lines_after_end(self) -> bytes:
        return b"retry: %d\n" % _ENDED_JOB_RETRY if self._had_ended else b""


class LineStream(JobStream):
    """A job's events as plain lines for a terminal, one per event. The first names the job, the last is the URL."""

    __slots__ = ("_last_line", "_parser")

    def __init__(self, feed: Feed, tail: JobTail, after: int, key: str) -> None:
        super().__init__(feed, tail, after, key, heartbeat=feed.times.line_repeat)
        self._parser = sse.Parser(sse.OWN_MESSAGE_LIMIT)
        self._last_line = b""

    def connect(self, scope: Scope) -> None:
        """Use no `PushConnection`: the feed pushes SSE frames, and this stream writes lines."""

    def _first_lines(self) -> bytes:
        # The first event names the job. A client that reconnects gets the name again.
        self._last_line = b"" if self.cursor == 0 else f"Job {self._tail.job}\n".encode()
        return self._last_line

    def _render(self, frames: bytes) -> bytes:
        lines = [line(orjson.loads(message.data)) for message in self._parser.feed(frames)]
        self._last_line = f"{lines[-1]}\n".encode()
        return "".join(f"{line}\n" for line in lines).encode()

    def _keep_alive(self) -> bytes:
        return self._last_line

    def _lines_after_end(self) -> bytes:
        return b""

    def _closing_lines(self) -> bytes:
        return b""


def line(event: Mapping[str, Any]) -> str:
    """Return an event as one line. Unprintable characters are escaped, so that a provider's text adds no line."""
    status = event["status"]
    match status:
        case "Processing started":
            text = f"{status}: job {event['job']} ({event['model']})"
        case "Processing":
            progress = f"{event['progress']:g} %" if "progress" in event else ""
            words = (event.get("detail"), progress, event.get("delta"))
            text = ": ".join([status, *(word for word in words if word)])
        case "Completed":
            text = event["url"]
        case _:
            text = f"{status}: {event['message']}"
    return escape_unprintable(text)


class AccountStream(Stream):
    """An account's events after a feed position, or a snapshot first if the position is below 0.

    `jobs` are the ids of the jobs that it is limited to (None: all). `ends_in` is the remaining lifetime, in seconds,
    of the Link that opened it; the stream breaks off when the Link expires.
    """

    __slots__ = ("_deadline",)

    def __init__(
        self,
        feed: Feed,
        account: str,
        key: str,
        *,
        after: int,
        jobs: Collection[str] | None,
        ends_in: float = math.inf,
    ) -> None:
        super().__init__(feed, feed.account(account), after, key)
        self.jobs = jobs
        self._deadline = asyncio.get_running_loop().time() + ends_in

    def _idle_timeout(self) -> float | None:
        left = self._deadline - asyncio.get_running_loop().time()
        length = min(left, super()._idle_timeout() or math.inf)
        return None if length == math.inf else length

    def _must_break_off(self) -> bool:
        return super()._must_break_off() or asyncio.get_running_loop().time() >= self._deadline
