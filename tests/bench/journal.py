"""The journal: events recorded per second, each durable before any subscriber is notified.

Pollcast's store, with as many concurrent appends as on a busy server, is compared with one commit for each event. Such
commits go through the same store, one at a time, and through minimal SQL in a thread, as with aiosqlite. All have the
same durability: a write-ahead log with `synchronous=FULL`, so that each commit waits for the disk.
"""

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import uvloop

from proxy.core import keys
from proxy.core.job import Draft, Order, Status
from proxy.store.contract import Store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import Admission, Claim, QueueRoom
from tests.bench import machine
from tests.bench.goals import EACH, OURS
from tests.bench.plan import Plan
from tests.bench.process import python, started

PRODUCERS = 64
EVENTS = {False: 8_000, True: 3_000}
TURNS = {False: 3, True: 1}
"""Turns of each way in a round, by `quick`. They are short, so that other load of the machine affects all equally."""
DRAFT = Draft(Status.PROCESSING, {"detail": "Running", "progress": 50})
WAYS = {OURS: PRODUCERS, "one commit per event, Pollcast's store": 1, EACH: PRODUCERS}


async def run(plan: Plan) -> None:
    """Run each way in a separate process, in turn."""
    for turn in range(plan.rounds * TURNS[plan.quick]):
        for way in WAYS:
            plan.say(f"journal, turn {turn + 1}: {way}")
            command = python("journal", way, EVENTS[plan.quick])
            async with started(*command, core=machine.cores()[0], folder=plan.place(), name="journal") as process:
                found = await process.said()
            case = f"{PRODUCERS} jobs at once"
            plan.book.add(("journal", case, "recorded", way), "1/s", found["rate"])
            plan.book.add(("journal", case, "until durable, p50", way), "ms", found["p50"])
            plan.book.add(("journal", case, "until durable, p99", way), "ms", found["p99"])
            plan.book.add(("journal", case, "cpu", way), "us per event", found["cpu"])


class Timer:
    """Durations of many writes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def done(self, since: float) -> None:
        self.seconds.append(time.perf_counter() - since)

    def figures(self) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        found, number = sorted(self.seconds), len(self.seconds)
        p50, p99 = (found[int(share * (number - 1))] * 1e3 for share in (0.5, 0.99))
        return {"recorded": number, "rate": number / wall, "p50": p50, "p99": p99, "cpu": cpu / number * 1e6}


async def _through_store(folder: Path, producers: int, events: int) -> dict[str, float]:
    async with SqliteStore(folder / "bench.db", exclusive=True) as store:  # as in `serve`
        held = await claims(store, producers)

        async def produce(claim: Claim) -> None:
            for _ in range(events // producers):
                since = time.perf_counter()
                await store.append(claim, DRAFT)
                timer.done(since)

        timer = Timer()
        await asyncio.gather(*map(produce, held))
        return timer.figures()


async def claims(store: Store, number: int, node: str = "bench") -> Sequence[Claim]:
    """Create `number` jobs of a new account, and return the node's claims on them."""
    key = await store.create_key(node, keys.digest(keys.new_key()))
    admission = Admission(key.account, key.id, Order("gaga-1", {"prompt": "bench"}), 0, queue=node)
    await asyncio.gather(*(store.admit(admission) for _ in range(number)))
    return await store.claim(node, {node: QueueRoom(number, 60)}, number)


async def _one_by_one(folder: Path, producers: int, events: int) -> dict[str, float]:
    db = sqlite3.connect(folder / "plain.db", isolation_level=None, check_same_thread=False)
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
    db.execute("CREATE TABLE event (job INTEGER, n INTEGER, data BLOB, PRIMARY KEY (job, n)) WITHOUT ROWID")
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1)

    async def produce(job: int) -> None:
        for n in range(events // producers):
            since = time.perf_counter()
            data = orjson.dumps({"status": DRAFT.status, "job": job, "n": n, **DRAFT.fields})
            # Without BEGIN, each statement is a transaction and is committed.
            await loop.run_in_executor(thread, db.execute, "INSERT INTO event VALUES (?, ?, ?)", (job, n, data))
            timer.done(since)

    timer = Timer()
    await asyncio.gather(*map(produce, range(producers)))
    return timer.figures()


async def main(way: str, events: int) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        work = _one_by_one if way == EACH else _through_store
        # Single writes take longer, so fewer are enough.
        found = await work(Path(folder), WAYS[way], events if WAYS[way] > 1 else events // 4)
    print(orjson.dumps(found).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
