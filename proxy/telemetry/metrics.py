"""Prometheus metrics. All labels have closed sets of values, so that clients cannot create series."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SHORT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CALL_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_JOB_BUCKETS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_LAG_INTERVAL: Final = 0.5
"""Interval, in seconds, between two measurements of the event loop's lag."""


class Metrics:
    """The metrics of one process. Units are seconds and tokens. A metric with labels is called with their values.

    Its children are cached here, because a lookup in prometheus-client costs as much as the increment.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, help_text: str, *labels: str) -> Callable[..., Counter]:
            return functools.cache(Counter(f"pollcast_{name}", help_text, labels, registry=self.registry).labels)

        def plain(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"pollcast_{name}", help_text, labels, buckets=buckets, registry=self.registry)

        def histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Callable[..., Histogram]:
            return functools.cache(plain(name, help_text, buckets, *labels).labels)

        self.delivery_lag = plain(
            "delivery_lag_seconds",
            "Delay between a provider's update and the write to the clients' sockets.",
            _SHORT_BUCKETS,
        )
        self.ended = counter("jobs_ended", "Jobs that ended, by status and error code.", "model", "status", "code")
        self.job = histogram("job_seconds", "Duration of a job, from its order to its end.", _JOB_BUCKETS, "model")
        self.polls = counter("polls", "Polls of providers, by outcome.", "provider", "outcome")
        self.poll_lag = histogram(
            "poll_lag_seconds", "Delay between a poll's scheduled time and the poll.", _SHORT_BUCKETS, "provider"
        )
        waited = "Duration of requests to providers, and of waits for the rate limit."
        self.upstream = histogram("upstream_seconds", waited, _CALL_BUCKETS, "provider", "call")
        self.submits = counter("submits", "Orders sent to providers, by outcome.", "provider", "outcome")
        self.refunded = counter("refunded_tokens", "Refunded tokens.", "model")
        self.refused = counter("refused", "Requests refused because an account exceeded a limit, by limit.", "limit")
        self.queued = Counter(
            "pollcast_queued",
            "Orders put into the backlog because their account has its maximum of unfinished jobs.",
            registry=self.registry,
        )
        self.store = histogram("store_seconds", "Duration of writes to the store.", _SHORT_BUCKETS, "call")
        self.loop_lag = plain("loop_lag_seconds", "Event loop lag.", _SHORT_BUCKETS)

    def scrape(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def watch(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Call `collect` at each scrape to add metrics that need no bookkeeping."""
        self.registry.register(_Callback(collect))

    async def watch_loop(self) -> None:
        """Measure the event loop's lag until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            due = now() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self.loop_lag.observe(max(now() - due, 0))


class _Callback(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        yield from self._collect()


def gauge(name: str, help_text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    """Return a gauge for one scrape. `values` maps the tuple of label values to a number."""
    family = GaugeMetricFamily(f"pollcast_{name}", help_text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def total(name: str, help_text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    """Return a counter for one scrape, with `values` as in `gauge`."""
    family = CounterMetricFamily(f"pollcast_{name}", help_text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family
