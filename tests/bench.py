"""What an event costs here: `make bench` prints ratios against the obvious way of doing the same, in the same run.

Two things are measured, each in a server process of its own, over loopback: the CPU of delivering an event to many
streams (against a queue per client in sse-starlette's response), and the events journalled in a second (against a
commit for each). Read the ratios; the absolute figures are this machine's.
"""

import argparse
import asyncio
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
import uvloop
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy import tokens
from proxy.feed import Feed
from proxy.http import Http
from proxy.job import Draft, Order, Status
from proxy.store.base import Admission, Claim, Room
from proxy.store.sqlite import SqliteStore
from proxy.stream import FeedResponse, JobStream, Unwound

STREAMS, EVENTS, ROUNDS, PRODUCERS = 200, 200, 3, 64
DRAFT = Draft(Status.PROCESSING, {"detail": "Running", "progress": 50})


async def new_claim(store: SqliteStore) -> Claim:
    key = await store.create_key("bench", tokens.digest(tokens.new_key()))
    await store.admit(Admission(key.account, key.id, Order("gaga-1", {"prompt": "x"}), 0))
    return (await store.claim("bench", {"": Room(1000, 60)}, 1))[0]


class Naive:
    """The obvious way: a queue for each client, encoded for each client, sse-starlette's own response."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[dict[str, object]]] = set()

    async def endpoint(self, _: Request) -> Response:
        queue: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.queues.add(queue)

        async def events() -> AsyncIterator[ServerSentEvent]:
            while (event := await queue.get())["n"] != EVENTS:
                yield ServerSentEvent(json.dumps(event), id=str(event["n"]), sep="\n")
            yield ServerSentEvent(json.dumps(event), id=str(event["n"]), sep="\n")

        return EventSourceResponse(events())

    def publish(self, n: int) -> None:
        for queue in self.queues:
            queue.put_nowait({"status": "Processing", "job": "bench", "model": "gaga-1", "n": n, **DRAFT.fields})


async def serve(kind: str, port: int) -> None:
    """The server process: wait for all clients, publish all events, print the CPU seconds that took."""
    with tempfile.TemporaryDirectory() as folder:
        async with SqliteStore(Path(folder) / "bench.db") as store:
            claim = await new_claim(store)
            feed, naive = Feed(store), Naive()
            following = asyncio.create_task(feed.run())
            watching = 0

            async def product(_: Request) -> Response:
                nonlocal watching
                watching += 1
                return FeedResponse(JobStream(feed, claim.job.id, known=1, after=1))

            app = Starlette(routes=[Route("/", product if kind == "product" else naive.endpoint)])
            config = uvicorn.Config(
                Unwound(app), port=port, http=Http, loop="uvloop", log_level="critical", lifespan="off"
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while max(watching, len(naive.queues)) < STREAMS:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            before = resource.getrusage(resource.RUSAGE_SELF)
            for n in range(1, EVENTS + 1):
                # Both journal every event; only how it is delivered differs.
                await store.append(claim, DRAFT)
                naive.publish(n)
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.3)
            after = resource.getrusage(resource.RUSAGE_SELF)
            print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)  # noqa: T201
            feed.stop()
            server.should_exit = server.force_exit = True
            following.cancel()
            await serving


async def client(port: int) -> int:
    """Read one stream to its last event; returns how many came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
    seen = 0
    while seen < EVENTS and (chunk := await reader.read(1 << 16)):
        seen += chunk.count(b"data: ")
    writer.close()
    return seen


def delivery(kind: str) -> float:
    """Server CPU microseconds per delivered event."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "tests.bench", "--serve", kind, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603

        async def clients() -> list[int]:
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                await asyncio.sleep(0.05)
            return await asyncio.gather(*(client(port) for _ in range(STREAMS)))

        seen = asyncio.run(clients())
        assert set(seen) == {EVENTS}, f"{kind}: not every client saw every event"
        assert server.stdout is not None
        cpu = float(server.stdout.read())
    return cpu / (STREAMS * EVENTS) * 1e6


async def journalled(producers: int, events: int) -> float:
    """Events per second, with that many jobs appending at once."""
    with tempfile.TemporaryDirectory() as folder:
        async with SqliteStore(Path(folder) / "bench.db") as store:
            claims = [await new_claim(store) for _ in range(producers)]

            async def produce(claim: Claim) -> None:
                for _ in range(events // producers):
                    await store.append(claim, DRAFT)

            start = time.perf_counter()
            await asyncio.gather(*map(produce, claims))
            return events / (time.perf_counter() - start)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):9.1f}  ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=["product", "naive"])
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve(arguments.serve, arguments.port))
        return
    product, naive, grouped, single = [], [], [], []
    for _ in range(ROUNDS):  # interleaved, so that a machine that drifts drifts for all
        product.append(delivery("product"))
        naive.append(delivery("naive"))
        grouped.append(asyncio.run(journalled(PRODUCERS, 6400)))
        single.append(asyncio.run(journalled(1, 1000)))
    cheaper = statistics.median(product) / statistics.median(naive)
    faster = statistics.median(grouped) / statistics.median(single)
    lines = [
        f"{STREAMS} streams of one job, {EVENTS} events, {ROUNDS} interleaved rounds: median (min to max)",
        f"server CPU us per delivered event, Pollcast            {spread(product)}",
        f"server CPU us per delivered event, queue per client    {spread(naive)}",
        f"  ratio                                                {cheaper:9.2f}",
        f"events journalled per second, {PRODUCERS} jobs at once         {spread(grouped)}",
        f"events journalled per second, one commit per event     {spread(single)}",
        f"  ratio                                                {faster:9.2f}",
    ]
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
