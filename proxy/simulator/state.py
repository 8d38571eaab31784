"""State shared by the simulated providers: clock, seed, keys, jobs and counters.

A job's state is computed from the clock on each request. No background task runs.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from .faults import Faults
from .messages import ReceivedRequest
from .prompt_faults import UNDOCUMENTED, PromptFault, words_in

STUCK_SHARE = 0.8
"""Fraction of its duration at which a stuck job stops."""

SLOW_FACTOR = 5
"""Factor by which `[slow]` multiplies a job's duration."""

UNKNOWN_SHARES = (0.4, 0.75)
"""Fractions of its duration between which a job with `[unknown]` has an undocumented status."""


class Outcome(StrEnum):
    """Final state of a job."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A paid generation. Its state follows from these fields and the clock."""

    provider: str
    id: str
    model: str
    prompt: str
    created_at: float
    seconds: float

    @property
    def fault_words(self) -> frozenset[PromptFault]:
        """Fault words in the prompt."""
        return words_in(self.prompt)

    @property
    def outcome(self) -> Outcome:
        """Final state that the prompt's words determine."""
        if PromptFault.FAIL in self.fault_words:
            return Outcome.FAILED
        return Outcome.CANCELED if PromptFault.CANCEL in self.fault_words else Outcome.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Timeline:
    """Status words of a job, each with the fraction of the duration until which it applies."""

    steps: tuple[tuple[float, str], ...]

    def word(self, job: Job, share: float) -> str | None:
        """Return the status word at a fraction of the job's duration, or None after its end."""
        if PromptFault.UNKNOWN in job.fault_words and UNKNOWN_SHARES[0] <= share < UNKNOWN_SHARES[1]:
            return UNDOCUMENTED
        return next((word for until, word in self.steps if share < until), None)


class State:
    """State of all providers. It survives restarts of the simulator."""

    def __init__(
        self,
        *,
        seed: int,
        speed: float,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        keys: Mapping[str, str],
    ) -> None:
        self.seed = seed
        self.speed = speed
        self.keys = dict(keys)
        self.origin = ""
        self.stopping = asyncio.Event()
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.submits: Counter[str] = Counter()
        self.polls: Counter[tuple[str, str]] = Counter()
        self.requests: deque[ReceivedRequest] = deque(maxlen=1000)
        self.refused_submits: set[tuple[str, str]] = set()
        self.jobs: dict[tuple[str, str], Job] = {}
        self._now = now
        self._sleep = sleep
        self._start_time = now()
        self._start_wall_time = time.time()

    def time(self) -> float:
        """Return the simulated seconds since the start."""
        return (self._now() - self._start_time) * self.speed

    def wall_time(self) -> float:
        """Return the simulated Unix time, in seconds."""
        return self._start_wall_time + self.time()

    async def pause(self, seconds: float) -> None:
        """Wait for a number of simulated seconds."""
        await self._sleep(seconds / self.speed)
        # An injected sleep may return at once. An endless stream would then block the event loop.
        await asyncio.sleep(0)

    def random(self, name: str) -> Random:
        """Return a random number generator seeded with the simulator's seed and `name`."""
        return Random(f"{self.seed}/{name}")

    def pick_duration(self, seconds: float, prompt: str, random: Random) -> float:
        """Return a job's duration in seconds: `seconds`, varied by up to 10 %, and longer for `[slow]`."""
        duration = round(seconds * random.uniform(0.9, 1.1), 3)
        return duration * SLOW_FACTOR if PromptFault.SLOW in words_in(prompt) else duration

    def add(self, job: Job) -> None:
        """Record a job."""
        self.jobs[job.provider, job.id] = job

    def share(self, job: Job) -> float:
        """Return the elapsed fraction of the job's duration. It grows from 0, and stays below 1 for a stuck job."""
        share = (self.time() - job.created_at) / job.seconds
        return min(share, STUCK_SHARE) if PromptFault.STUCK in job.fault_words else share

    def is_done(self, job: Job) -> bool:
        """Return True if the job's results exist."""
        return self.share(job) >= 1 and job.outcome is Outcome.SUCCEEDED
