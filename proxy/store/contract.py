"""The Store's contract: five protocols, and `Store`, which is their sum.

`api` and `runner` meet only in the store. A backend keeps accounts, API keys, tokens, jobs, events and assets. A
constructor asks for the protocol that it needs: `Accounts`, `Jobs`, `Claims`, `Feeds` or `Assets`.

Each method is one transaction: all of it happens, or nothing. When it has returned, its effect survives a crash and a
loss of power. Times are seconds since the epoch, read from the clock that the store was opened with. Tokens are whole
numbers. A backend that cannot serve raises `errors.Unavailable`.

Every backend makes these promises, and `tests/store/contract.py` tests them:

1. A job's events are numbered 1, 2, 3 ... without gaps. Exactly one is final, and it is the last.
2. Tokens move only in `admit` (charge), `append` (refund) and `grant`, in the transaction of their cause. A job is
   charged once and refunded at most once. A balance equals the sum of its ledger entries and is never below zero.
3. Only the holder of a job's claim can change the job. A lost claim raises `ClaimLost` and changes nothing. The one
   exception is a job in its account's backlog, which has no holder: the store itself records its position.
4. `changes()` yields a change only after it can be read. Changes of an account come in the order of their positions.
5. Every event has a position in its account's feed, which is the last position plus 1. An account's positions begin at
   a random number. So a cursor of another account, or of a job, is almost certainly not a position of this account.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from proxy.core import provider_health
from proxy.core.job import Draft, Event, Job, Status, Ticket
from proxy.store.types import (
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
    QueueRoom,
    SweepResult,
)


class Accounts(Protocol):
    """Accounts, their API keys and the ledger of their tokens."""

    async def create_key(self, name: str, digest: bytes, tokens: int = 0) -> Key:
        """Add a key to the account called `name`, and grant `tokens` if they are not 0.

        The account is created if it does not exist.
        """

    async def key(self, digest: bytes) -> Key | None:
        """Return the key with this digest, revoked or not. Another process's change is visible within a second."""

    async def key_by_id(self, key_id: str) -> Key | None:
        """Return the key with this id, revoked or not. Another process's change is visible within a second."""

    async def active_keys(self, ids: Collection[str]) -> set[str]:
        """Return the ids, of at most 1,000, whose keys exist and are not revoked.

        Another process's change is visible within a second.
        """

    async def keys(self) -> Sequence[Key]:
        """Return all keys, oldest first."""

    async def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key for ever; None for an unknown id. Repeating the call changes nothing."""

    async def grant(self, name: str, tokens: int) -> Account | None:
        """Add `tokens` to the account called `name`; a negative number takes tokens. None for an unknown name.

        Raises errors.InsufficientTokens if the balance would fall below zero.
        """

    async def account(self, account_id: str) -> Account | None:
        """Return the account with its current balance."""

    async def accounts(self) -> Sequence[Account]:
        """Return all accounts, sorted by name."""

    async def ledger(self, account: str, limit: int, before: str | None = None) -> Page[Entry]:
        """Return the account's ledger entries, newest first.

        An unknown `before` is not refused: ids sort by time, and the page starts at the time in that id.
        """


class Jobs(Protocol):
    """Jobs: admission with its charge, lists, cancel requests, deletion and retention."""

    async def admit(self, admission: Admission) -> Admitted:
        """Record a new job: idempotency key, charge, job and event 1, in one transaction.

        An idempotency key that is known with the same fingerprint returns its job and charges nothing, even if the
        account is at its limits.

        If the account has `max_jobs` unfinished jobs, or a backlog, the job joins the backlog. Its event 2 then
        says its position. If the backlog is full, the order is refused with errors.RateLimited, also under concurrent
        calls.

        Raises errors.InsufficientTokens, errors.IdempotencyConflict for another fingerprint, and errors.NotFound if the
        key's job was deleted or a named asset is missing. A refused order records nothing, and its idempotency key
        stays unused.
        """

    async def replay(self, admission: Admission) -> Job | None:
        """Return the job that the admission's idempotency key created; None if there is none. Raises as `admit`."""

    async def request_cancel(self, account: str, job_id: str) -> Job | None:
        """Record that the client wants the job canceled, and publish a Change. A finished job stays as it is.

        Return the job, or None if the account has no job with this id.
        """

    async def job(self, account: str, job_id: str) -> Job | None:
        """Return the account's job; None if it does not exist or belongs to another account."""

    async def jobs(
        self,
        account: str,
        limit: int,
        before: str | None = None,
        status: Status | None = None,
        model: str | None = None,
    ) -> Page[Job]:
        """Return the account's jobs, newest first. The page ends early at `PAGE_BYTES`.

        An unknown `before` is not refused: ids sort by time, and the page starts at the time in that id.
        """

    async def durations(self, model: str, limit: int) -> Sequence[float]:
        """Return how long the newest `limit` completed jobs of a model took, in seconds, newest first.

        A duration runs from the intent (`record_intent`) to the end. Jobs of all accounts count. Jobs that retention
        has deleted may be missing.
        """

    async def delete_job(self, account: str, job_id: str) -> Sequence[str] | None:
        """Delete a finished job with its events and outputs; return the names of its blobs, or None if unknown.

        Its ledger entries and its idempotency key are kept. Raises errors.Conflict while the job runs.
        """

    async def sweep(self, before: float, limit: int) -> SweepResult:
        """Delete up to `limit` jobs that ended before `before`, and up to `limit` assets created before it.

        Unfinished jobs, the assets that they name, and ledger entries are never deleted. An idempotency key is deleted
        after its job, and at the earliest 24 hours after it was used.
        """


