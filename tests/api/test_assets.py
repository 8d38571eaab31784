"""Assets over HTTP: stored as they arrive, refused without leaving bytes, read by range."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from proxy.api.times import ApiTimes
from proxy.store.blobs import Blobs
from tests.api.test_api import error_of, fields_of
from tests.core.test_tracks import CLUSTER, FTYP, INFO, SAMPLES, moov, tracks, webm
from tests.support.deployment import Deployment
from tests.support.site import Rerouted, Site

PNG = Deployment.media("image")
MEGABYTE = bytes(1 << 20)


def files(deployment: Deployment) -> list[Path]:
    """Return all stored files, complete and incomplete."""
    return [path for path in (deployment.folder / "assets").rglob("*") if path.is_file()]


async def upload(
    deployment: Deployment, data: bytes = PNG, name: str = "cat.png", said: str = "image/png"
) -> httpx.Response:
    return await deployment.http.post("/api/assets", files={"file": (name, data, said)})


# --- accepted ---


async def test_an_asset_is_described(deployment: Deployment) -> None:
    answer = await upload(deployment)
    assert answer.status_code == 201
    asset = answer.json()
    assert set(asset) == {"id", "type", "size", "url", "created_at"}
    assert (asset["type"], asset["size"]) == ("image/png", len(PNG))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", asset["created_at"])
    shown = (await deployment.http.get(f"/api/assets/{asset['id']}")).json()
    assert {name: value for name, value in shown.items() if name != "url"} == {
        name: value for name, value in asset.items() if name != "url"
    }


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x20ftypisom", "video/mp4"),
        (b"ID3\x04", "audio/mpeg"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"OggS\0", "audio/ogg"),
    ],
)
async def test_the_type_is_detected_from_the_bytes_alone(deployment: Deployment, head: bytes, media_type: str) -> None:
    answer = await upload(deployment, head + bytes(20), "page.html", "text/html")
    assert (answer.status_code, answer.json()["type"]) == (201, media_type)


async def test_audio_in_a_video_container_is_stored_as_audio(deployment: Deployment) -> None:
    recorded = FTYP + SAMPLES + moov(b"soun")
    asset = (await upload(deployment, recorded, "voice.m4a", "audio/mp4")).json()
    assert asset["type"] == "audio/mp4"
    order = {"model": "heygen-v1", "avatar_id": "a", "audio": asset["id"]}
    assert (await deployment.http.post("/api/jobs?dry_run=1", json=order)).status_code == 200


async def test_a_browser_s_audio_recording_is_stored_as_audio(deployment: Deployment) -> None:
    asset = (await upload(deployment, webm(INFO, tracks(2), CLUSTER), "voice.webm", "audio/webm;codecs=opus")).json()
    content = await deployment.http.get(asset["url"])
    assert (asset["type"], content.headers["Content-Type"]) == ("audio/webm", "audio/webm")


async def test_a_large_file_is_stored_completely(deployment: Deployment) -> None:
    data = PNG + b"".join(bytes([n]) * (1 << 20) for n in range(20))
    asset = (await upload(deployment, data)).json()
    assert asset["size"] == len(data)
    assert (await deployment.http.get(asset["url"])).content == data


async def test_a_file_that_starts_byte_by_byte_is_stored_completely(deployment: Deployment) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for n in range(20):
            yield PNG[n : n + 1]
        yield PNG[20:] + b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await deployment.http.post("/api/assets", content=slowly(), headers=headers)
    assert (answer.status_code, answer.json()["size"]) == (201, len(PNG))


class Tight(Blobs):
    """A storage that stores one chunk and then waits."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.opened = asyncio.Event()

    async def put(self, name: str, data: bytes | AsyncIterator[bytes]) -> None:
        assert not isinstance(data, bytes)
        await anext(data)
        await self.opened.wait()
        await super().put(name, data)


async def test_an_upload_is_read_only_as_fast_as_it_is_stored(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Tight] = []

    def tight(place: str) -> Tight:
        places.append(Tight(place))
        return places[-1]

    monkeypatch.setattr("proxy.app.Blobs", tight)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + PNG
        for _ in range(60):
            yield MEGABYTE
            sent += 1
        yield b"\r\n--x--\r\n"

    async with unstarted as deployment:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        uploading = asyncio.create_task(deployment.http.post("/api/assets", content=endless(), headers=headers))
        before = -1
        while before < sent or not sent:
            before = sent
            await asyncio.sleep(0.2)  # to fill the buffers of the sockets
        assert sent < 20
        places[0].opened.set()
        assert (await uploading).status_code == 201


