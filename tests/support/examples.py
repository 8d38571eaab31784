"""Examples of orders and documents, which each provider's own test file offers to the tests of all providers.

The test file of the provider with the prefix `ACME_` is `tests/providers/test_acme.py`. It has one `EXAMPLES`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from proxy.providers.registry import ProviderKind
from tests.support.registry import REGISTRY, short

Order = Mapping[str, Any]
IMAGE, AUDIO, PROMPT = "<image>", "<audio>", "<prompt>"
"""Placeholders in an order, for the ids of assets and for the prompt."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to order: the paid call, and the documents that answer it and the polls after it."""

    order: Order
    """An order without media."""
    operation: str
    """The simulator's name of the paid call. The name of a poll has `check` instead of `submit`."""
    submit: str
    """The path of the paid call."""
    receipt: Any = None
    """The answer to it, if the work is polled."""
    poll: str = ""
    """The path of a poll; empty for a stream."""
    documents: Callable[[str], Mapping[str, Any]] = lambda _: {}
    """The documents of success by path, with the result at a URL. The receipt may be one of them."""
    late: Mapping[str, Any] = field(default_factory=dict)
    """The documents of success without a result, by path; empty if a result is never late."""
    frames: Callable[[str], Sequence[Any]] = lambda _: ()
    """The frames of a stream with the result at a URL."""
    last_frame: bytes = b""
    """A frame that is no JSON, at the end."""
    failure: Callable[[str], Any]
    """The document of a poll, or the frame of a stream, that reports a failure in these words."""

    @property
    def model(self) -> str:
        return str(self.order["model"])

    @property
    def polled(self) -> bool:
        return bool(self.poll)

    def stream(self, url: str) -> bytes:
        """Return a whole stream with the result at a URL."""
        return b"".join(b"data: %b\n\n" % json.dumps(frame).encode() for frame in self.frames(url)) + self.last_frame


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples that the tests of all providers take from one provider's test file."""

    orders: Mapping[str, Order]
    """A small order of each model, with PROMPT for its prompt."""
    further_orders: Sequence[Order] = ()
    """Orders with further fields, for dry runs."""
    failure: str
    """Words of the simulated provider for a failure."""
    ways: Sequence[Way]
    every_call: Sequence[Order]
    """Orders that together make every call to the provider."""
    unused: frozenset[str] = frozenset()
    """Operations of the simulator that no order uses."""
    cancels: bool = False
    """True if the provider is asked to stop when a client cancels."""
    canceled_by_word: frozenset[str] = frozenset()
    """Models whose provider has a word for a job that it canceled; the others fail it."""


def examples_of(kind: ProviderKind) -> Examples:
    """Return the examples in the provider's own test file."""
    found: Examples = import_module(f"tests.providers.test_{short(kind)}").EXAMPLES
    return found


def ways() -> Iterator[Way]:
    """Yield every way to order, in the catalogue's order of the providers."""
    for kind in REGISTRY.providers:
        yield from examples_of(kind).ways


def small_order(model: str) -> dict[str, Any]:
    """Return a small order of a model, with its placeholders."""
    return {"model": model, **examples_of(REGISTRY.provider_of(model)).orders[model]}


def filled(order: Any, values: Mapping[str, Any]) -> Any:
    """Return the order with values instead of its placeholders."""
    if isinstance(order, Mapping):
        return {name: filled(value, values) for name, value in order.items()}
    if isinstance(order, list):
        return [filled(value, values) for value in order]
    return values.get(order, order) if isinstance(order, str) else order
