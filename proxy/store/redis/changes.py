"""Reader of the changes stream, which carries every recorded event to every node. Each process has one reader.

Changes are numbered over all accounts, without gaps. A reader that finds a gap was disconnected for too long, and
reports lost changes to its listeners.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from redis.exceptions import RedisError

from proxy.core.job import Event
from proxy.store.listeners import ChangeListener
from proxy.store.redis.connection import Command, RedisConnection
from proxy.store.types import Change

log = logging.getLogger(__name__)

BLOCK_SECONDS: Final = 5.0
"""Seconds that Redis waits for a new change before it replies that there is none."""
_CHANGE_BATCH: Final = 500
"""Maximum number of changes in one reply."""
_CHANGES_RETRY_DELAY: Final = 0.2
"""Seconds between two attempts while Redis is away."""
_DRAIN_TIMEOUT: Final = 2.0
"""Maximum seconds that `close` waits until the changes recorded by this process have reached its listeners."""
_LOST: Final = Change("", "", 0, lost=True)


class ChangeReader:
    """Delivers changes to the listeners of this process, beginning after change number `since`."""

    def __init__(self, connection: RedisConnection, since: int) -> None:
        self._connection = connection
        self._last = since
        self._listeners: WeakKeyDictionary[ChangeListener, int] = WeakKeyDictionary()
        self._advanced = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="store: changes")

    def listen(self, after: int) -> ChangeListener:
        """Return a listener for the changes numbered above `after`. The reader keeps only a weak reference to it."""
        listener = ChangeListener()
        self._listeners[listener] = after
        return listener

    async def close(self, last: int) -> None:
        """Deliver the changes up to number `last`, then end every listener."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                while self._listeners and self._last < last:
                    await self._advanced.wait()
        while not self._task.done():  # before Python 3.12, `wait_for` in redis-py may swallow a cancellation
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.1)
        await self._connection.close()
        for listener in list(self._listeners):
            listener.put(None)

    async def _run(self) -> None:
        reachable = True
        while True:
            try:
                await self._detect_rollback()
                reachable = True
                while changes := await self._read_batch():
                    await self._publish(changes)
            except (RedisError, OSError) as error:
                if reachable:
                    log.warning("Cannot read the changes of other nodes from Redis, retrying: %s", error)
                reachable = False
                await asyncio.sleep(_CHANGES_RETRY_DELAY)
            except Exception:
                # This loop is the only source of other nodes' changes, so it must survive every error.
                log.exception("Cannot process the changes of other nodes, retrying.")
                await asyncio.sleep(_CHANGES_RETRY_DELAY)

    async def _detect_rollback(self) -> None:
        """Report lost changes if Redis came back with older data, where numbers are below the last one read."""
        newest = int(await self._call("GET", "pollcast:told") or 0)
        if newest < self._last:
            self._last = newest
            for listener in list(self._listeners):
                self._listeners[listener] = newest
                listener.put((_LOST,))

    async def _read_batch(self) -> Sequence[Any]:
        read = ("XREAD", "COUNT", _CHANGE_BATCH, "BLOCK", int(BLOCK_SECONDS * 1000), "STREAMS")
        reply = await self._call(*read, "pollcast:changes", f"{self._last}-0")
        return reply[0][1] if reply else ()

    async def _publish(self, entries: Sequence[Any]) -> None:
        changes: list[tuple[int, Change]] = []
        try:
            for key, (_, text, *data) in entries:
                number = int(key.split(b"-")[0])
                change = await self._parse(text, data[1] if data else None)
                if number > self._last + 1:
                    changes.append((number, _LOST))
                changes.append((number, change))
                self._last = number
        finally:  # if Redis fails in between, the changes parsed so far are delivered
            self._deliver(changes)
            advanced, self._advanced = self._advanced, asyncio.Event()
            advanced.set()

    async def _parse(self, text: bytes, data: bytes | None) -> Change:
        """Return the change, or a lost one if this version cannot parse it."""
        try:
            return await self._change(text, data)
        except ValueError:
            log.exception("Cannot parse a change in Redis. Is a node with a newer version running?")
            return _LOST

    async def _change(self, text: bytes, data: bytes | None) -> Change:
        account, job, n, *rest = text.decode().split()
        if n == "0":
            return Change(account, job, 0, deleted=True)
        if not rest:
            return Change(account, job, int(n), cancel=True)
        position, mark, at, *_ = rest  # a newer version may append fields
        if data is None:  # the event is too large to be part of its change
            entry = await self._call("LINDEX", f"pollcast:events:{job}", int(n) - 1)
            data = entry.split(b" ", 2)[2] if entry else None
        event = make_event(job, int(n), int(position), mark, data) if data is not None else None
        return Change(account, job, int(n), event=event, at=float(at))

    def _deliver(self, changes: Sequence[tuple[int, Change]]) -> None:
        for listener, after in list(self._listeners.items()):
            listener.put([change for number, change in changes if number > after])

    async def _call(self, *command: str | bytes | float) -> Any:
        commands: list[Command] = [command]
        (reply,) = await self._connection.exchange(commands)
        if isinstance(reply, RedisError):
            raise reply
        return reply


def make_event(job: str, n: int, position: int, mark: str, data: bytes) -> Event:
    """Return an event from its parts. `append_event` in `scripts/shared.lua` defines the marks."""
    return Event(job, n, data, final=mark == "f", position=position, delta=mark == "d")
