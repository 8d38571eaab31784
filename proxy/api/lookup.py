"""Lookups of an account's own jobs and assets: found, or 404 in the same words everywhere."""

from proxy.core.job import Job
from proxy.store.contract import Assets, Jobs
from proxy.store.types import Asset, no_asset, no_job


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
