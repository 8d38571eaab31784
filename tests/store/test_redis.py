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
from proxy.store.base import Change, ClaimLost, QueueRoom, Store
from proxy.store.redis.connection import RedisTimes
from proxy.store.redis.store import RedisStore
from tests.store.contract import (
    DONE,
    FAILED,
    LEASE,
    PROGRESS,
    ROOMS,
    ManualClock,
    Opened,
    StoreContract,
    claim_one,
    details,
    gist,
    new_asset,
    new_caller,
    soon,
)
from tests.support.redis_server import SAFE, Gate, RedisServer, contents, flush, shared_server

NO_RETRIES = RedisTimes(retries=0)


@pytest.fixture
def server() -> RedisServer:
    server = shared_server()
    flush(server)
    return server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill or change the settings of."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def gate(server: RedisServer) -> AsyncIterator[Gate]:
    async with Gate(server) as gate:
        yield gate


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def opened(server: RedisServer, clock: ManualClock) -> Opened:
    return lambda: RedisStore(server.url, clock, lease=LEASE)


@pytest.fixture
async def nodes(opened: Opened) -> AsyncIterator[tuple[Store, Store]]:
    """Two nodes, each with a store of its own on the same Redis."""
    async with opened() as a, opened() as b:
        yield a, b


@pytest.fixture
async def behind_gate(gate: Gate, clock: ManualClock) -> AsyncIterator[Store]:
    """A store whose answers can be lost."""
    async with RedisStore(gate.url, clock, lease=LEASE) as store:
        yield store


@pytest.fixture
async def impatient(gate: Gate, clock: ManualClock) -> AsyncIterator[Store]:
    """A store behind the gate that does not retry."""
    async with RedisStore(gate.url, clock, lease=LEASE, times=NO_RETRIES) as store:
        yield store


async def look(store: Store) -> None:
    """What node `b` does every second: it sees who has renewed a lease, and here takes nothing."""
    assert await store.claim("b", {}, 0) == []


class TestRedisStore(StoreContract):
    @pytest.fixture
    def opened(self, server: RedisServer, clock: ManualClock) -> Opened:
        return lambda: RedisStore(server.url, clock, lease=LEASE)


# --- several nodes ---


async def test_every_node_is_told_what_any_of_them_records_in_the_same_order(
    nodes: tuple[Store, Store], clock: ManualClock
) -> None:
    a, b = nodes
    callers = [await new_caller(store, name) for store, name in ((a, "web"), (b, "app"))]
    told = [store.changes() for store in nodes]
    await asyncio.gather(*(caller.admit(1) for caller in callers * 20))
    changes = [[await soon(each) for _ in range(40)] for each in told]
    assert changes[0] == changes[1]
    assert {change.at for change in changes[0]} == {clock.now()}
    for caller in callers:
        positions = [
            change.event.position for change in changes[0] if change.account == caller.account and change.event
        ]
        assert positions == list(range(positions[0], positions[0] + 20))


async def test_a_node_is_told_of_a_cancel_that_another_was_asked_for(nodes: tuple[Store, Store]) -> None:
    a, b = nodes
    caller = await new_caller(a)
    changes = b.changes()
    job = await caller.admit()
    await a.request_cancel(caller.account, job.id)
    told = [gist(await soon(changes)) for _ in range(2)]
    assert told == [Change(caller.account, job.id, 1), Change(caller.account, job.id, 1, cancel=True)]


async def test_nodes_share_the_room_of_a_queue(nodes: tuple[Store, Store]) -> None:
    a, b = nodes
    caller = await new_caller(a)
    for _ in range(4):
        await caller.admit(1)
    rooms = {"": QueueRoom(3, 1e9)}
    assert [len(await node.claim(name, rooms, limit)) for node, name, limit in ((a, "a", 2), (b, "b", 2))] == [2, 1]
    assert await a.claim("a", rooms, 2) == []


