"""Tests of the Redis store: the contract, lost replies, several nodes, and failures of the server."""

import asyncio
import builtins
import gc
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.core import errors
from proxy.core.job import Draft, Job, Order, Output, Role, Status
from proxy.store import open_store
from proxy.store.contract import Store
from proxy.store.redis.connection import RedisTimes
from proxy.store.redis.store import RedisStore
from proxy.store.types import Change, ClaimLost, QueueRoom
from tests.store.contract import StoreContract
from tests.support.redis_server import SAFE, FaultyProxy, RedisServer, contents, flush, shared_server
from tests.support.store import (
    DONE,
    FAILED,
    LEASE,
    PROGRESS,
    ROOMS,
    ManualClock,
    Opened,
    claim_one,
    details,
    gist,
    new_asset,
    new_caller,
    soon,
)

NO_RETRIES = RedisTimes(retries=0)


@pytest.fixture
def server() -> RedisServer:
    server = shared_server()
    flush(server)
    return server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may kill it or change its settings."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def faulty_proxy(server: RedisServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server) as faulty_proxy:
        yield faulty_proxy


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def opened(server: RedisServer, clock: ManualClock) -> Opened:
    return lambda: RedisStore(server.url, clock, lease=LEASE)


@pytest.fixture
async def nodes(opened: Opened) -> AsyncIterator[tuple[Store, Store]]:
    """Two nodes, each with its own store on the same Redis."""
    async with opened() as a, opened() as b:
        yield a, b


@pytest.fixture
async def behind_proxy(faulty_proxy: FaultyProxy, clock: ManualClock) -> AsyncIterator[Store]:
    """A store whose replies can be lost."""
    async with RedisStore(faulty_proxy.url, clock, lease=LEASE) as store:
        yield store


@pytest.fixture
async def without_retries(faulty_proxy: FaultyProxy, clock: ManualClock) -> AsyncIterator[Store]:
    """A store whose replies can be lost, and which does not retry."""
    async with RedisStore(faulty_proxy.url, clock, lease=LEASE, times=NO_RETRIES) as store:
        yield store


async def observe_leases(store: Store) -> None:
    """Let node `b` observe the leases without claiming a job, as a runner does every second."""
    assert await store.claim("b", {}, 0) == []


class TestRedisStore(StoreContract):
    @pytest.fixture
    def opened(self, server: RedisServer, clock: ManualClock) -> Opened:
        return lambda: RedisStore(server.url, clock, lease=LEASE)


# --- several nodes ---


async def test_every_node_gets_all_changes_in_the_same_order(nodes: tuple[Store, Store], clock: ManualClock) -> None:
    a, b = nodes
    callers = [await new_caller(store, name) for store, name in ((a, "web"), (b, "app"))]
    received = [store.changes() for store in nodes]
    await asyncio.gather(*(caller.admit(1) for caller in callers * 20))
    changes = [[await soon(each) for _ in range(40)] for each in received]
    assert changes[0] == changes[1]
    assert {change.at for change in changes[0]} == {clock.now()}
    for caller in callers:
        positions = [
            change.event.position for change in changes[0] if change.account == caller.account and change.event
        ]
        assert positions == list(range(positions[0], positions[0] + 20))


async def test_a_cancel_requested_at_one_node_reaches_the_other(nodes: tuple[Store, Store]) -> None:
    a, b = nodes
    caller = await new_caller(a)
    changes = b.changes()
    job = await caller.admit()
    await a.request_cancel(caller.account, job.id)
    received = [gist(await soon(changes)) for _ in range(2)]
    assert received == [Change(caller.account, job.id, 1), Change(caller.account, job.id, 1, cancel=True)]


async def test_nodes_share_the_room_of_a_queue(nodes: tuple[Store, Store]) -> None:
    a, b = nodes
    caller = await new_caller(a)
    for _ in range(4):
        await caller.admit(1)
    rooms = {"": QueueRoom(3, 1e9)}
    assert [len(await node.claim(name, rooms, limit)) for node, name, limit in ((a, "a", 2), (b, "b", 2))] == [2, 1]
    assert await a.claim("a", rooms, 2) == []


