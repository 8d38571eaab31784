"""What the endpoints need, made once by the composition root."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.auth import Auth
from proxy.blobs import Blobs
from proxy.catalogue import Catalogue
from proxy.clock import Clock
from proxy.errors import NotFound, Unavailable
from proxy.feed import Feed
from proxy.fetch import Fetcher
from proxy.forecast import Forecast
from proxy.job import Job
from proxy.limits import Limits
from proxy.links import Links
from proxy.metrics import Metrics
from proxy.siblings import Siblings
from proxy.store.base import Key, Store


@dataclass(frozen=True, slots=True)
class Services:
    """The store and what stands beside it; `asset_limit` is in bytes."""

    store: Store
    blobs: Blobs
    feed: Feed
    links: Links
    auth: Auth
    catalogue: Catalogue
    fetcher: Fetcher
    clock: Clock
    metrics: Metrics
    limits: Limits
    forecast: Forecast
    polled: Mapping[str, float]
    """When each job that this node drives was last asked about."""
    asset_limit: int
    relay: bool
    siblings: Siblings | None = None
    """The workers on the same port, where there are several."""

    async def scrape(self) -> bytes:
        """The metrics of all workers on this port, in Prometheus' text format."""
        return await self.siblings.scrape() if self.siblings else self.metrics.scrape()

    async def job(self, key: Key, job_id: str) -> Job:
        """The job of that id. Raises NotFound, also where it is another account's."""
        job = await self.store.job(key.account, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id[:100]}.")
        return job

    def check_running(self) -> None:
        """Raises Unavailable when the server is stopping."""
        if self.feed.stopping:
            raise Unavailable("The server is stopping.")
