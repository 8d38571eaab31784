"""Log to subscribers: one tail for each watched job or account, each event framed once; a subscriber is a cursor.

At any moment a subscriber is *live* (its cursor is at the tail's head: the tail hands it what comes, without waking a
task) or *catching up* (only its own task reads and writes). It becomes live in the tick in which its cursor reaches the
head, so that nothing overtakes, and whoever cannot take what comes falls back to its cursor: a slow subscriber blocks
nobody and loses nothing. Live and replay are one log: what is pushed was committed before it was told.
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
from proxy.telemetry.metrics import gauge, total

log = logging.getLogger(__name__)

_AGAIN: Final = 1.0
"""Seconds until a read that the store could not serve is tried again."""
_JOINED: Final = 1 << 16
"""Bytes of frames that are joined into one write, at the most (a longer frame goes alone)."""
_STRETCH: Final = 200
"""Events that are taken from the log at once, at the most."""
_WINDOW: Final = 0.002
"""Seconds between two rounds of pushes: what comes within goes out as one write. The first goes at once."""
_TICKS: Final = 16
"""Looks for silent streams in one heartbeat's time."""
_HEARTBEAT: Final = sse.chunk(sse.HEARTBEAT)
_RESET: Final = b"event: reset\ndata: {}\n\n"


class Subscriber(Protocol):
    """Who watches a tail."""

    cursor: int
    """Up to where it has been served: an event's number in a job's tail, a position in an account's."""
    at: float
    """The feed's tick in which it was last written to; infinite for one that wants no heartbeats."""
    key: str
    """The id of the key that it was let in by."""

    def push(self, chunk: bytes, /) -> bool:
        """Take bytes now (an HTTP chunk of whole frames), or say that it cannot; never waits."""

    def wake(self) -> None:
        """Leave the live ones, and look at what there is in its own task."""


class Tail:
    """What the tails of jobs and of accounts share: who is live, and how frames reach them."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.watchers = 0
        self.left_at = 0
        """The feed's tick in which it was last looked for, or left."""
        self.kept = False
        """Whether its feed looks at it from time to time."""
        self.live: set[Subscriber] = set()
        """To be joined in the tick in which the cursor is at the head."""

    def wake(self) -> None:
        """Send everybody to its own task."""
        for subscriber in self.live:
            subscriber.wake()

    def beat(self, tick: int) -> int:
        """Say something to who is live and has been silent too long, and return the tick when the next may have been.

        One tick more than a heartbeat's, because a stream's last write lies somewhere within its tick.
        """
        earliest: float = tick
        for subscriber in self.live:
            if subscriber.at + _TICKS < tick:
                subscriber.at = tick
                if not subscriber.push(_HEARTBEAT):
                    subscriber.wake()
            elif subscriber.at < earliest:
                earliest = subscriber.at
        return int(earliest) + _TICKS + 1


class JobTail(Tail):
    """One watched job: `frames[n - 1]` is event n; those up to `head` have been published. Grows at its end only."""

    def __init__(self, account: str, job: str) -> None:
        super().__init__(account)
        self.job = job
        self.frames: list[bytes] = []
        self.head = 0
        self.ended = False
        """Nothing will follow what is published: the final event is, or the job was deleted."""
        self._known = 0
        self._final = False
        self._reading = False

    def take(self, event: Event) -> bool:
        """Add a told event; False when those between are missing and must be read."""
        if event.n == len(self.frames) + 1:
            self.frames.append(sse.frame(event.data, event.n))
            self._final = event.final
        return event.n <= len(self.frames)

    def publish(self, tick: int) -> int:
        """Push what is new to who is live, and return how many deliveries that were."""
        joined, start = b"".join(self.frames[self.head :]), self.head
        self.head, self.ended = len(self.frames), self._final or self.ended
        # Far too much for one write goes the way that waits for the client.
        chunk, small = sse.chunk(joined), len(joined) <= _JOINED
        delivered = 0
        for subscriber in self.live if joined else ():
            # One that came back with a cursor may have been here before the frames were.
            if small and subscriber.cursor == start and subscriber.push(chunk):
                subscriber.cursor = self.head
                subscriber.at = max(subscriber.at, tick)
                delivered += 1
            else:
                subscriber.wake()
        if self.ended:
            self.wake()
        return delivered * (self.head - start)

    async def after(self, subscriber: Subscriber) -> bytes:
        """The next frames for a subscriber, whose cursor moves behind them; nothing when it is at the head."""
        start, size = subscriber.cursor, 0
        for frame in self.frames[start : min(self.head, start + _STRETCH)]:
            if size and size + len(frame) > _JOINED:
                break
            size += len(frame)
            subscriber.cursor += 1
        return b"".join(self.frames[start : subscriber.cursor])

    def stopped(self, subscriber: Subscriber) -> bool:
        """Whether the subscriber has had everything that there will ever be."""
        return self.ended and subscriber.cursor >= self.head

    async def refresh(self, store: Feeds, known: int) -> None:
        """Read what there is, on until event `known` is here; one read at a time, whoever asks."""
        self._known = max(self._known, known)
        if self._reading:
            return
        self._reading = True
        try:
            await self._read(store)
            while len(self.frames) < self._known:
                await self._read(store)
        finally:
            self._reading = False

    async def _read(self, store: Feeds) -> None:
        try:
            events = await store.read(self.job, len(self.frames), self.account)
        except Unavailable:
            await asyncio.sleep(_AGAIN)
            return
        if not events and len(self.frames) < self._known:
            # Told of events that cannot be read: the job was deleted meanwhile.
            self._known, self.ended = len(self.frames), True
        for event in events:
            self.take(event)


