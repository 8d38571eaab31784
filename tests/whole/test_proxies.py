"""Behind real proxies: nginx and Caddy pass on what streams, Links, ranges and uploads need."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from httpx_sse import EventSource

from proxy.core.clock import SystemClock
from tests.support.deployment import Deployment
from tests.support.fronts import documented_caddy, documented_nginx, keepalive_nginx, needed, plain_nginx, trusting

pytestmark = pytest.mark.timeout(60)

Front = Callable[[Path, str], AbstractContextManager[str]]
IMPATIENT = "proxy_read_timeout 5s;"
GZIP = "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;"


def nginx_as_it_comes(folder: Path, origin: str) -> AbstractContextManager[str]:
    return plain_nginx(folder, origin, location=IMPATIENT)


def nginx_that_compresses(folder: Path, origin: str) -> AbstractContextManager[str]:
    return plain_nginx(folder, origin, location=IMPATIENT + GZIP)


def nginx_that_passes_bodies_on(folder: Path, origin: str) -> AbstractContextManager[str]:
    """HTTP/1.0, and uploads as they come: the answer can overtake the body."""
    return plain_nginx(folder, origin, location="proxy_request_buffering off; client_max_body_size 0;")


def nginx_that_takes_large_bodies(folder: Path, origin: str) -> AbstractContextManager[str]:
    return plain_nginx(folder, origin, location="client_max_body_size 0; client_body_buffer_size 6m;")


each_front = pytest.mark.parametrize(
    "front",
    [nginx_as_it_comes, nginx_that_compresses, documented_nginx, documented_caddy],
    ids=lambda front: front.__name__,
)
each_documented_front = pytest.mark.parametrize(
    "front", [documented_nginx, documented_caddy], ids=lambda front: front.__name__
)


@dataclass(frozen=True, slots=True)
class Behind:
    """A server with a front: `http` is a client with a key that knows the front alone."""

    deployment: Deployment
    folder: Path
    place: str
    http: httpx.AsyncClient

    def through(self, link: str) -> str:
        """A Link as it would be, were the front the server's public address."""
        return link.replace(self.deployment.origin, self.place)


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Deployment]:
    """A world on real time, whose providers work ten times as fast."""
    deployment = Deployment(tmp_path, clock=SystemClock(), provider={"poll_interval": 0.3})
    deployment.simulator.state.speed = 10
    async with deployment:
        yield deployment


@asynccontextmanager
async def behind(deployment: Deployment, front: Front) -> AsyncIterator[Behind]:
    folder = deployment.folder / "front"
    with front(folder, deployment.origin) as place:
        verify = trusting(folder) if place.startswith("https") else True
        headers = {"Authorization": f"Bearer {deployment.key}"}
        async with httpx.AsyncClient(
            base_url=place, headers=headers, trust_env=False, timeout=20, verify=verify
        ) as http:
            yield Behind(deployment, folder, place, http)


async def arriving(response: httpx.Response) -> list[tuple[float, dict[str, Any]]]:
    """The events of a stream, each with the moment in which it came."""
    now = asyncio.get_running_loop().time
    return [(now(), orjson.loads(message.data)) async for message in EventSource(response).aiter_sse()]


