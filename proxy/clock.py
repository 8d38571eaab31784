"""Time, handed in: whoever waits or stamps takes a `Clock`, so that tests do not wait."""

import asyncio
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """What time it is, and how to let some pass."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some moment of the past: what is waited for in this process, though the time be set anew."""

    async def sleep(self, seconds: float) -> None:
        """Return when that much of this clock's time has passed."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        """Seconds since the epoch, from the system."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since the machine's start, about."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep in real seconds."""
        await asyncio.sleep(seconds)


def cut_short(bound: asyncio.Timeout) -> None:
    """End now what a timeout bounds; nothing when its time is over anyway, and its task about to hear of that."""
    if not bound.expired():
        bound.reschedule(0)


def rfc3339(at: float) -> str:
    """Write seconds since the epoch as RFC 3339 in UTC, to the millisecond: `2026-11-20T12:00:00.000Z`."""
    seconds, milliseconds = divmod(round(at * 1e6) // 1000, 1000)
    return f"{_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """What all events of one second have in common: most of the work."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")
