"""The store of several nodes: one Redis that all of them share.

Every promise is one call of a script that Redis carries out whole; the public methods only pass it what it needs, and
`scripts/` does the rest. Whatever a call returned is as safe as Redis's own file: with `appendonly yes` and
`appendfsync always` it survives a loss of power, and a warning at the start says so where that is not set.

Answers get lost. So every call can be made twice: a job, key or grant is named here before it is asked for, a holder
says at which event it knows its job to stand, and a claim that is repeated is given what it was given before.

Leases compare the clocks of different machines: they must agree to within a few seconds (NTP), a lease lasts 30 or as
long as `POLLCAST_LEASE` says.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ulid import ULID

from proxy.core import errors
from proxy.core.clock import Clock, SystemClock
from proxy.core.job import Draft, Event, Job, Status, Ticket, encode, new_id, position_event
from proxy.core.provider_health import MEMORY, Told
from proxy.store import job_json
from proxy.store.redis.changes import BLOCK, ChangeReader, event_of
from proxy.store.redis.connection import LIBRARY, Pipeline, RedisConnection, check
from proxy.store.types import (
    AT_ONCE,
    BACKLOG,
    PAGE_BYTES,
    Account,
    Admission,
    Admitted,
    Asset,
    Cause,
    Change,
    Claim,
    ClaimLost,
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
    check_refund,
    first_places,
    too_many_jobs,
)

log = logging.getLogger(__name__)

_KEY_LIFE: Final = 24 * 3600.0
"""Seconds that an idempotency key is kept at the least (contract, section 3)."""
_SCHEMA: Final = 1
"""The version of what is kept in Redis; a store that a newer one wrote is not opened."""
_OLDEST: Final = (6, 2)
"""Redis's version that has every command of the script."""

Argument = str | bytes | float
Listed = TypeVar("Listed", Entry, Job)


