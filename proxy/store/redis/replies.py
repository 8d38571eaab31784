"""Parsers of Redis replies: each turns a reply of the script into the store's record."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from ulid import ULID

from proxy.core import errors
from proxy.core.job import Event, Job
from proxy.store import job_json
from proxy.store.redis.changes import make_event
from proxy.store.types import Cause, Claim, Entry, FeedSlice, Key, Page

Item = TypeVar("Item", Entry, Job)

_MAX_STREAM_PART: Final = (1 << 64) - 1
"""Largest value of either half of a stream id in Redis."""


def parse_key(reply: Sequence[Any]) -> Key:
    """Return a key from {id, account, account's name, creation, revocation or nil}."""
    key, account, name, created_at, revoked_at = reply
    revoked = float(revoked_at) if revoked_at is not None else None
    return Key(key.decode(), account.decode(), name.decode(), float(created_at), revoked)


def parse_entry(stream_id: bytes, tokens: bytes, cause: bytes, job: bytes, micros: bytes) -> Entry:
    """Return a ledger entry. Its id encodes its stream id as a ULID, so it looks like every other id."""
    time, _, sequence = stream_id.partition(b"-")
    name = ULID.from_int(int(time) << 80 | int(sequence))
    return Entry(f"entry_{name}", int(tokens), Cause(cause.decode()), job.decode() or None, int(micros) / 1e6)


def stream_id_of(entry: str) -> str:
    """Return the stream id that the id of a ledger entry encodes.

    Any other text gets a stream id before or after all entries, by its alphabetical order.
    """
    try:
        number = int(ULID.from_str(entry.removeprefix("entry_")))
    except ValueError:  # not the id of a ledger entry
        return f"{_MAX_STREAM_PART}-{_MAX_STREAM_PART}" if entry > "entry_" else "0-1"
    return f"{number >> 80}-{min(number & (1 << 80) - 1, _MAX_STREAM_PART)}" if number else "0-1"


def make_page(items: Sequence[Item], limit: int) -> Page[Item]:
    """Return a page of `limit` items. The caller read one item more, which shows that the list continues."""
    return Page(items[:limit], items[limit - 1].id if len(items) > limit else None)


def parse_job(record: bytes) -> Job:
    """Return a job from its cancel flag, `0` or `1`, and its JSON."""
    return replace(job_json.load(record[1:]), cancel_requested=record[:1] == b"1")


def parse_replay(reply: Sequence[bytes]) -> Job:
    """Return the job that an idempotency key created before.

    Raises errors.IdempotencyConflict if the key was used for another order, and errors.NotFound if the job is deleted.
    """
    match reply:
        case [b"replayed", record]:
            return parse_job(record)
        case [b"conflict"]:
            raise errors.IdempotencyConflict("This Idempotency-Key was used for another order: send a new one.")
    raise errors.NotFound("The job that this Idempotency-Key made has been deleted.")


def parse_claims(node: str, reply: Sequence[Any]) -> list[Claim]:
    """Return the node's claims from a list of {epoch, time since which it waited, version, record}."""
    return [
        Claim(parse_job(record), node, int(epoch), float(since), version.decode())
        for epoch, since, version, record in reply
    ]


def parse_event(job: str, n: int, entry: bytes) -> Event:
    """Return event `n` of a job from `position mark data`."""
    position, mark, data = entry.split(b" ", 2)
    return make_event(job, n, int(position), mark.decode(), data)


def parse_slice(reply: Sequence[Any]) -> FeedSlice:
    """Return a slice of an account's feed from its head, its cut flag and its events."""
    head, cut, *entries = reply
    events = [parse_event(job.decode(), int(n), entry) for job, n, entry in entries]
    return FeedSlice(sorted(events, key=lambda event: event.position), int(head), cut=bool(int(cut)))
