"""Log to subscribers: one tail for each watched job, its frames kept encoded; a subscriber is a cursor.

A subscriber that reads slowly lags in a shared list: it blocks nobody and loses nothing. A tail reads the store after
it was told of a change, so live and replay are one read, and nothing reaches a subscriber that is not in the log.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from proxy import sse
from proxy.errors import Unavailable
from proxy.store.base import Store

log = logging.getLogger(__name__)

_AGAIN: Final = 1.0
"""Seconds until a read that the store could not serve is tried again."""


class Tail:
    """The frames of one watched job, in order: `frames[n - 1]` is event n. Grows at its end only."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.frames: list[bytes] = []
        self.ended = False
        self.watchers = 0
        self._known = 0
        self._reading = False
        self._waiting: set[asyncio.Future[bool]] = set()

    def wait(self) -> "asyncio.Future[bool]":
        """A future that becomes True when there is more than at the time of the call; `forget` it in the end."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        return waiter

    def forget(self, waiter: "asyncio.Future[bool]") -> None:
        """Let go of a waiter."""
        self._waiting.discard(waiter)

    async def refresh(self, store: Store, known: int) -> None:
        """Read on until event `known` is here; one read at a time, whoever asks."""
        self._known = max(self._known, known)
        if self._reading:
            return
        self._reading = True
        try:
            while len(self.frames) < self._known:
                await self._read(store)
        finally:
            self._reading = False

    async def _read(self, store: Store) -> None:
        try:
            events = await store.read(self.job, after=len(self.frames))
        except Unavailable:
            await asyncio.sleep(_AGAIN)
            return
        if not events:
            # Told of events that cannot be read: the job was deleted meanwhile.
            self._known, self.ended = len(self.frames), True
        for event in events:
            self.frames.append(sse.frame(event.data, event.n))
            self.ended = event.final
        self.wake()

    def wake(self) -> None:
        """Wake who waits."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(True)
        self._waiting.clear()


class Feed:
    """All tails of this process. `run` follows the store's changes until it is cancelled."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[str, Tail] = {}
        self._refreshing: set[asyncio.Task[None]] = set()
        self.stopping = False
        """The server stops: every stream breaks off, so that its client comes back elsewhere or later."""

    async def run(self) -> None:
        """Tell the tails what the store records."""
        try:
            async for change in self._store.changes():
                tail = self._tails.get(change.job)
                if tail is not None:
                    self._refresh(tail, change.n)
        finally:
            for task in self._refreshing:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self._refreshing, return_exceptions=True)

    def stop(self) -> None:
        """Have every stream break off, and every new one too."""
        self.stopping = True
        for tail in self._tails.values():
            tail.wake()

    def _refresh(self, tail: Tail, known: int) -> None:
        task = asyncio.create_task(tail.refresh(self._store, known))
        self._refreshing.add(task)
        task.add_done_callback(self._refreshed)

    def _refreshed(self, task: "asyncio.Task[None]") -> None:
        self._refreshing.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("A watched job cannot be read.", exc_info=error)

    @asynccontextmanager
    async def watch(self, job: str, known: int) -> AsyncIterator[Tail]:
        """The tail of a job, from its first event up to at least event `known`, and on; shared with all who watch."""
        tail = self._tails.setdefault(job, Tail(job))
        tail.watchers += 1
        try:
            self._refresh(tail, known)
            yield tail
        finally:
            tail.watchers -= 1
            if not tail.watchers:
                del self._tails[job]
