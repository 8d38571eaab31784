"""Pollcast as a user starts it (`serve`), with a store that also obeys the benchmark.

    python -m tests.bench.product held      the benchmark holds all jobs and publishes; the runner finds none
    python -m tests.bench.product free      the runner runs them; the benchmark only looks

The benchmark publishes in two ways. `append` is the runner's way, with the durable journal. `told` notifies the feed of
events that were never recorded, for a comparison with servers that keep no journal. Only this file of the benchmark
uses Pollcast's internals.
"""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from proxy import app, cli
from proxy.core import keys
from proxy.core.clock import Clock, SystemClock
from proxy.core.job import Draft, Event, Order, Status
from proxy.core.links import Links
from proxy.core.settings import Settings, load
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import Admission, Change, Claim, QueueRoom
from tests.bench.publish import fields, obey

NODE = "bench"
DATA = (
    b'{"status":"Processing","job":"%s","model":"gaga-1","n":%d,"at":"2026-11-20T12:00:00.000Z",'
    b'"detail":"Running","progress":50,"t":%d}'
)
"""An event in the form of the log. It is encoded once, because encoding is part of the journal's cost."""
HELD = sys.argv[1:] == ["held"]


class Store(SqliteStore):
    """Store with additional events that were never recorded, but are published and read like others."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unrecorded: dict[str, list[Event]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._obeying = asyncio.create_task(obey(Publishing(self)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._obeying.cancel()
        await super().__aexit__(kind, error, trace)

    async def claim(self, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        """Return no claims to the runner if the benchmark holds all jobs."""
        return await super().claim(node, rooms, limit) if node == NODE or not HELD else ()

    async def read(self, job_id: str, after: int, account: str | None = None) -> Sequence[Event]:
        unrecorded = self._unrecorded.get(job_id)
        if not unrecorded:
            return await super().read(job_id, after, account)
        recorded = unrecorded[0].n - 1
        if after >= recorded:
            return unrecorded[after - recorded :]
        return [*await super().read(job_id, after, account), *unrecorded]

    def tell_unrecorded(self, account: str, events: Sequence[Event]) -> None:
        for event in events:
            self._unrecorded[event.job].append(event)
        self._publish([Change(account, event.job, event.n, event=event) for event in events])


class Publishing:
    """Jobs of one account, claimed by the benchmark."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._claims: list[Claim] = []
        self._newest: list[int] = []
        """Number of each job's newest event."""

    async def open(self, topics: int) -> Sequence[str]:
        key = await self._store.create_key("bench", keys.digest(keys.new_key()))
        admission = Admission(key.account, key.id, Order("gaga-1", {"prompt": "bench"}), 0)
        await asyncio.gather(*(self._store.admit(admission) for _ in range(topics)))
        while claims := await self._store.claim(NODE, {"": QueueRoom(topics, 60)}, 1000):
            self._claims += claims
        self._newest = [claim.job.event for claim in self._claims]
        settings = load(Settings)
        assert settings.secret is not None
        links = Links([settings.secret.get_secret_value().encode()], "", SystemClock(), ttl=3600)
        return [links.sign(f"/api/jobs/{claim.job.id}/events", key.id) for claim in self._claims]

    async def publish(self, topics: Sequence[int], burst: int, way: str) -> None:
        if way == "append":
            await asyncio.gather(*(self._append(topic) for topic in topics for _ in range(burst)))
        else:
            events = [self._unrecorded(topic) for topic in topics for _ in range(burst)]
            self._store.tell_unrecorded(self._claims[0].job.account, events)

    async def _append(self, topic: int) -> None:
        self._newest[topic] += 1
        await self._store.append(self._claims[topic], Draft(Status.PROCESSING, fields()))

    def _unrecorded(self, topic: int) -> Event:
        job = self._claims[topic].job
        self._newest[topic] = n = self._newest[topic] + 1
        return Event(job.id, n, DATA % (job.id.encode(), n, time.monotonic_ns()), final=False, position=n)


def _open_store(url: str, clock: Clock, **options: Any) -> Store:
    return Store(url.removeprefix("sqlite:///"), clock, **options)


if __name__ == "__main__":
    # The only change of the product: it opens this store.
    app.open_store = _open_store  # type: ignore[attr-defined]
    cli.main(["serve"])
