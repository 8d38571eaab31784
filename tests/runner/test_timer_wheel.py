"""Timer wheel: the timers of many jobs on one sleeper."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from proxy.runner.timer_wheel import TimerWheel
from tests.support.stepped_clock import SteppedClock


@asynccontextmanager
async def turning(clock: SteppedClock, acted: list[str]) -> AsyncIterator[TimerWheel[str]]:
    wheel = TimerWheel[str](clock, acted.append)
    running = asyncio.create_task(wheel.run())
    await asyncio.sleep(0)
    yield wheel
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_an_item_is_acted_on_at_most_one_slot_late() -> None:
    clock, acted = SteppedClock(), list[str]()
    async with turning(clock, acted) as wheel:
        for name, delay in (("late", 2.0), ("soon", 1.0), ("now", 0.0)):
            wheel.add(name, delay)
        await clock.step(0)
        assert acted == ["now"]
        await clock.step(0.9)
        assert acted == ["now"]
        await clock.step(0.15)
        assert acted == ["now", "soon"]
        await clock.step(1)
        assert acted == ["now", "soon", "late"]


async def test_an_earlier_timer_ends_the_sleep_for_a_later_one() -> None:
    clock, acted = SteppedClock(), list[str]()
    async with turning(clock, acted) as wheel:
        wheel.add("far", 100)
        await clock.step(0)
        wheel.add("near", 1)
        await clock.step(0)
        await clock.step(1.05)
        assert acted == ["near"]


async def test_timers_that_expire_together_wake_one_sleeper() -> None:
    clock, acted = SteppedClock(), list[str]()
    async with turning(clock, acted) as wheel:
        for n in range(1000):
            wheel.add(str(n), 5 + n / 100_000)
        await clock.step(0)
        assert len(clock.sleepers) <= 2
        await clock.step(5.1)
        assert sorted(acted, key=int) == [str(n) for n in range(1000)]
