"""Contract tests of the stores: one test per promise of `proxy.store.contract`, for each protocol in its own file.

A backend's test file subclasses `StoreContract` and defines the fixture `opened`. The fixture returns a function that
returns a new handle, not yet entered, on the test's one data set.
"""

import asyncio

import pytest

from proxy.core import errors
from proxy.store.contract import Store
from tests.store.contract_accounts import AccountsContract
from tests.store.contract_assets import AssetsContract
from tests.store.contract_claims import ClaimsContract
from tests.store.contract_feeds import FeedsContract
from tests.store.contract_jobs import JobsContract
from tests.support.store import (
    PROGRESS,
    Caller,
    Opened,
    claim_one,
    new_caller,
)


class StoreContract(AccountsContract, JobsContract, ClaimsContract, FeedsContract, AssetsContract):
    """All contract tests of a backend."""

    async def test_an_open_store_answers_ping(self, store: Store) -> None:
        await store.ping()

    async def test_each_secret_has_32_bytes_and_differs_by_name(self, store: Store) -> None:
        links, other = await store.secret("links"), await store.secret("other")
        assert len(links) == len(other) == 32
        assert links != other

    async def test_the_first_value_under_a_name_is_kept_and_returned_to_all(self, opened: Opened) -> None:
        async with opened() as store:
            assert [await store.get_or_set("place", value) for value in (b"one", b"two")] == [b"one", b"one"]
        async with opened() as store:
            assert await store.get_or_set("place", b"three") == b"one"
            assert await store.get_or_set("other", b"three") == b"three"

    async def test_a_kept_value_is_read_by_its_name(self, store: Store) -> None:
        await store.get_or_set("place", b"\x00one")
        assert await store.value("place") == b"\x00one"
        assert await store.value("other") is None

    async def test_a_secret_never_changes(self, opened: Opened) -> None:
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

    async def test_calls_in_progress_finish_before_the_store_closes(self, opened: Opened) -> None:
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