async def test_accounts_take_turns_over_all_nodes(nodes: tuple[Store, Store]) -> None:
    many, few = [await new_caller(nodes[0], name) for name in ("many", "few")]
    jobs = [await many.admit(1) for _ in range(3)]
    late = await few.admit(1)
    rooms = {"": QueueRoom(1, 1e9)}
    served = []
    for place in range(4):
        node = nodes[place % 2]
        (claim,) = await node.claim(f"node-{place % 2}", rooms, 10)
        served.append(claim.job.id)
        await node.append(claim, DONE)
    assert served == [jobs[0].id, late.id, jobs[1].id, jobs[2].id]


@pytest.mark.parametrize("sent", [False, True])
async def test_a_node_suspended_past_its_lease_changes_nothing_on_resume(
    nodes: tuple[Store, Store], server: RedisServer, clock: ManualClock, sent: bool
) -> None:
    a, b = nodes
    await (await new_caller(a)).admit()
    old = await claim_one(a, "a")
    if sent:
        await a.record_intent(old)
    await observe_leases(b)
    clock.time += LEASE
    new = await claim_one(b, "b")
    before = contents(server)
    for call in (a.append(old, PROGRESS), a.append(old, FAILED), a.record_intent(old), a.withdraw_intent(old)):
        with pytest.raises(ClaimLost):
            await call
    await a.release(old)
    assert contents(server) == before
    assert (await b.append(new, FAILED)).status is Status.ERROR


async def test_a_node_suspended_before_the_intent_reply_does_not_send(
    faulty_proxy: FaultyProxy, opened: Opened, clock: ManualClock
) -> None:
    async with RedisStore(faulty_proxy.url, clock, lease=LEASE) as a, opened() as b:
        caller = await new_caller(b)
        job = await caller.admit()
        old = await claim_one(a, "a")
        faulty_proxy.replying.clear()
        intending = asyncio.create_task(a.record_intent(old))
        while (found := await b.job(caller.account, job.id)) is None or found.intended_at is None:
            await asyncio.sleep(0.001)
        await observe_leases(b)
        clock.time += LEASE
        await claim_one(b, "b")
        faulty_proxy.replying.set()
        with pytest.raises(ClaimLost):
            await intending


async def test_concurrent_sweeps_of_two_nodes_delete_each_item_once(
    nodes: tuple[Store, Store], clock: ManualClock
) -> None:
    caller = await new_caller(nodes[0])
    for _ in range(10):
        await caller.admit(1)
    for claim in await nodes[0].claim("a", ROOMS, 10):
        await nodes[0].append(claim, replace(DONE, outputs=(Output(Role.IMAGE, "image/png", blob="b"),)))
    clock.time += 1
    swept = await asyncio.gather(*(node.sweep(clock.now(), 10) for node in nodes))
    assert all(len(each.blobs) == each.deleted for each in swept)
    assert max(each.deleted for each in swept) == 10
    assert (await nodes[0].jobs(caller.account, 10)).items == []


async def test_the_ledger_keeps_its_order_with_differing_clocks(server: RedisServer) -> None:
    ahead, back = ManualClock(), ManualClock()
    ahead.time += 60
    async with RedisStore(server.url, ahead) as a, RedisStore(server.url, back) as b:
        caller = await new_caller(a)
        for tokens, node in enumerate((a, b, a, b), start=1):
            await node.grant("web", tokens)
        assert await caller.ledger() == [100, 1, 2, 3, 4]
        page = await a.ledger(caller.account, 2)
        assert [entry.tokens for entry in (await a.ledger(caller.account, 9, page.next)).items] == [2, 1, 100]
        assert len({entry.id for entry in (await a.ledger(caller.account, 9)).items}) == 5


# --- lost replies ---


async def test_a_lost_reply_admits_a_job_only_once(behind_proxy: Store, faulty_proxy: FaultyProxy) -> None:
    caller = await new_caller(behind_proxy)
    faulty_proxy.lose_replies(2)
    job = await caller.admit()
    assert (await behind_proxy.jobs(caller.account, 9)).items == [job]
    assert len(await behind_proxy.read(job.id, 0)) == 1
    assert await caller.ledger() == [100, -20]


async def test_a_repeated_admission_after_a_lost_reply_is_not_a_replay(
    behind_proxy: Store, faulty_proxy: FaultyProxy
) -> None:
    caller = await new_caller(behind_proxy)
    faulty_proxy.lose_replies(1)
    assert not (await behind_proxy.admit(caller.order(idempotency_key="once"))).replayed


