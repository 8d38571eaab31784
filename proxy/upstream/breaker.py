"""Circuit breaker. After five consecutive failures a provider gets no requests for ten seconds, then one trial.

A failure is a 5xx answer or a network error. Repeated failures of one job (or uploaded asset) count once until another
job fails, so one bad job cannot block a provider. A failed request for several jobs is one failure, and its success is
one of each. Nodes that share a store exchange their outcomes twice a second (`exchange_outcomes`) and agree which node
sends the trial.
"""

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from itertools import islice
from typing import Final, NamedTuple

import orjson

from proxy.core.clock import Clock
from proxy.core.errors import Unavailable
from proxy.core.provider_health import MEMORY, Outcome, SharedHealth
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

log = logging.getLogger(__name__)

_FAILURE_THRESHOLD: Final = 5
"""Number of consecutive failures that open the breaker."""
_MAX_OUTCOMES: Final = 1000
"""Maximum number of outcomes kept for the next exchange, and of failures kept."""


class Subject(NamedTuple):
    """The account, and the job or uploaded asset, for which a request is sent."""

    account: str
    job: str


subjects: ContextVar[tuple[Subject, ...]] = ContextVar("subjects", default=())
"""The subjects of this task's requests: one, or all those of a batch of polls. Requests without any (a list of models,
a key check) do not count."""


class Breaker:
    """One provider's circuit breaker.

    It opens after five consecutive failures if they belong to two or more accounts, or if no other job has succeeded in
    the last minute. An account whose last request succeeded within the last minute is never refused.
    """

    def __init__(self, clock: Clock, times: UpstreamTimes = DEFAULT_TIMES) -> None:
        self._clock = clock
        self._times = times
        self._failures: deque[tuple[Subject, float]] = deque(maxlen=_MAX_OUTCOMES)
        """The counted failures since the last success, each with its time."""
        self._last = self._last_success = -math.inf
        """Times of the last failure and of the last success."""
        self._until = 0.0
        """End of the pause. The breaker then stays open until a trial succeeds. 0 while it is closed."""
        self._trial_until = 0.0
        self._succeeded: dict[Subject, float] = {}
        """Time of each job's last success within the last minute, oldest first."""
        self._pending: deque[Outcome] = deque(maxlen=_MAX_OUTCOMES)
        self._provider = ""
        self._shared: SharedHealth | None = None

    def share(self, provider: str, shared: SharedHealth) -> None:
        """Share outcomes and trials with other nodes under the provider's name."""
        self._provider, self._shared = provider, shared

    @property
    def wait(self) -> float:
        """Seconds until the provider is tried again; 0 while the breaker is closed."""
        return max(self._until - self._clock.monotonic(), 0.0)

    @property
    def is_open(self) -> bool:
        """True while requests are refused, and until a trial has succeeded."""
        return self._is_open(self._clock.monotonic())

    def wait_of(self, account: str) -> float:
        """Return `wait` for an account: 0 if its own requests succeed."""
        return 0.0 if self._until and self._is_healthy(account) else self.wait

    async def hold(self, *, paid: bool = False) -> float:
        """Return the seconds that a request must wait. With 0 it is sent now, as the trial if one is due."""
        if not self._until:
            return 0.0
        now, senders = self._clock.monotonic(), subjects.get()
        if not self._is_open(now) or any(map(self._is_healthy, {sender.account for sender in senders})):
            return 0.0
        if not senders:
            return max(self._until - now, self._times.trial_retry)
        allowed = self._until + self._delay(senders, paid=paid)
        if now < allowed:
            return allowed - now
        if now < self._trial_until or not await self._reserve():
            return self._times.trial_retry
        return 0.0

    def record_failure(self) -> None:
        """Record a failure: a 5xx answer, or no answer."""
        if not (senders := subjects.get()):
            return
        # A batch may fail because of one of its jobs, perhaps of the one that failed last.
        last = self._failures[-1][0] if self._failures else None
        self._record_here(last if last in senders else senders[0], succeeded=False)

    def record_success(self) -> None:
        """Record a success: any other answer proves that the provider works. In a batch it is each job's."""
        for sender in subjects.get():
            self._record_here(sender, succeeded=True)

    def take_outcomes(self) -> Sequence[Outcome]:
        """Return the outcomes on this node since the last call, for the other nodes."""
        outcomes = list(self._pending)
        self._pending.clear()
        return outcomes

    def add_outcomes(self, outcomes: Sequence[Outcome], age: float) -> None:
        """Record outcomes of another node, `age` seconds old."""
        for account, job, succeeded in outcomes:
            self._record(Subject(account, job), self._clock.monotonic() - age, succeeded=succeeded)

    def _record_here(self, sender: Subject, *, succeeded: bool) -> None:
        self._record(sender, self._clock.monotonic(), succeeded=succeeded)
        if self._shared is not None and (outcome := Outcome(*sender, succeeded)) not in islice(
            reversed(self._pending), 1
        ):
            self._pending.append(outcome)

    def _record(self, sender: Subject, at: float, *, succeeded: bool) -> None:
        if succeeded:
            self._record_success(sender, at)
        else:
            self._record_failure(sender, at)

    def _record_success(self, sender: Subject, at: float) -> None:
        self._succeeded.pop(sender, None)
        self._succeeded[sender] = at
        while self._succeeded[oldest := next(iter(self._succeeded))] < at - MEMORY:
            del self._succeeded[oldest]
        while self._failures and self._failures[0][1] <= at:
            self._failures.popleft()
        self._last_success = max(self._last_success, at)
        if at >= self._last or not self._should_open(self._last):
            self._until = self._trial_until = 0.0

    def _record_failure(self, sender: Subject, at: float) -> None:
        if at < self._last_success:
            return  # another node's failure, older than a known success
        if not self._is_open(at):
            self._until = 0.0
            while self._failures and self._failures[0][1] < at - MEMORY:
                self._failures.popleft()
        if self._failures and self._failures[-1][0] == sender:
            self._failures.pop()
        self._failures.append((sender, at))
        self._last = max(self._last, at)
        # A late failure of a request sent before the pause does not extend the pause.
        if at >= self._until and (self._until or self._should_open(at)):
            self._until = at + self._times.breaker_pause

    def _should_open(self, at: float) -> bool:
        if len(self._failures) < _FAILURE_THRESHOLD:
            return False
        failing = {sender for sender, _ in self._failures}
        others = (since for sender, since in self._succeeded.items() if sender not in failing)
        return len({sender.account for sender in failing}) > 1 or max(others, default=-math.inf) < at - MEMORY

    def _is_open(self, now: float) -> bool:
        return self._until > 0 and now - self._last <= MEMORY

    def _is_healthy(self, account: str) -> bool:
        """Return whether the account's last request succeeded within the last minute."""
        recent = self._clock.monotonic() - MEMORY
        succeeded = any(sender.account == account and at >= recent for sender, at in self._succeeded.items())
        return succeeded and not any(sender.account == account for sender, _ in self._failures)

    def _delay(self, senders: Collection[Subject], *, paid: bool) -> float:
        if paid:
            return self._times.trial_delay_of_submits
        failing = {sender for sender, _ in self._failures}
        return self._times.trial_delay_of_failing_jobs if failing.issuperset(senders) else 0.0

    async def _reserve(self) -> bool:
        """Reserve the trial among all nodes. A node that cannot reach the store decides alone."""
        self._trial_until = self._clock.monotonic() + self._times.trial_retry
        try:
            if self._shared is not None and not await self._shared.trial(self._provider, self._times.trial):
                return False
        except Unavailable as error:
            log.debug("Circuit breaker: cannot reserve the trial among the nodes: %s", error.message)
        self._trial_until = self._clock.monotonic() + self._times.trial
        return True


