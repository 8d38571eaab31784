"""What a publishing process is told on its standard input, and the pace at which it publishes.

The server publishes from within, as Pollcast's runner does; for nchan a process beside it posts. Lines in, lines out:
`{"do": "open", "topics": N}` is answered by the request targets of the topics, `{"do": "publish", ...}` by `{}` once
all has been published, `{"do": "stats"}` by how many tasks and allocated blocks there are.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import orjson

from tests.bench.process import lines

CHUNK: Final = 32
"""Topics that get their event at once, where there are many."""


class Publisher(Protocol):
    """A server's own way to make topics, and to publish to them."""

    async def open(self, topics: int) -> Sequence[str]:
        """Make so many topics; gives the request target of each one's stream."""

    async def publish(self, topics: Sequence[int], burst: int, way: str) -> None:
        """Publish `burst` events to each of those topics, all at once."""


async def obey(publisher: Publisher) -> None:
    """Do what standard input says, until it ends."""
    async for order in lines():
        answer: dict[str, Any] = {}
        match order.pop("do"):
            case "open":
                answer = {"targets": await publisher.open(**order)}
            case "stats":
                answer = {"tasks": len(asyncio.all_tasks()), "blocks": sys.getallocatedblocks()}
            case "publish":
                await _publish(publisher, **order)
        print(orjson.dumps(answer).decode(), flush=True)  # noqa: T201


async def _publish(publisher: Publisher, *, topics: int, rounds: int, gap: float, burst: int, way: str) -> None:
    """Publish to every topic, so many times; `gap` is the seconds from one round to the next.

    The rounds of many topics are spread evenly over that time, so that nobody waits for the whole of them.
    """
    chunks = [range(first, min(first + CHUNK, topics)) for first in range(0, topics, CHUNK)]
    due = time.monotonic()
    for _ in range(rounds):
        for chunk in chunks:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await publisher.publish(chunk, burst, way)
            due += gap / len(chunks)


def event(n: int) -> dict[str, Any]:
    """The event that the peers publish: as large as one of Pollcast's, with the time at which it is published."""
    return {
        "status": "Processing",
        "job": "job_01K5AB3Z6J8Q4W2N7X9V0C1D5E",
        "model": "gaga-1",
        "n": n,
        "at": "2026-11-20T12:00:00.000Z",
        **fields(),
    }


def fields() -> dict[str, Any]:
    """The fields of an event that are its own."""
    return {"detail": "Running", "progress": 50, "t": time.monotonic_ns()}