async def test_a_lost_reply_grants_tokens_only_once(behind_proxy: Store, faulty_proxy: FaultyProxy) -> None:
    caller = await new_caller(behind_proxy, tokens=0)
    faulty_proxy.lose_replies(1)
    account = await behind_proxy.grant("web", 5)
    assert account
    assert account.tokens == 5
    faulty_proxy.lose_replies(1)
    await new_caller(behind_proxy, tokens=7)
    assert await caller.ledger() == [5, 7]
    assert len(await behind_proxy.keys()) == 2


async def test_a_lost_reply_keeps_the_backlog_position_event(behind_proxy: Store, faulty_proxy: FaultyProxy) -> None:
    caller = await new_caller(behind_proxy)
    await caller.admit(1, max_jobs=1, max_backlog=2)
    faulty_proxy.lose_replies(1)
    job = await caller.admit(1, max_jobs=1, max_backlog=2)
    assert await details(behind_proxy, job) == [None, "Waiting: number 1 in line"]


async def test_a_lost_reply_releases_only_one_job_of_a_backlog(behind_proxy: Store, faulty_proxy: FaultyProxy) -> None:
    caller = await new_caller(behind_proxy)
    jobs = [await caller.admit(1, max_jobs=1, max_backlog=2) for _ in range(3)]
    await behind_proxy.append(await claim_one(behind_proxy), DONE)
    faulty_proxy.lose_replies(1)
    await behind_proxy.release_backlog(1, 10)
    assert [claim.job.id for claim in await behind_proxy.claim("node-a", ROOMS, 9)] == [jobs[1].id]


async def test_a_claim_repeated_after_a_lost_reply_returns_the_same_jobs(
    behind_proxy: Store, faulty_proxy: FaultyProxy
) -> None:
    caller = await new_caller(behind_proxy)
    jobs = [await caller.admit(1) for _ in range(3)]
    faulty_proxy.lose_replies(1)
    claims = await behind_proxy.claim("node-a", ROOMS, 2)
    assert [claim.job.id for claim in claims] == [job.id for job in jobs[:2]]
    assert [claim.epoch for claim in claims] == [1, 1]
    assert [claim.job.id for claim in await behind_proxy.claim("node-a", ROOMS, 2)] == [jobs[2].id]


async def test_the_next_claim_returns_the_jobs_of_a_failed_one(
    without_retries: Store, faulty_proxy: FaultyProxy
) -> None:
    job = await (await new_caller(without_retries)).admit()
    faulty_proxy.lose_replies(1)
    with pytest.raises(errors.Unavailable):
        await without_retries.claim("node-a", ROOMS, 1)
    assert [claim.job.id for claim in await without_retries.claim("node-a", ROOMS, 1)] == [job.id]


async def test_closing_releases_the_jobs_of_a_failed_claim(
    faulty_proxy: FaultyProxy, opened: Opened, clock: ManualClock
) -> None:
    async with RedisStore(faulty_proxy.url, clock, lease=LEASE, times=NO_RETRIES) as store:
        job = await (await new_caller(store)).admit()
        faulty_proxy.lose_replies(1)
        with pytest.raises(errors.Unavailable):
            await store.claim("node-a", ROOMS, 1)
    async with opened() as other:
        assert (await claim_one(other, "node-b")).job == job


async def test_closing_releases_the_jobs_of_a_canceled_claim(opened: Opened) -> None:
    async with opened() as store:
        job = await (await new_caller(store)).admit()
        call = asyncio.create_task(store.claim("node-a", ROOMS, 1))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    async with opened() as store:
        assert (await claim_one(store, "node-b")).job == job


@pytest.mark.parametrize("draft", [PROGRESS, DONE, FAILED])
async def test_a_lost_reply_records_an_event_only_once(
    behind_proxy: Store, faulty_proxy: FaultyProxy, draft: Draft
) -> None:
    caller = await new_caller(behind_proxy)
    await caller.admit()
    claim = await claim_one(behind_proxy)
    faulty_proxy.lose_replies(2)
    job = await behind_proxy.append(claim, draft, {"id": "t-1"})
    assert await behind_proxy.job(caller.account, job.id) == job
    assert (job.event, job.ticket, job.status) == (2, {"id": "t-1"}, draft.status)
    assert len(await behind_proxy.read(job.id, 0)) == 2
    assert await caller.balance() == 80 + draft.refund


