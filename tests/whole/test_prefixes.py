"""Under a path prefix: behind nginx that strips it or not, at an ASGI `root_path`, mounted in another application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urljoin

import httpx
import pytest
import uvicorn
from httpx_sse import EventSource
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.deployment import NO_AUTHORITIES, Deployment
from tests.support.fronts import nginx
from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(60)

Placed = Callable[[Deployment, str, int], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def serving(app: ASGIApp, port: int, root_path: str = "") -> AsyncIterator[None]:
    config = uvicorn.Config(app, port=port, root_path=root_path, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.001)
    yield
    server.should_exit = True
    await running


@asynccontextmanager
async def behind_nginx_that_strips(deployment: Deployment, prefix: str, port: int) -> AsyncIterator[None]:
    place = f"location {prefix}/ {{ proxy_pass {deployment.origin}/; }}"
    with nginx(deployment.folder / "front", f"server {{ listen 127.0.0.1:{port}; {place} }}"):
        yield


@asynccontextmanager
async def behind_nginx_that_passes_all(deployment: Deployment, prefix: str, port: int) -> AsyncIterator[None]:
    place = f"location {prefix}/ {{ proxy_pass {deployment.origin}; }}"
    with nginx(deployment.folder / "front", f"server {{ listen 127.0.0.1:{port}; {place} }}"):
        yield


@asynccontextmanager
async def at_a_root_path(deployment: Deployment, prefix: str, port: int) -> AsyncIterator[None]:
    """uvicorn with --root-path, and nginx that strips the prefix, as uvicorn expects."""
    inner = free_port()
    place = f"location {prefix}/ {{ proxy_pass http://127.0.0.1:{inner}/; }}"
    async with serving(deployment.app, inner, prefix):
        with nginx(deployment.folder / "front", f"server {{ listen 127.0.0.1:{port}; {place} }}"):
            yield


@asynccontextmanager
async def at_a_root_path_that_is_not_in_the_path(deployment: Deployment, prefix: str, port: int) -> AsyncIterator[None]:
    """As hypercorn sets it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(prefix)
        await deployment.app({**scope, "path": path, "root_path": prefix}, receive, send)

    async with serving(app, port):
        yield


@asynccontextmanager
async def mounted(deployment: Deployment, prefix: str, port: int) -> AsyncIterator[None]:
    async with serving(Starlette(routes=[Mount(prefix, app=deployment.app)]), port):
        yield


PLACES = [
    behind_nginx_that_strips,
    behind_nginx_that_passes_all,
    at_a_root_path,
    at_a_root_path_that_is_not_in_the_path,
    mounted,
]


@pytest.mark.parametrize("prefix", ["/api", "/tools/api/v2", "/pollcast"])
@pytest.mark.parametrize("placed", PLACES, ids=lambda placed: placed.__name__)
async def test_links_and_locations_work_under_a_prefix(unstarted: Deployment, placed: Placed, prefix: str) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}{prefix}"
    unstarted.settings["public_url"] = public
    async with (
        unstarted as deployment,
        placed(deployment, prefix, port),
        httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as client,
    ):
        client.headers["Authorization"] = f"Bearer {deployment.key}"
        ordered = await client.post(f"{public}/api/jobs", json={"model": "suno", "prompt": "A song"})
        assert ordered.status_code == 202, ordered.text
        links = ordered.json()["links"]
        assert urljoin(f"{public}/api/jobs", ordered.headers["Location"]) == links["self"]
        assert (await client.get(links["self"])).status_code == 200
        picture = {"file": ("image.png", Deployment.media("image"), "image/png")}
        asset = await client.post(f"{public}/api/assets", files=picture)
        feed = await client.post(f"{public}/api/links", json={"path": "/api/events"})
        for path in ("/healthz", "/openapi.json", "/pollcast.js"):
            assert (await client.get(public + path)).status_code == 200, path
        assert (await client.get(f"{public}/nowhere")).status_code == 404
        del client.headers["Authorization"]
        assert (await client.get(asset.json()["url"])).content == Deployment.media("image")
        async with client.stream("GET", links["events"]) as response:
            assert [m.json() async for m in EventSource(response).aiter_sse()][-1]["status"] == "Completed"
        async with client.stream("GET", feed.json()["url"]) as response:
            assert (await anext(EventSource(response).aiter_sse())).event == "ready"
        assert (await client.get(links["events"] + "0")).status_code == 401


async def test_a_link_of_one_path_opens_no_other_under_a_prefix(unstarted: Deployment) -> None:
    port = free_port()
    unstarted.settings["public_url"] = public = f"http://127.0.0.1:{port}/api"
    async with (
        unstarted as deployment,
        mounted(deployment, "/api", port),
        httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as client,
    ):
        job = await deployment.submit("suno", prompt="A song")
        moved = job["links"]["events"].replace("/events?", "/content?")
        assert moved.startswith(public)
        assert (await client.get(moved)).status_code == 401


@pytest.mark.parametrize("host", ["api", "api.example.com"])
async def test_a_host_called_api_changes_no_path(unstarted: Deployment, host: str) -> None:
    unstarted.settings["public_url"] = f"https://{host}/tools"
    async with unstarted as deployment:
        ordered = await deployment.http.post("/api/jobs", json={"model": "suno", "prompt": "A song"})
        assert ordered.headers["Location"] == f"/tools/api/jobs/{ordered.json()['id']}"
        assert ordered.json()["links"]["self"] == f"https://{host}{ordered.headers['Location']}"


async def test_without_a_prefix_a_location_has_none(deployment: Deployment) -> None:
    ordered = await deployment.http.post("/api/generate", json={"model": "suno", "prompt": "A song"})
    assert ordered.headers["Location"].startswith("/api/jobs/job_")
