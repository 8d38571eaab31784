"""Circuit breaker: a provider that fails for several jobs in a row gets no requests for some seconds, then one trial.

A failure is a 5xx answer or a network error. It counts once per job (or uploaded asset) until something else has failed
too, so that one odd job cannot close a provider. Nodes that share a store exchange outcomes twice a second
(`keep_agreeing`), and agree on who sends the trial.
"""

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from itertools import islice
from typing import Final, NamedTuple

import orjson

from proxy.core.clock import Clock
from proxy.core.errors import Unavailable
from proxy.core.provider_health import MEMORY, Outcome, Shared
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

log = logging.getLogger(__name__)

_FAILURES: Final = 5
"""Failures in a row, with no success between them, that open the breaker."""
_MOST_OUTCOMES: Final = 1000
"""Outcomes that are kept for the next exchange, and failures that are kept at all."""


class Subject(NamedTuple):
    """The job, or the asset that is uploaded, for which a request is sent, and its account."""

    account: str
    job: str


subject: ContextVar[Subject | None] = ContextVar("subject", default=None)
"""For whom this task sends requests. Requests for no job (a list of models, a check-up) say nothing of a provider."""


class Breaker:
    """One provider's circuit breaker.

    It opens after five failures in a row if they belong to two accounts or more, or if no other job has succeeded in
    the last minute. An account whose own last request succeeded in the last minute is never refused.
    """

    def __init__(self, clock: Clock, times: UpstreamTimes = DEFAULT_TIMES) -> None:
        self._clock = clock
        self._times = times
        self._failures: deque[tuple[Subject, float]] = deque(maxlen=_MOST_OUTCOMES)
        """The failures that count since the last success, each with its time."""
        self._last = self._last_success = -math.inf
        """When the last failure was, and the last success."""
        self._until = 0.0
        """Open until then, and then until a trial succeeds; 0 while it is closed."""
        self._trial_until = 0.0
        self._succeeded: dict[Subject, float] = {}
        """The last success of each job in the last minute, oldest first."""
        self._news: deque[Outcome] = deque(maxlen=_MOST_OUTCOMES)
        self._provider = ""
        self._shared: Shared | None = None

    def share(self, provider: str, shared: Shared) -> None:
        """Exchange outcomes with other nodes under the provider's name, and agree on trials with them."""
        self._provider, self._shared = provider, shared

    @property
    def wait(self) -> float:
        """Seconds until the provider is tried again; 0 while the breaker is closed."""
        return max(self._until - self._clock.monotonic(), 0.0)

    def wait_of(self, account: str) -> float:
        """The same for an account: 0 where its own requests succeed."""
        return 0.0 if self._until and self._is_well(account) else self.wait

    async def hold(self, *, paid: bool = False) -> float:
        """Seconds that a request has to wait; at 0 it is sent now, and is the trial where one is needed."""
        now, who = self._clock.monotonic(), subject.get()
        if not self._is_open(now) or (who and self._is_well(who.account)):
            return 0.0
        if who is None:
            return max(self._until - now, self._times.trial_retry)
        allowed = self._until + self._delay(who, paid=paid)
        if now < allowed:
            return allowed - now
        if now < self._trial_until or not await self._reserve():
            return self._times.trial_retry
        return 0.0

    def failed(self) -> None:
        """Note a failure: a 5xx answer, or no answer."""
        self._heard(succeeded=False)

    def succeeded(self) -> None:
        """Note any other answer: the provider is alive."""
        self._heard(succeeded=True)

    def news(self) -> Sequence[Outcome]:
        """The outcomes here since the last call, for the other nodes."""
        news = list(self._news)
        self._news.clear()
        return news

    def learn(self, outcomes: Sequence[Outcome], age: float) -> None:
        """Note outcomes of another node."""
        for account, job, succeeded in outcomes:
            self._note(Subject(account, job), self._clock.monotonic() - age, succeeded=succeeded)

    def _heard(self, *, succeeded: bool) -> None:
        who = subject.get()
        if who is None:
            return
        self._note(who, self._clock.monotonic(), succeeded=succeeded)
        if self._shared is not None and (outcome := Outcome(*who, succeeded)) not in islice(reversed(self._news), 1):
            self._news.append(outcome)

    def _note(self, who: Subject, at: float, *, succeeded: bool) -> None:
        if succeeded:
            self._note_success(who, at)
        else:
            self._note_failure(who, at)

    def _note_success(self, who: Subject, at: float) -> None:
        self._succeeded.pop(who, None)
        self._succeeded[who] = at
        while self._succeeded[oldest := next(iter(self._succeeded))] < at - MEMORY:
            del self._succeeded[oldest]
        while self._failures and self._failures[0][1] <= at:
            self._failures.popleft()
        self._last_success = max(self._last_success, at)
        if at >= self._last or not self._opens(self._last):
            self._until = self._trial_until = 0.0

    def _note_failure(self, who: Subject, at: float) -> None:
        if at < self._last_success:
            return  # another node's, from before a success that is known
        if not self._is_open(at):
            self._until = 0.0
            while self._failures and self._failures[0][1] < at - MEMORY:
                self._failures.popleft()
        if self._failures and self._failures[-1][0] == who:
            self._failures.pop()
        self._failures.append((who, at))
        self._last = max(self._last, at)
        # A late answer to a request from before the pause does not prolong it.
        if at >= self._until and (self._until or self._opens(at)):
            self._until = at + self._times.breaker_pause

    def _opens(self, at: float) -> bool:
        if len(self._failures) < _FAILURES:
            return False
        failing = {who for who, _ in self._failures}
        others = (since for who, since in self._succeeded.items() if who not in failing)
        return len({who.account for who in failing}) > 1 or max(others, default=-math.inf) < at - MEMORY

    def _is_open(self, now: float) -> bool:
        return self._until > 0 and now - self._last <= MEMORY

    def _is_well(self, account: str) -> bool:
        """Whether the account's last request succeeded, in the last minute."""
        recent = self._clock.monotonic() - MEMORY
        succeeded = any(who.account == account and at >= recent for who, at in self._succeeded.items())
        return succeeded and not any(who.account == account for who, _ in self._failures)

    def _delay(self, who: Subject, *, paid: bool) -> float:
        if paid:
            return self._times.trial_delay_of_submits
        is_failing = any(failing == who for failing, _ in self._failures)
        return self._times.trial_delay_of_failing_jobs if is_failing else 0.0

    async def _reserve(self) -> bool:
        """Reserve the trial, over all nodes; a node that cannot ask the others decides alone."""
        self._trial_until = self._clock.monotonic() + self._times.trial_retry
        try:
            if self._shared is not None and not await self._shared.trial(self._provider, self._times.trial):
                return False
        except Unavailable as error:
            log.debug("Cannot agree on a trial: %s", error.message)
        self._trial_until = self._clock.monotonic() + self._times.trial
        return True


