"""A thread that owns one SQLite connection and runs the store's calls in batches.

`SqliteStore` has two such threads: one writes, the other reads. All calls that wait for a thread run in one transaction
and are resolved in one callback of the event loop. So a hundred writes cost one fsync.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

from proxy.core import errors
from proxy.core.job import Job
from proxy.store.listeners import resolve, unavailable
from proxy.store.types import Change

P = ParamSpec("P")
T = TypeVar("T")
_Call = tuple[asyncio.Future[Any], Callable[[], Any]]


class SqliteConnection(sqlite3.Connection):
    """A connection with the state of its open transaction, and a cache of held jobs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.row_factory = sqlite3.Row
        self.pending_changes: list[Change] = []
        """Changes of the open transaction. They are published after its commit."""
        self.pending_heads: dict[str, int] = {}
        """Newest feed position of each account that the open transaction has advanced. `flush` writes each once."""
        self.sole_writer = False
        """True if no other process writes jobs, so that `job_cache` may replace reads."""
        self.job_cache: dict[str, tuple[str, int, Job]] = {}
        """Held jobs by id, as last written: node and epoch of the holder's claim, and the job."""

    def flush(self) -> None:
        """Write the pending heads, before the transaction or savepoint ends."""
        for account, head in self.pending_heads.items():
            self.execute("UPDATE account SET head = ? WHERE id = ?", (head, account))
        self.pending_heads.clear()

    def discard(self) -> None:
        """Drop pending state and cache after a rollback, because they describe writes that were undone."""
        self.pending_changes.clear()
        self.pending_heads.clear()
        self.job_cache.clear()


class ConnectionThread:
    """A thread with one connection. It runs all waiting calls in one transaction.

    If a call raises, the batch is rolled back and repeated with a savepoint for each call. Then only the calls that
    raise are undone.
    """

    def __init__(self, db: SqliteConnection, begin: str, publish: Callable[[Sequence[Change]], None]) -> None:
        self._db = db
        self._begin = begin
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._waiting = SimpleQueue[_Call | None]()
        self._stopped = False
        self._thread = Thread(target=self._serve, name=f"store: {begin}", daemon=True)
        self._thread.start()

    def run(
        self, work: Callable[Concatenate[SqliteConnection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Run `work` in the thread. The future is resolved after the commit. Raises errors.Unavailable once stopped."""
        if self._stopped:
            raise errors.Unavailable("The store is closed.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put((future, partial(work, self._db, *args, **kwargs)))
        return future

    def stop(self) -> None:
        """Accept no more calls. Calls that wait already are still run."""
        self._stopped = True
        self._waiting.put(None)

    def join(self) -> None:
        """Block until the last call has run."""
        self._thread.join()

    def _serve(self) -> None:
        while batch := self._take():
            outcomes = self._transact(batch)
            changes, self._db.pending_changes = self._db.pending_changes, []
            self._loop.call_soon_threadsafe(self._resolve, batch, outcomes, changes)

    def _take(self) -> list[_Call]:
        """Wait for a call, then return all that wait. An empty list means stopped."""
        batch: list[_Call] = []
        call = self._waiting.get()
        with suppress(Empty):
            while call:
                batch.append(call)
                call = self._waiting.get_nowait()
            self._waiting.put(None)  # `None` is the last item: put it back, so that the next `_take` finds it
        return batch

    def _transact(self, batch: list[_Call]) -> list[Any]:
        try:
            return self._run_together(batch)
        except Exception:  # noqa: BLE001 -- the calls run one by one below, which shows which of them raised
            self._rollback()
        try:
            return self._run_one_by_one(batch)
        except Exception as error:  # noqa: BLE001 -- the thread must survive every failed batch
            self._rollback()
            return [unavailable(error) for _ in batch]

    def _run_together(self, batch: list[_Call]) -> list[Any]:
        """Run the batch without savepoints, because a savepoint for each call adds one eighth to a write's cost."""
        self._db.execute(self._begin)
        outcomes = [work() for _, work in batch]
        self._db.flush()
        self._db.execute("COMMIT")
        return outcomes

    def _run_one_by_one(self, batch: list[_Call]) -> list[Any]:
        self._db.execute(self._begin)
        outcomes = [self._attempt(work) for _, work in batch]
        self._db.execute("COMMIT")
        return outcomes

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """Run `work` in a savepoint; return its result, or the exception that undid it."""
        earlier = list(self._db.pending_changes)
        self._db.execute("SAVEPOINT task")
        try:
            outcome = work()
            self._db.flush()
        except Exception as error:
            self._db.discard()
            self._db.pending_changes.extend(earlier)
            if not self._db.in_transaction:  # on a full disk SQLite rolls back the whole transaction: the batch fails
                raise
            self._db.execute("ROLLBACK TO task")
            outcome = unavailable(error) if _is_file_error(error) else error
        self._db.execute("RELEASE task")
        return outcome

    def _rollback(self) -> None:
        self._db.discard()
        with suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")

    def _resolve(self, batch: list[_Call], outcomes: list[Any], changes: list[Change]) -> None:
        self._publish(changes)
        resolve((future for future, _ in batch), outcomes)


def _is_file_error(error: Exception) -> bool:
    """Return True if SQLite cannot use its file: busy, full, missing, or corrupt (a plain DatabaseError)."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError
