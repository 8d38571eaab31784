"""One thread with one SQLite connection.

`sqlite.py` has two lanes, one that writes and one that reads. What waits in a lane is run in one transaction and
answered in one call of the event loop, so that a hundred writes cost one fsync.
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
from proxy.store.base import Change
from proxy.store.listeners import resolve, unavailable

P = ParamSpec("P")
T = TypeVar("T")
_Task = tuple[asyncio.Future[Any], Callable[[], Any]]


class SqliteConnection(sqlite3.Connection):
    """A connection, and what its transaction will have to tell once it is committed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.row_factory = sqlite3.Row
        self.told: list[Change] = []
        self.heads: dict[str, int] = {}
        """By the account, the newest position that this transaction gave; written once, by `settle`, at its end."""
        self.alone = False
        """Nobody else writes jobs: what this connection knows of them need not be read."""
        self.held: dict[str, tuple[str, int, Job]] = {}
        """By its id, each job as its holder last wrote it: the holder's node and epoch, and the job."""

    def settle(self) -> None:
        """Write what a transaction (or savepoint) has gathered, before it ends."""
        for account, head in self.heads.items():
            self.execute("UPDATE account SET head = ? WHERE id = ?", (head, account))
        self.heads.clear()

    def forget(self) -> None:
        """A transaction was undone: nothing of it is told, and no job is known to be as it was written."""
        self.told.clear()
        self.heads.clear()
        self.held.clear()


class ConnectionThread:
    """One thread with one connection: what waits is run in one transaction and answered in one call of the loop.

    A task that raises is undone alone: then the batch is done again, each task with a savepoint of its own.
    """

    def __init__(self, db: SqliteConnection, begin: str, tell: Callable[[Sequence[Change]], None]) -> None:
        self._db = db
        self._begin = begin
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._waiting = SimpleQueue[_Task | None]()
        self._stopped = False
        self._thread = Thread(target=self._serve, name=f"store: {begin}", daemon=True)
        self._thread.start()

    def run(
        self, work: Callable[Concatenate[SqliteConnection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Let the thread run `work`; the future is answered after the commit."""
        if self._stopped:
            raise errors.Unavailable("The store is closed.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put((future, partial(work, self._db, *args, **kwargs)))
        return future

    def stop(self) -> None:
        """Take no more; what was taken is still done."""
        self._stopped = True
        self._waiting.put(None)

    def join(self) -> None:
        """Wait until all is done."""
        self._thread.join()

    def _serve(self) -> None:
        while batch := self._take():
            outcomes = self._transact(batch)
            told, self._db.told = self._db.told, []
            self._loop.call_soon_threadsafe(self._answer, batch, outcomes, told)

    def _take(self) -> list[_Task]:
        """Wait for a task, then take all that wait; nothing once stopped."""
        batch: list[_Task] = []
        task = self._waiting.get()
        with suppress(Empty):
            while task:
                batch.append(task)
                task = self._waiting.get_nowait()
            self._waiting.put(None)  # stopped: `None` is the last there is, and is met again after this batch
        return batch

    def _transact(self, batch: list[_Task]) -> list[Any]:
        try:
            return self._together(batch)
        except Exception:  # noqa: BLE001 -- whose it was, and what it means, is found by doing them one by one
            self._undo()
        try:
            return self._one_by_one(batch)
        except Exception as error:  # noqa: BLE001 -- the thread goes on, whatever became of this batch
            self._undo()
            return [unavailable(error) for _ in batch]

    def _together(self, batch: list[_Task]) -> list[Any]:
        """As if none could fail: a savepoint for each would be an eighth of a write's cost."""
        self._db.execute(self._begin)
        outcomes = [work() for _, work in batch]
        self._db.settle()
        self._db.execute("COMMIT")
        return outcomes

    def _one_by_one(self, batch: list[_Task]) -> list[Any]:
        self._db.execute(self._begin)
        outcomes = [self._attempt(work) for _, work in batch]
        self._db.execute("COMMIT")
        return outcomes

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """Do `work` and return what came of it: its result, or the exception that undid it."""
        kept = list(self._db.told)
        self._db.execute("SAVEPOINT task")
        try:
            outcome = work()
            self._db.settle()
        except Exception as error:
            self._db.forget()
            self._db.told.extend(kept)
            if not self._db.in_transaction:  # a full disk makes SQLite undo the whole of it: the batch fails
                raise
            self._db.execute("ROLLBACK TO task")
            outcome = unavailable(error) if _of_the_file(error) else error
        self._db.execute("RELEASE task")
        return outcome

    def _undo(self) -> None:
        self._db.forget()
        with suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")

    def _answer(self, batch: list[_Task], outcomes: list[Any], told: list[Change]) -> None:
        self._tell(told)
        resolve((future for future, _ in batch), outcomes)


def _of_the_file(error: Exception) -> bool:
    """Whether SQLite cannot use its file: it is busy, full or away, or (a plain DatabaseError) corrupt."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError
