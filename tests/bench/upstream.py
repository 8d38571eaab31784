"""All providers' APIs in one process with little CPU time, so that the benchmark measures their clients.

Answers equal those of `proxy/simulator`, without its checks. Jobs are endless, or have a duration that is chosen at
submit. The result's URL of an ended job holds its end (`?t=`, nanoseconds of CLOCK_MONOTONIC). Standard input accepts
`{"do": "stats"}`, `{"do": "last", "mean": SECONDS, "spread": SHARE}` (mean 0: endless) and
`{"do": "bulk", "offered": BOOLEAN}` (the bulk status of HeyGen v3).
"""

import asyncio
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

import httptools
import orjson
import uvloop

from tests.bench.process import lines

PLACE = "http://127.0.0.1:9/result.mp4?t=%d"
MODELS = {"object": "list", "data": [{"id": model} for model in ("grok-imagine-video", "gpt-image-2", "gpt-5.4-mini")]}


class World:
    """The jobs of all providers, and counts of requests."""

    def __init__(self) -> None:
        self.polls = 0
        self.submits = 0
        self.status_requests = 0
        """Number of requests for the states of HeyGen v3, single or bulk."""
        self.bulk_offered = True
        self.ended_at: list[int] = []
        """End of each job, by its number, in nanoseconds. 0: never."""
        self.asked: list[int] = []
        """Number of polls of each job, by its number."""
        self._chance = Random(4)
        self._mean = 0.0
        self._spread = 0.0

    def last(self, mean: float, spread: float) -> dict[str, Any]:
        """Set the duration of the next jobs: normally distributed, in seconds."""
        self._mean, self._spread = mean, spread
        return {}

    def bulk(self, *, offered: bool) -> dict[str, Any]:
        """Offer the bulk status of HeyGen v3, or answer it with 404."""
        self.bulk_offered = offered
        return {}

    def stats(self) -> dict[str, Any]:
        """Return the counts since the start."""
        now = time.monotonic_ns()
        running = sum(not end or end > now for end in self.ended_at)
        counts = {"polls": self.polls, "submits": self.submits, "status_requests": self.status_requests}
        return {**counts, "running": running, "asked": self.asked}

    def new(self) -> int:
        """Add a job, and return its number."""
        self.submits += 1
        seconds = max(self._chance.gauss(self._mean, self._mean * self._spread), 0.1) if self._mean else 0
        self.ended_at.append(time.monotonic_ns() + int(seconds * 1e9) if seconds else 0)
        self.asked.append(0)
        return len(self.ended_at) - 1

    def url(self, n: int) -> str | None:
        """Return the URL of a job's result, or None if it has not ended."""
        self.polls += 1
        self.asked[n] += 1
        end = self.ended_at[n]
        return PLACE % end if end and end <= time.monotonic_ns() else None

    # --- the providers ---

    def answer(self, method: str, url: str, body: bytes) -> Any:
        """Return the document that answers a request, or None for an unknown path."""
        path, _, query = url.partition("?")
        head, _, last = path.rpartition("/")
        if method == "GET" and head == "/v3/videos":
            return self._heygen_v3(last, query)
        if method == "GET" and (poll := self._polls.get(head)):
            return poll(int(last))
        if last == "video_status.get":
            return self._heygen(int(query.rpartition("=")[2]))
        if last == "video_status":
            return self._ganai(int(head.rpartition("/")[2]))
        submit = self._submits.get(path)
        return submit(body) if submit else None

    @property
    def _polls(self) -> dict[str, Callable[[int], Any]]:
        return {"/v1/generations": self._gaga, "/v1/videos/async": self._gaia}

    @property
    def _submits(self) -> dict[str, Callable[[bytes], Any]]:
        return {
            "/v1/generations": lambda _: {"id": self.new()},
            "/v1/videos/async": lambda _: {"id": str(self.new()), "object": "video", "status": "queued", "progress": 0},
            "/v1/models": lambda _: MODELS,
            "/v1/video.generate": lambda _: {"code": 100, "message": "ok", "data": {"video_id": str(self.new())}},
            "/v3/videos": lambda _: {"data": {"video_id": str(self.new()), "status": "waiting"}},
            "/create_video/bulk": lambda body: [self._item(item["unique_id"]) for item in orjson.loads(body)],
        }

    def _gaga(self, n: int) -> Any:
        url = self.url(n)
        status = "Success" if url else "Running"
        return {"id": n, "status": status, "resultVideoURL": url, "resultVideoId": None, "createTime": 1763640000}

    def _gaia(self, n: int) -> Any:
        url = self.url(n)
        status, progress = ("completed", 100) if url else ("in_progress", 40)
        return {"id": str(n), "object": "video", "status": status, "progress": progress, "created_at": 1763640000}

    def _item(self, unique_id: str) -> Any:
        n = self.new()
        return {"unique_id": unique_id, "inference_id": str(n), "project_id": "demo", **self._places(n, "early")}

    def _ganai(self, n: int) -> Any:
        url = self.url(n)
        status = "SUCCEEDED" if url else "PROCESSING"
        return {"gen_status": status, "error": None} | self._places(n, url)

    def _places(self, n: int, url: str | None) -> dict[str, str]:
        place = url or f"http://127.0.0.1:9/{n}"
        return {"video_url": place, "permalink": place, "thumbnail_url": f"http://127.0.0.1:9/{n}.jpg"}

    def _heygen(self, n: int) -> Any:
        url = self.url(n)
        status = "completed" if url else "processing"
        data = {"id": str(n), "status": status, "video_url": url, "thumbnail_url": None, "duration": None}
        return {"code": 100, "message": "Success", "data": data | {"error": None}}

    def _heygen_v3(self, name: str, query: str) -> Any:
        self.status_requests += 1
        if name == "statuses":
            videos = query.partition("=")[2].replace("%2C", ",").split(",") if self.bulk_offered else []
            return {"data": [self._item_v3(int(n)) for n in videos]} if videos else None
        n = int(name)
        url = self.url(n)
        return {"data": {"id": name, "status": "completed" if url else "processing", "video_url": url}}

    def _item_v3(self, n: int) -> dict[str, str]:
        return {"video_id": str(n), "status": "completed" if self.url(n) else "processing"}


class Connection(asyncio.Protocol):
    """One persistent HTTP/1.1 connection."""

    def __init__(self, world: World) -> None:
        self._world = world

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        document = self._world.answer(method, self._url.decode(), self._body)
        status = b"200 OK" if document is not None else b"404 Not Found"
        body = orjson.dumps(document)
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)
        if not self._parser.should_keep_alive():
            self._transport.close()


async def serve(port: int) -> None:
    world = World()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Connection(world), "127.0.0.1", port, backlog=4096):
        async for order in lines():
            answer = getattr(world, order.pop("do"))(**order)
            print(orjson.dumps(answer).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
