"""The soak test: checks a server for growth over a long time, while streams open and close and jobs end.

Some jobs are endless, with many streams each. The others end after about a minute. Each is watched by the client that
ordered it, which then orders another. Each second, a few clients of both kinds leave early. The resources of the
process are printed every minute. The last third of the minutes is compared with the third before it.

At the start, no provider answers for some seconds, so that all polls wait at once. The memory for this is allocated
only once, and would look like growth if a slow machine caused it later.
"""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import machine, pollcast
from tests.bench.load import Load, Streams
from tests.bench.process import python

MEAN: Final = 60.0
SPREAD: Final = 0.5
WATCHED: Final = 50
"""Number of endless jobs."""
LEAVING: Final = 0.005
"""Share of the clients that leave in each second."""
RETENTION: Final = "5m"
SETTLED: Final = 20.0
"""Seconds after which all jobs are polled at their regular pace."""
STALL: Final = 8.0
"""Seconds for which no provider answers. It is below the timeout of a poll."""
MINUTE: Final = 60.0
FLAT: Final = {"memory, MiB": 1.05, "descriptors": 1.03, "tasks": 1.03, "blocks, thousands": 1.05}
"""Figures that must not grow, each with the maximum ratio of the last third to the middle one."""


@dataclass(frozen=True, slots=True)
class Soak:
    """The server and its clients."""

    server: pollcast.Pollcast
    watching: Streams
    ordering: Streams
    streams: int
    jobs: int
    store: Path

    async def minute(self) -> dict[str, float]:
        """Let clients leave and return for a minute, then return the server's resources."""
        began, cpu = time.monotonic(), machine.cpu(self.server.pid)
        while time.monotonic() - began < MINUTE:
            tick = time.monotonic()
            watching = await self._renew(self.watching, self.streams - self.jobs)
            ordering = await self._renew(self.ordering, self.jobs)
            await asyncio.sleep(max(tick + 1 - time.monotonic(), 0.05))
        inside = await self.server.process.ask({"do": "stats"})
        return {
            "memory, MiB": machine.memory(self.server.pid) / 1024,
            "descriptors": machine.descriptors(self.server.pid),
            "tasks": inside["tasks"],
            "blocks, thousands": inside["blocks"] / 1000,
            "streams": watching + ordering,
            "jobs under way": (await self.server.asked())["running"],
            "cpu, %": 100 * (machine.cpu(self.server.pid) - cpu) / (time.monotonic() - began),
            "store, MiB": sum(path.stat().st_size for path in self.store.glob("pollcast.db*")) / (1 << 20),
        }

    async def stall(self) -> None:
        """Stop the providers' answers for a while."""
        await asyncio.sleep(SETTLED)
        os.kill(self.server.upstream.pid, signal.SIGSTOP)
        await asyncio.sleep(STALL)
        os.kill(self.server.upstream.pid, signal.SIGCONT)

    async def _renew(self, streams: Streams, number: int) -> int:
        answer = await streams.renew(max(round(number * LEAVING), 1))
        if answer["refused"] or answer["broken"]:
            raise RuntimeError(f"not all streams were opened: {answer}\n{self.server.process.tail()}")
        return int(answer["open"])


@asynccontextmanager
async def _opened(load: Load, folder: Path, streams: int, jobs: int) -> AsyncIterator[Soak]:
    command = python("product", "free")
    own = {"POLLCAST_RETENTION": RETENTION}
    async with pollcast.serving(folder, pollcast.WITHOUT_BOUNDS, own, command) as server:
        watched = [await server.started_job() for _ in range(WATCHED)]
        while (await server.asked())["submits"] < WATCHED:
            await asyncio.sleep(0.1)  # The next line applies to orders that the provider receives after it.
        await server.upstream.ask({"do": "last", "mean": MEAN, "spread": SPREAD})
        events = [server.get(f"/api/jobs/{job}/events") for job in watched]
        orders = [server.order("/api/generate", order, "soak", "Connection: close") for order in pollcast.ORDERS]
        async with (
            load.streams(server.port, events, streams - jobs) as watching,
            load.streams(server.port, orders, jobs) as ordering,
        ):
            yield Soak(server, watching, ordering, streams, jobs, folder)


async def run(load: Load, folder: Path, say: Callable[[str], None], *, minutes: int, streams: int, jobs: int) -> bool:
    """Run for `minutes` minutes, and print the figures. Return True if they did not grow."""
    seen: list[dict[str, float]] = []
    async with _opened(load, folder, streams, jobs) as soak:
        await soak.stall()
        for minute in range(1, minutes + 1):
            seen.append(await soak.minute())
            if minute == 1:
                say("minute  " + "  ".join(seen[0]))
            say(f"{minute:>6}  " + "  ".join(f"{value:>{len(name)},.0f}" for name, value in seen[-1].items()))
    ratios = growth(seen)
    for name, ratio in ratios.items():
        say(f"{name}: the last third is {ratio:.3f} of the one before it, flat up to {FLAT[name]}")
    flat = all(ratio <= FLAT[name] for name, ratio in ratios.items())
    say("flat" if flat else "NOT FLAT")
    return flat


def growth(seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the ratio of the median of the last third of the minutes to that of the third before it."""
    third = max(len(seen) // 3, 1)
    middle, last = seen[-2 * third : -third] or seen, seen[-third:]
    return {
        name: statistics.median(minute[name] for minute in last) / statistics.median(minute[name] for minute in middle)
        for name in FLAT
    }
