"""Content over HTTP: relayed without buffering, cut off when its source fails, renewed when its URL expires."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from aiohttp import web

from proxy.api.times import ApiTimes
from proxy.upstream.times import UpstreamTimes
from tests.api.test_api import error_of
from tests.support.deployment import Deployment
from tests.support.site import Handler, Site

FILM = Deployment.media("video")
MEGABYTE = bytes(1 << 20)


@asynccontextmanager
async def studio(deployment: Deployment, film: Handler) -> AsyncIterator[str]:
    """Run a deployment in which Gaia is one site with one video. Yield the path of the job's content."""

    async def gaia(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/content"):
            return await film(request)
        return web.json_response({"id": "vidjob_1", "status": "completed"})

    async with Site(gaia) as site:
        deployment.providers["Gaia"] = {"base_url": site.url}
        async with deployment:
            job = (await deployment.generate("grok-imagine-video", prompt="rain"))[0]["job"]
            yield f"/api/jobs/{job}/content"


@pytest.fixture
def relaying(unstarted: Deployment) -> Deployment:
    unstarted.settings = {"results": "relay", "retention": "90d"}
    return unstarted


async def content_of(deployment: Deployment, model: str, **order: object) -> str:
    events = await deployment.generate(model, **order)
    assert events[-1]["status"] == "Completed"
    return f"/api/jobs/{events[0]['job']}/content"


async def heygen(deployment: Deployment) -> str:
    return await content_of(deployment, "heygen-v1", prompt="Hello", avatar_id="Anna")


# --- relayed and stored content ---


async def test_a_relayed_video_has_a_type_a_name_and_ranges(relaying: Deployment) -> None:
    async with relaying as deployment:
        path = await content_of(deployment, "gaga-1", prompt="Hello")
        whole = await deployment.http.get(path)
        assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, FILM, "video/mp4")
        assert whole.headers["content-disposition"] == f'inline; filename="{path.split("/")[3]}-0.mp4"'
        part = await deployment.http.get(path, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, FILM[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(FILM)}"
        tail = await deployment.http.get(path, headers={"Range": "bytes=-5", "If-Range": whole.headers["etag"]})
        assert (tail.status_code, tail.content) == (206, FILM[-5:])
        beyond = await deployment.http.get(path, headers={"Range": f"bytes={len(FILM)}-"})
        assert (beyond.status_code, error_of(beyond)["code"]) == (416, "range_not_satisfiable")
        assert beyond.headers["content-range"] == f"bytes */{len(FILM)}"
        head = await deployment.http.head(path)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(FILM)))


async def test_a_text_is_served_from_storage_with_ranges(deployment: Deployment) -> None:
    events = await deployment.generate("gpt-5.4-mini", prompt="Why stream?")
    text, path = events[-1]["text"].encode(), f"/api/jobs/{events[0]['job']}/content"
    whole = await deployment.http.get(path)
    assert (whole.content, whole.headers["content-type"]) == (text, "text/plain; charset=utf-8")
    assert whole.headers["content-disposition"].endswith('-0.txt"')
    assert (await deployment.http.get(path, headers={"Range": "bytes=0-3"})).content == text[:4]
    known = await deployment.http.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


async def test_an_inline_image_is_served_from_storage(deployment: Deployment) -> None:
    path = await content_of(deployment, "gpt-image-2", prompt="[b64] cat")
    answer = await deployment.http.get(path)
    assert (answer.content, answer.headers["content-type"]) == (Deployment.media("image"), "image/png")
    assert answer.headers["content-disposition"].endswith('-0.png"')


async def test_content_of_another_account_s_job_is_not_found(deployment: Deployment) -> None:
    path = await content_of(deployment, "suno", prompt="song")
    deployment.http.headers["Authorization"] = f"Bearer {await deployment.new_key('other')}"
    assert (await deployment.http.get(path)).status_code == 404


