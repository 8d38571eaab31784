"""Limits of an account: requests per minute, open streams and concurrent uploads.

Requests are counted in Redis if several nodes share one, else in this process. The window slides: the requests of the
previous minute count in proportion to its part in the window, so a count costs the same however many there were. Each
node counts its own streams and uploads. The store counts unfinished jobs.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from proxy.core.errors import RateLimited
from proxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_MINUTE: Final = 60
"""Length of the window, in seconds."""
_LIMITS_TIMEOUT: Final = 1.0
"""Maximum time for Redis to count a request, in seconds. After it the request is served without being counted."""


@dataclass(frozen=True, slots=True)
class Metered:
    """A counted request: the `RateLimit` headers of its response, and its refusal if it exceeds the limit."""

    headers: Mapping[str, str] = field(default_factory=dict)
    refusal: RateLimited | None = None


class AccountLimits:
    """The limits of every account; 0 means no limit.

    `requests` is per minute. `jobs` is the maximum number of unfinished jobs, and `backlog` of jobs that wait beyond
    them. `streams_open` is the number of open streams on this node, by account.
    """

    def __init__(
        self,
        storage: Storage,
        streams_open: Mapping[str, int],
        metrics: Metrics,
        *,
        requests: int,
        streams: int,
        jobs: int,
        uploads: int = 0,
        backlog: int = 0,
    ) -> None:
        self._requests = RateLimitItemPerMinute(requests) if requests else None
        self._window = SlidingWindowCounterRateLimiter(storage)
        self._streams_open = streams_open
        self._streams_reserved: Counter[str] = Counter()
        self._uploads_open: Counter[str] = Counter()
        self._uploads = uploads or math.inf
        self._streams = streams or math.inf
        self._refused = metrics.refused
        self.jobs = jobs or None
        """Maximum number of unfinished jobs of an account. None means no limit."""
        self.backlog = backlog
        """Maximum number of further jobs that may wait in an account's backlog."""

    async def count(self, account: str) -> Metered:
        """Count a request of the account."""
        item = self._requests
        if item is None:
            return Metered()
        try:
            is_allowed = await self._window.hit(item, account)
            reset, left = await self._window.get_window_stats(item, account)
        except StorageError as error:
            # Serve the request: if Redis is down, the store is down too and refuses what matters.
            log.warning("Request limit not counted: %s", error)
            return Metered()
        seconds = min(max(math.ceil(reset - time.time()), 1), _MINUTE)
        headers = {
            "RateLimit-Policy": f'"requests";q={item.amount};w={_MINUTE}',
            "RateLimit": f'"requests";r={max(left, 0)};t={seconds}',
        }
        if is_allowed:
            return Metered(headers)
        self._refused("requests").inc()
        message = f"Request limit exceeded: this account may make {item.amount} requests per minute."
        return Metered(headers, RateLimited(message, seconds))

    def check_stream(self, account: str) -> None:
        """Raise RateLimited if the account may not open another stream."""
        if self._streams_open.get(account, 0) + self._streams_reserved[account] >= self._streams:
            self._refused("streams").inc()
            raise RateLimited(
                f"Stream limit exceeded: this account may have {self._streams} open streams. Close one first."
            )

    @contextmanager
    def reserve_stream(self, account: str) -> Iterator[RateLimited | None]:
        """Reserve a stream while its job is made. Yields the refusal if the account may not open another stream."""
        try:
            self.check_stream(account)
        except RateLimited as refusal:
            yield refusal
            return
        with _count_during(self._streams_reserved, account):
            yield None

    @contextmanager
    def reserve_upload(self, account: str) -> Iterator[None]:
        """Count an upload of the account while it runs. Raises RateLimited if too many run already."""
        if self._uploads_open[account] >= self._uploads:
            self._refused("uploads").inc()
            raise RateLimited(
                f"Upload limit exceeded: this account may have {self._uploads} uploads in progress. Wait for one."
            )
        with _count_during(self._uploads_open, account):
            yield

    def count_refused_job(self) -> None:
        """Count an order that the store refused because of the account's number of jobs."""
        self._refused("jobs").inc()


@contextmanager
def _count_during(counter: Counter[str], account: str) -> Iterator[None]:
    """Add one to the account's count during the body of the `with`."""
    counter[account] += 1
    try:
        yield
    finally:
        counter[account] -= 1
        if not counter[account]:
            del counter[account]


@asynccontextmanager
async def storage(store: str) -> AsyncIterator[Storage]:
    """Open the storage of the request counts, for a store at this URL."""
    if not store.startswith(("redis://", "rediss://")):
        yield MemoryStorage()
        return
    from redis.asyncio import ConnectionPool  # noqa: PLC0415 - an extra
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    pool = ConnectionPool.from_url(store, socket_timeout=_LIMITS_TIMEOUT, socket_connect_timeout=_LIMITS_TIMEOUT)
    pool.connection_kwargs.update(decode_responses=False, retry=Retry(NoBackoff(), 0))
    try:
        yield RedisStorage(
            f"async+{store}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="pollcast",
            connection_pool=pool,  # type: ignore[arg-type] # passed on to redis-py unchanged
        )
    finally:
        await pool.disconnect()
