"""Contract tests of `Feeds`: a job's events, changes, and an account's feed."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import orjson
import pytest

from proxy.core import errors
from proxy.core.job import Draft, Output, Role, Status
from proxy.store.contract import Store
from proxy.store.types import JOBS_PER_READ, PAGE_BYTES, Change, ClaimLost
from tests.support.store import (
    DONE,
    FAILED,
    PROGRESS,
    ROOMS,
    Caller,
    Opened,
    StoreFixtures,
    claim_one,
    gist,
    new_caller,
    soon,
)


class FeedsContract(StoreFixtures):
    # --- events ---

    async def test_events_are_numbered_without_gaps(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(3)]
        claims = await store.claim("node-a", ROOMS, 3)
        await asyncio.gather(*(store.append(claim, PROGRESS) for _ in range(10) for claim in claims))
        for job in jobs:
            events = await store.read(job.id, 0)
            assert [event.n for event in events] == list(range(1, 12))
            assert [orjson.loads(event.data)["n"] for event in events] == list(range(1, 12))

    async def test_an_event_contains_the_fields_of_its_draft(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        await store.append(await claim_one(store), FAILED)
        event = (await store.read(job.id, 1))[0]
        assert event.final
        assert orjson.loads(event.data).items() >= {"status": "Error", "message": "It broke.", "refunded": 20}.items()

    async def test_no_event_follows_the_final_one(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        results = await asyncio.gather(
            *(store.append(claim, draft) for draft in (DONE, PROGRESS, DONE, FAILED)), return_exceptions=True
        )
        assert sum(isinstance(result, ClaimLost) for result in results) == 3
        assert [event.final for event in await store.read(job.id, 0)] == [False, True]
        with pytest.raises(ClaimLost):
            await store.record_intent(claim)

    async def test_a_draft_with_an_illegal_status_change_changes_nothing(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        with pytest.raises(ValueError, match="cannot follow"):
            await store.append(await claim_one(store), Draft(Status.STARTED))
        assert len(await store.read(job.id, 0)) == 1

    async def test_a_draft_that_is_not_json_changes_nothing(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        with pytest.raises(TypeError):
            await store.append(claim, Draft(Status.ERROR, {"detail": object()}, refund=20))
        assert await store.job(caller.account, job.id) == job
        assert (await store.append(claim, PROGRESS)).event == 2

    async def test_outputs_accumulate_until_the_final_event_lists_all_of_them(
        self, store: Store, caller: Caller
    ) -> None:
        first = Output(Role.VIDEO, "video/mp4", url="https://example.com/1", ids={"id": "9007199254740993"})
        second = Output(Role.IMAGE, "image/png", blob="b", relayed=True, status=Status.ERROR, message="No.")
        job = await caller.admit()
        claim = await claim_one(store)
        await store.append(claim, replace(PROGRESS, outputs=(first,)))
        await store.append(claim, replace(PROGRESS, outputs=(second,)))
        now = await store.job(caller.account, job.id)
        assert now
        assert now.outputs == (first, second)
        assert (await store.append(claim, replace(DONE, outputs=(second, first)))).outputs == (second, first)

    async def test_a_ticket_is_kept_until_the_next_one(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        claim = await claim_one(store)
        await store.append(claim, PROGRESS, ticket={"id": "t-1", "items": [1, 2]})
        assert (await store.append(claim, PROGRESS)).ticket == {"id": "t-1", "items": [1, 2]}
        assert (await store.append(claim, PROGRESS, ticket={"id": "t-2"})).ticket == {"id": "t-2"}

    async def test_read_returns_the_events_after_the_given_number(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        for draft in (PROGRESS, PROGRESS, DONE):
            await store.append(claim, draft)
        assert [event.n for event in await store.read(job.id, 0)] == [1, 2, 3, 4]
        assert [event.n for event in await store.read(job.id, 2)] == [3, 4]
        assert await store.read(job.id, 4) == await store.read(job.id, 99) == await store.read("job_unknown", 0) == []

    async def test_read_with_an_account_returns_nothing_of_other_accounts(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        other = await new_caller(store, "other")
        assert await store.read(job.id, 0, caller.account) == await store.read(job.id, 0)
        assert await store.read(job.id, 0, other.account) == []

    async def test_a_recorded_event_never_changes(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        first = await store.read(job.id, 0)
        await store.append(await claim_one(store), DONE)
        assert (await store.read(job.id, 0))[:1] == first

    # --- changes ---

    async def test_every_listener_gets_a_change_after_it_can_be_read(self, store: Store, caller: Caller) -> None:
        listeners = [store.changes(), store.changes()]
        job = await caller.admit()
        await store.append(await claim_one(store), DONE)
        for changes in listeners:
            for n in (1, 2):
                assert gist(await soon(changes)) == Change(caller.account, job.id, n)
                assert (await store.read(job.id, n - 1))[0].n == n

    async def test_listening_begins_at_the_call_of_changes(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        changes = store.changes()
        job = await caller.admit()
        await store.record_intent(await claim_one(store))
        assert gist(await soon(changes)) == Change(caller.account, job.id, 1)

    async def test_a_replay_or_a_refusal_publishes_no_change(self, store: Store, caller: Caller) -> None:
        await caller.admit(idempotency_key="once")
        changes = store.changes()
        await caller.admit(idempotency_key="once")
        with pytest.raises(ClaimLost):
            await store.append(replace(await claim_one(store), epoch=99), DONE)
        with pytest.raises(errors.InsufficientTokens):
            await caller.admit(1000)
        await caller.admit(0)
        with pytest.raises(ValueError, match="refunded"):
            await store.append(await claim_one(store), FAILED)
        job = await caller.admit()
        assert [(await soon(changes)).n for _ in range(2)] == [1, 1]
        assert (await store.job(caller.account, job.id)) == job

    async def test_a_stopped_listener_does_not_affect_others(self, store: Store, caller: Caller) -> None:
        stopped = asyncio.create_task(soon(store.changes()))
        await asyncio.sleep(0)
        stopped.cancel()
        with suppress(asyncio.CancelledError):
            await stopped
        changes = store.changes()
        job = await caller.admit()
        assert (await soon(changes)).job == job.id

    async def test_listeners_get_the_change_of_a_canceled_caller(self, store: Store, caller: Caller) -> None:
        changes = store.changes()
        call = asyncio.create_task(caller.admit())
        await asyncio.sleep(0)
        call.cancel()
        await store.ping()
        jobs = (await store.jobs(caller.account, 50)).items
        if jobs:  # it had begun: then it happened whole
            assert (await soon(changes)).job == jobs[0].id
        assert await caller.balance() == 100 - 20 * len(jobs)

    async def test_listening_ends_when_the_store_closes(self, opened: Opened) -> None:
        async with opened() as store:
            caller = await new_caller(store)
            changes = store.changes()
            job = await caller.admit()
        assert [change.job async for change in changes] == [job.id]
        assert [change async for change in changes] == []

    async def test_a_cancel_request_is_a_change_without_an_event(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        changes = store.changes()
        await store.request_cancel(caller.account, job.id)
        assert await soon(changes) == Change(caller.account, job.id, 1, cancel=True)
        assert len(await store.read(job.id, 0)) == 1

    # --- the account's feed ---

    async def test_positions_of_an_account_increase_by_one_across_its_jobs(self, store: Store, caller: Caller) -> None:
        start = (await store.snapshot(caller.account)).head
        jobs = [await caller.admit(1) for _ in range(2)]
        for claim in await store.claim("node-a", ROOMS, 2):
            await store.append(claim, PROGRESS)
        feed = await store.read_account(caller.account, start, 100)
        assert feed is not None
        assert [(event.job, event.n) for event in feed.events] == [
            (jobs[0].id, 1),
            (jobs[1].id, 1),
            (jobs[0].id, 2),
            (jobs[1].id, 2),
        ]
        assert [event.position - start for event in feed.events] == [1, 2, 3, 4]
        assert feed.head == start + 4

    async def test_positions_of_each_account_begin_at_a_different_number(self, store: Store) -> None:
        callers = [await new_caller(store, name) for name in ("web", "app")]
        one, other = [(await store.snapshot(caller.account)).head for caller in callers]
        assert one != other
        assert await store.read_account(callers[0].account, other, 10) is None

    async def test_a_feed_is_read_in_slices_after_a_position(self, store: Store, caller: Caller) -> None:
        start = (await store.snapshot(caller.account)).head
        for _ in range(5):
            await caller.admit(1)
        feed = await store.read_account(caller.account, start + 1, 2)
        assert feed is not None
        assert [event.position - start for event in feed.events] == [2, 3]
        assert feed.head == start + 5

    async def test_a_feed_omits_streamed_text_but_counts_its_positions(self, store: Store, caller: Caller) -> None:
        start = (await store.snapshot(caller.account)).head
        job = await caller.admit()
        claim = await claim_one(store)
        await store.append(claim, Draft(Status.PROCESSING, {"delta": "Hel", "offset": 0}))
        await store.append(claim, Draft(Status.PROCESSING, {"delta": "lo", "offset": 3}))
        feed = await store.read_account(caller.account, start, 10)
        assert feed is not None
        assert [event.n for event in feed.events] == [1]
        assert feed.head == start + 3
        assert [event.n for event in (await store.snapshot(caller.account)).events] == [1]
        assert [event.delta for event in await store.read(job.id, 0)] == [False, True, True]

    @pytest.mark.parametrize("away", [-1, 1])
    async def test_an_unknown_position_returns_none(self, store: Store, caller: Caller, away: int) -> None:
        head = (await store.snapshot(caller.account)).head
        assert await store.read_account(caller.account, head, 10) is not None
        assert await store.read_account(caller.account, head + away, 10) is None

    async def test_a_position_below_a_deleted_event_returns_none(self, store: Store, caller: Caller) -> None:
        start = (await store.snapshot(caller.account)).head
        deleted, kept = await caller.admit(1), await caller.admit(1)
        claim = await claim_one(store)
        await store.append(claim, DONE)
        await store.delete_job(caller.account, deleted.id)
        assert await store.read_account(caller.account, start + 2, 10) is None
        feed = await store.read_account(caller.account, start + 3, 10)
        assert feed is not None
        assert feed.events == []
        assert [event.job for event in (await store.snapshot(caller.account)).events] == [kept.id]

    async def test_a_snapshot_has_each_unfinished_job_s_newest_event_in_order(
        self, store: Store, caller: Caller
    ) -> None:
        first, second, third = [await caller.admit(1) for _ in range(3)]
        claims = await store.claim("node-a", ROOMS, 3)
        await store.append(claims[1], DONE)
        await store.append(claims[0], PROGRESS)
        snapshot = await store.snapshot(caller.account)
        assert [(event.job, event.n) for event in snapshot.events] == [(third.id, 1), (first.id, 2)]
        assert snapshot.head == snapshot.events[-1].position
        named = await store.snapshot(caller.account, [second.id, first.id, "job_unknown", first.id])
        assert [(event.job, event.n) for event in named.events] == [(second.id, 2), (first.id, 2)]

    async def test_a_snapshot_of_several_read_batches_is_complete(self, store: Store) -> None:
        caller = await new_caller(store, tokens=1000)
        jobs = [(await caller.admit(1)).id for _ in range(JOBS_PER_READ * 2 + 1)]
        assert [event.job for event in (await store.snapshot(caller.account)).events] == jobs
        assert [event.job for event in (await store.snapshot(caller.account, jobs)).events] == jobs

    async def test_a_snapshot_read_during_writes_is_consistent_with_its_head(self, store: Store) -> None:
        caller = await new_caller(store, tokens=1000)
        claims = [await claim_one(store) for _ in range(JOBS_PER_READ + 1) if await caller.admit(1)]

        async def go_on() -> None:
            for claim in claims:
                await store.append(claim, PROGRESS)

        snapshot, _ = await asyncio.gather(store.snapshot(caller.account), go_on())
        after = await store.read_account(caller.account, snapshot.head, 1000)
        assert after
        assert all(event.position <= snapshot.head for event in snapshot.events)
        assert {event.job for event in snapshot.events} == {claim.job.id for claim in claims}
        newest = {event.job: event.n for event in (*snapshot.events, *after.events)}
        assert newest == {claim.job.id: 2 for claim in claims}

    async def test_a_snapshot_contains_no_other_account_s_jobs(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        other = await new_caller(store, "other")
        assert (await store.snapshot(other.account)).events == []
        assert (await store.snapshot(other.account, [job.id])).events == []

    async def test_a_change_contains_its_event_as_a_read_returns_it(self, store: Store, caller: Caller) -> None:
        changes = store.changes()
        job = await caller.admit()
        await store.append(await claim_one(store), PROGRESS)
        published = [await soon(changes) for _ in range(2)]
        assert [change.event for change in published] == list(await store.read(job.id, 0))

    async def test_feeds_and_snapshots_are_read_in_slices_of_bounded_size(self, store: Store, caller: Caller) -> None:
        start = (await store.snapshot(caller.account)).head
        jobs = [(await caller.admit(1)).id for _ in range(3)]
        long = Draft(Status.PROCESSING, {"detail": "x" * (PAGE_BYTES // 5 * 2)})
        for claim in await store.claim("node-a", ROOMS, 3):
            await store.append(claim, long)
        first = await store.snapshot(caller.account)
        assert ([event.job for event in first.events], list(first.rest)) == (jobs[:2], jobs[2:])
        second = await store.snapshot(caller.account, first.rest, first.head)
        assert ([event.job for event in second.events], list(second.rest)) == (jobs[2:], [])
        feed = await store.read_account(caller.account, start, 100)
        assert feed is not None
        assert ([event.n for event in feed.events], feed.cut) == ([1, 1, 1, 2, 2], True)
        rest = await store.read_account(caller.account, feed.events[-1].position, 100)
        assert rest is not None
        assert ([event.n for event in rest.events], rest.cut) == ([2], False)
