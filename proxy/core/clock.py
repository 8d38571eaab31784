"""Clocks. Code that waits or reads the time takes a `Clock` as an argument, so that tests do not wait."""

import asyncio
import logging
import time
from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

log = logging.getLogger(__name__)

_STEP_SECONDS: Final = 5.0
"""Smallest change of the wall clock against the monotonic clock, in seconds, that counts as a step. NTP corrects
smaller differences by slewing, which changes both clocks alike."""
_SETTLING_SECONDS: Final = 600.0
"""Seconds for which both clocks must agree before anything is deleted by its age: a wrong time is usually noticed and
corrected sooner."""
_MAX_STEPS: Final = 1000
"""Number of remembered steps. A clock that is set more often is broken and never counts as settled."""


class Clock(Protocol):
    """The current time, and a way to sleep."""

    def now(self) -> float:
        """Return the seconds since the epoch."""

    def monotonic(self) -> float:
        """Return monotonic seconds, unaffected by changes of the system clock. Use them for waiting."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock's time."""


class SystemClock:
    """The system's clock."""

    def now(self) -> float:
        """Return the system's seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return the system's monotonic seconds, which start near its boot."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for real seconds."""
        await asyncio.sleep(seconds)


class ClockSteps:
    """Steps of the wall clock that this process has seen, forward or back: by an operator, NTP or a suspension.

    Durations within this process use the monotonic clock. This class is for durations that start at a recorded time
    of day, which another process may have recorded.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.now() - clock.monotonic()
        self._last = clock.monotonic()
        """Monotonic time of the last step, or of the process start."""
        self._steps: deque[tuple[float, float]] = deque(maxlen=_MAX_STEPS)
        """The monotonic time and the size, in seconds, of each step."""

    def look(self) -> float:
        """Compare both clocks, record a step if there is one, and return the monotonic time."""
        at = self._clock.monotonic()
        step = self._clock.now() - at - self._offset
        if abs(step) >= _STEP_SECONDS:
            self._offset += step
            self._last = at
            self._steps.append((at, step))
            log.warning("The system clock was set by %+.0f seconds; durations are not affected.", step)
        return at

    def is_settled(self) -> bool:
        """Return whether both clocks have agreed for ten minutes; until then, the time of day may be wrong."""
        return self.look() - self._last >= _SETTLING_SECONDS

    def forward(self, seconds: float) -> float:
        """Return by how many seconds a time recorded within the last `seconds` may look older than it is.

        This is the largest amount by which the wall clock was set forward since then; usually 0.
        """
        now, moved, largest = self.look(), 0.0, 0.0
        for at, step in reversed(self._steps):
            if now - at > seconds:
                break
            moved += step
            largest = max(largest, moved)
        return largest


def cut_short(bound: asyncio.Timeout) -> None:
    """End the body of a timeout now. Does nothing if the timeout has expired already."""
    if not bound.expired():
        bound.reschedule(0)


def rfc3339(at: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, with milliseconds: `2026-11-20T12:00:00.000Z`."""
    seconds, milliseconds = divmod(round(at * 1e6) // 1000, 1000)
    return f"{_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """Return the part that all times within one second share. Formatting it is most of the work."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")
