"""The response that a stream is: the feed of a job or of an account, written to one client."""

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
from proxy.streams.feed import AccountTail, Feed, JobTail

log = logging.getLogger(__name__)

_WRITE: Final = 60.0
"""Seconds that one write may wait for a client that reads nothing."""
_AGAIN: Final = 1.0
"""Seconds until a read that the store could not serve is tried again."""
_REPEAT: Final = 15.0
"""Seconds of silence after which a stream of plain lines repeats its last one."""
_SPREAD: Final = (500, 5000)
"""Milliseconds, from and to, over which the clients of a server that stops come back."""
_RETRY_WHEN_OVER: Final = 60_000
"""Milliseconds after which a client may come back to a job that was over before its stream began.

Chromium loses `Last-Event-ID` where a service worker passes requests through (seen in December 2026). A source that its
page does not close would then get the whole replay every two seconds. A longer time would keep Node programs alive
whose EventSource waits to be answered 204.
"""


class PushConnection(Protocol):
    """What our HTTP protocol offers beyond ASGI, in `scope["state"]["connection"]`; other servers lack it."""

    half_closed: bool
    """Whether the client has ended its side: it may have left, which only a write finds out."""

    def push(self, chunk: bytes, /) -> bool:
        """Write an HTTP chunk now; False when the client has enough to read already."""

    def hold(self) -> None:
        """Keep what is sent until `release`: a stream's head and first event then cost one write, not two."""

    def release(self) -> None:
        """Write what was kept."""

    def abort(self) -> None:
        """Drop the connection with all that is still to be written: a close would wait for the client."""


class _Left(Exception):
    """The client has gone."""


class Stream:
    """One client's place in a feed: live while it can take what comes, else catching up in its own task.

    It breaks off when the key with the id `key`, by which it was let in, is revoked.
    `idle` is the silence in seconds after which it says something, where the feed cannot do that for it.
    """

    __slots__ = (
        "_connection",
        "_feed",
        "_idle",
        "_leash",
        "_nudged",
        "_tail",
        "at",
        "cursor",
        "fresh",
        "jobs",
        "key",
        "push",
        "rest",
    )

    def __init__(
        self, feed: Feed, tail: JobTail | AccountTail, cursor: int, key: str, idle: float | None = None
    ) -> None:
        self.cursor = cursor
        # Read anew for each request: one copy for all the streams of a key.
        self.key = sys.intern(key)
        self.at: float = math.inf
        self.jobs: Collection[str] | None = None
        self.rest: Collection[str] = ()
        self.fresh = True
        self.push: Callable[[bytes], bool] = _cannot
        self._feed = feed
        self._tail: Any = tail
        self._idle = feed.heartbeat if idle is None else idle
        self._connection: PushConnection | None = None
        self._leash: asyncio.Timeout | None = None
        self._nudged = False

    def connect(self, scope: Scope) -> None:
        """Take what the server offers for this request's connection, before the response's head is sent."""
        self._connection = scope.get("state", {}).get("connection")
        if self._connection is not None:
            self.push = self._connection.push
            self.at = self._feed.tick
            self._connection.hold()

    def wake(self) -> None:
        """Leave the live ones, and look at what there is in the stream's own task."""
        if self._leash is not None:
            cut_short(self._leash)
            self._leash = None

    async def serve(self, receive: Receive, send: Send) -> None:
        """Write the body, until the feed's end, the client's, or the server's."""
        tail = self._tail = self._feed.join(self._tail, self.key)
        try:
            await self._open(receive, send)
            if await self._follow(receive, send):
                await self._write(send, self._last_words(), more=False)
            elif self._feed.stopping:
                await self._write(send, self._farewell())
        except _Left:
            pass
        except TimeoutError:
            log.info("A client read nothing for %d seconds; its stream is dropped.", _WRITE)
            if self._connection is not None:
                self._connection.abort()
        finally:
            self._feed.leave(tail, self.key)

    async def _open(self, receive: Receive, send: Send) -> None:
        try:
            await self._write(send, self._opening() + await self._next(receive))
        finally:
            if self._connection is not None:
                self._connection.release()

    async def _follow(self, receive: Receive, send: Send) -> bool:
        """Write what comes; True when there will be no more, False when the stream must break."""
        tail = self._tail
        while not self._breaks_off():
            if data := await self._next(receive):
                await self._write(send, data)
            elif tail.stopped(self):
                return True
            elif self._nudged:
                await self._write(send, self._filler())
            elif not self._breaks_off():  # it may have been told while it read, when nobody could wake it
                tail.live.add(self)
                try:
                    await self._rest(receive, self._leash_length())
                finally:
                    tail.live.discard(self)
                self._nudged = True
        return False

    async def _next(self, receive: Receive) -> bytes:
        try:
            frames: bytes = await self._tail.after(self)
        except Unavailable:
            await self._rest(receive, _AGAIN)
            return self._filler()
        return self._shown(frames) if frames else b""

    async def _rest(self, receive: Receive, seconds: float | None) -> None:
        """Wait until `wake`, or for so long. Raises _Left."""
        try:
            async with asyncio.timeout(seconds) as self._leash:
                while (await receive())["type"] != "http.disconnect":
                    if self._connection is not None and self._connection.half_closed:
                        return
        except TimeoutError:
            return
        finally:
            self._leash = None
        raise _Left

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(_WRITE):
            await send({"type": "http.response.body", "body": data, "more_body": more})
        self._nudged = False
        self.at = max(self.at, self._feed.tick)

    def _leash_length(self) -> float | None:
        return self._idle if self.push is _cannot else None

    def _breaks_off(self) -> bool:
        return self._feed.stopping or self.key in self._feed.revoked

    def _opening(self) -> bytes:
        return sse.RETRY

    def _shown(self, frames: bytes) -> bytes:
        return frames

    def _filler(self) -> bytes:
        return sse.HEARTBEAT

    def _last_words(self) -> bytes:
        """What is written after the final event."""
        return b""

    def _farewell(self) -> bytes:
        """Spread over time when the clients of a server that stops come back."""
        return b"retry: %d\n" % random.randint(*_SPREAD)


