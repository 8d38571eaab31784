"""Slow connections: silence in either direction ends an exchange, the total duration does not."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.core import errors
from proxy.upstream.answers import Transient
from proxy.upstream.classify import Dialect
from proxy.upstream.client import Upstream
from proxy.upstream.requests import File, Request
from proxy.upstream.times import UpstreamTimes
from tests.support.deployment import Deployment, JumpClock
from tests.upstream.test_upstream import CREDENTIAL, provider_with

BRIEF = UpstreamTimes(read_silence=1.0, upload_silence=1.0, submit_silence=1.0, send_silence=1.0)
FILE = File("cat.png", "image/png", bytes(600_000))
TICKET = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"id":1}'


@asynccontextmanager
async def slow_reader(pause: float | None, times: UpstreamTimes = BRIEF) -> AsyncIterator[Upstream]:
    """A client of a provider that reads 20 kB at a time with pauses. With None it reads nothing."""
    over, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if pause is None:
                await over.wait()
                return
            head = await reader.readuntil(b"\r\n\r\n")
            left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while left:
                left -= len(await reader.read(20_000))
                await asyncio.sleep(pause)
            writer.write(TICKET)
        finally:
            writer.transport.abort() if pause is None else writer.close()
            ended.set()

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(serve, sock=listening, limit=16_384)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with Upstream(origin, Dialect(CREDENTIAL), JumpClock(), rate=50, times=times) as upstream:
            yield upstream
    finally:
        over.set()
        await ended.wait()
        server.close()
        await server.wait_closed()


async def test_an_upload_on_a_slow_line_is_finished() -> None:
    async with slow_reader(0.06) as upstream:  # 30 pauses: longer than the silence
        assert (await upstream.upload("/v1/assets", "file", FILE)).object() == {"id": 1}


async def test_a_submit_on_a_slow_line_is_finished() -> None:
    for request in (Request("/v1/x", json={"image": "x" * 600_000}), Request("/v1/x", form=(("file", FILE),))):
        async with slow_reader(0.06) as upstream:
            assert (await upstream.submit(request)).object() == {"id": 1}


async def test_an_upload_without_progress_is_given_up() -> None:
    async with slow_reader(None, replace(BRIEF, send_silence=0.2)) as upstream:
        with pytest.raises(Transient, match="does not answer in time"):
            await upstream.upload("/v1/assets", "file", File("cat.png", "image/png", bytes(900_000)))


async def test_a_submit_without_progress_has_an_unknown_outcome() -> None:
    async with slow_reader(None, replace(BRIEF, send_silence=0.2)) as upstream:
        with pytest.raises(errors.OutcomeUnknown):
            await upstream.submit(Request("/v1/x", json={"image": "x" * 3_000_000}))


async def trickle(request: web.Request) -> web.StreamResponse:
    """Answer piece by piece, for longer than the permitted silence."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for piece in [b'{"id":1,"said":"', *[b"x"] * 12, b'"}']:
        await response.write(piece)
        await asyncio.sleep(0.1)
    return response


async def test_a_slow_answer_is_read_to_its_end() -> None:
    async with provider_with(trickle, times=BRIEF) as wire:
        assert (await wire.upstream.get("/v1/x/1")).object()["id"] == 1
        assert (await wire.upstream.submit(Request("/v1/x", json={}))).object()["id"] == 1
        assert (await wire.upstream.upload("/v1/assets", "file", File("a", "image/png", b"x"))).object()["id"] == 1


async def test_a_repeated_upload_is_reported(deployment: Deployment) -> None:
    image = await deployment.asset("image")
    deployment.simulator.fault("gaga.upload", "503", times=2)
    events = await deployment.generate("gaga-1", prompt="x", image=image)
    assert events[-1]["status"] == "Completed"
    repeated, taken, *_ = [event["detail"] for event in events if "detail" in event]
    assert repeated.startswith("Repeating the upload")
    assert taken == "Under way"