class Claims(Protocol):
    """Claims: the queues of waiting jobs, leases, and the records that a claim's holder writes."""

    async def release_backlog(self, max_jobs: int | None, limit: int) -> int:
        """Move jobs from account backlogs to provider queues, oldest first, and return how many moved.

        For each account at most `limit` jobs move, until it has `max_jobs` unfinished jobs outside its backlog (None:
        no limit). From then on they wait for room. Jobs left behind are notified of their new position if it is in
        `announced_positions`. After the first call, only accounts with a newly finished job are examined.
        """

    async def waiting(self, queues: Collection[str]) -> Mapping[str, int]:
        """Return the number of waiting jobs for each queue. The key `BACKLOG` counts the jobs in account backlogs."""

    async def claim(self, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        """Claim up to `limit` unfinished jobs without a holder, from the queues in `rooms`.

        First come, oldest first, jobs that were claimed before, and jobs that no longer wait: their client wants them
        canceled (also in a backlog), or they have waited `max_wait`. Waiting jobs follow, as far as their queue has
        room. Accounts take turns, so an account with many waiting jobs does not delay another account's first.

        A claim lasts until its job ends, `release`, or a lease that expired without `renew` when another node claims
        the job. A node never takes a job from itself, however late it renews. A call of `claim` may renew.
        """

    async def renew(self, node: str) -> None:
        """Extend the leases of all the node's claims."""

    async def unknown_claims(self, node: str, driven: Collection[str]) -> Sequence[Claim]:
        """Return up to `JOBS_PER_READ` claims of the node for jobs other than `driven`.

        They exist if the store was restored to an earlier state.
        """

    async def release(self, claim: Claim) -> None:
        """Give the job back unfinished, so that any node may claim it at once. A lost claim changes nothing.

        A job without a recorded intent (`record_intent`) waits again in its old turn, and its room is free.
        """

    async def record_intent(self, claim: Claim, request: bytes | None = None) -> Job:
        """Record that the order is about to be sent, and the `request` for `intended_request`. Raises ClaimLost."""

    async def intended_request(self, claim: Claim) -> bytes | None:
        """Return the `request` of the recorded intent; None if there is none. Raises ClaimLost.

        An intent that an earlier version recorded has none.
        """

    async def withdraw_intent(self, claim: Claim) -> Job:
        """Record that the provider certainly did not take the order. The job is as before `record_intent`.

        Raises ClaimLost.
        """

    async def append(self, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        """Record the job's next event, its refund, and the new `ticket` (None: unchanged). Return the new job.

        Raises ClaimLost if the claim is lost or the job has ended, and ValueError if the table of state changes forbids
        the draft.
        """


class Feeds(Protocol):
    """Events as streams read them: by job, by account, and as they are recorded."""

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        """Return the job's events numbered above `after`, in order. Live streams and replays use this one read.

        With `account`, another account's job has no events.
        """

    async def read_account(self, account: str, after: int, limit: int) -> FeedSlice | None:
        """Return up to `limit` events, and about `PAGE_BYTES`, of the account's feed at positions above `after`.

        None if `after` is not a position of this account, or if events above it may have been deleted.
        """

    async def snapshot(self, account: str, jobs: Collection[str] | None = None, head: int | None = None) -> FeedSlice:
        """Return the newest event of each of the account's `jobs` (None: of each unfinished job).

        The slice has about `PAGE_BYTES`. Request its `rest` as `jobs`, with the same `head`.

        It shows the feed at position `head` (None: the newest). Events recorded during the read have higher positions.
        """

    def changes(self) -> AsyncIterator[Change]:
        """Yield every event recorded from this call on, after its commit. Any number of listeners is possible.

        Listening begins at the call, not at the iterator's first step. The iterator ends when the store closes.
        """


class Assets(Protocol):
    """Records of the files that clients uploaded. Their bytes are in the blob storage."""

    async def add_asset(self, asset: Asset) -> None:
        """Record an asset. Its bytes have to be stored already."""

    async def asset(self, account: str, asset_id: str) -> Asset | None:
        """Return the account's asset; None if it does not exist or belongs to another account."""

    async def delete_asset(self, account: str, asset_id: str) -> Asset | None:
        """Delete the asset's record and return it, so that the caller can delete its bytes; None if unknown.

        Raises errors.Conflict while an unfinished job of the account names it.
        """


class Shared(provider_health.SharedHealth, Protocol):
    """State about the providers that several nodes share. It is short-lived."""

    async def reserve_slots(self, provider: str, number: int, gap: float) -> float:
        """Reserve `number` request slots in a row, `gap` seconds apart; return the seconds to the first.

        No two callers, on any node, get the same slot.
        """


class Store(Accounts, Jobs, Claims, Feeds, Assets, Protocol):
    """A backend: all five protocols, with its opening, its readiness, and values that all nodes share."""

    async def __aenter__(self) -> Self:
        """Open the store; create or migrate its data. Nodes and commands may have it open at the same time."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the calls already made, then release every resource."""

    async def ping(self) -> None:
        """Prove that a transaction can be written now. Raises errors.Unavailable if not."""

    @property
    def shared(self) -> "Shared | None":
        """State shared by the nodes that serve from this store; None if only one node may serve from it."""

    async def get_or_set(self, name: str, value: bytes) -> bytes:
        """Return the value kept under `name`. The first value given is kept for ever and returned to all callers."""

    async def value(self, name: str) -> bytes | None:
        """Return the value that `get_or_set` keeps under `name`; None if there is none."""

    async def secret(self, name: str) -> bytes:
        """Return the 32 random bytes kept under `name`. The first call creates them, and they never change."""
