"""What the five pretend providers share: the clock and its scale, the seed, the keys, the jobs and the counters.

Job states are computed from the clock when somebody asks; nothing runs in the background.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from .faults import Faults
from .messages import Received
from .prompt_faults import UNDOCUMENTED, PromptFault, words_in

DEFAULT_KEYS: Mapping[str, str] = {
    "gaga": "sim-gaga",
    "gaia": "sk-ga_sim",
    "ainow": "sim-ainow",
    "ganai": "sim-ganai",
    "heygen": "sim-heygen",
}

STUCK_AT = 0.8
SLOWER = 5
UNKNOWN_BETWEEN = (0.4, 0.75)


class Outcome(StrEnum):
    """How a job ends."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A generation that was paid for; all that becomes of it follows from this and the clock."""

    provider: str
    id: str
    model: str
    prompt: str
    made_at: float
    seconds: float

    @property
    def words(self) -> frozenset[PromptFault]:
        """The words in its prompt."""
        return words_in(self.prompt)

    @property
    def outcome(self) -> Outcome:
        """How it will end, if it ends."""
        if PromptFault.FAIL in self.words:
            return Outcome.FAILED
        return Outcome.CANCELED if PromptFault.CANCEL in self.words else Outcome.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Timeline:
    """The words a job passes through: each up to a share of its time."""

    steps: tuple[tuple[float, str], ...]

    def word(self, job: Job, share: float) -> str | None:
        """The word at that share of the job's time; None when the time is over."""
        if PromptFault.UNKNOWN in job.words and UNKNOWN_BETWEEN[0] <= share < UNKNOWN_BETWEEN[1]:
            return UNDOCUMENTED
        return next((word for until, word in self.steps if share < until), None)


class State:
    """The state that outlives a request."""

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
        self.requests: deque[Received] = deque(maxlen=1000)
        self.refused_once: set[tuple[str, str]] = set()
        self.jobs: dict[tuple[str, str], Job] = {}
        self._now = now
        self._sleep = sleep
        self._began = now()
        self._began_at = time.time()

    def time(self) -> float:
        """Simulated seconds since the world began."""
        return (self._now() - self._began) * self.speed

    def wall(self) -> float:
        """The simulated time of day, in seconds since 1970."""
        return self._began_at + self.time()

    async def pause(self, seconds: float) -> None:
        """Wait for that many simulated seconds."""
        await self._sleep(seconds / self.speed)
        await asyncio.sleep(0)  # an injected sleep may return at once, and an endless stream would then starve all else

    def random(self, name: str) -> Random:
        """A repeatable source of chance."""
        return Random(f"{self.seed}/{name}")

    def take(self, seconds: float, prompt: str, chance: Random) -> float:
        """How long a job of that usual length takes this time."""
        usual = round(seconds * chance.uniform(0.9, 1.1), 3)
        return usual * SLOWER if PromptFault.SLOW in words_in(prompt) else usual

    def add(self, job: Job) -> None:
        """Remember a job."""
        self.jobs[job.provider, job.id] = job

    def share(self, job: Job) -> float:
        """How much of the job's time is over, from 0 up; a stuck job stays where it is."""
        share = (self.time() - job.made_at) / job.seconds
        return min(share, STUCK_AT) if PromptFault.STUCK in job.words else share

    def done(self, job: Job) -> bool:
        """Whether the job's results exist."""
        return self.share(job) >= 1 and job.outcome is Outcome.SUCCEEDED
