"""Claims: fair queues of waiting jobs, backlogs of accounts, and leases.

A job waits in its provider's queue, or first in its account's backlog, which is a queue named after the account.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from proxy.core.job import Job
from proxy.store.sqlite.connection import SqliteConnection
from proxy.store.sqlite.log import job_from_row, record_position, write_job
from proxy.store.types import (
    BACKLOG,
    JOBS_PER_READ,
    Admission,
    Claim,
    ClaimLost,
    QueueRoom,
    announced_positions,
    too_many_jobs,
)

# --- queues and backlogs ---


def backlog_queue(account: str) -> str:
    """Return the name of the queue that is the account's backlog. No provider's queue has such a name."""
    return f"{BACKLOG}:{account}"


def choose_queue(db: SqliteConnection, admission: Admission) -> str:
    """Return the queue in which the order waits first. Raises errors.RateLimited if the account's backlog is full."""
    if admission.max_jobs is None:
        return admission.queue
    in_backlog, outside = count_jobs(db, admission.account)
    if not in_backlog and outside < admission.max_jobs:
        return admission.queue
    if in_backlog >= admission.max_backlog:
        raise too_many_jobs(admission.max_jobs, in_backlog)
    return backlog_queue(admission.account)


def waiting(db: SqliteConnection, queues: Collection[str]) -> dict[str, int]:
    """Return the number of waiting jobs in each queue, and under `BACKLOG` in all backlogs."""
    counts = dict.fromkeys((*queues, BACKLOG), 0)
    for queue, jobs in db.execute("SELECT queue, count(*) FROM work WHERE waiting GROUP BY queue"):
        name = BACKLOG if queue.startswith(backlog_queue("")) else queue
        if name in counts:
            counts[name] += jobs
    return counts


def count_jobs(db: SqliteConnection, account: str) -> tuple[int, int]:
    """Return the account's number of jobs in its backlog, and of unfinished jobs outside it."""
    backlog = "SELECT count(*) FROM work WHERE waiting AND queue = ?"
    (in_backlog,) = db.execute(backlog, (backlog_queue(account),)).fetchone()
    (unfinished,) = db.execute("SELECT unfinished FROM account WHERE id = ?", (account,)).fetchone()
    return in_backlog, unfinished - in_backlog


def enqueue(db: SqliteConnection, job: Job, queue: str, admission: Admission, now: float) -> None:
    """Insert the job's row in `work`: it waits in `queue`, and after a backlog in the admission's queue."""
    turn = _next_turn(db, queue, job.account)
    db.execute(
        "INSERT INTO work (job, account, queue, turn, since, onward, version, waiting) VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
        (job.id, job.account, queue, turn, now, admission.queue, admission.version),
    )


def _next_turn(db: SqliteConnection, queue: str, account: str) -> int:
    """Give the account its next turn in a queue: after its own last turn, and after the last turn that was served.

    This is start-time fair queueing. The last served turn is the queue's virtual time.
    """
    row = db.execute("SELECT max(last) FROM turn WHERE queue = ? AND account IN ('', ?)", (queue, account)).fetchone()
    turn = (row[0] or 0) + 1
    _write_turn(db, queue, account, turn)
    return turn


def _write_turn(db: SqliteConnection, queue: str, account: str, turn: int) -> None:
    db.execute(
        """INSERT INTO turn (queue, account, last) VALUES (?, ?, ?)
           ON CONFLICT DO UPDATE SET last = max(last, excluded.last)""",
        (queue, account, turn),
    )


def release_backlog(db: SqliteConnection, max_jobs: int | None, limit: int, now: float, *, every_account: bool) -> int:
    """Move jobs from backlogs to provider queues; return how many moved. See `Claims.release_backlog`.

    Only the backlogs marked by `mark_backlog` are examined, or with `every_account` all of them.
    """
    if every_account:
        db.execute("UPDATE account SET moved = 1 WHERE id IN (SELECT account FROM work WHERE waiting)")
    marked = db.execute("SELECT id FROM account WHERE moved").fetchall()
    return sum(_release_account(db, row["id"], max_jobs, limit, now) for row in marked)


def _release_account(db: SqliteConnection, account: str, max_jobs: int | None, limit: int, now: float) -> int:
    backlog = backlog_queue(account)
    in_backlog, outside = count_jobs(db, account)
    room = limit if max_jobs is None else max(min(max_jobs - outside, limit), 0)
    oldest = "SELECT job, onward FROM work WHERE waiting AND queue = ? ORDER BY turn, job LIMIT ?"
    released = db.execute(oldest, (backlog, room)).fetchall()
    for job, onward in released:
        db.execute(
            "UPDATE work SET queue = ?, turn = ?, since = ? WHERE job = ?",
            (onward, _next_turn(db, onward, account), now, job),
        )
    if len(released) < limit:
        db.execute("UPDATE account SET moved = 0 WHERE id = ?", (account,))
    nth = "SELECT record FROM work JOIN job ON id = job WHERE waiting AND queue = ? ORDER BY turn, job LIMIT 1 OFFSET ?"
    for position in announced_positions(in_backlog - len(released)):
        record_position(db, job_from_row(db.execute(nth, (backlog, position - 1)).fetchone()), position, now)
    return len(released)


def mark_backlog(db: SqliteConnection, account: str) -> None:
    """Mark the account's backlog, if it has one, for the next `release_backlog`."""
    db.execute(
        "UPDATE account SET moved = 1 WHERE id = ? AND EXISTS (SELECT 1 FROM work WHERE waiting AND queue = ?)",
        (account, backlog_queue(account)),
    )


# --- claims and leases ---


