"""The one reader of what Redis tells: a stream that every recorded event enters, read once per process.

Changes are numbered without gaps, over all accounts. Who finds a gap was away for too long, and says that changes
were lost.
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

BLOCK: Final = 5.0
"""Seconds that Redis waits for a change before it says that there is none."""
_AT_ONCE: Final = 500
"""Changes in one answer."""
_AGAIN: Final = 0.2
"""Seconds between two tries while Redis is away."""
_DRAIN: Final = 2.0
"""Seconds that a close waits for changes that were recorded here and have not been told yet."""
_LOST: Final = Change("", "", 0, lost=True)


class ChangeReader:
    """Tells the listeners of this process; `since` is the number of the last change that need not be told."""

    def __init__(self, wire: RedisConnection, since: int) -> None:
        self._wire = wire
        self._last = since
        self._listeners: WeakKeyDictionary[ChangeListener, int] = WeakKeyDictionary()
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name="store: changes")

    def listen(self, after: int) -> ChangeListener:
        """A listener that is told the changes to come above number `after`, as long as somebody holds it."""
        listener = ChangeListener()
        self._listeners[listener] = after
        return listener

    async def close(self, upto: int) -> None:
        """Tell what was recorded up to number `upto`, then end every listener."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                while self._listeners and self._last < upto:
                    await self._moved.wait()
        while not self._task.done():  # before Python 3.12, `wait_for` in the client may swallow a cancel
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.1)
        await self._wire.close()
        for listener in list(self._listeners):
            listener.put(None)

    async def _follow(self) -> None:
        well = True
        while True:
            try:
                await self._resume()
                well = True
                while changes := await self._next():
                    await self._tell(changes)
            except (RedisError, OSError) as error:
                if well:
                    log.warning("Cannot read what other nodes record, trying again: %s", error)
                well = False
                await asyncio.sleep(_AGAIN)
            except Exception:
                # It is all that this process hears of others: whatever went wrong, it is said, and goes on.
                log.exception("What other nodes record was not understood, trying again.")
                await asyncio.sleep(_AGAIN)

    async def _resume(self) -> None:
        """See whether Redis has come back as an older self, whose numbers are below what was already told."""
        newest = int(await self._ask("GET", "pollcast:told") or 0)
        if newest < self._last:
            self._last = newest
            for listener in list(self._listeners):
                self._listeners[listener] = newest
                listener.put((_LOST,))

    async def _next(self) -> Sequence[Any]:
        read = ("XREAD", "COUNT", _AT_ONCE, "BLOCK", int(BLOCK * 1000), "STREAMS")
        answer = await self._ask(*read, "pollcast:changes", f"{self._last}-0")
        return answer[0][1] if answer else ()

    async def _tell(self, changes: Sequence[Any]) -> None:
        told: list[tuple[int, Change]] = []
        try:
            for key, (_, what, *data) in changes:
                number = int(key.split(b"-")[0])
                change = await self._understood(what, data[1] if data else None)
                if number > self._last + 1:
                    told.append((number, _LOST))
                told.append((number, change))
                self._last = number
        finally:  # where Redis fails in between, those before are told all the same
            self._put(told)
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def _understood(self, what: bytes, data: bytes | None) -> Change:
        try:
            return await self._change(what, data)
        except ValueError:
            log.exception("A change is told in words that this version does not know: is a newer one running?")
            return _LOST

    async def _change(self, what: bytes, data: bytes | None) -> Change:
        account, job, n, *rest = what.decode().split()
        if n == "0":
            return Change(account, job, 0, deleted=True)
        if not rest:
            return Change(account, job, int(n), cancel=True)
        position, mark, at, *_ = rest  # a newer version may say more
        if data is None:  # too large to be carried along
            entry = await self._ask("LINDEX", f"pollcast:events:{job}", int(n) - 1)
            data = entry.split(b" ", 2)[2] if entry else None
        event = event_of(job, int(n), int(position), mark, data) if data is not None else None
        return Change(account, job, int(n), event=event, at=float(at))

    def _put(self, changes: Sequence[tuple[int, Change]]) -> None:
        for listener, after in list(self._listeners.items()):
            listener.put([change for number, change in changes if number > after])

    async def _ask(self, *command: str | bytes | float) -> Any:
        commands: list[Command] = [command]
        (answer,) = await self._wire.exchange(commands)
        if isinstance(answer, RedisError):
            raise answer
        return answer


def event_of(job: str, n: int, position: int, mark: str, data: bytes) -> Event:
    """An event from its parts; `scripts/shared.lua` says what its mark is."""
    return Event(job, n, data, final=mark == "f", position=position, delta=mark == "d")
