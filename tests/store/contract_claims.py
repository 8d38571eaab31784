"""Contract tests of `Claims`: turns, room, backlogs, claims and leases."""

import asyncio
from dataclasses import replace

import pytest

from proxy.core import errors
from proxy.core.job import Draft, Job, Status
from proxy.store.contract import Store
from proxy.store.types import BACKLOG, Claim, ClaimLost, QueueRoom
from tests.support.store import (
    DONE,
    FAILED,
    LEASE,
    PROGRESS,
    ROOMS,
    Caller,
    ManualClock,
    Opened,
    StoreFixtures,
    claim_one,
    details,
    new_caller,
    soon,
)


class ClaimsContract(StoreFixtures):
    # --- claims and leases ---

    async def test_append_returns_the_current_job(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        before = await caller.admit()
        claim = await claim_one(store)
        clock.time += 5
        job = await store.append(claim, Draft(Status.PROCESSING, {"detail": "Rendering", "progress": 40.5}))
        assert job == replace(
            before, status=Status.PROCESSING, event=2, detail="Rendering", progress=40.5, updated_at=clock.now()
        )
        assert await store.job(caller.account, job.id) == job

    async def test_unfinished_jobs_are_claimed_oldest_first(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(3)]
        claims = await store.claim("node-a", ROOMS, 2)
        assert [claim.job for claim in claims] == jobs[:2]
        assert [claim.job for claim in await store.claim("node-b", ROOMS, 2)] == jobs[2:]
        assert await store.claim("node-a", ROOMS, 2) == []

    async def test_two_nodes_never_claim_the_same_job(self, store: Store, caller: Caller) -> None:
        for _ in range(20):
            await caller.admit(1)
        batches = await asyncio.gather(*(store.claim(f"node-{n}", ROOMS, 3) for n in range(10)))
        jobs = [claim.job.id for claims in batches for claim in claims]
        assert len(jobs) == len(set(jobs)) == 20

    async def test_a_finished_job_cannot_be_claimed(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        await caller.admit()
        await store.append(await claim_one(store), DONE)
        clock.time += LEASE
        assert await store.claim("node-b", ROOMS, 1) == []

    async def test_an_expired_claim_is_taken_over_and_excludes_its_old_holder(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        job = await caller.admit()
        old = await claim_one(store, "node-a")
        clock.time += LEASE - 1
        assert await store.claim("node-b", ROOMS, 1) == []
        clock.time += 1
        new = await claim_one(store, "node-b")
        assert new.epoch > old.epoch
        for draft in (PROGRESS, FAILED):
            with pytest.raises(ClaimLost):
                await store.append(old, draft)
        with pytest.raises(ClaimLost):
            await store.record_intent(old)
        assert await store.job(caller.account, job.id) == job
        assert await caller.ledger() == [100, -20]
        assert (await store.append(new, PROGRESS)).event == 2

    async def test_a_node_never_takes_over_its_own_claim(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await caller.admit()
        claim = await claim_one(store)
        clock.time += LEASE
        assert not await store.claim(claim.node, ROOMS, 10)
        assert (await store.append(claim, PROGRESS)).event == 2

    async def test_a_second_claim_by_the_same_node_invalidates_the_first(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        old = await claim_one(store)
        await store.release(old)
        await claim_one(store)
        with pytest.raises(ClaimLost):
            await store.append(old, PROGRESS)

    async def test_an_expired_claim_stays_valid_until_another_node_claims(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await caller.admit()
        claim = await claim_one(store)
        clock.time += 10 * LEASE
        assert (await store.append(claim, PROGRESS)).event == 2

    async def test_renewing_extends_only_the_node_s_own_claims(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        mine, theirs = await caller.admit(), await caller.admit()
        await claim_one(store, "node-a")
        await claim_one(store, "node-b")
        clock.time += LEASE / 2
        await store.renew("node-a")
        assert await store.claim("node-c", ROOMS, 2) == []
        clock.time += LEASE / 2
        assert [claim.job for claim in await store.claim("node-c", ROOMS, 2)] == [theirs]
        clock.time += LEASE / 2
        assert [claim.job for claim in await store.claim("node-c", ROOMS, 2)] == [mine]

    async def test_unknown_claims_returns_the_node_s_claims_of_other_jobs(self, store: Store, caller: Caller) -> None:
        for _ in range(3):
            await caller.admit()
        known, unknown, other = [await claim_one(store, node) for node in ("a", "a", "b")]
        assert await store.unknown_claims("a", {known.job.id, other.job.id}) == [unknown]
        await store.release(unknown)
        assert await store.unknown_claims("a", {known.job.id}) == []
        assert (await claim_one(store, "b")).job.id == unknown.job.id

    async def test_a_released_job_can_be_claimed_at_once(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        old = await claim_one(store, "node-a")
        await store.release(old)
        new = await claim_one(store, "node-b")
        assert new.job == old.job
        with pytest.raises(ClaimLost):
            await store.append(old, PROGRESS)

    async def test_releasing_a_lost_claim_changes_nothing(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await caller.admit()
        old = await claim_one(store, "node-a")
        clock.time += LEASE
        new = await claim_one(store, "node-b")
        await store.release(old)
        assert await store.claim("node-c", ROOMS, 1) == []
        await store.append(new, DONE)
        await store.release(new)
        assert await store.claim("node-c", ROOMS, 1) == []

    async def test_only_the_holder_can_change_a_job(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        for claim in (Claim(job, "node-a", 0), Claim(job, "node-a", 1)):
            with pytest.raises(ClaimLost):
                await store.append(claim, PROGRESS)
        claim = await claim_one(store)
        with pytest.raises(ClaimLost):
            await store.append(replace(claim, node="node-b"), PROGRESS)
        assert len(await store.read(job.id, 0)) == 1

    async def test_a_claim_contains_the_job_as_its_last_holder_left_it(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await caller.admit()
        claim = await claim_one(store)
        intended = await store.record_intent(claim)
        assert intended.intended_at == clock.now()
        await store.append(claim, PROGRESS, ticket={"id": "t-1"})
        await store.release(claim)
        job = (await claim_one(store)).job
        assert (job.intended_at, job.ticket, job.event) == (clock.now(), {"id": "t-1"}, 2)

    async def test_an_intent_can_be_withdrawn_by_the_holder(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        claim = await claim_one(store)
        assert (await store.record_intent(claim)).intended_at is not None
        assert (await store.withdraw_intent(claim)).intended_at is None
        await store.release(claim)
        with pytest.raises(ClaimLost):
            await store.withdraw_intent(claim)

    async def test_an_intent_keeps_its_request_over_claims(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await caller.admit()
        old = await claim_one(store, "node-a")
        request = bytes(range(256))
        await store.record_intent(old, request)
        assert await store.intended_request(old) == request
        clock.time += LEASE
        new = await claim_one(store, "node-b")
        assert await store.intended_request(new) == request
        with pytest.raises(ClaimLost):
            await store.intended_request(old)

    async def test_each_claim_of_a_job_has_its_version(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        await caller.admit(version="acme-1")
        assert (await claim_one(store, "node-a")).version == "acme-1"
        clock.time += LEASE
        assert (await claim_one(store, "node-b")).version == "acme-1"
        assert [claim.version for claim in await store.unknown_claims("node-b", [])] == ["acme-1"]

    async def test_a_job_without_a_version_has_an_empty_one(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        assert (await claim_one(store)).version == ""

    async def test_an_intent_without_a_request_has_none(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        claim = await claim_one(store)
        assert await store.intended_request(claim) is None
        await store.record_intent(claim)
        assert await store.intended_request(claim) is None

    async def test_a_withdrawn_intent_takes_its_request_with_it(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        claim = await claim_one(store)
        await store.record_intent(claim, b"{}")
        await store.withdraw_intent(claim)
        assert await store.intended_request(claim) is None

    async def test_the_request_of_a_finished_job_is_gone(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        claim = await claim_one(store)
        await store.record_intent(claim, b"{}")
        await store.append(claim, DONE)
        with pytest.raises(ClaimLost):
            await store.intended_request(claim)

    # --- turns and room ---

    async def test_waiting_jobs_are_claimed_as_far_as_their_queue_has_room(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, queue="here") for _ in range(3)] + [await caller.admit(1, queue="there")]
        rooms = {"here": QueueRoom(2, 1e9), "there": QueueRoom(2, 1e9)}
        claims = await store.claim("node-a", rooms, 10)
        assert [claim.job.id for claim in claims] == [jobs[0].id, jobs[1].id, jobs[3].id]
        assert await store.claim("node-b", rooms, 10) == []
        await store.append(claims[0], DONE)
        assert [claim.job.id for claim in await store.claim("node-b", rooms, 10)] == [jobs[2].id]

    async def test_accounts_take_turns_regardless_of_their_number_of_waiting_jobs(
        self, store: Store, caller: Caller
    ) -> None:
        other = await new_caller(store, "other")
        jobs = [await caller.admit(1) for _ in range(3)]
        theirs = [await other.admit(1) for _ in range(2)]
        served = []
        for _ in range(5):
            (claim,) = await store.claim("node-a", {"": QueueRoom(1, 1e9)}, 10)
            served.append(claim.job.id)
            await store.append(claim, DONE)
        assert served == [job.id for job in (jobs[0], theirs[0], jobs[1], theirs[1], jobs[2])]

    async def test_a_new_account_s_first_turn_follows_the_last_served_turn(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "other")
        jobs = [await caller.admit(1) for _ in range(4)]
        await store.claim("node-a", {"": QueueRoom(2, 1e9)}, 10)
        late = await other.admit(1)
        served = [claim.job.id for claim in await store.claim("node-b", ROOMS, 10)]
        assert served == [jobs[2].id, late.id, jobs[3].id]

    async def test_a_canceled_job_is_claimed_without_room(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        full = {"": QueueRoom(0, 1e9)}
        assert await store.claim("node-a", full, 10) == []
        await store.request_cancel(caller.account, job.id)
        (claim,) = await store.claim("node-a", full, 10)
        assert claim.job.cancel_requested

    async def test_a_job_waits_at_most_max_wait_for_room(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        job = await caller.admit()
        full = {"": QueueRoom(0, 60.0)}
        clock.time += 59
        assert await store.claim("node-a", full, 10) == []
        clock.time += 1
        assert [claim.job.id for claim in await store.claim("node-a", full, 10)] == [job.id]

    async def test_a_job_with_an_expired_lease_is_claimed_without_room(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        jobs = [await caller.admit(1) for _ in range(2)]
        (old,) = await store.claim("node-a", {"": QueueRoom(1, 1e9)}, 10)
        clock.time += LEASE
        assert [claim.job.id for claim in await store.claim("node-b", {"": QueueRoom(1, 1e9)}, 10)] == [jobs[0].id]
        assert old.job.id == jobs[0].id

    async def test_a_job_released_before_its_intent_keeps_its_turn(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(2)]
        one = {"": QueueRoom(1, 1e9)}
        (claim,) = await store.claim("node-a", one, 10)
        await store.release(claim)
        assert [claim.job.id for claim in await store.claim("node-a", one, 10)] == [jobs[0].id]

    async def test_a_job_released_after_its_intent_keeps_its_room(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(2)]
        one = {"": QueueRoom(1, 1e9)}
        (claim,) = await store.claim("node-a", one, 10)
        await store.record_intent(claim)
        await store.release(claim)
        assert [claim.job.id for claim in await store.claim("node-a", one, 10)] == [jobs[0].id]
        assert await store.claim("node-b", one, 10) == []

    async def test_waiting_jobs_are_counted_by_queue_and_in_backlogs(self, store: Store, caller: Caller) -> None:
        queues = ["gaga", "gaia"]
        assert await store.waiting(queues) == {"gaga": 0, "gaia": 0, BACKLOG: 0}
        for _ in range(5):
            await caller.admit(1, queue="gaga", max_jobs=3, max_backlog=9)
        other = await new_caller(store, "other")
        for _ in range(2):
            await other.admit(1, queue="gaia", max_jobs=1, max_backlog=9)
        assert await store.waiting(queues) == {"gaga": 3, "gaia": 1, BACKLOG: 3}
        await store.claim("node-a", {"gaga": QueueRoom(2, 60)}, 10)
        assert await store.waiting(queues) == {"gaga": 1, "gaia": 1, BACKLOG: 3}

    # --- backlogs ---

    async def test_an_order_above_the_limit_joins_the_backlog_and_is_charged(
        self, store: Store, caller: Caller
    ) -> None:
        first = await caller.admit(20, max_jobs=1, max_backlog=2)
        job = await caller.admit(20, max_jobs=1, max_backlog=2)
        assert (job.detail, job.status, job.event) == ("Waiting: number 1 in line", Status.PROCESSING, 2)
        assert await store.job(caller.account, job.id) == job
        assert await caller.balance() == 60
        assert await details(store, job) == [None, "Waiting: number 1 in line"]
        assert [claim.job.id for claim in await store.claim("node-a", ROOMS, 10)] == [first.id]
        assert [job.id for job in (await store.jobs(caller.account, 9, status=Status.PROCESSING)).items] == [job.id]

    async def test_an_order_above_the_backlog_s_limit_is_refused_without_a_charge(
        self, store: Store, caller: Caller
    ) -> None:
        for _ in range(3):
            await caller.admit(20, max_jobs=1, max_backlog=2)
        with pytest.raises(errors.RateLimited, match="1 unfinished jobs and 2 more that wait in line"):
            await caller.admit(20, max_jobs=1, max_backlog=2)
        assert await caller.balance() == 40
        await (await new_caller(store, "other")).admit(20, max_jobs=1, max_backlog=2)

    async def test_concurrent_orders_cannot_exceed_the_backlog_s_limit(self, caller: Caller) -> None:
        orders = (caller.admit(5, max_jobs=3, max_backlog=4) for _ in range(10))
        admitted = [job for job in await asyncio.gather(*orders, return_exceptions=True) if isinstance(job, Job)]
        positions = [job.detail for job in admitted if job.detail]
        assert positions == [f"Waiting: number {position} in line" for position in (1, 2, 3, 4)]
        assert len(admitted) == 7
        assert await caller.balance() == 65

    async def test_the_first_job_of_a_backlog_is_released_when_another_ends(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, max_jobs=2, max_backlog=9) for _ in range(5)]
        claims = await store.claim("node-a", ROOMS, 10)
        await store.release_backlog(2, 10)
        assert await store.claim("node-a", ROOMS, 10) == []
        for ended, next_job in ((0, 2), (1, 3)):
            await store.append(claims[ended], DONE)
            assert await store.claim("node-a", ROOMS, 10) == []
            await store.release_backlog(2, 10)
            assert [claim.job.id for claim in await store.claim("node-a", ROOMS, 10)] == [jobs[next_job].id]

    async def test_jobs_in_a_backlog_get_events_with_their_new_positions(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, max_jobs=1, max_backlog=9) for _ in range(4)]
        changes = store.changes()
        await store.append(await claim_one(store), DONE)
        await store.release_backlog(1, 10)
        notified = [(await soon(changes)).job for _ in range(3)]
        assert notified == [jobs[0].id, jobs[2].id, jobs[3].id]
        positions = [f"Waiting: number {position} in line" for position in (3, 2, 1)]
        assert await details(store, jobs[3]) == [None, *positions[:2]]
        assert await details(store, jobs[2]) == [None, *positions[1:]]
        assert await details(store, jobs[1]) == [None, *positions[2:]]

    async def test_an_unchanged_backlog_gets_no_events(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, max_jobs=1, max_backlog=9) for _ in range(3)]
        for _ in range(3):
            await store.release_backlog(1, 10)
        assert [len(await store.read(job.id, 0)) for job in jobs] == [1, 2, 2]

    async def test_a_long_backlog_announces_few_positions(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, max_jobs=1, max_backlog=99) for _ in range(31)]
        for _ in range(30):
            await store.append(await claim_one(store), DONE)
            await store.release_backlog(1, 10)
        positions = (30, 20, 10, 5, 4, 3, 2, 1)
        assert await details(store, jobs[-1]) == [
            None,
            *(f"Waiting: number {position} in line" for position in positions),
        ]

    async def test_a_new_order_does_not_overtake_the_backlog(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, max_jobs=1, max_backlog=9) for _ in range(2)]
        await store.append(await claim_one(store), DONE)
        late = await caller.admit(1, max_jobs=1, max_backlog=9)
        await store.release_backlog(1, 10)
        assert (await claim_one(store)).job.id == jobs[1].id
        assert await details(store, late) == [None, "Waiting: number 2 in line", "Waiting: number 1 in line"]

    async def test_a_released_job_takes_its_turn_among_the_accounts(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "other")
        jobs = [await caller.admit(1, max_jobs=1, max_backlog=9) for _ in range(3)]
        theirs = [await other.admit(1, max_jobs=2, max_backlog=9) for _ in range(2)]
        served = []
        for _ in range(5):
            (claim,) = await store.claim("node-a", {"": QueueRoom(1, 1e9)}, 10)
            served.append(claim.job.id)
            await store.append(claim, DONE)
            await store.release_backlog(1, 10)
        assert served == [job.id for job in (jobs[0], theirs[0], jobs[1], theirs[1], jobs[2])]

    async def test_a_released_job_enters_the_queue_of_its_order(self, store: Store, caller: Caller) -> None:
        await caller.admit(1, max_jobs=1, max_backlog=9, queue="here")
        job = await caller.admit(1, max_jobs=1, max_backlog=9, queue="there")
        (claim,) = await store.claim("node-a", {"here": QueueRoom(9, 1e9)}, 10)
        await store.append(claim, DONE)
        await store.release_backlog(1, 10)
        assert await store.claim("node-a", {"here": QueueRoom(9, 1e9)}, 10) == []
        assert [claim.job.id for claim in await store.claim("node-a", {"there": QueueRoom(9, 1e9)}, 10)] == [job.id]

    async def test_time_in_the_backlog_does_not_count_towards_max_wait(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        jobs = [await caller.admit(1, max_jobs=1, max_backlog=9) for _ in range(2)]
        claim = await claim_one(store)
        clock.time += 1000
        assert await store.claim("node-a", {"": QueueRoom(0, 60.0)}, 10) == []
        await store.append(claim, DONE)
        await store.release_backlog(1, 10)
        clock.time += 59
        assert await store.claim("node-a", {"": QueueRoom(0, 60.0)}, 10) == []
        clock.time += 1
        (claim,) = await store.claim("node-a", {"": QueueRoom(0, 60.0)}, 10)
        assert claim.job.id == jobs[1].id
        assert claim.since == jobs[1].created_at + 1000

    async def test_a_job_canceled_in_the_backlog_is_claimed_and_others_advance(
        self, store: Store, caller: Caller
    ) -> None:
        jobs = [await caller.admit(20, max_jobs=1, max_backlog=9) for _ in range(3)]
        running = await claim_one(store)
        await store.request_cancel(caller.account, jobs[1].id)
        claim = await claim_one(store)
        assert (claim.job.id, claim.job.cancel_requested) == (jobs[1].id, True)
        await store.append(claim, Draft(Status.CANCELED, {"refunded": 20}, refund=20))
        await store.release_backlog(1, 10)
        assert await caller.balance() == 60
        assert await details(store, jobs[2]) == [None, "Waiting: number 2 in line", "Waiting: number 1 in line"]
        assert await store.claim("node-a", ROOMS, 10) == []
        await store.append(running, DONE)
        await store.release_backlog(1, 10)
        assert (await claim_one(store)).job.id == jobs[2].id

    async def test_a_job_claimed_from_the_backlog_for_its_cancel_can_be_released(
        self, store: Store, caller: Caller
    ) -> None:
        jobs = [await caller.admit(20, max_jobs=1, max_backlog=9) for _ in range(2)]
        await claim_one(store)
        await store.request_cancel(caller.account, jobs[1].id)
        await store.release(await claim_one(store))
        await store.release_backlog(1, 10)
        claim = await claim_one(store)
        assert (claim.job.id, claim.job.cancel_requested) == (jobs[1].id, True)

    async def test_jobs_behind_one_that_returns_to_the_backlog_are_notified(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(20, max_jobs=1, max_backlog=9) for _ in range(3)]
        await claim_one(store)
        await store.request_cancel(caller.account, jobs[1].id)
        claim = await claim_one(store)
        await store.release_backlog(1, 10)
        await store.release(claim)
        await store.release_backlog(1, 10)
        positions = [f"Waiting: number {position} in line" for position in (2, 1, 2)]
        assert await details(store, jobs[2]) == [None, *positions]

    @pytest.mark.parametrize(("max_jobs", "released"), [(None, 3), (3, 2), (1, 0), (0, 0)])
    async def test_a_backlog_survives_reopening_and_obeys_the_new_limit(
        self, opened: Opened, max_jobs: int | None, released: int
    ) -> None:
        async with opened() as store:
            caller = await new_caller(store)
            jobs = [await caller.admit(1, max_jobs=1, max_backlog=9) for _ in range(4)]
            await store.release_backlog(1, 10)
        async with opened() as store:
            await store.release_backlog(max_jobs, 10)
            claims = await store.claim("node-a", ROOMS, 10)
            assert [claim.job.id for claim in claims] == [job.id for job in jobs[: released + 1]]

    async def test_a_replay_returns_a_job_in_the_backlog(self, store: Store, caller: Caller) -> None:
        await caller.admit(1, max_jobs=1, max_backlog=1)
        order = caller.order(1, max_jobs=1, max_backlog=1, idempotency_key="once", fingerprint=b"1")
        first = await store.admit(order)
        again = await store.admit(order)
        assert again.replayed
        assert again.job == first.job
