"""Store in one SQLite file, for one server that runs jobs and any number of commands.

Two threads own one connection each (`connection.py`). One commits all waiting writes together, so that a hundred events
cost one fsync. The other reads, and never waits for a write. A write that returned survives a loss of power
(`synchronous=FULL`).

This class is a facade: its methods choose the thread, and the SQL is in the modules of this package.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from weakref import WeakSet

from proxy.core import errors
from proxy.core.clock import Clock, SystemClock
from proxy.core.job import Draft, Event, Job, Status, Ticket
from proxy.store.listeners import ChangeListener
from proxy.store.sqlite import accounts, assets, claims, feeds, file, jobs, log, retention
from proxy.store.sqlite.connection import ConnectionThread, SqliteConnection
from proxy.store.types import (
    JOBS_PER_READ,
    Account,
    Admission,
    Admitted,
    Asset,
    Change,
    Claim,
    Entry,
    FeedSlice,
    Key,
    Page,
    Place,
    QueueRoom,
    SweepResult,
    first_places,
)


@dataclass(frozen=True, slots=True)
class SqliteTimes:
    """Timeouts of the store, in seconds."""

    busy: float = 5.0
    """Maximum wait for another process's write. A command's write takes milliseconds."""
    ping: float = 10.0
    """Time after which a disk that does not answer counts as unavailable."""


DEFAULT_TIMES: Final = SqliteTimes()
"""The times of production."""


class SqliteStore:
    """The `Store` in one SQLite file. `exclusive` locks it for the one process that runs jobs.

    A claim lasts `lease` seconds unless it is renewed.
    """

    shared = None

    def __init__(
        self,
        path: str | Path,
        clock: Clock | None = None,
        *,
        lease: float = 30.0,
        exclusive: bool = False,
        times: SqliteTimes = DEFAULT_TIMES,
    ) -> None:
        self._path = Path(path)
        self._clock = clock or SystemClock()
        self._lease = lease
        self._exclusive = exclusive
        self._times = times
        self._listeners: WeakSet[ChangeListener] = WeakSet()
        self._backlogs_examined = False

    async def __aenter__(self) -> Self:
        """Open the file; create or migrate it. Raises errors.Unavailable if that fails."""
        try:
            self._file = await asyncio.to_thread(self._open)
        except (OSError, sqlite3.Error) as error:
            raise errors.Unavailable(f"The store {self._path} cannot be opened: {error}.") from error
        self._writer = ConnectionThread(self._file.writer, "BEGIN IMMEDIATE", self._publish)
        self._reader = ConnectionThread(self._file.reader, "BEGIN", self._publish)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the calls already made, then end every listener and close the file."""
        self._writer.stop()
        self._reader.stop()
        await asyncio.to_thread(self._close)
        for listener in self._listeners:
            listener.put(None)

    async def ping(self) -> None:
        """Prove that a transaction can be written now, to the file that is at the store's path."""
        try:
            async with asyncio.timeout(self._times.ping):
                await self._writer.run(file.check_writable, self._path, self._file.identity, self._clock.now())
                await self._reader.run(accounts.key_by_digest, b"")
        except TimeoutError:
            waited = f"{self._times.ping:g} seconds"
            raise errors.Unavailable(f"The store {self._path} has not answered for {waited}.") from None

    async def get_or_set(self, name: str, value: bytes) -> bytes:
        """Return the value kept under `name`."""
        return await self._writer.run(file.get_or_set, name, value)

    async def value(self, name: str) -> bytes | None:
        """Return the value kept under `name`; None if there is none."""
        return await self._reader.run(file.find_value, name)

    async def secret(self, name: str) -> bytes:
        """Return the 32 random bytes kept under `name`."""
        return await self.get_or_set(name, secrets.token_bytes(32))

    # --- Accounts ---

    async def create_key(self, name: str, digest: bytes, tokens: int = 0) -> Key:
        """Add a key to the account called `name`."""
        return await self._writer.run(accounts.create_key, name, digest, tokens, self._clock.now())

    async def key(self, digest: bytes) -> Key | None:
        """Return the key with this digest, as the file has it now."""
        return await self._reader.run(accounts.key_by_digest, digest)

    async def key_by_id(self, key_id: str) -> Key | None:
        """Return the key with this id, as the file has it now."""
        return await self._reader.run(accounts.key_by_id, key_id)

    async def active_keys(self, ids: Collection[str]) -> set[str]:
        """Return the ids whose keys exist and are not revoked."""
        return await self._reader.run(accounts.active_keys, list(ids))

    async def keys(self) -> Sequence[Key]:
        """Return all keys, oldest first."""
        return await self._reader.run(accounts.list_keys)

    async def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key for ever."""
        return await self._writer.run(accounts.revoke_key, key_id, self._clock.now())

    async def grant(self, name: str, tokens: int) -> Account | None:
        """Add `tokens` to the account called `name`."""
        return await self._writer.run(accounts.grant, name, tokens, self._clock.now())

    async def account(self, account_id: str) -> Account | None:
        """Return the account with its current balance."""
        return await self._reader.run(accounts.find_account, account_id)

    async def accounts(self) -> Sequence[Account]:
        """Return all accounts, sorted by name."""
        return await self._reader.run(accounts.list_accounts)

    async def ledger(self, account: str, limit: int, before: str | None = None) -> Page[Entry]:
        """Return the account's ledger entries, newest first."""
        return await self._reader.run(accounts.ledger, account, limit, before)

    # --- Jobs, Claims and Feeds ---

    async def admit(self, admission: Admission) -> Admitted:
        """Record a new job, or return the one that its idempotency key created."""
        return await self._writer.run(jobs.admit, admission, self._clock.now())

    async def replay(self, admission: Admission) -> Job | None:
        """Return the job that the admission's idempotency key created."""
        return await self._reader.run(jobs.replay, admission)

    async def release_backlog(self, max_jobs: int | None, limit: int) -> int:
        """Move jobs from account backlogs to provider queues."""
        every = not self._backlogs_examined
        number = await self._writer.run(claims.release_backlog, max_jobs, limit, self._clock.now(), every_account=every)
        self._backlogs_examined = True
        return number

    async def waiting(self, queues: Collection[str]) -> Mapping[str, int]:
        """Return the number of waiting jobs, by queue and in backlogs."""
        return await self._reader.run(claims.waiting, list(queues))

    async def claim(self, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        """Claim up to `limit` unfinished jobs without a holder, as far as their queues have room."""
        now, at = self._clock.now(), self._clock.monotonic()
        return await self._writer.run(claims.claim, node, rooms, limit, now=now, at=at, lapses_at=at + self._lease)

    async def renew(self, node: str) -> None:
        """Extend the leases of all the node's claims."""
        await self._writer.run(claims.renew, node, self._clock.monotonic() + self._lease)

    async def unknown_claims(self, node: str, driven: Collection[str]) -> Sequence[Claim]:
        """Return claims of the node that it does not know of."""
        return await self._reader.run(claims.unknown_claims, node, frozenset(driven))

    async def release(self, claim: Claim) -> None:
        """Give the job back unfinished."""
        await self._writer.run(claims.release, claim)

    async def record_intent(self, claim: Claim, request: bytes | None = None) -> Job:
        """Record that the order is about to be sent, and its request."""
        return await self._writer.run(jobs.write_intent, claim, self._clock.now(), request)

    async def intended_request(self, claim: Claim) -> bytes | None:
        """Return the request of the recorded intent."""
        return await self._reader.run(jobs.intended_request, claim)

    async def withdraw_intent(self, claim: Claim) -> Job:
        """Record that the provider certainly did not take the order."""
        return await self._writer.run(jobs.write_intent, claim, None)

    async def append(self, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        """Record the job's next event, its refund and the new ticket."""
        return await self._writer.run(jobs.append, claim, draft, ticket, self._clock.now())

    async def request_cancel(self, account: str, job_id: str) -> Job | None:
        """Record that the client wants the job canceled."""
        return await self._writer.run(jobs.request_cancel, account, job_id)

    async def durations(self, model: str, limit: int) -> Sequence[float]:
        """Return how long the newest completed jobs of a model took, in seconds."""
        return await self._reader.run(jobs.durations, model, limit)

    async def delete_job(self, account: str, job_id: str) -> Sequence[str] | None:
        """Delete a finished job with its events."""
        return await self._writer.run(jobs.delete_job, account, job_id)

    async def sweep(self, before: float, limit: int) -> SweepResult:
        """Delete some of the jobs that ended, and of the assets created, before `before`."""
        return await self._writer.run(retention.sweep, before, limit, self._clock.now())

    async def job(self, account: str, job_id: str) -> Job | None:
        """Return the account's job."""
        return await self._reader.run(log.find_job, account, job_id)

    async def jobs(
        self,
        account: str,
        limit: int,
        before: str | None = None,
        status: Status | None = None,
        model: str | None = None,
    ) -> Page[Job]:
        """Return the account's jobs, newest first."""
        return await self._reader.run(jobs.list_jobs, account, limit, before, status=status, model=model)

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        """Return the job's events numbered above `after`, in order."""
        return await self._reader.run(feeds.read, job_id, after, account)

    async def read_account(self, account: str, after: int, limit: int) -> FeedSlice | None:
        """Return up to `limit` events of the account's feed at positions above `after`."""
        return await self._reader.run(feeds.read_account, account, after, limit)

    async def snapshot(self, account: str, jobs: Collection[str] | None = None, head: int | None = None) -> FeedSlice:
        """Return the newest event of each of the account's `jobs` (None: of each unfinished job)."""
        head = await self._reader.run(feeds.head, account) if head is None else head
        named = list(dict.fromkeys(await self._reader.run(feeds.unfinished_jobs, account) if jobs is None else jobs))
        places: list[Place] = []
        for start in range(0, len(named), JOBS_PER_READ):
            places += await self._reader.run(feeds.newest_events, account, named[start : start + JOBS_PER_READ], head)
        first, rest = first_places(places)
        events: list[Event] = []
        for start in range(0, len(first), JOBS_PER_READ):
            events += await self._reader.run(feeds.read_places, first[start : start + JOBS_PER_READ])
        return FeedSlice(events, head, rest=rest)

    def changes(self) -> AsyncIterator[Change]:
        """Yield every event recorded from this call on, after its commit.

        Only this object's events are published, because no other process on the file records events.
        """
        listener = ChangeListener()
        self._listeners.add(listener)
        return listener

    # --- Assets ---

    async def add_asset(self, asset: Asset) -> None:
        """Record an asset. Its bytes have to be stored already."""
        await self._writer.run(assets.add_asset, asset)

    async def asset(self, account: str, asset_id: str) -> Asset | None:
        """Return the account's asset."""
        return await self._reader.run(assets.find_asset, account, asset_id)

    async def delete_asset(self, account: str, asset_id: str) -> Asset | None:
        """Delete the asset's record and return it."""
        return await self._writer.run(assets.delete_asset, account, asset_id)

    # --- the file and the threads ---

    def _open(self) -> file.OpenFile:
        return file.open_file(self._path, self._connect, exclusive=self._exclusive)

    def _connect(self) -> SqliteConnection:
        return file.connect(self._path, self._times.busy)

    def _close(self) -> None:
        self._writer.join()
        self._reader.join()
        self._file.resources.close()

    def _publish(self, changes: Sequence[Change]) -> None:
        for listener in self._listeners if changes else ():
            listener.put(changes)
