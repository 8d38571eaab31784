"""Claims as their holder knows them, and the leases of the other nodes as this process has observed them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.core.clock import Clock
from proxy.core.job import Draft, Job, Ticket, encode
from proxy.store import job_json
from proxy.store.redis.replies import parse_job
from proxy.store.types import Claim, ClaimLost, check_refund

Argument = str | bytes | float
ScriptCall = Callable[..., "asyncio.Future[Any]"]
"""Runs a command of the script: its name, then its arguments."""


class NodeLeases:
    """The leases of all nodes, as this process has observed them.

    A node renews its lease by writing another value. It is dead when its value has not changed for the length of a
    lease, measured by the monotonic clock of the observing node. So a wrong time of day ends no other node's lease.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._observed: dict[str, tuple[str, float]] = {}
        """By node: its value, and the monotonic time at which this process first saw that value."""

    def observe(self, nodes: Sequence[bytes]) -> None:
        """Note the current value of every node, given as `name, value, name, value, ...`."""
        now = self._clock.monotonic()
        found = dict(zip(map(bytes.decode, nodes[::2]), map(bytes.decode, nodes[1::2]), strict=True))
        before = self._observed
        self._observed = {
            node: before[node] if node in before and before[node][0] == value else (value, now)
            for node, value in found.items()
        }

    def list_expired(self) -> str:
        """Return the dead nodes and their values, as `name value name value ...`."""
        end = self._clock.monotonic() - self._seconds
        return " ".join(f"{node} {value}" for node, (value, since) in self._observed.items() if since <= end)


@dataclass(slots=True)
class HeldClaim:
    """A claim of this process."""

    job: Job | None = None
    """The job as its holder knows it, None if it has not been read yet."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Allows one change of the job at a time."""


class Holdings:
    """The claims of this process. Each change of a job starts from the job that the last change returned."""

    def __init__(self, read: ScriptCall, write: ScriptCall) -> None:
        self._read = read
        self._write = write
        self._held: dict[tuple[str, int], HeldClaim] = {}
        """By job and epoch."""

    def add(self, claims: Iterable[Claim]) -> None:
        """Add new claims."""
        for claim in claims:
            self._held[_id(claim)] = HeldClaim(claim.job)

    def discard(self, claim: Claim) -> None:
        """Remove a claim, if it is there."""
        self._held.pop(_id(claim), None)

    @asynccontextmanager
    async def lock(self, claim: Claim) -> AsyncIterator[Job]:
        """Give exclusive access to the claim's job, as its holder knows it. Raises ClaimLost."""
        held = self._held.setdefault(_id(claim), HeldClaim())
        async with held.lock:
            try:
                yield held.job or await self.fetch_held(claim)
            except ClaimLost:
                self.discard(claim)
                raise

    def remember(self, claim: Claim, job: Job) -> Job:
        """Note the state of the claim's job and return it. A finished job ends the claim."""
        if held := self._held.get(_id(claim)):
            held.job = job
        if job.status.final:
            self.discard(claim)
        return job

    async def fetch_held(self, claim: Claim) -> Job:
        """Read the claim's job from Redis. Raises ClaimLost."""
        record = await self._read("fetch_held", claim.job.id, claim.node, claim.epoch)
        if not record:
            raise _lost(claim)
        return parse_job(record)

    async def fetch_request(self, claim: Claim) -> bytes | None:
        """Read the request of the job's intent from Redis. Raises ClaimLost."""
        found = await self._read("intended_request", claim.job.id, claim.node, claim.epoch)
        if not found:
            raise _lost(claim)
        return bytes(found[0]) or None

    async def change(self, command: str, claim: Claim, *arguments: Argument) -> Any:
        """Run a command that changes the claim's job and return its reply. Raises ClaimLost."""
        reply = await self._write(command, claim.job.id, claim.node, claim.epoch, *arguments)
        if reply[0] == b"lost":
            raise _lost(claim)
        return reply

    async def apply(self, claim: Claim, job: Job, draft: Draft, ticket: Ticket | None, now: float) -> tuple[Job, bytes]:
        """Return the job after the draft, and the event as JSON.

        Raises ClaimLost for a lost claim, even if the draft is invalid, and else ValueError for an invalid draft.
        """
        try:
            return apply_draft(job, draft, ticket, now)
        except (TypeError, ValueError):
            await self.fetch_held(claim)
            raise


def _id(claim: Claim) -> tuple[str, int]:
    return claim.job.id, claim.epoch


def _lost(claim: Claim) -> ClaimLost:
    return ClaimLost(f"{claim.node} does not hold {claim.job.id} any more.")


def apply_draft(job: Job, draft: Draft, ticket: Ticket | None, now: float) -> tuple[Job, bytes]:
    """Return the job after the draft is recorded, and the event as JSON. Raises ValueError for an invalid draft."""
    after = job.after(draft, now)
    check_refund(job, draft)
    if ticket is not None:
        after = replace(after, ticket=ticket)
    return after, encode(after, draft, after.event, now)


def is_recorded(before: Job, now: Job, newest: bytes, draft: Draft, ticket: Ticket | None) -> bool:
    """Return whether this draft is the event by which the job changed from `before` to `now`.

    It is when the draft was recorded and only the reply was lost. `newest` is the job's newest event in Redis.
    """
    if now.event != before.event + 1:
        return False
    after, data = apply_draft(before, draft, ticket, now.updated_at)
    same = replace(after, cancel_requested=now.cancel_requested)
    return newest.endswith(b" " + data) and job_json.dump(same) == job_json.dump(now)
