"""Reads for streams: a job's events, an account's feed, and the newest event of each of its jobs."""

from collections.abc import Iterable, Sequence

from proxy.core.job import Event
from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.sqlite.log import SELECT_EVENTS, event_from_row
from proxy.store.types import PAGE_BYTES, FeedSlice, Place


def read(db: SqliteConnection, job_id: str, after: int, account: str | None) -> list[Event]:
    """Return the job's events numbered above `after`, in order. See `Feeds.read`."""
    wanted = "WHERE job = ? AND n > ? AND account = coalesce(?, account) ORDER BY n"
    return [event_from_row(row) for row in db.execute(SELECT_EVENTS + wanted, (job_id, after, account))]


def read_account(db: SqliteConnection, account: str, after: int, limit: int) -> FeedSlice | None:
    """Return events of the account's feed at positions above `after`. See `Feeds.read_account`."""
    bounds = db.execute("SELECT head, floor FROM account WHERE id = ?", (account,)).fetchone()
    if bounds is None or not bounds["floor"] <= after <= bounds["head"]:
        return None
    wanted = "WHERE account = ? AND position > ? AND NOT delta ORDER BY position LIMIT ?"
    rows = db.execute(SELECT_EVENTS + wanted, (account, after, limit))
    events, cut = _first_events(event_from_row(row) for row in rows)
    return FeedSlice(events, bounds["head"], cut=cut)


def _first_events(events: Iterable[Event]) -> tuple[list[Event], bool]:
    """Return the first events, of about `PAGE_BYTES`, and True if more follow."""
    found: list[Event] = []
    size = 0
    for event in events:
        size += len(event.data)
        if found and size > PAGE_BYTES:
            return found, True
        found.append(event)
    return found, False


def head(db: SqliteConnection, account: str) -> int:
    """Return the newest position of the account's feed; 0 for an unknown account."""
    row = db.execute("SELECT head FROM account WHERE id = ?", (account,)).fetchone()
    return row["head"] if row else 0


def unfinished_jobs(db: SqliteConnection, account: str) -> list[str]:
    """Return the ids of the account's unfinished jobs."""
    return [row["job"] for row in db.execute("SELECT job FROM work WHERE account = ?", (account,))]


def newest_events(db: SqliteConnection, account: str, jobs: Sequence[str], head: int) -> list[Place]:
    """Return the place of each job's newest event up to position `head`, without streamed text."""
    newest = """SELECT position, job, n, length(data) FROM event
                WHERE job = ? AND account = ? AND position <= ? AND NOT delta ORDER BY n DESC LIMIT 1"""
    found = (db.execute(newest, (job, account, head)).fetchone() for job in jobs)
    return [Place(*row) for row in found if row]


def read_places(db: SqliteConnection, places: Sequence[Place]) -> list[Event]:
    """Return the events at these places. Events deleted since are left out."""
    wanted = SELECT_EVENTS + "WHERE job = ? AND n = ?"
    found = (db.execute(wanted, (place.job, place.n)).fetchone() for place in places)
    return [event_from_row(row) for row in found if row]
