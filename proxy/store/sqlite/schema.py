"""Schema of the SQLite file: the pragmas of a connection, the tables, and the migrations between versions."""

from pathlib import Path
from typing import Final

from proxy.core import errors
from proxy.store.sqlite.connection import SqliteConnection

PRAGMAS: Final = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA fullfsync = ON; -- macOS: without it, fsync does not reach the disk
    PRAGMA foreign_keys = ON;
    PRAGMA wal_autocheckpoint = 8000; -- 32 MiB: a page that is written often is copied back once
"""
"""Settings of each connection. A write that returned survives a loss of power (`synchronous = FULL`)."""

APPLICATION_ID: Final = 0x506F6C6C
"""SQLite's application id of our files: "Poll" in ASCII."""

_SCHEMA: Final = (
    """CREATE TABLE account (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        tokens INTEGER NOT NULL DEFAULT 0 CHECK (tokens >= 0),
        head INTEGER NOT NULL DEFAULT 0, -- position of the newest event in the account's feed
        floor INTEGER NOT NULL DEFAULT 0 -- positions up to here may have been deleted
    )""",
    """CREATE TABLE api_key (
        id TEXT PRIMARY KEY,
        account TEXT NOT NULL REFERENCES account,
        digest BLOB NOT NULL UNIQUE,
        created_at REAL NOT NULL,
        revoked_at REAL
    )""",
    # No reference to the job, because a ledger entry outlives it. UNIQUE guarantees at most one charge and one
    # refund per job.
    """CREATE TABLE entry (
        id TEXT PRIMARY KEY,
        account TEXT NOT NULL REFERENCES account,
        tokens INTEGER NOT NULL,
        cause TEXT NOT NULL,
        job TEXT,
        at REAL NOT NULL,
        UNIQUE (job, cause)
    )""",
    "CREATE INDEX entry_by_account ON entry (account, id)",
    # The entry itself changes the balance, so that the balance always equals the ledger's sum.
    """CREATE TRIGGER entry_moves_tokens AFTER INSERT ON entry BEGIN
        UPDATE account SET tokens = tokens + NEW.tokens WHERE id = NEW.account;
    END""",
    "CREATE TRIGGER entry_is_kept BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'The ledger is append-only.'); END",
    "CREATE TRIGGER entry_is_fixed BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'The ledger is append-only.'); END",
    # `record` is the whole job as JSON. The columns by which lists are filtered repeat parts of it.
    """CREATE TABLE job (
        id TEXT PRIMARY KEY,
        account TEXT NOT NULL REFERENCES account,
        model TEXT NOT NULL,
        status TEXT NOT NULL,
        record TEXT NOT NULL
    )""",
    # With status and model in the index, a filtered list reads no rows that it leaves out.
    "CREATE INDEX job_by_account ON job (account, id, status, model)",
    """CREATE TABLE event (
        job TEXT NOT NULL REFERENCES job ON DELETE CASCADE,
        n INTEGER NOT NULL,
        account TEXT NOT NULL,
        position INTEGER NOT NULL,
        final INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (job, n)
    ) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX event_by_position ON event (account, position)",
    # One row per unfinished job: its holder and its lease. It stays small, however many finished jobs are kept.
    """CREATE TABLE work (
        job TEXT PRIMARY KEY REFERENCES job ON DELETE CASCADE,
        node TEXT,
        epoch INTEGER NOT NULL DEFAULT 0,
        lapses_at REAL NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    "CREATE INDEX work_by_lapse ON work (lapses_at)",
    "CREATE INDEX work_by_node ON work (node)",
    """CREATE TABLE asset (
        id TEXT PRIMARY KEY,
        account TEXT NOT NULL REFERENCES account,
        type TEXT NOT NULL,
        size INTEGER NOT NULL,
        blob TEXT NOT NULL,
        created_at REAL NOT NULL
    )""",
    # The assets that unfinished jobs name. A row is deleted with its job's row in `work`.
    """CREATE TABLE hold (
        job TEXT NOT NULL REFERENCES work ON DELETE CASCADE,
        asset TEXT NOT NULL REFERENCES asset,
        PRIMARY KEY (job, asset)
    ) WITHOUT ROWID""",
    "CREATE INDEX hold_by_asset ON hold (asset)",
    # No reference to the job, because the key of a deleted job must not create another.
    """CREATE TABLE idempotency (
        account TEXT NOT NULL REFERENCES account,
        "key" TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        job TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (account, "key")
    ) WITHOUT ROWID""",
    "CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
)
_JOB_ENDS: Final = (
    "ALTER TABLE job ADD COLUMN ended_at REAL",
    """UPDATE job SET ended_at = json_extract(record, '$.updated_at')
       WHERE NOT EXISTS (SELECT 1 FROM work WHERE work.job = job.id)""",
    "CREATE INDEX job_by_end ON job (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX asset_by_age ON asset (created_at)",
    "CREATE INDEX idempotency_by_job ON idempotency (job)",
)
_FEEDS: Final = (
    "ALTER TABLE event ADD COLUMN delta INTEGER NOT NULL DEFAULT 0",  # 1 for a piece of streamed text
    "UPDATE event SET delta = json_extract(CAST(data AS TEXT), '$.delta') IS NOT NULL",
    # Each account's positions begin at a random number.
    "CREATE TEMP TABLE base AS SELECT id, (random() & 4294967295) << 16 AS n FROM account",
    "UPDATE event SET position = position + (SELECT n FROM base WHERE id = account)",
    """UPDATE account SET head = head + (SELECT n FROM base WHERE base.id = account.id),
       floor = floor + (SELECT n FROM base WHERE base.id = account.id)""",
    "DROP TABLE base",
)
_QUEUE_TURNS: Final = (
    # A job waits until it is first claimed. Jobs that ran before this migration continue, even without room.
    "ALTER TABLE work ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE work ADD COLUMN queue TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE work ADD COLUMN turn INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE work ADD COLUMN since REAL NOT NULL DEFAULT 0",
    "ALTER TABLE work ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0",  # 1 if its client wants it canceled
    "DROP INDEX work_by_lapse",
    "CREATE INDEX work_by_lapse ON work (lapses_at) WHERE NOT waiting",
    "CREATE INDEX work_under_way ON work (queue) WHERE NOT waiting",
    "CREATE INDEX work_by_turn ON work (queue, turn, job) WHERE waiting",
    "CREATE INDEX work_by_age ON work (queue, since) WHERE waiting",
    "CREATE INDEX work_urgent ON work (job) WHERE waiting AND urgent",
    # The last turn given to an account in a queue. The account '' holds the last turn that was served.
    """CREATE TABLE turn (
        queue TEXT NOT NULL,
        account TEXT NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (queue, account)
    ) WITHOUT ROWID""",
)
_JOB_COUNTS: Final = (
    # With the account here, its unfinished jobs are counted without reading other accounts' jobs.
    "ALTER TABLE work ADD COLUMN account TEXT NOT NULL DEFAULT ''",
    "UPDATE work SET account = (SELECT account FROM job WHERE job.id = work.job)",
    "CREATE INDEX work_by_account ON work (account)",
    "CREATE INDEX job_completed ON job (model, ended_at) WHERE status = 'Completed'",
)
_BACKLOGS: Final = (
    # A job in its account's backlog waits in a queue named after the account, then in the queue `onward`.
    "ALTER TABLE work ADD COLUMN onward TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE account ADD COLUMN moved INTEGER NOT NULL DEFAULT 0",  # 1: examine its backlog
    "CREATE INDEX account_moved ON account (id) WHERE moved",
    # Stored instead of counted, because an account may have tens of thousands of unfinished jobs, and each order
    # needs the number.
    "ALTER TABLE account ADD COLUMN unfinished INTEGER NOT NULL DEFAULT 0",
    "UPDATE account SET unfinished = (SELECT count(*) FROM work WHERE work.account = account.id)",
    """CREATE TRIGGER work_begins AFTER INSERT ON work BEGIN
        UPDATE account SET unfinished = unfinished + 1 WHERE id = NEW.account;
    END""",
    """CREATE TRIGGER work_ends AFTER DELETE ON work BEGIN
        UPDATE account SET unfinished = unfinished - 1 WHERE id = OLD.account;
    END""",
)
# Old keys are found without reading the young ones.
_KEY_AGES: Final = ("CREATE INDEX idempotency_by_age ON idempotency (at)",)
_SPENT_KEYS: Final = (
    # A key outlives its job. Keys of deleted jobs are marked, so that retention finds them without reading the others.
    "ALTER TABLE idempotency ADD COLUMN spent INTEGER NOT NULL DEFAULT 0",
    "UPDATE idempotency SET spent = 1 WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.id = idempotency.job)",
    "DROP INDEX idempotency_by_age",
    "CREATE INDEX idempotency_spent ON idempotency (at) WHERE spent",
)
# Not part of the job's record, because the versions before refuse a record with a field that they do not know.
_INTENDED_REQUESTS: Final = ("ALTER TABLE work ADD COLUMN request BLOB",)
_PROVIDER_VERSIONS: Final = ("ALTER TABLE work ADD COLUMN version TEXT NOT NULL DEFAULT ''",)
MIGRATIONS: Final = (
    *(_SCHEMA, _JOB_ENDS, _FEEDS, _QUEUE_TURNS, _JOB_COUNTS, _BACKLOGS, _KEY_AGES, _SPENT_KEYS),
    *(_INTENDED_REQUESTS, _PROVIDER_VERSIONS),
)
"""Each migrates a database from the version that is its index to the next. Released migrations are never edited."""


def migrate(db: SqliteConnection, path: Path) -> None:
    """Bring the file to the newest schema, in one transaction. Raises errors.Unavailable for a newer schema."""
    if _version(db) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")  # then read the version again: a server and a command may both open a new file
    found = _version(db)
    if found > len(MIGRATIONS):
        raise errors.Unavailable(
            f"A newer Pollcast wrote the store {path}: its schema is {found}, and this version knows {len(MIGRATIONS)}."
        )
    for migration in MIGRATIONS[found:]:
        for statement in migration:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.execute("COMMIT")


def _version(db: SqliteConnection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
