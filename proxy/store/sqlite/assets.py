"""Asset records. An unfinished job holds the assets that it names, so that they cannot be deleted."""

from proxy.core import errors
from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.types import Admission, Asset, no_asset


def add_asset(db: SqliteConnection, asset: Asset) -> None:
    """Insert the asset's record."""
    db.execute(
        "INSERT INTO asset (id, account, type, size, blob, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (asset.id, asset.account, asset.type, asset.size, asset.blob, asset.created_at),
    )


def find_asset(db: SqliteConnection, account: str, asset_id: str) -> Asset | None:
    """Return the account's asset; None if there is none."""
    row = db.execute("SELECT * FROM asset WHERE id = ? AND account = ?", (asset_id, account)).fetchone()
    return Asset(**row) if row else None


def delete_asset(db: SqliteConnection, account: str, asset_id: str) -> Asset | None:
    """Delete the asset's record and return it; None if there is none. Raises errors.Conflict while a job holds it."""
    asset = find_asset(db, account, asset_id)
    if asset and db.execute("SELECT 1 FROM hold WHERE asset = ?", (asset_id,)).fetchone():
        raise errors.Conflict("An unfinished job names this asset: wait for its end, or cancel it.")
    if asset:
        db.execute("DELETE FROM asset WHERE id = ?", (asset_id,))
    return asset


def require_assets(db: SqliteConnection, admission: Admission) -> None:
    """Raise errors.NotFound if the account lacks an asset that the order names."""
    for asset in admission.assets:
        if find_asset(db, admission.account, asset) is None:
            raise no_asset(asset)


def hold_assets(db: SqliteConnection, admission: Admission, job_id: str) -> None:
    """Hold the order's assets until the job's row in `work` is deleted."""
    db.executemany("INSERT INTO hold (job, asset) VALUES (?, ?)", [(job_id, asset) for asset in set(admission.assets)])
