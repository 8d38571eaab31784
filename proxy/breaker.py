"""A breaker: after some failures in a row nobody asks a dead provider, until it is time for another try.

Nodes that share a store learn of each other's failures and successes within a second (`keep_agreeing`).
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.clock import Clock
from proxy.errors import Unavailable

log = logging.getLogger(__name__)

_FAILURES: Final = 5
"""Failures in a row, with no success between them, that open it."""
_PAUSE: Final = 10.0
"""Seconds until the next try (contract, section 4: it tries again within 10 s)."""
_MEMORY: Final = 60.0
"""Seconds after which a failure no longer counts."""
_AGREE: Final = 0.5
"""Seconds between two exchanges with the other nodes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What opens a breaker, in failures, and for how long; after `memory` seconds a failure is forgotten."""

    failures: int = _FAILURES
    pause: float = _PAUSE
    memory: float = _MEMORY


@dataclass(frozen=True, slots=True)
class Seen:
    """What one node has seen of a provider since it last told: a success, then so many failures."""

    provider: str
    succeeded: bool
    failures: int


@dataclass(frozen=True, slots=True)
class Health:
    """How a provider does, as all nodes see it: its failures in a row, and for how many seconds it is left alone."""

    failures: int
    rest: float


Agree = Callable[[Limits, Sequence[Seen]], Awaitable[Sequence[Health]]]
"""Tells the other nodes what was seen here, and gives what all have seen."""


class Breaker:
    """Counts what the provider's answers say of its health: only 5xx and network errors are failures."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._last = -math.inf
        self._until = 0.0
        self._well = False
        self._untold = 0

    @property
    def wait(self) -> float:
        """Seconds until the provider is asked again; 0 while it is well."""
        return max(self._until - self._clock.monotonic(), 0.0)

    def failed(self) -> None:
        """Note a failure; from the fifth in a row on, each opens the breaker for another pause."""
        now = self._clock.monotonic()
        self._failures = self._failures + 1 if now - self._last <= _MEMORY else 1
        self._last = now
        self._untold += 1
        if self._failures >= _FAILURES:
            self._until = now + _PAUSE

    def succeeded(self) -> None:
        """Note any other answer: the provider is alive."""
        # Only what others may not know is worth telling them.
        self._well = self._well or self._failures > 0 or self._until > 0
        self._untold = 0
        self._failures = 0
        self._until = 0.0

    def tell(self, provider: str) -> Seen:
        """What has been seen since the last call."""
        seen = Seen(provider, self._well, self._untold)
        self._well, self._untold = False, 0
        return seen

    def learn(self, health: Health) -> None:
        """Take over what all nodes have seen, unless something was seen here that they do not know yet."""
        if self._well or self._untold:
            return
        self._failures, self._last = health.failures, self._clock.monotonic()
        self._until = self._last + health.rest


async def keep_agreeing(breakers: Mapping[str, Breaker], agree: Agree) -> None:
    """Have the breakers, by provider, open and close on all nodes alike, until cancelled.

    While the others cannot be reached each node goes by what it sees itself.
    """
    while True:
        seen = [breaker.tell(provider) for provider, breaker in breakers.items()]
        try:
            found = await agree(Limits(), seen)
        except Unavailable as error:
            log.debug("Cannot agree on how providers do: %s", error.message)
        else:
            for breaker, health in zip(breakers.values(), found, strict=True):
                breaker.learn(health)
        await asyncio.sleep(_AGREE)
