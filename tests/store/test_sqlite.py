"""Tests of the SQLite store: the contract, and the file, its locks, group commit and failures."""

import asyncio
import gc
import resource
import sqlite3
import stat
import sys
import threading
import weakref
from collections.abc import Awaitable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.core import errors
from proxy.core.job import Job, Order
from proxy.store import open_store
from proxy.store.sqlite.schema import MIGRATIONS
from proxy.store.sqlite.store import SqliteStore, SqliteTimes
from proxy.store.types import ClaimLost
from tests.store.contract import StoreContract
from tests.support.root import ROOT
from tests.support.store import FAILED, LEASE, PROGRESS, Caller, ManualClock, Opened, claim_one, new_caller


class WatchedStore(SqliteStore):
    """A store that records its SQL. Its transactions begin only while `gate` is set."""

    pragma = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = threading.Event()
        self.gate.set()
        self.statements: list[str] = []
        self.connections: list[sqlite3.Connection] = []

    def _connect(self) -> Any:
        db = super()._connect()
        db.executescript(self.pragma)
        db.set_trace_callback(self._record)
        self.connections.append(db)
        return db

    def _record(self, statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            self.gate.wait(5)
        self.statements.append(statement)


class SmallStore(WatchedStore):
    """A store whose file is limited to 60 pages, like a full disk."""

    pragma = "PRAGMA max_page_count = 60"


class NoWaitStore(WatchedStore):
    """A store that does not wait for another process's write."""

    pragma = "PRAGMA busy_timeout = 0"


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Limit every file of this process to `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "pollcast.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def opened(self, path: Path, clock: ManualClock) -> Opened:
        return lambda: SqliteStore(path, clock, lease=LEASE)


# --- the file ---


async def test_connections_use_a_synced_write_ahead_log(path: Path) -> None:
    async with WatchedStore(path) as store:
        for db in store.connections:
            found = {
                name: db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
            assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


async def test_the_reading_connection_cannot_write(path: Path) -> None:
    async with WatchedStore(path) as store:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.connections[1].execute("DELETE FROM account")


async def test_the_file_is_private_to_its_owner(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.ping()
        assert mode(path.parent) == 0o700
        assert mode(path) == mode(wal_of(path)) == 0o600


async def test_only_the_file_and_its_lock_remain_after_closing(path: Path) -> None:
    async with SqliteStore(path, exclusive=True) as store:
        await store.ping()
    assert {file.name for file in path.parent.iterdir()} == {"pollcast.db", "pollcast.db.lock"}


@pytest.mark.parametrize("table", ["event", "event_by_position", "job", "entry", "idempotency", "account"])
async def test_ping_fails_while_a_table_that_orders_need_is_corrupt(path: Path, table: str) -> None:
    async with SqliteStore(path) as store:
        caller = await new_caller(store)
        await caller.admit(idempotency_key="once")
    with sqlite3.connect(path) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    async with SqliteStore(path) as store:
        with pytest.raises(errors.Unavailable):
            await store.ping()
        with pytest.raises(errors.Unavailable):
            await Caller(store, caller.key).admit(idempotency_key="twice")


async def test_ping_leaves_no_records(path: Path) -> None:
    async with WatchedStore(path) as store:
        changes = store.changes()
        await store.ping()
        caller = await new_caller(store)
        assert [account.id for account in await store.accounts()] == [caller.account]
        counts = "SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM event), (SELECT count(*) FROM asset)"
        assert tuple(store.connections[0].execute(counts).fetchone()) == (0, 0, 0)
        job = await caller.admit()
        assert (await anext(changes)).job == job.id


async def test_ping_writes(path: Path) -> None:
    async with SqliteStore(path) as store:
        size = wal_of(path).stat().st_size
        await store.ping()
        assert wal_of(path).stat().st_size > size


async def test_a_path_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for path in (tmp_path / "file" / "pollcast.db", tmp_path):
        with pytest.raises(errors.Unavailable, match="cannot be opened"):
            async with SqliteStore(path):
                pass


async def test_a_file_that_is_not_a_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database, " * 100)
    with pytest.raises(errors.Unavailable, match="not a database"):
        async with SqliteStore(path):
            pass
    assert path.read_text() == "Dear database, " * 100


async def test_a_newer_schema_is_refused(path: Path) -> None:
    async with SqliteStore(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 999")
    with pytest.raises(errors.Unavailable, match=r"newer Pollcast.*999"):
        async with SqliteStore(path):
            pass


async def test_many_handles_can_open_a_new_file_at_once(path: Path) -> None:
    async def make(name: str) -> None:
        async with SqliteStore(path) as store:
            await store.create_key(name, name.encode())

    await asyncio.gather(*(make(f"account-{n}") for n in range(8)))
    async with SqliteStore(path) as store:
        assert len(await store.accounts()) == 8


# --- constraints of the ledger ---


@pytest.mark.parametrize("statement", ["UPDATE entry SET tokens = 1", "DELETE FROM entry"])
async def test_ledger_entries_cannot_be_changed_or_deleted(path: Path, statement: str) -> None:
    async with SqliteStore(path) as store:
        await new_caller(store)
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)


@pytest.mark.parametrize("cause", ["charge", "refund"])
async def test_a_second_charge_or_refund_cannot_be_written(path: Path, cause: str) -> None:
    async with SqliteStore(path) as store:
        await (await new_caller(store)).admit()
        await store.append(await claim_one(store), FAILED)
    again = "INSERT INTO entry SELECT 'entry_2', account, tokens, cause, job, at FROM entry WHERE cause = ?"
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError, match=r"entry\.job, entry\.cause"):
        db.execute(again, [cause])


async def test_a_balance_below_zero_cannot_be_written(path: Path) -> None:
    async with SqliteStore(path) as store:
        caller = await new_caller(store, tokens=5)
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError, match="tokens >= 0"):
        db.execute("INSERT INTO entry VALUES ('entry_2', ?, -6, 'grant', NULL, 0)", [caller.account])


async def test_a_database_of_the_first_schema_is_migrated_completely(path: Path, clock: ManualClock) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db, db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO account (id, name, tokens, head, floor) VALUES ('acct_1', 'web', 0, 4, 1)")
        for job, status in (("job_1", "Completed"), ("job_2", "Processing")):
            record = {
                "id": job, "account": "acct_1", "key": "key_1", "order": {"model": "suno"}, "tokens": 0,
                "created_at": 1.0, "updated_at": 5.0, "status": status, "event": 2, "outputs": [],
            }  # fmt: skip
            row = (job, "acct_1", "suno", status, orjson.dumps(record).decode())
            db.execute("INSERT INTO job (id, account, model, status, record) VALUES (?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO work (job, node, lapses_at) VALUES ('job_2', 'node-a', 0)")
        keys = [("of a deleted job", "job_0"), ("of a kept job", "job_2")]
        db.executemany("INSERT INTO idempotency VALUES ('acct_1', ?, x'00', ?, 1)", keys)
        db.executemany(
            "INSERT INTO event (job, n, account, position, final, data) VALUES (?, ?, 'acct_1', ?, ?, ?)",
            [
                ("job_1", 1, 1, 0, b'{"n":1}'),
                ("job_2", 1, 2, 0, b'{"n":1}'),
                ("job_1", 2, 3, 1, b'{"n":2}'),
                ("job_2", 2, 4, 0, b'{"n":2,"delta":"Hi"}'),
            ],
        )
    async with SqliteStore(path, clock) as store:
        (claim,) = await store.claim("node-b", {}, 10)
        assert claim.job.id == "job_2"
        assert [event.job for event in (await store.snapshot("acct_1")).events] == ["job_2"]
        head = (await store.snapshot("acct_1")).head
        feed = await store.read_account("acct_1", head - 3, 10)
        assert feed is not None
        assert [(event.job, event.n, head - event.position) for event in feed.events] == [
            ("job_2", 1, 2),
            ("job_1", 2, 1),
        ]
        assert await store.read_account("acct_1", head - 4, 10) is None  # under the floor
        clock.time += 10
        assert (await store.sweep(clock.now(), 10)).deleted == 1
        assert await store.job("acct_1", "job_1") is None
        clock.time += 2 * 86400
        await store.sweep(clock.now(), 10)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute('SELECT "key" FROM idempotency').fetchall() == [("of a kept job",)]


# --- readiness ---


async def test_ping_fails_if_the_file_was_deleted_or_replaced(path: Path) -> None:
    async with SqliteStore(path, exclusive=True) as store:
        await store.ping()
        await asyncio.to_thread(path.unlink)
        with pytest.raises(errors.Unavailable, match="deleted or replaced"):
            await store.ping()
        await asyncio.to_thread(path.touch)
        with pytest.raises(errors.Unavailable, match="deleted or replaced"):
            await store.ping()


async def answers_ping(store: SqliteStore) -> bool:
    try:
        await store.ping()
    except errors.Unavailable:
        return False
    return True


async def test_ping_fails_while_the_disk_does_not_answer(path: Path) -> None:
    disk = threading.Event()
    async with SqliteStore(path, exclusive=True, times=SqliteTimes(ping=0.05)) as store:
        hanging = store._writer.run(lambda _: disk.wait())  # noqa: SLF001 - stands in for a write on a hanging disk
        with pytest.raises(errors.Unavailable, match="not answered"):
            await store.ping()
        disk.set()
        await hanging
        while not await answers_ping(store):  # a slow machine may need more than 50 ms
            pass


# --- one server ---


async def test_a_second_server_on_the_same_file_is_refused(path: Path) -> None:
    async with SqliteStore(path, exclusive=True):
        with pytest.raises(errors.Unavailable, match="Another server"):
            async with SqliteStore(path, exclusive=True):
                pass
    async with SqliteStore(path, exclusive=True) as store:
        await store.ping()


async def test_a_new_server_takes_over_the_claims_of_a_dead_one(path: Path, clock: ManualClock) -> None:
    async with SqliteStore(path, clock, exclusive=True) as store:
        await (await new_caller(store)).admit()
        old = await claim_one(store)
    async with SqliteStore(path, clock, exclusive=True) as store:
        new = await claim_one(store)
        assert new.epoch > old.epoch
        with pytest.raises(ClaimLost):
            await store.append(old, PROGRESS)


async def test_a_command_on_the_server_s_file_keeps_its_claims(path: Path, clock: ManualClock) -> None:
    async with SqliteStore(path, clock, exclusive=True) as store:
        await (await new_caller(store)).admit()
        claim = await claim_one(store)
        async with SqliteStore(path, clock) as command:
            await command.grant("web", 5)
        assert (await store.append(claim, PROGRESS)).event == 2


async def test_a_command_of_another_process_is_visible(path: Path) -> None:
    async with SqliteStore(path, exclusive=True) as store:
        script = (
            "import asyncio, sys\n"
            "from proxy.core.clock import SystemClock\n"
            "from proxy.store import open_store\n"
            "async def main():\n"
            "    async with open_store(f'sqlite:///{sys.argv[1]}', SystemClock()) as store:\n"
            "        await store.create_key('web', b'digest', 7)\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(path), cwd=ROOT, stdin=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0
        key = await store.key(b"digest")
        assert key
        assert await store.accounts() == [await store.account(key.account)]


# --- group commit ---


async def run_together(store: WatchedStore, calls: list[Awaitable[Any]]) -> list[Any]:
    """Start all the calls before the writer begins. At most the first gets a separate transaction."""
    store.gate.clear()
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    store.statements.clear()
    store.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_waiting_writes_share_one_commit(path: Path) -> None:
    async with WatchedStore(path) as store:
        caller = await new_caller(store)
        await run_together(store, [caller.admit(0) for _ in range(100)])
        assert len((await store.jobs(caller.account, 200)).items) == 100
        assert store.statements.count("BEGIN IMMEDIATE") <= 2


async def test_a_failed_write_does_not_affect_others_in_its_commit(path: Path) -> None:
    async with WatchedStore(path) as store:
        caller = await new_caller(store, tokens=10)
        changes = store.changes()
        results = await run_together(store, [caller.admit(tokens) for tokens in (0, 5, 99, 5, 99, 0)])
        assert store.statements.count("BEGIN IMMEDIATE") <= 2
        assert [type(result) for result in results] == [
            Job,
            Job,
            errors.InsufficientTokens,
            Job,
            errors.InsufficientTokens,
            Job,
        ]
        assert await caller.ledger() == [10, -5, -5]
        published = [(await anext(changes)).job for _ in range(4)]
        assert published == [result.id for result in results if isinstance(result, Job)]


async def test_each_failed_write_raises_a_separate_exception(path: Path) -> None:
    async with NoWaitStore(path) as store:
        with write_lock(path):
            failures = await run_together(store, [store.grant("web", 1) for _ in range(5)])
        assert len({id(failure) for failure in failures}) == 5


async def test_a_dropped_listener_is_garbage_collected(path: Path) -> None:
    async with SqliteStore(path) as store:
        changes = store.changes()
        dropped = weakref.ref(changes)
        del changes
        gc.collect()
        assert dropped() is None


# --- failures ---


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Hold the file's write lock, like another process."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


async def test_a_locked_file_refuses_writes_and_allows_reads(path: Path) -> None:
    async with NoWaitStore(path) as store:
        caller = await new_caller(store)
        with write_lock(path):
            for call in (caller.admit(), store.ping()):
                with pytest.raises(errors.Unavailable, match="locked"):
                    await call
            assert await caller.balance() == 100
        await caller.admit()
        assert await caller.ledger() == [100, -20]


async def test_a_full_file_refuses_whole_orders_and_allows_reads(path: Path) -> None:
    async with SmallStore(path) as store:
        caller = await new_caller(store, tokens=1000)
        big = Order("suno", {"prompt": "la " * 5000})
        admitted = [await caller.admit(1)]
        claim = await claim_one(store)
        with pytest.raises(errors.Unavailable, match="full"):
            while True:
                admitted.append(await caller.admit(1, order=big))
        assert len(admitted) > 1
        page = await store.jobs(caller.account, 200)
        assert [job.id for job in page.items] == [job.id for job in reversed(admitted)]
        assert await caller.balance() == sum(await caller.ledger()) == 1000 - len(admitted)
        assert (await store.append(claim, replace(FAILED, refund=1))).refunded == 1


async def test_a_full_file_leaves_no_partial_batch(path: Path) -> None:
    async with SmallStore(path) as store:
        caller = await new_caller(store, tokens=1000)
        small, big = Order("suno", {}), Order("suno", {"prompt": "la " * 100_000})
        results = await run_together(store, [caller.admit(1, order=order) for order in (small, big, small)])
        jobs = [result for result in results if isinstance(result, Job)]
        assert isinstance(results[1], errors.Unavailable)
        assert "full" in results[1].message
        assert len(jobs) == 1000 - await caller.balance() == len((await store.jobs(caller.account, 9)).items)


async def test_a_failed_commit_fails_all_its_writes_and_records_nothing(path: Path) -> None:
    async with WatchedStore(path) as store:
        caller = await new_caller(store)
        changes = store.changes()
        with files_limited_to(wal_of(path).stat().st_size):
            results = await run_together(store, [caller.admit(1) for _ in range(5)])
        assert [type(result) for result in results] == [errors.Unavailable] * 5
        assert (await store.jobs(caller.account, 9)).items == []
        assert await caller.ledger() == [100]
        job = await caller.admit(1)
        assert (await anext(changes)).job == job.id


# --- open_store ---


async def test_a_url_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    monkeypatch.chdir(tmp_path)
    for url, path in (("sqlite:///var/a.db", "var/a.db"), (f"sqlite:///{tmp_path}/b.db", "b.db")):
        async with open_store(url, clock) as store:
            await store.ping()
        assert (tmp_path / path).exists()


@pytest.mark.parametrize(
    ("url", "valid"),
    [
        ("postgres://localhost/db", "sqlite:///relative/path.db"),
        ("sqlite:///", "sqlite:///relative/path.db"),
        ("sqlite://pollcast.db", "sqlite:///relative/path.db"),
        ("pollcast.db", "sqlite:///relative/path.db"),
    ],
)
def test_an_invalid_url_is_refused_with_valid_examples(url: str, valid: str) -> None:
    with pytest.raises(ValueError, match=valid):
        open_store(url, ManualClock())
