"""The promises of `proxy.store.base`, each a test; a backend subclasses `StoreContract` and says how to open itself.

Subclasses define the fixture `opened`: called, it gives a new handle, not yet entered, on the test's one set of data.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import orjson
import pytest

from proxy.core import errors
from proxy.core.job import Draft, Job, Order, Output, Role, Status
from proxy.runner.polling import MAX_DURATIONS
from proxy.store.base import (
    AT_ONCE,
    BACKLOG,
    PAGE_BYTES,
    Admission,
    Asset,
    Cause,
    Change,
    Claim,
    ClaimLost,
    Key,
    QueueRoom,
    Store,
)

Opened = Callable[[], Store]

LEASE = 30.0
PROGRESS = Draft(Status.PROCESSING, {"detail": "Rendering"})
DONE = Draft(Status.COMPLETED, {"url": "https://example.com/cat.mp4"})
FAILED = Draft(Status.ERROR, {"message": "It broke.", "code": "upstream_failed", "refunded": 20}, refund=20)


class ManualClock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.time = 1_790_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass(frozen=True)
class Caller:
    """An account at work: what the tests do most, in short words."""

    store: Store
    key: Key

    @property
    def account(self) -> str:
        return self.key.account

    def order(self, tokens: int = 20, **admission: Any) -> Admission:
        order = admission.pop("order", Order("gaga-1", {"prompt": "A cat"}))
        return Admission(self.account, self.key.id, order, tokens, **admission)

    async def admit(self, tokens: int = 20, **admission: Any) -> Job:
        return (await self.store.admit(self.order(tokens, **admission))).job

    async def balance(self) -> int:
        account = await self.store.account(self.account)
        assert account
        return account.tokens

    async def ledger(self) -> list[int]:
        """The amounts of the whole ledger, oldest first."""
        return [entry.tokens for entry in reversed((await self.store.ledger(self.account, 1000)).items)]


ROOMS = {"": QueueRoom(1000, 1e9)}
"""One queue, in which there is always room."""

_digests = (number.to_bytes(32, "big") for number in count())


async def new_caller(store: Store, name: str = "web", tokens: int = 100) -> Caller:
    return Caller(store, await store.create_key(name, next(_digests), tokens))


async def claim_one(store: Store, node: str = "node-a") -> Claim:
    (claim,) = await store.claim(node, ROOMS, 1)
    return claim


async def details(store: Store, job: Job) -> list[str | None]:
    """What each event of the job says in `detail`."""
    return [orjson.loads(event.data).get("detail") for event in await store.read(job.id, 0)]


def new_asset(account: str, name: str = "asset_1", created_at: float = 5.0) -> Asset:
    return Asset(name, account, "image/png", 10, f"blob-of-{name}", created_at)


async def soon(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(5):
        return await anext(changes)


def gist(change: Change) -> Change:
    """A change without the event that it carries, and when that was handed in."""
    return change._replace(event=None, at=0.0)


class StoreContract:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def opened(self) -> Opened:
        raise NotImplementedError

    @pytest.fixture
    async def store(self, opened: Opened) -> AsyncIterator[Store]:
        async with opened() as store:
            yield store

    @pytest.fixture
    async def caller(self, store: Store) -> Caller:
        return await new_caller(store)

    # --- opening and closing ---

    async def test_an_open_store_answers_ping(self, store: Store) -> None:
        await store.ping()

    async def test_a_secret_is_32_bytes_and_its_own_for_every_name(self, store: Store) -> None:
        links, other = await store.secret("links"), await store.secret("other")
        assert len(links) == len(other) == 32
        assert links != other

    async def test_the_first_value_given_under_a_name_is_everyone_s_for_ever(self, opened: Opened) -> None:
        async with opened() as store:
            assert [await store.get_or_set("place", value) for value in (b"one", b"two")] == [b"one", b"one"]
        async with opened() as store:
            assert await store.get_or_set("place", b"three") == b"one"
            assert await store.get_or_set("other", b"three") == b"three"

    async def test_a_secret_is_the_same_for_ever(self, opened: Opened) -> None:
        async with opened() as store:
            first = await store.secret("links")
            assert await store.secret("links") == first
        async with opened() as store:
            assert await store.secret("links") == first

    async def test_everything_is_there_after_reopening(self, opened: Opened) -> None:
        async with opened() as store:
            caller = await new_caller(store)
            await caller.admit(idempotency_key="once", fingerprint=b"1")
            claim = await claim_one(store)
            job = await store.append(claim, PROGRESS, ticket={"id": "t-1"})
            events = await store.read(job.id, 0)
        async with opened() as store:
            again = Caller(store, caller.key)
            assert await store.job(caller.account, job.id) == job
            assert await store.read(job.id, 0) == events
            assert await again.balance() == 80
            assert (await store.admit(again.order(idempotency_key="once", fingerprint=b"1"))).replayed

    async def test_calls_in_flight_are_finished_at_the_close(self, opened: Opened) -> None:
        async with opened() as store:
            caller = await new_caller(store)
            calls = [asyncio.create_task(caller.admit(1)) for _ in range(20)]
            await asyncio.sleep(0)
        jobs = [(await call).id for call in calls]
        async with opened() as store:
            assert [job.id for job in (await store.jobs(caller.account, 50)).items] == jobs[::-1]

    async def test_a_closed_store_is_unavailable(self, opened: Opened) -> None:
        async with opened() as store:
            pass
        with pytest.raises(errors.Unavailable):
            await store.ping()

    # --- accounts and keys ---

    async def test_a_key_is_found_by_its_digest_and_by_its_id(self, store: Store) -> None:
        key = await store.create_key("web", b"digest")
        assert (key.name, key.revoked_at) == ("web", None)
        assert await store.key(b"digest") == await store.key_by_id(key.id) == key

    async def test_an_unknown_key_is_none(self, store: Store) -> None:
        assert await store.key(b"unknown") is None
        assert await store.key_by_id("key_unknown") is None
        assert await store.revoke_key("key_unknown") is None

    async def test_of_many_ids_those_of_good_keys_are_told_apart(self, store: Store) -> None:
        first, revoked, third = [await store.create_key("web", digest) for digest in (b"1", b"2", b"3")]
        await store.revoke_key(revoked.id)
        asked = [first.id, revoked.id, third.id, "key_unknown"]
        assert await store.active_keys(asked) == {first.id, third.id}
        assert await store.active_keys([]) == set()

    async def test_a_second_key_of_a_name_belongs_to_the_same_account(self, store: Store) -> None:
        first = await store.create_key("web", b"1", 100)
        second = await store.create_key("web", b"2", 50)
        assert first.account == second.account
        assert first.id != second.id
        assert [account.tokens for account in await store.accounts()] == [150]

    async def test_keys_come_oldest_first_and_accounts_by_name(self, store: Store) -> None:
        made = [await store.create_key(name, name.encode()) for name in ("web", "app", "cli")]
        assert await store.keys() == made
        assert [account.name for account in await store.accounts()] == ["app", "cli", "web"]

    async def test_a_key_is_revoked_once_and_for_ever(self, store: Store, clock: ManualClock) -> None:
        key = await store.create_key("web", b"1")
        revoked = await store.revoke_key(key.id)
        assert revoked == replace(key, revoked_at=clock.now())
        clock.time += 60
        assert await store.revoke_key(key.id) == await store.key(b"1") == revoked

    async def test_a_key_made_revoked_or_granted_by_another_handle_is_seen(self, store: Store, opened: Opened) -> None:
        async with opened() as beside:
            key = await beside.create_key("web", b"1", 5)
            assert await store.key(b"1") == key
            assert await store.account(key.account) == await beside.grant("web", 0)
            assert await store.revoke_key(key.id) == await beside.key(b"1")

    # --- tokens ---

    async def test_tokens_are_granted_and_taken(self, store: Store, caller: Caller) -> None:
        assert await store.grant("web", 50) == await store.account(caller.account)
        assert await caller.balance() == 150
        await store.grant("web", -150)
        assert await caller.balance() == 0
        assert await caller.ledger() == [100, 50, -150]

    async def test_a_grant_to_nobody_is_none(self, store: Store) -> None:
        assert await store.grant("nobody", 5) is None
        assert await store.account("acct_nobody") is None

    async def test_no_grant_takes_more_than_there_is(self, store: Store, caller: Caller) -> None:
        with pytest.raises(errors.InsufficientTokens, match=r"^The account has 100 tokens: 101 cannot be taken\.$"):
            await store.grant("web", -101)
        assert await caller.ledger() == [100]

    async def test_a_new_key_without_tokens_writes_no_entry(self, store: Store) -> None:
        assert await (await new_caller(store, tokens=0)).ledger() == []

    async def test_a_job_is_charged_its_price(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        job = await caller.admit(20)
        assert job.tokens == 20
        assert await caller.balance() == 80
        entry = (await store.ledger(caller.account, 1)).items[0]
        assert (entry.tokens, entry.cause, entry.job, entry.at) == (-20, Cause.CHARGE, job.id, clock.now())

    async def test_what_moves_no_tokens_writes_no_entry(self, store: Store, caller: Caller) -> None:
        await caller.admit(0)
        await store.grant("web", 0)
        assert await caller.ledger() == [100]

    async def test_an_order_above_the_balance_is_refused_and_leaves_nothing(self, store: Store, caller: Caller) -> None:
        changes = store.changes()
        with pytest.raises(errors.InsufficientTokens, match=r"101.*100"):
            await caller.admit(101, idempotency_key="once")
        assert await caller.ledger() == [100]
        assert (await store.jobs(caller.account, 50)).items == []
        assert await store.claim("node-a", ROOMS, 10) == []
        job = await caller.admit(100, idempotency_key="once")
        assert gist(await soon(changes)) == Change(caller.account, job.id, 1)

    async def test_concurrent_spends_never_go_below_zero(self, store: Store, caller: Caller) -> None:
        results = await asyncio.gather(*(caller.admit(7) for _ in range(50)), return_exceptions=True)
        assert sum(isinstance(result, Job) for result in results) == 14
        assert sum(isinstance(result, errors.InsufficientTokens) for result in results) == 36
        assert await caller.balance() == sum(await caller.ledger()) == 2
        assert len((await store.jobs(caller.account, 50)).items) == 14

    async def test_a_refund_comes_with_the_final_event(self, store: Store, caller: Caller) -> None:
        await caller.admit(20)
        job = await store.append(await claim_one(store), FAILED)
        assert job.refunded == 20
        assert await caller.balance() == 100
        entry = (await store.ledger(caller.account, 1)).items[0]
        assert (entry.tokens, entry.cause, entry.job) == (20, Cause.REFUND, job.id)

    async def test_a_part_can_be_refunded(self, store: Store, caller: Caller) -> None:
        await caller.admit(20)
        await store.append(await claim_one(store), replace(DONE, refund=5))
        assert await caller.ledger() == [100, -20, 5]

    async def test_why_a_text_ended_is_kept_with_the_job(self, store: Store, caller: Caller) -> None:
        job = await caller.admit(20)
        ended = replace(DONE, fields={**DONE.fields, "finish_reason": "length"})
        await store.append(await claim_one(store), ended)
        found = await store.job(caller.account, job.id)
        assert (found and found.finish_reason) == "length"

    async def test_a_job_is_refunded_at_most_once(self, store: Store, caller: Caller) -> None:
        await caller.admit(20)
        claim = await claim_one(store)
        results = await asyncio.gather(*(store.append(claim, FAILED) for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(result, ClaimLost) for result in results) == 9
        assert await caller.ledger() == [100, -20, 20]

    @pytest.mark.parametrize("draft", [replace(PROGRESS, refund=5), replace(FAILED, refund=21)])
    async def test_no_refund_before_the_end_nor_above_the_price(
        self, store: Store, caller: Caller, draft: Draft
    ) -> None:
        job = await caller.admit(20)
        with pytest.raises(ValueError, match="refunded"):
            await store.append(await claim_one(store), draft)
        assert await caller.ledger() == [100, -20]
        assert await store.job(caller.account, job.id) == job
        assert len(await store.read(job.id, 0)) == 1

    async def test_the_ledger_is_paged_newest_first(self, store: Store, caller: Caller) -> None:
        for tokens in (1, 2, 3):
            await store.grant("web", tokens)
        first = await store.ledger(caller.account, 2)
        assert [entry.tokens for entry in first.items] == [3, 2]
        second = await store.ledger(caller.account, 2, first.next)
        assert [entry.tokens for entry in second.items] == [1, 100]
        assert second.next is None

    async def test_a_ledger_is_its_account_s_own(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "app", 7)
        assert await other.ledger() == [7]
        assert await caller.ledger() == [100]

    # --- admission ---

    async def test_an_admitted_job_is_what_was_ordered(self, store: Store, caller: Caller, clock: ManualClock) -> None:
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

    async def test_a_replay_shows_the_job_as_it_is_now_whatever_the_balance(self, store: Store, caller: Caller) -> None:
        order = caller.order(100, idempotency_key="once")
        await store.admit(order)
        job = await store.append(await claim_one(store), DONE)
        assert (await store.admit(order)).job == job

    async def test_the_same_idempotency_key_for_another_body_is_a_conflict(self, store: Store, caller: Caller) -> None:
        await caller.admit(idempotency_key="once", fingerprint=b"body")
        with pytest.raises(errors.IdempotencyConflict):
            await caller.admit(idempotency_key="once", fingerprint=b"another")
        assert len((await store.jobs(caller.account, 50)).items) == 1

    async def test_an_idempotency_key_is_its_account_s_own(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "app")
        mine = await caller.admit(idempotency_key="once", fingerprint=b"1")
        theirs = await other.admit(idempotency_key="once", fingerprint=b"2")
        assert mine.id != theirs.id

    async def test_orders_without_an_idempotency_key_are_all_new(self, caller: Caller) -> None:
        assert (await caller.admit()).id != (await caller.admit()).id

    async def test_a_refused_order_burns_no_idempotency_key(self, store: Store, caller: Caller) -> None:
        with pytest.raises(errors.InsufficientTokens):
            await caller.admit(1000, idempotency_key="once", fingerprint=b"dear")
        with pytest.raises(errors.NotFound):
            await caller.admit(20, idempotency_key="once", fingerprint=b"no asset", assets=["asset_gone"])
        admitted = await store.admit(caller.order(20, idempotency_key="once", fingerprint=b"cheap"))
        assert not admitted.replayed

    async def test_fifty_identical_orders_at_once_make_one_job_and_one_charge(
        self, store: Store, caller: Caller
    ) -> None:
        order = caller.order(idempotency_key="once", fingerprint=b"body")
        admitted = await asyncio.gather(*(store.admit(order) for _ in range(50)))
        assert len({each.job.id for each in admitted}) == 1
        assert sum(not each.replayed for each in admitted) == 1
        assert await caller.ledger() == [100, -20]

    async def test_an_order_of_an_unknown_account_is_refused(self, store: Store) -> None:
        with pytest.raises(errors.NotFound):
            await store.admit(Admission("acct_nobody", "key_nobody", Order("suno"), 0))

    # --- how many at once ---

    async def test_an_account_has_no_more_unfinished_jobs_than_it_may(self, store: Store, caller: Caller) -> None:
        first = [await caller.admit(most=2), await caller.admit(most=2)]
        with pytest.raises(errors.RateLimited):
            await caller.admit(most=2, idempotency_key="once", fingerprint=b"1")
        assert await caller.balance() == 60
        assert {job.id for job in (await store.jobs(caller.account, 10)).items} == {job.id for job in first}
        assert await store.replay(caller.order(idempotency_key="once", fingerprint=b"1")) is None

    async def test_what_another_account_has_under_way_takes_no_room(self, store: Store, caller: Caller) -> None:
        await (await new_caller(store, "other")).admit(most=1)
        await caller.admit(most=1)

    async def test_the_end_of_a_job_makes_room_for_one_more(self, store: Store, caller: Caller) -> None:
        await caller.admit(most=1)
        await store.append(await claim_one(store), FAILED)
        await caller.admit(most=1)

    async def test_of_many_orders_at_once_no_more_are_taken_than_there_is_room_for(self, caller: Caller) -> None:
        asked = (caller.admit(5, most=3) for _ in range(10))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(answer, errors.RateLimited) for answer in answers) == 7
        assert await caller.balance() == 85

    async def test_a_repeated_order_is_answered_however_many_jobs_there_are(self, store: Store, caller: Caller) -> None:
        order = caller.order(most=1, idempotency_key="once", fingerprint=b"1")
        first = await store.admit(order)
        again = await store.admit(order)
        assert (again.job.id, again.replayed) == (first.job.id, True)

    # --- how long jobs take ---

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

    async def test_durations_leave_out_other_models_and_jobs_that_failed_or_were_never_sent(
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

    async def test_durations_are_those_of_all_accounts_and_are_there_after_reopening(self, opened: Opened) -> None:
        async with opened() as store:
            for name in ("web", "other"):
                await (await new_caller(store, name)).admit()
                claim = await claim_one(store)
                await store.record_intent(claim)
                await store.append(claim, DONE)
        async with opened() as store:
            assert await store.durations("gaga-1", 10) == [0, 0]

    # --- events ---

    async def test_events_are_numbered_without_gaps(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(3)]
        claims = await store.claim("node-a", ROOMS, 3)
        await asyncio.gather(*(store.append(claim, PROGRESS) for _ in range(10) for claim in claims))
        for job in jobs:
            events = await store.read(job.id, 0)
            assert [event.n for event in events] == list(range(1, 12))
            assert [orjson.loads(event.data)["n"] for event in events] == list(range(1, 12))

    async def test_append_returns_the_job_as_it_is_now(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        before = await caller.admit()
        claim = await claim_one(store)
        clock.time += 5
        job = await store.append(claim, Draft(Status.PROCESSING, {"detail": "Rendering", "progress": 40.5}))
        assert job == replace(
            before, status=Status.PROCESSING, event=2, detail="Rendering", progress=40.5, updated_at=clock.now()
        )
        assert await store.job(caller.account, job.id) == job

    async def test_an_event_holds_the_draft_s_fields(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        await store.append(await claim_one(store), FAILED)
        event = (await store.read(job.id, 1))[0]
        assert event.final
        assert orjson.loads(event.data).items() >= {"status": "Error", "message": "It broke.", "refunded": 20}.items()

    async def test_nothing_follows_the_final_event(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        results = await asyncio.gather(
            *(store.append(claim, draft) for draft in (DONE, PROGRESS, DONE, FAILED)), return_exceptions=True
        )
        assert sum(isinstance(result, ClaimLost) for result in results) == 3
        assert [event.final for event in await store.read(job.id, 0)] == [False, True]
        with pytest.raises(ClaimLost):
            await store.record_intent(claim)

    async def test_a_draft_that_the_table_forbids_changes_nothing(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        with pytest.raises(ValueError, match="cannot follow"):
            await store.append(await claim_one(store), Draft(Status.STARTED))
        assert len(await store.read(job.id, 0)) == 1

    async def test_a_draft_that_is_no_json_changes_nothing(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        with pytest.raises(TypeError):
            await store.append(claim, Draft(Status.ERROR, {"detail": object()}, refund=20))
        assert await store.job(caller.account, job.id) == job
        assert (await store.append(claim, PROGRESS)).event == 2

    async def test_outputs_are_gathered_until_the_final_event_names_them_all(
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

    async def test_the_ticket_is_kept_until_another_comes(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        claim = await claim_one(store)
        await store.append(claim, PROGRESS, ticket={"id": "t-1", "items": [1, 2]})
        assert (await store.append(claim, PROGRESS)).ticket == {"id": "t-1", "items": [1, 2]}
        assert (await store.append(claim, PROGRESS, ticket={"id": "t-2"})).ticket == {"id": "t-2"}

    async def test_reading_begins_after_the_given_number(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        for draft in (PROGRESS, PROGRESS, DONE):
            await store.append(claim, draft)
        assert [event.n for event in await store.read(job.id, 0)] == [1, 2, 3, 4]
        assert [event.n for event in await store.read(job.id, 2)] == [3, 4]
        assert await store.read(job.id, 4) == await store.read(job.id, 99) == await store.read("job_unknown", 0) == []

    async def test_events_can_be_read_as_one_account_s_alone(self, store: Store, caller: Caller) -> None:
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

    async def test_a_change_is_told_to_every_listener_once_it_can_be_read(self, store: Store, caller: Caller) -> None:
        listeners = [store.changes(), store.changes()]
        job = await caller.admit()
        await store.append(await claim_one(store), DONE)
        for changes in listeners:
            for n in (1, 2):
                assert gist(await soon(changes)) == Change(caller.account, job.id, n)
                assert (await store.read(job.id, n - 1))[0].n == n

    async def test_listening_begins_at_the_call_and_not_before(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        changes = store.changes()
        job = await caller.admit()
        await store.record_intent(await claim_one(store))
        assert gist(await soon(changes)) == Change(caller.account, job.id, 1)

    async def test_a_replay_or_a_refusal_is_no_change(self, store: Store, caller: Caller) -> None:
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

    async def test_a_listener_that_stops_hinders_nobody(self, store: Store, caller: Caller) -> None:
        stopped = asyncio.create_task(soon(store.changes()))
        await asyncio.sleep(0)
        stopped.cancel()
        with suppress(asyncio.CancelledError):
            await stopped
        changes = store.changes()
        job = await caller.admit()
        assert (await soon(changes)).job == job.id

    async def test_a_canceled_caller_takes_no_change_from_the_listeners(self, store: Store, caller: Caller) -> None:
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

    # --- an account's feed ---

    async def test_positions_of_an_account_go_up_by_one_whichever_job_they_are_of(
        self, store: Store, caller: Caller
    ) -> None:
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

    async def test_positions_begin_at_a_number_of_the_account_s_own(self, store: Store) -> None:
        callers = [await new_caller(store, name) for name in ("web", "app")]
        one, other = [(await store.snapshot(caller.account)).head for caller in callers]
        assert one != other
        assert await store.read_account(callers[0].account, other, 10) is None

    async def test_a_feed_is_read_on_from_a_position_in_stretches(self, store: Store, caller: Caller) -> None:
        start = (await store.snapshot(caller.account)).head
        for _ in range(5):
            await caller.admit(1)
        feed = await store.read_account(caller.account, start + 1, 2)
        assert feed is not None
        assert [event.position - start for event in feed.events] == [2, 3]
        assert feed.head == start + 5

    async def test_a_feed_leaves_streamed_text_out_but_counts_it(self, store: Store, caller: Caller) -> None:
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
    async def test_a_position_that_is_none_of_the_feed_s_is_told(self, store: Store, caller: Caller, away: int) -> None:
        head = (await store.snapshot(caller.account)).head
        assert await store.read_account(caller.account, head, 10) is not None
        assert await store.read_account(caller.account, head + away, 10) is None

    async def test_a_position_below_a_deleted_event_is_not_kept_any_more(self, store: Store, caller: Caller) -> None:
        start = (await store.snapshot(caller.account)).head
        gone, kept = await caller.admit(1), await caller.admit(1)
        claim = await claim_one(store)
        await store.append(claim, DONE)
        await store.delete_job(caller.account, gone.id)
        assert await store.read_account(caller.account, start + 2, 10) is None
        feed = await store.read_account(caller.account, start + 3, 10)
        assert feed is not None
        assert feed.events == []
        assert [event.job for event in (await store.snapshot(caller.account)).events] == [kept.id]

    async def test_a_snapshot_has_the_newest_event_of_every_unfinished_job_in_order(
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

    async def test_a_snapshot_of_more_jobs_than_are_read_at_once_is_whole(self, store: Store) -> None:
        caller = await new_caller(store, tokens=1000)
        jobs = [(await caller.admit(1)).id for _ in range(AT_ONCE * 2 + 1)]
        assert [event.job for event in (await store.snapshot(caller.account)).events] == jobs
        assert [event.job for event in (await store.snapshot(caller.account, jobs)).events] == jobs

    async def test_a_snapshot_that_is_read_while_much_happens_misses_nothing_behind_its_head(
        self, store: Store
    ) -> None:
        caller = await new_caller(store, tokens=1000)
        claims = [await claim_one(store) for _ in range(AT_ONCE + 1) if await caller.admit(1)]

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

    async def test_a_snapshot_shows_no_other_account_s_jobs(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        other = await new_caller(store, "other")
        assert (await store.snapshot(other.account)).events == []
        assert (await store.snapshot(other.account, [job.id])).events == []

    async def test_a_change_carries_its_event_as_it_is_read(self, store: Store, caller: Caller) -> None:
        changes = store.changes()
        job = await caller.admit()
        await store.append(await claim_one(store), PROGRESS)
        told = [await soon(changes) for _ in range(2)]
        assert [change.event for change in told] == list(await store.read(job.id, 0))

    # --- turns and room ---

    async def test_jobs_that_wait_are_claimed_as_far_as_their_queue_has_room(
        self, store: Store, caller: Caller
    ) -> None:
        jobs = [await caller.admit(1, queue="here") for _ in range(3)] + [await caller.admit(1, queue="there")]
        rooms = {"here": QueueRoom(2, 1e9), "there": QueueRoom(2, 1e9)}
        claims = await store.claim("node-a", rooms, 10)
        assert [claim.job.id for claim in claims] == [jobs[0].id, jobs[1].id, jobs[3].id]
        assert await store.claim("node-b", rooms, 10) == []
        await store.append(claims[0], DONE)
        assert [claim.job.id for claim in await store.claim("node-b", rooms, 10)] == [jobs[2].id]

    async def test_accounts_take_turns_however_many_jobs_each_has_waiting(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "other")
        jobs = [await caller.admit(1) for _ in range(3)]
        theirs = [await other.admit(1) for _ in range(2)]
        served = []
        for _ in range(5):
            (claim,) = await store.claim("node-a", {"": QueueRoom(1, 1e9)}, 10)
            served.append(claim.job.id)
            await store.append(claim, DONE)
        assert served == [job.id for job in (jobs[0], theirs[0], jobs[1], theirs[1], jobs[2])]

    async def test_who_comes_late_waits_behind_the_turns_that_were_served_not_behind_all_that_wait(
        self, store: Store, caller: Caller
    ) -> None:
        other = await new_caller(store, "other")
        jobs = [await caller.admit(1) for _ in range(4)]
        await store.claim("node-a", {"": QueueRoom(2, 1e9)}, 10)
        late = await other.admit(1)
        served = [claim.job.id for claim in await store.claim("node-b", ROOMS, 10)]
        assert served == [jobs[2].id, late.id, jobs[3].id]

    async def test_a_job_whose_client_wants_its_end_does_not_wait_for_room(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        full = {"": QueueRoom(0, 1e9)}
        assert await store.claim("node-a", full, 10) == []
        await store.request_cancel(caller.account, job.id)
        (claim,) = await store.claim("node-a", full, 10)
        assert claim.job.cancel_requested

    async def test_a_job_waits_no_longer_than_its_queue_s_patience(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        job = await caller.admit()
        full = {"": QueueRoom(0, 60.0)}
        clock.time += 59
        assert await store.claim("node-a", full, 10) == []
        clock.time += 1
        assert [claim.job.id for claim in await store.claim("node-a", full, 10)] == [job.id]

    async def test_what_was_under_way_is_taken_up_again_whatever_the_room(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        jobs = [await caller.admit(1) for _ in range(2)]
        (old,) = await store.claim("node-a", {"": QueueRoom(1, 1e9)}, 10)
        clock.time += LEASE
        assert [claim.job.id for claim in await store.claim("node-b", {"": QueueRoom(1, 1e9)}, 10)] == [jobs[0].id]
        assert old.job.id == jobs[0].id

    async def test_a_job_given_back_before_it_was_sent_waits_again_in_its_old_turn(
        self, store: Store, caller: Caller
    ) -> None:
        jobs = [await caller.admit(1) for _ in range(2)]
        one = {"": QueueRoom(1, 1e9)}
        (claim,) = await store.claim("node-a", one, 10)
        await store.release(claim)
        assert [claim.job.id for claim in await store.claim("node-a", one, 10)] == [jobs[0].id]

    async def test_a_job_given_back_after_it_was_announced_keeps_its_room(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(2)]
        one = {"": QueueRoom(1, 1e9)}
        (claim,) = await store.claim("node-a", one, 10)
        await store.record_intent(claim)
        await store.release(claim)
        assert [claim.job.id for claim in await store.claim("node-a", one, 10)] == [jobs[0].id]
        assert await store.claim("node-b", one, 10) == []

    # --- the line of an account ---

    async def test_an_order_too_many_stands_in_line_and_is_charged(self, store: Store, caller: Caller) -> None:
        first = await caller.admit(20, most=1, line=2)
        job = await caller.admit(20, most=1, line=2)
        assert (job.detail, job.status, job.event) == ("Waiting: number 1 in line", Status.PROCESSING, 2)
        assert await store.job(caller.account, job.id) == job
        assert await caller.balance() == 60
        assert await details(store, job) == [None, "Waiting: number 1 in line"]
        assert [claim.job.id for claim in await store.claim("node-a", ROOMS, 10)] == [first.id]
        assert [job.id for job in (await store.jobs(caller.account, 9, status=Status.PROCESSING)).items] == [job.id]

    async def test_a_line_has_an_end_and_a_refusal_leaves_nothing(self, store: Store, caller: Caller) -> None:
        for _ in range(3):
            await caller.admit(20, most=1, line=2)
        with pytest.raises(errors.RateLimited, match="1 unfinished jobs and 2 more that wait in line"):
            await caller.admit(20, most=1, line=2)
        assert await caller.balance() == 40
        await (await new_caller(store, "other")).admit(20, most=1, line=2)

    async def test_of_many_orders_at_once_no_more_are_taken_than_the_line_is_long(self, caller: Caller) -> None:
        asked = (caller.admit(5, most=3, line=4) for _ in range(10))
        taken = [job for job in await asyncio.gather(*asked, return_exceptions=True) if isinstance(job, Job)]
        places = [job.detail for job in taken if job.detail]
        assert places == [f"Waiting: number {place} in line" for place in (1, 2, 3, 4)]
        assert len(taken) == 7
        assert await caller.balance() == 65

    async def test_the_first_in_line_goes_on_when_a_job_ends(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, most=2, line=9) for _ in range(5)]
        claims = await store.claim("node-a", ROOMS, 10)
        await store.release_backlog(2, 10)
        assert await store.claim("node-a", ROOMS, 10) == []
        for ended, goes_on in ((0, 2), (1, 3)):
            await store.append(claims[ended], DONE)
            assert await store.claim("node-a", ROOMS, 10) == []
            await store.release_backlog(2, 10)
            assert [claim.job.id for claim in await store.claim("node-a", ROOMS, 10)] == [jobs[goes_on].id]

    async def test_who_stands_in_line_is_told_when_it_has_moved(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, most=1, line=9) for _ in range(4)]
        changes = store.changes()
        await store.append(await claim_one(store), DONE)
        await store.release_backlog(1, 10)
        told = [(await soon(changes)).job for _ in range(3)]
        assert told == [jobs[0].id, jobs[2].id, jobs[3].id]
        places = [f"Waiting: number {place} in line" for place in (3, 2, 1)]
        assert await details(store, jobs[3]) == [None, *places[:2]]
        assert await details(store, jobs[2]) == [None, *places[1:]]
        assert await details(store, jobs[1]) == [None, *places[2:]]

    async def test_a_line_that_has_not_moved_is_told_nothing(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, most=1, line=9) for _ in range(3)]
        for _ in range(3):
            await store.release_backlog(1, 10)
        assert [len(await store.read(job.id, 0)) for job in jobs] == [1, 2, 2]

    async def test_a_long_line_is_told_at_few_places(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, most=1, line=99) for _ in range(31)]
        for _ in range(30):
            await store.append(await claim_one(store), DONE)
            await store.release_backlog(1, 10)
        places = (30, 20, 10, 5, 4, 3, 2, 1)
        assert await details(store, jobs[-1]) == [None, *(f"Waiting: number {place} in line" for place in places)]

    async def test_nobody_overtakes_the_line_of_an_account(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1, most=1, line=9) for _ in range(2)]
        await store.append(await claim_one(store), DONE)
        late = await caller.admit(1, most=1, line=9)
        await store.release_backlog(1, 10)
        assert (await claim_one(store)).job.id == jobs[1].id
        assert await details(store, late) == [None, "Waiting: number 2 in line", "Waiting: number 1 in line"]

    async def test_who_leaves_the_line_takes_its_turn_among_the_accounts(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "other")
        jobs = [await caller.admit(1, most=1, line=9) for _ in range(3)]
        theirs = [await other.admit(1, most=2, line=9) for _ in range(2)]
        served = []
        for _ in range(5):
            (claim,) = await store.claim("node-a", {"": QueueRoom(1, 1e9)}, 10)
            served.append(claim.job.id)
            await store.append(claim, DONE)
            await store.release_backlog(1, 10)
        assert served == [job.id for job in (jobs[0], theirs[0], jobs[1], theirs[1], jobs[2])]

    async def test_a_job_goes_on_to_the_queue_that_it_was_ordered_for(self, store: Store, caller: Caller) -> None:
        await caller.admit(1, most=1, line=9, queue="here")
        job = await caller.admit(1, most=1, line=9, queue="there")
        (claim,) = await store.claim("node-a", {"here": QueueRoom(9, 1e9)}, 10)
        await store.append(claim, DONE)
        await store.release_backlog(1, 10)
        assert await store.claim("node-a", {"here": QueueRoom(9, 1e9)}, 10) == []
        assert [claim.job.id for claim in await store.claim("node-a", {"there": QueueRoom(9, 1e9)}, 10)] == [job.id]

    async def test_time_in_line_is_not_taken_from_the_patience_for_room(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        jobs = [await caller.admit(1, most=1, line=9) for _ in range(2)]
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

    async def test_a_job_in_line_whose_client_wants_its_end_is_claimed_and_those_behind_move_up(
        self, store: Store, caller: Caller
    ) -> None:
        jobs = [await caller.admit(20, most=1, line=9) for _ in range(3)]
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

    async def test_a_job_taken_from_the_line_for_its_end_may_be_given_back(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(20, most=1, line=9) for _ in range(2)]
        await claim_one(store)
        await store.request_cancel(caller.account, jobs[1].id)
        await store.release(await claim_one(store))
        await store.release_backlog(1, 10)
        claim = await claim_one(store)
        assert (claim.job.id, claim.job.cancel_requested) == (jobs[1].id, True)

    async def test_those_behind_a_job_that_is_given_back_to_the_line_are_told_so(
        self, store: Store, caller: Caller
    ) -> None:
        jobs = [await caller.admit(20, most=1, line=9) for _ in range(3)]
        await claim_one(store)
        await store.request_cancel(caller.account, jobs[1].id)
        claim = await claim_one(store)
        await store.release_backlog(1, 10)
        await store.release(claim)
        await store.release_backlog(1, 10)
        places = [f"Waiting: number {place} in line" for place in (2, 1, 2)]
        assert await details(store, jobs[2]) == [None, *places]

    @pytest.mark.parametrize(("most", "gone"), [(None, 3), (3, 2), (1, 0), (0, 0)])
    async def test_a_line_is_there_after_reopening_and_goes_by_the_new_limit(
        self, opened: Opened, most: int | None, gone: int
    ) -> None:
        async with opened() as store:
            caller = await new_caller(store)
            jobs = [await caller.admit(1, most=1, line=9) for _ in range(4)]
            await store.release_backlog(1, 10)
        async with opened() as store:
            await store.release_backlog(most, 10)
            claims = await store.claim("node-a", ROOMS, 10)
            assert [claim.job.id for claim in claims] == [job.id for job in jobs[: gone + 1]]

    async def test_a_repeated_order_is_answered_from_the_line(self, store: Store, caller: Caller) -> None:
        await caller.admit(1, most=1, line=1)
        order = caller.order(1, most=1, line=1, idempotency_key="once", fingerprint=b"1")
        first = await store.admit(order)
        again = await store.admit(order)
        assert again.replayed
        assert again.job == first.job

    # --- claims ---

    async def test_unfinished_jobs_are_claimed_oldest_first(self, store: Store, caller: Caller) -> None:
        jobs = [await caller.admit(1) for _ in range(3)]
        claims = await store.claim("node-a", ROOMS, 2)
        assert [claim.job for claim in claims] == jobs[:2]
        assert [claim.job for claim in await store.claim("node-b", ROOMS, 2)] == jobs[2:]
        assert await store.claim("node-a", ROOMS, 2) == []

    async def test_two_nodes_never_claim_the_same_job(self, store: Store, caller: Caller) -> None:
        for _ in range(20):
            await caller.admit(1)
        taken = await asyncio.gather(*(store.claim(f"node-{n}", ROOMS, 3) for n in range(10)))
        jobs = [claim.job.id for claims in taken for claim in claims]
        assert len(jobs) == len(set(jobs)) == 20

    async def test_a_finished_job_is_claimed_by_nobody(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        await caller.admit()
        await store.append(await claim_one(store), DONE)
        clock.time += LEASE
        assert await store.claim("node-b", ROOMS, 1) == []

    async def test_a_lapsed_claim_can_be_taken_over_and_shuts_its_old_holder_out(
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

    async def test_a_node_never_takes_a_job_over_from_itself(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await caller.admit()
        claim = await claim_one(store)
        clock.time += LEASE
        assert not await store.claim(claim.node, ROOMS, 10)
        assert (await store.append(claim, PROGRESS)).event == 2

    async def test_a_job_released_and_claimed_again_by_the_same_node_is_another_claim(
        self, store: Store, caller: Caller
    ) -> None:
        await caller.admit()
        old = await claim_one(store)
        await store.release(old)
        await claim_one(store)
        with pytest.raises(ClaimLost):
            await store.append(old, PROGRESS)

    async def test_a_lapse_that_nobody_used_loses_nothing(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        await caller.admit()
        claim = await claim_one(store)
        clock.time += 10 * LEASE
        assert (await store.append(claim, PROGRESS)).event == 2

    async def test_renewing_prolongs_the_node_s_claims_only(
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

    async def test_claims_that_a_node_does_not_know_of_are_named(self, store: Store, caller: Caller) -> None:
        for _ in range(3):
            await caller.admit()
        known, stray, other = [await claim_one(store, node) for node in ("a", "a", "b")]
        assert await store.unknown_claims("a", {known.job.id, other.job.id}) == [stray]
        await store.release(stray)
        assert await store.unknown_claims("a", {known.job.id}) == []
        assert (await claim_one(store, "b")).job.id == stray.job.id

    async def test_a_released_job_can_be_claimed_at_once(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        old = await claim_one(store, "node-a")
        await store.release(old)
        new = await claim_one(store, "node-b")
        assert new.job == old.job
        with pytest.raises(ClaimLost):
            await store.append(old, PROGRESS)

    async def test_releasing_a_lost_claim_does_nothing(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        await caller.admit()
        old = await claim_one(store, "node-a")
        clock.time += LEASE
        new = await claim_one(store, "node-b")
        await store.release(old)
        assert await store.claim("node-c", ROOMS, 1) == []
        await store.append(new, DONE)
        await store.release(new)
        assert await store.claim("node-c", ROOMS, 1) == []

    async def test_only_the_holder_changes_a_job(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        for claim in (Claim(job, "node-a", 0), Claim(job, "node-a", 1)):
            with pytest.raises(ClaimLost):
                await store.append(claim, PROGRESS)
        claim = await claim_one(store)
        with pytest.raises(ClaimLost):
            await store.append(replace(claim, node="node-b"), PROGRESS)
        assert len(await store.read(job.id, 0)) == 1

    async def test_a_claim_sees_the_job_as_it_was_left(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        await caller.admit()
        claim = await claim_one(store)
        intended = await store.record_intent(claim)
        assert intended.intended_at == clock.now()
        await store.append(claim, PROGRESS, ticket={"id": "t-1"})
        await store.release(claim)
        job = (await claim_one(store)).job
        assert (job.intended_at, job.ticket, job.event) == (clock.now(), {"id": "t-1"}, 2)

    # --- cancel ---

    async def test_the_holder_sees_a_requested_cancel(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        claim = await claim_one(store)
        wanted = replace(job, cancel_requested=True)
        assert await store.request_cancel(caller.account, job.id) == wanted
        assert await store.request_cancel(caller.account, job.id) == wanted
        assert await store.job(caller.account, job.id) == wanted
        assert (await store.append(claim, PROGRESS)).cancel_requested

    async def test_a_cancel_after_the_end_leaves_the_job_as_it_is(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        job = await store.append(await claim_one(store), DONE)
        assert await store.request_cancel(caller.account, job.id) == job

    async def test_another_account_s_job_is_not_there(self, store: Store, caller: Caller) -> None:
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

    async def test_a_page_ends_early_at_its_bytes_and_the_next_goes_on(self, store: Store, caller: Caller) -> None:
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

    async def test_a_job_larger_than_a_page_is_a_page(self, store: Store, caller: Caller) -> None:
        huge = Order("gaga-1", {"prompt": "x" * (PAGE_BYTES + 1)})
        older, newer = [(await caller.admit(1, order=huge)).id for _ in range(2)]
        page = await store.jobs(caller.account, 50)
        assert ([job.id for job in page.items], page.next) == ([newer], newer)
        page = await store.jobs(caller.account, 50, page.next)
        assert ([job.id for job in page.items], page.next) == ([older], None)

    async def test_a_feed_and_a_snapshot_are_read_in_parts_of_bounded_bytes(self, store: Store, caller: Caller) -> None:
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

    async def test_a_full_last_page_has_no_next(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        assert (await store.jobs(caller.account, 1)).next is None

    async def test_an_unknown_before_is_a_place_in_time(self, store: Store, caller: Caller) -> None:
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

    # --- assets ---

    async def test_an_asset_is_its_account_s_own(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "app")
        asset = new_asset(caller.account)
        await store.add_asset(asset)
        assert await store.asset(caller.account, asset.id) == asset
        assert await store.asset(other.account, asset.id) is None
        assert await store.delete_asset(other.account, asset.id) is None
        with pytest.raises(errors.NotFound):
            await other.admit(assets=[asset.id])
        assert await store.asset(caller.account, asset.id) == asset

    async def test_a_deleted_asset_is_gone(self, store: Store, caller: Caller) -> None:
        asset = new_asset(caller.account)
        await store.add_asset(asset)
        assert await store.delete_asset(caller.account, asset.id) == asset
        assert await store.asset(caller.account, asset.id) is None
        assert await store.delete_asset(caller.account, asset.id) is None
        with pytest.raises(errors.NotFound, match=asset.id):
            await caller.admit(assets=[asset.id])
        assert await caller.ledger() == [100]

    async def test_an_asset_is_held_until_every_job_that_names_it_is_over(self, store: Store, caller: Caller) -> None:
        asset = new_asset(caller.account)
        await store.add_asset(asset)
        for _ in range(2):
            await caller.admit(assets=[asset.id, asset.id])
        for claim in await store.claim("node-a", ROOMS, 2):
            with pytest.raises(errors.Conflict):
                await store.delete_asset(caller.account, asset.id)
            await store.append(claim, FAILED)
        assert await store.delete_asset(caller.account, asset.id) == asset

    async def test_a_missing_asset_is_named_before_a_missing_token(self, caller: Caller) -> None:
        with pytest.raises(errors.NotFound):
            await caller.admit(1000, assets=["asset_gone"])

    # --- replaying, withdrawing ---

    async def test_a_replay_finds_the_job_without_making_one(self, store: Store, caller: Caller) -> None:
        order = caller.order(idempotency_key="once", fingerprint=b"1")
        assert await store.replay(order) is None
        job = (await store.admit(order)).job
        assert await store.replay(order) == job
        with pytest.raises(errors.IdempotencyConflict):
            await store.replay(replace(order, fingerprint=b"2"))
        assert await caller.ledger() == [100, -20]

    async def test_an_intent_that_came_to_nothing_can_be_withdrawn(self, store: Store, caller: Caller) -> None:
        await caller.admit()
        claim = await claim_one(store)
        assert (await store.record_intent(claim)).intended_at is not None
        assert (await store.withdraw_intent(claim)).intended_at is None
        await store.release(claim)
        with pytest.raises(ClaimLost):
            await store.withdraw_intent(claim)

    async def test_who_waits_is_counted_by_queue_and_in_line(self, store: Store, caller: Caller) -> None:
        queues = ["gaga", "gaia"]
        assert await store.waiting(queues) == {"gaga": 0, "gaia": 0, BACKLOG: 0}
        for _ in range(5):
            await caller.admit(1, queue="gaga", most=3, line=9)
        other = await new_caller(store, "other")
        for _ in range(2):
            await other.admit(1, queue="gaia", most=1, line=9)
        assert await store.waiting(queues) == {"gaga": 3, "gaia": 1, BACKLOG: 3}
        await store.claim("node-a", {"gaga": QueueRoom(2, 60)}, 10)
        assert await store.waiting(queues) == {"gaga": 1, "gaia": 1, BACKLOG: 3}

    async def test_a_cancel_is_told_as_a_change_that_is_no_event(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        changes = store.changes()
        await store.request_cancel(caller.account, job.id)
        assert await soon(changes) == Change(caller.account, job.id, 1, cancel=True)
        assert len(await store.read(job.id, 0)) == 1

    async def test_as_many_durations_of_a_model_are_known_as_are_learnt_from(
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

    # --- forgetting ---

    async def done(self, store: Store, caller: Caller, blob: str = "", **admission: Any) -> Job:
        await caller.admit(**admission)
        outputs = (Output(Role.IMAGE, "image/png", blob=blob),) if blob else ()
        return await store.append(await claim_one(store), replace(DONE, outputs=outputs))

    async def test_a_deleted_job_is_gone_and_names_its_blobs(self, store: Store, caller: Caller) -> None:
        job = await self.done(store, caller, blob="outputs/1")
        assert await store.delete_job(caller.account, job.id) == ["outputs/1"]
        assert await store.job(caller.account, job.id) is None
        assert await store.read(job.id, 0) == []
        assert (await store.jobs(caller.account, 10)).items == []
        assert await store.delete_job(caller.account, job.id) is None
        assert await caller.ledger() == [100, -20]

    async def test_whoever_follows_is_told_that_a_job_was_deleted_and_not_of_one_that_could_not_be(
        self, store: Store, caller: Caller
    ) -> None:
        job = await self.done(store, caller)
        running = await caller.admit()
        changes = store.changes()
        with pytest.raises(errors.Conflict):
            await store.delete_job(caller.account, running.id)
        await store.delete_job(caller.account, job.id)
        await store.delete_job(caller.account, job.id)
        await store.request_cancel(caller.account, running.id)
        told = [await soon(changes) for _ in range(2)]
        assert told == [
            Change(caller.account, job.id, 0, deleted=True),
            Change(caller.account, running.id, 1, cancel=True),
        ]

    async def test_a_running_job_is_not_deleted(self, store: Store, caller: Caller) -> None:
        job = await caller.admit()
        with pytest.raises(errors.Conflict):
            await store.delete_job(caller.account, job.id)
        assert await store.job(caller.account, job.id) == job

    async def test_another_accounts_job_is_not_deleted(self, store: Store, caller: Caller) -> None:
        job = await self.done(store, caller)
        other = await new_caller(store, "app")
        assert await store.delete_job(other.account, job.id) is None
        assert await store.job(caller.account, job.id) == job

    async def test_the_idempotency_key_of_a_deleted_job_makes_no_other(self, store: Store, caller: Caller) -> None:
        job = await self.done(store, caller, idempotency_key="once")
        await store.delete_job(caller.account, job.id)
        for ask in (store.admit, store.replay):
            with pytest.raises(errors.NotFound, match="deleted"):
                await ask(caller.order(idempotency_key="once"))
        assert await caller.ledger() == [100, -20]

    async def test_a_sweep_forgets_what_ended_before_and_keeps_the_rest(
        self, store: Store, caller: Caller, clock: ManualClock
    ) -> None:
        old = await self.done(store, caller, blob="outputs/old")
        clock.time += 100
        since = clock.now()
        new = await self.done(store, caller)
        running = await caller.admit()
        swept = await store.sweep(since, 10)
        assert (swept.forgotten, swept.blobs) == (1, ["outputs/old"])
        assert [job.id for job in (await store.jobs(caller.account, 10)).items] == [running.id, new.id]
        assert await store.job(caller.account, old.id) is None
        assert await caller.ledger() == [100, -20, -20, -20]

    async def test_a_sweep_goes_in_steps(self, store: Store, caller: Caller, clock: ManualClock) -> None:
        for _ in range(3):
            await self.done(store, caller)
        clock.time += 1
        assert [(await store.sweep(clock.now(), 2)).forgotten for _ in range(3)] == [2, 1, 0]

    async def test_a_sweep_forgets_old_assets_but_none_that_an_unfinished_job_names(
        self, store: Store, caller: Caller
    ) -> None:
        for name in ("asset_free", "asset_held"):
            await store.add_asset(new_asset(caller.account, name))
        await caller.admit(assets=("asset_held",))
        assert list((await store.sweep(6.0, 10)).blobs) == ["blob-of-asset_free"]
        assert await store.asset(caller.account, "asset_held")

    async def test_idempotency_keys_outlive_their_jobs_by_a_day_at_the_least(
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
