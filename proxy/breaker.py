"""A breaker: after some failures in a row nobody asks a dead provider, until it is time for another try."""

from typing import Final

from proxy.clock import Clock

_FAILURES: Final = 5
"""Failures in a row, with no success between them, that open it."""
_PAUSE: Final = 10.0
"""Seconds until the next try (contract, section 4: it tries again within 10 s)."""


_MEMORY: Final = 60.0
"""Seconds after which a failure no longer counts."""


class Breaker:
    """Counts what the provider's answers say of its health: only 5xx and network errors are failures."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._last = 0.0
        self._until = 0.0

    @property
    def wait(self) -> float:
        """Seconds until the provider is asked again; 0 while it is well."""
        return max(self._until - self._clock.now(), 0.0)

    def failed(self) -> None:
        """Note a failure; from the fifth in a row on, each opens the breaker for another pause."""
        now = self._clock.now()
        self._failures = self._failures + 1 if now - self._last <= _MEMORY else 1
        self._last = now
        if self._failures >= _FAILURES:
            self._until = now + _PAUSE

    def succeeded(self) -> None:
        """Note any other answer: the provider is alive."""
        self._failures = 0
        self._until = 0.0