# --- failing sources and clients ---


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_an_incomplete_file_ends_with_an_error(
    relaying: Deployment, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    relaying.upstream_times = UpstreamTimes(fetch_silence=0.2)
    async with relaying as deployment:
        path = await content_of(deployment, "gaga-1", prompt="Hello")
        deployment.simulator.fault("media.get", fault)
        with pytest.raises(httpx.RemoteProtocolError):
            await deployment.http.get(path)
        (said,) = [record for record in caplog.records if record.name == "proxy.api.downloads"]
        assert (said.levelno, said.exc_info) == (logging.WARNING, None)
        assert "cut off" in said.getMessage()


async def test_an_incomplete_file_of_unknown_length_ends_with_an_error(unstarted: Deployment) -> None:
    async def film(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(FILM)
        assert request.transport
        request.transport.close()
        return response

    async with studio(unstarted, film) as path:
        with pytest.raises(httpx.RemoteProtocolError):
            await unstarted.http.get(path)


async def test_reading_from_the_provider_stops_when_the_client_disconnects(unstarted: Deployment) -> None:
    over = asyncio.Event()

    async def film(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(MEGABYTE)
                await asyncio.sleep(0)
        finally:
            over.set()

    async with studio(unstarted, film) as path:
        async with unstarted.open("GET", path) as answer:
            await anext(answer.aiter_bytes())
            assert not over.is_set()
        await over.wait()


async def test_a_slow_client_does_not_fill_memory(unstarted: Deployment) -> None:
    written = 0

    async def film(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Length": str(200 * len(MEGABYTE))})
        await response.prepare(request)
        for _ in range(200):
            await response.write(MEGABYTE)
            written += 1
        return response

    async with studio(unstarted, film) as path, unstarted.open("GET", path):
        before = -1
        while before < written:
            before = written
            await asyncio.sleep(0.3)  # to fill the buffers of the sockets
        assert written < 40


async def without_end(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(MEGABYTE)


async def test_a_client_that_does_not_read_is_disconnected(unstarted: Deployment) -> None:
    unstarted.api_times = ApiTimes(write_timeout=0.2)

    async with studio(unstarted, without_end) as path, unstarted.open("GET", path) as answer:
        with pytest.raises(httpx.TransportError):
            await asyncio.sleep(1)
            async for _ in answer.aiter_bytes():
                pass


async def test_the_connection_of_a_client_that_does_not_read_is_aborted(
    unstarted: Deployment,
) -> None:
    unstarted.api_times = ApiTimes(write_timeout=0.2)

    async with studio(unstarted, without_end) as path:
        before = set(unstarted.connections)
        port = int(unstarted.origin.rsplit(":", 1)[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)  # reads no more than that by itself
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {unstarted.key}\r\n\r\n".encode())
        async with asyncio.timeout(5):
            while not set(unstarted.connections) - before:
                await asyncio.sleep(0.01)
            while set(unstarted.connections) - before:
                await asyncio.sleep(0.01)
        writer.close()


# --- expired URLs ---


@pytest.mark.parametrize("status", ["403", "404"])
async def test_an_expired_source_is_requested_again_once(relaying: Deployment, status: str) -> None:
    async with relaying as deployment:
        path = await heygen(deployment)
        asked = deployment.simulator.calls["heygen.check"]
        deployment.simulator.fault("media.get", status, times=1)
        assert (await deployment.http.get(path)).content == FILM
        assert deployment.simulator.calls["heygen.check"] == asked + 2


async def test_a_source_that_cannot_be_opened_is_502(relaying: Deployment) -> None:
    async with relaying as deployment:
        path = await heygen(deployment)
        deployment.simulator.fault("media.get", "403")
        answer = await deployment.http.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_failed")
        assert deployment.simulator.calls["media.get"] == 2


async def test_an_expired_url_of_the_provider_is_renewed(relaying: Deployment) -> None:
    async with relaying as deployment:
        path = await heygen(deployment)
        assert (await deployment.http.get(path)).status_code == 200
        deployment.clock.at += 8 * 86400
        assert (await deployment.http.get(path)).content == FILM


async def test_a_seeking_player_uses_the_cached_source(relaying: Deployment) -> None:
    async with relaying as deployment:
        path = await heygen(deployment)
        asked = deployment.simulator.calls["heygen.check"]
        for start in range(0, 100, 10):
            await deployment.http.get(path, headers={"Range": f"bytes={start}-"})
        assert deployment.simulator.calls["heygen.check"] == asked + 1


async def test_each_redirect_has_a_fresh_url(deployment: Deployment) -> None:
    path = await heygen(deployment)
    places = {(await deployment.http.get(path)).headers["location"] for _ in range(3)}
    assert len(places) == 3


async def test_the_recorded_url_is_used_while_the_provider_is_unavailable(deployment: Deployment) -> None:
    path = await heygen(deployment)
    deployment.simulator.fault("heygen.check", "502")
    answer = await deployment.http.get(path)
    known = (await deployment.http.get(path.removesuffix("/content"))).json()["url"]
    assert (answer.status_code, answer.headers["location"]) == (302, known)


async def test_a_redirect_does_not_wait_for_a_silent_provider(
    unstarted: Deployment,
) -> None:
    unstarted.api_times = ApiTimes(content_timeout=0.1)
    async with unstarted as deployment:
        path = await heygen(deployment)
        deployment.simulator.fault("heygen.check", "timeout")
        assert (await deployment.http.get(path)).status_code == 302
