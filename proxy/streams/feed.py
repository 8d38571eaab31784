"""Publish/subscribe: hands each event of the log to the streams that watch its job or its account.

A watched job or account has one *tail*. It frames each event once for all its subscribers. A subscriber is a cursor
in the tail, not a queue: a slow client falls behind in the shared list. It blocks no other client and loses no event.

At any moment a subscriber is in one of two states:

- *live*: its cursor is at the tail's head. The publisher and the heartbeat timer push to it without waking a task.
- *catching up*: only its own task reads and writes.

It becomes live in the same tick in which its cursor reaches the head, so no event overtakes another. A subscriber
that cannot take a push falls back to its cursor and catches up. Live events and replay are one log: an event is
pushed only after its commit.

The counters:

- `Feed.tick` counts the rounds of the heartbeat timer. One heartbeat interval has `_TICKS_PER_HEARTBEAT` of them.
- `Subscriber.last_write_tick` is the tick of the last write to a stream, and infinite if it wants no heartbeats.
- `Tail.last_used_tick` is the tick in which a tail was last looked up or left. An unwatched tail is dropped one
  heartbeat interval later.
- `Tail.scheduled` is True while the timer has an entry for the tail (`Feed._due`, by tick).
- `JobTail.head` is the number of the last published event. `JobTail.frames` may already hold later ones.
- `Subscriber.cursor` is an event number in a job's tail, and a feed position in an account's.
"""

import asyncio
import contextlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, Protocol, TypeVar, cast

from prometheus_client import Metric

from proxy.core import sse
from proxy.core.errors import Unavailable
from proxy.core.job import Event
from proxy.store.contract import Feeds
from proxy.store.types import Change
from proxy.streams.times import DEFAULT_TIMES, StreamTimes
from proxy.telemetry.metrics import gauge, total

log = logging.getLogger(__name__)

_MAX_WRITE: Final = 1 << 16
"""Maximum size, in bytes, of frames that are joined into one write. A longer frame is written alone."""
_READ_BATCH: Final = 200
"""Maximum number of events that are taken from the log at once."""
_TICKS_PER_HEARTBEAT: Final = 16
"""Rounds of the heartbeat timer in one heartbeat interval. More rounds make heartbeats more exact and cost CPU."""
_HEARTBEAT: Final = sse.chunk(sse.HEARTBEAT)
_RESET: Final = b"event: reset\ndata: {}\n\n"


class Subscriber(Protocol):
    """One watcher of a tail, such as a `Stream`."""

    cursor: int
    """The last event that it was served: a number in a job's tail, a position in an account's."""
    last_write_tick: float
    """The feed's tick of the last write to it; infinite if it wants no heartbeats."""
    key: str
    """The id of the API key that authenticated it."""

    def push(self, chunk: bytes, /) -> bool:
        """Write an HTTP chunk of whole frames now. Return False if that is not possible. Never waits."""

    def wake(self) -> None:
        """Leave the live subscribers, and continue in the subscriber's own task."""


class Tail:
    """The newest part of a log and its live subscribers: the common base of the tails of jobs and of accounts."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.watchers = 0
        self.last_used_tick = 0
        """The feed's tick in which it was last looked up, or left by a watcher."""
        self.scheduled = False
        """True while the feed's heartbeat timer has an entry for it."""
        self.live: set[Subscriber] = set()
        """A subscriber adds itself in the same tick in which its cursor reaches the head."""

    def wake(self) -> None:
        """Wake all live subscribers."""
        for subscriber in self.live:
            subscriber.wake()

    def send_heartbeats(self, tick: int) -> int:
        """Push a heartbeat to each silent live subscriber, and return the tick in which the next may be due.

        The interval is counted with one extra tick, because a stream's last write was anywhere within its tick.
        """
        earliest: float = tick
        for subscriber in self.live:
            if subscriber.last_write_tick + _TICKS_PER_HEARTBEAT < tick:
                subscriber.last_write_tick = tick
                if not subscriber.push(_HEARTBEAT):
                    subscriber.wake()
            elif subscriber.last_write_tick < earliest:
                earliest = subscriber.last_write_tick
        return int(earliest) + _TICKS_PER_HEARTBEAT + 1


