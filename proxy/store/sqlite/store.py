"""The embedded store: one SQLite file, one server that runs jobs, any number of commands beside it.

Two threads own one connection each. Writes that wait together are committed together, so that a hundred events cost
one fsync; reads have a thread of their own and never wait for a write. Whatever a write returned survives a loss of
power (`synchronous=FULL`). The public methods only choose the thread: the SQL stands in the functions below them.
"""

import asyncio
import fcntl
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from proxy.core import errors
from proxy.core.clock import Clock, SystemClock
from proxy.core.files import make_private_folder, narrow, open_private
from proxy.core.job import Draft, Event, Job, Order, Status, Ticket, encode, new_id, position_event
from proxy.store import job_json
from proxy.store.listeners import ChangeListener
from proxy.store.sqlite.connection import ConnectionThread, SqliteConnection
from proxy.store.types import (
    AT_ONCE,
    BACKLOG,
    PAGE_BYTES,
    Account,
    Admission,
    Admitted,
    Asset,
    Cause,
    Change,
    Claim,
    ClaimLost,
    Entry,
    FeedSlice,
    Key,
    Page,
    Place,
    QueueRoom,
    SweepResult,
    announced_positions,
    cannot_pay,
    cannot_take,
    first_places,
    too_many_jobs,
)

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds to wait for another process's write: a command's, which takes milliseconds."""
_HANGS: Final = 10.0
"""Seconds after which a disk that answers nothing is said to be away."""
_PRAGMAS: Final = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA fullfsync = ON; -- macOS: without it, fsync stops short of the disk
    PRAGMA foreign_keys = ON;
    PRAGMA wal_autocheckpoint = 8000; -- 32 MiB: pages that are written again and again are copied back once
"""
_MARK: Final = 0x506F6C6C
"""SQLite's application id of our files: "Poll"."""
_KEY_LIFE: Final = 24 * 3600.0
"""Seconds that an idempotency key is kept at the least (contract, section 3)."""
_NEWEST: Final = "~"
"""Sorts after every id."""

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
    # No reference to the job: a ledger entry outlives it. One charge and one refund per job, whatever the code does.
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
    # The balance is moved by the entry itself, so that it cannot differ from the ledger's sum.
    """CREATE TRIGGER entry_moves_tokens AFTER INSERT ON entry BEGIN
        UPDATE account SET tokens = tokens + NEW.tokens WHERE id = NEW.account;
    END""",
    "CREATE TRIGGER entry_is_kept BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'The ledger is append-only.'); END",
    "CREATE TRIGGER entry_is_fixed BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'The ledger is append-only.'); END",
    # `record` is the whole job as JSON; what lists are filtered by stands beside it.
    """CREATE TABLE job (
        id TEXT PRIMARY KEY,
        account TEXT NOT NULL REFERENCES account,
        model TEXT NOT NULL,
        status TEXT NOT NULL,
        record TEXT NOT NULL
    )""",
    # Status and model are in it so that a filtered list is found without reading the rows that it leaves out.
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
    # One row per unfinished job, and so small, however many finished jobs are kept: who holds it, until when.
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
    # The assets that unfinished jobs name; a row goes with its job's row in `work`.
    """CREATE TABLE hold (
        job TEXT NOT NULL REFERENCES work ON DELETE CASCADE,
        asset TEXT NOT NULL REFERENCES asset,
        PRIMARY KEY (job, asset)
    ) WITHOUT ROWID""",
    "CREATE INDEX hold_by_asset ON hold (asset)",
    # No reference to the job: where it was deleted, its key must not make another.
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
_ENDS: Final = (
    "ALTER TABLE job ADD COLUMN ended_at REAL",
    """UPDATE job SET ended_at = json_extract(record, '$.updated_at')
       WHERE NOT EXISTS (SELECT 1 FROM work WHERE work.job = job.id)""",
    "CREATE INDEX job_by_end ON job (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX asset_by_age ON asset (created_at)",
    "CREATE INDEX idempotency_by_job ON idempotency (job)",
)
_FEEDS: Final = (
    "ALTER TABLE event ADD COLUMN delta INTEGER NOT NULL DEFAULT 0",  # a piece of streamed text
    "UPDATE event SET delta = json_extract(CAST(data AS TEXT), '$.delta') IS NOT NULL",
    # An account's positions begin at a number of its own.
    "CREATE TEMP TABLE base AS SELECT id, (random() & 4294967295) << 16 AS n FROM account",
    "UPDATE event SET position = position + (SELECT n FROM base WHERE id = account)",
    """UPDATE account SET head = head + (SELECT n FROM base WHERE base.id = account.id),
       floor = floor + (SELECT n FROM base WHERE base.id = account.id)""",
    "DROP TABLE base",
)
_TURNS: Final = (
    # A job waits until it is first claimed. What ran before this migration goes on, whatever the room.
    "ALTER TABLE work ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE work ADD COLUMN queue TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE work ADD COLUMN turn INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE work ADD COLUMN since REAL NOT NULL DEFAULT 0",
    "ALTER TABLE work ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0",  # its client wants its end
    "DROP INDEX work_by_lapse",
    "CREATE INDEX work_by_lapse ON work (lapses_at) WHERE NOT waiting",
    "CREATE INDEX work_under_way ON work (queue) WHERE NOT waiting",
    "CREATE INDEX work_by_turn ON work (queue, turn, job) WHERE waiting",
    "CREATE INDEX work_by_age ON work (queue, since) WHERE waiting",
    "CREATE INDEX work_urgent ON work (job) WHERE waiting AND urgent",
    # The last turn that was given to an account in a queue; of the account '', the last that was served.
    """CREATE TABLE turn (
        queue TEXT NOT NULL,
        account TEXT NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (queue, account)
    ) WITHOUT ROWID""",
)
_COUNTS: Final = (
    # An account's unfinished jobs are counted without reading those of all others.
    "ALTER TABLE work ADD COLUMN account TEXT NOT NULL DEFAULT ''",
    "UPDATE work SET account = (SELECT account FROM job WHERE job.id = work.job)",
    "CREATE INDEX work_by_account ON work (account)",
    "CREATE INDEX job_completed ON job (model, ended_at) WHERE status = 'Completed'",
)
_LINES: Final = (
    # A job in its account's line waits in a queue of that name, and goes on to this one.
    "ALTER TABLE work ADD COLUMN onward TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE account ADD COLUMN moved INTEGER NOT NULL DEFAULT 0",  # its line is to be looked at
    "CREATE INDEX account_moved ON account (id) WHERE moved",
    # Kept rather than counted: an account may have ten thousands of unfinished jobs, and each order asks.
    "ALTER TABLE account ADD COLUMN unfinished INTEGER NOT NULL DEFAULT 0",
    "UPDATE account SET unfinished = (SELECT count(*) FROM work WHERE work.account = account.id)",
    """CREATE TRIGGER work_begins AFTER INSERT ON work BEGIN
        UPDATE account SET unfinished = unfinished + 1 WHERE id = NEW.account;
    END""",
    """CREATE TRIGGER work_ends AFTER DELETE ON work BEGIN
        UPDATE account SET unfinished = unfinished - 1 WHERE id = OLD.account;
    END""",
)
# What is old is found without looking at all that is not.
_AGES: Final = ("CREATE INDEX idempotency_by_age ON idempotency (at)",)
_SPENT: Final = (
    # A key outlives its job. Those whose job is forgotten are marked, so that nobody looks for them among the others.
    "ALTER TABLE idempotency ADD COLUMN spent INTEGER NOT NULL DEFAULT 0",
    "UPDATE idempotency SET spent = 1 WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.id = idempotency.job)",
    "DROP INDEX idempotency_by_age",
    "CREATE INDEX idempotency_spent ON idempotency (at) WHERE spent",
)
_MIGRATIONS: Final = (_SCHEMA, _ENDS, _FEEDS, _TURNS, _COUNTS, _LINES, _AGES, _SPENT)
"""Each takes a database from one version (its place here) to the next; released ones are never edited."""