def claim(
    db: SqliteConnection,
    node: str,
    rooms: Mapping[str, QueueRoom],
    limit: int,
    *,
    now: float,
    at: float,
    lapses_at: float,
) -> list[Claim]:
    """Claim up to `limit` jobs for `node`. See `Claims.claim`.

    `now` is the time of day. `at` and `lapses_at` are monotonic, because a lease ends with the process.
    """
    claims: list[Claim] = []

    def take(jobs: Iterable[str]) -> None:
        claims.extend(_take(db, job, node, lapses_at) for job in jobs)

    take(_claimable_now(db, node, limit, at))
    for queue, room in rooms.items():
        take(_past_max_wait(db, queue, now - room.max_wait, limit - len(claims)))
        take(_next_in_turn(db, queue, room.limit, limit - len(claims)))
    return claims


def _claimable_now(db: SqliteConnection, node: str, limit: int, at: float) -> list[str]:
    """Return released jobs, jobs with expired leases, and waiting jobs whose client wants them canceled."""
    rows = db.execute(  # INDEXED BY: without it, SQLite reads every held job, oldest first
        """SELECT job FROM work INDEXED BY work_by_lapse WHERE NOT waiting AND lapses_at <= ? AND node IS NOT ?
           UNION ALL SELECT job FROM work WHERE waiting AND urgent ORDER BY job LIMIT ?""",
        (at, node, limit),
    )
    return [row["job"] for row in rows]


def _past_max_wait(db: SqliteConnection, queue: str, before: float, limit: int) -> list[str]:
    rows = db.execute(
        "SELECT job FROM work WHERE waiting AND queue = ? AND since <= ? ORDER BY since LIMIT ?",
        (queue, before, max(limit, 0)),  # a negative LIMIT means no limit in SQLite
    )
    return [row["job"] for row in rows]


def _next_in_turn(db: SqliteConnection, queue: str, room: int, limit: int) -> list[str]:
    waiting = "SELECT job, turn FROM work WHERE waiting AND queue = ? ORDER BY turn, job LIMIT ?"
    if limit <= 0 or db.execute(waiting, (queue, 1)).fetchone() is None:
        return []
    running = db.execute("SELECT count(*) FROM work WHERE NOT waiting AND queue = ?", (queue,)).fetchone()[0]
    rows = db.execute(waiting, (queue, max(min(room - running, limit), 0))).fetchall()
    if rows:
        _write_turn(db, queue, "", rows[-1]["turn"])
    return [row["job"] for row in rows]


def _take(db: SqliteConnection, job_id: str, node: str, lapses_at: float) -> Claim:
    """Make `node` the job's holder. The new epoch makes an earlier holder's claim invalid."""
    db.job_cache.pop(job_id, None)
    db.execute(
        "UPDATE work SET waiting = 0, node = ?, epoch = epoch + 1, lapses_at = ? WHERE job = ?",
        (node, lapses_at, job_id),
    )
    row = db.execute(
        "SELECT record, epoch, since, version, queue FROM work JOIN job ON job.id = work.job WHERE job = ?", (job_id,)
    ).fetchone()
    job = job_from_row(row)
    if row["queue"] == backlog_queue(job.account):
        mark_backlog(db, job.account)
    return Claim(job, node, row["epoch"], row["since"], row["version"])


def renew(db: SqliteConnection, node: str, lapses_at: float) -> None:
    """Extend the leases of all the node's claims."""
    db.execute("UPDATE work SET lapses_at = ? WHERE node = ?", (lapses_at, node))


def unknown_claims(db: SqliteConnection, node: str, driven: Collection[str]) -> list[Claim]:
    """Return up to `JOBS_PER_READ` of the node's claims for jobs other than `driven`."""
    rows = db.execute(
        "SELECT record, epoch, since, version FROM work JOIN job ON job.id = work.job WHERE node = ?", (node,)
    )
    held = (Claim(job_from_row(row), node, row["epoch"], row["since"], row["version"]) for row in rows)
    return list(islice((claim for claim in held if claim.job.id not in driven), JOBS_PER_READ))


def release(db: SqliteConnection, claim: Claim) -> None:
    """Give the job back. It waits again unless an intent is recorded. A lost claim changes nothing."""
    db.job_cache.pop(claim.job.id, None)
    db.execute(
        """UPDATE work SET node = NULL, lapses_at = 0,
           waiting = (SELECT json_extract(record, '$.intended_at') IS NULL FROM job WHERE job.id = work.job)
           WHERE job = ? AND node = ? AND epoch = ?""",
        (claim.job.id, claim.node, claim.epoch),
    )
    mark_backlog(db, claim.job.account)  # a job taken from the backlog for its cancel is in the backlog again


def require_held(db: SqliteConnection, claim: Claim) -> Job:
    """Return the claim's job as it is now. Raises ClaimLost if it has ended or another node has claimed it.

    A lease that only expired is still held.
    """
    node, epoch, cached = db.job_cache.get(claim.job.id, ("", 0, None))
    if cached is not None and (node, epoch) == (claim.node, claim.epoch):
        return cached
    held = "SELECT 1 FROM work WHERE job = ? AND node = ? AND epoch = ?"
    if db.execute(held, (claim.job.id, claim.node, claim.epoch)).fetchone() is None:
        raise ClaimLost(f"{claim.node} does not hold {claim.job.id} any more.")
    return job_from_row(db.execute("SELECT record FROM job WHERE id = ?", (claim.job.id,)).fetchone())


def write_held(db: SqliteConnection, claim: Claim, job: Job) -> Job:
    """Write the claim's job, and cache it for the next `require_held`."""
    if db.sole_writer and not job.status.final:
        db.job_cache[job.id] = claim.node, claim.epoch, job
    return write_job(db, job)
