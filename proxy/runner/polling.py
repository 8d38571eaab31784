"""The polls of a job, written once: at the model's pace until the end, whoever the provider is.

A `Polling` is what one job remembers between two polls; who calls it waits in between, and bounds it all by the
deadline. It knows what passes (network, 5xx, an unreadable answer now and then), what suspends (a refused credential,
an empty account: the operator's trouble, not the job's) and what ends a job. A `Pace` learns how long a model's jobs
take, so that few polls are spent on a job that cannot be over yet.
"""

import logging
import math
import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from proxy.core.clock import Clock
from proxy.core.errors import JobError, UpstreamFailed, UpstreamProtocol
from proxy.core.job import UNDER_WAY, Ticket
from proxy.providers.base import Provider, Update
from proxy.upstream.answers import (
    CredentialRefused,
    CreditRefused,
    LastAnswers,
    NotReady,
    ReadFailed,
    Resting,
    Unchanged,
    UnknownToProvider,
    UnreadableAnswer,
)

log = logging.getLogger(__name__)

_GROWTH: Final = 1.25
_SLOWEST: Final = 10.0
"""Seconds between polls of a job that is not about to end: so soon its progress, or its failure, is seen."""
_AGE_SHARE: Final = 10
"""While little is known, the interval is at most the job's age divided by this (and at least the fast one): a job is
seen to be over late by at most a tenth of its duration."""
_FASTEST: Final = 0.25
"""Seconds between polls at the least, and the shortest duration that is learnt."""
_JITTER: Final = 0.05
_UNREADABLE_POLLS: Final = 20
_UNREADABLE_SECONDS: Final = 300.0
"""Polls in a row, and seconds, without a readable answer before a job is given up: both must have passed. A gateway may
show its own pages, or not know the job, for minutes."""
_TROUBLE_SHOWN: Final = 10.0
"""Seconds that a provider may be away, or may not know the job, before the client is shown it: most of that is over
sooner. Just after a submit it is usual at gateways (seen)."""
_ENOUGH: Final = 10
"""Jobs that must have ended before their durations are believed."""
MAX_DURATIONS: Final = 500
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
        if len(self._latest) == MAX_DURATIONS:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]
        self._latest.append(max(seconds, _FASTEST))
        insort(self._ordered, self._latest[-1])
        if len(self._ordered) >= _ENOUGH:
            self.window = _window(self._ordered)

    def after(self, interval: float, age: float) -> float:
        """The interval that follows `interval`, for a job of that age; grows while nothing better is known."""
        grown = max(self._fast, min(interval * _GROWTH, _SLOWEST))
        if self.window is None:
            return max(self._fast, min(grown, age / _AGE_SHARE))
        early, late = self.window
        if age < early:
            # In even steps, the last of which ends as the window opens.
            return max(self._fast, (early - age) / math.ceil((early - age) / _SLOWEST))
        return self._fast if age <= late else grown


def _window(ordered: Sequence[float]) -> tuple[float, float]:
    """Between which ages jobs with these durations end, as if their logarithms were normally distributed."""
    early, middle, late = (ordered[round(quantile * (len(ordered) - 1))] for quantile in (_EARLY, _MIDDLE, _LATE))
    doubt = _DOUBT / math.sqrt(len(ordered))
    return early * (early / middle) ** (_BEFORE + doubt), late * (late / middle) ** (_BEHIND + doubt)


