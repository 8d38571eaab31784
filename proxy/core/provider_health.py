"""Records that nodes exchange about a provider's health, for the circuit breaker in `upstream/breaker.py`."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

MEMORY: Final = 60.0
"""Time, in seconds, for which an outcome counts."""


class Outcome(NamedTuple):
    """The outcome of one request."""

    account: str
    job: str
    succeeded: bool


class NodeMessage(NamedTuple):
    """A message of a node to the others: its place in the list of messages, its age in seconds, and its text."""

    place: str
    age: float
    text: bytes


class SharedHealth(Protocol):
    """The part of a store that connects the breakers of several nodes."""

    async def exchange(self, after: str, text: bytes) -> Sequence[NodeMessage]:
        """Send `text` to the other nodes, unless it is empty. Return all nodes' messages after the place `after`."""

    async def trial(self, provider: str, seconds: float) -> bool:
        """Reserve the provider's trial request for `seconds`. Return False while another node holds it."""
