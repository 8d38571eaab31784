"""Nodes: events recorded and published per second, with SQLite and with Redis, by one node and by two.

Every node reads the changes of all nodes, like a server. Redis writes its file before each answer, like SQLite. Nodes
and Redis share all cores of the machine.
"""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

from proxy.core.clock import SystemClock
from proxy.store import open_store
from proxy.store.contract import Store
from proxy.store.types import Claim
from tests.bench import machine
from tests.bench.goals import OURS
from tests.bench.journal import DRAFT, Timer, claims
from tests.bench.plan import Plan
from tests.bench.process import Process, lines, python, started
from tests.support.redis_server import RedisServer

JOBS: Final = 64
"""Number of jobs of each node, which append concurrently."""
SECONDS: Final = {False: 4.0, True: 1.0}
ONE, TWO, FILE = f"{OURS}, one on Redis", f"{OURS}, two on Redis", f"{OURS}, one on SQLite"


async def run(plan: Plan) -> None:
    """Run each way in turn, several times in a round."""
    ways = {FILE: 1}
    if shutil.which("redis-server"):
        ways |= {ONE: 1, TWO: 2}
    else:
        plan.book.note("Redis is left out: there is no redis-server.")
    for round_ in range(plan.rounds):
        for way, nodes in ways.items():
            plan.say(f"nodes, round {round_ + 1}: {way}")
            await _measure(plan, way, nodes)


async def _measure(plan: Plan, way: str, nodes: int) -> None:
    folder = plan.place()
    async with AsyncExitStack() as stack:
        redis = None if way == FILE else stack.enter_context(_redis(folder))
        url = redis.url if redis else f"sqlite:///{folder}/bench.db"
        running = [await stack.enter_async_context(_node(folder, url, number)) for number in range(nodes)]
        before = machine.cpu(redis.pid) if redis else 0.0
        asked = (node.ask({"do": "record", "seconds": SECONDS[plan.quick]}) for node in running)
        found: Sequence[dict[str, Any]] = await asyncio.gather(*asked)
        used = machine.cpu(redis.pid) - before if redis else 0.0
    recorded = sum(node["recorded"] for node in found)

    def add(what: str, unit: str, value: float) -> None:
        plan.book.add(("nodes", f"{JOBS} jobs each", what, way), unit, value)

    add("recorded and told", "1/s", sum(node["rate"] for node in found))
    add("until durable, p50", "ms", max(node["p50"] for node in found))
    add("cpu of the nodes", "us per event", sum(node["cpu"] * node["recorded"] for node in found) / recorded)
    if redis:
        add("cpu of Redis", "us per event", used / recorded * 1e6)


@contextmanager
def _redis(folder: Path) -> Iterator[RedisServer]:
    with RedisServer(folder) as server:
        machine.unpin(server.pid)
        yield server


@asynccontextmanager
async def _node(folder: Path, url: str, number: int) -> AsyncIterator[Process]:
    command = python("nodes", url, f"node-{number}")
    async with started(*command, core=None, folder=folder, name=f"node-{number}") as process:
        await process.said()  # The node is ready.
        yield process


# --- a node ---


async def _recorded(store: Store, held: Sequence[Claim], seconds: float) -> dict[str, float]:
    """Append to all jobs concurrently for `seconds` seconds."""
    timer, until = Timer(), time.perf_counter() + seconds

    async def produce(claim: Claim) -> None:
        while (since := time.perf_counter()) < until:
            await store.append(claim, DRAFT)
            timer.done(since)

    await asyncio.gather(*map(produce, held))
    return timer.figures()


async def _follow(store: Store) -> None:
    async for _ in store.changes():
        pass


async def main(url: str, node: str) -> None:
    async with open_store(url, SystemClock(), exclusive=True) as store:
        following = asyncio.create_task(_follow(store))
        held = await claims(store, JOBS, node)
        _say({"claimed": len(held)})
        async for order in lines():
            _say(await _recorded(store, held, order["seconds"]))
        following.cancel()


def _say(found: dict[str, float]) -> None:
    print(orjson.dumps(found).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
