"""The log: a job's record and its next event."""

import sqlite3
from typing import Final

from proxy.core.job import Draft, Event, Job, encode, position_event
from proxy.store import job_json
from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.types import Change

SELECT_EVENTS: Final = "SELECT job, n, data, final, position, delta FROM event "
"""Start of every query whose rows `event_from_row` reads."""


def event_from_row(row: sqlite3.Row) -> Event:
    """Return the event in a row of `SELECT_EVENTS`."""
    job, n, data, final, position, delta = row
    return Event(job, n, data, bool(final), position, bool(delta))


def job_from_row(row: sqlite3.Row) -> Job:
    """Return the job in a row's column `record`."""
    return job_json.load(row["record"])


def dump_job(job: Job) -> str:
    """Return the job's record as text, which SQLite's JSON functions need."""
    return job_json.dump(job).decode()


def find_job(db: SqliteConnection, account: str, job_id: str) -> Job | None:
    """Return the account's job; None if there is none."""
    row = db.execute("SELECT record FROM job WHERE id = ? AND account = ?", (job_id, account)).fetchone()
    return job_from_row(row) if row else None


def write_job(db: SqliteConnection, job: Job) -> Job:
    """Replace the job's record; return the job."""
    db.execute("UPDATE job SET record = ? WHERE id = ?", (dump_job(job), job.id))
    return job


def write_status(db: SqliteConnection, before: Job, after: Job) -> None:
    """Update the indexed column that repeats the record's status, if the status has changed."""
    if after.status is not before.status:
        db.execute("UPDATE job SET status = ? WHERE id = ?", (after.status, after.id))


def record_event(db: SqliteConnection, job: Job, draft: Draft, now: float) -> Event:
    """Insert the job's newest event at the next position of its account's feed, and queue its Change."""
    if job.account not in db.pending_heads:
        row = db.execute("SELECT head FROM account WHERE id = ?", (job.account,)).fetchone()
        db.pending_heads[job.account] = row["head"]
    db.pending_heads[job.account] += 1
    data = encode(job, draft, job.event, now)
    event = Event(job.id, job.event, data, draft.status.final, db.pending_heads[job.account], "delta" in draft.fields)
    db.execute(
        "INSERT INTO event (job, n, account, position, final, delta, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (event.job, event.n, job.account, event.position, event.final, event.delta, event.data),
    )
    db.pending_changes.append(Change(job.account, job.id, job.event, event=event, at=now))
    return event


def record_position(db: SqliteConnection, job: Job, position: int, now: float) -> Job:
    """Record an event with the job's position in its account's backlog, unless its last event says the same."""
    draft = position_event(position)
    if job.detail == draft.fields["detail"]:
        return job
    after = write_job(db, job.after(draft, now))
    write_status(db, job, after)
    record_event(db, after, draft, now)
    return after