@pytest.mark.parametrize("draft", [PROGRESS, FAILED])
async def test_an_event_repeated_after_a_failed_call_is_recorded_once(
    without_retries: Store, faulty_proxy: FaultyProxy, clock: ManualClock, draft: Draft
) -> None:
    caller = await new_caller(without_retries)
    await caller.admit()
    claim = await claim_one(without_retries)
    faulty_proxy.lose_replies(1)
    with pytest.raises(errors.Unavailable):
        await without_retries.append(claim, draft)
    clock.time += 5
    job = await without_retries.append(claim, draft)
    assert job.event == 2
    assert len(await without_retries.read(job.id, 0)) == 2
    assert await caller.ledger() == [100, -20, 20][: 3 if draft.refund else 2]


async def test_a_different_event_after_a_failed_call_is_recorded_as_well(
    without_retries: Store, faulty_proxy: FaultyProxy
) -> None:
    await (await new_caller(without_retries)).admit()
    claim = await claim_one(without_retries)
    faulty_proxy.lose_replies(1)
    with pytest.raises(errors.Unavailable):
        await without_retries.append(claim, PROGRESS)
    job = await without_retries.append(claim, Draft(Status.PROCESSING, {"detail": "Uploading"}))
    assert (job.event, job.detail) == (3, "Uploading")


async def test_an_intent_after_a_failed_append_keeps_the_recorded_event(
    without_retries: Store, faulty_proxy: FaultyProxy
) -> None:
    caller = await new_caller(without_retries)
    await caller.admit()
    claim = await claim_one(without_retries)
    faulty_proxy.lose_replies(1)
    with pytest.raises(errors.Unavailable):
        await without_retries.append(claim, PROGRESS, {"id": "t-1"})
    job = await without_retries.record_intent(claim)
    assert (job.event, job.ticket, job.detail) == (2, {"id": "t-1"}, "Rendering")
    assert await without_retries.job(caller.account, job.id) == job


async def test_an_intent_and_its_withdrawal_survive_lost_replies(
    behind_proxy: Store, faulty_proxy: FaultyProxy, clock: ManualClock
) -> None:
    await (await new_caller(behind_proxy)).admit()
    claim = await claim_one(behind_proxy)
    faulty_proxy.lose_replies(1)
    assert (await behind_proxy.record_intent(claim)).intended_at == clock.now()
    faulty_proxy.lose_replies(1)
    assert (await behind_proxy.withdraw_intent(claim)).intended_at is None


async def test_a_deletion_with_a_lost_reply_returns_all_blob_names(
    behind_proxy: Store, faulty_proxy: FaultyProxy, clock: ManualClock
) -> None:
    caller = await new_caller(behind_proxy)
    await behind_proxy.add_asset(new_asset(caller.account))
    for n in range(2):
        await caller.admit()
        output = Output(Role.IMAGE, "image/png", blob=f"outputs/{n}")
        await behind_proxy.append(await claim_one(behind_proxy), replace(DONE, outputs=(output,)))
    jobs = (await behind_proxy.jobs(caller.account, 9)).items
    clock.time += 1
    faulty_proxy.lose_replies(1)
    assert await behind_proxy.delete_job(caller.account, jobs[1].id) == ["outputs/0"]
    faulty_proxy.lose_replies(2)
    swept = await behind_proxy.sweep(clock.now(), 10)
    assert (swept.deleted, sorted(swept.blobs)) == (2, ["blob-of-asset_1", "outputs/1"])
    assert (await behind_proxy.sweep(clock.now(), 10)).deleted == 0


# --- Redis is away ---


async def test_nothing_acknowledged_is_lost_when_redis_dies(own_server: RedisServer) -> None:
    # On a busy machine, starting Redis takes longer than the default retries.
    times = RedisTimes(retries=100, retry_time=20)
    async with RedisStore(own_server.url, times=times) as store:
        caller = await new_caller(store, tokens=1_000_000)
        changes = store.changes()
        jobs: dict[str, Job] = {}
        stop = asyncio.Event()

        async def order() -> None:
            while not stop.is_set():
                job = await caller.admit(1)
                jobs[job.id] = job

        orders = [asyncio.create_task(order()) for _ in range(10)]
        for _ in range(3):
            before = len(jobs)
            while len(jobs) < before + 20:
                await asyncio.sleep(0.001)
            own_server.kill()
            await asyncio.to_thread(own_server.start)
        stop.set()
        await asyncio.gather(*orders)
        found = (await store.jobs(caller.account, len(jobs) + 1)).items
        assert {job.id: job for job in found} == jobs
        assert await caller.balance() == 1_000_000 - len(jobs)
        received = [await soon(changes) for _ in jobs]
        assert {change.job for change in received} == set(jobs)
        positions = [change.event.position for change in received if change.event]
        assert positions == list(range(positions[0], positions[0] + len(jobs)))