async def test_accounts_take_turns_whichever_node_takes_their_jobs(nodes: tuple[Store, Store]) -> None:
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
async def test_a_node_that_slept_through_its_lease_changes_nothing_when_it_wakes(
    nodes: tuple[Store, Store], server: RedisServer, clock: ManualClock, sent: bool
) -> None:
    a, b = nodes
    await (await new_caller(a)).admit()
    old = await claim_one(a, "a")
    if sent:
        await a.record_intent(old)
    await look(b)
    clock.time += LEASE
    new = await claim_one(b, "b")
    before = contents(server)
    for late in (a.append(old, PROGRESS), a.append(old, FAILED), a.record_intent(old), a.withdraw_intent(old)):
        with pytest.raises(ClaimLost):
            await late
    await a.release(old)
    assert contents(server) == before
    assert (await b.append(new, FAILED)).status is Status.ERROR


async def test_a_node_that_slept_before_it_heard_that_its_intent_stands_does_not_send(
    gate: Gate, opened: Opened, clock: ManualClock
) -> None:
    async with RedisStore(gate.url, clock, lease=LEASE) as a, opened() as b:
        caller = await new_caller(b)
        job = await caller.admit()
        old = await claim_one(a, "a")
        gate.answering.clear()
        intending = asyncio.create_task(a.record_intent(old))
        while (found := await b.job(caller.account, job.id)) is None or found.intended_at is None:
            await asyncio.sleep(0.001)
        await look(b)
        clock.time += LEASE
        await claim_one(b, "b")
        gate.answering.set()
        with pytest.raises(ClaimLost):
            await intending


async def test_nodes_that_forget_together_leave_the_same(nodes: tuple[Store, Store], clock: ManualClock) -> None:
    caller = await new_caller(nodes[0])
    for _ in range(10):
        await caller.admit(1)
    for claim in await nodes[0].claim("a", ROOMS, 10):
        await nodes[0].append(claim, replace(DONE, outputs=(Output(Role.IMAGE, "image/png", blob="b"),)))
    clock.time += 1
    swept = await asyncio.gather(*(node.sweep(clock.now(), 10) for node in nodes))
    assert all(len(each.blobs) == each.forgotten for each in swept)
    assert max(each.forgotten for each in swept) == 10
    assert (await nodes[0].jobs(caller.account, 10)).items == []


async def test_the_ledger_is_in_the_order_of_its_entries_whatever_the_nodes_clocks_say(server: RedisServer) -> None:
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


# --- answers that are lost ---


async def test_a_job_is_admitted_once_though_the_answer_is_lost(behind_gate: Store, gate: Gate) -> None:
    caller = await new_caller(behind_gate)
    gate.lose_answers(2)
    job = await caller.admit()
    assert (await behind_gate.jobs(caller.account, 9)).items == [job]
    assert len(await behind_gate.read(job.id, 0)) == 1
    assert await caller.ledger() == [100, -20]


async def test_an_order_with_a_key_whose_answer_is_lost_is_no_replay(behind_gate: Store, gate: Gate) -> None:
    caller = await new_caller(behind_gate)
    gate.lose_answers(1)
    assert not (await behind_gate.admit(caller.order(idempotency_key="once"))).replayed


async def test_tokens_are_granted_once_though_the_answer_is_lost(behind_gate: Store, gate: Gate) -> None:
    caller = await new_caller(behind_gate, tokens=0)
    gate.lose_answers(1)
    account = await behind_gate.grant("web", 5)
    assert account
    assert account.tokens == 5
    gate.lose_answers(1)
    await new_caller(behind_gate, tokens=7)
    assert await caller.ledger() == [5, 7]
    assert len(await behind_gate.keys()) == 2


async def test_an_order_in_line_is_told_its_place_though_answers_are_lost(behind_gate: Store, gate: Gate) -> None:
    caller = await new_caller(behind_gate)
    await caller.admit(1, most=1, line=2)
    gate.lose_answers(1)
    job = await caller.admit(1, most=1, line=2)
    assert await details(behind_gate, job) == [None, "Waiting: number 1 in line"]


async def test_one_job_goes_on_from_a_line_though_the_answer_is_lost(behind_gate: Store, gate: Gate) -> None:
    caller = await new_caller(behind_gate)
    jobs = [await caller.admit(1, most=1, line=2) for _ in range(3)]
    await behind_gate.append(await claim_one(behind_gate), DONE)
    gate.lose_answers(1)
    await behind_gate.release_backlog(1, 10)
    assert [claim.job.id for claim in await behind_gate.claim("node-a", ROOMS, 9)] == [jobs[1].id]


