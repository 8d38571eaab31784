"""How long a job will still take, and when its provider was last asked."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from proxy.api.eta import Eta
from proxy.core.job import Job
from proxy.store.sqlite.store import SqliteStore
from tests.support.deployment import Deployment
from tests.support.store import DONE, Caller, ManualClock, claim_one, new_caller


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def caller(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Caller]:
    async with SqliteStore(tmp_path / "store.db", clock) as store:
        yield await new_caller(store, tokens=10_000)


async def sent(caller: Caller) -> Job:
    """A job that was just sent."""
    await caller.admit()
    return await caller.store.record_intent(await claim_one(caller.store))


async def completed(caller: Caller, clock: ManualClock, *durations: float) -> None:
    for seconds in durations:
        await caller.admit()
        claim = await claim_one(caller.store)
        await caller.store.record_intent(claim)
        clock.time += seconds
        await caller.store.append(claim, DONE)


async def test_nothing_is_said_before_ten_jobs_of_the_model_are_completed(caller: Caller, clock: ManualClock) -> None:
    await completed(caller, clock, *[60] * 9)
    forecast, job = Eta(caller.store, clock), await sent(caller)
    assert await forecast.remaining(job) is None


async def test_nine_of_ten_jobs_end_between_low_and_high(caller: Caller, clock: ManualClock) -> None:
    await completed(caller, clock, *(float(seconds) for seconds in range(1, 101)))
    assert await Eta(caller.store, clock).remaining(await sent(caller)) == (6, 95)


async def test_what_has_passed_is_taken_off_and_quicker_jobs_are_left_out(caller: Caller, clock: ManualClock) -> None:
    await completed(caller, clock, *[10] * 10, *[100] * 10)
    job = await sent(caller)
    forecast = Eta(caller.store, clock)
    assert await forecast.remaining(job) == (10, 100)
    clock.time += 40.5
    assert await forecast.remaining(job) == (59, 60)


async def test_a_job_that_takes_longer_than_all_before_it_is_not_foretold(caller: Caller, clock: ManualClock) -> None:
    await completed(caller, clock, *[10] * 20)
    job = await sent(caller)
    clock.time += 11
    assert await Eta(caller.store, clock).remaining(job) is None


async def test_a_job_that_waits_to_be_sent_has_all_of_it_before_it(caller: Caller, clock: ManualClock) -> None:
    await completed(caller, clock, *[10] * 20)
    job = await caller.admit()
    clock.time += 1000
    assert await Eta(caller.store, clock).remaining(job) == (10, 10)


async def test_what_is_known_is_at_most_half_a_minute_old(caller: Caller, clock: ManualClock) -> None:
    forecast = Eta(caller.store, clock)
    assert await forecast.remaining(await caller.admit()) is None
    await completed(caller, clock, *[1] * 10)
    clock.time += 30
    assert await forecast.remaining(await caller.admit()) == (1, 1)


async def test_a_job_s_eta_is_made_of_finished_ones_and_is_there_after_a_restart(deployment: Deployment) -> None:
    assert "eta" not in await deployment.submit("gaga-1", prompt="Hello")
    for _ in range(10):
        finished = (await deployment.generate("gaga-1", prompt="Hello"))[0]["job"]
    assert "eta" not in (await deployment.http.get(f"/api/jobs/{finished}")).json()
    await deployment.restart()
    eta = (await deployment.submit("gaga-1", prompt="Hello"))["eta"]
    assert set(eta) == {"low", "high"}
    assert 0 < eta["low"] <= eta["high"] < 120


async def test_an_unfinished_job_says_when_its_provider_was_last_asked(tmp_path: Path) -> None:
    async with Deployment(tmp_path, provider={"deadline": 1e9}) as deployment:
        job = await deployment.submit("gaga-1", prompt="[stuck]")
        path = f"/api/jobs/{job['id']}"
        assert "polled_at" not in job
        times: set[datetime] = set()
        while len(times) < 2:
            shown = (await deployment.http.get(path)).json()
            times |= {datetime.fromisoformat(shown["polled_at"])} if "polled_at" in shown else set()
            await asyncio.sleep(0)
        assert min(times) > datetime.fromisoformat(job["created_at"])
        await deployment.http.post(f"{path}/cancel")
        assert "polled_at" not in await deployment.ended(job["id"])
