"""What the endpoints need, made once by the composition root."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.api.auth import Auth
from proxy.api.catalogue import Catalogue
from proxy.api.eta import Eta
from proxy.api.limits import AccountLimits
from proxy.core.clock import Clock
from proxy.core.errors import NotFound, Unavailable
from proxy.core.job import Job
from proxy.core.links import Links
from proxy.store.blobs import Blobs
from proxy.store.contract import Store
from proxy.store.types import Key
from proxy.streams.feed import Feed
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.worker_metrics import WorkerMetrics
from proxy.upstream.fetch import Fetcher


@dataclass(frozen=True, slots=True)
class ApiServices:
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
    limits: AccountLimits
    eta: Eta
    polled: Mapping[str, float]
    """When each job that this node drives was last asked about."""
    asset_limit: int
    relay: bool
    worker_metrics: WorkerMetrics | None = None
    """The workers on the same port, where there are several."""

    async def scrape(self) -> bytes:
        """The metrics of all workers on this port, in Prometheus' text format."""
        return await self.worker_metrics.scrape() if self.worker_metrics else self.metrics.scrape()

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
