"""Delivery: cost and latency of an event, memory of a stream, and the rate at which streams open.

A session is one server with a number of streams, of one topic or of one topic each. After the streams have opened, it
stays idle for some seconds, which shows the memory and the cost of idle streams. A warm-up finds a pace that does not
saturate the server. Then events are published: one at a time, and eight at once.
"""

import asyncio
import statistics
from dataclasses import dataclass
from pathlib import Path

from tests.bench import machine
from tests.bench.book import Book
from tests.bench.load import Load, Streams, request
from tests.bench.plan import Plan
from tests.bench.process import Failed
from tests.bench.servers import Serving, serving

BURST = 8
WARM = 3
MOST_ROUNDS = 100
"""Maximum number of publishing rounds. With few streams, it limits the number of deliveries."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session. `deliveries` is the approximate number of delivered events in each measurement, over all streams."""

    server: str
    streams: int
    each: bool
    deliveries: int
    idle: float

    @property
    def topics(self) -> int:
        return self.streams if self.each else 1

    @property
    def shape(self) -> str:
        return f"{self.streams:,} x 1" if self.each else f"1 x {self.streams:,}"

    @property
    def ways(self) -> tuple[str, ...]:
        return ("append", "told") if self.server == "pollcast" else ("posted",)


async def measure(session: Session, load: Load, folder: Path, book: Book) -> None:
    """Run one session, and record its figures."""
    async with serving(session.server, folder) as server:
        targets = await server.open(session.topics)
        requests = [request("GET", target, server.port, "Accept: text/event-stream") for target in targets]
        async with load.streams(server.port, requests, 20):
            pass  # The set-up of the first stream is not part of a stream's memory.
        await asyncio.sleep(0.5)
        before, meter = machine.memory(server.pid), machine.Meter(server.pid)
        async with load.streams(server.port, requests, session.streams) as streams:
            run = _Run(session, server, streams, book)
            run.opened(meter)
            run.held(before, await run.idle())
            for way in session.ways:
                gap = await run.pace(way)
                await run.publish(way, gap, 1)
                if not session.each:
                    await run.publish(way, gap * BURST / 2, BURST)


@dataclass(frozen=True, slots=True)
class _Run:
    session: Session
    server: Serving
    streams: Streams
    book: Book

    def _add(self, way: str, what: str, unit: str, value: float) -> None:
        name = self.session.server + {"append": " with its journal"}.get(way, "")
        self.book.add(("delivery", self.session.shape, what, name), unit, value)

    async def idle(self) -> float:
        """Keep the streams idle, and return the server's memory."""
        meter = machine.Meter(self.server.pid)
        await asyncio.sleep(self.session.idle)
        self._add("", "idle", "us of CPU per stream and second", meter.cpu / meter.seconds / self.session.streams * 1e6)
        return machine.memory(self.server.pid)

    def opened(self, meter: machine.Meter) -> None:
        self.book.check_core(meter)
        opened = self.streams.opened
        if opened["open"] != self.session.streams or opened["refused"]:
            raise RuntimeError(f"{self.session}: not all streams were opened: {opened}")
        self._add("", "streams opened", "1/s", opened["opened"] / opened["seconds"])
        self._add("", "cpu to open", "us per stream", meter.cpu / self.session.streams * 1e6)
        self._check_load("opening", opened["cpu"], opened["seconds"])

    def held(self, before: float, after: float) -> None:
        self._add("", "memory", "KiB per stream", (after - before) / self.session.streams)

    async def pace(self, way: str) -> float:
        """Publish some rounds, each after the last one has arrived everywhere. Return a gap that does not saturate."""
        taken: list[float] = []
        for _ in range(WARM):
            await self.streams.begin(1)
            await self._tell(way, 1, 0, 1)
            counted = await self.streams.counted()
            taken.append(counted["seconds"] if self.session.each else counted["last_p50"] / 1e6)
        return max(0.003, 1.5 * statistics.median(taken))

    async def publish(self, way: str, gap: float, burst: int) -> None:
        session = self.session
        deliveries = session.deliveries // 4 if session.each else session.deliveries
        rounds = min(max(deliveries // (session.streams * burst), 5 if burst == 1 else 3), MOST_ROUNDS)
        patience = 60 + 4 * rounds * gap
        await self.streams.begin(rounds * burst, patience)
        meter = machine.Meter(self.server.pid)
        await self._tell(way, rounds, gap, burst, patience)
        counted = await self.streams.counted(patience)
        used = meter.cpu
        self.book.check_core(meter)
        expected = rounds * burst * session.streams
        if counted["events"] != expected:
            raise RuntimeError(f"{session}: {counted['events']} of {expected} events were delivered")
        if burst == 1:
            self._add(way, "cpu", "us per event", used / expected * 1e6)
            self._add(way, "p99 of one event", "ms", counted["one_p99"] / 1e3)
            self._add(way, "last of one event", "ms", counted["last_p50"] / 1e3)
        else:
            self._add(way, f"cpu, {burst} in flight", "us per event", used / expected * 1e6)
        self._check_load(way, counted["cpu"], counted["seconds"])

    async def _tell(self, way: str, rounds: int, gap: float, burst: int, patience: float = 60) -> None:
        topics = self.session.topics
        order = {"do": "publish", "topics": topics, "rounds": rounds, "gap": gap, "burst": burst, "way": way}
        await self.server.publisher.ask(order, patience)

    def _check_load(self, what: str, cpu: float, seconds: float) -> None:
        session = self.session
        self.book.check_load(f"{session.server}, {session.shape}, {what}", cpu / seconds if seconds else 0)


async def run(plan: Plan) -> None:
    """Run all servers at all sizes, in interleaved rounds, so that drift of the machine affects all equally."""
    deliveries, idle = (40_000, 1.0) if plan.quick else (100_000, 5.0)
    for streams in plan.streams:
        for round_ in range(plan.rounds):
            for each in (False, True):
                for server in plan.servers:
                    session = Session(server, streams, each, deliveries, idle)
                    plan.say(f"delivery, round {round_ + 1}: {server}, {session.shape}")
                    try:
                        await measure(session, plan.load, plan.place(), plan.book)
                    except (RuntimeError, Failed) as error:
                        plan.book.fail(f"delivery, {server}, {session.shape}: {error}")
