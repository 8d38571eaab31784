"""Changes of the wall clock: durations are measured on, unaffected by them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from httpx_sse import EventSource

from proxy.core.clock import ClockSteps
from proxy.runner.housekeeping import delete_orphans_periodically
from proxy.runner.services import RunnerTimes
from proxy.simulator import Simulator
from proxy.store import open_store
from proxy.store.blobs import Blobs, asset_blob
from tests.support.deployment import Deployment, JumpClock, events_of

DAY = 86_400.0
MINUTE = 60.0


class SettableClock(JumpClock):
    """A clock whose time of day is set by changing `ahead`; time passes all the same."""

    ahead = 0.0

    def now(self) -> float:
        return self.at + self.ahead


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def unset(tmp_path: Path, clock: SettableClock) -> Deployment:
    """A world with a clock to set, which looks for old records all the time. Its providers keep their own time."""
    deployment = Deployment(tmp_path, clock=clock, runner_times=RunnerTimes(sweep=0.001))
    deployment.simulator = Simulator(now=clock.monotonic, sleep=clock.sleep)
    return deployment


@pytest.fixture
async def settable(unset: Deployment) -> AsyncIterator[Deployment]:
    async with unset:
        yield unset


# --- steps ---


def test_the_clock_settles_ten_minutes_after_a_start(clock: SettableClock) -> None:
    steps = ClockSteps(clock)
    assert not steps.is_settled()
    clock.at += 10 * MINUTE
    assert steps.is_settled()


@pytest.mark.parametrize("step", [8 * DAY, -8 * DAY, 7200, -7200, 60])
def test_a_step_unsettles_the_clock_for_ten_minutes(clock: SettableClock, step: float) -> None:
    steps = ClockSteps(clock)
    clock.at += 10 * MINUTE
    clock.ahead = step
    assert not steps.is_settled()
    clock.at += 10 * MINUTE - 1
    assert not steps.is_settled()
    clock.at += 1
    assert steps.is_settled()


def test_a_clock_ahead_for_a_minute_counts_as_two_steps(clock: SettableClock) -> None:
    steps = ClockSteps(clock)
    clock.at += 10 * MINUTE
    clock.ahead = 8 * DAY
    assert not steps.is_settled()
    clock.at += MINUTE
    clock.ahead = 0
    assert not steps.is_settled()
    assert steps.forward(DAY) == 0


def test_a_corrected_clock_makes_earlier_records_look_older(clock: SettableClock) -> None:
    clock.ahead = -8 * DAY
    steps = ClockSteps(clock)
    clock.ahead = 0
    assert steps.forward(DAY) == 8 * DAY
    clock.at += DAY + 1
    assert steps.forward(DAY) == 0


def test_a_slow_correction_is_no_step(clock: SettableClock) -> None:
    steps = ClockSteps(clock)
    for _ in range(100):
        clock.at += 10
        clock.ahead += 0.01
    assert steps.is_settled()


# --- running jobs ---


@pytest.mark.parametrize("step", [7200, -7200])
async def test_a_text_continues_when_the_clock_is_set(settable: Deployment, clock: SettableClock, step: float) -> None:
    seen: list[dict[str, Any]] = []
    order = {"model": "gpt-5.4-mini", "prompt": "Why stream?"}
    async with settable.open("POST", "/api/generate", json=order) as response:
        async for event in events(response):
            seen.append(event)
            if "delta" in event:
                clock.ahead = step
    assert seen[-1]["status"] == "Completed"


@pytest.mark.parametrize("step", [7200, -7200])
async def test_a_polled_job_continues_when_the_clock_is_set(
    settable: Deployment, clock: SettableClock, step: float
) -> None:
    job = await settable.submit("gaga-1", prompt="A fox")
    async with settable.open("GET", f"/api/jobs/{job['id']}/events") as response:
        async for event in events(response):
            if event["n"] > 1:
                clock.ahead = step
    assert event["status"] == "Completed"


async def test_an_order_keeps_waiting_for_room_when_the_clock_is_set(unset: Deployment, clock: SettableClock) -> None:
    unset.provider = {"concurrency": 1}
    async with unset:
        jobs = [await unset.submit("gaga-1", prompt="A fox") for _ in range(3)]
        clock.ahead = 7200
        assert [(await unset.ended(job["id"]))["status"] for job in jobs] == ["Completed"] * 3


async def test_a_cached_key_expires_after_the_clock_was_set_back(settable: Deployment, clock: SettableClock) -> None:
    await settable.balance()
    clock.ahead = -7200
    async with open_store(settable.store_url, clock) as store:
        await store.revoke_key((await store.keys())[0].id)
    clock.at += 1
    assert (await settable.http.get("/api/account")).status_code == 401


# --- retention ---


async def some_looks() -> None:
    """Wait for several runs of the retention loop."""
    await asyncio.sleep(0.1)


@pytest.fixture
async def kept(unset: Deployment, clock: SettableClock) -> AsyncIterator[Deployment]:
    """A world with a finished job, an idempotency key, an asset and a trace, and a clock that is trusted."""
    unset.settings["trace"] = str(unset.folder / "trace")
    async with unset:
        await asset_and_job(unset)
        clock.at += 11 * MINUTE
        await some_looks()
        yield unset


async def asset_and_job(deployment: Deployment) -> None:
    await deployment.asset()
    headers = {"Idempotency-Key": "once"}
    order = {"model": "gpt-5.4-mini", "prompt": "Why stream?"}
    response = await deployment.http.post("/api/jobs", json=order, headers=headers)
    await deployment.ended(response.json()["id"])


async def left(deployment: Deployment) -> tuple[int, int, int]:
    """Return the numbers of jobs, of stored files and of traces."""
    jobs = len((await deployment.http.get("/api/jobs")).json()["jobs"])
    # `os.walk` passes over folders that disappear meanwhile; `rglob` does not.
    files = [file for _, _, names in os.walk(deployment.folder / "assets") for file in names]
    return jobs, len(files), len(list((deployment.folder / "trace").iterdir()))


async def test_a_clock_eight_days_ahead_for_a_minute_deletes_nothing(kept: Deployment, clock: SettableClock) -> None:
    before = await left(kept)
    assert before == (1, 2, 1)
    clock.ahead = 8 * DAY
    await some_looks()
    clock.at += MINUTE
    await some_looks()
    clock.ahead = 0
    await some_looks()
    assert await left(kept) == before


async def test_a_process_started_eight_days_ahead_deletes_nothing(kept: Deployment, clock: SettableClock) -> None:
    before = await left(kept)
    await kept.stop()
    clock.ahead = 8 * DAY
    await kept.start()
    await some_looks()
    clock.at += MINUTE
    clock.ahead = 0
    await some_looks()
    clock.at += 11 * MINUTE
    await some_looks()
    assert await left(kept) == before


async def test_a_job_that_ended_under_a_slow_clock_is_kept_as_long(unset: Deployment, clock: SettableClock) -> None:
    unset.settings["trace"] = str(unset.folder / "trace")
    async with unset:
        clock.ahead = -8 * DAY
        await some_looks()
        await asset_and_job(unset)
        clock.ahead = 0
        await some_looks()
        clock.at += 11 * MINUTE
        await some_looks()
        assert await left(unset) == (1, 2, 1)


async def test_old_jobs_are_deleted_once_the_clock_has_settled(kept: Deployment, clock: SettableClock) -> None:
    clock.at += 8 * DAY
    while (await left(kept))[:2] != (0, 0):
        await asyncio.sleep(0.005)


async def test_bytes_without_a_record_wait_until_the_clock_has_settled(
    settable: Deployment, clock: SettableClock, tmp_path: Path
) -> None:
    blobs = Blobs(str(tmp_path / "assets"))
    async with open_store(settable.store_url, clock) as store:
        name = asset_blob((await store.accounts())[0].id, "asset_lost")
        await blobs.put(name, b"x")
        file = tmp_path / "assets" / name
        os.utime(file, (time.time() - 7200, time.time() - 7200))
        times = RunnerTimes(clock_check=0.001)
        sweeping = asyncio.create_task(delete_orphans_periodically(store, blobs, ClockSteps(clock), times))
        await some_looks()
        assert file.exists()
        clock.at += 10 * MINUTE
        while file.exists():
            await asyncio.sleep(0.001)
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping


async def events(response: Any) -> AsyncIterator[dict[str, Any]]:
    async for message in EventSource(response).aiter_sse():
        yield events_of([message])[0]
