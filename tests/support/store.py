"""Fixtures and helpers for tests with a store: a manual clock, an account's caller, and sample drafts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson
import pytest

from proxy.core.job import Draft, Job, Order, Status
from proxy.store.contract import Store
from proxy.store.types import Admission, Asset, Change, Claim, Key, QueueRoom

Opened = Callable[[], Store]

LEASE = 30.0
"""Lease of a claim, in seconds."""

PROGRESS = Draft(Status.PROCESSING, {"detail": "Rendering"})
DONE = Draft(Status.COMPLETED, {"url": "https://example.com/cat.mp4"})
FAILED = Draft(Status.ERROR, {"message": "It broke.", "code": "upstream_failed", "refunded": 20}, refund=20)


class ManualClock:
    """A clock that moves only when a test sets `time`."""

    def __init__(self) -> None:
        self.time = 1_790_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass(frozen=True)
class Caller:
    """A client with an API key. It has short methods for the most frequent calls."""

    store: Store
    key: Key

    @property
    def account(self) -> str:
        return self.key.account

    def order(self, tokens: int = 20, **admission: Any) -> Admission:
        order = admission.pop("order", Order("gaga-1", {"prompt": "A cat"}))
        return Admission(self.account, self.key.id, order, tokens, **admission)

    async def admit(self, tokens: int = 20, **admission: Any) -> Job:
        return (await self.store.admit(self.order(tokens, **admission))).job

    async def balance(self) -> int:
        account = await self.store.account(self.account)
        assert account
        return account.tokens

    async def ledger(self) -> list[int]:
        """Return the amounts of all ledger entries, oldest first."""
        return [entry.tokens for entry in reversed((await self.store.ledger(self.account, 1000)).items)]


ROOMS = {"": QueueRoom(1000, 1e9)}
"""One queue with unlimited room."""

_digests = (number.to_bytes(32, "big") for number in count())


async def new_caller(store: Store, name: str = "web", tokens: int = 100) -> Caller:
    """Create a key for the account called `name`, and grant `tokens`."""
    return Caller(store, await store.create_key(name, next(_digests), tokens))


async def claim_one(store: Store, node: str = "node-a") -> Claim:
    """Claim the one next job."""
    (claim,) = await store.claim(node, ROOMS, 1)
    return claim


async def details(store: Store, job: Job) -> list[str | None]:
    """Return the field `detail` of each of the job's events."""
    return [orjson.loads(event.data).get("detail") for event in await store.read(job.id, 0)]


def new_asset(account: str, name: str = "asset_1", created_at: float = 5.0) -> Asset:
    return Asset(name, account, "image/png", 10, f"blob-of-{name}", created_at)


async def soon(changes: AsyncIterator[Change]) -> Change:
    """Return the next change, within five seconds."""
    async with asyncio.timeout(5):
        return await anext(changes)


def gist(change: Change) -> Change:
    """Return the change without its event and its time."""
    return change._replace(event=None, at=0.0)


class StoreFixtures:
    """Fixtures of a store's tests. A subclass defines `opened`, which opens new handles on the test's one data set."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def opened(self) -> Opened:
        raise NotImplementedError

    @pytest.fixture
    async def store(self, opened: Opened) -> AsyncIterator[Store]:
        async with opened() as store:
            yield store

    @pytest.fixture
    async def caller(self, store: Store) -> Caller:
        return await new_caller(store)