class JobTail(Tail):
    """The tail of one watched job. `frames[n - 1]` is event n, and the frames up to `head` have been published.

    The list only grows at its end.
    """

    def __init__(self, account: str, job: str) -> None:
        super().__init__(account)
        self.job = job
        self.frames: list[bytes] = []
        self.head = 0
        self.ended = False
        """True if no event will follow the published ones: the last is the final event, or the job was deleted."""
        self._known = 0
        self._final = False
        self._reading = False

    def take(self, event: Event) -> bool:
        """Add an event of a change. Return False if events before it are missing and must be read from the store."""
        if event.n == len(self.frames) + 1:
            self.frames.append(sse.frame(event.data, event.n))
            self._final = event.final
        return event.n <= len(self.frames)

    def publish(self, tick: int) -> int:
        """Push the new events to the live subscribers, and return the number of events delivered."""
        joined, start = b"".join(self.frames[self.head :]), self.head
        self.head, self.ended = len(self.frames), self._final or self.ended
        # Frames that are too long for one write are written by the stream's own task, which waits for the client.
        chunk, small = sse.chunk(joined), len(joined) <= _MAX_WRITE
        delivered = 0
        for subscriber in self.live if joined else ():
            # A reconnected subscriber may have joined, with a cursor above 0, before the frames were read.
            if small and subscriber.cursor == start and subscriber.push(chunk):
                subscriber.cursor = self.head
                subscriber.last_write_tick = max(subscriber.last_write_tick, tick)
                delivered += 1
            else:
                subscriber.wake()
        if self.ended:
            self.wake()
        return delivered * (self.head - start)

    async def next_frames(self, subscriber: Subscriber) -> bytes:
        """Return the next frames for a subscriber and move its cursor behind them; empty if it is at the head."""
        start, size = subscriber.cursor, 0
        for frame in self.frames[start : min(self.head, start + _READ_BATCH)]:
            if size and size + len(frame) > _MAX_WRITE:
                break
            size += len(frame)
            subscriber.cursor += 1
        return b"".join(self.frames[start : subscriber.cursor])

    def is_finished_for(self, subscriber: Subscriber) -> bool:
        """Return whether the log has ended and the subscriber has all of it."""
        return self.ended and subscriber.cursor >= self.head

    async def refresh(self, store: Feeds, known: int, retry_delay: float = DEFAULT_TIMES.read_retry) -> None:
        """Read from the store, until event `known` is here. If a read is already running, it continues until then.

        While the store is unavailable, a read is repeated every `retry_delay` seconds.
        """
        self._known = max(self._known, known)
        if self._reading:
            return
        self._reading = True
        try:
            await self._read(store, retry_delay)
            while len(self.frames) < self._known:
                await self._read(store, retry_delay)
        finally:
            self._reading = False

    async def _read(self, store: Feeds, retry_delay: float) -> None:
        try:
            events = await store.read(self.job, len(self.frames), self.account)
        except Unavailable:
            await asyncio.sleep(retry_delay)
            return
        if not events and len(self.frames) < self._known:
            # A change announced events that are no longer in the store: the job was deleted meanwhile.
            self._known, self.ended = len(self.frames), True
        for event in events:
            self.take(event)


class AccountSubscriber(Subscriber, Protocol):
    """One watcher of an account."""

    jobs: Collection[str] | None
    """The ids of the jobs that it wants; None: all jobs of the account."""
    snapshot_rest: Collection[str]
    """The jobs whose events are still missing in its snapshot, which is read in parts."""
    cursor_unchecked: bool
    """True while its cursor is a value sent by the client that may be no position of this account."""


