"""The feed: live and catching-up subscribers, heartbeats, and the end of tails."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Send

from proxy.core import sse
from proxy.core.errors import Unavailable
from proxy.core.job import Draft, Event, Job, Order, Status
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import Admission, Change, Claim, FeedSlice, QueueRoom
from proxy.streams.feed import AccountTail, Feed, JobTail
from proxy.streams.stream import AccountStream, JobStream, LineStream
from tests.support.deployment import JumpClock

PROGRESS = Draft(Status.PROCESSING, {"detail": "Rendering"})
HEARTBEAT = sse.chunk(sse.HEARTBEAT)
DONE = Draft(Status.COMPLETED, {"url": "https://example.com/cat.mp4"})


class WatchedStore(SqliteStore):
    """A store that counts its reads. The next `away` reads raise Unavailable."""

    reads = 0
    away = 0

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        self.reads += 1
        if self.away:
            self.away -= 1
            raise Unavailable("The store is unavailable.")
        return await super().read(job_id, after, account)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[WatchedStore]:
    async with WatchedStore(tmp_path / "pollcast.db", JumpClock()) as store:
        yield store


@pytest.fixture
async def feed(store: WatchedStore) -> AsyncIterator[Feed]:
    feed = Feed(store)
    running = asyncio.create_task(feed.run())
    await asyncio.sleep(0)  # it receives changes from now on
    yield feed
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def start(store: SqliteStore) -> Claim:
    """Return the claim of a new job with one event."""
    digest = str(len(await store.keys())).encode()
    key = await store.create_key("web", digest, 100)
    await store.admit(Admission(key.account, key.id, Order("suno", {"prompt": "A song"}), 1))
    (claim,) = await store.claim("node", {"": QueueRoom(100, 60)}, 1)
    return claim


async def frames_in_log(store: SqliteStore, job: Job) -> list[bytes]:
    """Return the events of the log as frames."""
    return [sse.frame(event.data, event.n) for event in await store.read(job.id, 0)]


async def wait_for_event(tail: JobTail, n: int) -> None:
    """Wait until event `n` is published."""
    async with asyncio.timeout(5):
        while tail.head < n:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def beating(store: SqliteStore) -> AsyncIterator[Feed]:
    """Run a feed with a heartbeat every 16 ms."""
    feed = Feed(store, heartbeat=0.016)
    running = asyncio.create_task(feed.run())
    yield feed
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


@asynccontextmanager
async def watch(feed: Feed, claim: Claim) -> AsyncIterator[JobTail]:
    """Watch the tail of a claim's job."""
    tail = await feed.job(claim.job.account, claim.job.id)
    assert tail is not None
    kept = feed.join(tail, "key")
    try:
        yield kept
    finally:
        feed.leave(kept, "key")


class Reader:
    """A subscriber that accepts every push, unless it is slow."""

    def __init__(self, cursor: int = 0, *, slow: bool = False, jobs: Collection[str] | None = None) -> None:
        self.cursor = cursor
        self.last_write_tick: float = math.inf
        self.key = ""
        self.jobs = jobs
        self.cursor_unchecked = True
        self.snapshot_rest: Collection[str] = ()
        self.slow = slow
        self.pushed: list[bytes] = []
        self.woken = 0

    def push(self, chunk: bytes) -> bool:
        if not self.slow:
            self.pushed.append(chunk)
        return not self.slow

    def wake(self) -> None:
        self.woken += 1


async def silence() -> Message:
    """Receive nothing from a client that stays connected."""
    await asyncio.Event().wait()
    raise AssertionError


def writing(sent: list[bytes]) -> Send:
    async def send(message: Message) -> None:
        sent.append(message["body"])

    return send


def numbers(data: bytes) -> list[int]:
    """Return the ids of frames."""
    return [int(number) for number in re.findall(rb"^id: (\d+)$", data, re.MULTILINE)]


async def test_a_tail_reads_the_events_before_it(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    await store.append(claim, PROGRESS)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 2)
        assert tail.frames == await frames_in_log(store, claim.job)
        assert not tail.ended


async def test_a_tail_receives_later_events(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 1)
        await store.append(claim, PROGRESS)
        await wait_for_event(tail, 2)
        await store.append(claim, DONE)
        await wait_for_event(tail, 3)
        assert tail.frames == await frames_in_log(store, claim.job)
        assert [frame.splitlines()[-2] for frame in tail.frames] == [b"id: 1", b"id: 2", b"id: 3"]
        assert tail.ended