@dataclass(slots=True)
class _Holding:
    """A claim of this process: the job as its holder knows it (None: not yet), and the turn to change it."""

    job: Job | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Leases:
    """The other nodes' leases, as this process has watched them.

    A node renews its lease by writing another value. It is dead when its value has not changed for as long as a lease
    lasts, by the monotonic clock of the node that watches. So no node's time of day can end the lease of another.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._seen: dict[str, tuple[str, float]] = {}
        """By node: its value, and the monotonic time at which that was new."""

    def saw(self, nodes: Sequence[bytes]) -> None:
        """Take note of what every node has written: a name, then a value, of each."""
        now = self._clock.monotonic()
        found = dict(zip(map(bytes.decode, nodes[::2]), map(bytes.decode, nodes[1::2]), strict=True))
        before = self._seen
        self._seen = {
            node: before[node] if node in before and before[node][0] == value else (value, now)
            for node, value in found.items()
        }

    def lapsed(self) -> str:
        """The dead nodes, each with its value, separated by blanks."""
        end = self._clock.monotonic() - self._seconds
        return " ".join(f"{node} {value}" for node, (value, since) in self._seen.items() if since <= end)


class RedisStore:
    """The `Store` in the Redis at `url`; one that `serves` runs jobs, and is told of what may be lost."""

    def __init__(self, url: str, clock: Clock | None = None, *, lease: float = 30.0, serves: bool = False) -> None:
        check(url)
        self._url = url
        self._clock = clock or SystemClock()
        self._lease = lease
        self._serves = serves
        self._holdings: dict[tuple[str, int], _Holding] = {}
        self._claiming = asyncio.Lock()
        self._leases = _Leases(self._clock, lease)
        self._claims: dict[str, str] = {}
        """By node, the name of the claim that was last made and has not been answered."""
        self._advanced = False
        self._told = 0
        """The number of the newest change that this process has recorded."""

    async def __aenter__(self) -> Self:
        """Connect, and see whether this Redis will do; errors.Unavailable when not."""
        async with AsyncExitStack() as stack:
            self._writes, self._reads = (Pipeline(RedisConnection(self._url), self._clock.monotonic) for _ in range(2))
            stack.push_async_callback(self._reads.close)
            stack.push_async_callback(self._writes.close)
            await self._check_server()
            if self._serves:
                await self._check_safety()
            self._told = int(await self._reads.call("GET", "pollcast:told") or 0)
            self._follower = ChangeReader(RedisConnection(self._url, wait=BLOCK), self._told)
            stack.push_async_callback(self._end_changes)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the calls that were made, then end every listener and let go of the connections."""
        with suppress(errors.Unavailable):
            await self._give_back()
        await self._writes.close()
        await self._stack.aclose()

    async def ping(self) -> None:
        """Prove that a write is carried out now."""
        if wrong := await self._write("ping", self._clock.now()):
            raise errors.Unavailable(f"The store's key {wrong.decode()} holds something else than Pollcast's own.")

    async def get_or_set(self, name: str, value: bytes) -> bytes:
        """The value kept under `name`."""
        return bytes(await self._write("agree", name, value))

    async def secret(self, name: str) -> bytes:
        """The 32 random bytes kept under `name`."""
        return await self.get_or_set(name, secrets.token_bytes(32))

    # --- accounts, keys, ledger ---

    async def create_key(self, name: str, digest: bytes, tokens: int = 0) -> Key:
        """Add a key to the account called `name`."""
        base = secrets.randbelow(1 << 32) << 16  # positions stay far below 2^53, the last whole number of every client
        new = (new_id("key"), digest, name, new_id("acct"), base, tokens, self._clock.now())
        return _key(await self._write("create_key", *new))

    async def key(self, digest: bytes) -> Key | None:
        """The key of that digest, as Redis says now."""
        found = await self._read("key_of", digest)
        return _key(found) if found else None

    async def key_by_id(self, key_id: str) -> Key | None:
        """The key of that id, as Redis says now."""
        found = await self._read("key", key_id)
        return _key(found) if found else None

    async def active_keys(self, ids: Collection[str]) -> set[str]:
        """Those of the ids that are keys and were not revoked."""
        return {key.decode() for key in await self._read("good_keys", *ids)}

    async def keys(self) -> Sequence[Key]:
        """All keys, oldest first."""
        return sorted(map(_key, await self._read("keys")), key=lambda key: key.id)

    async def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key, once and for ever."""
        found = await self._write("revoke_key", key_id, self._clock.now())
        return _key(found) if found else None

    async def grant(self, name: str, tokens: int) -> Account | None:
        """Add `tokens` to the account called `name`."""
        match await self._write("grant", name, tokens, secrets.token_hex(8), self._clock.now()):
            case [b"done", account, balance]:
                return Account(account.decode(), name, int(balance))
            case [b"short", balance]:
                raise cannot_take(-tokens, int(balance))
        return None

    async def account(self, account_id: str) -> Account | None:
        """The account with its balance now."""
        name, tokens = await self._reads.call("HMGET", f"pollcast:account:{account_id}", "name", "tokens")
        return Account(account_id, name.decode(), int(tokens)) if name is not None else None

    async def accounts(self) -> Sequence[Account]:
        """All accounts, by name."""
        found = await self._read("accounts")
        accounts = [Account(account.decode(), name.decode(), int(tokens)) for account, name, tokens in found]
        return sorted(accounts, key=lambda account: account.name)

    async def ledger(self, account: str, limit: int, before: str | None = None) -> Page[Entry]:
        """The account's ledger entries, newest first."""
        end = f"({_place(before)}" if before else "+"
        found = await self._reads.call("XREVRANGE", f"pollcast:ledger:{account}", end, "-", "COUNT", limit + 1)
        return _page([_entry(place, *fields[1::2]) for place, fields in found], limit)

    # --- jobs and events ---

    async def admit(self, admission: Admission) -> Admitted:
        """Record a new job, or find the one that its idempotency key made."""
        now = self._clock.now()
        job = Job(new_id("job"), admission.account, admission.key, admission.order, admission.tokens, now, now)
        answer = await self._write(
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
            "" if admission.most is None else admission.most,
            admission.line,
        )
        match answer:
            case [b"done", told, place]:
                self._told = int(told)
                return Admitted(await self._tell_place(job, int(place)) if int(place) else job)
            case [b"no asset", asset]:
                raise errors.NotFound(f"There is no asset {asset.decode()}.")
            case [b"full", standing_in_line] if admission.most is not None:
                raise too_many_jobs(admission.most, int(standing_in_line))
            case [b"no account"]:
                raise errors.NotFound(f"There is no account {job.account}.")
            case [b"short", balance]:
                raise cannot_pay(job.tokens, int(balance))
        return Admitted(_replayed(answer), replayed=True)

    async def replay(self, admission: Admission) -> Job | None:
        """The job that the admission's idempotency key made before."""
        asked = (admission.account, admission.idempotency_key or "", admission.fingerprint)
        answer = await self._read("replay", *asked)
        return None if answer == [b"new"] else _replayed(answer)

    async def release_backlog(self, most: int | None, limit: int) -> int:
        """Let jobs go on from their accounts' lines to their queues."""
        anew = 0 if self._advanced else 1
        lines = await self._write("advance", "" if most is None else most, limit, self._clock.now(), anew)
        self._advanced = True
        for account, _, length in lines:
            for place, record in await self._read("standing", account, *announced_positions(int(length))):
                await self._tell_place(_job(record), int(place))
        return sum(int(went) for _, went, _ in lines)

    async def _tell_place(self, job: Job, place: int) -> Job:
        """Tell a job in its account's line where it stands, unless it knows; told or not, it stands there."""
        draft = position_event(place)
        if job.detail == draft.fields["detail"]:
            return job
        now = self._clock.now()
        after, data = _after(job, draft, None, now)
        with suppress(errors.Unavailable):
            told = await self._write(
                "tell_place", job.id, job.event, place, after.status, job_json.dump(after), data, now
            )
            if told:
                self._told = int(told)
                return after
        return job

    async def waiting(self, queues: Collection[str]) -> Mapping[str, int]:
        """How many jobs wait, by queue, and in line."""
        return dict(zip((*queues, BACKLOG), await self._read("waiting", *queues), strict=True))

    async def claim(self, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        """Take up to `limit` unfinished jobs that nobody holds, as far as there is room for them."""
        waiting = [argument for queue, room in rooms.items() for argument in (queue, room.limit, room.max_wait)]
        async with self._claiming:
            # Asked again by the same name, after an answer that was lost, Redis gives the same jobs: nobody else can.
            once = self._claims.setdefault(node, secrets.token_hex(8))
            now = self._clock.now()
            # While Redis is away, or takes no writes, nobody can renew a lease: those that lapsed are left to their
            # holders for a while. Who has just started does not know how it was.
            lapsed = self._leases.lapsed() if self._writes.served_for() >= self._lease else ""
            taken, nodes = await self._write("claim", node, once, now, lapsed, now + self._lease, limit, *waiting)
            self._leases.saw(nodes)
            del self._claims[node]
        claims = [Claim(_job(record), node, int(epoch), float(since)) for epoch, since, record in taken]
        for claim in claims:
            self._holdings[_name(claim)] = _Holding(claim.job)
        return claims

    async def _give_back(self) -> None:
        """Release what was claimed by a call whose answer never came: nobody drives it."""
        for node in list(self._claims):
            for claim in await self.claim(node, {}, 0):
                await self.release(claim)

    async def renew(self, node: str) -> None:
        """Prolong the leases of all the node's claims."""
        try:
            await self._writes.call("HSET", "pollcast:nodes", node, self._clock.now() + self._lease)
        except errors.Unavailable:
            self._writes.doubt()
            raise

    async def unknown_claims(self, node: str, driven: Collection[str]) -> Sequence[Claim]:
        """Claims of the node's that it does not know of."""
        held = await self._reads.call("ZRANGE", f"pollcast:held:{node}", 0, -1)
        strange = [job for job in held if job.decode() not in driven]
        taken = await self._read("taken", node, *strange[:AT_ONCE])
        return [Claim(_job(record), node, int(epoch), float(since)) for epoch, since, record in taken]

    async def release(self, claim: Claim) -> None:
        """Give the job back unfinished."""
        await self._write("release", claim.job.id, claim.node, claim.epoch)
        self._holdings.pop(_name(claim), None)

    async def record_intent(self, claim: Claim) -> Job:
        """Record that the order is about to be sent."""
        asked, began = self._clock.now(), self._clock.monotonic()
        job = await self._intend(claim, asked)
        # The monotonic clock may stand still while a machine is suspended; the other one may have been set back.
        if max(self._clock.now() - asked, self._clock.monotonic() - began) >= self._lease:
            # This node slept before it heard that it may send: meanwhile the job may have become another's.
            await self._held(claim)
        return job

    async def withdraw_intent(self, claim: Claim) -> Job:
        """Record that the order surely was not taken."""
        return await self._intend(claim, None)

    async def _intend(self, claim: Claim, at: float | None) -> Job:
        async with self._holding(claim) as known:
            job = known
            while True:
                record = job_json.dump(replace(job, intended_at=at))
                match await self._change("intend", claim, job.event, "" if at is None else "1", record):
                    case [b"held", record]:
                        return self._know(claim, _job(record))
                    case [b"moved", record, _]:
                        job = _job(record)

    async def append(self, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        """Record the job's next event, the refund that it causes and the new ticket."""
        mark = "f" if draft.status.final else "d" if "delta" in draft.fields else "-"
        completed = claim.job.model if draft.status is Status.COMPLETED else ""
        now = self._clock.now()
        async with self._holding(claim) as known:
            job = known
            while True:
                after, data = await self._next(claim, job, draft, ticket, now)
                took = "" if after.intended_at is None else now - after.intended_at
                event = (mark, draft.refund, after.status, job_json.dump(after), data, now, completed, took)
                match await self._change("append", claim, job.event, *event):
                    case [b"held", wanted, told]:
                        self._told = int(told)
                        return self._know(claim, replace(after, cancel_requested=wanted == b"1"))
                    case [b"moved", record, newest]:
                        before, job = job, _job(record)
                        if _recorded(before, job, newest, draft, ticket):
                            return self._know(claim, job)

    async def request_cancel(self, account: str, job_id: str) -> Job | None:
        """Note that the client wants the job to stop."""
        match await self._write("request_cancel", account, job_id):
            case [b"done", told, record]:
                self._told = int(told) or self._told
                return _job(record)
        return None

    async def durations(self, model: str, limit: int) -> Sequence[float]:
        """How long the newest completed jobs of a model took; the newest 500 are known."""
        return [float(took) for took in await self._reads.call("LRANGE", f"pollcast:durations:{model}", 0, limit - 1)]

    async def delete_job(self, account: str, job_id: str) -> Sequence[str] | None:
        """Forget a finished job, its events and outputs."""
        job = await self.job(account, job_id)
        if job is None:
            return None
        if await self._write("delete_job", account, job_id) == b"running":
            raise errors.Conflict(f"{job_id} still runs: wait for its end, or cancel it.")
        return _blobs(job)

    async def sweep(self, before: float, limit: int) -> SweepResult:
        """Forget some of the jobs that ended, and assets that were made, before `before`."""
        keys_before = min(before, self._clock.now() - _KEY_LIFE)
        found, assets = await self._read("old", before, limit)
        jobs = [_job(record) for record in found]
        held = await self._write(
            "forget",
            " ".join(f"{job.account} {job.id}" for job in jobs),
            b" ".join(asset for asset, _ in assets),
            keys_before,
        )
        gone = [blob.decode() for asset, blob in assets if asset not in held]
        return SweepResult(len(jobs) + len(gone), [blob for job in jobs for blob in _blobs(job)] + gone)

    async def job(self, account: str, job_id: str) -> Job | None:
        """The account's job."""
        record = await self._reads.call("GET", f"pollcast:job:{job_id}")
        job = _job(record) if record else None
        return job if job and job.account == account else None

    async def jobs(
        self,
        account: str,
        limit: int,
        before: str | None = None,
        status: Status | None = None,
        model: str | None = None,
    ) -> Page[Job]:
        """The account's jobs, newest first."""
        found: list[bytes] = []
        size, place = 0, before or ""
        while True:
            left = (limit + 1 - len(found), PAGE_BYTES - size, len(found))
            rest, *some = await self._read("jobs", account, place, *left, status or "", model or "")
            found += some
            size += sum(map(len, some))
            place = rest.decode()
            most = limit if size <= PAGE_BYTES else max(min(len(found) - 1, limit), 1)
            if not place or len(found) > most:
                return _page([_job(record) for record in found], most)

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        """The job's events numbered above `after`, in order."""
        entries = await self._read("read", job_id, after, account or "")
        return [_event(job_id, n, entry) for n, entry in enumerate(entries, after + 1)]

    async def read_account(self, account: str, after: int, limit: int) -> FeedSlice | None:
        """Up to `limit` events of the account's feed at positions above `after`."""
        found = await self._read("read_account", account, after, limit, PAGE_BYTES)
        return _stretch(found) if found else None

    async def snapshot(self, account: str, jobs: Collection[str] | None = None, head: int | None = None) -> FeedSlice:
        """The newest event of every unfinished job of the account, or of every one of `jobs` that it has."""
        if head is None:
            head = int(await self._reads.call("HGET", f"pollcast:account:{account}", "head") or 0)
        unfinished = () if jobs is not None else await self._reads.call("SMEMBERS", f"pollcast:running:{account}")
        named = list(dict.fromkeys(jobs if jobs is not None else (job.decode() for job in unfinished)))
        places: list[Place] = []
        for start in range(0, len(named), AT_ONCE):
            found = await self._read("newest", account, head, *named[start : start + AT_ONCE])
            places += (Place(int(position), job.decode(), int(n), size) for position, job, n, size in found)
        first, rest = first_places(places)
        events: list[Event] = []
        for start in range(0, len(first), AT_ONCE):
            wanted = [part for place in first[start : start + AT_ONCE] for part in (place.job, place.n)]
            events += (_event(job.decode(), int(n), entry) for job, n, entry in await self._read("at", *wanted))
        return FeedSlice(events, head, rest=rest)

    def changes(self) -> AsyncIterator[Change]:
        """Tell every event recorded from this call on, whichever node records it.

        What another node recorded in the moment before the call may be told, too.
        """
        return self._follower.listen(self._told)

    # --- assets ---

    async def add_asset(self, asset: Asset) -> None:
        """Record an asset whose bytes are already stored."""
        fields = (asset.id, asset.account, asset.type, asset.size, asset.blob, asset.created_at)
        await self._write("add_asset", *fields)

    async def asset(self, account: str, asset_id: str) -> Asset | None:
        """The account's asset."""
        names = ("account", "type", "size", "blob", "created_at")
        owner, *rest = await self._reads.call("HMGET", f"pollcast:asset:{asset_id}", *names)
        if owner is None or owner.decode() != account:
            return None
        type_, size, blob, created_at = (value.decode() for value in rest)
        return Asset(asset_id, account, type_, int(size), blob, float(created_at))

    async def delete_asset(self, account: str, asset_id: str) -> Asset | None:
        """Forget the asset and return it."""
        asset = await self.asset(account, asset_id)
        if asset and await self._write("delete_asset", asset_id) == b"held":
            raise errors.Conflict("An unfinished job names this asset: wait for its end, or cancel it.")
        return asset

    # --- what nodes share about providers ---

    @property
    def shared(self) -> Self:
        """What the nodes on this Redis have in common."""
        return self

    async def turns(self, provider: str, number: int, gap: float) -> float:
        """Reserve turns to ask the provider; up to a tenth of a second's may lie in the past."""
        now = self._clock.now()
        return float(await self._read("turns", provider, number, gap, 0.1, now)) - now

    async def exchange(self, after: str, text: bytes) -> Sequence[Told]:
        """Add what one node tells; what is older than a breaker's memory is forgotten."""
        found = await self._read("exchange", after, int(MEMORY), text)
        return [Told(place.decode(), float(age), told) for place, age, told in found]

    async def trial(self, provider: str, seconds: float) -> bool:
        """Reserve the trial under a key that expires."""
        key = f"pollcast:trial:{provider}"
        return await self._writes.call("SET", key, 1, "NX", "PX", int(seconds * 1000)) is not None

    # --- claims, as this process knows them ---

    @asynccontextmanager
    async def _holding(self, claim: Claim) -> AsyncIterator[Job]:
        """Have the claim's job to oneself, as its holder knows it. Raises ClaimLost."""
        holding = self._holdings.setdefault(_name(claim), _Holding())
        async with holding.turn:
            try:
                yield holding.job or await self._held(claim)
            except ClaimLost:
                self._holdings.pop(_name(claim), None)
                raise

    def _know(self, claim: Claim, job: Job) -> Job:
        """Note how the holder's job stands; a finished one is nobody's."""
        if holding := self._holdings.get(_name(claim)):
            holding.job = job
        if job.status.final:
            self._holdings.pop(_name(claim), None)
        return job

    async def _held(self, claim: Claim) -> Job:
        record = await self._read("held", claim.job.id, claim.node, claim.epoch)
        if not record:
            raise _lost(claim)
        return _job(record)

    async def _change(self, name: str, claim: Claim, *arguments: Argument) -> Any:
        answer = await self._write(name, claim.job.id, claim.node, claim.epoch, *arguments)
        if answer[0] == b"lost":
            raise _lost(claim)
        return answer

    async def _next(self, claim: Claim, job: Job, draft: Draft, ticket: Ticket | None, now: float) -> tuple[Job, bytes]:
        """The job after the draft, and its event; a claim that is lost is said before what is wrong with the draft."""
        try:
            return _after(job, draft, ticket, now)
        except (TypeError, ValueError):
            await self._held(claim)
            raise

    # --- Redis ---

    def _write(self, name: str, *arguments: Argument) -> "asyncio.Future[Any]":
        return self._writes.call("EVALSHA", _SHA, 0, name, *arguments)

    def _read(self, name: str, *arguments: Argument) -> "asyncio.Future[Any]":
        return self._reads.call("EVALSHA", _SHA, 0, name, *arguments)

    async def _end_changes(self) -> None:
        await self._follower.close(self._told)

    async def _check_server(self) -> None:
        """Refuse what cannot keep the promises."""
        info = _info(await self._reads.call("INFO"))
        if info.get("cluster_enabled") == "1":
            raise errors.Unavailable("This is a Redis Cluster, which cannot hold the store: use a single Redis.")
        version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
        if version < _OLDEST:
            raise errors.Unavailable(f"This Redis is {info['redis_version']}; the store needs 6.2 or newer.")
        await self._writes.call("SET", "pollcast:schema", _SCHEMA, "NX")
        found = int(await self._writes.call("GET", "pollcast:schema"))
        if found > _SCHEMA:
            raise errors.Unavailable(f"A newer Pollcast wrote this store: its schema is {found}, not {_SCHEMA}.")

    async def _check_safety(self) -> None:
        """Warn of settings by which Redis may lose what it acknowledged."""
        try:
            found = {name: (await self._reads.call("CONFIG", "GET", name))[1].decode() for name in _SAFE}
        except (errors.Unavailable, IndexError) as error:
            reason = error.__cause__ if isinstance(error, errors.Unavailable) else "CONFIG does not tell"
            log.warning("Whether Redis keeps what it acknowledged cannot be checked here (%s). %s", reason, _NEEDED)
            return
        unsafe = [f"{name} is {found[name]}" for name, safe in _SAFE.items() if found[name] not in safe]
        if unsafe:
            log.warning("Redis may lose orders and tokens that it acknowledged: %s. %s", ", ".join(unsafe), _NEEDED)


_SAFE: Final = {
    "appendonly": {"yes"},
    "appendfsync": {"always"},
    "maxmemory-policy": {"noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"},
}
"""What Redis's settings must be so that what it acknowledged survives a loss of power, and a full memory."""
_NEEDED: Final = "It needs appendonly yes, appendfsync always, and maxmemory-policy noeviction."
_SHA: Final = hashlib.sha1(LIBRARY.encode(), usedforsecurity=False).hexdigest()


def _info(text: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


# --- what Redis answers, as records ---


def _key(found: Sequence[Any]) -> Key:
    key, account, name, created_at, revoked_at = found
    revoked = float(revoked_at) if revoked_at is not None else None
    return Key(key.decode(), account.decode(), name.decode(), float(created_at), revoked)


def _entry(place: bytes, tokens: bytes, cause: bytes, job: bytes, micros: bytes) -> Entry:
    """A ledger entry; its id is its place in the stream, written like every other id."""
    time, _, number = place.partition(b"-")
    name = ULID.from_int(int(time) << 80 | int(number))
    return Entry(f"entry_{name}", int(tokens), Cause(cause.decode()), job.decode() or None, int(micros) / 1e6)


def _place(entry: str) -> str:
    """The place in the stream that an entry's id stands for."""
    try:
        number = int(ULID.from_str(entry.removeprefix("entry_")))
    except ValueError:  # no id of ours: as a text it sorts before all of them, or after
        return f"{_MOST}-{_MOST}" if entry > "entry_" else "0-1"
    return f"{number >> 80}-{min(number & (1 << 80) - 1, _MOST)}" if number else "0-1"


_MOST: Final = (1 << 64) - 1


def _page(found: Sequence[Listed], limit: int) -> Page[Listed]:
    """Make a page of `limit` items; one more was asked for, to know whether the list goes on."""
    return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)


def _job(record: bytes) -> Job:
    """A job as it is kept: whether its client wants its end, then its record."""
    return replace(job_json.load(record[1:]), cancel_requested=record[:1] == b"1")


def _replayed(answer: Sequence[bytes]) -> Job:
    match answer:
        case [b"replayed", record]:
            return _job(record)
        case [b"conflict"]:
            raise errors.IdempotencyConflict("This Idempotency-Key was used for another order: send a new one.")
    raise errors.NotFound("The job that this Idempotency-Key made has been deleted.")


def _blobs(job: Job) -> list[str]:
    return [output.blob for output in job.outputs if output.blob]


def _event(job: str, n: int, entry: bytes) -> Event:
    position, mark, data = entry.split(b" ", 2)
    return event_of(job, n, int(position), mark.decode(), data)


def _stretch(found: Sequence[Any]) -> FeedSlice:
    head, cut, *entries = found
    events = [_event(job.decode(), int(n), entry) for job, n, entry in entries]
    return FeedSlice(sorted(events, key=lambda event: event.position), int(head), cut=bool(int(cut)))


# --- what a holder does to its job ---


def _name(claim: Claim) -> tuple[str, int]:
    return claim.job.id, claim.epoch


def _lost(claim: Claim) -> ClaimLost:
    return ClaimLost(f"{claim.node} does not hold {claim.job.id} any more.")


def _after(job: Job, draft: Draft, ticket: Ticket | None, now: float) -> tuple[Job, bytes]:
    """The job once the draft is recorded, and the event that says so."""
    after = job.after(draft, now)
    check_refund(job, draft)
    if ticket is not None:
        after = replace(after, ticket=ticket)
    return after, encode(after, draft, after.event, now)


def _recorded(before: Job, now: Job, newest: bytes, draft: Draft, ticket: Ticket | None) -> bool:
    """Whether the job moved because this very draft was recorded, and only the answer was lost."""
    if now.event != before.event + 1:
        return False
    after, data = _after(before, draft, ticket, now.updated_at)
    same = replace(after, cancel_requested=now.cancel_requested)
    return newest.endswith(b" " + data) and job_json.dump(same) == job_json.dump(now)
