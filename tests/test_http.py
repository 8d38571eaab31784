"""Heads of requests that are too long, or never come."""

import asyncio

import orjson
import pytest

from proxy.http import Timeouts
from tests.test_api import GAGA, raw
from tests.world import World

HOST = b"Host: x\r\nConnection: close\r\n"


def refused(answer: bytes, status: int) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"content-type: application/json" in head
    assert b"access-control-allow-origin: *" in head
    assert int(head.partition(b"content-length: ")[2]) == len(body)
    parsed: dict[str, str] = orjson.loads(body)
    assert parsed["status"] == "Error"
    return parsed


async def sent_on(world: World, begin: bytes, piece: bytes, pieces: int) -> bytes:
    """What comes back when a head is sent on and on, piece by piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.origin.rsplit(":", 1)[1]))
    writer.write(begin)
    answer = asyncio.create_task(reader.read())
    for _ in range(pieces):
        if answer.done() or writer.is_closing():
            break
        writer.write(piece)
        await asyncio.sleep(0)
    try:
        return await answer
    except ConnectionResetError:  # closed while more was on its way
        return b""
    finally:
        writer.close()


async def emptied(world: World) -> None:
    """Wait until the server has let go of all its connections."""
    async with asyncio.timeout(5):
        while world.connections:
            await asyncio.sleep(0.001)


async def test_a_url_that_is_too_long_is_414(world: World) -> None:
    answer = await raw(world, b"GET /api/ping?x=" + b"y" * (16 << 10) + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert refused(answer, 414)["code"] == "too_large"


async def test_a_url_as_long_as_it_may_be_is_read(world: World) -> None:
    path = b"/api/ping?x="
    answer = await raw(world, b"GET " + path + b"y" * ((16 << 10) - len(path)) + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("headers", [b"X-A: b\r\n" * 20_000, b"X-A: " + b"b" * (65 << 10) + b"\r\n"])
async def test_headers_that_are_too_long_together_are_431(world: World, headers: bytes) -> None:
    answer = await raw(world, b"GET /api/ping HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert refused(answer, 431)["code"] == "too_large"


@pytest.mark.parametrize("begin", [b"GET /", b"GET /api/ping HTTP/1.1\r\nX-A: "])
async def test_a_head_without_an_end_is_not_kept(world: World, begin: bytes) -> None:
    answer = await sent_on(world, begin, b"y" * 4096, 10_000)
    assert not answer or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 414 "))
    await emptied(world)


async def test_a_long_body_is_no_long_head(world: World) -> None:
    body = orjson.dumps(GAGA | {"prompt": "x" * (300 << 10)})
    one = b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n" % (
        world.key.encode(),
        len(body),
    )
    answer = await raw(world, one + b"\r\n" + body + one + b"Connection: close\r\n\r\n" + body)
    assert answer.count(b"HTTP/1.1 202 ") == 2


async def test_a_request_in_small_pieces_is_read(world: World) -> None:
    request = b"GET /api/ping HTTP/1.1\r\n" + HOST + b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.origin.rsplit(":", 1)[1]))
    for byte in request:
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reader.read()).endswith(b"pong")
    writer.close()


@pytest.mark.parametrize("begin", [b"", b"GET /api/ping HTTP/1.1\r\nX-A: b"])
async def test_a_head_that_does_not_come_is_not_waited_for(unstarted: World, begin: bytes) -> None:
    unstarted.timeouts = Timeouts(head=0.05)
    async with unstarted as world, asyncio.timeout(5):
        assert await sent_on(world, begin, b"", 0) == b""


async def test_a_second_request_that_does_not_come_whole_is_not_waited_for(unstarted: World) -> None:
    unstarted.timeouts = Timeouts(head=0.05)
    request = b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\nGET /api/ping HTTP/1.1\r\nX-A: b"
    async with unstarted as world, asyncio.timeout(5):
        assert (await raw(world, request)).count(b"pong") == 1


async def test_blanks_behind_a_header_s_value_are_not_of_it(world: World) -> None:
    jobs = set()
    for value in (b"abc", b"abc ", b" abc\t "):
        body = orjson.dumps(GAGA)
        head = b"POST /api/jobs HTTP/1.1\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nIdempotency-Key:%s\r\n"
        answer = await raw(world, head % (world.key.encode(), len(body), value) + HOST + b"\r\n" + body)
        jobs.add(orjson.loads(answer.partition(b"\r\n\r\n")[2])["id"])
    assert len(jobs) == 1


async def test_a_client_that_leaves_with_a_request_in_line_is_seen_to_leave(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    others, before = set(world.connections), len(asyncio.all_tasks())
    rest = b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + world.key.encode() + b"\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", int(world.origin.rsplit(":", 1)[1]))
    writer.write(b"GET /api/events" + rest + b"GET /api/ping" + rest)
    async with asyncio.timeout(5):
        while not any(getattr(connection, "pipeline", None) for connection in set(world.connections) - others):
            await asyncio.sleep(0.001)
        writer.close()
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.001)
    assert "Exception" not in caplog.text


async def test_who_is_still_at_its_request_when_the_server_stops_is_told_so(unstarted: World) -> None:
    unstarted.settings |= {"cors_origins": ["https://app.example"]}
    async with unstarted as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(world.origin.rsplit(":", 1)[1]))
        head = b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example\r\nContent-Length: 200\r\n"
        writer.write(head + b"Authorization: Bearer " + world.key.encode() + b'\r\n\r\n{"mod')
        while not any(getattr(connection, "cycle", None) for connection in world.connections):
            await asyncio.sleep(0.001)
        await world.stop()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await world.start()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"access-control-allow-origin: https://app.example" in head
    assert orjson.loads(body)["code"] == "unavailable"
