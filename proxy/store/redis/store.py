"""Store for several nodes: one Redis, which all of them share.

Every promise of the Store is one call of a script that Redis runs atomically. The methods here only pass arguments to
the commands in `scripts/` and parse their replies. A call that returned is as durable as the file of Redis. With
`appendonly yes` and `appendfsync always` it survives a power loss. A warning at the start names other settings.

Replies can be lost, so every call is idempotent. The caller generates the ids of jobs, keys and grants. A claim's
holder sends the event number it expects. A repeated claim returns the same jobs.

A node's lease lasts 30 seconds, or `POLLCAST_LEASE`. Each node measures the leases of the others by its own monotonic
clock.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from proxy.core import errors
from proxy.core.clock import Clock, SystemClock
from proxy.core.job import Draft, Event, Job, Status, Ticket, encode, new_id, position_event
from proxy.core.provider_health import MEMORY, NodeMessage
from proxy.store import job_json
from proxy.store.redis import checks, replies
from proxy.store.redis.changes import BLOCK_SECONDS, ChangeReader
from proxy.store.redis.connection import DEFAULT_TIMES, LIBRARY, Pipeline, RedisConnection, RedisTimes, check_url
from proxy.store.redis.holdings import Argument, Holdings, NodeLeases, apply_draft, is_recorded
from proxy.store.types import (
    BACKLOG,
    JOBS_PER_READ,
    PAGE_BYTES,
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
    announced_positions,
    cannot_pay,
    cannot_take,
    first_places,
    no_account,
    no_asset,
    too_many_jobs,
)

_IDEMPOTENCY_KEY_SECONDS: Final = 24 * 3600.0
"""Minimum lifetime of an idempotency key, in seconds. `proxy/docs/api.md` promises it to clients."""
_EARLY_SECONDS: Final = 0.1
"""Seconds that a reserved rate limit slot may lie in the past, so that a short delay does not lower the rate."""
_SHA: Final = hashlib.sha1(LIBRARY.encode(), usedforsecurity=False).hexdigest()
"""The name under which Redis keeps the script."""


class RedisStore:
    """The `Store` in the Redis at `url`.

    `serves` is true for a server, which runs jobs. It gets a warning if Redis may lose acknowledged writes.
    """

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        lease: float = 30.0,
        serves: bool = False,
        times: RedisTimes = DEFAULT_TIMES,
    ) -> None:
        """Raise ValueError if `url` is not the URL of a Redis. `lease` is the length of a lease in seconds."""
        check_url(url)
        self._url = url
        self._clock = clock or SystemClock()
        self._lease = lease
        self._serves = serves
        self._times = times
        self._holdings = Holdings(self._read, self._write)
        self._claiming = asyncio.Lock()
        self._leases = NodeLeases(self._clock, lease)
        self._unanswered_claims: dict[str, str] = {}
        """By node: the id of its last claim, while its reply is missing."""
        self._has_released = False
        """True after the first call of `release_backlog`."""
        self._last_change = 0
        """The number of the newest change that this process has recorded."""

    async def __aenter__(self) -> Self:
        """Connect and check the server. Raises errors.Unavailable if it cannot hold the store."""
        async with AsyncExitStack() as stack:
            self._writes, self._reads = (
                Pipeline(self._connect(), self._clock.monotonic, self._times) for _ in range(2)
            )
            stack.push_async_callback(self._reads.close)
            stack.push_async_callback(self._writes.close)
            await checks.check_server(self._writes)
            if self._serves:
                await checks.warn_if_not_durable(self._reads)
            self._last_change = int(await self._reads.call("GET", "pollcast:told") or 0)
            self._changes = ChangeReader(self._connect(wait=BLOCK_SECONDS), self._last_change)
            stack.push_async_callback(self._end_changes)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the calls already made, then end every listener and close the connections."""
        with suppress(errors.Unavailable):
            await self._release_unanswered_claims()
        await self._writes.close()
        await self._stack.aclose()

    def _connect(self, wait: float = 0.0) -> RedisConnection:
        return RedisConnection(self._url, self._times.timeout, wait=wait)

    async def _end_changes(self) -> None:
        await self._changes.close(self._last_change)

    def _write(self, command: str, *arguments: Argument) -> "asyncio.Future[Any]":
        return self._writes.call("EVALSHA", _SHA, 0, command, *arguments)

    def _read(self, command: str, *arguments: Argument) -> "asyncio.Future[Any]":
        return self._reads.call("EVALSHA", _SHA, 0, command, *arguments)

    async def ping(self) -> None:
        """Write something, to prove that Redis takes writes now."""
        if wrong := await self._write("ping", self._clock.now()):
            raise errors.Unavailable(f"The Redis key {wrong.decode()} has the wrong type: another program wrote it.")

    async def get_or_set(self, name: str, value: bytes) -> bytes:
        """Return the value of `name`, which is `value` if it has none yet."""
        return bytes(await self._write("get_or_set", name, value))

    async def value(self, name: str) -> bytes | None:
        """Return the value kept under `name`; None if there is none."""
        found: bytes | None = await self._read("value", name)
        return found

    async def secret(self, name: str) -> bytes:
        """Return the 32 random bytes kept under `name`."""
        return await self.get_or_set(name, secrets.token_bytes(32))

    # --- accounts, keys, ledger ---

    async def create_key(self, name: str, digest: bytes, tokens: int = 0) -> Key:
        """Add a key to the account called `name`."""
        base = secrets.randbelow(1 << 32) << 16  # keeps positions far below 2^53, up to which every client is exact
        new = (new_id("key"), digest, name, new_id("acct"), base, tokens, self._clock.now())
        return replies.parse_key(await self._write("create_key", *new))

    async def key(self, digest: bytes) -> Key | None:
        """Return the key with that digest, read from Redis."""
        found = await self._read("key", digest)
        return replies.parse_key(found) if found else None

    async def key_by_id(self, key_id: str) -> Key | None:
        """Return the key with that id, read from Redis."""
        found = await self._read("key_by_id", key_id)
        return replies.parse_key(found) if found else None

    async def active_keys(self, ids: Collection[str]) -> set[str]:
        """Return those of the ids that are keys and are not revoked."""
        return {key.decode() for key in await self._read("active_keys", *ids)}

    async def keys(self) -> Sequence[Key]:
        """Return all keys, oldest first."""
        return sorted(map(replies.parse_key, await self._read("keys")), key=lambda key: key.id)

    async def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key permanently."""
        found = await self._write("revoke_key", key_id, self._clock.now())
        return replies.parse_key(found) if found else None

    async def grant(self, name: str, tokens: int) -> Account | None:
        """Add `tokens` to the account called `name`."""
        match await self._write("grant", name, tokens, secrets.token_hex(8), self._clock.now()):
            case [b"done", account, balance]:
                return Account(account.decode(), name, int(balance))
            case [b"short", balance]:
                raise cannot_take(-tokens, int(balance))
        return None

    async def account(self, account_id: str) -> Account | None:
        """Return the account with its current balance."""
        name, tokens = await self._reads.call("HMGET", f"pollcast:account:{account_id}", "name", "tokens")
        return Account(account_id, name.decode(), int(tokens)) if name is not None else None

    async def accounts(self) -> Sequence[Account]:
        """Return all accounts, by name."""
        found = await self._read("accounts")
        accounts = [Account(account.decode(), name.decode(), int(tokens)) for account, name, tokens in found]
        return sorted(accounts, key=lambda account: account.name)

    async def ledger(self, account: str, limit: int, before: str | None = None) -> Page[Entry]:
        """Return the account's ledger entries, newest first."""
        end = f"({replies.stream_id_of(before)}" if before else "+"
        found = await self._reads.call("XREVRANGE", f"pollcast:ledger:{account}", end, "-", "COUNT", limit + 1)
        return replies.make_page([replies.parse_entry(id_, *fields[1::2]) for id_, fields in found], limit)

    # --- jobs and events ---

    async def admit(self, admission: Admission) -> Admitted:
        """Record a new job, or return the job that its idempotency key created before."""
        now = self._clock.now()
        job = Job(new_id("job"), admission.account, admission.key, admission.order, admission.tokens, now, now)
        reply = await self._write(
            "admit",
            job.id,
            job.account,
            job.tokens,
            admission.queue,
            " ".join(dict.fromkeys(admission.assets)),
            admission.idempotency_key or "",
            admission.fingerprint,
            job.status,
            job.model,
            job_json.dump(job),
            encode(job, Draft(job.status), job.event, now),
            now,
            "" if admission.max_jobs is None else admission.max_jobs,
            admission.max_backlog,
            admission.version,
        )
        match reply:
            case [b"done", change, position]:
                self._last_change = int(change)
                return Admitted(await self._record_position(job, int(position)) if int(position) else job)
            case [b"no asset", asset]:
                raise no_asset(asset.decode())
            case [b"full", in_backlog] if admission.max_jobs is not None:
                raise too_many_jobs(admission.max_jobs, int(in_backlog))
            case [b"no account"]:
                raise no_account(job.account)
            case [b"short", balance]:
                raise cannot_pay(job.tokens, int(balance))
        return Admitted(replies.parse_replay(reply), replayed=True)

    async def replay(self, admission: Admission) -> Job | None:
        """Return the job that the admission's idempotency key created before."""
        query = (admission.account, admission.idempotency_key or "", admission.fingerprint)
        reply = await self._read("replay", *query)
        return None if reply == [b"new"] else replies.parse_replay(reply)

    async def release_backlog(self, max_jobs: int | None, limit: int) -> int:
        """Move jobs from account backlogs to provider queues and return how many moved."""
        examine_all = 0 if self._has_released else 1
        backlogs = await self._write(
            "release_backlog", "" if max_jobs is None else max_jobs, limit, self._clock.now(), examine_all
        )
        self._has_released = True
        for account, _, length in backlogs:
            positions = announced_positions(int(length))
            for position, record in await self._read("backlog_jobs", account, *positions):
                await self._record_position(replies.parse_job(record), int(position))
        return sum(int(released) for _, released, _ in backlogs)

    async def _record_position(self, job: Job, position: int) -> Job:
        """Record the job's position in its account's backlog as an event, unless its newest event says so already.

        Return the job as it is then. Nothing is lost if Redis is away: only the event is missing.
        """
        draft = position_event(position)
        if job.detail == draft.fields["detail"]:
            return job
        now = self._clock.now()
        after, data = apply_draft(job, draft, None, now)
        with suppress(errors.Unavailable):
            change = await self._write(
                "record_position", job.id, job.event, position, after.status, job_json.dump(after), data, now
            )
            if change:
                self._last_change = int(change)
                return after
        return job

    async def waiting(self, queues: Collection[str]) -> Mapping[str, int]:
        """Return the number of waiting jobs by queue, and of those in backlogs."""
        return dict(zip((*queues, BACKLOG), await self._read("waiting", *queues), strict=True))

    async def claim(self, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        """Claim up to `limit` unfinished jobs without a holder, if their queues have room."""
        queues = [argument for queue, room in rooms.items() for argument in (queue, room.limit, room.max_wait)]
        async with self._claiming:
            # After a lost reply, a claim with the same id returns the same jobs. No other node can take them.
            once = self._unanswered_claims.setdefault(node, secrets.token_hex(8))
            now = self._clock.now()
            # While Redis is away or refuses writes, no node can renew its lease. So for the length of a lease after
            # that, expired leases are left to their holders. The same holds after the start of this process, which
            # does not know whether Redis was available before.
            expired = self._leases.list_expired() if self._writes.available_for() >= self._lease else ""
            found, nodes = await self._write("claim", node, once, now, expired, now + self._lease, limit, *queues)
            self._leases.observe(nodes)
            del self._unanswered_claims[node]
        claims = replies.parse_claims(node, found)
        self._holdings.add(claims)
        return claims

    async def _release_unanswered_claims(self) -> None:
        """Release the jobs of claims whose reply never arrived, because no runner knows of them."""
        for node in list(self._unanswered_claims):
            for claim in await self.claim(node, {}, 0):
                await self.release(claim)

    async def renew(self, node: str) -> None:
        """Renew the leases of all the node's claims."""
        try:
            await self._writes.call("HSET", "pollcast:nodes", node, self._clock.now() + self._lease)
        except errors.Unavailable:
            self._writes.mark_unwritable()
            raise

    async def unknown_claims(self, node: str, driven: Collection[str]) -> Sequence[Claim]:
        """Return claims of the node for jobs that are not in `driven`."""
        held = await self._reads.call("ZRANGE", f"pollcast:held:{node}", 0, -1)
        unknown = [job for job in held if job.decode() not in driven]
        return replies.parse_claims(node, await self._read("read_claims", node, *unknown[:JOBS_PER_READ]))

    async def release(self, claim: Claim) -> None:
        """Give the job back unfinished."""
        await self._write("release", claim.job.id, claim.node, claim.epoch)
        self._holdings.discard(claim)

    async def record_intent(self, claim: Claim, request: bytes | None = None) -> Job:
        """Record that the order is about to be sent, and its request."""
        time, monotonic = self._clock.now(), self._clock.monotonic()
        job = await self._set_intent(claim, time, request)
        # The monotonic clock may stop while a machine is suspended, and the other clock may be set back.
        if max(self._clock.now() - time, self._clock.monotonic() - monotonic) >= self._lease:
            # This node was suspended before it got the reply. Meanwhile another node may have claimed the job.
            await self._holdings.fetch_held(claim)
        return job

    async def withdraw_intent(self, claim: Claim) -> Job:
        """Record that the provider certainly did not take the order."""
        return await self._set_intent(claim, None)

    async def intended_request(self, claim: Claim) -> bytes | None:
        """Return the request of the recorded intent."""
        return await self._holdings.fetch_request(claim)

    async def _set_intent(self, claim: Claim, at: float | None, request: bytes | None = None) -> Job:
        async with self._holdings.lock(claim) as known:
            job = known
            while True:
                record = job_json.dump(replace(job, intended_at=at))
                sent = "" if at is None else "1"
                match await self._holdings.change("record_intent", claim, job.event, sent, record, request or b""):
                    case [b"held", record]:
                        return self._holdings.remember(claim, replies.parse_job(record))
                    case [b"moved", record, _]:
                        job = replies.parse_job(record)

    async def append(self, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        """Record the job's next event, the refund that it causes and the new ticket."""
        mark = "f" if draft.status.final else "d" if "delta" in draft.fields else "-"
        completed = claim.job.model if draft.status is Status.COMPLETED else ""
        now = self._clock.now()
        async with self._holdings.lock(claim) as known:
            job = known
            while True:
                after, data = await self._holdings.apply(claim, job, draft, ticket, now)
                took = "" if after.intended_at is None else now - after.intended_at
                event = (mark, draft.refund, after.status, job_json.dump(after), data, now, completed, took)
                match await self._holdings.change("append", claim, job.event, *event):
                    case [b"held", cancel, change]:
                        self._last_change = int(change)
                        return self._holdings.remember(claim, replace(after, cancel_requested=cancel == b"1"))
                    case [b"moved", record, newest]:
                        before, job = job, replies.parse_job(record)
                        if is_recorded(before, job, newest, draft, ticket):
                            return self._holdings.remember(claim, job)

    async def request_cancel(self, account: str, job_id: str) -> Job | None:
        """Record that the client requests a cancel of the job."""
        match await self._write("request_cancel", account, job_id):
            case [b"done", change, record]:
                self._last_change = int(change) or self._last_change
                return replies.parse_job(record)
        return None

    async def durations(self, model: str, limit: int) -> Sequence[float]:
        """Return the durations of the model's newest completed jobs. Redis keeps the newest 500."""
        return [float(took) for took in await self._reads.call("LRANGE", f"pollcast:durations:{model}", 0, limit - 1)]

    async def delete_job(self, account: str, job_id: str) -> Sequence[str] | None:
        """Delete a finished job, its events and its outputs."""
        job = await self.job(account, job_id)
        if job is None:
            return None
        if await self._write("delete_job", account, job_id) == b"running":
            raise errors.Conflict(f"{job_id} still runs: wait for its end, or cancel it.")
        return _output_blobs(job)

    async def sweep(self, before: float, limit: int) -> SweepResult:
        """Delete some of the jobs that ended, and of the assets that were created, before `before`."""
        keys_before = min(before, self._clock.now() - _IDEMPOTENCY_KEY_SECONDS)
        records, assets = await self._read("find_old", before, limit)
        jobs = [replies.parse_job(record) for record in records]
        held = await self._write(
            "delete_old",
            " ".join(f"{job.account} {job.id}" for job in jobs),
            b" ".join(asset for asset, _ in assets),
            keys_before,
        )
        deleted = [blob.decode() for asset, blob in assets if asset not in held]
        return SweepResult(len(jobs) + len(deleted), [blob for job in jobs for blob in _output_blobs(job)] + deleted)

    async def job(self, account: str, job_id: str) -> Job | None:
        """Return the account's job."""
        record = await self._reads.call("GET", f"pollcast:job:{job_id}")
        job = replies.parse_job(record) if record else None
        return job if job and job.account == account else None

    async def jobs(
        self,
        account: str,
        limit: int,
        before: str | None = None,
        status: Status | None = None,
        model: str | None = None,
    ) -> Page[Job]:
        """Return the account's jobs, newest first."""
        records: list[bytes] = []
        size, cursor = 0, before or ""
        while True:
            left = (limit + 1 - len(records), PAGE_BYTES - size, len(records))
            following, *some = await self._read("jobs", account, cursor, *left, status or "", model or "")
            records += some
            size += sum(map(len, some))
            cursor = following.decode()
            length = limit if size <= PAGE_BYTES else max(min(len(records) - 1, limit), 1)
            if not cursor or len(records) > length:
                return replies.make_page([replies.parse_job(record) for record in records], length)

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        """Return the job's events numbered above `after`, in order."""
        entries = await self._read("read", job_id, after, account or "")
        return [replies.parse_event(job_id, n, entry) for n, entry in enumerate(entries, after + 1)]

    async def read_account(self, account: str, after: int, limit: int) -> FeedSlice | None:
        """Return up to `limit` events of the account's feed at positions above `after`."""
        found = await self._read("read_account", account, after, limit, PAGE_BYTES)
        return replies.parse_slice(found) if found else None

    async def snapshot(self, account: str, jobs: Collection[str] | None = None, head: int | None = None) -> FeedSlice:
        """Return the newest event of each unfinished job of the account, or of each of its jobs in `jobs`."""
        if head is None:
            head = int(await self._reads.call("HGET", f"pollcast:account:{account}", "head") or 0)
        unfinished = () if jobs is not None else await self._reads.call("SMEMBERS", f"pollcast:running:{account}")
        named = list(dict.fromkeys(jobs if jobs is not None else (job.decode() for job in unfinished)))
        places: list[Place] = []
        for start in range(0, len(named), JOBS_PER_READ):
            found = await self._read("newest_events", account, head, *named[start : start + JOBS_PER_READ])
            places += (Place(int(position), job.decode(), int(n), size) for position, job, n, size in found)
        first, rest = first_places(places)
        events: list[Event] = []
        for start in range(0, len(first), JOBS_PER_READ):
            wanted = [part for place in first[start : start + JOBS_PER_READ] for part in (place.job, place.n)]
            found = await self._read("events_at", *wanted)
            events += (replies.parse_event(job.decode(), int(n), entry) for job, n, entry in found)
        return FeedSlice(events, head, rest=rest)

    def changes(self) -> AsyncIterator[Change]:
        """Yield every event that any node records from this call on.

        Events that other nodes recorded shortly before the call may come as well.
        """
        return self._changes.listen(self._last_change)

    # --- assets ---

    async def add_asset(self, asset: Asset) -> None:
        """Record an asset whose bytes are already stored."""
        fields = (asset.id, asset.account, asset.type, asset.size, asset.blob, asset.created_at)
        await self._write("add_asset", *fields)

    async def asset(self, account: str, asset_id: str) -> Asset | None:
        """Return the account's asset."""
        names = ("account", "type", "size", "blob", "created_at")
        owner, *rest = await self._reads.call("HMGET", f"pollcast:asset:{asset_id}", *names)
        if owner is None or owner.decode() != account:
            return None
        type_, size, blob, created_at = (value.decode() for value in rest)
        return Asset(asset_id, account, type_, int(size), blob, float(created_at))

    async def delete_asset(self, account: str, asset_id: str) -> Asset | None:
        """Delete the asset and return it."""
        asset = await self.asset(account, asset_id)
        if asset and await self._write("delete_asset", asset_id) == b"held":
            raise errors.Conflict("An unfinished job names this asset: wait for its end, or cancel it.")
        return asset

    # --- state of the providers, shared by all nodes ---

    @property
    def shared(self) -> Self:
        """The state that all nodes on this Redis share."""
        return self

    async def reserve_slots(self, provider: str, number: int, gap: float) -> float:
        """Reserve `number` slots of the provider's rate limit and return the seconds until the first."""
        now = self._clock.now()
        return float(await self._read("reserve_slots", provider, number, gap, _EARLY_SECONDS, now)) - now

    async def exchange(self, after: str, text: bytes) -> Sequence[NodeMessage]:
        """Add the outcomes that one node reports. Those older than a circuit breaker remembers are removed."""
        found = await self._read("exchange", after, int(MEMORY), text)
        return [NodeMessage(stream_id.decode(), float(age), outcomes) for stream_id, age, outcomes in found]

    async def trial(self, provider: str, seconds: float) -> bool:
        """Reserve the one trial request of an open circuit breaker, under a key that expires."""
        key = f"pollcast:trial:{provider}"
        return await self._writes.call("SET", key, 1, "NX", "PX", int(seconds * 1000)) is not None


def _output_blobs(job: Job) -> list[str]:
    return [output.blob for output in job.outputs if output.blob]
