"""The Store's contract: what every backend promises, and the records that pass through it.

`api` and `runner` meet only here. Each method is one transaction: it happens whole or not at all, and once it has
returned, its effect survives a crash and a loss of power. Times are seconds since the epoch, taken from the clock
that the store was opened with; tokens are whole numbers. A backend that cannot serve raises `errors.Unavailable`.

The promises, which `tests/store/contract.py` holds every backend to:

1. Events of a job are numbered 1, 2, 3 ... without gaps; exactly one is final, and it is the last.
2. Tokens move only in `admit` (charge), `append` (refund) and `grant`, each in the transaction of its cause; a job is
   charged once and refunded at most once; a balance equals the sum of its ledger entries and is never below zero.
3. Only the holder of a job's claim can change the job. A claim that was lost raises `ClaimLost` and changes nothing.
   A job that stands in its account's line, which nobody holds, is told its place there by the store itself.
4. A change is told by `changes()` only after it can be read; the changes of an account are told in the order of their
   positions.
5. Every event has a position in its account's feed: 1 more than the last. An account's positions begin at a random
   number, so that a cursor of another account (or of a job) is almost surely none of its own.
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


class Shared(provider_health.Shared, Protocol):
    """What several nodes have in common about the providers, beside the store; nothing of it is kept for long."""

    async def turns(self, provider: str, number: int, gap: float) -> float:
        """Reserve `number` turns in a row, `gap` seconds apart, to ask the provider; returns the seconds to the first.

        No two callers, of any node, get the same turn.
        """


class Store(Protocol):
    """What remembers accounts, keys, tokens, jobs, events and assets."""

    async def __aenter__(self) -> Self:
        """Open: create or migrate what is missing. A node that runs jobs enters; commands beside it enter too."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was begun, then let go of every resource."""

    async def ping(self) -> None:
        """Prove that a transaction can be written now; errors.Unavailable when not."""

    @property
    def shared(self) -> "Shared | None":
        """What the nodes have in common that serve from it at the same time; None where only one may."""

    async def get_or_set(self, name: str, value: bytes) -> bytes:
        """The value that everyone who uses the store has under `name`: the first that was given, for ever."""

    async def secret(self, name: str) -> bytes:
        """The 32 random bytes kept under `name`, made at the first call and the same for ever after."""

    # --- accounts, keys, ledger ---

    async def create_key(self, name: str, digest: bytes, tokens: int = 0) -> Key:
        """Add a key to the account called `name`, made if it does not exist, and grant it `tokens` (when not 0)."""

    async def key(self, digest: bytes) -> Key | None:
        """The key of that digest, revoked or not. A change made by another process is seen within a second."""

    async def key_by_id(self, key_id: str) -> Key | None:
        """The key of that id, revoked or not; seen as by `key`."""

    async def active_keys(self, ids: Collection[str]) -> set[str]:
        """Those of the ids (up to 1,000) that are keys and were not revoked; seen as by `key`."""

    async def keys(self) -> Sequence[Key]:
        """All keys, oldest first."""

    async def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key, once and for ever; None when there is no such key. Repeating changes nothing."""

    async def grant(self, name: str, tokens: int) -> Account | None:
        """Add `tokens` (negative: take) to the account called `name`; None when there is none.

        Raises errors.InsufficientTokens rather than letting the balance go below zero.
        """

    async def account(self, account_id: str) -> Account | None:
        """The account with its balance now."""

    async def accounts(self) -> Sequence[Account]:
        """All accounts, by name."""

    async def ledger(self, account: str, limit: int, before: str | None = None) -> Page[Entry]:
        """The account's ledger entries, newest first; an unknown `before` is read as a place in time, not refused."""

    # --- jobs and events ---

    async def admit(self, admission: Admission) -> Admitted:
        """Record a new job: idempotency key, charge, job and its event 1, in one transaction.

        The same idempotency key with the same fingerprint returns the job it made, charging nothing, whatever `most`.
        Where the account has `most` unfinished jobs, or others stand in its line, the job stands behind them, and its
        event 2 tells its place; where the line is full, however many ask at once, it raises errors.RateLimited.
        Raises errors.InsufficientTokens; errors.IdempotencyConflict for another fingerprint; errors.NotFound where the
        job that the key made has been deleted, or where a named asset is gone. A refused order records nothing, its
        idempotency key included.
        """

    async def replay(self, admission: Admission) -> Job | None:
        """The job that the admission's idempotency key made before; None when it made none. Raises as `admit` does."""

    async def release_backlog(self, most: int | None, limit: int) -> int:
        """Let jobs go on from their accounts' lines to their queues; returns how many did.

        Of each account so many go, the first in line first and up to `limit`, that it has at the most `most` unfinished
        jobs outside of its line (None: any number); from now on they wait for room. Those behind are told their place
        where it is one of `announced_positions`. After its first call it looks only at lines of accounts of which a
        job ended.
        """

    async def waiting(self, queues: Collection[str]) -> Mapping[str, int]:
        """How many jobs wait for room in each of the queues; `BACKLOG` is how many stand in their accounts' lines."""

    async def claim(self, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        """Take up to `limit` unfinished jobs that nobody holds, of the queues in `rooms`.

        First, oldest first, those that were claimed before, and those that wait no longer: their client wants their
        end (in a line, too), or the queue's patience is over. Then those that still wait, as far as their queue has
        room, the accounts taking turns: one with many waiting jobs does not hold up another's first.

        A claim holds until its job is over, it is released, or its lease lapses without `renew` and another node
        claims it: a node never takes a job over from itself, however late it renews. To claim may renew.
        """

    async def renew(self, node: str) -> None:
        """Prolong the leases of all the node's claims."""

    async def unknown_claims(self, node: str, driven: Collection[str]) -> Sequence[Claim]:
        """Claims of the node's, `AT_ONCE` at the most, that it does not know of: of other jobs than those `driven`.

        There are some where the store has come back as an older self.
        """

    async def release(self, claim: Claim) -> None:
        """Give the job back unfinished, so that any node may claim it at once; nothing if the claim was lost.

        One that was never announced as sent (`record_intent`) waits again, in its old turn, and its room is free.
        """

    async def record_intent(self, claim: Claim) -> Job:
        """Record that the order is about to be sent. Raises ClaimLost."""

    async def withdraw_intent(self, claim: Claim) -> Job:
        """Record that the order surely was not taken after all: the job stands as before `record_intent`.

        Raises ClaimLost.
        """

    async def append(self, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        """Record the job's next event, with the refund it causes and the new `ticket` (None: as it was).

        Returns the job as it is now. Raises ClaimLost when the claim is no longer held or the job is over, and
        ValueError when the table of state changes forbids the draft.
        """

    async def request_cancel(self, account: str, job_id: str) -> Job | None:
        """Note that the client wants the job to stop, and tell it as a Change; nothing when it is over.

        Returns the job; None when there is no such job.
        """

    async def job(self, account: str, job_id: str) -> Job | None:
        """The account's job; None when there is none, or it is another account's."""

    async def jobs(
        self,
        account: str,
        limit: int,
        before: str | None = None,
        status: Status | None = None,
        model: str | None = None,
    ) -> Page[Job]:
        """The account's jobs, newest first; an unknown `before` is read as a place in time, not refused.

        The page ends early where it holds more than `PAGE_BYTES`.
        """

    async def durations(self, model: str, limit: int) -> Sequence[float]:
        """How long the newest completed jobs of a model took, up to `limit`, newest first; over all accounts.

        In seconds, from the intent (`record_intent`) to the end. Jobs that retention has forgotten may be left out.
        """

    async def delete_job(self, account: str, job_id: str) -> Sequence[str] | None:
        """Forget a finished job, its events and outputs; returns the names of its blobs. None: no such job.

        Its ledger entries and its idempotency key stay. Raises errors.Conflict while it runs.
        """

    async def sweep(self, before: float, limit: int) -> SweepResult:
        """Forget up to `limit` jobs that ended, and as many assets that were made, before `before`.

        Never an unfinished job, an asset that one names, or a ledger entry. Idempotency keys go after their jobs, but
        not within 24 hours.
        """

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        """The job's events numbered above `after`, in order; the one read that serves live streams and replays.

        With `account`, none of a job that is another's.
        """

    async def read_account(self, account: str, after: int, limit: int) -> FeedSlice | None:
        """Up to `limit` events, and about `PAGE_BYTES`, of the account's feed at positions above `after`.

        None where `after` is no position of this account, or events above it may have been deleted.
        """

    async def snapshot(self, account: str, jobs: Collection[str] | None = None, head: int | None = None) -> FeedSlice:
        """The newest event of every unfinished job of the account, or of every one of `jobs` that it has.

        About `PAGE_BYTES` of them; the `rest` are asked for as `jobs`, with the same `head`.

        As the feed stood at the head that is given: what is recorded while it is read stands above that.
        """

    def changes(self) -> AsyncIterator[Change]:
        """Tell every event recorded from this call on, after its commit; any number may listen.

        The listening begins at the call itself, not at the first step of the iterator. It ends when the store closes.
        """

    # --- assets ---

    async def add_asset(self, asset: Asset) -> None:
        """Record an asset whose bytes are already stored."""

    async def asset(self, account: str, asset_id: str) -> Asset | None:
        """The account's asset; None when there is none, or it is another account's."""

    async def delete_asset(self, account: str, asset_id: str) -> Asset | None:
        """Forget the asset and return it, so that its bytes can go; None when there is none.

        Raises errors.Conflict while an unfinished job of the account names it.
        """