def _cannot(_: bytes) -> bool:
    """Stand in for a connection's `push` where there is none: such a stream writes everything in its own task."""
    return False


class JobStream(Stream):
    """A job's feed after event `after`."""

    __slots__ = ("_was_over",)

    def __init__(self, feed: Feed, tail: JobTail, after: int, key: str, idle: float | None = None) -> None:
        # An id from the future, or of some other stream, is answered from the beginning.
        super().__init__(feed, tail, after if after <= tail.head else 0, key, idle)
        self._was_over = tail.ended

    def _last_words(self) -> bytes:
        return b"retry: %d\n" % _RETRY_WHEN_OVER if self._was_over else b""


class LineStream(JobStream):
    """A job's feed as plain lines for a terminal: one for each event, the first names the job, the last is the url."""

    __slots__ = ("_last", "_parser")

    def __init__(self, feed: Feed, tail: JobTail, after: int, key: str) -> None:
        super().__init__(feed, tail, after, key, idle=_REPEAT)
        self._parser = sse.Parser(sse.OWN_MESSAGE_LIMIT)
        self._last = b""

    def connect(self, scope: Scope) -> None:
        """Frames are not what this stream is made of: it writes everything itself."""

    def _opening(self) -> bytes:
        # The first event names the job by itself; a client that comes back gets the name again.
        self._last = b"" if self.cursor == 0 else f"Job {self._tail.job}\n".encode()
        return self._last

    def _shown(self, frames: bytes) -> bytes:
        lines = [line(orjson.loads(message.data)) for message in self._parser.feed(frames)]
        self._last = f"{lines[-1]}\n".encode()
        return "".join(f"{line}\n" for line in lines).encode()

    def _filler(self) -> bytes:
        return self._last

    def _last_words(self) -> bytes:
        return b""

    def _farewell(self) -> bytes:
        return b""


def line(event: Mapping[str, Any]) -> str:
    """An event as one line; what is not printable is escaped, so that no text of a provider's makes a line."""
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
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


class AccountStream(Stream):
    """The feed of an account (of its `jobs` alone, if named) after a position; below 0 from a snapshot.

    `ends_in` is the life of the Link that opened it, in seconds; the stream breaks off with it.
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

    def _leash_length(self) -> float | None:
        left = self._deadline - asyncio.get_running_loop().time()
        length = min(left, super()._leash_length() or math.inf)
        return None if length == math.inf else length

    def _breaks_off(self) -> bool:
        return super()._breaks_off() or asyncio.get_running_loop().time() >= self._deadline
