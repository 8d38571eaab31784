"""Contract tests of `Jobs`: admission, lists, durations, cancel requests, deletion and retention."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.core import errors
from proxy.core.job import Job, Order, Output, Role, Status
from proxy.runner.polling import MAX_DURATIONS
from proxy.store.contract import Store
from proxy.store.types import PAGE_BYTES, Admission, Change
from tests.support.store import (
    DONE,
    FAILED,
    PROGRESS,
    Caller,
    ManualClock,
    Opened,
    StoreFixtures,
    claim_one,
    new_asset,
    new_caller,
    soon,
)


class JobsContract(StoreFixtures):
    # --- admission ---

    async def test_an_admitted_job_contains_the_order(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        order = Order("suno", {"prompt": "Ünïcode ♥", "offset": {"x": 0.5}}, {"mine": "1"}, {"seed": 7})
        job = await caller.admit(20, order=order)
        assert job == Job(job.id, caller.account, caller.key.id, order, 20, clock.now(), clock.now())
        assert await store.job(caller.account, job.id) == job

    async def test_the_first_event_says_that_processing_started(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        (event,) = await store.read(job.id, 0)
        assert (event.job, event.n, event.final) == (job.id, 1, False)
        assert event.data.startswith(b'{"status":"Processing started"')
        data = orjson.loads(event.data)
        assert (data["job"], data["model"], data["n"]) == (job.id, "gaga-1", 1)

    async def test_the_same_idempotency_key_gives_the_same_job_and_one_charge(self, caller: Caller) -> None:
        order = caller.order(idempotency_key="once", fingerprint=b"body")
        first = await caller.store.admit(order)
        second = await caller.store.admit(order)
        assert (first.replayed, second.replayed) == (False, True)
        assert first.job == second.job
        assert await caller.ledger() == [100, -20]

    async def test_a_replay_returns_the_current_job_even_without_tokens(self, store: Store, caller: Caller) -> None:
        order = caller.order(100, idempotency_key="once")
        await store.admit(order)
        job = await store.append(await claim_one(store), DONE)
        assert (await store.admit(order)).job == job

    async def test_the_same_idempotency_key_for_another_body_is_a_conflict(self, store: Store, caller: Caller) -> None:
        await caller.admit(idempotency_key="once", fingerprint=b"body")
        with pytest.raises(errors.IdempotencyConflict):
            await caller.admit(idempotency_key="once", fingerprint=b"another")
        assert len((await store.jobs(caller.account, 50)).items) == 1

    async def test_accounts_can_use_the_same_idempotency_key_independently(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "app")
        mine = await caller.admit(idempotency_key="once", fingerprint=b"1")
        theirs = await other.admit(idempotency_key="once", fingerprint=b"2")
        assert mine.id != theirs.id

    async def test_orders_without_an_idempotency_key_create_separate_jobs(self, caller: Caller) -> None:
        assert (await caller.admit()).id != (await caller.admit()).id

    async def test_a_refused_order_leaves_its_idempotency_key_unused(self, store: Store, caller: Caller) -> None:
        with pytest.raises(errors.InsufficientTokens):
            await caller.admit(1000, idempotency_key="once", fingerprint=b"expensive")
        with pytest.raises(errors.NotFound):
            await caller.admit(20, idempotency_key="once", fingerprint=b"no asset", assets=["asset_gone"])
        admitted = await store.admit(caller.order(20, idempotency_key="once", fingerprint=b"cheap"))
        assert not admitted.replayed

    async def test_fifty_concurrent_identical_orders_create_one_job_and_one_charge(
        self, store: Store, caller: Caller
    ) -> None:
        order = caller.order(idempotency_key="once", fingerprint=b"body")
        admitted = await asyncio.gather(*(store.admit(order) for _ in range(50)))
        assert len({each.job.id for each in admitted}) == 1
        assert sum(not each.replayed for each in admitted) == 1
        assert await caller.ledger() == [100, -20]

    async def test_an_order_of_an_unknown_account_is_refused(self, store: Store) -> None:
        with pytest.raises(errors.NotFound):
            await store.admit(Admission("acct_unknown", "key_unknown", Order("suno"), 0))

    async def test_replay_finds_a_job_and_never_creates_one(self, store: Store, caller: Caller) -> None:
        order = caller.order(idempotency_key="once", fingerprint=b"1")
        assert await store.replay(order) is None
        job = (await store.admit(order)).job
        assert await store.replay(order) == job
        with pytest.raises(errors.IdempotencyConflict):
            await store.replay(replace(order, fingerprint=b"2"))
        assert await caller.ledger() == [100, -20]

    # --- the limit of unfinished jobs ---

    async def test_an_order_above_the_limit_of_unfinished_jobs_is_refused(self, store: Store, caller: Caller) -> None:
        first = [await caller.admit(max_jobs=2), await caller.admit(max_jobs=2)]
        with pytest.raises(errors.RateLimited):
            await caller.admit(max_jobs=2, idempotency_key="once", fingerprint=b"1")
        assert await caller.balance() == 60
        assert {job.id for job in (await store.jobs(caller.account, 10)).items} == {job.id for job in first}
        assert await store.replay(caller.order(idempotency_key="once", fingerprint=b"1")) is None

    async def test_unfinished_jobs_of_another_account_do_not_count(self, store: Store, caller: Caller) -> None:
        await (await new_caller(store, "other")).admit(max_jobs=1)
        await caller.admit(max_jobs=1)

    async def test_the_end_of_a_job_makes_room_for_another(self, store: Store, caller: Caller) -> None:
        await caller.admit(max_jobs=1)
        await store.append(await claim_one(store), FAILED)
        await caller.admit(max_jobs=1)

    async def test_concurrent_orders_cannot_exceed_the_limit_of_unfinished_jobs(self, caller: Caller) -> None:
        orders = (caller.admit(5, max_jobs=3) for _ in range(10))
        outcomes = await asyncio.gather(*orders, return_exceptions=True)
        assert sum(isinstance(outcome, errors.RateLimited) for outcome in outcomes) == 7
        assert await caller.balance() == 85

    async def test_a_replay_is_not_subject_to_the_limit_of_jobs(self, store: Store, caller: Caller) -> None:
        order = caller.order(max_jobs=1, idempotency_key="once", fingerprint=b"1")
        first = await store.admit(order)
        again = await store.admit(order)
        assert (again.job.id, again.replayed) == (first.job.id, True)

    # --- durations ---

    async def test_durations_run_from_the_intent_to_the_end_newest_first(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        for seconds in (30.0, 50.0):
            await caller.admit()
            clock.time += 1000
            claim = await claim_one(store)
            await store.record_intent(claim)
            clock.time += seconds
            await store.append(claim, DONE)
        assert await store.durations("gaga-1", 10) == pytest.approx([50, 30])
        assert await store.durations("gaga-1", 1) == pytest.approx([50])

    async def test_durations_omit_other_models_failed_jobs_and_jobs_without_an_intent(
        self, store: Store, caller: Caller
    ) -> None:
        for draft in (FAILED, DONE):
            await caller.admit()
            claim = await claim_one(store)
            if draft is FAILED:
                await store.record_intent(claim)
            await store.append(claim, draft)
        assert await store.durations("gaga-1", 10) == []
        assert await store.durations("suno", 10) == []

    async def test_durations_cover_all_accounts_and_survive_reopening(self, opened: Opened) -> None:
        async with opened() as store:
            for name in ("web", "other"):
                await (await new_caller(store, name)).admit()
                claim = await claim_one(store)
                await store.record_intent(claim)
                await store.append(claim, DONE)
        async with opened() as store:
            assert await store.durations("gaga-1", 10) == [0, 0]

    async def test_the_store_remembers_as_many_durations_as_polling_uses(
        self, store: Store, clock: ManualClock
    ) -> None:
        caller = await new_caller(store, tokens=10**6)
        for seconds in range(MAX_DURATIONS + 1):
            await caller.admit(1)
            claim = await claim_one(store)
            await store.record_intent(claim)
            clock.time += seconds
            await store.append(claim, DONE)
        newest = list(range(MAX_DURATIONS, 0, -1))
        assert await store.durations("gaga-1", MAX_DURATIONS) == pytest.approx(newest)

    # --- cancel ---

    async def test_the_holder_sees_a_requested_cancel(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        wanted = replace(job, cancel_requested=True)
        assert await store.request_cancel(caller.account, job.id) == wanted
        assert await store.request_cancel(caller.account, job.id) == wanted
        assert await store.job(caller.account, job.id) == wanted
        assert (await store.append(claim, PROGRESS)).cancel_requested

    async def test_a_cancel_after_the_end_changes_nothing(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        job = await store.append(await claim_one(store), DONE)
        assert await store.request_cancel(caller.account, job.id) == job

    async def test_another_account_s_job_is_not_found(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "app")
        job = await caller.admit()
        assert await store.job(other.account, job.id) is None
        assert await store.request_cancel(other.account, job.id) is None
        assert (await store.jobs(other.account, 50)).items == []
        assert await store.job(caller.account, job.id) == job
        assert await store.job(caller.account, "job_unknown") is None

    # --- lists of jobs ---

    async def test_jobs_are_paged_newest_first(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(5)]
        seen: list[Job] = []
        before = None
        for expected in (2, 2, 1):
            page = await store.jobs(caller.account, 2, before)
            assert len(page.items) == expected
            seen += page.items
            before = page.next
        assert seen == jobs[::-1]
        assert before is None

    async def test_a_page_ends_early_at_its_byte_limit(self, store: Store, caller: Caller) -> None:
        long = Order("gaga-1", {"prompt": "x" * (PAGE_BYTES // 5 * 2)})
        jobs = [(await caller.admit(1, order=long)).id for _ in range(5)]
        seen: list[str] = []
        sizes: list[int] = []
        before = None
        while before is not None or not seen:
            page = await store.jobs(caller.account, 50, before)
            sizes.append(len(page.items))
            seen += [job.id for job in page.items]
            before = page.next
        assert (seen, sizes) == (jobs[::-1], [2, 2, 1])

    async def test_a_job_larger_than_a_page_is_a_page_by_itself(self, store: Store, caller: Caller) -> None:
        huge = Order("gaga-1", {"prompt": "x" * (PAGE_BYTES + 1)})
        older, newer = [(await caller.admit(1, order=huge)).id for _ in range(2)]
        page = await store.jobs(caller.account, 50)
        assert ([job.id for job in page.items], page.next) == ([newer], newer)
        page = await store.jobs(caller.account, 50, page.next)
        assert ([job.id for job in page.items], page.next) == ([older], None)

    async def test_a_full_last_page_has_no_next(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        assert (await store.jobs(caller.account, 1)).next is None

    async def test_an_unknown_before_is_read_as_a_time(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        assert (await store.jobs(caller.account, 5, "job_7ZZZZZZZZZZZZZZZZZZZZZZZZZ")).items == [job]
        assert (await store.jobs(caller.account, 5, "job_00000000000000000000000000")).items == []
        assert len((await store.ledger(caller.account, 5, "entry_7ZZZZZZZZZZZZZZZZZZZZZZZZZ")).items) == 2
        assert (await store.ledger(caller.account, 5, "entry_00000000000000000000000000")).items == []

    async def test_jobs_are_filtered_by_status_and_model(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        done = await store.append(await claim_one(store), DONE)
        song = await caller.admit(order=Order("suno", {"prompt": "A song"}))
        sung = await store.append(await claim_one(store), DONE)
        assert song.id == sung.id
        assert (await store.jobs(caller.account, 5, status=Status.COMPLETED)).items == [sung, done]
        assert (await store.jobs(caller.account, 5, model="gaga-1")).items == [done]
        assert (await store.jobs(caller.account, 5, status=Status.COMPLETED, model="suno")).items == [sung]
        assert (await store.jobs(caller.account, 5, status=Status.ERROR)).items == []
        page = await store.jobs(caller.account, 1, status=Status.COMPLETED)
        assert (await store.jobs(caller.account, 1, page.next, status=Status.COMPLETED)).items == [done]

    # --- deletion and retention ---

    async def done(self, store: Store, caller: Caller, blob: str = "", **admission: Any) -> Job:
        await caller.admit(**admission)
        outputs = (Output(Role.IMAGE, "image/png", blob=blob),) if blob else ()
        return await store.append(await claim_one(store), replace(DONE, outputs=outputs))

    async def test_deleting_a_job_returns_the_names_of_its_blobs(self, store: Store, caller: Caller) -> None:
        job = await self.done(store, caller, blob="outputs/1")
        assert await store.delete_job(caller.account, job.id) == ["outputs/1"]
        assert await store.job(caller.account, job.id) is None
        assert await store.read(job.id, 0) == []
        assert (await store.jobs(caller.account, 10)).items == []
        assert await store.delete_job(caller.account, job.id) is None
        assert await caller.ledger() == [100, -20]

    async def test_a_deletion_is_published_and_a_refused_one_is_not(self, store: Store, caller: Caller) -> None:
        job = await self.done(store, caller)
        running = await caller.admit()
        changes = store.changes()
        with pytest.raises(errors.Conflict):
            await store.delete_job(caller.account, running.id)
        await store.delete_job(caller.account, job.id)
        await store.delete_job(caller.account, job.id)
        await store.request_cancel(caller.account, running.id)
        published = [await soon(changes) for _ in range(2)]
        assert published == [
            Change(caller.account, job.id, 0, deleted=True),
            Change(caller.account, running.id, 1, cancel=True),
        ]

    async def test_a_running_job_cannot_be_deleted(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        with pytest.raises(errors.Conflict):
            await store.delete_job(caller.account, job.id)
        assert await store.job(caller.account, job.id) == job

    async def test_another_account_s_job_cannot_be_deleted(self, store: Store, caller: Caller) -> None:
        job = await self.done(store, caller)
        other = await new_caller(store, "app")
        assert await store.delete_job(other.account, job.id) is None
        assert await store.job(caller.account, job.id) == job

    async def test_the_idempotency_key_of_a_deleted_job_creates_no_job(self, store: Store, caller: Caller) -> None:
        job = await self.done(store, caller, idempotency_key="once")
        await store.delete_job(caller.account, job.id)
        for ask in (store.admit, store.replay):
            with pytest.raises(errors.NotFound, match="deleted"):
                await ask(caller.order(idempotency_key="once"))
        assert await caller.ledger() == [100, -20]

    async def test_a_sweep_deletes_jobs_that_ended_before_the_given_time(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        old = await self.done(store, caller, blob="outputs/old")
        clock.time += 100
        since = clock.now()
        new = await self.done(store, caller)
        running = await caller.admit()
        swept = await store.sweep(since, 10)
        assert (swept.deleted, swept.blobs) == (1, ["outputs/old"])
        assert [job.id for job in (await store.jobs(caller.account, 10)).items] == [running.id, new.id]
        assert await store.job(caller.account, old.id) is None
        assert await caller.ledger() == [100, -20, -20, -20]

    async def test_a_sweep_deletes_at_most_its_limit(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        for _ in range(3):
            await self.done(store, caller)
        clock.time += 1
        assert [(await store.sweep(clock.now(), 2)).deleted for _ in range(3)] == [2, 1, 0]

    async def test_a_sweep_deletes_old_assets_that_no_unfinished_job_names(self, store: Store, caller: Caller) -> None:
        for name in ("asset_free", "asset_held"):
            await store.add_asset(new_asset(caller.account, name))
        await caller.admit(assets=("asset_held",))
        assert list((await store.sweep(6.0, 10)).blobs) == ["blob-of-asset_free"]
        assert await store.asset(caller.account, "asset_held")

    async def test_idempotency_keys_are_kept_for_at_least_a_day(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await self.done(store, caller, idempotency_key="once")
        clock.time += 3600
        await store.sweep(clock.now(), 10)
        with pytest.raises(errors.NotFound):
            await store.replay(caller.order(idempotency_key="once"))
        clock.time += 24 * 3600
        await store.sweep(clock.now(), 10)
        assert await store.replay(caller.order(idempotency_key="once")) is None