@each_front
async def test_events_arrive_one_by_one_and_204_follows_the_end(real: Deployment, front: Front) -> None:
    async with behind(real, front) as served:
        order = {"model": "gaga-1", "prompt": "Hello"}
        async with served.http.stream("POST", "/api/generate", json=order) as response:
            came = await arriving(response)
        events = [event for _, event in came]
        assert [event["n"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["status"] == "Completed"
        # The provider's states are at least a third of a second apart. Buffered events would arrive together.
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(came)]
        assert sum(gap > 0.2 for gap in gaps) >= 2
        last = {"Last-Event-ID": str(events[-1]["n"])}
        again = await served.http.get(f"/api/jobs/{events[0]['job']}/events", headers=last)
        assert (again.status_code, again.content) == (204, b"")


@each_front
async def test_heartbeats_keep_an_idle_stream_open_past_a_proxy_timeout(real: Deployment, front: Front) -> None:
    async with behind(real, front) as served:
        stuck = await served.http.post("/api/jobs", json={"model": "gaga-1", "prompt": "[stuck]"})
        heartbeats: list[float] = []
        now = asyncio.get_running_loop().time
        async with served.http.stream("GET", f"/api/jobs/{stuck.json()['id']}/events") as response:
            lines = response.aiter_lines()
            while len(heartbeats) < 2:
                if await anext(lines) == ": keep-alive":
                    heartbeats.append(now())
        # Each silence was just under the time-out, and both together were longer.
        assert 3 < heartbeats[1] - heartbeats[0] < 5


@each_front
async def test_uploads_links_ranges_and_head_work(real: Deployment, front: Front) -> None:
    picture = Deployment.media("image")
    async with behind(real, front) as served:
        asset = await served.http.post("/api/assets", files={"file": ("cat.png", picture, "image/png")})
        link = served.through(asset.json()["url"])
        anonymous = {"Authorization": "", "Accept-Encoding": "identity"}
        whole = await served.http.get(link, headers=anonymous)
        assert (whole.status_code, whole.content) == (200, picture)
        part = await served.http.get(link, headers=anonymous | {"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, picture[10:20])
        known = await served.http.get(link, headers=anonymous | {"If-None-Match": whole.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        head = await served.http.head(link, headers=anonymous)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(picture)))
        assert (await served.http.get(link + "0", headers=anonymous)).status_code == 401
        job = (await served.http.post("/api/jobs", json={"model": "suno", "prompt": "song"})).json()
        async with served.http.stream("GET", served.through(job["links"]["events"]), headers=anonymous) as response:
            assert (await arriving(response))[-1][1]["status"] == "Completed"


@each_documented_front
async def test_a_large_file_is_uploaded_and_downloaded_unchanged(real: Deployment, front: Front) -> None:
    film = Deployment.media("video") + bytes(20 << 20)
    async with behind(real, front) as served:
        asset = await served.http.post("/api/assets", files={"file": ("film.mp4", film, "video/mp4")})
        assert (asset.status_code, asset.json()["size"]) == (201, len(film))
        assert (await served.http.get(served.through(asset.json()["url"]))).content == film


async def test_a_proxy_does_not_make_a_broken_stream_look_complete(real: Deployment) -> None:
    # Caddy 2.6.2 fails this: it ends the stream as if it were complete. proxies.md says so.
    async with behind(real, documented_nginx) as served:
        order = {"model": "gaga-1", "prompt": "[stuck]"}
        async with served.http.stream("POST", "/api/generate", json=order) as response:
            chunks = response.aiter_bytes()
            await anext(chunks)
            await real.restart()
            with pytest.raises(httpx.TransportError):
                async for _ in chunks:
                    pass


@each_documented_front
async def test_a_browser_is_spoken_to_in_http_2(real: Deployment, front: Front) -> None:
    async with behind(real, front) as served:
        stream = f"{served.place}/api/ping?marks=3&gap=100"
        command = [needed("curl"), "-sN", "--http2", "--cacert", str(served.folder / "made.pem")]
        told = await asyncio.to_thread(
            subprocess.run,
            [*command, "-w", "version %{http_version}", stream],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert told.stdout.endswith("version 2")
        assert told.stdout.count("data: ") == 3


@pytest.mark.parametrize(
    "front",
    [nginx_that_takes_large_bodies, nginx_that_passes_bodies_on, keepalive_nginx, documented_nginx, documented_caddy],
    ids=lambda front: front.__name__,
)
async def test_a_refusal_overtakes_a_large_body_and_still_reaches_the_client(real: Deployment, front: Front) -> None:
    # Whether a proxy keeps its connection to the client after such an answer is its own affair.
    body, close = bytes(5_000_000), {"Connection": "close"}
    async with behind(real, front) as served:
        for _ in range(20):
            unknown = await served.http.post("/api/assets", content=body, headers=close | {"Authorization": "Bearer x"})
            assert (unknown.status_code, unknown.json()["code"]) == (401, "unauthorized")
            large = await served.http.post("/api/jobs", content=body, headers=close)
            assert (large.status_code, large.json()["code"]) == (413, "too_large")