async def test_every_call_is_unavailable_while_redis_is_away(without_retries: Store, faulty_proxy: FaultyProxy) -> None:
    caller = await new_caller(without_retries)
    faulty_proxy.disconnect()
    calls: list[Callable[[], Awaitable[Any]]] = [
        without_retries.ping,
        caller.admit,
        caller.balance,
        lambda: without_retries.claim("node-a", ROOMS, 1),
        lambda: without_retries.release_backlog(1, 1),
        lambda: without_retries.renew("node-a"),
        lambda: without_retries.read("job_1", 0),
        lambda: without_retries.key(b"1"),
    ]
    for call in calls:
        with pytest.raises(errors.Unavailable, match="The store cannot serve now: "):
            await call()
    faulty_proxy.reconnect()
    assert await caller.balance() == 100


@pytest.mark.parametrize("name", ["told", "changes", "names", "ended"])
async def test_ping_fails_while_a_required_key_has_the_wrong_type(tmp_path: Path, name: str) -> None:
    with RedisServer(tmp_path, *SAFE) as server:
        async with RedisStore(server.url) as store:
            await store.ping()
            with server.client as client:
                client.delete(f"pollcast:{name}")
                client.sadd(f"pollcast:{name}", "x")
            with pytest.raises(errors.Unavailable, match=f"pollcast:{name}"):
                await store.ping()


async def test_calls_fail_within_seconds_and_later_calls_fail_immediately(
    behind_proxy: Store, faulty_proxy: FaultyProxy
) -> None:
    faulty_proxy.disconnect()
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(errors.Unavailable):
        await behind_proxy.ping()
    first_call = loop.time() - started
    assert first_call < 5
    for _ in range(10):
        with pytest.raises(errors.Unavailable):
            await behind_proxy.ping()
    assert loop.time() - started - first_call < 1


async def test_a_redis_that_does_not_reply_is_not_retried_for_long(
    faulty_proxy: FaultyProxy, clock: ManualClock
) -> None:
    times = RedisTimes(timeout=1, retry_time=0.01)  # the timeout also limits the pings that must succeed
    async with RedisStore(faulty_proxy.url, clock, times=times) as store:
        faulty_proxy.replying.clear()
        before = faulty_proxy.writes
        with pytest.raises(errors.Unavailable):
            await store.ping()
        assert faulty_proxy.writes - before < 4  # one attempt, and the reader of changes
        faulty_proxy.replying.set()
        await store.ping()


async def test_idle_connections_that_were_reset_are_reopened(behind_proxy: Store, faulty_proxy: FaultyProxy) -> None:
    for _ in range(5):
        await behind_proxy.ping()
        faulty_proxy.reset_connections()
        await asyncio.sleep(0.02)  # the resets arrive
        await behind_proxy.ping()


async def test_a_connection_reset_during_its_setup_is_unavailable(
    without_retries: Store, faulty_proxy: FaultyProxy
) -> None:
    faulty_proxy.disconnect()
    for _ in range(300):
        with pytest.raises(errors.Unavailable):
            await without_retries.ping()
    faulty_proxy.reconnect()
    await without_retries.ping()