async def test_a_claim_whose_answer_is_lost_takes_no_job_from_its_node(behind_gate: Store, gate: Gate) -> None:
    caller = await new_caller(behind_gate)
    jobs = [await caller.admit(1) for _ in range(3)]
    gate.lose_answers(1)
    claims = await behind_gate.claim("node-a", ROOMS, 2)
    assert [claim.job.id for claim in claims] == [job.id for job in jobs[:2]]
    assert [claim.epoch for claim in claims] == [1, 1]
    assert [claim.job.id for claim in await behind_gate.claim("node-a", ROOMS, 2)] == [jobs[2].id]


async def test_a_claim_that_was_given_up_is_answered_by_the_next(impatient: Store, gate: Gate) -> None:
    job = await (await new_caller(impatient)).admit()
    gate.lose_answers(1)
    with pytest.raises(errors.Unavailable):
        await impatient.claim("node-a", ROOMS, 1)
    assert [claim.job.id for claim in await impatient.claim("node-a", ROOMS, 1)] == [job.id]


async def test_a_claim_that_was_given_up_is_given_back_at_the_close(
    gate: Gate, opened: Opened, clock: ManualClock
) -> None:
    async with RedisStore(gate.url, clock, lease=LEASE, times=NO_RETRIES) as store:
        job = await (await new_caller(store)).admit()
        gate.lose_answers(1)
        with pytest.raises(errors.Unavailable):
            await store.claim("node-a", ROOMS, 1)
    async with opened() as beside:
        assert (await claim_one(beside, "node-b")).job == job


async def test_a_canceled_claim_is_given_back_at_the_close(opened: Opened) -> None:
    async with opened() as store:
        job = await (await new_caller(store)).admit()
        call = asyncio.create_task(store.claim("node-a", ROOMS, 1))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    async with opened() as store:
        assert (await claim_one(store, "node-b")).job == job


@pytest.mark.parametrize("draft", [PROGRESS, DONE, FAILED])
async def test_an_event_is_recorded_once_though_its_answer_is_lost(
    behind_gate: Store, gate: Gate, draft: Draft
) -> None:
    caller = await new_caller(behind_gate)
    await caller.admit()
    claim = await claim_one(behind_gate)
    gate.lose_answers(2)
    job = await behind_gate.append(claim, draft, {"id": "t-1"})
    assert await behind_gate.job(caller.account, job.id) == job
    assert (job.event, job.ticket, job.status) == (2, {"id": "t-1"}, draft.status)
    assert len(await behind_gate.read(job.id, 0)) == 2
    assert await caller.balance() == 80 + draft.refund


@pytest.mark.parametrize("draft", [PROGRESS, FAILED])
async def test_a_holder_that_says_again_what_was_recorded_records_it_once(
    impatient: Store, gate: Gate, clock: ManualClock, draft: Draft
) -> None:
    caller = await new_caller(impatient)
    await caller.admit()
    claim = await claim_one(impatient)
    gate.lose_answers(1)
    with pytest.raises(errors.Unavailable):
        await impatient.append(claim, draft)
    clock.time += 5
    job = await impatient.append(claim, draft)
    assert job.event == 2
    assert len(await impatient.read(job.id, 0)) == 2
    assert await caller.ledger() == [100, -20, 20][: 3 if draft.refund else 2]


async def test_a_holder_that_says_something_else_after_a_lost_answer_records_both(impatient: Store, gate: Gate) -> None:
    await (await new_caller(impatient)).admit()
    claim = await claim_one(impatient)
    gate.lose_answers(1)
    with pytest.raises(errors.Unavailable):
        await impatient.append(claim, PROGRESS)
    job = await impatient.append(claim, Draft(Status.PROCESSING, {"detail": "Uploading"}))
    assert (job.event, job.detail) == (3, "Uploading")


async def test_a_lost_answer_makes_no_holder_overwrite_what_it_recorded(impatient: Store, gate: Gate) -> None:
    caller = await new_caller(impatient)
    await caller.admit()
    claim = await claim_one(impatient)
    gate.lose_answers(1)
    with pytest.raises(errors.Unavailable):
        await impatient.append(claim, PROGRESS, {"id": "t-1"})
    job = await impatient.record_intent(claim)
    assert (job.event, job.ticket, job.detail) == (2, {"id": "t-1"}, "Rendering")
    assert await impatient.job(caller.account, job.id) == job


