"""Deletion of orphaned blobs: files without a record, as a crash leaves them."""

import asyncio
import os
import time
from pathlib import Path

from proxy.runner.housekeeping import delete_orphans
from proxy.runner.services import RunnerTimes
from proxy.store import open_store
from proxy.store.blobs import Blobs, asset_blob
from proxy.store.contract import Store
from tests.support.deployment import Deployment

PNG = Deployment.media("image")


def later() -> float:
    return time.time() + 60


async def sweep(deployment: Deployment, before: float) -> int:
    async with open_store(deployment.store_url, deployment.clock) as store:
        return await delete_orphans(store, blobs_of(deployment), before=before)


def blobs_of(deployment: Deployment) -> Blobs:
    return Blobs(str(deployment.folder / "assets"))


async def account_of(store: Store) -> str:
    return (await store.accounts())[0].id


async def orphan(deployment: Deployment, asset: str = "asset_lost") -> str:
    """Store the bytes of an asset without its record, as a crash would leave them."""
    async with open_store(deployment.store_url, deployment.clock) as store:
        name = asset_blob(await account_of(store), asset)
    await blobs_of(deployment).put(name, PNG)
    return name


def files(deployment: Deployment) -> list[str]:
    folder = deployment.folder / "assets"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_blobs_without_a_record_are_deleted_and_others_kept(deployment: Deployment) -> None:
    kept, lost = await deployment.asset(), await orphan(deployment)
    assert await sweep(deployment, later()) == 1
    assert lost not in files(deployment)
    assert (await deployment.http.get(f"/api/assets/{kept}/content")).content == PNG


async def test_a_folder_that_disappears_during_a_sweep_does_not_stop_it(tmp_path: Path) -> None:
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


async def test_a_young_blob_is_kept_because_its_record_may_follow(deployment: Deployment) -> None:
    lost = await orphan(deployment)
    assert await sweep(deployment, time.time() - 60) == 0
    assert lost in files(deployment)


async def test_blobs_of_an_unknown_account_are_kept(deployment: Deployment) -> None:
    await blobs_of(deployment).put("assets/account_of_others/asset_1", PNG)
    await blobs_of(deployment).put("assets/asset_of_long_ago", PNG)
    assert await sweep(deployment, later()) == 0
    assert len(files(deployment)) == 2


async def test_outputs_are_not_orphans(deployment: Deployment) -> None:
    await deployment.generate("gpt-5.4-mini", prompt="Why stream?")
    assert await sweep(deployment, later()) == 0
    assert [name.split("/")[0] for name in files(deployment)] == ["outputs"]


async def test_a_half_written_file_is_deleted(deployment: Deployment, tmp_path: Path) -> None:
    half = tmp_path / "assets" / "assets" / "account_1" / "asset_1#1"
    half.parent.mkdir(parents=True)
    half.write_bytes(PNG)
    await sweep(deployment, time.time() - 60)
    assert half.exists()
    os.utime(half, (time.time() - 7200, time.time() - 7200))
    await sweep(deployment, time.time() - 3600)
    assert not half.exists()


async def test_a_server_deletes_orphans_once_its_clock_has_settled(
    deployment: Deployment,
) -> None:
    lost = await orphan(deployment)
    deployment.runner_times = RunnerTimes(orphan_age=-60, clock_check=0.001)
    await deployment.restart()
    assert lost in files(deployment)
    deployment.clock.at += 600
    while lost in files(deployment):
        await asyncio.sleep(0.005)
