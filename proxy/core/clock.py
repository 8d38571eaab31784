"""Time, handed in: whoever waits or stamps takes a `Clock`, so that tests do not wait."""

import asyncio
import logging
import time
from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

log = logging.getLogger(__name__)

_STEP_SECONDS: Final = 5.0
"""Difference, in seconds, between the wall clock and the monotonic clock from which it is a step. NTP corrects less
than this by slewing, which changes both clocks alike."""
_SETTLING_SECONDS: Final = 600.0
"""Seconds for which both clocks must agree before anything is deleted by its age: a wrong time is usually noticed and
corrected sooner."""
_MAX_STEPS: Final = 1000
"""Steps that are remembered. A clock that is set more often is broken, and never counts as settled."""


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


class ClockSteps:
    """Steps of the wall clock that this process has seen: forward and back, by an operator, NTP or a suspension.

    A duration within this process is measured with the monotonic clock. This class serves durations that begin with a
    recorded time of day, which may have been recorded by another process.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.now() - clock.monotonic()
        self._last = clock.monotonic()
        """Monotonic time of the last step, or of the start."""
        self._steps: deque[tuple[float, float]] = deque(maxlen=_MAX_STEPS)
        """Each step's monotonic time, and its size in seconds."""

    def look(self) -> float:
        """Compare both clocks, note a step, and return the monotonic time."""
        at = self._clock.monotonic()
        step = self._clock.now() - at - self._offset
        if abs(step) >= _STEP_SECONDS:
            self._offset += step
            self._last = at
            self._steps.append((at, step))
            log.warning("The system clock was set by %+.0f seconds; durations are not affected.", step)
        return at

    def settled(self) -> bool:
        """Whether both clocks have agreed for ten minutes. A new process waits as long: the time may be wrong."""
        return self.look() - self._last >= _SETTLING_SECONDS

    def forward(self, seconds: float) -> float:
        """By how much a time that was recorded within the last `seconds` may look older than it is.

        That is the most by which the wall clock has since been set forward, in seconds; 0 as a rule.
        """
        now, moved, most = self.look(), 0.0, 0.0
        for at, step in reversed(self._steps):
            if now - at > seconds:
                break
            moved += step
            most = max(most, moved)
        return most


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