class AccountTail(Tail):
    """The tail of one watched account. It keeps no frames: a subscriber that lags reads the store."""

    def __init__(self, account: str, store: Feeds, retry_delay: float = DEFAULT_TIMES.read_retry) -> None:
        super().__init__(account)
        self._store = store
        self._retry_delay = retry_delay
        """Delay, in seconds, before a read is repeated while the store is unavailable."""
        self._head = -1
        """The newest position that is known; below 0: none yet."""
        self._published = -1
        """The position before the first pending frame."""
        self._pending: list[tuple[str, bytes]] = []

    def take(self, event: Event) -> None:
        """Add an event of a change. If events before it are missing, subscribers read them from the store."""
        if event.position <= self._head:
            return
        if event.position != self._head + 1:
            self._pending.clear()
            self._published = event.position - 1
        self._head = event.position
        if not event.delta:
            self._pending.append((event.job, sse.frame(event.data, event.position)))

    def publish(self, tick: int) -> int:
        """Push the new events to the live subscribers, and return the number of events delivered."""
        pending, self._pending = self._pending, []
        start, self._published = self._published, self._head
        everything = b"".join(frame for _, frame in pending)
        chunk, small = sse.chunk(everything), len(everything) <= _MAX_WRITE
        delivered = 0
        for subscriber in cast("set[AccountSubscriber]", self.live):
            if subscriber.cursor >= self._head:
                continue
            wanted = pending if subscriber.jobs is None else [pair for pair in pending if pair[0] in subscriber.jobs]
            own = chunk if len(wanted) == len(pending) else sse.chunk(b"".join(frame for _, frame in wanted))
            if subscriber.cursor == start and small and (not wanted or subscriber.push(own)):
                subscriber.cursor = self._head
                subscriber.last_write_tick = tick if wanted else subscriber.last_write_tick
                delivered += len(wanted)
            else:
                subscriber.wake()
        return delivered

    async def refresh(self) -> None:
        """Read the feed's current position after missed changes, and wake the subscribers if they lag."""
        while True:
            try:
                head = (await self._store.snapshot(self.account, ())).head
                break
            except Unavailable:
                await asyncio.sleep(self._retry_delay)
        if head > self._head:
            self._pending.clear()
            self._head = self._published = head
            self.wake()

    async def next_frames(self, subscriber: AccountSubscriber) -> bytes:
        """Return the next frames for a subscriber and move its cursor behind them; empty if it is at the head.

        A cursor below 0 begins with a snapshot. A cursor whose events are no longer kept gets a `reset` and a snapshot.
        """
        if subscriber.cursor < 0 or subscriber.snapshot_rest:
            return await self._snapshot(subscriber)
        while subscriber.cursor_unchecked or subscriber.cursor < self._head:
            part = await self._store.read_account(self.account, subscriber.cursor, _READ_BATCH)
            if part is None:
                return _RESET + await self._snapshot(subscriber)
            subscriber.cursor_unchecked = False
            full = part.cut or len(part.events) == _READ_BATCH
            subscriber.cursor = part.events[-1].position if full else part.head
            if frames := _frames(part.events, subscriber.jobs):
                return frames
        return b""

    async def _snapshot(self, subscriber: AccountSubscriber) -> bytes:
        if subscriber.snapshot_rest:
            part = await self._store.snapshot(self.account, subscriber.snapshot_rest, subscriber.cursor)
        else:
            part = await self._store.snapshot(self.account, subscriber.jobs)
        subscriber.cursor, subscriber.cursor_unchecked, subscriber.snapshot_rest = part.head, False, part.rest
        frames = _frames(part.events, None)
        if not part.rest:
            return frames + b"event: ready\ndata: {}\nid: %d\n\n" % part.head
        # The part is empty if all its jobs were deleted meanwhile.
        return frames or await self._snapshot(subscriber)

    def is_finished_for(self, subscriber: Subscriber) -> bool:
        """Return False: an account's feed has no end."""
        del subscriber
        return False


def _frames(events: Sequence[Event], jobs: Collection[str] | None) -> bytes:
    return b"".join(sse.frame(event.data, event.position) for event in events if jobs is None or event.job in jobs)


def _count_down(counter: Counter[str], name: str) -> int:
    """Decrement a count and return it. A count of zero is removed."""
    counter[name] -= 1
    return counter[name] or counter.pop(name)


AnyTail = TypeVar("AnyTail", JobTail, AccountTail)


class _Waiter:
    """A subscriber without a stream: it only notes that an event came. It wants no heartbeats."""

    def __init__(self, key: str) -> None:
        self.cursor = 0
        self.last_write_tick = math.inf
        self.key = key
        self.new_event = asyncio.Event()

    def push(self, _: bytes) -> bool:
        self.new_event.set()
        return True

    def wake(self) -> None:
        self.new_event.set()


