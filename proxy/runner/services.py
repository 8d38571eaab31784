"""The services that running a job needs, and the runner's intervals and limits.

The application builds one `RunnerServices` and gives it to the `Runner`, which passes it to each `JobRun`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.core.clock import Clock, ClockSteps, SystemClock
from proxy.core.links import Links
from proxy.providers.base import Provider
from proxy.runner.versions import ProviderVersions
from proxy.store.blobs import Blobs
from proxy.store.contract import Store
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.trace import Traces
from proxy.upstream.fetch import Fetcher

Sleep = Callable[[float], Awaitable[None]]
"""Waits for a number of seconds, such as a clock's `sleep`."""

REAL_SLEEP: Final[Sleep] = SystemClock().sleep


@dataclass(frozen=True, slots=True)
class RunnerTimes:
    """Intervals and time limits of the runner, in seconds. Tests give shorter ones."""

    claim_interval: float = 1.0
    """Time between searches for jobs that another node has released. The lease is used instead if it is shorter.

    A node takes over a dead node's jobs at its first search after it has watched that node for one lease."""
    claim_retry: float = 30.0
    """Delay before a job is released after an internal error that could not even be recorded."""
    queue_count: float = 5.0
    """Time between two counts of the waiting jobs."""
    sweep: float = 60.0
    """Time between two searches for jobs and assets that are older than the retention."""
    sweep_pause: float = 0.05
    """Pause between two transactions that delete old jobs, in which waiting writers proceed."""
    orphan_sweep: float = 6 * 3600.0
    """Time between two searches for orphaned blobs."""
    orphan_age: float = 3600.0
    """Age from which a blob without a record is orphaned. The step from a blob to its record is far shorter."""
    clock_check: float = 60.0
    """Time between two checks of the wall clock, while it may be wrong and no orphans are deleted."""
    last_look: float = 60.0
    """Minimum time that a resumed job may still be polled, even if its deadline has passed.

    The job may have ended while this process was stopped or suspended."""
    suspension: float = 10.0
    """Delay of a poll from which this process counts as suspended: a stopped laptop or container, not a busy one."""
    batch_window: float = 0.25
    """Time for which polls of one provider are collected, if it reads the states of several orders with one request.

    A poll comes that much later: a twentieth of the fastest interval."""
    batch_pause: float = 60.0
    """Time without batches after several of them have failed in a row. The jobs are polled one by one."""
    cancel_timeout: float = 10.0
    """Time limit of a provider's cancel call."""
    repeat_limit: float = 23 * 3600.0
    """Time from an intent during which its order may be sent again with the same key.

    Providers remember a key for 24 hours. The last hour allows for clocks that differ."""
    lookup_limit: float = 300.0
    """Time during which an order that the provider does not find is looked up again."""
    text_gap: float = 0.2
    """Minimum time between two events of streamed text, so a job has at most five of them a second."""


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Limits of the runner in numbers of things. Tests give smaller ones."""

    claims: int = 100
    """Jobs that are claimed in one transaction, and jobs that leave the backlogs in one."""
    swept_jobs: int = 50
    """Jobs that retention deletes in one transaction. It is small, so that no writer waits long."""
    events: int = 20_000
    """Events of a job after which only outputs, streamed text and the end are recorded.

    Otherwise a provider whose stream never ends would fill the log."""
    text: int = 2_000_000
    """Characters of one streamed text: more than any model writes, and little enough for memory."""
    unknown_words: int = 200
    """Unknown status words that are counted. Otherwise a provider that invents words would fill the memory."""


DEFAULT_TIMES: Final = RunnerTimes()
DEFAULT_LIMITS: Final = RunnerLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerServices:
    """The services that jobs are run with."""

    store: Store
    blobs: Blobs
    fetcher: Fetcher
    links: Links
    clock: Clock
    steps: ClockSteps
    metrics: Metrics
    providers: Mapping[str, Provider]
    """By model."""
    versions: ProviderVersions
    asset_limit: int
    """Bytes of all inputs of one order together."""
    retention: float
    """Seconds that finished jobs and assets are kept."""
    traces: Traces | None = None
    """The flight recorder of exchanges with providers, if it is on."""
    times: RunnerTimes = DEFAULT_TIMES
    limits: RunnerLimits = DEFAULT_LIMITS
    sleep: Sleep = REAL_SLEEP
    """Waits between the rounds of the periodic tasks (leases, counts, retention), and between attempts to write.

    It is separate from `clock`, because a test's clock may jump over a wait, and would then jump over leases."""
    polled: dict[str, float] = field(default_factory=dict)
    """The time of each running job's last poll on this node, by job id, in seconds since the epoch.

    The one exception to the rule that `api` and `runner` meet only in the store: the runner writes it and the API reads
    it. Storing every poll would cost too much."""
    unknown_words: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of uses of each status word that the provider's page does not name, by provider and word."""