async def test_an_unreadable_change_is_reported_as_lost(
    nodes: tuple[Store, Store], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    listening, store = nodes
    changes = listening.changes()
    caller = await new_caller(store)
    with server.client as client:
        number = client.incr("pollcast:told")
        client.xadd("pollcast:changes", {"c": "acct job two fields"}, id=f"{number}-0")
    assert (await soon(changes)).lost
    job = await caller.admit(1)
    assert (await soon(changes)).job == job.id
    assert "newer" in caplog.text


async def test_changes_continue_after_a_disconnection(
    behind_proxy: Store, faulty_proxy: FaultyProxy, opened: Opened
) -> None:
    changes = behind_proxy.changes()
    async with opened() as other:
        caller = await new_caller(other)
        jobs = [await caller.admit(1)]
        assert (await soon(changes)).job == jobs[0].id
        faulty_proxy.disconnect()
        jobs.extend([await caller.admit(1) for _ in range(3)])
        faulty_proxy.reconnect()
        assert [(await soon(changes)).job for _ in range(3)] == [job.id for job in jobs[1:]]


async def test_a_gap_in_the_changes_is_reported_as_lost(
    behind_proxy: Store, faulty_proxy: FaultyProxy, opened: Opened, server: RedisServer
) -> None:
    changes = behind_proxy.changes()
    async with opened() as other:
        caller = await new_caller(other)
        await caller.admit(1)
        assert (await soon(changes)).n == 1
        faulty_proxy.disconnect()
        kept = [await caller.admit(1) for _ in range(3)][-1]
        with server.client as client:
            client.xtrim("pollcast:changes", maxlen=1, approximate=False)
        faulty_proxy.reconnect()
        assert (await soon(changes)).lost
        assert (await soon(changes)).job == kept.id


async def test_a_redis_restored_to_older_data_is_reported_as_lost_changes(
    behind_proxy: Store, faulty_proxy: FaultyProxy, server: RedisServer
) -> None:
    caller = await new_caller(behind_proxy)
    changes = behind_proxy.changes()
    for _ in range(3):
        await caller.admit(1)
        await soon(changes)
    faulty_proxy.disconnect()
    with server.client as client:
        client.set("pollcast:told", 1)
        client.delete("pollcast:changes")
    faulty_proxy.reconnect()
    assert (await soon(changes)).lost
    job = await caller.admit(1)
    assert (await soon(changes)).job == job.id


async def test_leases_expired_while_redis_was_away_stay_with_their_holders(
    faulty_proxy: FaultyProxy, clock: ManualClock, opened: Opened
) -> None:
    async with opened() as a, RedisStore(faulty_proxy.url, clock, lease=LEASE, times=NO_RETRIES) as b:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        await observe_leases(b)
        faulty_proxy.disconnect()
        with pytest.raises(errors.Unavailable):
            await b.ping()
        faulty_proxy.reconnect()
        clock.time += LEASE
        assert await b.claim("b", ROOMS, 1) == []
        await a.renew("a")
        assert (await a.append(claim, PROGRESS)).event == 2


async def test_leases_expired_while_writes_were_refused_stay_with_their_holders(
    own_server: RedisServer, clock: ManualClock
) -> None:
    async with RedisStore(own_server.url, clock, lease=LEASE) as a, RedisStore(own_server.url, clock, lease=LEASE) as b:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        await observe_leases(b)
        clock.time += LEASE
        with own_server.client as client:
            client.config_set("maxmemory", 1)
            for store, node in ((a, "a"), (b, "b")):
                with pytest.raises(errors.Unavailable, match="memory"):
                    await store.renew(node)
            assert await b.claim("b", ROOMS, 1) == []
            client.config_set("maxmemory", 0)
        assert await b.claim("b", ROOMS, 1) == []
        await a.renew("a")
        await observe_leases(b)
        clock.time += LEASE / 2
        assert (await a.append(claim, PROGRESS)).event == 2
        clock.time += LEASE / 2
        assert [taken.job.id for taken in await b.claim("b", ROOMS, 1)] == [claim.job.id]


async def test_a_new_node_waits_one_lease_before_it_takes_over_jobs(opened: Opened, clock: ManualClock) -> None:
    async with opened() as a:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        clock.time += LEASE
        async with opened() as b:
            assert await b.claim("b", ROOMS, 1) == []
            clock.time += LEASE
            assert [taken.job.id for taken in await b.claim("b", ROOMS, 1)] == [claim.job.id]


@pytest.mark.parametrize("ahead", [7200, -7200])
async def test_a_changed_system_clock_ends_no_other_lease(
    opened: Opened, server: RedisServer, clock: ManualClock, ahead: float
) -> None:
    other = ManualClock()
    async with opened() as a, RedisStore(server.url, other, lease=LEASE) as b:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        other.time += LEASE
        await observe_leases(b)
        other.now = lambda: other.time + ahead  # type: ignore[method-assign]
        other.time += LEASE - 1
        clock.time += 1
        await a.renew("a")
        for _ in range(2):
            assert await b.claim("b", ROOMS, 1) == []
            other.time += LEASE - 1
            await a.renew("a")
            clock.time += 1
        await observe_leases(b)
        other.time += LEASE
        assert [taken.job.id for taken in await b.claim("b", ROOMS, 1)] == [claim.job.id]


async def test_a_clock_that_is_ahead_delays_no_other_node(nodes: tuple[Store, Store], server: RedisServer) -> None:
    ahead = ManualClock()
    ahead.time += 7200
    async with RedisStore(server.url, ahead, lease=LEASE) as other:
        await other.shared.reserve_slots("Gaga", 1, 0.5)
        assert await nodes[0].shared.reserve_slots("Gaga", 1, 0.5) <= 2  # type: ignore[union-attr]


async def test_a_flushed_script_is_loaded_again(opened: Opened, server: RedisServer) -> None:
    async with opened() as store:
        with server.client as client:
            client.script_flush()
        assert await (await new_caller(store)).balance() == 100


async def test_a_full_memory_refuses_orders_but_allows_retention(own_server: RedisServer, clock: ManualClock) -> None:
    async with RedisStore(own_server.url, clock) as store:
        caller = await new_caller(store)
        old = await caller.admit(1)
        await store.append(await claim_one(store), DONE)
        clock.time += 1
        with own_server.client as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(errors.Unavailable, match="memory"):
                await caller.admit(1)
            assert await caller.ledger() == [100, -1]
            assert (await store.sweep(clock.now(), 1)).deleted == 1
            assert await store.job(caller.account, old.id) is None
            client.config_set("maxmemory", 0)
        await caller.admit(1)
        assert await caller.ledger() == [100, -1, -1]


# --- cost ---


async def test_concurrent_calls_are_sent_in_few_writes(behind_proxy: Store, faulty_proxy: FaultyProxy) -> None:
    caller = await new_caller(behind_proxy)
    before = faulty_proxy.writes
    await asyncio.gather(*(behind_proxy.grant("web", 1) for _ in range(50)))
    assert faulty_proxy.writes - before < 10
    assert await caller.balance() == 150


async def test_the_cost_of_a_claim_is_independent_of_other_jobs(
    nodes: tuple[Store, Store], server: RedisServer
) -> None:
    a, b = nodes
    caller = await new_caller(a)

    async def cost() -> int:
        """Return how many commands on hashes and sets Redis runs for a claim that finds nothing."""
        with server.client as client:
            client.config_resetstat()
            assert not await b.claim("b", {"": QueueRoom(0, 1e9)}, 100)
            found = client.info("commandstats").items()
            return sum(
                command["calls"] for name, command in found if name.startswith(("cmdstat_h", "cmdstat_z", "cmdstat_s"))
            )

    costs = []
    for _ in range(2):
        await asyncio.gather(*(caller.admit(0) for _ in range(150)))
        assert len(await a.claim("a", ROOMS, 100)) == 100
        costs.append(await cost())
    assert costs[0] == costs[1] < 10


async def test_all_listeners_of_a_process_share_one_connection(opened: Opened, server: RedisServer) -> None:
    with server.client as client:
        before = client.info("clients")["connected_clients"]
        async with opened() as store:
            caller = await new_caller(store)
            listeners = [store.changes() for _ in range(50)]
            job = await caller.admit()
            assert {(await soon(changes)).job for changes in listeners} == {job.id}
            assert client.info("clients")["connected_clients"] - before == 3


async def test_a_change_includes_an_event_too_large_for_the_stream(opened: Opened) -> None:
    async with opened() as store:
        await (await new_caller(store)).admit()
        changes = store.changes()
        job = await store.append(await claim_one(store), replace(DONE, fields={"text": "la " * 5000}))
        change = await soon(changes)
        assert change.event
        assert [change.event] == await store.read(job.id, 1)


async def test_a_filter_finds_a_job_behind_thousands_of_others(opened: Opened) -> None:
    async with opened() as store:
        caller = await new_caller(store)
        song = await caller.admit(0, order=Order("suno", {}))
        await asyncio.gather(*(caller.admit(0) for _ in range(2500)))
        page = await store.jobs(caller.account, 5, model="suno")
        assert (page.items, page.next) == ([song], None)


async def test_retention_leaves_no_keys_of_a_deleted_job(
    opened: Opened, server: RedisServer, clock: ManualClock
) -> None:
    async with opened() as store:
        caller = await new_caller(store)
        before = set(contents(server))
        await store.add_asset(new_asset(caller.account, created_at=clock.now()))
        for draft in (DONE, FAILED):
            await caller.admit(idempotency_key=str(draft.refund), assets=["asset_1"])
            await store.append(await claim_one(store), draft)
        clock.time += 2 * 24 * 3600
        assert (await store.sweep(clock.now(), 10)).deleted == 3
        remaining = set(contents(server)) - before
        account = caller.account.encode()
        assert remaining == {
            b"pollcast:changes",
            b"pollcast:told",
            b"pollcast:feed:" + account,
            b"pollcast:turns:",
            b"pollcast:nodes",
            b"pollcast:took:node-a",
        }


async def test_an_unreferenced_listener_is_garbage_collected(opened: Opened) -> None:
    async with opened() as store:
        changes = store.changes()
        reference = weakref.ref(changes)
        del changes
        gc.collect()
        assert reference() is None


# --- requirements on Redis ---


async def test_a_server_warns_of_settings_that_may_lose_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, "--save", "", "--maxmemory-policy", "allkeys-lru") as server:
        async with RedisStore(server.url):
            assert caplog.messages == []
        async with RedisStore(server.url, serves=True):
            (warning,) = caplog.messages
    for words in ("appendonly is no", "appendfsync is everysec", "maxmemory-policy is allkeys-lru", "appendonly yes"):
        assert words in warning


