"""The poll loop, written once: check at the model's pace until the end, whoever the provider is.

It knows what passes (network, 5xx, an unreadable answer now and then), what suspends (a credential that is refused:
the operator's trouble, not the job's) and what ends a job. The caller bounds it all by the deadline.
"""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from proxy.answers import CredentialRefused, Missing, Nonsense, ReadFailed
from proxy.clock import Clock
from proxy.errors import UpstreamFailed, UpstreamProtocol
from proxy.job import Ticket
from proxy.providers.base import Provider, Update

_GROWTH: Final = 1.25
_SLOWEST: Final = 10.0
"""Seconds between polls of a job that has been under way for long."""
_FASTEST: Final = 0.25
"""Seconds between polls, whatever a provider's hint says."""
_JITTER: Final = 0.1
_NEW: Final = 30.0
"""Seconds after the submit in which a provider may not know its own ticket yet (seen at gateways)."""
_NONSENSE_BUDGET: Final = 8
"""Unreadable answers in a row before the job is given up."""


@dataclass(slots=True)
class _Patience:
    """What the loop still puts up with."""

    since: float
    nonsense: int = 0

    def judge(self, error: ReadFailed, now: float) -> Update:
        """The update that a failed read makes; raises the JobError when it is the end."""
        match error:
            case CredentialRefused():
                return Update(detail=f"Suspended: the provider refuses the operator's key. {error.message}")
            case Missing() if now - self.since > _NEW:
                raise UpstreamFailed(f"The provider no longer knows this job: {error.message}")
            case Nonsense():
                self.nonsense += 1
                if self.nonsense > _NONSENSE_BUDGET:
                    raise UpstreamProtocol(f"The provider's answers make no sense: {error.message}")
        return Update(wait=error.wait)


async def poll(
    provider: Provider, ticket: Ticket, clock: Clock, *, submitted_at: float, resumed: bool = False
) -> AsyncIterator[Update]:
    """Check `ticket` until an update is final, yielding each. Raises a JobError when the provider is beyond reading.

    A job that is taken up again (`resumed`) is checked at once; it may have been over for long.
    """
    patience = _Patience(since=submitted_at)
    pace = provider.settings.poll_interval
    delay = 0.0 if resumed else _jittered(pace)
    while True:
        await clock.sleep(delay)
        try:
            update = await provider.check(ticket)
            patience.nonsense = 0
        except ReadFailed as error:
            update = patience.judge(error, clock.now())
        yield update
        if update.status is not None:
            return
        ticket = update.ticket or ticket
        pace = max(provider.settings.poll_interval, min(pace * _GROWTH, _SLOWEST))
        delay = _jittered(pace) if update.wait is None else max(update.wait, _FASTEST)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
