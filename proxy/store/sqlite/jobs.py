"""Jobs: admission with its charge, events and refunds, cancel requests, lists, and deletion."""

import secrets
from dataclasses import replace

from proxy.core import errors
from proxy.core.job import Draft, Event, Job, Order, Status, Ticket, new_id
from proxy.store.sqlite import accounts, assets, claims
from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.sqlite.log import (
    dump_job,
    find_job,
    job_from_row,
    record_event,
    record_position,
    write_job,
    write_status,
)
from proxy.store.types import Admission, Admitted, Asset, Change, Claim, ClaimLost, Page, check_refund


def admit(db: SqliteConnection, admission: Admission, now: float) -> Admitted:
    """Record a new job, or find the one that its idempotency key created. See `Jobs.admit`."""
    if earlier := replay(db, admission):
        return Admitted(earlier, replayed=True)
    queue = claims.choose_queue(db, admission)
    assets.require_assets(db, admission)
    job = Job(new_id("job"), admission.account, admission.key, admission.order, admission.tokens, now, now)
    accounts.charge(db, job)
    row = (job.id, job.account, job.model, job.status, dump_job(job))
    db.execute("INSERT INTO job (id, account, model, status, record) VALUES (?, ?, ?, ?, ?)", row)
    claims.enqueue(db, job, queue, admission, now)
    event: Event | None = record_event(db, job, Draft(job.status), now)
    if queue != admission.queue:
        job, event = record_position(db, job, claims.count_jobs(db, job.account)[0], now), None
    assets.hold_assets(db, admission, job.id)
    if admission.idempotency_key is not None:
        db.execute(
            'INSERT INTO idempotency (account, "key", fingerprint, job, at) VALUES (?, ?, ?, ?, ?)',
            (job.account, admission.idempotency_key, admission.fingerprint, job.id, now),
        )
    return Admitted(job, event=event)


def replay(db: SqliteConnection, admission: Admission) -> Job | None:
    """Return the job that the admission's idempotency key created; None if there is none. See `Jobs.replay`."""
    row = db.execute(
        'SELECT fingerprint, job FROM idempotency WHERE account = ? AND "key" = ?',
        (admission.account, admission.idempotency_key),
    ).fetchone()
    if row is None:
        return None
    if row["fingerprint"] != admission.fingerprint:
        raise errors.IdempotencyConflict("This Idempotency-Key was used for another order: send a new one.")
    job = find_job(db, admission.account, row["job"])
    if job is None:
        raise errors.NotFound("The job that this Idempotency-Key made has been deleted.")
    return job


def rehearse_admission(db: SqliteConnection, now: float) -> None:
    """Admit an order and undo it. This reads and writes every table that an order needs."""
    changes, heads = list(db.pending_changes), dict(db.pending_heads)
    db.execute("SAVEPOINT rehearsal")
    key = accounts.create_key(db, new_id("rehearsal"), secrets.token_bytes(32), 1, now)
    asset = Asset(new_id("asset"), key.account, "image/png", 1, "rehearsal", now)
    assets.add_asset(db, asset)
    admit(db, Admission(key.account, key.id, Order("rehearsal"), 1, "once", b"", (asset.id,), "rehearsal"), now)
    db.execute("ROLLBACK TO rehearsal")
    db.execute("RELEASE rehearsal")
    db.pending_changes, db.pending_heads = changes, heads


def write_intent(db: SqliteConnection, claim: Claim, intended_at: float | None, request: bytes | None = None) -> Job:
    """Set the time of the job's intent, and its request; None withdraws it. Raises ClaimLost."""
    job = claims.write_held(db, claim, replace(claims.require_held(db, claim), intended_at=intended_at))
    db.execute("UPDATE work SET request = ? WHERE job = ?", (request, job.id))
    return job


