"""The commands of a publishing process on its standard input, and the pace at which it publishes.

A server publishes inside its process, like Pollcast's runner. For nchan, a separate process posts. Each line is a
command with one answer. `{"do": "open", "topics": N}` returns the request targets of the topics.
`{"do": "publish", ...}` returns `{}` after everything was published. `{"do": "stats"}` returns the numbers of tasks and
allocated blocks.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import orjson

from tests.bench.process import lines

CHUNK: Final = 32
"""Number of topics that get their event at once, if there are many."""


class Publisher(Protocol):
    """A server's way to make topics and to publish to them."""

    async def open(self, topics: int) -> Sequence[str]:
        """Make `topics` topics, and return the request target of each one's stream."""

    async def publish(self, topics: Sequence[int], burst: int, way: str) -> None:
        """Publish `burst` events to each of these topics at once."""


async def obey(publisher: Publisher) -> None:
    """Obey the commands on standard input, until its end."""
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
    """Publish to every topic, `rounds` times, with `gap` seconds from one round to the next.

    A round of many topics is spread evenly over the gap, so that no topic waits for all others.
    """
    chunks = [range(first, min(first + CHUNK, topics)) for first in range(0, topics, CHUNK)]
    due = time.monotonic()
    for _ in range(rounds):
        for chunk in chunks:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await publisher.publish(chunk, burst, way)
            due += gap / len(chunks)


def event(n: int) -> dict[str, Any]:
    """Return the event that the peers publish. It has the size of Pollcast's, and the time of publication."""
    return {
        "status": "Processing",
        "job": "job_01K5AB3Z6J8Q4W2N7X9V0C1D5E",
        "model": "gaga-1",
        "n": n,
        "at": "2026-11-20T12:00:00.000Z",
        **fields(),
    }


def fields() -> dict[str, Any]:
    """Return the fields of an event that differ from event to event."""
    return {"detail": "Running", "progress": 50, "t": time.monotonic_ns()}
