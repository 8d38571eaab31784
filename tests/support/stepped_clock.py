"""A clock that a test advances by hand."""

import asyncio


class SteppedClock:
    """A clock whose time passes only in `step`."""

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
        """Let `seconds` pass, and let the tasks run that slept until then."""
        self.at += seconds
        due = [woken for at, woken in self.sleepers if at <= self.at + 1e-6]
        self.sleepers = [sleeper for sleeper in self.sleepers if sleeper[1] not in due]
        for woken in due:
            if not woken.done():
                woken.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)
