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
PROGRESS = Draft(Status.PROCESSING, {"detail": "Rendering"})
DONE = Draft(Status.COMPLETED, {"url": "https://example.com/cat.mp4"})
FAILED = Draft(Status.ERROR, {"message": "It broke.", "code": "upstream_failed", "refunded": 20}, refund=20)


class ManualClock:
    """A clock that stands still until it is told otherwise."""

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
    """An account at work: what the tests do most, in short words."""

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
        """The amounts of the whole ledger, oldest first."""
        return [entry.tokens for entry in reversed((await self.store.ledger(self.account, 1000)).items)]


ROOMS = {"": QueueRoom(1000, 1e9)}
"""One queue, in which there is always room."""

_digests = (number.to_bytes(32, "big") for number in count())


async def new_caller(store: Store, name: str = "web", tokens: int = 100) -> Caller:
    return Caller(store, await store.create_key(name, next(_digests), tokens))


async def claim_one(store: Store, node: str = "node-a") -> Claim:
    (claim,) = await store.claim(node, ROOMS, 1)
    return claim


async def details(store: Store, job: Job) -> list[str | None]:
    """What each event of the job says in `detail`."""
    return [orjson.loads(event.data).get("detail") for event in await store.read(job.id, 0)]


def new_asset(account: str, name: str = "asset_1", created_at: float = 5.0) -> Asset:
    return Asset(name, account, "image/png", 10, f"blob-of-{name}", created_at)


async def soon(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(5):
        return await anext(changes)


def gist(change: Change) -> Change:
    """A change without the event that it carries, and when that was handed in."""
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