async def test_an_intent_and_its_withdrawal_stand_though_their_answers_are_lost(
    behind_gate: Store, gate: Gate, clock: ManualClock
) -> None:
    await (await new_caller(behind_gate)).admit()
    claim = await claim_one(behind_gate)
    gate.lose_answers(1)
    assert (await behind_gate.record_intent(claim)).intended_at == clock.now()
    gate.lose_answers(1)
    assert (await behind_gate.withdraw_intent(claim)).intended_at is None


async def test_what_is_deleted_names_its_blobs_though_the_answer_is_lost(
    behind_gate: Store, gate: Gate, clock: ManualClock
) -> None:
    caller = await new_caller(behind_gate)
    await behind_gate.add_asset(new_asset(caller.account))
    for n in range(2):
        await caller.admit()
        output = Output(Role.IMAGE, "image/png", blob=f"outputs/{n}")
        await behind_gate.append(await claim_one(behind_gate), replace(DONE, outputs=(output,)))
    jobs = (await behind_gate.jobs(caller.account, 9)).items
    clock.time += 1
    gate.lose_answers(1)
    assert await behind_gate.delete_job(caller.account, jobs[1].id) == ["outputs/0"]
    gate.lose_answers(2)
    swept = await behind_gate.sweep(clock.now(), 10)
    assert (swept.forgotten, sorted(swept.blobs)) == (2, ["blob-of-asset_1", "outputs/1"])
    assert (await behind_gate.sweep(clock.now(), 10)).forgotten == 0


# --- Redis goes away ---


async def test_nothing_acknowledged_is_lost_when_redis_dies(own_server: RedisServer) -> None:
    # On a busy machine, starting Redis takes longer than the default retries.
    times = RedisTimes(retries=100, retry_time=20)
    async with RedisStore(own_server.url, times=times) as store:
        caller = await new_caller(store, tokens=1_000_000)
        changes = store.changes()
        jobs: dict[str, Job] = {}
        enough = asyncio.Event()

        async def order() -> None:
            while not enough.is_set():
                job = await caller.admit(1)
                jobs[job.id] = job

        orders = [asyncio.create_task(order()) for _ in range(10)]
        for _ in range(3):
            before = len(jobs)
            while len(jobs) < before + 20:
                await asyncio.sleep(0.001)
            own_server.kill()
            await asyncio.to_thread(own_server.start)
        enough.set()
        await asyncio.gather(*orders)
        found = (await store.jobs(caller.account, len(jobs) + 1)).items
        assert {job.id: job for job in found} == jobs
        assert await caller.balance() == 1_000_000 - len(jobs)
        told = [await soon(changes) for _ in jobs]
        assert {change.job for change in told} == set(jobs)
        positions = [change.event.position for change in told if change.event]
        assert positions == list(range(positions[0], positions[0] + len(jobs)))


async def test_every_call_says_so_while_redis_is_away(impatient: Store, gate: Gate) -> None:
    caller = await new_caller(impatient)
    gate.shut()
    calls: list[Callable[[], Awaitable[Any]]] = [
        impatient.ping,
        caller.admit,
        caller.balance,
        lambda: impatient.claim("node-a", ROOMS, 1),
        lambda: impatient.release_backlog(1, 1),
        lambda: impatient.renew("node-a"),
        lambda: impatient.read("job_1", 0),
        lambda: impatient.key(b"1"),
    ]
    for call in calls:
        with pytest.raises(errors.Unavailable, match="The store cannot serve now: "):
            await call()
    gate.open()
    assert await caller.balance() == 100


@pytest.mark.parametrize("name", ["told", "changes", "names", "ended"])
async def test_ping_fails_while_a_key_that_orders_need_is_of_another_type(tmp_path: Path, name: str) -> None:
    with RedisServer(tmp_path, *SAFE) as server:
        async with RedisStore(server.url) as store:
            await store.ping()
            with server.client as client:
                client.delete(f"pollcast:{name}")
                client.sadd(f"pollcast:{name}", "x")
            with pytest.raises(errors.Unavailable, match=f"pollcast:{name}"):
                await store.ping()