class AccountSubscriber(Subscriber, Protocol):
    """Who watches an account: `jobs` are the only ones it wants (None: all)."""

    jobs: Collection[str] | None
    rest: Collection[str]
    """The jobs whose events follow in its snapshot, which is read in parts."""
    fresh: bool
    """Its cursor is what its client said, and not yet known to be a position of this account."""


class AccountTail(Tail):
    """One watched account. Frames are not kept: who lags reads the store."""

    def __init__(self, account: str, store: Feeds) -> None:
        super().__init__(account)
        self._store = store
        self._head = -1
        """The newest position that was told; below 0: none yet."""
        self._start = -1
        """The position before the first of those that are to be published."""
        self._coming: list[tuple[str, bytes]] = []

    def take(self, event: Event) -> None:
        """Add a told event; where those between are missing, whoever lacks them reads them."""
        if event.position <= self._head:
            return
        if event.position != self._head + 1:
            self._coming.clear()
            self._start = event.position - 1
        self._head = event.position
        if not event.delta:
            self._coming.append((event.job, sse.frame(event.data, event.position)))

    def publish(self, tick: int) -> int:
        """Push what is new to who is live, and return how many deliveries that were."""
        coming, self._coming = self._coming, []
        start, self._start = self._start, self._head
        everything = b"".join(frame for _, frame in coming)
        chunk, small = sse.chunk(everything), len(everything) <= _JOINED
        delivered = 0
        for subscriber in cast("set[AccountSubscriber]", self.live):
            if subscriber.cursor >= self._head:
                continue
            wanted = coming if subscriber.jobs is None else [pair for pair in coming if pair[0] in subscriber.jobs]
            own = chunk if len(wanted) == len(coming) else sse.chunk(b"".join(frame for _, frame in wanted))
            if subscriber.cursor == start and small and (not wanted or subscriber.push(own)):
                subscriber.cursor = self._head
                subscriber.at = tick if wanted else subscriber.at
                delivered += len(wanted)
            else:
                subscriber.wake()
        return delivered

    async def refresh(self) -> None:
        """Find out where the feed is now, after changes went untold; whoever lags then reads."""
        while True:
            try:
                head = (await self._store.snapshot(self.account, ())).head
                break
            except Unavailable:
                await asyncio.sleep(_AGAIN)
        if head > self._head:
            self._coming.clear()
            self._head = self._start = head
            self.wake()

    async def after(self, subscriber: AccountSubscriber) -> bytes:
        """The next frames for a subscriber, whose cursor moves behind them; nothing when it is at the head.

        A cursor below 0 begins with a snapshot; one that is not kept with a `reset` and a snapshot.
        """
        if subscriber.cursor < 0 or subscriber.rest:
            return await self._snapshot(subscriber)
        while subscriber.fresh or subscriber.cursor < self._head:
            stretch = await self._store.read_account(self.account, subscriber.cursor, _STRETCH)
            if stretch is None:
                return _RESET + await self._snapshot(subscriber)
            subscriber.fresh = False
            full = stretch.cut or len(stretch.events) == _STRETCH
            subscriber.cursor = stretch.events[-1].position if full else stretch.head
            if frames := _frames(stretch.events, subscriber.jobs):
                return frames
        return b""

    async def _snapshot(self, subscriber: AccountSubscriber) -> bytes:
        if subscriber.rest:
            stretch = await self._store.snapshot(self.account, subscriber.rest, subscriber.cursor)
        else:
            stretch = await self._store.snapshot(self.account, subscriber.jobs)
        subscriber.cursor, subscriber.fresh, subscriber.rest = stretch.head, False, stretch.rest
        frames = _frames(stretch.events, None)
        if not stretch.rest:
            return frames + b"event: ready\ndata: {}\nid: %d\n\n" % stretch.head
        # Nothing is left of this part where all its jobs were deleted meanwhile.
        return frames or await self._snapshot(subscriber)

    def stopped(self, subscriber: Subscriber) -> bool:
        """An account's feed never ends by itself."""
        del subscriber
        return False


