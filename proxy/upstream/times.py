"""Timeouts and intervals of requests to providers and to clients' URLs, in seconds."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class UpstreamTimes:
    """Timeouts and intervals of the package, in seconds. The defaults are those of production.

    A silence is the longest time without progress. There are no total timeouts for exchanges with providers, because a
    large body may take long on a slow line.
    """

    connect: float = 10.0
    """Timeout of a TCP connection."""
    connect_in_all: float = 30.0
    """Timeout of all steps of a connection: DNS lookup, TCP, a proxy's answer to CONNECT, TLS."""
    read_silence: float = 30.0
    """Silence that ends a read."""
    upload_silence: float = 120.0
    """Silence that ends an upload."""
    submit_silence: float = 120.0
    """Silence that ends a paid submit. Its outcome is then unknown."""
    stream_silence: float | None = None
    """Silence that ends a paid stream. None: only the job's deadline does, because the result is paid for."""
    send_silence: float = 60.0
    """Silence that ends the sending of a request body."""
    body_tail: float = 5.0
    """Time to wait for the end of a body whose JSON is already complete, because its `Content-Length` may be wrong."""

    fetch_silence: float = 60.0
    """Silence that ends the reading of a URL. There is no total: a long video is relayed at its reader's speed."""
    fetch_client_url: float = 120.0
    """Time to read a client's URL. It grows with the bytes received, so a slow line alone does not end the read."""
    lookup: float = 3.0
    """Timeout of a DNS lookup while a client waits for the answer to its order."""
    lookup_to_connect: float = 8.0
    """Timeout of a DNS lookup before a connection. The resolver has time to ask a second server."""

    breaker_pause: float = 9.0
    """Time without requests after the circuit breaker has opened. With the two delays below, each kind of request may
    be the trial within ten seconds; see operating.md."""
    trial_delay_of_failing_jobs: float = 0.5
    """Time after the pause in which only polls of jobs without a failure may be the trial, because they prove more."""
    trial_delay_of_submits: float = 1.0
    """Time after the pause in which only polls may be the trial. Within it each node's delayed polls are due, so an
    order is the trial only if there is nothing to poll."""
    trial: float = 9.0
    """Time that a trial may take before another one is allowed."""
    trial_retry: float = 1.0
    """Time that other requests wait while a trial is running."""
    breaker_exchange: float = 0.5
    """Interval between two exchanges of outcomes with the other nodes."""

    slot_burst: float = 0.1
    """Length of a burst: the slots of this time may be used, and are reserved, at once. So a poll rarely costs a
    round trip to the store."""
    slot_grace: float = 0.25
    """Time after its moment in which a reserved slot may still be used."""
    slot_reserve: float = 0.5
    """Timeout of a reservation. After it this node paces its requests alone."""
    slots_alone: float = 2.0
    """Time that a node paces alone before it asks the store again."""


DEFAULT_TIMES: Final = UpstreamTimes()
"""The times of production."""