async def test_what_waits_for_redis_is_told_soon_and_then_at_once(behind_gate: Store, gate: Gate) -> None:
    gate.shut()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(errors.Unavailable):
        await behind_gate.ping()
    patient = loop.time() - begun
    assert patient < 5
    for _ in range(10):
        with pytest.raises(errors.Unavailable):
            await behind_gate.ping()
    assert loop.time() - begun - patient < 1


async def test_a_redis_that_does_not_reply_is_not_retried_for_long(gate: Gate, clock: ManualClock) -> None:
    times = RedisTimes(timeout=0.05, retry_time=0.01)
    async with RedisStore(gate.url, clock, times=times) as store:
        gate.answering.clear()
        before = gate.writes
        with pytest.raises(errors.Unavailable):
            await store.ping()
        assert gate.writes - before < 4  # one try, beside what the reader of changes asks
        gate.answering.set()
        await store.ping()


async def test_connections_that_were_reset_while_nobody_used_them_are_made_anew(behind_gate: Store, gate: Gate) -> None:
    for _ in range(5):
        await behind_gate.ping()
        gate.reset()
        await asyncio.sleep(0.02)  # the resets arrive
        await behind_gate.ping()


async def test_connections_that_are_cut_while_they_are_made_are_redis_being_away(impatient: Store, gate: Gate) -> None:
    gate.shut()
    for _ in range(300):
        with pytest.raises(errors.Unavailable):
            await impatient.ping()
    gate.open()
    await impatient.ping()


