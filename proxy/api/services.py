"""The parts that the endpoints use, built once by the application, and look-ups that several endpoints share."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.api.auth import Auth
from proxy.api.catalogue import Catalogue
from proxy.api.eta import Eta
from proxy.api.limits import AccountLimits
from proxy.api.times import DEFAULT_TIMES, ApiTimes
from proxy.core.clock import Clock
from proxy.core.errors import Unavailable
from proxy.core.job import Job
from proxy.core.links import Links
from proxy.store.blobs import Blobs
from proxy.store.contract import Assets, Jobs, Store
from proxy.store.types import Asset, no_asset, no_job
from proxy.streams.feed import Feed
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.worker_metrics import WorkerMetrics
from proxy.upstream.fetch import Fetcher


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServices:
    """Everything that `api.routes` hands to the endpoints; each takes only the parts that it uses."""

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
    """Time of the newest poll, in seconds since the epoch, of each job that runs on this node."""
    asset_limit: int
    """Maximum size of an asset, in bytes."""
    relay: bool
    """True when providers' files pass through this server, false when clients are redirected to them."""
    worker_metrics: WorkerMetrics | None = None
    """The metrics of all workers on this port, if there are several."""
    times: ApiTimes = DEFAULT_TIMES

    async def scrape(self) -> bytes:
        """Return the metrics of all workers on this port, in Prometheus' text format."""
        return await self.worker_metrics.scrape() if self.worker_metrics else self.metrics.scrape()


def check_running(feed: Feed) -> None:
    """Raise Unavailable when the server is stopping."""
    if feed.stopping:
        raise Unavailable("The server is stopping.")


async def find_job(store: Jobs, account: str, job_id: str) -> Job:
    """Return the account's job. Raises NotFound, also for another account's job."""
    job = await store.job(account, job_id)
    if job is None:
        raise no_job(job_id)
    return job


async def find_asset(store: Assets, account: str, asset_id: str) -> Asset:
    """Return the account's asset. Raises NotFound, also for another account's asset."""
    asset = await store.asset(account, asset_id)
    if asset is None:
        raise no_asset(asset_id)
    return asset
