"""The records that nodes exchange about a provider's health, for the circuit breaker."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

MEMORY: Final = 60.0
"""Seconds that an outcome counts."""


class Outcome(NamedTuple):
    """The outcome of one request."""

    account: str
    job: str
    succeeded: bool


class Told(NamedTuple):
    """What a node told the others: its place among what was told, its age in seconds, and the text."""

    place: str
    age: float
    text: bytes


class Shared(Protocol):
    """What the breakers of several nodes need of their store."""

    async def exchange(self, after: str, text: bytes) -> Sequence[Told]:
        """Tell the other nodes (nothing, if empty); returns what all nodes have told after the place `after`."""

    async def trial(self, provider: str, seconds: float) -> bool:
        """Reserve the one trial of that many seconds; false while another one is reserved."""
