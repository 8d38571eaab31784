"""The store's records, and the refusals that both backends word alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

from proxy.core import errors
from proxy.core.job import Draft, Event, Job, Order

T = TypeVar("T")

BACKLOG: Final = "line"
"""What the lines of all accounts are called together, where jobs that wait are counted; no queue is called so."""

PAGE_BYTES: Final = 4 << 20
"""Bytes of records or events that are read at once; a page ends early at it, but has at least one item."""

AT_ONCE: Final = 200
"""Jobs whose newest events are read at once: an account may have ten thousands, and others wait for each read."""


class ClaimLost(Exception):
    """The job was taken over, or is over: whoever held this claim must stop, and has changed nothing."""


class Cause(StrEnum):
    """Why tokens moved."""

    GRANT = "grant"
    CHARGE = "charge"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Account:
    """Who calls, and the tokens it holds."""

    id: str
    name: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Key:
    """A bearer key of an account, without its secret: the store keeps only its digest (SHA-256)."""

    id: str
    account: str
    name: str
    """The account's name."""
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an account's ledger; `tokens` is signed."""

    id: str
    tokens: int
    cause: Cause
    job: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Asset:
    """Bytes that a client brought in; `blob` is their name in the blob storage."""

    id: str
    account: str
    type: str
    size: int
    blob: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Admission:
    """An order at the door: who orders, what, at which price, and the client's `Idempotency-Key` if it sent one.

    `fingerprint` stands for the body as parsed JSON; equal bodies have equal fingerprints. `assets` are the ids of the
    account's assets that the order names: they are held until the job is over. Jobs of one `queue` share its room.
    `most` is how many unfinished jobs the account may have, this one included; None: any number. `line` is how many
    more may stand in its line, where they are not claimed before `release_backlog` has let them go on to their queue.
    """

    account: str
    key: str
    order: Order
    tokens: int
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    assets: Sequence[str] = ()
    queue: str = ""
    most: int | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """The job that an admission made, or (`replayed`) had made before."""

    job: Job
    replayed: bool = False
    event: Event | None = None
    """The job's first event, where the store knows that nobody can have recorded a second one yet."""


@dataclass(frozen=True, slots=True)
class QueueRoom:
    """How many jobs of a queue may be under way at once, on all nodes together; others wait, for `max_wait` seconds."""

    limit: int
    max_wait: float


@dataclass(frozen=True, slots=True)
class Claim:
    """The sole right to change a job, until it lapses; `epoch` grows with every claim of the same job.

    `since` is when the job began to wait for room: at its order, or when it left its account's line.
    """

    job: Job
    node: str
    epoch: int
    since: float = 0.0


class Change(NamedTuple):
    """Event `n` of `job` can be read now; or, with `cancel`, its client asks for its end (`n` is the newest event).

    With `deleted`, the job was deleted or forgotten: nothing of it can be read any more (`n` is 0).

    `event` is that event, as it would be read; `at` is when it was handed in to be recorded. With `lost` (and no
    account or job) changes may have gone untold: whoever follows reads anew what it watches.
    """

    account: str
    job: str
    n: int
    cancel: bool = False
    event: Event | None = None
    at: float = 0.0
    lost: bool = False
    deleted: bool = False


class Place(NamedTuple):
    """Where an event is: its position in the account's feed, its job and number; and its size in bytes."""

    position: int
    job: str
    n: int
    size: int


def first_places(places: Sequence[Place]) -> tuple[list[Place], list[str]]:
    """The places of the first events, of about `PAGE_BYTES` in all, in ascending position; and the jobs of the rest."""
    ordered, size = sorted(places), 0
    for index, place in enumerate(ordered):
        size += place.size
        if index and size > PAGE_BYTES:
            return ordered[:index], [later.job for later in ordered[index:]]
    return ordered, []


@dataclass(frozen=True, slots=True)
class FeedSlice:
    """Events of an account's feed in ascending position, without those of streamed text; `head` is the newest position.

    Both were read in one transaction.
    """

    events: Sequence[Event]
    head: int
    cut: bool = False
    """It ended at `PAGE_BYTES`: more events follow the last one."""
    rest: Sequence[str] = ()
    """In a snapshot that ended at `PAGE_BYTES`: the jobs whose events follow."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A stretch of a list, newest first; `next` is the value of `before` for the following stretch, None at the end."""

    items: Sequence[T]
    next: str | None


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a step of retention forgot: how many jobs and assets, and the names of the blobs that were theirs."""

    forgotten: int
    blobs: Sequence[str]


def too_many_jobs(most: int, line: int = 0) -> errors.RateLimited:
    """How an order of an account is refused that has `most` unfinished jobs, and `line` more in its line."""
    more = f" and {line} more that wait in line" if line else ""
    return errors.RateLimited(
        f"The account has {most} unfinished jobs{more}, which is its limit: wait for the end of one."
    )


def cannot_pay(price: int, balance: int) -> errors.InsufficientTokens:
    """How an order is refused that costs more than its account has."""
    return errors.InsufficientTokens(f"Insufficient tokens: this order costs {price}, the account has {balance}.")


def cannot_take(tokens: int, balance: int) -> errors.InsufficientTokens:
    """How an operator is refused who takes more tokens than the account has."""
    return errors.InsufficientTokens(f"The account has {balance} tokens: {tokens} cannot be taken.")


def check_refund(job: Job, draft: Draft) -> None:
    """Raise ValueError for a refund that is above the job's price, negative, or not with a final status."""
    if draft.refund and not (draft.status.final and 0 < draft.refund <= job.tokens):
        raise ValueError(f"{job.id} cost {job.tokens}: {draft.refund} cannot be refunded with {draft.status!r}.")


def announced_positions(position_event: int) -> list[int]:
    """The places in a line of so many at which a job is told where it stands: 1 to 5, 10, 20, 50, 100, 200, 500, ...

    Telling every job at every step would make events with the square of the line's length; so each job has few.
    """
    round_ones = (figure * 10**power for power in range(1, len(str(position_event))) for figure in (1, 2, 5))
    return [place for place in (*range(1, 6), *round_ones) if place <= position_event]
