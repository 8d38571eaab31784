"""The few named facts that Prometheus is told; their labels come from closed sets: nobody can make series at will."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CALLS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_JOBS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_LOOP: Final = 0.5
"""Seconds between two looks at the event loop's lag."""


class Metrics:
    """One process's metrics; seconds and tokens are their units. One with labels is called with them.

    It remembers what prometheus-client gives for them: to have it looked up costs as much as to count.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Callable[..., Counter]:
            return functools.cache(Counter(f"pollcast_{name}", what, labels, registry=self.registry).labels)

        def plain(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"pollcast_{name}", what, labels, buckets=buckets, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Callable[..., Histogram]:
            return functools.cache(plain(name, what, buckets, *labels).labels)

        self.delivery_lag = plain(
            "delivery_lag_seconds", "From a change learnt of a provider to its bytes handed to the sockets.", _QUICK
        )
        self.ended = counter("jobs_ended", "Jobs that ended.", "model", "status", "code")
        self.job = histogram("job_seconds", "From a job's order to its end.", _JOBS, "model")
        self.polls = counter("polls", "Polls by what came of them.", "provider", "outcome")
        self.poll_lag = histogram("poll_lag_seconds", "From a poll's hour to the poll.", _QUICK, "provider")
        waited = "How long providers take to answer, and turns to ask them take to come."
        self.upstream = histogram("upstream_seconds", waited, _CALLS, "provider", "call")
        self.submits = counter("submits", "Orders sent to providers, by what came of them.", "provider", "outcome")
        self.refunded = counter("refunded_tokens", "Tokens given back.", "model")
        self.refused = counter("refused", "Requests that were one too many, by the limit of the account.", "limit")
        self.queued = Counter(
            "pollcast_queued",
            "Orders that stand in line, for their account has as many jobs as it may.",
            registry=self.registry,
        )
        self.store = histogram("store_seconds", "How long the store takes to record.", _QUICK, "call")
        self.loop_lag = plain("loop_lag_seconds", "How late the event loop wakes a sleeper.", _QUICK)

    def scrape(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def watch(self, facts: Callable[[], Iterable[Metric]]) -> None:
        """Have `facts` asked at each scrape: what costs nothing until then."""
        self.registry.register(_Facts(facts))

    async def watch_loop(self) -> None:
        """Measure the event loop's lag, until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            due = now() + _LOOP
            await asyncio.sleep(_LOOP)
            self.loop_lag.observe(max(now() - due, 0))


class _Facts(Collector):
    def __init__(self, facts: Callable[[], Iterable[Metric]]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield from self._facts()


def gauge(name: str, what: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    """A gauge as it stands at a scrape; `values` by the tuple of its labels' values."""
    family = GaugeMetricFamily(f"pollcast_{name}", what, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def total(name: str, what: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    """A counter as it stands at a scrape; `values` as with `gauge`."""
    family = CounterMetricFamily(f"pollcast_{name}", what, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family
