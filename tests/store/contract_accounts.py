"""Contract tests of `Accounts`: keys, balances and the ledger."""

import asyncio
from dataclasses import replace

import pytest

from proxy.core import errors
from proxy.core.job import Draft, Job
from proxy.store.contract import Store
from proxy.store.types import Cause, Change, ClaimLost
from tests.support.store import (
    DONE,
    FAILED,
    PROGRESS,
    ROOMS,
    Caller,
    ManualClock,
    Opened,
    StoreFixtures,
    claim_one,
    gist,
    new_caller,
    soon,
)


class AccountsContract(StoreFixtures):
    # --- accounts and keys ---

    async def test_a_key_is_found_by_its_digest_and_by_its_id(self, store: Store) -> None:
        key = await store.create_key("web", b"digest")
        assert (key.name, key.revoked_at) == ("web", None)
        assert await store.key(b"digest") == await store.key_by_id(key.id) == key

    async def test_an_unknown_key_is_none(self, store: Store) -> None:
        assert await store.key(b"unknown") is None
        assert await store.key_by_id("key_unknown") is None
        assert await store.revoke_key("key_unknown") is None

    async def test_active_keys_returns_only_ids_of_known_unrevoked_keys(self, store: Store) -> None:
        first, revoked, third = [await store.create_key("web", digest) for digest in (b"1", b"2", b"3")]
        await store.revoke_key(revoked.id)
        ids = [first.id, revoked.id, third.id, "key_unknown"]
        assert await store.active_keys(ids) == {first.id, third.id}
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

    async def test_a_second_revocation_does_not_change_the_first(self, store: Store, clock: ManualClock) -> None:
        key = await store.create_key("web", b"1")
        revoked = await store.revoke_key(key.id)
        assert revoked == replace(key, revoked_at=clock.now())
        clock.time += 60
        assert await store.revoke_key(key.id) == await store.key(b"1") == revoked

    async def test_changes_of_keys_through_another_handle_are_visible(self, store: Store, opened: Opened) -> None:
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

    async def test_a_grant_to_an_unknown_account_returns_none(self, store: Store) -> None:
        assert await store.grant("unknown", 5) is None
        assert await store.account("acct_unknown") is None

    async def test_a_grant_cannot_take_more_than_the_balance(self, store: Store, caller: Caller) -> None:
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

    async def test_an_order_or_grant_of_zero_tokens_writes_no_entry(self, store: Store, caller: Caller) -> None:
        await caller.admit(0)
        await store.grant("web", 0)
        assert await caller.ledger() == [100]

    async def test_an_order_above_the_balance_is_refused_and_records_nothing(
        self, store: Store, caller: Caller
    ) -> None:
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

    async def test_a_refund_may_be_partial(self, store: Store, caller: Caller) -> None:
        await caller.admit(20)
        await store.append(await claim_one(store), replace(DONE, refund=5))
        assert await caller.ledger() == [100, -20, 5]

    async def test_a_job_keeps_its_finish_reason(self, store: Store, caller: Caller) -> None:
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
    async def test_a_refund_before_the_end_or_above_the_price_is_refused(
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

    async def test_a_ledger_contains_only_its_own_account_s_entries(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "app", 7)
        assert await other.ledger() == [7]
        assert await caller.ledger() == [100]