def _frames(events: Sequence[Event], jobs: Collection[str] | None) -> bytes:
    return b"".join(sse.frame(event.data, event.position) for event in events if jobs is None or event.job in jobs)


def _count_down(counter: Counter[str], name: str) -> int:
    """One less; what has come to nothing is not kept."""
    counter[name] -= 1
    return counter[name] or counter.pop(name)


AnyTail = TypeVar("AnyTail", JobTail, AccountTail)


class _Waiter:
    """Who only wants to know that something came."""

    def __init__(self, key: str) -> None:
        self.cursor = 0
        self.at = math.inf
        self.key = key
        self.came = asyncio.Event()

    def push(self, _: bytes) -> bool:
        self.came.set()
        return True

    def wake(self) -> None:
        self.came.set()


class Feed:
    """All tails of this process. `run` follows the store's changes until it is cancelled."""

    def __init__(self, store: Feeds, heartbeat: float = 4.0, lag: Callable[[float], None] | None = None) -> None:
        self._store = store
        self._lag = lag
        self._handed_in: list[float] = []
        """When what is to be published was handed in to be recorded."""
        self.heartbeat = heartbeat
        """Seconds of silence after which a stream says something."""
        self._jobs: dict[tuple[str, str], JobTail] = {}
        self._accounts: dict[str, AccountTail] = {}
        self._unpublished: set[JobTail | AccountTail] = set()
        self._published_at = 0.0
        self._refreshing: set[asyncio.Task[None]] = set()
        self.watched: Counter[str] = Counter()
        """Open streams, by account."""
        self.keys: Counter[str] = Counter()
        """Open streams, by the id of the key that each was let in by."""
        self.revoked: set[str] = set()
        """Those of `keys` whose streams are to break off."""
        self.tick = 0
        """Counts the looks for silent streams."""
        self._due: dict[int, list[JobTail | AccountTail]] = defaultdict(list)
        """The tails, by the tick in which one of their streams may have been silent too long."""
        self.delivered = 0
        """Events that were handed to live streams."""
        self.stopped = False
        """Nothing follows the store any more: at the end, or because the server's own work has died."""
        self.stopping = False
        """The server stops: every stream breaks off, so that its client comes back elsewhere or later."""

    async def run(self) -> None:
        """Tell the tails what the store records, and the silent streams that all is well."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                async for change in self._store.changes():
                    self._tell(change)
        finally:
            self.stopped = True
            for task in self._refreshing:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self._refreshing, return_exceptions=True)

    def metrics(self) -> Iterator[Metric]:
        """What there is now, for a scrape."""
        yield gauge("streams", "Open streams.", (), {(): self.streams})
        yield total("events_delivered", "Events handed to live streams.", (), {(): self.delivered})

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self.watched.total()

    def stop(self) -> None:
        """Have every stream break off, and every new one too."""
        self.stopping = True
        for tail in (*self._jobs.values(), *self._accounts.values()):
            tail.wake()

    def revoke(self, keys: set[str]) -> None:
        """Have the streams of these keys break off."""
        self.revoked |= self.keys.keys() & keys  # some may have closed their last one meanwhile
        for tail in (*self._jobs.values(), *self._accounts.values()):
            for subscriber in tail.live:
                if subscriber.key in self.revoked:
                    subscriber.wake()

    def _tell(self, change: Change) -> None:
        if change.lost:
            self._read_anew()
        if change.deleted:
            self.forget(change.account, change.job)
        if change.event is None:
            return
        if (tail := self._jobs.get((change.account, change.job))) is not None:
            if tail.take(change.event):
                self._publish_soon(tail)
            else:
                self._refresh(tail, change.n)
        if (account := self._accounts.get(change.account)) is not None:
            account.take(change.event)
            self._publish_soon(account)
        if self._lag is not None and change.at and self._unpublished:
            self._handed_in.append(change.at)

    def _read_anew(self) -> None:
        """Changes went untold: whoever lags is found by reading."""
        for job in self._jobs.values():
            self._refresh(job)
        for account in self._accounts.values():
            self._hold(asyncio.create_task(account.refresh()))

    def _publish_soon(self, tail: JobTail | AccountTail) -> None:
        """Publish in this loop's next round, or when the window since the last round is over."""
        if not self._unpublished:
            loop = asyncio.get_running_loop()
            loop.call_at(max(self._published_at + _WINDOW, loop.time()), self._publish)
        self._unpublished.add(tail)

    def _publish(self) -> None:
        tails, self._unpublished = self._unpublished, set()
        for tail in tails:
            try:
                self.delivered += tail.publish(self.tick)
            except Exception:
                log.exception("A feed could not be pushed to all; each looks for itself.")
                tail.wake()
        self._published_at = asyncio.get_running_loop().time()
        for at in self._handed_in:
            assert self._lag is not None  # noqa: S101 - else nothing was noted
            self._lag(at)
        self._handed_in.clear()

    async def _beat(self) -> None:
        """One timer for all streams: say something on those that have been silent for a heartbeat's time."""
        while True:
            await asyncio.sleep(self.heartbeat / _TICKS)
            self.tick += 1
            for tail in self._due.pop(self.tick, ()):
                if tail.watchers or tail.left_at + _TICKS >= self.tick:
                    self._due[tail.beat(self.tick)].append(tail)
                else:
                    self._drop(tail)

    def _keep(self, tail: JobTail | AccountTail) -> None:
        if not tail.kept:
            tail.kept = True
            self._due[self.tick + _TICKS + 1].append(tail)

    def _drop(self, tail: JobTail | AccountTail) -> None:
        tail.kept = False
        if isinstance(tail, JobTail):
            if self._jobs.get((tail.account, tail.job)) is tail:  # else it was deleted, and another has its place
                del self._jobs[tail.account, tail.job]
        else:
            del self._accounts[tail.account]

    def _refresh(self, tail: JobTail, known: int = 0) -> None:
        task = asyncio.create_task(tail.refresh(self._store, known))
        task.add_done_callback(lambda _: self._publish_soon(tail))
        self._hold(task)

    def _hold(self, task: "asyncio.Task[None]") -> None:
        self._refreshing.add(task)
        task.add_done_callback(self._refreshed)

    def _refreshed(self, task: "asyncio.Task[None]") -> None:
        self._refreshing.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("What is watched cannot be read.", exc_info=error)

    async def job(self, account: str, job: str, first: Event | None = None) -> JobTail | None:
        """The tail of an account's job, from its first event on, shared with all who watch; None: no such job.

        It follows the log from now on, and is dropped some seconds after its last watcher. `first` is the job's only
        event, as its admission gave it: then nothing is read. Raises Unavailable.
        """
        tail = self._jobs.get((account, job))
        if tail is None:
            # Registered before the read: what is recorded from now on is told to it.
            tail = self._jobs[account, job] = JobTail(account, job)
            self._keep(tail)
        tail.left_at = self.tick
        if not tail.head:
            for event in [first] if first else await self._store.read(job, 0, account):
                tail.take(event)
            tail.publish(self.tick)
        return tail if tail.head else None

    def forget(self, account: str, job: str) -> None:
        """A job was deleted: its streams end, and nobody finds its tail any more."""
        if tail := self._jobs.pop((account, job), None):
            tail.ended = True
            tail.wake()

    def account(self, account: str) -> AccountTail:
        """The tail of an account, shared with all who watch it; dropped some seconds after its last watcher."""
        tail = self._accounts.setdefault(account, AccountTail(account, self._store))
        self._keep(tail)
        tail.left_at = self.tick
        return tail

    def join(self, tail: AnyTail, key: str) -> AnyTail:
        """Watch a tail, let in by a key, until `leave`; gives the one to follow, should this one have been dropped."""
        if isinstance(tail, AccountTail):
            kept = self._accounts.setdefault(tail.account, tail)
        else:
            if (tail.account, tail.job) not in self._jobs:
                self._refresh(tail)
            kept = self._jobs.setdefault((tail.account, tail.job), tail)
        self._keep(kept)
        kept.watchers += 1
        self.watched[tail.account] += 1
        self.keys[key] += 1
        return kept

    def leave(self, tail: JobTail | AccountTail, key: str) -> None:
        """Watch a tail no more."""
        tail.watchers -= 1
        tail.left_at = self.tick
        _count_down(self.watched, tail.account)
        if not _count_down(self.keys, key):
            self.revoked.discard(key)

    async def reached(self, tail: JobTail, beyond: int, seconds: float, key: str) -> None:
        """Wait until the job has an event above `beyond`, or is over, but no longer than `seconds`.

        Nor when the server stops, or the key by which the caller was let in is revoked.
        """
        waiter, kept = _Waiter(key), self.join(tail, key)
        kept.live.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                while not (kept.head > beyond or kept.ended or self.stopping or key in self.revoked):
                    waiter.came.clear()
                    await waiter.came.wait()
        except TimeoutError:
            return
        finally:
            kept.live.discard(waiter)
            self.leave(kept, key)