class Polling:
    """One job's polls: its ticket, its pace, and how long unreadable answers are still put up with.

    Nothing of that outlives this process: a resumed job has all its patience again.
    """

    __slots__ = (
        "_clock",
        "_interval",
        "_pace",
        "_provider",
        "_seen",
        "_since",
        "_trouble_since",
        "_unreadable",
        "delay",
        "outcome",
        "ticket",
        "trouble",
    )

    def __init__(
        self,
        provider: Provider,
        pace: Pace,
        ticket: Ticket,
        clock: Clock,
        *,
        submitted_at: float,
        interval: float,
        resumed: bool,
    ) -> None:
        self.ticket = ticket
        self.outcome = ""
        """What came of the last poll, in one word; nothing of one that was broken off."""
        self.trouble = ""
        """Why the last poll brought no news, in words for the client; empty after a readable answer."""
        self.delay = 0.0 if resumed else _jittered(interval)
        """Seconds until the next poll. A job that is taken up again is asked for at once: it may long be over."""
        self._provider = provider
        self._pace = pace
        self._clock = clock
        self._interval = interval
        self._since = submitted_at
        self._unreadable: tuple[int, float] = (0, 0.0)
        """Unreadable answers since the last readable one, and when the first of them came (monotonic)."""
        self._trouble_since: float | None = None
        self._seen = LastAnswers()

    async def poll(self, now: float) -> Update | None:
        """Ask once, at the monotonic time `now`; None: nothing is new.

        Raises a JobError when the provider is beyond reading.
        """
        update, self.outcome, rest = None, "", None
        try:
            update = await self._check()
            self._seen.understood()
            self.outcome = "news"
            self.ticket, wait = update.ticket or self.ticket, update.wait
            update = self._resumed(update)
        except Unchanged as answer:
            self._readable()
            self.outcome, wait = "unchanged", answer.wait
        except ReadFailed as error:
            self.outcome = type(error).__name__.lower()
            update, wait = self._judged(error), error.wait
            rest = wait if isinstance(error, Resting) else None
        self._interval = self._pace.after(self._interval, self.age(now))
        # A provider's hint lengthens the interval only. The circuit breaker's own says when a poll is allowed again.
        self.delay = max(_jittered(self._interval), wait or 0) if rest is None else max(rest, _FASTEST)
        return update

    async def _check(self) -> Update:
        """The adapter's check; what it cannot cope with is an unreadable answer, and ends no paid work."""
        try:
            return await self._provider.check(self.ticket, self._seen)
        except (ReadFailed, Unchanged, JobError):
            raise
        except Exception:
            log.exception("Internal error while reading an answer of %s", self._provider.name)
            raise UnreadableAnswer("Pollcast cannot read the provider's answer.") from None

    def age(self, now: float) -> float:
        """Seconds from the submit to the monotonic time `now`."""
        return now - self._since

    def _resumed(self, update: Update) -> Update:
        """The update after a readable answer: one without words of its own takes back what was shown of trouble."""
        was_shown = self._trouble_since is not None
        self._readable()
        return replace(update, detail=UNDER_WAY) if was_shown and not (update.detail or update.status) else update

    def _readable(self) -> None:
        self._unreadable, self._trouble_since, self.trouble = (0, 0.0), None, ""

    def _judged(self, error: ReadFailed) -> Update | None:
        """The update that a failed read makes, if any; raises the JobError when it is the end."""
        now = self._clock.monotonic()
        match error:
            case NotReady():
                self._readable()
                return self._shown(error.message, now)
            case CreditRefused():
                self._readable()
                return self._shown(f"Suspended: the operator's account at the provider is empty. {error.message}", now)
            case CredentialRefused():
                self._readable()
                return self._shown(f"Suspended: the provider refuses the operator's key. {error.message}", now)
            case UnknownToProvider():
                self._count_unreadable(UpstreamFailed(f"The provider no longer knows this job: {error.message}"), now)
                return self._shown_later(f"The provider does not know this job now: {error.message}", now)
            case UnreadableAnswer():
                ending = f"The provider's answers cannot be read: {error.message}"
                self._count_unreadable(UpstreamProtocol(ending), now)
                return self._shown(f"Waiting for a readable answer: {error.message}", now)
        return self._shown_later(f"Waiting for the provider: {error.message}", now)

    def _count_unreadable(self, ending: JobError, now: float) -> None:
        """Raises `ending` once there has been no readable answer for long enough."""
        polls, since = self._unreadable
        self._unreadable = polls + 1, since if polls else now
        if polls + 1 >= _UNREADABLE_POLLS and now - self._unreadable[1] >= _UNREADABLE_SECONDS:
            raise ending

    def _shown_later(self, trouble: str, now: float) -> Update | None:
        """Show trouble that has lasted for a while."""
        if self._trouble_since is None:
            self._trouble_since = now
        return self._shown(trouble, now) if now - self._trouble_since >= _TROUBLE_SHOWN else None

    def _shown(self, trouble: str, now: float) -> Update:
        """Show trouble to the client. The next readable answer takes it back, so it has to be news."""
        self._seen, self.trouble = LastAnswers(), trouble
        if self._trouble_since is None:
            self._trouble_since = now
        return Update(detail=trouble)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