# --- refused ---


async def test_an_unsupported_type_is_415(deployment: Deployment) -> None:
    for data in (b"", b"x", b"<html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", bytes(100_000)):
        answer = await upload(deployment, data)
        assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_type")
    assert files(deployment) == []


@pytest.mark.parametrize("size", [1001, 70_000, 3 << 20])
async def test_a_file_over_the_limit_is_413(unstarted: Deployment, size: int) -> None:
    unstarted.settings["asset_limit"] = 1000
    async with unstarted as deployment:
        answer = await upload(deployment, PNG[:8] + bytes(size - 8))
        assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
        assert files(deployment) == []


async def test_a_file_of_exactly_the_limit_is_stored(unstarted: Deployment) -> None:
    unstarted.settings["asset_limit"] = 1000
    async with unstarted as deployment:
        assert (await upload(deployment, PNG[:8] + bytes(992))).json()["size"] == 1000


async def test_a_file_over_the_limit_is_refused_during_the_upload(unstarted: Deployment) -> None:
    unstarted.settings["asset_limit"] = 1 << 20
    async with unstarted as deployment:
        reader, writer = await connect(deployment)
        writer.write(head_of(deployment, length=None) + chunk(part(PNG)))
        for _ in range(3):
            writer.write(chunk(MEGABYTE))
        assert b" 413 " in await reader.readline()
        assert files(deployment) == []
        writer.close()


async def test_a_file_with_a_content_length_over_the_limit_is_not_read(unstarted: Deployment) -> None:
    unstarted.settings["asset_limit"] = 1 << 20
    async with unstarted as deployment:
        reader, writer = await connect(deployment)
        writer.write(head_of(deployment, length=1 << 40))
        assert b" 413 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize("sent", [10, 100_000, 3 << 20])
async def test_an_upload_that_the_client_aborts_leaves_nothing(deployment: Deployment, sent: int) -> None:
    _, writer = await connect(deployment)
    writer.write(head_of(deployment, length=10 << 20) + part(PNG) + bytes(sent))
    await writer.drain()
    if sent > 600:
        await until(lambda: bool(files(deployment)))
    writer.close()
    await until(lambda: not deployment.connections or not files(deployment))
    await until(lambda: not files(deployment))
    assert (await upload(deployment)).status_code == 201


async def test_a_body_without_its_closing_boundary_leaves_nothing(deployment: Deployment) -> None:
    body = part(PNG) + bytes(100_000)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await deployment.http.post("/api/assets", content=body, headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_request")
    assert files(deployment) == []


async def test_two_files_in_one_body_are_refused_and_leave_nothing(deployment: Deployment) -> None:
    both = [("file", ("a.png", PNG, "image/png")), ("file", ("b.png", PNG, "image/png"))]
    assert fields_of(await deployment.http.post("/api/assets", files=both)) == ["file"]
    assert files(deployment) == []


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["url"]),
        ({"url": 7}, ["url"]),
        ({"url": None}, ["url"]),
        ({"url": "https://a.example/", "name": "x"}, ["name"]),
    ],
)
async def test_an_invalid_json_body_is_refused_by_field(deployment: Deployment, body: Any, fields: list[str]) -> None:
    assert fields_of(await deployment.http.post("/api/assets", json=body)) == fields


async def test_an_upload_that_stalls_is_refused(unstarted: Deployment) -> None:
    unstarted.api_times = ApiTimes(body_timeout=0.1)
    async with unstarted as deployment:
        reader, writer = await connect(deployment)
        writer.write(head_of(deployment, length=10 << 20) + part(PNG) + bytes(100_000))
        assert b" 400 " in await reader.readline()
        assert files(deployment) == []
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


async def connect(deployment: Deployment) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))


def head_of(deployment: Deployment, length: int | None) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST /api/assets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {deployment.key}\r\n{framing}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    ).encode()


