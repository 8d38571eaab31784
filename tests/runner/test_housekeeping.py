"""Bytes without a record, found by what a crash would leave."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from proxy.runner.housekeeping import sweep
from proxy.store import open_store
from proxy.store.base import Store
from proxy.store.blobs import Blobs, asset_blob
from tests.support.world import World

PNG = World.media("image")


def later() -> float:
    return time.time() + 60


async def swept(world: World, before: float) -> int:
    async with open_store(world.store_url, world.clock) as store:
        return await sweep(store, blobs_of(world), before=before)


def blobs_of(world: World) -> Blobs:
    return Blobs(str(world.folder / "assets"))


async def account_of(store: Store) -> str:
    return (await store.accounts())[0].id


async def orphan(world: World, asset: str = "asset_lost") -> str:
    """The bytes of an asset whose record a crash prevented."""
    async with open_store(world.store_url, world.clock) as store:
        name = asset_blob(await account_of(store), asset)
    await blobs_of(world).put(name, PNG)
    return name


def files(world: World) -> list[str]:
    folder = world.folder / "assets"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_bytes_without_a_record_are_deleted_and_those_with_one_are_kept(world: World) -> None:
    kept, lost = await world.asset(), await orphan(world)
    assert await swept(world, later()) == 1
    assert lost not in files(world)
    assert (await world.http.get(f"/api/assets/{kept}/content")).content == PNG


async def test_a_folder_that_goes_while_it_is_looked_through_stops_no_sweep(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path / "assets"))
    names = [f"outputs/job_{n}/0" for n in range(300)]
    for name in names:
        await blobs.put(name, b"x")

    async def forget() -> None:
        for name in names:
            await blobs.delete(name)  # its folder goes with it

    forgetting = asyncio.create_task(forget())
    while not forgetting.done():
        await blobs.drop_unfinished(later())
    await forgetting


async def test_young_bytes_are_left_alone_their_record_may_be_on_its_way(world: World) -> None:
    lost = await orphan(world)
    assert await swept(world, time.time() - 60) == 0
    assert lost in files(world)


async def test_bytes_of_an_account_that_is_not_known_here_are_left_alone(world: World) -> None:
    await blobs_of(world).put("assets/account_of_others/asset_1", PNG)
    await blobs_of(world).put("assets/asset_of_long_ago", PNG)
    assert await swept(world, later()) == 0
    assert len(files(world)) == 2


async def test_outputs_are_no_assets(world: World) -> None:
    await world.generate("gpt-5.4-mini", prompt="Why stream?")
    assert await swept(world, later()) == 0
    assert [name.split("/")[0] for name in files(world)] == ["outputs"]


async def test_what_a_crash_left_half_written_is_deleted(world: World, tmp_path: Path) -> None:
    half = tmp_path / "assets" / "assets" / "account_1" / "asset_1#1"
    half.parent.mkdir(parents=True)
    half.write_bytes(PNG)
    await swept(world, time.time() - 60)
    assert half.exists()
    os.utime(half, (time.time() - 7200, time.time() - 7200))
    await swept(world, time.time() - 3600)
    assert not half.exists()


async def test_a_server_looks_for_orphans_once_its_clock_has_settled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await orphan(world)
    monkeypatch.setattr("proxy.runner.housekeeping._YOUNG", -60)
    monkeypatch.setattr("proxy.core.clock._SETTLING_SECONDS", 0)
    await world.restart()
    while lost in files(world):
        await asyncio.sleep(0.005)