async def test_durable_settings_cause_no_warning(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with RedisStore(server.url, serves=True):
        assert caplog.messages == []


async def test_unreadable_settings_cause_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path, *SAFE, "--rename-command", "CONFIG", "") as server:
        async with RedisStore(server.url, serves=True) as store:
            await store.ping()
            (warning,) = caplog.messages
    assert "Cannot check whether this Redis keeps acknowledged writes" in warning
    assert "appendfsync always" in warning


async def test_a_redis_cluster_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(errors.Unavailable, match=r"Redis Cluster.*use a single Redis")
    with RedisServer(tmp_path, *SAFE, "--cluster-enabled", "yes") as server, refused:
        async with RedisStore(server.url):
            pass


async def test_a_newer_schema_is_refused(server: RedisServer) -> None:
    with server.client as client:
        client.set("pollcast:schema", 999)
    with pytest.raises(errors.Unavailable, match=r"newer Pollcast.*999"):
        async with RedisStore(server.url):
            pass


async def test_an_error_about_a_missing_redis_does_not_contain_its_password(
    faulty_proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    faulty_proxy.disconnect()
    caplog.set_level(logging.DEBUG)
    with pytest.raises(errors.Unavailable) as refusal:
        async with RedisStore(faulty_proxy.url.replace("redis://", "redis://user:hush-hush@"), times=NO_RETRIES):
            pass
    assert "hush-hush" not in refusal.value.message + caplog.text


async def test_an_error_about_a_wrong_password_does_not_contain_it(server: RedisServer) -> None:
    with pytest.raises(errors.Unavailable, match="password") as refusal:
        async with RedisStore(server.url.replace("redis://", "redis://user:hush-hush@"), times=NO_RETRIES):
            pass
    assert "hush-hush" not in refusal.value.message


# --- open_store ---


async def test_the_path_of_a_url_selects_a_database(server: RedisServer, clock: ManualClock) -> None:
    async with open_store(server.url, clock) as store:
        await new_caller(store)
    async with open_store(server.url.removesuffix("/0"), clock) as store:
        assert len(await store.accounts()) == 1
    async with open_store(server.url.removesuffix("0") + "1", clock) as store:
        assert await store.accounts() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://localhost/pollcast", "a number, not 'pollcast'"),
        ("redis://user:hush/hush@localhost:6379/0", "cannot be read"),
        ("redis://localhost?patience=5", "patience"),
    ],
)
def test_an_invalid_url_is_refused_with_advice(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        open_store(url, ManualClock())
    assert "redis://user:password@host:6379/0" in str(refusal.value)
    assert "hush" not in str(refusal.value)


def test_a_missing_redis_package_is_reported_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_redis(name: str, *rest: Any) -> Any:
        if name.startswith("proxy.store.redis.store"):
            raise ModuleNotFoundError("No module named 'redis'")
        return imported(name, *rest)

    imported = builtins.__import__
    monkeypatch.delitem(sys.modules, "proxy.store.redis.store", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(ValueError, match=r"pip install 'pollcast\[redis\]'"):
        open_store("redis://localhost:6379/0", ManualClock())
