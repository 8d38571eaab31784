"""The polls of a job, written once: at the model's pace until the end, whoever the provider is.

A `Polling` is what one job remembers between two polls; who calls it waits in between, and bounds it all by the
deadline. It knows what passes (network, 5xx, an unreadable answer now and then), what suspends (a credential that is
refused: the operator's trouble, not the job's) and what ends a job. A `Pace` learns how long a model's jobs take, so
that few polls are spent on a job that cannot be over yet.
"""

import math
import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Final

from proxy.answers import CredentialRefused, Missing, Nonsense, ReadFailed, Seen, Unchanged
from proxy.errors import UpstreamFailed, UpstreamProtocol
from proxy.job import Ticket
from proxy.providers.base import Provider, Update

_GROWTH: Final = 1.25
_SLOWEST: Final = 10.0
"""Seconds between polls of a job that is not about to end: so soon its progress, or its failure, is seen."""
_FASTEST: Final = 0.25
"""Seconds between polls, whatever a provider's hint says."""
_JITTER: Final = 0.05
_FORGETFUL: Final = 60.0
"""Seconds for which a provider may say that it does not know its own ticket: just after the submit (seen at gateways),
or while something that stands before it answers in its place (assumed)."""
_NONSENSE_BUDGET: Final = 8
"""Unreadable answers in a row before the job is given up."""
_ENOUGH: Final = 10
"""Jobs that must have ended before their durations are believed."""
REMEMBERED: Final = 500
"""The latest durations of a model that are kept. Of jobs that were ordered together the shortest end first: with few
kept, those alone would be what is known. A change is seen once a twentieth of them tells of it (`_EARLY`, `_LATE`)."""
_EARLY, _MIDDLE, _LATE = 0.05, 0.5, 0.95
"""The quantiles of the durations by which their spread is told; those beyond are few, and some of them flukes."""
_BEFORE: Final = 0.42
_BEHIND: Final = 1.0
"""How much further than these two the window reaches, in proportions: of a log-normal's jobs 1 in 100 end before it,
and hardly any behind it, because to poll for the few that are left costs next to nothing."""
_DOUBT: Final = 2.0
"""And further again, by the root of the number of jobs that told them: five hundred tell more than ten."""


class Pace:
    """How fast one model's jobs are polled: every `fast` seconds while they are likely to end, up to ten when not.

    Polls spaced by the root of the odds that a job ends now would be the fewest for a mean lag. But 99 in 100 jobs are
    to be found over within `fast` seconds, and no provider is asked more often than that: a step is what remains.
    """

    def __init__(self, fast: float) -> None:
        self._fast = fast
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []
        """The same, by length."""
        self.window: tuple[float, float] | None = None
        """Seconds from the submit between which 99 in 100 jobs end, once enough have."""

    def learn(self, seconds: float) -> None:
        """A job of the model has ended so long after its submit."""
        if len(self._latest) == REMEMBERED:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]
        self._latest.append(max(seconds, _FASTEST))
        insort(self._ordered, self._latest[-1])
        if len(self._ordered) >= _ENOUGH:
            self.window = _window(self._ordered)

    def after(self, interval: float, age: float) -> float:
        """The interval that follows `interval`, for a job of that age; grows while nothing better is known."""
        early, late = self.window or (0, 0)
        if age < early:
            # In even steps, the last of which ends as the window opens.
            return max(self._fast, (early - age) / math.ceil((early - age) / _SLOWEST))
        return self._fast if age <= late else max(self._fast, min(interval * _GROWTH, _SLOWEST))


def _window(ordered: Sequence[float]) -> tuple[float, float]:
    """Between which ages jobs with these durations end, as if their logarithms were normally distributed."""
    early, middle, late = (ordered[round(quantile * (len(ordered) - 1))] for quantile in (_EARLY, _MIDDLE, _LATE))
    doubt = _DOUBT / math.sqrt(len(ordered))
    return early * (early / middle) ** (_BEFORE + doubt), late * (late / middle) ** (_BEHIND + doubt)


class Polling:
    """One job's polls: its ticket, its pace, and what is still put up with."""

    __slots__ = (
        "_interval",
        "_missing",
        "_nonsense",
        "_pace",
        "_provider",
        "_seen",
        "_since",
        "delay",
        "outcome",
        "ticket",
    )

    def __init__(
        self, provider: Provider, pace: Pace, ticket: Ticket, *, submitted_at: float, interval: float, resumed: bool
    ) -> None:
        self.ticket = ticket
        self.outcome = ""
        """What came of the last poll, in one word; nothing of one that was broken off."""
        self.delay = 0.0 if resumed else _jittered(interval)
        """Seconds until the next poll. A job that is taken up again is asked for at once: it may long be over."""
        self._provider = provider
        self._pace = pace
        self._interval = interval
        self._since = submitted_at
        self._nonsense = 0
        self._missing: tuple[float, ...] = ()
        """When the provider said that it does not know the ticket, since it last said anything else."""
        self._seen = Seen()

    async def poll(self, now: float) -> Update | None:
        """Ask once, at the time `now`; None: nothing is new. Raises a JobError when the provider is beyond reading."""
        update, self.outcome = None, ""
        try:
            update = await self._provider.check(self.ticket, self._seen)
            self._seen.understood()
            self._nonsense, self._missing, self.outcome = 0, (), "news"
            self.ticket, wait = update.ticket or self.ticket, update.wait
        except Unchanged as answer:
            self._nonsense, self._missing, self.outcome = 0, (), "unchanged"
            wait = answer.wait
        except ReadFailed as error:
            self.outcome = type(error).__name__.lower()
            update, wait = self._judged(error, now), error.wait
        self._interval = self._pace.after(self._interval, now - self._since)
        self.delay = _jittered(self._interval) if wait is None else max(wait, _FASTEST)
        return update

    def _judged(self, error: ReadFailed, now: float) -> Update | None:
        """The update that a failed read makes, if any; raises the JobError when it is the end."""
        self._missing = (*self._missing, now) if isinstance(error, Missing) else ()
        match error:
            case CredentialRefused():
                self._seen = Seen()  # the next answer is news, whatever it is: it takes back what is said here
                return Update(detail=f"Suspended: the provider refuses the operator's key. {error.message}")
            case Missing() if len(self._missing) > 2 and now - self._missing[0] > _FORGETFUL:
                raise UpstreamFailed(f"The provider no longer knows this job: {error.message}")
            case Nonsense():
                self._nonsense += 1
                if self._nonsense > _NONSENSE_BUDGET:
                    raise UpstreamProtocol(f"The provider's answers make no sense: {error.message}")
                self._seen = Seen()  # as above
                return Update(detail=error.message)
        return None


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
