"""Timers of many jobs on one sleeper."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from proxy.runner.timer_wheel import TimerWheel


class SteppedClock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.at + seconds, woken))
        await woken

    async def step(self, seconds: float) -> None:
        self.at += seconds
        due = [woken for at, woken in self.sleepers if at <= self.at + 1e-6]
        self.sleepers = [sleeper for sleeper in self.sleepers if sleeper[1] not in due]
        for woken in due:
            if not woken.done():
                woken.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def turning(clock: SteppedClock, acted: list[str]) -> AsyncIterator[TimerWheel[str]]:
    wheel = TimerWheel[str](clock, acted.append)
    running = asyncio.create_task(wheel.run())
    await asyncio.sleep(0)
    yield wheel
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_items_are_acted_on_when_they_are_due_a_slot_late_at_the_most() -> None:
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


async def test_what_is_due_earlier_than_all_that_waits_is_not_held_up() -> None:
    clock, acted = SteppedClock(), list[str]()
    async with turning(clock, acted) as wheel:
        wheel.add("far", 100)
        await clock.step(0)
        wheel.add("near", 1)
        await clock.step(0)
        await clock.step(1.05)
        assert acted == ["near"]


async def test_what_is_due_together_wakes_one_sleeper() -> None:
    clock, acted = SteppedClock(), list[str]()
    async with turning(clock, acted) as wheel:
        for n in range(1000):
            wheel.add(str(n), 5 + n / 100_000)
        await clock.step(0)
        assert len(clock.sleepers) <= 2
        await clock.step(5.1)
        assert sorted(acted, key=int) == [str(n) for n in range(1000)]
