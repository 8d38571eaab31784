"""The store's records, and the refusals that both backends word alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

from proxy.core import errors
from proxy.core.job import Draft, Event, Job, Order

T = TypeVar("T")

BACKLOG: Final = "line"
"""Name under which the waiting jobs of all account backlogs are counted. No provider's queue has this name."""

PAGE_BYTES: Final = 4 << 20
"""Bytes of records or events in one page, approximately. A page ends early at this size, after at least one item."""

JOBS_PER_READ: Final = 200
"""Maximum number of jobs read in one transaction. An account may have tens of thousands, and other reads wait."""

_MAX_SHOWN_ID: Final = 100
"""Maximum number of characters of an id that an error message repeats."""


class ClaimLost(Exception):
    """Another node has claimed the job, or it has ended. The call changed nothing, and its caller must stop."""


class Cause(StrEnum):
    """Reason for a movement of tokens."""

    GRANT = "grant"
    CHARGE = "charge"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Account:
    """An account and its balance."""

    id: str
    name: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Key:
    """API key of an account, without its secret. The store keeps only its digest (SHA-256)."""

    id: str
    account: str
    name: str
    """The account's name."""
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """Entry of an account's ledger. `tokens` is negative for a charge."""

    id: str
    tokens: int
    cause: Cause
    job: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Asset:
    """Record of an uploaded file. `blob` is the name of its bytes in the blob storage."""

    id: str
    account: str
    type: str
    size: int
    blob: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Admission:
    """An order to be admitted: account, API key, order, price in tokens, and the client's `Idempotency-Key`, if any."""

    account: str
    key: str
    order: Order
    tokens: int
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    """Hash of the body as parsed JSON. Equal bodies have equal fingerprints."""
    assets: Sequence[str] = ()
    """Ids of the account's assets that the order names. They cannot be deleted until the job has ended."""
    queue: str = ""
    """Name of the provider's queue. The jobs in one queue share its room."""
    version: str = ""
    """Name under which the store keeps the provider file that the job continues with; "" for a provider in Python."""
    max_jobs: int | None = None
    """Maximum number of the account's unfinished jobs outside its backlog, with this one. None: no limit."""
    max_backlog: int = 0
    """Maximum length of the account's backlog. `release_backlog` moves its jobs to their queues."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The job that an admission created, now or, if `replayed`, at an earlier call."""

    job: Job
    replayed: bool = False
    event: Event | None = None
    """The job's first event, if it is certain that no second event exists yet. It saves the caller a read."""


@dataclass(frozen=True, slots=True)
class QueueRoom:
    """Room of a queue, which all nodes share."""

    limit: int
    """Maximum number of the queue's jobs that run at once."""
    max_wait: float
    """Time, in seconds, after which a waiting job is claimed even without room."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive right of one node to change a job. It is lost when another node claims the job."""

    job: Job
    node: str
    epoch: int
    """Fencing number: it grows with every claim of the same job."""
    since: float = 0.0
    """Time at which the job began to wait for room: when it was ordered, or when it left its account's backlog."""
    version: str = ""
    """The `version` of the job's admission."""


class Change(NamedTuple):
    """Notification about a job. By default it means that event `n` of `job` can be read now."""

    account: str
    job: str
    n: int
    cancel: bool = False
    """The job's client wants it canceled; `n` is the newest event."""
    event: Event | None = None
    """The new event, as a read would return it."""
    at: float = 0.0
    """Time at which the store was asked to record the event."""
    lost: bool = False
    """Changes may be missing; account and job are empty. The listener has to read again all that it watches."""
    deleted: bool = False
    """The job was deleted, so that its events cannot be read any more; `n` is 0."""


class Place(NamedTuple):
    """Place of an event: its position in the account's feed, its job and its number. With its size in bytes."""

    position: int
    job: str
    n: int
    size: int


def first_places(places: Sequence[Place]) -> tuple[list[Place], list[str]]:
    """Return the first places by position, up to about `PAGE_BYTES` of events, and the jobs of the other places."""
    ordered, size = sorted(places), 0
    for index, place in enumerate(ordered):
        size += place.size
        if index and size > PAGE_BYTES:
            return ordered[:index], [later.job for later in ordered[index:]]
    return ordered, []


@dataclass(frozen=True, slots=True)
class FeedSlice:
    """Events of an account's feed by ascending position, without pieces of streamed text."""

    events: Sequence[Event]
    head: int
    """Newest position of the feed, read in the transaction that read the events."""
    cut: bool = False
    """True if the slice ended at `PAGE_BYTES`, so that more events follow."""
    rest: Sequence[str] = ()
    """Jobs whose events do not fit in a snapshot of `PAGE_BYTES`."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, newest first."""

    items: Sequence[T]
    next: str | None
    """Value of `before` for the next page; None on the last page."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Result of one step of retention: the number of deleted jobs and assets, and the names of their blobs."""

    deleted: int
    blobs: Sequence[str]


def too_many_jobs(max_jobs: int, backlog: int = 0) -> errors.RateLimited:
    """Return the refusal of an order whose account has `max_jobs` unfinished jobs and `backlog` more in its backlog."""
    more = f" and {backlog} more that wait in line" if backlog else ""
    return errors.RateLimited(
        f"The account has {max_jobs} unfinished jobs{more}, which is its limit: wait for the end of one."
    )


def no_job(job_id: str) -> errors.NotFound:
    """Return the error for a job that does not exist or belongs to another account."""
    return errors.NotFound(f"There is no job {job_id[:_MAX_SHOWN_ID]}.")


def no_asset(asset_id: str) -> errors.NotFound:
    """Return the error for an asset that does not exist or belongs to another account."""
    return errors.NotFound(f"There is no asset {asset_id[:_MAX_SHOWN_ID]}.")


def no_account(account_id: str) -> errors.NotFound:
    """Return the error for an account that does not exist."""
    return errors.NotFound(f"There is no account {account_id}.")


def cannot_pay(price: int, balance: int) -> errors.InsufficientTokens:
    """Return the refusal of an order that costs more than its account's balance."""
    return errors.InsufficientTokens(f"Insufficient tokens: this order costs {price}, the account has {balance}.")


def cannot_take(tokens: int, balance: int) -> errors.InsufficientTokens:
    """Return the refusal of a grant that would take more tokens than the account has."""
    return errors.InsufficientTokens(f"The account has {balance} tokens: {tokens} cannot be taken.")


def check_refund(job: Job, draft: Draft) -> None:
    """Raise ValueError for a refund that is above the job's price, negative, or not with a final status."""
    if draft.refund and not (draft.status.final and 0 < draft.refund <= job.tokens):
        raise ValueError(f"{job.id} cost {job.tokens}: {draft.refund} cannot be refunded with {draft.status!r}.")


def announced_positions(length: int) -> list[int]:
    """Return the positions in a backlog of this length that get an event: 1 to 5, 10, 20, 50, 100, 200, 500, ...

    Events for every job at every step would grow with the square of the length, so each job gets only a few.
    """
    round_numbers = (digit * 10**power for power in range(1, len(str(length))) for digit in (1, 2, 5))
    return [position for position in (*range(1, 6), *round_numbers) if position <= length]