async def keep_agreeing(breakers: Mapping[str, Breaker], shared: Shared, times: UpstreamTimes = DEFAULT_TIMES) -> None:
    """Have the breakers, by provider, open and close on all nodes alike, until cancelled.

    While the others cannot be reached each node goes by what it sees itself.
    """
    for provider, breaker in breakers.items():
        breaker.share(provider, shared)
    exchange = Exchange(breakers, shared)
    while True:
        try:
            await exchange.once()
        except Unavailable as error:
            log.debug("Cannot agree on how providers do: %s", error.message)
        await asyncio.sleep(times.breaker_exchange)


class Exchange:
    """One node's part in the exchange of outcomes."""

    def __init__(self, breakers: Mapping[str, Breaker], shared: Shared) -> None:
        self._breakers = breakers
        self._shared = shared
        self._node = secrets.token_hex(8)
        self._number = 0
        self._place = "0-0"
        self._heard: dict[str, int] = {}
        """By node, the number of the last text that was taken in: a text may be there twice."""

    async def once(self) -> None:
        """Tell the other nodes what was seen here, and take in what they have told."""
        for place, age, text in await self._shared.exchange(self._place, self._text()):
            self._place = place
            told = orjson.loads(text)
            if told["node"] != self._node and self._heard.get(told["node"]) != told["number"]:
                self._heard[told["node"]] = told["number"]
                self._learn(told["seen"], age)

    def _text(self) -> bytes:
        seen = {provider: [[*each] for each in breaker.news()] for provider, breaker in self._breakers.items()}
        if not any(seen.values()):
            return b""
        self._number += 1
        return orjson.dumps({"node": self._node, "number": self._number, "seen": seen})

    def _learn(self, seen: Mapping[str, Sequence[tuple[str, str, bool]]], age: float) -> None:
        for provider, outcomes in seen.items():
            if provider in self._breakers:
                self._breakers[provider].learn([Outcome(*each) for each in outcomes], age)
