"""Poll loop of a job and its pace, the same for every provider.

A `Polling` keeps a job's state between two polls. Its `JobRun` waits in between and applies the deadline. A failed poll
is one of three kinds. Passing trouble is retried: the network, 5xx, a single unreadable answer. The operator's trouble
suspends the job: a refused credential, an empty account. The rest ends the job. A `Pace` learns how long a model's jobs
take, so that few polls are spent on a job that cannot have ended yet.
"""

import logging
import math
import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from proxy.core.clock import Clock
from proxy.core.errors import JobError, UpstreamFailed, UpstreamProtocol
from proxy.core.job import UNDER_WAY, Ticket
from proxy.providers.base import Update
from proxy.upstream.answers import (
    BreakerOpen,
    CredentialRefused,
    CreditRefused,
    LastAnswers,
    NotReady,
    ReadFailed,
    Unchanged,
    UnknownToProvider,
    UnreadableAnswer,
)

log = logging.getLogger(__name__)

_INTERVAL_GROWTH: Final = 1.25
"""Factor from one poll interval to the next, while no better interval is known."""
_MAX_INTERVAL: Final = 10.0
"""Seconds between polls of a job that is not about to end. Its progress, or its failure, is seen within that time."""
_AGE_SHARE: Final = 10
"""While few durations are known, the interval is at most the job's age divided by this (and at least the fast one). So
the end of a job is seen late by at most a tenth of its duration."""
_MIN_INTERVAL: Final = 0.25
"""Minimum number of seconds between polls, and the shortest duration that a pace learns."""
_JITTER_SHARE: Final = 0.05
"""Random share by which an interval is longer or shorter, so that the polls of many jobs spread out."""
_UNREADABLE_POLLS: Final = 20
_UNREADABLE_SECONDS: Final = 300.0
"""Polls in a row, and seconds, without a readable answer before the job ends. Both must have passed, because a gateway
may show its own pages, or not know the job, for minutes."""
_TROUBLE_SHOWN_AFTER: Final = 10.0
"""Seconds that a provider may be unreachable, or may not know the job, before the client sees it. Most of such trouble
is shorter. Just after a submit it is usual at gateways (seen)."""
_MIN_DURATIONS: Final = 10
"""Jobs that must have completed before their durations are used."""
MAX_DURATIONS: Final = 500
"""Number of a model's latest durations that a pace keeps. Of jobs that were ordered together the shortest end first. If
few were kept, they would all be short ones. A change shows once a twentieth of them has it (`_EARLY`, `_LATE`)."""
_EARLY, _MIDDLE, _LATE = 0.05, 0.5, 0.95
"""Quantiles that describe the spread of the durations. Few durations are outside of them, and some of those are
flukes."""
_EARLY_MARGIN: Final = 0.42
_LATE_MARGIN: Final = 1.0
"""Distance by which the polling window extends beyond these two quantiles, as exponents on a log scale. For log-normal
durations about 1 % of jobs end before the window and almost none after it. Polling for the few that are left costs next
to nothing."""
_DOUBT: Final = 2.0
"""Further distance, divided by the root of the number of durations: five hundred are more certain than ten."""


class Pace:
    """Poll intervals of one model: `fast` seconds while a job is likely to end, up to ten seconds otherwise.

    Intervals that vary with the root of the chance that a job ends now would need the fewest polls for a mean lag. But
    99 of 100 ends are to be seen within `fast` seconds, and no provider is polled more often than that. So the best
    curve becomes a step.
    """

    def __init__(self, fast: float) -> None:
        self._fast = fast
        self._latest: deque[float] = deque()
        """The latest durations, in the order in which they were learnt."""
        self._sorted: list[float] = []
        """The same, sorted by length."""
        self.window: tuple[float, float] | None = None
        """Ages in seconds, counted from the submit, between which 99 of 100 jobs end. None until enough have ended."""

    def learn(self, seconds: float) -> None:
        """Add the duration of a completed job, from its submit to its end."""
        if len(self._latest) == MAX_DURATIONS:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(max(seconds, _MIN_INTERVAL))
        insort(self._sorted, self._latest[-1])
        if len(self._sorted) >= _MIN_DURATIONS:
            self.window = _window(self._sorted)

    def next_interval(self, interval: float, age: float) -> float:
        """Return the interval that follows `interval` for a job of that age, in seconds."""
        grown = max(self._fast, min(interval * _INTERVAL_GROWTH, _MAX_INTERVAL))
        if self.window is None:
            return max(self._fast, min(grown, age / _AGE_SHARE))
        early, late = self.window
        if age < early:
            # In even steps, the last of which ends as the window opens.
            return max(self._fast, (early - age) / math.ceil((early - age) / _MAX_INTERVAL))
        return self._fast if age <= late else grown


def _window(durations: Sequence[float]) -> tuple[float, float]:
    """Return the ages between which jobs with these sorted durations end, as if their logarithms were normal."""
    early, middle, late = (durations[round(quantile * (len(durations) - 1))] for quantile in (_EARLY, _MIDDLE, _LATE))
    doubt = _DOUBT / math.sqrt(len(durations))
    return early * (early / middle) ** (_EARLY_MARGIN + doubt), late * (late / middle) ** (_LATE_MARGIN + doubt)


