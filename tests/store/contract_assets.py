"""Contract tests of `Assets`."""

import pytest

from proxy.core import errors
from proxy.store.contract import Store
from tests.support.store import (
    FAILED,
    ROOMS,
    Caller,
    StoreFixtures,
    new_asset,
    new_caller,
)


class AssetsContract(StoreFixtures):
    async def test_an_asset_is_visible_only_to_its_account(self, store: Store, caller: Caller) -> None:
        other = await new_caller(store, "app")
        asset = new_asset(caller.account)
        await store.add_asset(asset)
        assert await store.asset(caller.account, asset.id) == asset
        assert await store.asset(other.account, asset.id) is None
        assert await store.delete_asset(other.account, asset.id) is None
        with pytest.raises(errors.NotFound):
            await other.admit(assets=[asset.id])
        assert await store.asset(caller.account, asset.id) == asset

    async def test_a_deleted_asset_is_not_found(self, store: Store, caller: Caller) -> None:
        asset = new_asset(caller.account)
        await store.add_asset(asset)
        assert await store.delete_asset(caller.account, asset.id) == asset
        assert await store.asset(caller.account, asset.id) is None
        assert await store.delete_asset(caller.account, asset.id) is None
        with pytest.raises(errors.NotFound, match=asset.id):
            await caller.admit(assets=[asset.id])
        assert await caller.ledger() == [100]

    async def test_an_asset_is_held_until_all_jobs_naming_it_have_ended(self, store: Store, caller: Caller) -> None:
        asset = new_asset(caller.account)
        await store.add_asset(asset)
        for _ in range(2):
            await caller.admit(assets=[asset.id, asset.id])
        for claim in await store.claim("node-a", ROOMS, 2):
            with pytest.raises(errors.Conflict):
                await store.delete_asset(caller.account, asset.id)
            await store.append(claim, FAILED)
        assert await store.delete_asset(caller.account, asset.id) == asset

    async def test_a_missing_asset_is_reported_before_missing_tokens(self, caller: Caller) -> None:
        with pytest.raises(errors.NotFound):
            await caller.admit(1000, assets=["asset_gone"])