def part(data: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# --- from a URL ---


@asynccontextmanager
async def internet(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, answer: Any) -> AsyncIterator[Site]:
    """Yield a deployment for which one site is the whole internet."""
    async with Site(answer) as site:
        monkeypatch.setattr("proxy.app.Fetcher", lambda times: Rerouted(site, times))
        async with deployment:
            yield site


async def test_a_file_is_stored_from_a_url_without_being_buffered(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def film(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PNG)
        for _ in range(20):
            await response.write(MEGABYTE)
        return response

    async with internet(unstarted, monkeypatch, film):
        answer = await unstarted.http.post("/api/assets", json={"url": "https://example.com/film"})
        assert (answer.status_code, answer.json()["size"]) == (201, len(PNG) + 20 * len(MEGABYTE))


async def test_an_incomplete_file_at_a_url_is_refused_and_leaves_nothing(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(10 << 20)})
        await response.prepare(request)
        await response.write(PNG + MEGABYTE)
        assert request.transport
        request.transport.close()
        return response

    async with internet(unstarted, monkeypatch, cut):
        answer = await unstarted.http.post("/api/assets", json={"url": "https://example.com/film"})
        assert fields_of(answer) == ["url"]
        assert "broke off" in error_of(answer)["message"]
        assert files(unstarted) == []


async def test_a_url_s_file_over_the_limit_is_413_and_leaves_nothing(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PNG)
        while True:
            await response.write(MEGABYTE)

    unstarted.settings["asset_limit"] = 5 << 20
    async with internet(unstarted, monkeypatch, endless):
        answer = await unstarted.http.post("/api/assets", json={"url": "https://example.com/film"})
        assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
        assert files(unstarted) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/cat.png",
        "https://user:password@example.com/cat.png",
        "https://example.com:22/cat.png",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:169.254.169.254]/",
        "https://2852039166/",
        "https://0xa9.0xfe.0xa9.0xfe/",
        "https://metadata.localhost/",
        "https://" + "a" * 3000,
        f"https://{'a' * 64}.com/cat.png",
        "https://a..b.com/cat.png",
        "https://.example.com/cat.png",
        "https://a\0b.com/cat.png",
        "x",
        "",
    ],
)
async def test_a_url_that_is_not_public_https_is_refused_by_field(deployment: Deployment, url: str) -> None:
    assert fields_of(await deployment.http.post("/api/assets", json={"url": url})) == ["url"]
    assert files(deployment) == []


async def test_a_redirect_to_a_private_address_is_refused_by_field(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "https://10.0.0.1/secrets"})

    async with internet(unstarted, monkeypatch, elsewhere) as site:
        answer = await unstarted.http.post("/api/assets", json={"url": "https://example.com/cat.png"})
        assert fields_of(answer) == ["url"]
        assert len(site.asked) == 1


# --- an asset that an order uses many times ---


async def test_an_asset_in_many_chunks_is_uploaded_once(deployment: Deployment) -> None:
    image, audio = await deployment.asset("image"), await deployment.asset("audio")
    events = await deployment.generate("avatar-h1", image=image, chunks=[{"audio": audio}] * 5)
    assert events[-1]["status"] == "Completed"
    assert deployment.simulator.calls["gaga.upload"] == 2


async def test_a_file_whose_upload_failed_is_uploaded_again(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.upload", "500", times=1)
    events = await deployment.generate("gaga-1", prompt="Hello", image=await deployment.asset("image"))
    assert events[-1]["status"] == "Completed"
    assert deployment.simulator.calls["gaga.upload"] == 2


@pytest.mark.parametrize(
    ("model", "parts", "order"),
    [
        ("gaga-1", "chunks", {"prompt": "Hello"}),
        ("heygen-v1", "clips", {"prompt": "Hello", "avatar_id": "Anna"}),
    ],
)
async def test_an_order_has_at_most_50_chunks_or_clips(
    deployment: Deployment, model: str, parts: str, order: dict[str, Any]
) -> None:
    models = (await deployment.http.get("/api/models")).json()["models"]
    fields = next(listed["fields"] for listed in models if listed["id"] == model)
    assert fields["properties"][parts]["maxItems"] == 50
    assert fields_of(await deployment.http.post("/api/jobs", json={"model": model, parts: [order] * 51})) == [parts]
    assert (await deployment.http.post("/api/jobs", json={"model": model, parts: [order] * 50})).status_code == 202
