"""The peers in Python: a usual first version, and minimal ones.

`naive` is sse-starlette's response with a queue for each client, encoded for each client. `bare` is Starlette's
StreamingResponse over a log that all clients share, with frames that are encoded once. It is the best that Starlette
allows. `floor` is only a uvloop transport for each client, and a write to each. None has heartbeats or replay.
"""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import uvicorn
import uvloop
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.bench.publish import Publisher, event, obey


class Naive:
    """The peer `naive`: a queue for each client."""

    def __init__(self) -> None:
        self._queues: dict[int, set[asyncio.Queue[dict[str, Any]]]] = defaultdict(set)
        self._n = 0

    async def endpoint(self, request: Request) -> Response:
        return EventSourceResponse(self._events(request.path_params["topic"]))

    async def _events(self, topic: int) -> AsyncIterator[ServerSentEvent]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._queues[topic].add(queue)
        try:
            while True:
                event = await queue.get()
                yield ServerSentEvent(json.dumps(event), id=str(event["n"]), sep="\n")
        finally:
            self._queues[topic].discard(queue)

    async def open(self, topics: int) -> Sequence[str]:
        return [f"/{topic}" for topic in range(topics)]

    async def publish(self, topics: Sequence[int], burst: int, way: str) -> None:
        del way
        for _ in range(burst):
            self._n += 1
            said = event(self._n)
            for topic in topics:
                for queue in self._queues[topic]:
                    queue.put_nowait(said)


class Log:
    """The frames of one topic, and the clients that wait for more."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.more = asyncio.Event()

    def add(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.more.set()
        self.more = asyncio.Event()


class Bare:
    """The peer `bare`: a shared log, and a cursor for each client."""

    def __init__(self) -> None:
        self._logs: dict[int, Log] = defaultdict(Log)

    async def endpoint(self, request: Request) -> Response:
        log = self._logs[request.path_params["topic"]]
        return StreamingResponse(self._frames(log), media_type="text/event-stream")

    async def _frames(self, log: Log) -> AsyncIterator[bytes]:
        cursor = 0
        while True:
            if cursor == len(log.frames):
                await log.more.wait()
            waiting = log.frames[cursor:]
            cursor += len(waiting)
            yield b"".join(waiting)

    async def open(self, topics: int) -> Sequence[str]:
        return [f"/{topic}" for topic in range(topics)]

    async def publish(self, topics: Sequence[int], burst: int, way: str) -> None:
        del way
        for _ in range(burst):
            for topic in topics:
                log = self._logs[topic]
                n = len(log.frames) + 1
                log.add(b"data: %s\nid: %d\n\n" % (orjson.dumps(event(n)), n))


class Connection(asyncio.Protocol):
    """Connection of a client to `floor`. Every request is answered by a stream."""

    def __init__(self, clients: dict[int, set[Any]]) -> None:
        self._clients = clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._topic = int(data.split(b" ", 2)[1][1:])
        self._clients[self._topic].add(self._transport)
        self._transport.write(HEAD)

    def connection_lost(self, _: Exception | None) -> None:
        self._clients[self._topic].discard(self._transport)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Floor:
    """The peer `floor`: transports without a server."""

    def __init__(self) -> None:
        self._clients: dict[int, set[Any]] = defaultdict(set)
        self._n = 0

    async def open(self, topics: int) -> Sequence[str]:
        return [f"/{topic}" for topic in range(topics)]

    async def publish(self, topics: Sequence[int], burst: int, way: str) -> None:
        del way
        for _ in range(burst):
            self._n += 1
            for topic in topics:
                frame = b"data: %s\nid: %d\n\n" % (orjson.dumps(event(self._n)), self._n)
                chunk = b"%x\r\n%s\r\n" % (len(frame), frame)
                for transport in self._clients[topic]:
                    transport.write(chunk)

    async def serve(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(lambda: Connection(self._clients), "127.0.0.1", port, backlog=4096):
            await obey(self)


async def serve(kind: str, port: int) -> None:
    if kind == "floor":
        await Floor().serve(port)
        return
    peer: Naive | Bare = Naive() if kind == "naive" else Bare()
    app = Starlette(routes=[Route("/{topic:int}", peer.endpoint)])
    config = uvicorn.Config(
        app,
        port=port,
        http="httptools",
        loop="uvloop",
        log_level="critical",
        access_log=False,
        lifespan="off",
        backlog=4096,
        timeout_graceful_shutdown=1,
    )
    publisher: Publisher = peer
    obeying = asyncio.create_task(obey(publisher))
    await uvicorn.Server(config).serve()
    obeying.cancel()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
