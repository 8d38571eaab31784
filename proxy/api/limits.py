"""What one account may take: requests in a minute, and open streams; its unfinished jobs are counted by the store.

Requests are counted in the Redis that the nodes share where there is one, else in this process. The window slides, as
if those of the last whole minute had been spread over it evenly: a count costs the same however many there were.
Streams are counted where they are open: by each node for itself.
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
_PATIENCE: Final = 1.0
"""Seconds that Redis may take to count a request, which is served uncounted after that."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A request that was counted: the headers that its answer bears, and how it is refused if it is one too many."""

    headers: Mapping[str, str] = field(default_factory=dict)
    refusal: RateLimited | None = None


class AccountLimits:
    """The limits of every account, 0 meaning none; `watched` is how many streams each account has open here."""

    def __init__(
        self,
        storage: Storage,
        watched: Mapping[str, int],
        metrics: Metrics,
        *,
        requests: int,
        streams: int,
        jobs: int,
        uploads: int = 0,
        line: int = 0,
    ) -> None:
        self._requests = RateLimitItemPerMinute(requests) if requests else None
        self._window = SlidingWindowCounterRateLimiter(storage)
        self._watched = watched
        self._coming: Counter[str] = Counter()
        self._uploading: Counter[str] = Counter()
        self._uploads = uploads or math.inf
        self._streams = streams or math.inf
        self._refused = metrics.refused
        self.jobs = jobs or None
        """How many unfinished jobs an account may have; None: any number."""
        self.line = line
        """How many more may wait in its line."""

    async def count(self, account: str) -> Counted:
        """Count a request of the account."""
        item = self._requests
        if item is None:
            return Counted()
        try:
            taken = await self._window.hit(item, account)
            reset, left = await self._window.get_window_stats(item, account)
        except StorageError as error:
            # Whether there is work to be done is the store's to say, which is away too: limits are a courtesy.
            log.warning("A request is not counted: %s", error)
            return Counted()
        seconds = min(max(math.ceil(reset - time.time()), 1), _MINUTE)
        headers = {
            "RateLimit-Policy": f'"requests";q={item.amount};w={_MINUTE}',
            "RateLimit": f'"requests";r={max(left, 0)};t={seconds}',
        }
        if taken:
            return Counted(headers)
        self._refused("requests").inc()
        message = f"The account has made {item.amount} requests within a minute, which is its limit."
        return Counted(headers, RateLimited(message, seconds))

    def check_stream(self, account: str) -> None:
        """Raises RateLimited where the account may open no more streams."""
        if self._watched.get(account, 0) + self._coming[account] >= self._streams:
            self._refused("streams").inc()
            raise RateLimited(f"The account has {self._streams} open streams, which is its limit: close one.")

    @contextmanager
    def coming(self, account: str) -> Iterator[RateLimited | None]:
        """Keep room for a stream while its job is made; gives how it is refused where there is none."""
        try:
            self.check_stream(account)
        except RateLimited as refusal:
            yield refusal
            return
        self._coming[account] += 1
        try:
            yield None
        finally:
            self._coming[account] -= 1
            if not self._coming[account]:
                del self._coming[account]

    @contextmanager
    def uploading(self, account: str) -> Iterator[None]:
        """Count an upload of the account while it is under way. Raises RateLimited where there are too many."""
        if self._uploading[account] >= self._uploads:
            self._refused("uploads").inc()
            raise RateLimited(f"The account has {self._uploads} uploads under way, which is its limit: wait for one.")
        self._uploading[account] += 1
        try:
            yield
        finally:
            self._uploading[account] -= 1
            if not self._uploading[account]:
                del self._uploading[account]

    def refused_job(self) -> None:
        """Note that the store has refused an order for the number of the account's jobs."""
        self._refused("jobs").inc()


@asynccontextmanager
async def storage(store: str) -> AsyncIterator[Storage]:
    """Where requests are counted, for a store at this URL."""
    if not store.startswith(("redis://", "rediss://")):
        yield MemoryStorage()
        return
    from redis.asyncio import ConnectionPool  # noqa: PLC0415 - an extra
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    pool = ConnectionPool.from_url(store, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE)
    pool.connection_kwargs.update(decode_responses=False, retry=Retry(NoBackoff(), 0))
    try:
        yield RedisStorage(
            f"async+{store}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="pollcast",
            connection_pool=pool,  # type: ignore[arg-type] # it is handed on
        )
    finally:
        await pool.disconnect()