class StateSource(Protocol):
    """Where the state of an order is read: its provider, alone or in a batch with other polls."""

    @property
    def name(self) -> str:
        """The provider's name."""

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the state of the work. Raises as `Provider.check`."""


class Polling:
    """The polls of one job: its ticket, its interval, and its unreadable answers so far.

    An answer that cannot be read, such as a gateway's HTML page, is shown to the client. Only 20 of them in a row, over
    five minutes, end the job.

    All of it is lost with this process: a resumed job begins to count unreadable answers at zero.
    """

    __slots__ = (
        "_clock",
        "_interval",
        "_last_answers",
        "_pace",
        "_source",
        "_submitted_at",
        "_trouble_since",
        "_unreadable",
        "delay",
        "outcome",
        "ticket",
        "trouble",
    )

    def __init__(
        self,
        source: StateSource,
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
        """Outcome of the last poll, as a metric label; empty if the poll was cut off."""
        self.trouble = ""
        """Reason why the last poll failed, as text for the client; empty after a readable answer."""
        self.delay = 0.0 if resumed else _add_jitter(interval)
        """Seconds until the next poll. A resumed job is polled at once, because it may have ended long ago."""
        self._source = source
        self._pace = pace
        self._clock = clock
        self._interval = interval
        self._submitted_at = submitted_at
        """Monotonic seconds."""
        self._unreadable: tuple[int, float] = (0, 0.0)
        """Number of unreadable answers since the last readable one, and monotonic time of the first of them."""
        self._trouble_since: float | None = None
        """Monotonic time of the first failed poll after the last readable answer."""
        self._last_answers = LastAnswers()

    async def poll(self, now: float) -> Update | None:
        """Poll the provider, at the monotonic time `now`. Returns None without news.

        Raises a JobError when the provider's answers end the job.
        """
        update, self.outcome, breaker_wait = None, "", None
        try:
            update = await self._check()
            self._last_answers.understood()
            self.outcome = "news"
            self.ticket, wait = update.ticket or self.ticket, update.wait
            update = self._with_recovery(update)
        except Unchanged as answer:
            self._clear_trouble()
            self.outcome, wait = "unchanged", answer.wait
        except ReadFailed as error:
            self.outcome = type(error).__name__.lower()
            update, wait = self._on_failure(error), error.wait
            breaker_wait = wait if isinstance(error, BreakerOpen) else None
        self._interval = self._pace.next_interval(self._interval, self.age(now))
        # A provider's hint only lengthens the interval. The circuit breaker's wait is the time of the next poll.
        longest = max(_add_jitter(self._interval), wait or 0)
        self.delay = longest if breaker_wait is None else max(breaker_wait, _MIN_INTERVAL)
        return update

    async def _check(self) -> Update:
        """Return the adapter's update. An error inside the adapter is an unreadable answer, and ends no paid work."""
        try:
            return await self._source.check(self.ticket, self._last_answers)
        except (ReadFailed, Unchanged, JobError):
            raise
        except Exception:
            log.exception("Internal error while reading an answer of %s", self._source.name)
            raise UnreadableAnswer("Pollcast cannot read the provider's answer.") from None

    def age(self, now: float) -> float:
        """Return the seconds from the submit to the monotonic time `now`."""
        return now - self._submitted_at

    def _with_recovery(self, update: Update) -> Update:
        """Return the update of a readable answer. Without a detail of its own it replaces the trouble shown before."""
        had_trouble = self._trouble_since is not None
        self._clear_trouble()
        return replace(update, detail=UNDER_WAY) if had_trouble and not (update.detail or update.status) else update

    def _clear_trouble(self) -> None:
        """Note a readable answer."""
        self._unreadable, self._trouble_since, self.trouble = (0, 0.0), None, ""

    def _on_failure(self, error: ReadFailed) -> Update | None:
        """Return the update that a failed read causes, if any. Raises the JobError if it ends the job."""
        now = self._clock.monotonic()
        match error:
            case NotReady():
                self._clear_trouble()
                return self._show(error.message, now)
            case CreditRefused():
                self._clear_trouble()
                return self._show(f"Suspended: the operator's account at the provider is empty. {error.message}", now)
            case CredentialRefused():
                self._clear_trouble()
                return self._show(f"Suspended: the provider refuses the operator's key. {error.message}", now)
            case UnknownToProvider():
                ending = f"The provider no longer knows this job: {error.message}"
                self._count_unreadable(UpstreamFailed(ending), now)
                return self._show_if_lasting(f"The provider does not know this job now: {error.message}", now)
            case UnreadableAnswer():
                ending = f"The provider's answers cannot be read: {error.message}"
                self._count_unreadable(UpstreamProtocol(ending), now)
                return self._show(f"Waiting for a readable answer: {error.message}", now)
        return self._show_if_lasting(f"Waiting for the provider: {error.message}", now)

    def _count_unreadable(self, ending: JobError, now: float) -> None:
        """Count an unreadable answer. Raises `ending` after too many of them over too long a time."""
        polls, since = self._unreadable
        self._unreadable = polls + 1, since if polls else now
        if polls + 1 >= _UNREADABLE_POLLS and now - self._unreadable[1] >= _UNREADABLE_SECONDS:
            raise ending

    def _show_if_lasting(self, trouble: str, now: float) -> Update | None:
        """Return an update that shows trouble, once it has lasted for a while."""
        if self._trouble_since is None:
            self._trouble_since = now
        return self._show(trouble, now) if now - self._trouble_since >= _TROUBLE_SHOWN_AFTER else None

    def _show(self, trouble: str, now: float) -> Update:
        """Return an update that shows trouble to the client.

        The next readable answer has to replace it, so it must not be compared with answers before the trouble.
        """
        self._last_answers, self.trouble = LastAnswers(), trouble
        if self._trouble_since is None:
            self._trouble_since = now
        return Update(detail=trouble)


def _add_jitter(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER_SHARE, 1 + _JITTER_SHARE)