class Feed:
    """All tails of this process. `run` follows the store's changes until it is cancelled.

    `observe_lag` is called after each round of pushes, with the time at which each pushed event was given to the store.
    """

    def __init__(
        self,
        store: Feeds,
        heartbeat: float = 4.0,
        observe_lag: Callable[[float], None] | None = None,
        times: StreamTimes = DEFAULT_TIMES,
    ) -> None:
        self._store = store
        self._observe_lag = observe_lag
        self._append_times: list[float] = []
        """For each event to be published, the time at which it was given to the store."""
        self.heartbeat = heartbeat
        """Silence, in seconds, after which a stream writes a heartbeat."""
        self.times = times
        self._publish_window = times.publish_window
        self._jobs: dict[tuple[str, str], JobTail] = {}
        self._accounts: dict[str, AccountTail] = {}
        self._unpublished: set[JobTail | AccountTail] = set()
        self._published_at = 0.0
        self._refreshes: set[asyncio.Task[None]] = set()
        """Running reads. They are cancelled and awaited when `run` ends."""
        self.streams_by_account: Counter[str] = Counter()
        """Open streams, by account."""
        self.streams_by_key: Counter[str] = Counter()
        """Open streams, by the id of the API key that authenticated each."""
        self.revoked_keys: set[str] = set()
        """The `keys` that were revoked. Their streams break off."""
        self.tick = 0
        """Number of rounds of the heartbeat timer."""
        self._due: dict[int, list[JobTail | AccountTail]] = defaultdict(list)
        """The tails, by the tick in which a heartbeat may be due on one of their streams."""
        self.delivered = 0
        """Number of events pushed to live streams."""
        self.stopped = False
        """True after `run` has ended: the server has stopped, or one of its background tasks has failed."""
        self.stopping = False
        """True while the server stops. Every stream breaks off, so that its client reconnects, later or elsewhere."""

    async def run(self) -> None:
        """Publish the store's changes to the tails, and send heartbeats, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_heartbeats())
                async for change in self._store.changes():
                    self._on_change(change)
        finally:
            self.stopped = True
            for task in self._refreshes:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self._refreshes, return_exceptions=True)

    def metrics(self) -> Iterator[Metric]:
        """Yield the current values for a scrape."""
        yield gauge("streams", "Open streams.", (), {(): self.streams})
        yield total("events_delivered", "Events handed to live streams.", (), {(): self.delivered})

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return self.streams_by_account.total()

    def stop(self) -> None:
        """Break off every stream. New streams break off at once."""
        self.stopping = True
        for tail in (*self._jobs.values(), *self._accounts.values()):
            tail.wake()

    def revoke(self, keys: set[str]) -> None:
        """Break off the streams of these keys."""
        self.revoked_keys |= self.streams_by_key.keys() & keys  # a key may have lost its last stream meanwhile
        for tail in (*self._jobs.values(), *self._accounts.values()):
            for subscriber in tail.live:
                if subscriber.key in self.revoked_keys:
                    subscriber.wake()

    def _on_change(self, change: Change) -> None:
        if change.lost:
            self._refresh_all()
        if change.deleted:
            self.forget(change.account, change.job)
        if change.event is None:
            return
        if (tail := self._jobs.get((change.account, change.job))) is not None:
            if tail.take(change.event):
                self._schedule_publish(tail)
            else:
                self._refresh(tail, change.n)
        if (account := self._accounts.get(change.account)) is not None:
            account.take(change.event)
            self._schedule_publish(account)
        if self._observe_lag is not None and change.at and self._unpublished:
            self._append_times.append(change.at)

    def _refresh_all(self) -> None:
        """Read all tails again after missed changes."""
        for job in self._jobs.values():
            self._refresh(job)
        for account in self._accounts.values():
            self._keep_refresh(asyncio.create_task(account.refresh()))

    def _schedule_publish(self, tail: JobTail | AccountTail) -> None:
        """Publish in the event loop's next round, or when the window since the last push is over."""
        if not self._unpublished:
            loop = asyncio.get_running_loop()
            loop.call_at(max(self._published_at + self._publish_window, loop.time()), self._publish)
        self._unpublished.add(tail)

    def _publish(self) -> None:
        tails, self._unpublished = self._unpublished, set()
        for tail in tails:
            try:
                self.delivered += tail.publish(self.tick)
            except Exception:
                log.exception(
                    "Internal error while pushing events; each stream of this feed catches up in its own task."
                )
                tail.wake()
        self._published_at = asyncio.get_running_loop().time()
        for at in self._append_times:
            assert self._observe_lag is not None  # noqa: S101 - otherwise the list is empty
            self._observe_lag(at)
        self._append_times.clear()

    async def _send_heartbeats(self) -> None:
        """Run the one timer of all streams: send heartbeats, and drop the tails that have no watcher any more."""
        while True:
            await asyncio.sleep(self.heartbeat / _TICKS_PER_HEARTBEAT)
            self.tick += 1
            for tail in self._due.pop(self.tick, ()):
                if tail.watchers or tail.last_used_tick + _TICKS_PER_HEARTBEAT >= self.tick:
                    self._due[tail.send_heartbeats(self.tick)].append(tail)
                else:
                    self._drop(tail)

    def _schedule(self, tail: JobTail | AccountTail) -> None:
        if not tail.scheduled:
            tail.scheduled = True
            self._due[self.tick + _TICKS_PER_HEARTBEAT + 1].append(tail)

    def _drop(self, tail: JobTail | AccountTail) -> None:
        tail.scheduled = False
        if isinstance(tail, JobTail):
            if (
                self._jobs.get((tail.account, tail.job)) is tail
            ):  # otherwise the job was deleted, and a newer tail is registered
                del self._jobs[tail.account, tail.job]
        else:
            del self._accounts[tail.account]

    def _refresh(self, tail: JobTail, known: int = 0) -> None:
        task = asyncio.create_task(tail.refresh(self._store, known, self.times.read_retry))
        task.add_done_callback(lambda _: self._schedule_publish(tail))
        self._keep_refresh(task)

    def _keep_refresh(self, task: "asyncio.Task[None]") -> None:
        self._refreshes.add(task)
        task.add_done_callback(self._on_refresh_done)

    def _on_refresh_done(self, task: "asyncio.Task[None]") -> None:
        self._refreshes.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("Internal error while reading a watched job or account", exc_info=error)

    async def job(self, account: str, job: str, first: Event | None = None) -> JobTail | None:
        """Return the tail of an account's job with all its events, or None if the account has no job with this id.

        All watchers share the tail. It follows the log from now on, and is dropped one heartbeat interval after its
        last watcher left. `first` is the job's only event, as returned by its admission; then nothing is read.
        Raises Unavailable.
        """
        tail = self._jobs.get((account, job))
        if tail is None:
            # Register before the read: changes that are recorded from now on reach this tail.
            tail = self._jobs[account, job] = JobTail(account, job)
            self._schedule(tail)
        tail.last_used_tick = self.tick
        if not tail.head:
            for event in [first] if first else await self._store.read(job, 0, account):
                tail.take(event)
            tail.publish(self.tick)
        return tail if tail.head else None

    def forget(self, account: str, job: str) -> None:
        """End the streams of a deleted job, and remove its tail."""
        if tail := self._jobs.pop((account, job), None):
            tail.ended = True
            tail.wake()

    def account(self, account: str) -> AccountTail:
        """Return the tail of an account. All watchers share it. It is dropped after its last watcher left."""
        tail = self._accounts.setdefault(account, AccountTail(account, self._store, self.times.read_retry))
        self._schedule(tail)
        tail.last_used_tick = self.tick
        return tail

    def join(self, tail: AnyTail, key: str) -> AnyTail:
        """Count a watcher, authenticated by a key, until `leave`. Return the registered tail to follow.

        That is another tail if this one was dropped since it was looked up.
        """
        if isinstance(tail, AccountTail):
            registered = self._accounts.setdefault(tail.account, tail)
        else:
            if (tail.account, tail.job) not in self._jobs:
                self._refresh(tail)
            registered = self._jobs.setdefault((tail.account, tail.job), tail)
        self._schedule(registered)
        registered.watchers += 1
        self.streams_by_account[tail.account] += 1
        self.streams_by_key[key] += 1
        return registered

    def leave(self, tail: JobTail | AccountTail, key: str) -> None:
        """Remove a watcher that `join` counted."""
        tail.watchers -= 1
        tail.last_used_tick = self.tick
        _count_down(self.streams_by_account, tail.account)
        if not _count_down(self.streams_by_key, key):
            self.revoked_keys.discard(key)

    async def wait_for_event(self, tail: JobTail, beyond: int, seconds: float, key: str) -> None:
        """Wait until the job has an event above `beyond` or has ended, for at most `seconds`.

        Return at once if the server stops, or if the caller's key is revoked.
        """
        waiter, registered = _Waiter(key), self.join(tail, key)
        registered.live.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                while not (registered.head > beyond or registered.ended or self.stopping or key in self.revoked_keys):
                    waiter.new_event.clear()
                    await waiter.new_event.wait()
        except TimeoutError:
            return
        finally:
            registered.live.discard(waiter)
            self.leave(registered, key)
