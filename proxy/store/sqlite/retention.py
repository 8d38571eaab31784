"""Retention: deletes old jobs, assets and idempotency keys in small steps."""

from typing import Final

from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.sqlite.jobs import delete_finished
from proxy.store.sqlite.log import job_from_row
from proxy.store.types import SweepResult

IDEMPOTENCY_KEY_LIFETIME: Final = 24 * 3600.0
"""Minimum time, in seconds, that an idempotency key is kept after its use (see docs/api.md)."""


def sweep(db: SqliteConnection, before: float, limit: int, now: float) -> SweepResult:
    """Delete up to `limit` each of old jobs, assets and idempotency keys. See `Jobs.sweep`."""
    jobs = db.execute("SELECT record FROM job WHERE ended_at < ? ORDER BY ended_at LIMIT ?", (before, limit)).fetchall()
    blobs = [blob for row in jobs for blob in delete_finished(db, job_from_row(row))]
    assets = db.execute(
        """SELECT * FROM asset WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM hold WHERE asset = asset.id)
           ORDER BY created_at LIMIT ?""",
        (before, limit),
    ).fetchall()
    db.executemany("DELETE FROM asset WHERE id = ?", [(row["id"],) for row in assets])
    db.execute(
        """DELETE FROM idempotency WHERE (account, "key") IN
           (SELECT account, "key" FROM idempotency WHERE spent AND at < ? ORDER BY at LIMIT ?)""",
        (min(before, now - IDEMPOTENCY_KEY_LIFETIME), limit),
    )
    return SweepResult(len(jobs) + len(assets), blobs + [row["blob"] for row in assets])