async def test_a_change_in_words_of_a_newer_version_is_told_as_lost_and_those_after_it_as_ever(
    nodes: tuple[Store, Store], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    told, store = nodes
    changes = told.changes()
    caller = await new_caller(store)
    with server.client as client:
        number = client.incr("pollcast:told")
        client.xadd("pollcast:changes", {"c": "acct job two words of another kind"}, id=f"{number}-0")
    assert (await soon(changes)).lost
    job = await caller.admit(1)
    assert (await soon(changes)).job == job.id
    assert "newer" in caplog.text


async def test_changes_go_on_where_they_broke_off(behind_gate: Store, gate: Gate, opened: Opened) -> None:
    changes = behind_gate.changes()
    async with opened() as beside:
        caller = await new_caller(beside)
        jobs = [await caller.admit(1)]
        assert (await soon(changes)).job == jobs[0].id
        gate.shut()
        jobs.extend([await caller.admit(1) for _ in range(3)])
        gate.open()
        assert [(await soon(changes)).job for _ in range(3)] == [job.id for job in jobs[1:]]


async def test_who_was_away_for_too_long_is_told_that_changes_were_lost(
    behind_gate: Store, gate: Gate, opened: Opened, server: RedisServer
) -> None:
    changes = behind_gate.changes()
    async with opened() as beside:
        caller = await new_caller(beside)
        await caller.admit(1)
        assert (await soon(changes)).n == 1
        gate.shut()
        kept = [await caller.admit(1) for _ in range(3)][-1]
        with server.client as client:
            client.xtrim("pollcast:changes", maxlen=1, approximate=False)
        gate.open()
        assert (await soon(changes)).lost
        assert (await soon(changes)).job == kept.id


async def test_a_redis_that_came_back_as_an_older_self_is_told_as_lost_changes(
    behind_gate: Store, gate: Gate, server: RedisServer
) -> None:
    caller = await new_caller(behind_gate)
    changes = behind_gate.changes()
    for _ in range(3):
        await caller.admit(1)
        await soon(changes)
    gate.shut()
    with server.client as client:
        client.set("pollcast:told", 1)
        client.delete("pollcast:changes")
    gate.open()
    assert (await soon(changes)).lost
    job = await caller.admit(1)
    assert (await soon(changes)).job == job.id


async def test_leases_that_lapsed_while_redis_was_away_are_left_to_their_holders(
    gate: Gate, clock: ManualClock, opened: Opened
) -> None:
    async with opened() as a, RedisStore(gate.url, clock, lease=LEASE, times=NO_RETRIES) as b:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        await look(b)
        gate.shut()
        with pytest.raises(errors.Unavailable):
            await b.ping()
        gate.open()
        clock.time += LEASE
        assert await b.claim("b", ROOMS, 1) == []
        await a.renew("a")
        assert (await a.append(claim, PROGRESS)).event == 2


async def test_leases_that_lapsed_while_redis_took_no_writes_are_left_to_their_holders(
    own_server: RedisServer, clock: ManualClock
) -> None:
    async with RedisStore(own_server.url, clock, lease=LEASE) as a, RedisStore(own_server.url, clock, lease=LEASE) as b:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        await look(b)
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
        await look(b)
        clock.time += LEASE / 2
        assert (await a.append(claim, PROGRESS)).event == 2
        clock.time += LEASE / 2
        assert [taken.job.id for taken in await b.claim("b", ROOMS, 1)] == [claim.job.id]


async def test_who_has_just_started_leaves_lapsed_leases_to_their_holders_for_as_long(
    opened: Opened, clock: ManualClock
) -> None:
    async with opened() as a:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        clock.time += LEASE
        async with opened() as b:
            assert await b.claim("b", ROOMS, 1) == []
            clock.time += LEASE
            assert [taken.job.id for taken in await b.claim("b", ROOMS, 1)] == [claim.job.id]


@pytest.mark.parametrize("ahead", [7200, -7200])
async def test_a_node_whose_clock_is_set_takes_no_lease(
    opened: Opened, server: RedisServer, clock: ManualClock, ahead: float
) -> None:
    other = ManualClock()
    async with opened() as a, RedisStore(server.url, other, lease=LEASE) as b:
        await (await new_caller(a)).admit()
        claim = await claim_one(a, "a")
        other.time += LEASE
        await look(b)
        other.now = lambda: other.time + ahead  # type: ignore[method-assign]
        other.time += LEASE - 1
        clock.time += 1
        await a.renew("a")
        for _ in range(2):
            assert await b.claim("b", ROOMS, 1) == []
            other.time += LEASE - 1
            await a.renew("a")
            clock.time += 1
        await look(b)
        other.time += LEASE
        assert [taken.job.id for taken in await b.claim("b", ROOMS, 1)] == [claim.job.id]


async def test_a_node_whose_clock_is_ahead_holds_up_no_other(nodes: tuple[Store, Store], server: RedisServer) -> None:
    ahead = ManualClock()
    ahead.time += 7200
    async with RedisStore(server.url, ahead, lease=LEASE) as other:
        await other.shared.turns("Gaga", 1, 0.5)
        assert await nodes[0].shared.turns("Gaga", 1, 0.5) <= 2  # type: ignore[union-attr]


async def test_a_flushed_script_is_sent_again(opened: Opened, server: RedisServer) -> None:
    async with opened() as store:
        with server.client as client:
            client.script_flush()
        assert await (await new_caller(store)).balance() == 100


async def test_a_full_memory_refuses_orders_whole_and_lets_old_jobs_be_forgotten(
    own_server: RedisServer, clock: ManualClock
) -> None:
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
            assert (await store.sweep(clock.now(), 1)).forgotten == 1
            assert await store.job(caller.account, old.id) is None
            client.config_set("maxmemory", 0)
        await caller.admit(1)
        assert await caller.ledger() == [100, -1, -1]


# --- what it costs ---


async def test_calls_that_wait_together_go_together(behind_gate: Store, gate: Gate) -> None:
    caller = await new_caller(behind_gate)
    before = gate.writes
    await asyncio.gather(*(behind_gate.grant("web", 1) for _ in range(50)))
    assert gate.writes - before < 10
    assert await caller.balance() == 150


async def test_a_claim_costs_the_same_however_many_jobs_wait_or_are_held_by_others(
    nodes: tuple[Store, Store], server: RedisServer
) -> None:
    a, b = nodes
    caller = await new_caller(a)

    async def cost() -> int:
        """How often Redis reads hashes and sets for a claim that finds nothing."""
        with server.client as client:
            client.config_resetstat()
            assert not await b.claim("b", {"": QueueRoom(0, 1e9)}, 100)
            found = client.info("commandstats").items()
            return sum(
                told["calls"] for name, told in found if name.startswith(("cmdstat_h", "cmdstat_z", "cmdstat_s"))
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


async def test_an_event_too_large_to_be_carried_along_is_told_all_the_same(opened: Opened) -> None:
    async with opened() as store:
        await (await new_caller(store)).admit()
        changes = store.changes()
        job = await store.append(await claim_one(store), replace(DONE, fields={"text": "la " * 5000}))
        change = await soon(changes)
        assert change.event
        assert [change.event] == await store.read(job.id, 1)


async def test_a_filtered_list_is_found_behind_thousands_of_other_jobs(opened: Opened) -> None:
    async with opened() as store:
        caller = await new_caller(store)
        song = await caller.admit(0, order=Order("suno", {}))
        await asyncio.gather(*(caller.admit(0) for _ in range(2500)))
        page = await store.jobs(caller.account, 5, model="suno")
        assert (page.items, page.next) == ([song], None)


async def test_what_is_forgotten_leaves_nothing_of_it_behind(
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
        assert (await store.sweep(clock.now(), 10)).forgotten == 3
        left = set(contents(server)) - before
        account = caller.account.encode()
        assert left == {
            b"pollcast:changes",
            b"pollcast:told",
            b"pollcast:feed:" + account,
            b"pollcast:turns:",
            b"pollcast:nodes",
            b"pollcast:took:node-a",
        }


async def test_a_listener_that_is_dropped_leaves_nothing_behind(opened: Opened) -> None:
    async with opened() as store:
        changes = store.changes()
        dropped = weakref.ref(changes)
        del changes
        gc.collect()
        assert dropped() is None


# --- what Redis must be ---


async def test_settings_that_may_lose_what_was_acknowledged_are_warned_of_where_jobs_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, "--save", "", "--maxmemory-policy", "allkeys-lru") as server:
        async with RedisStore(server.url):
            assert caplog.messages == []
        async with RedisStore(server.url, serves=True):
            (warning,) = caplog.messages
    for words in ("appendonly is no", "appendfsync is everysec", "maxmemory-policy is allkeys-lru", "appendonly yes"):
        assert words in warning


async def test_safe_settings_are_not_warned_of(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with RedisStore(server.url, serves=True):
        assert caplog.messages == []


async def test_settings_that_may_not_be_read_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


async def test_a_redis_that_is_not_there_is_unavailable_and_its_password_is_not_told(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.shut()
    caplog.set_level(logging.DEBUG)
    with pytest.raises(errors.Unavailable) as refusal:
        async with RedisStore(gate.url.replace("redis://", "redis://user:hush-hush@"), times=NO_RETRIES):
            pass
    assert "hush-hush" not in refusal.value.message + caplog.text


async def test_a_wrong_password_is_unavailable_and_is_not_told(server: RedisServer) -> None:
    with pytest.raises(errors.Unavailable, match="password") as refusal:
        async with RedisStore(server.url.replace("redis://", "redis://user:hush-hush@"), times=NO_RETRIES):
            pass
    assert "hush-hush" not in refusal.value.message


# --- open_store ---


async def test_a_url_names_a_database_of_a_redis(server: RedisServer, clock: ManualClock) -> None:
    async with open_store(server.url, clock) as store:
        await new_caller(store)
    async with open_store(server.url.removesuffix("/0"), clock) as store:
        assert len(await store.accounts()) == 1
    async with open_store(server.url.removesuffix("0") + "1", clock) as store:
        assert await store.accounts() == []


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("redis://localhost/pollcast", "a number, not 'pollcast'"),
        ("redis://user:hush/hush@localhost:6379/0", "cannot be read"),
        ("redis://localhost?patience=5", "patience"),
    ],
)
def test_a_url_of_no_redis_is_refused_with_what_would_be_right(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong) as refusal:
        open_store(url, ManualClock())
    assert "redis://user:password@host:6379/0" in str(refusal.value)
    assert "hush" not in str(refusal.value)


def test_without_the_extra_a_redis_url_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_redis(name: str, *rest: Any) -> Any:
        if name.startswith("proxy.store.redis.store"):
            raise ModuleNotFoundError("No module named 'redis'")
        return imported(name, *rest)

    imported = builtins.__import__
    monkeypatch.delitem(sys.modules, "proxy.store.redis.store", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(ValueError, match=r"pip install 'pollcast\[redis\]'"):
        open_store("redis://localhost:6379/0", ManualClock())