async def exchange_outcomes(
    breakers: Mapping[str, Breaker], shared: SharedHealth, times: UpstreamTimes = DEFAULT_TIMES
) -> None:
    """Exchange the outcomes of the breakers, by provider, among all nodes, until cancelled.

    While the store cannot be reached, each node uses its own outcomes only.
    """
    for provider, breaker in breakers.items():
        breaker.share(provider, shared)
    exchange = OutcomeExchange(breakers, shared)
    while True:
        try:
            await exchange.once()
        except Unavailable as error:
            log.debug("Circuit breaker: cannot exchange outcomes with the other nodes: %s", error.message)
        await asyncio.sleep(times.breaker_exchange)


class OutcomeExchange:
    """One node's end of the exchange of outcomes."""

    def __init__(self, breakers: Mapping[str, Breaker], shared: SharedHealth) -> None:
        self._breakers = breakers
        self._shared = shared
        self._node = secrets.token_hex(8)
        self._number = 0
        self._place = "0-0"
        self._last_numbers: dict[str, int] = {}
        """Number of the last message read, by node, because a message may be delivered twice."""

    async def once(self) -> None:
        """Publish this node's outcomes and record those of the other nodes."""
        for place, age, text in await self._shared.exchange(self._place, self._text()):
            self._place = place
            message = orjson.loads(text)
            if message["node"] != self._node and self._last_numbers.get(message["node"]) != message["number"]:
                self._last_numbers[message["node"]] = message["number"]
                self._add(message["seen"], age)

    def _text(self) -> bytes:
        seen = {provider: [[*each] for each in breaker.take_outcomes()] for provider, breaker in self._breakers.items()}
        if not any(seen.values()):
            return b""
        self._number += 1
        return orjson.dumps({"node": self._node, "number": self._number, "seen": seen})

    def _add(self, seen: Mapping[str, Sequence[tuple[str, str, bool]]], age: float) -> None:
        for provider, outcomes in seen.items():
            if provider in self._breakers:
                self._breakers[provider].add_outcomes([Outcome(*each) for each in outcomes], age)
