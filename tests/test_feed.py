import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from proxy import sse
from proxy.errors import Unavailable
from proxy.feed import Feed, Tail
from proxy.job import Draft, Event, Job, Order, Status
from proxy.store.base import Admission, Claim, Room
from proxy.store.sqlite import SqliteStore
from tests.world import JumpClock

PROGRESS = Draft(Status.PROCESSING, {"detail": "Rendering"})
DONE = Draft(Status.COMPLETED, {"url": "https://example.com/cat.mp4"})


class WatchedStore(SqliteStore):
    """A store that counts its reads, and serves none of the next `away` ones."""

    reads = 0
    away = 0

    async def read(self, job_id: str, after: int) -> Sequence[Event]:
        self.reads += 1
        if self.away:
            self.away -= 1
            raise Unavailable("The store is away.")
        return await super().read(job_id, after)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[WatchedStore]:
    async with WatchedStore(tmp_path / "pollcast.db", JumpClock()) as store:
        yield store


@pytest.fixture
async def feed(store: WatchedStore) -> AsyncIterator[Feed]:
    feed = Feed(store)
    running = asyncio.create_task(feed.run())
    await asyncio.sleep(0)  # it listens from now on
    yield feed
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def start(store: SqliteStore) -> Claim:
    """A new job at its first event."""
    digest = str(len(await store.keys())).encode()
    key = await store.create_key("web", digest, 100)
    await store.admit(Admission(key.account, key.id, Order("suno", {"prompt": "A song"}), 1))
    (claim,) = await store.claim("node", {"": Room(1, 60)}, 1)
    return claim


async def logged(store: SqliteStore, job: Job) -> list[bytes]:
    """What the log holds, as frames."""
    return [sse.frame(event.data, event.n) for event in await store.read(job.id, 0)]


async def reached(tail: Tail, n: int) -> None:
    """Wait until event `n` is in the tail."""
    async with asyncio.timeout(5):
        while len(tail.frames) < n:
            await tail.wait()


async def test_a_tail_reads_what_was_there_before_it(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    await store.append(claim, PROGRESS)
    async with feed.watch(claim.job.id, 2) as tail:
        await reached(tail, 2)
        assert tail.frames == await logged(store, claim.job)
        assert not tail.ended


async def test_a_tail_reads_what_comes_after(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with feed.watch(claim.job.id, 1) as tail:
        await reached(tail, 1)
        await store.append(claim, PROGRESS)
        await reached(tail, 2)
        await store.append(claim, DONE)
        await reached(tail, 3)
        assert tail.frames == await logged(store, claim.job)
        assert [frame.splitlines()[-2] for frame in tail.frames] == [b"id: 1", b"id: 2", b"id: 3"]
        assert tail.ended


async def test_a_tail_of_a_job_that_is_over_has_ended(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    await store.append(claim, DONE)
    async with feed.watch(claim.job.id, 2) as tail:
        await reached(tail, 2)
        assert tail.ended


async def test_an_event_between_the_look_at_the_job_and_the_watch_is_not_missed(
    store: WatchedStore, feed: Feed
) -> None:
    claim = await start(store)
    known = claim.job.event
    await store.append(claim, PROGRESS)
    async with feed.watch(claim.job.id, known) as tail:
        await reached(tail, 2)


async def test_many_events_come_whole_and_in_order(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with feed.watch(claim.job.id, 1) as tail:
        await asyncio.gather(*(store.append(claim, PROGRESS) for _ in range(50)))
        await reached(tail, 51)
        assert tail.frames == await logged(store, claim.job)


async def test_a_tail_holds_no_other_job_s_events(store: WatchedStore, feed: Feed) -> None:
    one, other = await start(store), await start(store)
    async with feed.watch(one.job.id, 1) as tail, feed.watch(other.job.id, 1) as beside:
        await store.append(other, DONE)
        await reached(beside, 2)
        await reached(tail, 1)
        assert tail.frames == await logged(store, one.job)


async def test_two_watchers_share_one_tail_and_one_read(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with feed.watch(claim.job.id, 1) as one, feed.watch(claim.job.id, 1) as other:
        assert one is other
        assert one.watchers == 2
        await reached(one, 1)
        assert store.reads == 1


async def test_one_event_wakes_all_who_wait(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with feed.watch(claim.job.id, 1) as tail:
        await reached(tail, 1)
        waiters = [tail.wait() for _ in range(10)]
        await store.append(claim, PROGRESS)
        async with asyncio.timeout(5):
            await asyncio.gather(*waiters)


async def test_a_waiter_that_was_let_go_or_cancelled_is_in_nobody_s_way(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with feed.watch(claim.job.id, 1) as tail:
        await reached(tail, 1)
        forgotten, cancelled, waiter = tail.wait(), tail.wait(), tail.wait()
        tail.forget(forgotten)
        cancelled.cancel()
        await store.append(claim, PROGRESS)
        async with asyncio.timeout(5):
            await waiter
        assert not forgotten.done()


async def test_a_tail_stays_while_one_still_watches(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with feed.watch(claim.job.id, 1) as tail:
        async with feed.watch(claim.job.id, 1):
            pass
        async with feed.watch(claim.job.id, 1) as again:
            assert again is tail


async def test_a_tail_is_dropped_with_its_last_watcher(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with feed.watch(claim.job.id, 1) as tail:
        await reached(tail, 1)
    async with feed.watch(claim.job.id, 1) as another:
        assert another is not tail
        await reached(another, 1)
        assert another.frames == tail.frames


async def test_a_watcher_that_fails_leaves_too(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    with pytest.raises(RuntimeError, match="client"):
        async with feed.watch(claim.job.id, 1) as tail:
            raise RuntimeError("The client is gone.")
    assert tail.watchers == 0


async def test_a_job_that_nobody_watches_is_not_read(store: WatchedStore, feed: Feed) -> None:
    claim, watched = await start(store), await start(store)
    async with feed.watch(watched.job.id, 1) as tail:
        await store.append(claim, PROGRESS)
        await store.append(watched, PROGRESS)
        await reached(tail, 2)
        reads = store.reads
        await store.append(claim, DONE)
        await store.append(watched, DONE)
        await reached(tail, 3)
        assert store.reads == reads + 1


async def test_a_store_that_is_away_is_asked_again(
    store: WatchedStore, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.feed._AGAIN", 0.001)
    claim = await start(store)
    store.away = 3
    async with feed.watch(claim.job.id, 1) as tail:
        await reached(tail, 1)
        assert store.reads == 4


async def test_a_tail_that_was_told_of_what_cannot_be_read_has_ended(feed: Feed) -> None:
    async with feed.watch("job_deleted", 3) as tail, asyncio.timeout(5):
        await tail.wait()
        assert tail.ended
        assert tail.frames == []


async def test_a_feed_that_is_stopped_leaves_no_read_behind(store: WatchedStore) -> None:
    feed = Feed(store)
    running = asyncio.create_task(feed.run())
    await asyncio.sleep(0)
    store.away = 1_000_000
    async with feed.watch("job_1", 1):
        while not store.reads:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(asyncio.all_tasks()) == 1