async def test_the_tail_of_an_ended_job_has_ended(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    await store.append(claim, DONE)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 2)
        assert tail.ended


async def test_an_event_before_the_watch_begins_is_not_missed(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    await store.append(claim, PROGRESS)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 2)


async def test_many_events_arrive_completely_and_in_order(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        await asyncio.gather(*(store.append(claim, PROGRESS) for _ in range(50)))
        await wait_for_event(tail, 51)
        assert tail.frames == await frames_in_log(store, claim.job)


async def test_a_tail_has_no_events_of_other_jobs(store: WatchedStore, feed: Feed) -> None:
    one, other = await start(store), await start(store)
    async with watch(feed, one) as tail, watch(feed, other) as other_tail:
        await store.append(other, DONE)
        await wait_for_event(other_tail, 2)
        await wait_for_event(tail, 1)
        assert tail.frames == await frames_in_log(store, one.job)


async def test_two_watchers_share_one_tail_and_one_read(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as one, watch(feed, claim) as other:
        assert one is other
        assert one.watchers == 2
        await wait_for_event(one, 1)
        assert store.reads == 1


async def test_live_subscribers_get_the_same_chunk_encoded_once(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 1)
        readers = [Reader(cursor=1) for _ in range(3)]
        for reader in readers:
            tail.live.add(reader)
        await store.append(claim, PROGRESS)
        await wait_for_event(tail, 2)
        (chunk,) = readers[0].pushed
        assert chunk == sse.chunk((await frames_in_log(store, claim.job))[1])
        assert all(reader.pushed[0] is chunk and reader.cursor == 2 for reader in readers)
        assert not any(reader.woken for reader in readers)


async def test_a_slow_subscriber_is_woken_and_reads_after_its_cursor(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 1)
        reader = Reader(cursor=1, slow=True)
        tail.live.add(reader)
        await store.append(claim, PROGRESS)
        await store.append(claim, PROGRESS)
        await wait_for_event(tail, 3)
        assert (reader.cursor, reader.woken > 0) == (1, True)
        assert numbers(await tail.next_frames(reader)) == [2, 3]
        assert await tail.next_frames(reader) == b""


async def test_a_subscriber_that_joins_before_the_read_gets_nothing_twice(store: WatchedStore) -> None:
    claim = await start(store)
    for _ in range(3):
        await store.append(claim, PROGRESS)
    tail, reader = JobTail(claim.job.account, claim.job.id), Reader(cursor=2)
    tail.live.add(reader)
    await tail.refresh(store, 4)
    tail.publish(0)
    assert reader.pushed == []
    assert numbers(await tail.next_frames(reader)) == [3, 4]


async def test_a_log_too_long_for_one_write_is_sent_in_parts(store: WatchedStore) -> None:
    claim = await start(store)
    for _ in range(20):
        await store.append(claim, Draft(Status.PROCESSING, {"detail": "x" * 10_000}))
    tail, reader = JobTail(claim.job.account, claim.job.id), Reader()
    tail.live.add(reader)
    await tail.refresh(store, 21)
    tail.publish(0)
    assert reader.pushed == []
    pieces = [await tail.next_frames(reader) for _ in range(5)]
    assert [number for piece in pieces for number in numbers(piece)] == list(range(1, 22))
    assert all(len(piece) <= 1 << 16 for piece in pieces)


async def test_the_final_event_wakes_all_subscribers(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 1)
        reader = Reader(cursor=1)
        tail.live.add(reader)
        await store.append(claim, DONE)
        await wait_for_event(tail, 2)
        assert numbers(reader.pushed[0]) == [2]
        assert reader.woken
        assert tail.is_finished_for(reader)


async def test_a_timeout_at_the_final_event_delays_no_other_stream(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        streams = [JobStream(feed, tail, 0, "key_1", idle) for idle in (0.02, 30, 30, 30, 30, 30)]
        sent: list[bytes] = []
        serving = [asyncio.create_task(stream.serve(silence, writing(sent))) for stream in streams]
        await asyncio.sleep(0.01)
        time.sleep(0.03)  # noqa: ASYNC251 - its timeout has expired, but its task has not run yet
        tail.take(Event(claim.job.id, 2, b"{}", final=True, position=2))
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time(), tail.publish, 0)  # in the same round, and after it
        async with asyncio.timeout(5):
            await asyncio.gather(*serving)
        assert sum(frames.count(b"id: 2") for frames in sent) == len(streams)


async def test_an_exception_in_one_push_costs_no_other_subscriber_an_event(
    store: WatchedStore, feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Reader):
        def push(self, chunk: bytes) -> bool:
            raise RuntimeError(f"Internal error with {len(chunk)} bytes.")

    claim = await start(store)
    async with watch(feed, claim) as tail:
        readers = [Broken(1), *(Reader(1) for _ in range(5))]
        tail.live |= set(readers)
        await store.append(claim, PROGRESS)
        async with asyncio.timeout(5):
            while not all(reader.pushed or reader.woken for reader in readers):
                await asyncio.sleep(0.001)
    assert "Internal error with" in caplog.text


async def test_an_event_of_any_length_becomes_one_line(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    url = f"https://example.com/{'x' * (2 << 20)}".encode()
    async with watch(feed, claim) as tail:
        tail.take(Event(claim.job.id, 2, b'{"status":"Completed","url":"%s"}' % url, final=True, position=2))
        tail.publish(0)
        sent: list[bytes] = []
        await LineStream(feed, tail, 0, "key_1").serve(silence, writing(sent))
    assert b"".join(sent).splitlines()[-1] == url


async def test_a_read_without_new_events_pushes_nothing(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 1)
        reader = Reader(cursor=1)
        tail.live.add(reader)
        assert tail.publish(1) == 0
        assert (reader.pushed, reader.woken) == ([], 0)


async def test_simultaneous_events_are_pushed_together(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        await wait_for_event(tail, 1)
        reader = Reader(cursor=1)
        tail.live.add(reader)
        await asyncio.gather(*(store.append(claim, PROGRESS) for _ in range(50)))
        await wait_for_event(tail, 51)
        assert [number for chunk in reader.pushed for number in numbers(chunk)] == list(range(2, 52))
        assert len(reader.pushed) < 25


@pytest.mark.parametrize("missed", [0, 1])
async def test_missed_changes_are_read(store: WatchedStore, missed: int) -> None:
    class LossyStore(WatchedStore):
        async def changes(self) -> AsyncIterator[Change]:
            await lose_changes.wait()
            yield Change("", "", 0, lost=True)
            await asyncio.Event().wait()

    lose_changes = asyncio.Event()
    store.__class__ = LossyStore
    feed = Feed(store)
    running = asyncio.create_task(feed.run())
    claim = await start(store)
    account = feed.join(feed.account(claim.job.account), "key")
    tail, reader = await feed.job(claim.job.account, claim.job.id), Reader(cursor=-1)
    assert tail is not None
    await account.next_frames(reader)
    account.live.add(reader)
    reads = store.reads
    for _ in range(missed):
        await store.append(claim, PROGRESS)
    lose_changes.set()
    while store.reads == reads or reader.woken < missed:
        await asyncio.sleep(0.001)
    await wait_for_event(tail, 1 + missed)
    assert not tail.ended
    assert numbers(await account.next_frames(reader)) == [reader.cursor] * missed
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


# --- accounts ---


@pytest.fixture
async def claim(store: WatchedStore) -> Claim:
    return await start(store)


@pytest.fixture
async def account(feed: Feed, claim: Claim) -> AsyncIterator[AccountTail]:
    tail = feed.join(feed.account(claim.job.account), "key")
    yield tail
    feed.leave(tail, "key")


async def live(account: AccountTail, reader: Reader) -> bytes:
    """Let a reader catch up and become live. Return the frames."""
    caught = b""
    while frames := await account.next_frames(reader):
        caught += frames
    account.live.add(reader)
    return caught


async def until(reader: Reader, count: int) -> None:
    async with asyncio.timeout(5):
        while len(reader.pushed) < count:
            await asyncio.sleep(0.001)


async def test_an_accounts_feed_begins_with_a_snapshot_and_continues_live(
    store: WatchedStore, account: AccountTail, claim: Claim
) -> None:
    reader = Reader(cursor=-1)
    caught = await live(account, reader)
    first, head = numbers(caught)
    assert caught.endswith(b"event: ready\ndata: {}\nid: %d\n\n" % head)
    assert first == head == reader.cursor
    await store.append(claim, PROGRESS)
    await until(reader, 1)
    assert numbers(reader.pushed[0]) == [head + 1]


async def test_an_accounts_feed_resumes_after_a_position(
    store: WatchedStore, account: AccountTail, claim: Claim
) -> None:
    head = (await store.snapshot(claim.job.account)).head
    for _ in range(3):
        await store.append(claim, PROGRESS)
    assert numbers(await live(account, Reader(cursor=head + 1))) == [head + 2, head + 3]


async def test_an_unknown_position_gets_a_reset(account: AccountTail) -> None:
    caught = await live(account, Reader(cursor=7))
    assert caught.startswith(b"event: reset\ndata: {}\n\ndata: ")
    assert b"event: ready\n" in caught


async def test_a_feed_of_named_jobs_has_only_their_events(
    store: WatchedStore, account: AccountTail, claim: Claim
) -> None:
    other = await start(store)
    named, all_of_them = Reader(cursor=-1, jobs=[claim.job.id]), Reader(cursor=-1)
    assert len(numbers(await live(account, named))) == 2
    assert len(numbers(await live(account, all_of_them))) == 3
    await store.append(other, PROGRESS)
    await store.append(claim, PROGRESS)
    await until(named, 1)
    assert other.job.id.encode() not in b"".join(named.pushed)
    assert named.cursor == all_of_them.cursor == (await store.snapshot(claim.job.account)).head


async def test_streamed_text_is_omitted_without_waking_subscribers(
    store: WatchedStore, account: AccountTail, claim: Claim
) -> None:
    reader = Reader(cursor=-1)
    await live(account, reader)
    await store.append(claim, Draft(Status.PROCESSING, {"delta": "Hi", "offset": 0}))
    await store.append(claim, PROGRESS)
    await until(reader, 1)
    assert b"delta" not in b"".join(reader.pushed)
    assert not reader.woken


async def test_a_slow_reader_of_an_account_reads_all_after_its_cursor(
    store: WatchedStore, account: AccountTail, claim: Claim
) -> None:
    reader = Reader(cursor=-1, slow=True)
    _, head = numbers(await live(account, reader))
    for _ in range(300):
        await store.append(claim, PROGRESS)
    assert reader.woken
    found = numbers(await live(account, reader))
    assert found == list(range(head + 1, head + 301))


async def test_a_reader_that_joins_during_events_misses_and_repeats_none(
    store: WatchedStore, account: AccountTail, claim: Claim
) -> None:
    async def write() -> None:
        for _ in range(100):
            await store.append(claim, PROGRESS)

    writing = asyncio.create_task(write())
    readers = []
    while not writing.done():
        reader = Reader(cursor=-1)
        caught = await live(account, reader)
        readers.append((reader, numbers(caught)[-1]))
        await asyncio.sleep(0.002)
    await writing
    await asyncio.sleep(0.01)
    end = (await store.snapshot(claim.job.account)).head
    for reader, ready in readers:
        seen = [number for chunk in reader.pushed for number in numbers(chunk)]
        while frames := await account.next_frames(reader):
            seen += numbers(frames)
        assert seen == list(range(ready + 1, end + 1))


# --- who watches ---


async def test_a_tail_is_kept_while_one_watcher_is_left(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    async with watch(feed, claim) as tail:
        async with watch(feed, claim):
            pass
        async with watch(feed, claim) as again:
            assert again is tail


async def test_a_tail_is_dropped_some_time_after_its_last_watcher(store: WatchedStore) -> None:
    async with beating(store) as feed:
        claim = await start(store)
        async with watch(feed, claim) as tail:
            await asyncio.sleep(0.05)
            assert await feed.job(claim.job.account, claim.job.id) is tail
        assert await feed.job(claim.job.account, claim.job.id) is tail
        async with asyncio.timeout(5):
            while tail.scheduled:
                await asyncio.sleep(0.001)
        another = await feed.job(claim.job.account, claim.job.id)
        assert another is not None
        assert another is not tail
        assert another.frames == tail.frames


async def test_dropping_a_deleted_jobs_tail_keeps_its_newer_tail(store: WatchedStore) -> None:
    async with beating(store) as feed:
        claim = await start(store)
        deleted = await feed.job(claim.job.account, claim.job.id)
        assert deleted is not None
        feed.forget(claim.job.account, claim.job.id)
        async with watch(feed, claim) as another, asyncio.timeout(5):
            while deleted.scheduled:
                await asyncio.sleep(0.001)
            assert await feed.job(claim.job.account, claim.job.id) is another


async def test_a_stream_gets_a_heartbeat_only_after_a_silent_interval() -> None:
    tail, early, late = JobTail("acct_1", "job_1"), Reader(), Reader()
    early.last_write_tick, late.last_write_tick = 3, 9
    tail.live |= {early, late}
    assert tail.send_heartbeats(19) == 20
    assert (early.pushed, late.pushed) == ([], [])
    assert tail.send_heartbeats(20) == 26
    assert (early.pushed, late.pushed) == ([HEARTBEAT], [])
    assert tail.send_heartbeats(26) == 37
    assert (early.pushed, late.pushed) == ([HEARTBEAT], [HEARTBEAT])


async def test_every_silent_stream_gets_repeated_heartbeats(store: WatchedStore) -> None:
    async with beating(store) as feed, watch(feed, await start(store)) as tail:
        readers = [Reader() for _ in range(5)]
        for reader in readers:
            reader.last_write_tick = feed.tick
            tail.live.add(reader)
            await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            while not all(len(reader.pushed) > 2 for reader in readers):
                await asyncio.sleep(0.001)
        assert {chunk for reader in readers for chunk in reader.pushed} == {HEARTBEAT}


async def test_a_subscriber_that_refuses_a_heartbeat_is_woken() -> None:
    tail, slow = JobTail("acct_1", "job_1"), Reader(slow=True)
    slow.last_write_tick = 0
    tail.live.add(slow)
    tail.send_heartbeats(17)
    assert slow.woken == 1


async def test_a_tail_dropped_before_its_watch_catches_up(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    tail = JobTail(claim.job.account, claim.job.id)
    await tail.refresh(store, 1)
    await store.append(claim, PROGRESS)
    await wait_for_event(feed.join(tail, "key"), 2)


async def test_a_job_of_another_account_has_no_tail(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    other = await store.create_key("other", b"other", 0)
    assert await feed.job(other.account, claim.job.id) is None
    assert await feed.job(claim.job.account, claim.job.id) is not None


async def test_a_failed_watcher_leaves(store: WatchedStore, feed: Feed) -> None:
    claim = await start(store)
    with pytest.raises(RuntimeError, match="client"):
        async with watch(feed, claim) as tail:
            raise RuntimeError("The client is gone.")
    assert tail.watchers == 0


async def test_an_unwatched_job_is_not_read(store: WatchedStore, feed: Feed) -> None:
    claim, watched = await start(store), await start(store)
    async with watch(feed, watched) as tail:
        await store.append(claim, PROGRESS)
        await store.append(watched, PROGRESS)
        await wait_for_event(tail, 2)
        reads = store.reads
        await store.append(claim, DONE)
        await store.append(watched, DONE)
        await wait_for_event(tail, 3)
        assert store.reads == reads


async def test_a_read_is_repeated_while_the_store_is_unavailable(store: WatchedStore) -> None:
    claim = await start(store)
    store.away = 3
    tail = JobTail(claim.job.account, claim.job.id)
    await tail.refresh(store, 1, retry_delay=0.001)
    assert len(tail.frames) == 1


async def test_a_tail_ends_if_announced_events_cannot_be_read(store: WatchedStore) -> None:
    tail = JobTail("acct_1", "job_deleted")
    await tail.refresh(store, 3)
    assert tail.ended
    assert tail.frames == []


@pytest.mark.parametrize("break_off", [Feed.stop, lambda feed: feed.revoke({"key_1"})])
async def test_a_stream_that_must_break_off_during_a_read_ends(
    store: WatchedStore, feed: Feed, monkeypatch: pytest.MonkeyPatch, break_off: Callable[[Feed], None]
) -> None:
    claim = await start(store)
    tail, witness, reading, read = feed.account(claim.job.account), Reader(), asyncio.Event(), asyncio.Event()
    tail.live.add(witness)

    async def snapshot_before_an_event(*asked: Any) -> FeedSlice:
        found = await SqliteStore.snapshot(store, *asked)
        await store.append(claim, PROGRESS)
        while not witness.woken:  # until the change has been published
            await asyncio.sleep(0.001)
        return found

    async def blocked_read(*asked: Any) -> FeedSlice | None:
        reading.set()
        await read.wait()
        return await SqliteStore.read_account(store, *asked)

    monkeypatch.setattr(store, "snapshot", snapshot_before_an_event)
    monkeypatch.setattr(store, "read_account", blocked_read)
    stream = AccountStream(feed, claim.job.account, "key_1", after=-1, jobs=["job_another"])
    serving = asyncio.create_task(stream.serve(silence, writing([])))
    async with asyncio.timeout(5):
        await reading.wait()
        break_off(feed)
        read.set()  # the slice has no event that it wants
        await serving


async def test_a_stopped_feed_leaves_no_running_read(store: WatchedStore) -> None:
    feed = Feed(store)
    running = asyncio.create_task(feed.run())
    await asyncio.sleep(0)
    store.away = 1_000_000
    feed.join(JobTail("acct_1", "job_1"), "key")
    while not store.reads:
        await asyncio.sleep(0.001)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(asyncio.all_tasks()) == 1
