"""Streams under load: fast, slow and reconnecting readers, and events that arrive faster than some can read."""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from proxy.core.job import Draft, Order, Status
from proxy.serving.protocol import Http
from proxy.serving.server import listen
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import Admission, Claim, QueueRoom
from proxy.streams.feed import Feed
from proxy.streams.responses import FeedResponse, StreamOutsideMiddleware
from proxy.streams.stream import JobStream

EVENTS = 300
SIZE = 4000
"""Bytes of an event: all of them are far more than a socket's buffers hold."""


class Served:
    """One job's stream on a port, from a real store, by our own HTTP protocol."""

    def __init__(self, store: SqliteStore, claim: Claim) -> None:
        self.store, self.claim = store, claim
        self.feed = Feed(store, heartbeat=0.05)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tail = await self.feed.job(self.claim.job.account, self.claim.job.id)
        assert tail is not None
        await FeedResponse(JobStream(self.feed, tail, int(scope["query_string"] or b"0"), "key_1"))(
            scope, receive, send
        )

    async def publish(self) -> None:
        for n in range(2, EVENTS):
            await self.store.append(self.claim, Draft(Status.PROCESSING, {"detail": f"{n}" + "x" * SIZE}))
            await asyncio.sleep(random.choice([0, 0, 0.002]))
        await self.store.append(self.claim, Draft(Status.COMPLETED))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Served, int]]:
    async with SqliteStore(tmp_path / "pollcast.db") as store:
        key = await store.create_key("web", b"digest", 100)
        await store.admit(Admission(key.account, key.id, Order("suno", {"prompt": "A song"}), 1))
        (claim,) = await store.claim("node", {"": QueueRoom(1, 60)}, 1)
        app = Served(store, claim)
        following = asyncio.create_task(app.feed.run())
        await asyncio.sleep(0)
        server = uvicorn.Server(
            uvicorn.Config(StreamOutsideMiddleware(app), http=Http, lifespan="off", log_config=None)
        )
        with listen("127.0.0.1", 0) as listening:
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            yield app, listening.getsockname()[1]
            server.should_exit = server.force_exit = True
            await serving
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def read(port: int, after: int, *, pause: float, leave: float) -> list[int]:
    """Read a stream from `after` until its end, or until the reader leaves; gives the ids of whole frames."""
    loop = asyncio.get_running_loop()
    with socket.socket() as own:
        if pause:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        own.setblocking(False)
        await loop.sock_connect(own, ("127.0.0.1", port))
        await loop.sock_sendall(own, b"GET /?%d HTTP/1.1\r\nHost: x\r\n\r\n" % after)
        data = b""
        while not data.endswith(b"0\r\n\r\n") and random.random() >= leave:
            piece = await loop.sock_recv(own, 1 << 16)
            assert piece, "The stream broke off."
            data += piece
            await asyncio.sleep(pause)
    body = re.sub(rb"[0-9a-f]+\r\n((?:.|\n)*?)\r\n", rb"\1", data.partition(b"\r\n\r\n")[2])
    assert not re.search(rb"data: [^\n]*: keep-alive", body)
    return [int(number) for number in re.findall(rb"^id: (\d+)\n\n", body, re.MULTILINE)]


async def visit(port: int, *, pause: float = 0, leave: float = 0) -> list[int]:
    """All ids that one reader sees, however often it leaves and comes back after its last one."""
    seen: list[int] = []
    while not seen or seen[-1] < EVENTS:
        seen += await read(port, seen[-1] if seen else 0, pause=pause, leave=leave)
    return seen


async def test_no_reader_sees_a_gap_or_a_repetition(served: tuple[Served, int]) -> None:
    app, port = served
    random.seed(7)
    quick = [visit(port) for _ in range(10)]
    slow = [visit(port, pause=0.02) for _ in range(5)]
    restless = [visit(port, leave=0.1) for _ in range(15)]
    publishing = asyncio.create_task(app.publish())
    async with asyncio.timeout(25):
        for seen in await asyncio.gather(*quick, *slow, *restless):
            assert seen == list(range(1, EVENTS + 1))
    await publishing
    assert app.feed.delivered > 0
    assert app.feed.streams == 0