class SqliteStore:
    """The `Store` in one SQLite file; `exclusive` is for the one process that runs jobs."""

    shared = None

    def __init__(
        self, path: str | Path, clock: Clock | None = None, *, lease: float = 30.0, exclusive: bool = False
    ) -> None:
        self._path = Path(path)
        self._clock = clock or SystemClock()
        self._lease = lease
        self._exclusive = exclusive
        self._listeners: WeakSet[ChangeListener] = WeakSet()
        self._advanced = False

    async def __aenter__(self) -> Self:
        """Open the file, made or migrated where needed; errors.Unavailable when that cannot be."""
        try:
            writer, reader = await asyncio.to_thread(self._open)
        except (OSError, sqlite3.Error) as error:
            raise errors.Unavailable(f"The store {self._path} cannot be opened: {error}.") from error
        self._writer = ConnectionThread(writer, "BEGIN IMMEDIATE", self._tell)
        self._reader = ConnectionThread(reader, "BEGIN", self._tell)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the calls that were made, then end every listener and close the file."""
        self._writer.stop()
        self._reader.stop()
        await asyncio.to_thread(self._close)
        for listener in self._listeners:
            listener.put(None)

    async def ping(self) -> None:
        """Prove that a transaction can be written now, and to the file that others find at its path."""
        try:
            async with asyncio.timeout(_HANGS):
                await self._writer.run(_ping, self._path, self._file, self._clock.now())
                await self._reader.run(_key_by_digest, b"")
        except TimeoutError:
            raise errors.Unavailable(f"The store {self._path} has not answered for {_HANGS:g} seconds.") from None

    async def get_or_set(self, name: str, value: bytes) -> bytes:
        """The value kept under `name`."""
        return await self._writer.run(_agree, name, value)

    async def secret(self, name: str) -> bytes:
        """The 32 random bytes kept under `name`."""
        return await self.get_or_set(name, secrets.token_bytes(32))

    # --- accounts, keys, ledger ---

    async def create_key(self, name: str, digest: bytes, tokens: int = 0) -> Key:
        """Add a key to the account called `name`."""
        return await self._writer.run(_create_key, name, digest, tokens, self._clock.now())

    async def key(self, digest: bytes) -> Key | None:
        """The key of that digest, as the file says now."""
        return await self._reader.run(_key_by_digest, digest)

    async def key_by_id(self, key_id: str) -> Key | None:
        """The key of that id, as the file says now."""
        return await self._reader.run(_key, key_id)

    async def active_keys(self, ids: Collection[str]) -> set[str]:
        """Those of the ids that are keys and were not revoked."""
        return await self._reader.run(_good_keys, list(ids))

    async def keys(self) -> Sequence[Key]:
        """All keys, oldest first."""
        return await self._reader.run(_keys)

    async def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key, once and for ever."""
        return await self._writer.run(_revoke_key, key_id, self._clock.now())

    async def grant(self, name: str, tokens: int) -> Account | None:
        """Add `tokens` to the account called `name`."""
        return await self._writer.run(_grant, name, tokens, self._clock.now())

    async def account(self, account_id: str) -> Account | None:
        """The account with its balance now."""
        return await self._reader.run(_account, account_id)

    async def accounts(self) -> Sequence[Account]:
        """All accounts, by name."""
        return await self._reader.run(_accounts)

    async def ledger(self, account: str, limit: int, before: str | None = None) -> Page[Entry]:
        """The account's ledger entries, newest first."""
        return await self._reader.run(_ledger, account, limit, before)

    # --- jobs and events ---

    async def admit(self, admission: Admission) -> Admitted:
        """Record a new job, or find the one that its idempotency key made."""
        return await self._writer.run(_admit, admission, self._clock.now())

    async def replay(self, admission: Admission) -> Job | None:
        """The job that the admission's idempotency key made before."""
        return await self._reader.run(_replay, admission)

    async def release_backlog(self, most: int | None, limit: int) -> int:
        """Let jobs go on from their accounts' lines to their queues."""
        number = await self._writer.run(_advance, most, limit, self._clock.now(), anew=not self._advanced)
        self._advanced = True
        return number

    async def waiting(self, queues: Collection[str]) -> Mapping[str, int]:
        """How many jobs wait, by queue, and in line."""
        return await self._reader.run(_waiting, list(queues))

    async def claim(self, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        """Take up to `limit` unfinished jobs that nobody holds, as far as there is room for them."""
        now, at = self._clock.now(), self._clock.monotonic()
        return await self._writer.run(_claim, node, rooms, limit, now=now, at=at, lapses_at=at + self._lease)

    async def renew(self, node: str) -> None:
        """Prolong the leases of all the node's claims."""
        await self._writer.run(_renew, node, self._clock.monotonic() + self._lease)

    async def unknown_claims(self, node: str, driven: Collection[str]) -> Sequence[Claim]:
        """Claims of the node's that it does not know of."""
        return await self._reader.run(_strays, node, frozenset(driven))

    async def release(self, claim: Claim) -> None:
        """Give the job back unfinished."""
        await self._writer.run(_release, claim)

    async def record_intent(self, claim: Claim) -> Job:
        """Record that the order is about to be sent."""
        return await self._writer.run(_intend, claim, self._clock.now())

    async def withdraw_intent(self, claim: Claim) -> Job:
        """Record that the order surely was not taken."""
        return await self._writer.run(_intend, claim, None)

    async def append(self, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        """Record the job's next event, the refund that it causes and the new ticket."""
        return await self._writer.run(_append, claim, draft, ticket, self._clock.now())

    async def request_cancel(self, account: str, job_id: str) -> Job | None:
        """Note that the client wants the job to stop."""
        return await self._writer.run(_request_cancel, account, job_id)

    async def durations(self, model: str, limit: int) -> Sequence[float]:
        """How long the newest completed jobs of a model took."""
        return await self._reader.run(_durations, model, limit)

    async def delete_job(self, account: str, job_id: str) -> Sequence[str] | None:
        """Forget a finished job, its events and outputs."""
        return await self._writer.run(_delete_job, account, job_id)

    async def sweep(self, before: float, limit: int) -> SweepResult:
        """Forget some of the jobs that ended, and assets that were made, before `before`."""
        return await self._writer.run(_sweep, before, min(before, self._clock.now() - _KEY_LIFE), limit)

    async def job(self, account: str, job_id: str) -> Job | None:
        """The account's job."""
        return await self._reader.run(_job, account, job_id)

    async def jobs(
        self,
        account: str,
        limit: int,
        before: str | None = None,
        status: Status | None = None,
        model: str | None = None,
    ) -> Page[Job]:
        """The account's jobs, newest first."""
        return await self._reader.run(_jobs, account, limit, before, status=status, model=model)

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        """The job's events numbered above `after`, in order."""
        return await self._reader.run(_read, job_id, after, account)

    async def read_account(self, account: str, after: int, limit: int) -> FeedSlice | None:
        """Up to `limit` events of the account's feed at positions above `after`."""
        return await self._reader.run(_read_account, account, after, limit)

    async def snapshot(self, account: str, jobs: Collection[str] | None = None, head: int | None = None) -> FeedSlice:
        """The newest event of every unfinished job of the account, or of every one of `jobs` that it has."""
        head = await self._reader.run(_head, account) if head is None else head
        named = list(dict.fromkeys(await self._reader.run(_unfinished, account) if jobs is None else jobs))
        places: list[Place] = []
        for start in range(0, len(named), AT_ONCE):
            places += await self._reader.run(_newest, account, named[start : start + AT_ONCE], head)
        first, rest = first_places(places)
        events: list[Event] = []
        for start in range(0, len(first), AT_ONCE):
            events += await self._reader.run(_at, first[start : start + AT_ONCE])
        return FeedSlice(events, head, rest=rest)

    def changes(self) -> AsyncIterator[Change]:
        """Tell every event recorded from this call on, after its commit.

        Only events recorded through this object are told: no other process on the file records any.
        """
        listener = ChangeListener()
        self._listeners.add(listener)
        return listener

    # --- assets ---

    async def add_asset(self, asset: Asset) -> None:
        """Record an asset whose bytes are already stored."""
        await self._writer.run(_add_asset, asset)

    async def asset(self, account: str, asset_id: str) -> Asset | None:
        """The account's asset."""
        return await self._reader.run(_asset, account, asset_id)

    async def delete_asset(self, account: str, asset_id: str) -> Asset | None:
        """Forget the asset and return it."""
        return await self._writer.run(_delete_asset, account, asset_id)

    # --- the file and the threads ---

    def _open(self) -> "tuple[SqliteConnection, SqliteConnection]":
        make_private_folder(self._path.parent)
        with _turn(self._path.parent), ExitStack() as stack:
            if self._exclusive:
                lock = open_private(Path(f"{self._path}.lock"), os.O_RDWR)
                _lock(self._path, stack.enter_context(os.fdopen(lock, "wb")))
            for ending in ("", "-wal", "-shm", ".lock"):
                narrow(Path(f"{self._path}{ending}"))
            writer = stack.enter_context(closing(self._connect()))
            writer.executescript(_PRAGMAS)
            _migrate(writer, self._path)
            if self._exclusive:  # whoever held the claims is dead: the lock was free
                writer.execute("UPDATE work SET node = NULL, lapses_at = 0")
                writer.alone = True
            reader = stack.enter_context(closing(self._connect()))
            reader.executescript(_PRAGMAS + "PRAGMA query_only = ON;")
            self._file = _identity(self._path) or (0, 0)
            self._opened = stack.pop_all()
        return writer, reader

    def _connect(self) -> "SqliteConnection":
        self._path.touch(mode=0o600)  # before SQLite makes it: it holds secrets, and its WAL gets the same mode
        return sqlite3.connect(
            self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, factory=SqliteConnection
        )

    def _close(self) -> None:
        self._writer.join()
        self._reader.join()
        self._opened.close()

    def _tell(self, changes: Sequence[Change]) -> None:
        for listener in self._listeners if changes else ():
            listener.put(changes)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Let one at a time open a store in `folder`: alone among SQLite's steps, the change to WAL does not wait."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock(path: Path, file: BinaryIO) -> None:
    """Take the lock that one server per store holds until it ends, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise errors.Unavailable(f"Another server runs on the store {path}: stop it, or use another store.") from error


def _migrate(db: SqliteConnection, path: Path) -> None:
    if _version(db) == len(_MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")  # and look again: a server and a command may meet in a new file
    found = _version(db)
    if found > len(_MIGRATIONS):
        raise errors.Unavailable(
            f"A newer Pollcast wrote the store {path}: its schema is {found}, this one knows {len(_MIGRATIONS)}."
        )
    for migration in _MIGRATIONS[found:]:
        for statement in migration:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
    db.execute("COMMIT")


def _version(db: SqliteConnection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _ping(db: SqliteConnection, path: Path, opened: tuple[int, int], now: float) -> None:
    db.execute(f"PRAGMA application_id = {_MARK}")  # the smallest write there is: it rewrites the file's header
    if _identity(path) != opened:
        raise errors.Unavailable(f"The store {path} was deleted or replaced; what is recorded now is lost. Start anew.")
    _rehearse(db, now)


def _rehearse(db: SqliteConnection, now: float) -> None:
    """Take an order as any other, and undo it: it needs every table that an order needs."""
    told, heads = list(db.told), dict(db.heads)
    db.execute("SAVEPOINT rehearsal")
    key = _create_key(db, new_id("rehearsal"), secrets.token_bytes(32), 1, now)
    asset = Asset(new_id("asset"), key.account, "image/png", 1, "rehearsal", now)
    _add_asset(db, asset)
    _admit(db, Admission(key.account, key.id, Order("rehearsal"), 1, "once", b"", (asset.id,), "rehearsal"), now)
    db.execute("ROLLBACK TO rehearsal")
    db.execute("RELEASE rehearsal")
    db.told, db.heads = told, heads


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another that has its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _agree(db: SqliteConnection, name: str, value: bytes) -> bytes:
    db.execute("INSERT OR IGNORE INTO secret (name, value) VALUES (?, ?)", (name, value))
    return bytes(db.execute("SELECT value FROM secret WHERE name = ?", (name,)).fetchone()["value"])


# --- accounts, keys, ledger ---


def _create_key(db: SqliteConnection, name: str, digest: bytes, tokens: int, now: float) -> Key:
    base = secrets.randbelow(1 << 32) << 16  # positions stay far below 2^53, the last whole number of every client
    db.execute(
        "INSERT OR IGNORE INTO account (id, name, head, floor) VALUES (?, ?, ?, ?)", (new_id("acct"), name, base, base)
    )
    account = db.execute("SELECT id FROM account WHERE name = ?", (name,)).fetchone()["id"]
    key = Key(new_id("key"), account, name, now)
    db.execute(
        "INSERT INTO api_key (id, account, digest, created_at) VALUES (?, ?, ?, ?)", (key.id, account, digest, now)
    )
    _grant(db, name, tokens, now)
    return key


_KEYS: Final = """
    SELECT api_key.id, account, name, created_at, revoked_at FROM api_key JOIN account ON account.id = api_key.account
"""


def _keys(db: SqliteConnection) -> list[Key]:
    return [Key(**row) for row in db.execute(_KEYS + "ORDER BY api_key.id")]


def _good_keys(db: SqliteConnection, ids: Sequence[str]) -> set[str]:
    good = "SELECT 1 FROM api_key WHERE id = ? AND revoked_at IS NULL"
    return {key_id for key_id in ids if db.execute(good, (key_id,)).fetchone()}


def _key(db: SqliteConnection, key_id: str) -> Key | None:
    row = db.execute(_KEYS + "WHERE api_key.id = ?", (key_id,)).fetchone()
    return Key(**row) if row else None


def _key_by_digest(db: SqliteConnection, digest: bytes) -> Key | None:
    row = db.execute(_KEYS + "WHERE digest = ?", (digest,)).fetchone()
    return Key(**row) if row else None


def _revoke_key(db: SqliteConnection, key_id: str, now: float) -> Key | None:
    db.execute("UPDATE api_key SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (now, key_id))
    return _key(db, key_id)


def _grant(db: SqliteConnection, name: str, tokens: int, now: float) -> Account | None:
    row = db.execute("SELECT id, name, tokens FROM account WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    account = Account(**row)
    if account.tokens + tokens < 0:
        raise cannot_take(-tokens, account.tokens)
    _enter(db, account.id, Entry(new_id("entry"), tokens, Cause.GRANT, None, now))
    return replace(account, tokens=account.tokens + tokens)


def _enter(db: SqliteConnection, account: str, entry: Entry) -> None:
    """Write the ledger; the balance follows by itself. Nothing else moves tokens."""
    if not entry.tokens:
        return
    row = (entry.id, account, entry.tokens, entry.cause, entry.job, entry.at)
    db.execute("INSERT INTO entry (id, account, tokens, cause, job, at) VALUES (?, ?, ?, ?, ?, ?)", row)


def _account(db: SqliteConnection, account_id: str) -> Account | None:
    row = db.execute("SELECT id, name, tokens FROM account WHERE id = ?", (account_id,)).fetchone()
    return Account(**row) if row else None


def _accounts(db: SqliteConnection) -> list[Account]:
    return [Account(**row) for row in db.execute("SELECT id, name, tokens FROM account ORDER BY name")]


def _ledger(db: SqliteConnection, account: str, limit: int, before: str | None) -> Page[Entry]:
    rows = db.execute(
        "SELECT id, tokens, cause, job, at FROM entry WHERE account = ? AND id < ? ORDER BY id DESC LIMIT ?",
        (account, before or _NEWEST, limit + 1),
    )
    return _page(rows, limit, lambda row: Entry(**{**row, "cause": Cause(row["cause"])}))


def _page(rows: Iterable[sqlite3.Row], limit: int, record: Callable[[sqlite3.Row], T]) -> Page[T]:
    """Make a page of `limit` rows, or `PAGE_BYTES`; one more was asked for, to know whether the list goes on."""
    found: list[sqlite3.Row] = []
    size = 0
    for row in rows:
        size += len(row["record"]) if "record" in row.keys() else 0  # noqa: SIM118 -- a row's own `in` looks at values
        if len(found) == limit or (found and size > PAGE_BYTES):
            return Page([record(row) for row in found], found[-1]["id"])
        found.append(row)
    return Page([record(row) for row in found], None)


# --- jobs and events ---


def _admit(db: SqliteConnection, admission: Admission, now: float) -> Admitted:
    if earlier := _replay(db, admission):
        return Admitted(earlier, replayed=True)
    queue = _queue_of(db, admission)
    _require_assets(db, admission)
    job = Job(new_id("job"), admission.account, admission.key, admission.order, admission.tokens, now, now)
    _charge(db, job)
    row = (job.id, job.account, job.model, job.status, _record_of(job))
    db.execute("INSERT INTO job (id, account, model, status, record) VALUES (?, ?, ?, ?, ?)", row)
    db.execute(
        "INSERT INTO work (job, account, queue, turn, since, onward, waiting) VALUES (?, ?, ?, ?, ?, ?, 1)",
        (job.id, job.account, queue, _turn_of(db, queue, job.account), now, admission.queue),
    )
    event: Event | None = _publish(db, job, Draft(job.status), now)
    if queue != admission.queue:
        job, event = _tell_place(db, job, _counted(db, job.account)[0], now), None
    db.executemany("INSERT INTO hold (job, asset) VALUES (?, ?)", [(job.id, asset) for asset in set(admission.assets)])
    if admission.idempotency_key is not None:
        db.execute(
            'INSERT INTO idempotency (account, "key", fingerprint, job, at) VALUES (?, ?, ?, ?, ?)',
            (job.account, admission.idempotency_key, admission.fingerprint, job.id, now),
        )
    return Admitted(job, event=event)


def _replay(db: SqliteConnection, admission: Admission) -> Job | None:
    """Find the job that the admission's idempotency key made before."""
    row = db.execute(
        'SELECT fingerprint, job FROM idempotency WHERE account = ? AND "key" = ?',
        (admission.account, admission.idempotency_key),
    ).fetchone()
    if row is None:
        return None
    if row["fingerprint"] != admission.fingerprint:
        raise errors.IdempotencyConflict("This Idempotency-Key was used for another order: send a new one.")
    job = _job(db, admission.account, row["job"])
    if job is None:
        raise errors.NotFound("The job that this Idempotency-Key made has been deleted.")
    return job


def _queue_of(db: SqliteConnection, admission: Admission) -> str:
    """Where an order is to wait: for room, or first in its account's line."""
    if admission.most is None:
        return admission.queue
    in_line, outside = _counted(db, admission.account)
    if not in_line and outside < admission.most:
        return admission.queue
    if in_line >= admission.line:
        raise too_many_jobs(admission.most, in_line)
    return _line_of(admission.account)


def _line_of(account: str) -> str:
    """The name of the queue that is the account's line; no provider's is called so."""
    return f"{BACKLOG}:{account}"


def _waiting(db: SqliteConnection, queues: Collection[str]) -> dict[str, int]:
    counted = dict.fromkeys((*queues, BACKLOG), 0)
    for queue, jobs in db.execute("SELECT queue, count(*) FROM work WHERE waiting GROUP BY queue"):
        name = BACKLOG if queue.startswith(_line_of("")) else queue
        if name in counted:
            counted[name] += jobs
    return counted


def _counted(db: SqliteConnection, account: str) -> tuple[int, int]:
    """How many jobs stand in the account's line, and how many unfinished ones do not."""
    line = "SELECT count(*) FROM work WHERE waiting AND queue = ?"
    (in_line,) = db.execute(line, (_line_of(account),)).fetchone()
    (unfinished,) = db.execute("SELECT unfinished FROM account WHERE id = ?", (account,)).fetchone()
    return in_line, unfinished - in_line


def _require_assets(db: SqliteConnection, admission: Admission) -> None:
    for asset in admission.assets:
        if _asset(db, admission.account, asset) is None:
            raise errors.NotFound(f"There is no asset {asset}.")


def _charge(db: SqliteConnection, job: Job) -> None:
    account = _account(db, job.account)
    if account is None:
        raise errors.NotFound(f"There is no account {job.account}.")
    if account.tokens < job.tokens:
        raise cannot_pay(job.tokens, account.tokens)
    _enter(db, account.id, Entry(new_id("entry"), -job.tokens, Cause.CHARGE, job.id, job.created_at))


def _turn_of(db: SqliteConnection, queue: str, account: str) -> int:
    """Give the account its next turn in a queue: behind its own last one, but not behind what others have waiting.

    It is start-time fair queueing: the turn that was served last is the queue's virtual time.
    """
    row = db.execute("SELECT max(last) FROM turn WHERE queue = ? AND account IN ('', ?)", (queue, account)).fetchone()
    turn = (row[0] or 0) + 1
    _note_turn(db, queue, account, turn)
    return turn


def _note_turn(db: SqliteConnection, queue: str, account: str, turn: int) -> None:
    db.execute(
        """INSERT INTO turn (queue, account, last) VALUES (?, ?, ?)
           ON CONFLICT DO UPDATE SET last = max(last, excluded.last)""",
        (queue, account, turn),
    )


def _advance(db: SqliteConnection, most: int | None, limit: int, now: float, *, anew: bool) -> int:
    if anew:
        db.execute("UPDATE account SET moved = 1 WHERE id IN (SELECT account FROM work WHERE waiting)")
    moved = db.execute("SELECT id FROM account WHERE moved").fetchall()
    return sum(_advance_line(db, row["id"], most, limit, now) for row in moved)


def _advance_line(db: SqliteConnection, account: str, most: int | None, limit: int, now: float) -> int:
    line = _line_of(account)
    in_line, outside = _counted(db, account)
    room = limit if most is None else max(min(most - outside, limit), 0)
    first = "SELECT job, onward FROM work WHERE waiting AND queue = ? ORDER BY turn, job LIMIT ?"
    going = db.execute(first, (line, room)).fetchall()
    for job, onward in going:
        db.execute(
            "UPDATE work SET queue = ?, turn = ?, since = ? WHERE job = ?",
            (onward, _turn_of(db, onward, account), now, job),
        )
    if len(going) < limit:
        db.execute("UPDATE account SET moved = 0 WHERE id = ?", (account,))
    nth = "SELECT record FROM work JOIN job ON id = job WHERE waiting AND queue = ? ORDER BY turn, job LIMIT 1 OFFSET ?"
    for place in announced_positions(in_line - len(going)):
        _tell_place(db, _job_of(db.execute(nth, (line, place - 1)).fetchone()), place, now)
    return len(going)


def _tell_place(db: SqliteConnection, job: Job, place: int, now: float) -> Job:
    draft = position_event(place)
    if job.detail == draft.fields["detail"]:
        return job
    after = _update(db, job.after(draft, now))
    _note_status(db, job, after)
    _publish(db, after, draft, now)
    return after


def _moved(db: SqliteConnection, account: str) -> None:
    """Note that the account's line, if there is one, is to be looked at."""
    db.execute(
        "UPDATE account SET moved = 1 WHERE id = ? AND EXISTS (SELECT 1 FROM work WHERE waiting AND queue = ?)",
        (account, _line_of(account)),
    )


def _claim(
    db: SqliteConnection,
    node: str,
    rooms: Mapping[str, QueueRoom],
    limit: int,
    *,
    now: float,
    at: float,
    lapses_at: float,
) -> list[Claim]:
    """`now` is the time of day; `at` and `lapses_at` are monotonic, because no lease outlives the process."""
    claims: list[Claim] = []

    def take(jobs: Iterable[str]) -> None:
        claims.extend(_take(db, job, node, lapses_at) for job in jobs)

    take(_left(db, node, limit, at))
    for queue, room in rooms.items():
        take(_impatient(db, queue, now - room.max_wait, limit - len(claims)))
        take(_next_in_turn(db, queue, room.limit, limit - len(claims)))
    return claims


def _left(db: SqliteConnection, node: str, limit: int, at: float) -> list[str]:
    """Jobs that were claimed before, by whoever let go of them; and those whose client wants their end."""
    rows = db.execute(  # by the index: left alone, SQLite walks past every job that is held, oldest first
        """SELECT job FROM work INDEXED BY work_by_lapse WHERE NOT waiting AND lapses_at <= ? AND node IS NOT ?
           UNION ALL SELECT job FROM work WHERE waiting AND urgent ORDER BY job LIMIT ?""",
        (at, node, limit),
    )
    return [row["job"] for row in rows]


def _impatient(db: SqliteConnection, queue: str, before: float, limit: int) -> list[str]:
    rows = db.execute(
        "SELECT job FROM work WHERE waiting AND queue = ? AND since <= ? ORDER BY since LIMIT ?",
        (queue, before, max(limit, 0)),  # below 0 there would be no limit
    )
    return [row["job"] for row in rows]


def _next_in_turn(db: SqliteConnection, queue: str, room: int, limit: int) -> list[str]:
    waiting = "SELECT job, turn FROM work WHERE waiting AND queue = ? ORDER BY turn, job LIMIT ?"
    if limit <= 0 or db.execute(waiting, (queue, 1)).fetchone() is None:
        return []
    under_way = db.execute("SELECT count(*) FROM work WHERE NOT waiting AND queue = ?", (queue,)).fetchone()[0]
    rows = db.execute(waiting, (queue, max(min(room - under_way, limit), 0))).fetchall()
    if rows:
        _note_turn(db, queue, "", rows[-1]["turn"])
    return [row["job"] for row in rows]


def _take(db: SqliteConnection, job_id: str, node: str, lapses_at: float) -> Claim:
    """Make `node` the job's holder; whoever held it before is shut out by the new epoch."""
    db.held.pop(job_id, None)
    db.execute(
        "UPDATE work SET waiting = 0, node = ?, epoch = epoch + 1, lapses_at = ? WHERE job = ?",
        (node, lapses_at, job_id),
    )
    row = db.execute(
        "SELECT record, epoch, since, queue FROM work JOIN job ON job.id = work.job WHERE job = ?", (job_id,)
    ).fetchone()
    job = _job_of(row)
    if row["queue"] == _line_of(job.account):
        _moved(db, job.account)
    return Claim(job, node, row["epoch"], row["since"])


def _renew(db: SqliteConnection, node: str, lapses_at: float) -> None:
    db.execute("UPDATE work SET lapses_at = ? WHERE node = ?", (lapses_at, node))


def _strays(db: SqliteConnection, node: str, driven: Collection[str]) -> list[Claim]:
    held = db.execute("SELECT record, epoch, since FROM work JOIN job ON job.id = work.job WHERE node = ?", (node,))
    claims = (Claim(_job_of(row), node, row["epoch"], row["since"]) for row in held)
    return list(islice((claim for claim in claims if claim.job.id not in driven), AT_ONCE))


def _release(db: SqliteConnection, claim: Claim) -> None:
    db.held.pop(claim.job.id, None)
    db.execute(
        """UPDATE work SET node = NULL, lapses_at = 0,
           waiting = (SELECT json_extract(record, '$.intended_at') IS NULL FROM job WHERE job.id = work.job)
           WHERE job = ? AND node = ? AND epoch = ?""",
        (claim.job.id, claim.node, claim.epoch),
    )
    _moved(db, claim.job.account)  # where it was taken from its line for its end, it stands there again


def _held(db: SqliteConnection, claim: Claim) -> Job:
    """The claim's job as it is now; ClaimLost when it is over or was taken over. A lapse alone loses nothing."""
    node, epoch, known = db.held.get(claim.job.id, ("", 0, None))
    if known is not None and (node, epoch) == (claim.node, claim.epoch):
        return known
    held = "SELECT 1 FROM work WHERE job = ? AND node = ? AND epoch = ?"
    if db.execute(held, (claim.job.id, claim.node, claim.epoch)).fetchone() is None:
        raise ClaimLost(f"{claim.node} does not hold {claim.job.id} any more.")
    return _job_of(db.execute("SELECT record FROM job WHERE id = ?", (claim.job.id,)).fetchone())


def _hold(db: SqliteConnection, claim: Claim, job: Job) -> Job:
    """Write the claim's job, and know it from now on."""
    if db.alone and not job.status.final:
        db.held[job.id] = claim.node, claim.epoch, job
    return _update(db, job)


def _intend(db: SqliteConnection, claim: Claim, now: float | None) -> Job:
    return _hold(db, claim, replace(_held(db, claim), intended_at=now))


def _append(db: SqliteConnection, claim: Claim, draft: Draft, ticket: Ticket | None, now: float) -> Job:
    before = _held(db, claim)
    job = before.after(draft, now)
    if ticket is not None:
        job = replace(job, ticket=ticket)
    _note_status(db, before, job)
    _hold(db, claim, job)
    _publish(db, job, draft, now)
    if draft.refund:
        _refund(db, job, draft, now)
    if job.status.final:
        db.execute("DELETE FROM work WHERE job = ?", (job.id,))
        _moved(db, job.account)
        db.execute("UPDATE job SET ended_at = ? WHERE id = ?", (now, job.id))
        db.held.pop(job.id, None)
    return job


def _note_status(db: SqliteConnection, before: Job, after: Job) -> None:
    """Write the status that stands beside the record, in indexes, where it has changed."""
    if after.status is not before.status:
        db.execute("UPDATE job SET status = ? WHERE id = ?", (after.status, after.id))


def _refund(db: SqliteConnection, job: Job, draft: Draft, now: float) -> None:
    if not draft.status.final or not 0 < draft.refund <= job.tokens:
        raise ValueError(f"{job.id} cost {job.tokens}: {draft.refund} cannot be refunded with {draft.status!r}.")
    _enter(db, job.account, Entry(new_id("entry"), draft.refund, Cause.REFUND, job.id, now))


def _update(db: SqliteConnection, job: Job) -> Job:
    """Write the job's record."""
    db.execute("UPDATE job SET record = ? WHERE id = ?", (_record_of(job), job.id))
    return job


def _publish(db: SqliteConnection, job: Job, draft: Draft, now: float) -> Event:
    """Keep the job's newest event, at the next position of its account's feed, and have it told."""
    if job.account not in db.heads:
        row = db.execute("SELECT head FROM account WHERE id = ?", (job.account,)).fetchone()
        db.heads[job.account] = row["head"]
    db.heads[job.account] += 1
    data = encode(job, draft, job.event, now)
    event = Event(job.id, job.event, data, draft.status.final, db.heads[job.account], "delta" in draft.fields)
    db.execute(
        "INSERT INTO event (job, n, account, position, final, delta, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (event.job, event.n, job.account, event.position, event.final, event.delta, event.data),
    )
    db.told.append(Change(job.account, job.id, job.event, event=event, at=now))
    return event


def _request_cancel(db: SqliteConnection, account: str, job_id: str) -> Job | None:
    job = _job(db, account, job_id)
    if job is None or job.status.final:
        return job
    db.held.pop(job_id, None)
    db.execute("UPDATE work SET urgent = 1 WHERE job = ?", (job_id,))
    db.told.append(Change(job.account, job.id, job.event, cancel=True))
    return _update(db, replace(job, cancel_requested=True))


def _durations(db: SqliteConnection, model: str, limit: int) -> list[float]:
    rows = db.execute(  # by the index, and so without reading any other job
        """SELECT ended_at - json_extract(record, '$.intended_at') FROM job
           WHERE model = ? AND status = 'Completed' AND json_extract(record, '$.intended_at') IS NOT NULL
           ORDER BY ended_at DESC LIMIT ?""",
        (model, limit),
    )
    return [row[0] for row in rows]


def _delete_job(db: SqliteConnection, account: str, job_id: str) -> list[str] | None:
    job = _job(db, account, job_id)
    if job is None:
        return None
    if not job.status.final:
        raise errors.Conflict(f"{job_id} still runs: wait for its end, or cancel it.")
    return _forget(db, job)


def _forget(db: SqliteConnection, job: Job) -> list[str]:
    """Delete a finished job with its events; cursors at or below them are told to begin anew (`floor`)."""
    db.execute(
        """UPDATE account SET floor = max(floor, (SELECT max(position) FROM event WHERE job = ?)) WHERE id = ?""",
        (job.id, job.account),
    )
    db.execute("DELETE FROM job WHERE id = ?", (job.id,))
    db.execute("UPDATE idempotency SET spent = 1 WHERE job = ?", (job.id,))
    db.told.append(Change(job.account, job.id, 0, deleted=True))
    return [output.blob for output in job.outputs if output.blob]


def _sweep(db: SqliteConnection, before: float, keys_before: float, limit: int) -> SweepResult:
    jobs = db.execute("SELECT record FROM job WHERE ended_at < ? ORDER BY ended_at LIMIT ?", (before, limit)).fetchall()
    blobs = [blob for row in jobs for blob in _forget(db, _job_of(row))]
    assets = db.execute(
        """SELECT * FROM asset WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM hold WHERE asset = asset.id)
           ORDER BY created_at LIMIT ?""",
        (before, limit),
    ).fetchall()
    db.executemany("DELETE FROM asset WHERE id = ?", [(row["id"],) for row in assets])
    db.execute(
        """DELETE FROM idempotency WHERE (account, "key") IN
           (SELECT account, "key" FROM idempotency WHERE spent AND at < ? ORDER BY at LIMIT ?)""",
        (keys_before, limit),
    )
    return SweepResult(len(jobs) + len(assets), blobs + [row["blob"] for row in assets])


def _job(db: SqliteConnection, account: str, job_id: str) -> Job | None:
    row = db.execute("SELECT record FROM job WHERE id = ? AND account = ?", (job_id, account)).fetchone()
    return _job_of(row) if row else None


def _jobs(
    db: SqliteConnection, account: str, limit: int, before: str | None, *, status: Status | None, model: str | None
) -> Page[Job]:
    rows = db.execute(
        """SELECT id, record FROM job WHERE account = ? AND id < ?
           AND status = coalesce(?, status) AND model = coalesce(?, model) ORDER BY id DESC LIMIT ?""",
        (account, before or _NEWEST, status, model, limit + 1),
    )
    return _page(rows, limit, _job_of)


_EVENTS: Final = "SELECT job, n, data, final, position, delta FROM event "


def _read(db: SqliteConnection, job_id: str, after: int, account: str | None) -> list[Event]:
    wanted = "WHERE job = ? AND n > ? AND account = coalesce(?, account) ORDER BY n"
    return [_event_of(row) for row in db.execute(_EVENTS + wanted, (job_id, after, account))]


def _read_account(db: SqliteConnection, account: str, after: int, limit: int) -> FeedSlice | None:
    bounds = db.execute("SELECT head, floor FROM account WHERE id = ?", (account,)).fetchone()
    if bounds is None or not bounds["floor"] <= after <= bounds["head"]:
        return None
    rows = db.execute(
        _EVENTS + "WHERE account = ? AND position > ? AND NOT delta ORDER BY position LIMIT ?", (account, after, limit)
    )
    events, cut = _some(_event_of(row) for row in rows)
    return FeedSlice(events, bounds["head"], cut=cut)


def _some(events: Iterable[Event]) -> tuple[list[Event], bool]:
    """The first events, of about `PAGE_BYTES`, and whether there are more."""
    found: list[Event] = []
    size = 0
    for event in events:
        size += len(event.data)
        if found and size > PAGE_BYTES:
            return found, True
        found.append(event)
    return found, False


def _head(db: SqliteConnection, account: str) -> int:
    row = db.execute("SELECT head FROM account WHERE id = ?", (account,)).fetchone()
    return row["head"] if row else 0


def _unfinished(db: SqliteConnection, account: str) -> list[str]:
    return [row["job"] for row in db.execute("SELECT job FROM work WHERE account = ?", (account,))]


def _newest(db: SqliteConnection, account: str, jobs: Sequence[str], head: int) -> list[Place]:
    """Where the newest event of each of the account's jobs is, as the feed stood at `head`."""
    newest = """SELECT position, job, n, length(data) FROM event
                WHERE job = ? AND account = ? AND position <= ? AND NOT delta ORDER BY n DESC LIMIT 1"""
    found = (db.execute(newest, (job, account, head)).fetchone() for job in jobs)
    return [Place(*row) for row in found if row]


def _at(db: SqliteConnection, places: Sequence[Place]) -> list[Event]:
    """The events at these places that are still there."""
    found = (db.execute(_EVENTS + "WHERE job = ? AND n = ?", (place.job, place.n)).fetchone() for place in places)
    return [_event_of(row) for row in found if row]


def _event_of(row: sqlite3.Row) -> Event:
    job, n, data, final, position, delta = row
    return Event(job, n, data, bool(final), position, bool(delta))


def _job_of(row: sqlite3.Row) -> Job:
    return job_json.load(row["record"])


def _record_of(job: Job) -> str:
    return job_json.dump(job).decode()  # text, for SQLite's own JSON functions


# --- assets ---


def _add_asset(db: SqliteConnection, asset: Asset) -> None:
    db.execute(
        "INSERT INTO asset (id, account, type, size, blob, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (asset.id, asset.account, asset.type, asset.size, asset.blob, asset.created_at),
    )


def _asset(db: SqliteConnection, account: str, asset_id: str) -> Asset | None:
    row = db.execute("SELECT * FROM asset WHERE id = ? AND account = ?", (asset_id, account)).fetchone()
    return Asset(**row) if row else None


def _delete_asset(db: SqliteConnection, account: str, asset_id: str) -> Asset | None:
    asset = _asset(db, account, asset_id)
    if asset and db.execute("SELECT 1 FROM hold WHERE asset = ?", (asset_id,)).fetchone():
        raise errors.Conflict("An unfinished job names this asset: wait for its end, or cancel it.")
    if asset:
        db.execute("DELETE FROM asset WHERE id = ?", (asset_id,))
    return asset