def intended_request(db: SqliteConnection, claim: Claim) -> bytes | None:
    """Return the request of the job's intent. Raises ClaimLost."""
    held = "SELECT request FROM work WHERE job = ? AND node = ? AND epoch = ?"
    row = db.execute(held, (claim.job.id, claim.node, claim.epoch)).fetchone()
    if row is None:
        raise ClaimLost(f"{claim.node} does not hold {claim.job.id} any more.")
    found: bytes | None = row["request"]
    return found


def append(db: SqliteConnection, claim: Claim, draft: Draft, ticket: Ticket | None, now: float) -> Job:
    """Record the job's next event, its refund and its ticket; return the new job. See `Claims.append`."""
    before = claims.require_held(db, claim)
    job = before.after(draft, now)
    check_refund(job, draft)
    if ticket is not None:
        job = replace(job, ticket=ticket)
    write_status(db, before, job)
    claims.write_held(db, claim, job)
    record_event(db, job, draft, now)
    accounts.refund(db, job, draft, now)
    if job.status.final:
        db.execute("DELETE FROM work WHERE job = ?", (job.id,))
        claims.mark_backlog(db, job.account)
        db.execute("UPDATE job SET ended_at = ? WHERE id = ?", (now, job.id))
        db.job_cache.pop(job.id, None)
    return job


def request_cancel(db: SqliteConnection, account: str, job_id: str) -> Job | None:
    """Record that the client wants the job canceled; return the job, or None if there is none."""
    job = find_job(db, account, job_id)
    if job is None or job.status.final:
        return job
    db.job_cache.pop(job_id, None)
    db.execute("UPDATE work SET urgent = 1 WHERE job = ?", (job_id,))
    db.pending_changes.append(Change(job.account, job.id, job.event, cancel=True))
    return write_job(db, replace(job, cancel_requested=True))


def durations(db: SqliteConnection, model: str, limit: int) -> list[float]:
    """Return the durations of the model's newest completed jobs, in seconds, newest first."""
    rows = db.execute(  # the partial index `job_completed` answers this, so no other job is read
        """SELECT ended_at - json_extract(record, '$.intended_at') FROM job
           WHERE model = ? AND status = 'Completed' AND json_extract(record, '$.intended_at') IS NOT NULL
           ORDER BY ended_at DESC LIMIT ?""",
        (model, limit),
    )
    return [row[0] for row in rows]


def list_jobs(
    db: SqliteConnection, account: str, limit: int, before: str | None, *, status: Status | None, model: str | None
) -> Page[Job]:
    """Return a page of the account's jobs, newest first."""
    rows = db.execute(
        """SELECT id, record FROM job WHERE account = ? AND id < ?
           AND status = coalesce(?, status) AND model = coalesce(?, model) ORDER BY id DESC LIMIT ?""",
        (account, before or accounts.AFTER_EVERY_ID, status, model, limit + 1),
    )
    return accounts.page(rows, limit, job_from_row)


def delete_job(db: SqliteConnection, account: str, job_id: str) -> list[str] | None:
    """Delete a finished job; return the names of its blobs, or None if there is no job. Raises errors.Conflict."""
    job = find_job(db, account, job_id)
    if job is None:
        return None
    if not job.status.final:
        raise errors.Conflict(f"{job_id} still runs: wait for its end, or cancel it.")
    return delete_finished(db, job)


def delete_finished(db: SqliteConnection, job: Job) -> list[str]:
    """Delete a finished job with its events; return the names of its blobs.

    The account's floor rises to the job's last position, so that a cursor at or below it gets a `reset`.
    """
    db.execute(
        """UPDATE account SET floor = max(floor, (SELECT max(position) FROM event WHERE job = ?)) WHERE id = ?""",
        (job.id, job.account),
    )
    db.execute("DELETE FROM job WHERE id = ?", (job.id,))
    db.execute("UPDATE idempotency SET spent = 1 WHERE job = ?", (job.id,))
    db.pending_changes.append(Change(job.account, job.id, 0, deleted=True))
    return [output.blob for output in job.outputs if output.blob]
