"""The peers that poll: a bare aiohttp loop, as in a usual first version.

It has one session and a task for each job: order, then sleep, request and parse, until the job has ended. `in turns`
polls at the same rate, but from one loop over all jobs, which shows the cost of a poll without a job's own cost.
"""

import asyncio
import os
import random
import sys
import time
from itertools import cycle
from typing import Any

import orjson
import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from tests.bench import machine
from tests.bench.process import lines

IN_FLIGHT = 32
"""Number of connections to the provider, equal to Pollcast's."""


class Loop:
    """Polls jobs of the first provider. `interval` is in seconds."""

    def __init__(self, session: ClientSession, origin: str, interval: float) -> None:
        self._session = session
        self._url = f"{origin}/v1/generations"
        self._interval = interval
        self._jobs: set[asyncio.Task[None]] = set()
        self.polls = 0
        self.lags: list[float] = []
        """Seconds from each job's end at the provider to the poll that read it."""

    async def order(self, jobs: int, rate: float, manner: str) -> None:
        """Start `jobs` jobs, `rate` per second. `a task each` starts at a random time of its interval."""
        began = time.monotonic()
        ids = []
        for n in range(jobs):
            await asyncio.sleep(max(began + n / rate - time.monotonic(), 0))
            async with self._session.post(self._url, json={"model": "gaga-1"}) as response:
                ids.append(orjson.loads(await response.read())["id"])
            if manner != "in turns":
                self._start(self._follow(ids[-1], random.random() if manner == "a task each" else 1))
        if manner == "in turns":
            self._start(self._take_turns(ids))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _follow(self, job: int, first: float) -> None:
        wait = self._interval * first
        while True:
            await asyncio.sleep(wait)
            wait = self._interval
            answer = await self._ask(job)
            if answer["status"] == "Success":
                finished = int(answer["resultVideoURL"].rpartition("t=")[2])
                self.lags.append((time.monotonic_ns() - finished) / 1e9)
                return

    async def _ask(self, job: int) -> dict[str, Any]:
        self.polls += 1
        async with self._session.get(f"{self._url}/{job}", headers={"Authorization": "Bearer key"}) as response:
            answer: dict[str, Any] = orjson.loads(await response.read())
            return answer

    async def _take_turns(self, ids: list[int]) -> None:
        free = asyncio.Semaphore(IN_FLIGHT)
        gap, due = self._interval / len(ids), time.monotonic()
        for job in cycle(ids):
            await asyncio.sleep(max(due - time.monotonic(), 0))
            due += gap
            await free.acquire()
            self._start(self._taken(job, free))

    async def _taken(self, job: int, free: asyncio.Semaphore) -> None:
        try:
            await self._ask(job)
        finally:
            free.release()

    async def over(self) -> dict[str, Any]:
        """Wait until all jobs have ended, and return the lags."""
        await asyncio.gather(*self._jobs)
        return {"lags": sorted(self.lags), "polls": self.polls}


async def serve(origin: str, interval: float) -> None:
    connector = TCPConnector(limit=IN_FLIGHT)
    async with ClientSession(connector=connector, timeout=ClientTimeout(60)) as session:
        loop = Loop(session, origin, interval)
        async for told in lines():
            answer: dict[str, Any] = {}
            match told.pop("do"):
                case "order":
                    await loop.order(**told)
                case "over":
                    answer = await loop.over()
                case "stats":
                    answer = {"polls": loop.polls, "cpu": machine.cpu(os.getpid())}
            print(orjson.dumps(answer).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], float(sys.argv[2])))
