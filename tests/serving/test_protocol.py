"""HTTP/1.1 on the wire: refusals, limits on bytes and time, and the end of a connection."""

import asyncio
import socket

import orjson
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from proxy.serving.protocol import Http, Timeouts
from tests.api.test_api import GAGA, raw
from tests.support.deployment import Deployment

HOST = b"Host: x\r\nConnection: close\r\n"


def error_of(answer: bytes, status: int) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"content-type: application/json" in head
    assert b"access-control-allow-origin: *" in head
    assert int(head.partition(b"content-length: ")[2]) == len(body)
    parsed: dict[str, str] = orjson.loads(body)
    assert parsed["status"] == "Error"
    return parsed


async def send_repeatedly(deployment: Deployment, begin: bytes, piece: bytes, pieces: int) -> bytes:
    """Send a beginning and then the same piece many times, and return the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))
    writer.write(begin)
    answer = asyncio.create_task(reader.read())
    for _ in range(pieces):
        if answer.done() or writer.is_closing():
            break
        writer.write(piece)
        await asyncio.sleep(0)
    try:
        return await answer
    except ConnectionResetError:  # the server closed while the client was sending
        return b""
    finally:
        writer.close()


async def wait_for_no_connections(deployment: Deployment) -> None:
    """Wait until the server has closed all its connections."""
    async with asyncio.timeout(5):
        while deployment.connections:
            await asyncio.sleep(0.001)


async def test_a_url_that_is_too_long_is_414(deployment: Deployment) -> None:
    answer = await raw(deployment, b"GET /api/ping?x=" + b"y" * (16 << 10) + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert error_of(answer, 414)["code"] == "too_large"


async def test_a_url_at_the_limit_is_accepted(deployment: Deployment) -> None:
    path = b"/api/ping?x="
    answer = await raw(deployment, b"GET " + path + b"y" * ((16 << 10) - len(path)) + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("headers", [b"X-A: b\r\n" * 20_000, b"X-A: " + b"b" * (65 << 10) + b"\r\n"])
async def test_headers_over_the_limit_are_431(deployment: Deployment, headers: bytes) -> None:
    answer = await raw(deployment, b"GET /api/ping HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert error_of(answer, 431)["code"] == "too_large"


@pytest.mark.parametrize("begin", [b"GET /", b"GET /api/ping HTTP/1.1\r\nX-A: "])
async def test_an_endless_head_is_refused(deployment: Deployment, begin: bytes) -> None:
    answer = await send_repeatedly(deployment, begin, b"y" * 4096, 10_000)
    assert not answer or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 414 "))
    await wait_for_no_connections(deployment)


async def test_a_long_body_does_not_count_as_a_long_head(deployment: Deployment) -> None:
    body = orjson.dumps(GAGA | {"prompt": "x" * (300 << 10)})
    one = b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n" % (
        deployment.key.encode(),
        len(body),
    )
    answer = await raw(deployment, one + b"\r\n" + body + one + b"Connection: close\r\n\r\n" + body)
    assert answer.count(b"HTTP/1.1 202 ") == 2


async def test_a_request_in_small_pieces_is_read(deployment: Deployment) -> None:
    request = b"GET /api/ping HTTP/1.1\r\n" + HOST + b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))
    for byte in request:
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reader.read()).endswith(b"pong")
    writer.close()


@pytest.mark.parametrize("begin", [b"", b"GET /api/ping HTTP/1.1\r\nX-A: b"])
async def test_a_head_that_never_arrives_times_out(unstarted: Deployment, begin: bytes) -> None:
    unstarted.timeouts = Timeouts(head=0.05)
    async with unstarted as deployment, asyncio.timeout(5):
        assert await send_repeatedly(deployment, begin, b"", 0) == b""


async def test_an_incomplete_second_request_times_out(unstarted: Deployment) -> None:
    unstarted.timeouts = Timeouts(head=0.05)
    request = b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\nGET /api/ping HTTP/1.1\r\nX-A: b"
    async with unstarted as deployment, asyncio.timeout(5):
        assert (await raw(deployment, request)).count(b"pong") == 1


async def test_blanks_around_a_header_value_are_ignored(deployment: Deployment) -> None:
    jobs = set()
    for value in (b"abc", b"abc ", b" abc\t "):
        body = orjson.dumps(GAGA)
        head = b"POST /api/jobs HTTP/1.1\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nIdempotency-Key:%s\r\n"
        answer = await raw(deployment, head % (deployment.key.encode(), len(body), value) + HOST + b"\r\n" + body)
        jobs.add(orjson.loads(answer.partition(b"\r\n\r\n")[2])["id"])
    assert len(jobs) == 1


async def test_a_disconnect_with_a_queued_request_ends_all_tasks(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    others, before = set(deployment.connections), len(asyncio.all_tasks())
    rest = b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + deployment.key.encode() + b"\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))
    writer.write(b"GET /api/events" + rest + b"GET /api/ping" + rest)
    async with asyncio.timeout(5):
        while not any(getattr(connection, "pipeline", None) for connection in set(deployment.connections) - others):
            await asyncio.sleep(0.001)
        writer.close()
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.001)
    assert "Exception" not in caplog.text


async def test_an_incomplete_request_gets_503_when_the_server_stops(unstarted: Deployment) -> None:
    unstarted.settings |= {"cors_origins": ["https://app.example"]}
    async with unstarted as deployment:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))
        head = b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example\r\nContent-Length: 200\r\n"
        writer.write(head + b"Authorization: Bearer " + deployment.key.encode() + b'\r\n\r\n{"mod')
        while not any(getattr(connection, "cycle", None) for connection in deployment.connections):
            await asyncio.sleep(0.001)
        await deployment.stop()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await deployment.start()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"access-control-allow-origin: https://app.example" in head
    assert orjson.loads(body)["code"] == "unavailable"


# --- upgrades and framing ---

ORDER = orjson.dumps(GAGA)
OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: upgrade\r\nUpgrade: foo, h2c\r\n",
    b"Connection: keep-alive, Upgrade\r\nUpgrade:websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Connection: upgrade\r\nUpgrade: TLS/1.2\r\nUpgrade: h2c\r\n",
]
FRAMINGS = [
    b"Content-Length: %d\r\n\r\n%s" % (len(ORDER), ORDER),
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x;a=b\r\n%s\r\n0\r\nUpgrade: h2c\r\n\r\n"
    % (ORDER[:5], len(ORDER) - 5, ORDER[5:]),
]


def port_of(deployment: Deployment) -> int:
    return int(deployment.origin.rsplit(":", 1)[1])


def authenticated_head(deployment: Deployment, line: bytes, fields: bytes = b"") -> bytes:
    """Return an authenticated head without its last line."""
    return line + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + deployment.key.encode() + b"\r\n" + fields


@pytest.mark.parametrize("framing", FRAMINGS, ids=["length", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
async def test_an_upgrade_offer_is_ignored_at_every_split(deployment: Deployment, offer: bytes, framing: bytes) -> None:
    request = authenticated_head(deployment, b"POST /api/jobs", offer) + framing
    ping = b"GET /api/ping HTTP/1.1\r\nHost: x\r\n"
    for cut in (1, 7, len(request) // 2, len(request) - len(framing), len(request)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        data = request * 2 + ping + offer + b"\r\n" + ping + b"Connection: close\r\n\r\n"
        for start in range(0, len(data), cut):
            writer.write(data[start : start + cut])
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
        assert (answer.count(b"HTTP/1.1 202 "), answer.count(b"pong"), answer.count(b"HTTP/1.1 ")) == (2, 2, 4)


async def test_an_upgrade_offer_inside_a_dropped_body_has_no_effect(deployment: Deployment) -> None:
    victim = b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b"x\r\nUpgrade: h2c\r\n" * 100 + victim
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write(b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    assert b" 401 " in await reader.readuntil(b"}")
    for start in range(0, len(body), 50):
        writer.write(body[start : start + 50])
        await asyncio.sleep(0)
    writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    answer = await reader.read()
    writer.close()
    assert (answer.count(b"HTTP/1.1 "), b"pong" in answer) == (1, False)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/ping HTTP/1.1\r\n",
        b"GET /api/ping HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        b"GET /api/ping HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
        b"GET /api/ping HTTP/1.1\r\nHost: a/b\r\n",
        b"GET /api/ping HTTP/2.0\r\nHost: a\r\n",
        b"GET /api/ping HTTP/0.9\r\nHost: a\r\n",
        b"GET ftp://a/api/ping HTTP/1.1\r\nHost: a\r\n",
        b"GET api/ping HTTP/1.1\r\nHost: a\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n",
        b"POST /api/jobs HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n",
        b"GET /api/ping HTTP/1.1\nHost: a\n",
        b"GET /api/ping HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n",
    ],
)
async def test_an_ambiguous_request_is_400(deployment: Deployment, head: bytes) -> None:
    answer = await raw(deployment, head + b"\r\n0\r\n\r\nGET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert error_of(answer, 400)["code"] == "bad_request"


async def test_http_1_0_needs_no_host(deployment: Deployment) -> None:
    assert (await raw(deployment, b"GET /api/ping HTTP/1.0\r\n\r\n")).endswith(b"pong")


@pytest.mark.parametrize(
    ("url", "status"),
    [(b"http://host", 200), (b"http://host?x=1", 200), (b"HTTP://host:80/api/ping", 200), (b"https://[::1]/no", 404)],
)
async def test_an_absolute_url_is_served_as_its_path(deployment: Deployment, url: bytes, status: int) -> None:
    answer = await raw(deployment, b"GET " + url + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_a_key_in_a_trailer_does_not_authenticate(deployment: Deployment) -> None:
    key = b"Authorization: Bearer " + deployment.key.encode()
    head = b"GET /api/account HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST
    answer = await raw(deployment, head + b"\r\n0\r\n" + key + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


# --- bounds in bytes ---


@pytest.mark.parametrize(
    "begin",
    [b"0\r\nX: ", b"0\r\nX", b"1;x=", b"1;", b"0" * 100],
    ids=["trailer value", "trailer name", "extension value", "extension name", "size"],
)
async def test_endless_framing_of_a_chunked_body_is_refused(deployment: Deployment, begin: bytes) -> None:
    head = authenticated_head(deployment, b"POST /api/jobs", b"Transfer-Encoding: chunked\r\n\r\n")
    answer = await send_repeatedly(deployment, head + begin, b"0" * 1024, 100)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    await wait_for_no_connections(deployment)


async def test_many_chunk_extensions_are_refused(deployment: Deployment) -> None:
    head = authenticated_head(deployment, b"POST /api/jobs", b"Transfer-Encoding: chunked\r\n\r\n")
    answer = await send_repeatedly(deployment, head, b"1;" + b"x" * 100 + b"\r\ny\r\n", 1000)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")


async def test_a_body_in_chunks_of_one_byte_is_accepted(deployment: Deployment) -> None:
    body = orjson.dumps(GAGA | {"prompt": "x" * 20_000})
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = authenticated_head(deployment, b"POST /api/jobs", b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await raw(deployment, head + chunks)).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize("requests", [1, 3])
async def test_a_body_of_line_ends_does_not_block_other_connections(deployment: Deployment, requests: int) -> None:
    """A chunk of line ends is the body with the most pieces. Other connections are answered while it is parsed."""
    hostile, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    other, other_writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    head = b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"40000\r\n" + b"\r\n" * (1 << 17) + b"\r\n"
    last = b"GET /api/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    writer.write((head + body + b"0\r\n\r\n") * requests + last)
    answered = asyncio.create_task(hostile.read())
    answers = 0
    try:
        while not answered.done():
            other_writer.write(b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            await other.readuntil(b"pong")
            answers += 1
    finally:
        writer.close()
        other_writer.close()
    assert (await answered).count(b" 401 ") == requests
    assert (await answered).endswith(b"pong")
    assert answers > 20 * requests


async def test_a_body_of_line_ends_is_not_read_ahead_of_the_application() -> None:
    """It is parsed over many turns. The socket is read again only after the application has read the body."""
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if scope["method"] == "POST":
            await done.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = uvicorn.Server(uvicorn.Config(app, http=Http, lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        _, writer = await asyncio.open_connection(*listening.getsockname())
        other, other_writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n400000\r\n" + b"\r\n" * (2 << 20)
        )
        for _ in range(600):
            other_writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await other.readuntil(b"\r\n\r\n")
        sizes = [len(connection.cycle.body) for connection in server.server_state.connections]  # type: ignore[union-attr]
        done.set()
        writer.close()
        other_writer.close()
        server.should_exit = True
        await serving
    assert 64 << 10 < max(sizes) < 1 << 20


async def test_many_small_fields_are_431(deployment: Deployment) -> None:
    answer = await raw(deployment, b"GET /api/ping HTTP/1.1\r\n" + HOST + b"a:\r\n" * 1000 + b"\r\n")
    assert error_of(answer, 431)["code"] == "too_large"


async def test_pipelined_requests_wait_in_the_socket_and_all_get_answers(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    others = set(deployment.connections)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write(authenticated_head(deployment, b"GET /api/jobs/%s/events" % job["id"].encode()) + b"\r\n")
    await reader.readuntil(b"id: 1\n\n")
    (connection,) = set(deployment.connections) - others
    assert isinstance(connection, Http)
    writer.write(b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000)
    async with asyncio.timeout(10):
        while len(connection.pipeline) < 16:
            await asyncio.sleep(0.001)
    await deployment.http.get("/api/account")
    assert len(connection.pipeline) == 16
    assert connection.flow.read_paused
    await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
    writer.write(b"GET /api/ping HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await reader.read()).count(b"pong") == 20_001
    writer.close()


async def test_invalid_bytes_after_a_request_are_refused_after_its_answer(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write(
        authenticated_head(deployment, b"GET /api/jobs/%s/events" % job["id"].encode()) + b"\r\nNONSENSE\r\n\r\n"
    )
    await reader.readuntil(b"id: 1\n\n")
    await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
    stream, _, refusal = (await reader.read()).partition(b"\r\n0\r\n\r\n")
    writer.close()
    assert b"HTTP/1.1" not in stream
    assert error_of(refusal, 400)["code"] == "bad_request"


# --- bounds in time ---


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Return all bytes until the server ends the connection."""
    async with asyncio.timeout(5):
        return await reader.read()


async def test_a_slow_body_times_out(unstarted: Deployment) -> None:
    unstarted.timeouts = Timeouts(body=0.1, rate=10_000)
    async with unstarted as deployment:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        writer.write(authenticated_head(deployment, b"POST /api/jobs", b"Content-Length: 1000000\r\n\r\n"))
        ending = asyncio.create_task(read_to_end(reader))
        while not ending.done():
            writer.write(b"x")
            await asyncio.sleep(0.001)
        assert ending.result() == b""
        writer.close()


async def test_the_slow_body_of_a_queued_request_times_out(unstarted: Deployment) -> None:
    unstarted.timeouts = Timeouts(body=0.1)
    async with unstarted as deployment:
        job = await deployment.submit("gaga-1", prompt="[stuck]")
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        stream = authenticated_head(deployment, b"GET /api/jobs/%s/events" % job["id"].encode()) + b"\r\n"
        writer.write(stream + authenticated_head(deployment, b"POST /api/jobs", b"Content-Length: 9\r\n\r\nx"))
        await reader.readuntil(b"id: 1\n\n")
        async with asyncio.timeout(5):
            while any(connection.pipeline for connection in deployment.connections):  # type: ignore[attr-defined]
                await asyncio.sleep(0.001)
        await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
        answer = await read_to_end(reader)
        writer.close()
    assert answer.endswith(b"\r\n0\r\n\r\n")


async def test_the_missing_rest_of_an_answered_body_times_out(unstarted: Deployment) -> None:
    unstarted.timeouts = Timeouts(silence=0.05)
    async with unstarted as deployment:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        writer.write(b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        assert b" 401 " in await read_to_end(reader)
        await wait_for_no_connections(deployment)
        writer.close()


async def test_the_slow_rest_of_an_answered_body_times_out(unstarted: Deployment) -> None:
    unstarted.timeouts = Timeouts(silence=0.05, linger=0.1)
    async with unstarted as deployment:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        writer.write(b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
        answer = asyncio.create_task(read_to_end(reader))
        async with asyncio.timeout(5):
            while not answer.done() or deployment.connections:
                writer.write(b"x")
                await asyncio.sleep(0.001)
        assert b" 401 " in answer.result()
        writer.close()


async def test_an_idle_connection_is_closed_after_the_keepalive_time(unstarted: Deployment) -> None:
    unstarted.settings |= {"keepalive": 0.05}
    async with unstarted as deployment:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        writer.write(b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await read_to_end(reader)).endswith(b"pong")
        writer.close()


async def test_a_client_that_does_not_close_is_dropped(unstarted: Deployment) -> None:
    unstarted.timeouts = Timeouts(silence=0.05)
    async with unstarted as deployment:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        writer.write(b"GET /api/ping HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await read_to_end(reader)).endswith(b"pong")
        await wait_for_no_connections(deployment)
        writer.close()


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
async def test_a_client_that_does_not_read_a_plain_answer_is_dropped(unstarted: Deployment, close: bytes) -> None:
    unstarted.timeouts = Timeouts(write=0.1)
    async with unstarted as deployment:
        film = Deployment.media("video") + bytes(8 << 20)
        asset = (await deployment.http.post("/api/assets", files={"file": ("film.mp4", film, "video/mp4")})).json()
        await deployment.http.aclose()
        loop = asyncio.get_running_loop()
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.setblocking(False)
            await loop.sock_connect(stalled, ("127.0.0.1", port_of(deployment)))
            path = f"GET /api/assets/{asset['id']}/content".encode()
            await loop.sock_sendall(stalled, authenticated_head(deployment, path, close) + b"\r\n")
            async with asyncio.timeout(5):
                while not deployment.connections:
                    await asyncio.sleep(0.001)
            await wait_for_no_connections(deployment)


# --- the end of a connection ---


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
async def test_an_early_answer_reaches_a_client_that_is_still_sending(deployment: Deployment, close: bytes) -> None:
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        writer.write(b"POST /api/assets HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n" + close + b"\r\n")
        writer.write(bytes(4_000_000))
        await writer.drain()
        if not close:
            writer.write(b"GET /api/ping HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = await read_to_end(reader)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert close or answer.endswith(b"pong")


async def test_a_refusal_reaches_a_client_that_is_still_sending(deployment: Deployment) -> None:
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
        writer.write(b"NONSENSE\r\n\r\n" + bytes(4_000_000))
        await writer.drain()
        assert error_of(await read_to_end(reader), 400)
        writer.close()


async def test_a_refused_expect_100_closes_the_connection(deployment: Deployment) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write(b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
    # The next bytes might be the body or another request.
    answer = await read_to_end(reader)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", [b"/api/ping", b"/api/ping?marks=3&gap=100"])
async def test_a_half_closed_client_gets_its_whole_answer(deployment: Deployment, path: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write((b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n") * 2)
    writer.write_eof()
    answer = await read_to_end(reader)
    writer.close()
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.endswith((b"pong", b"\r\n0\r\n\r\n"))


async def test_a_half_closed_client_gets_its_whole_stream(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write(authenticated_head(deployment, b"GET /api/jobs/%s/events" % job["id"].encode()) + b"\r\n")
    writer.write_eof()
    await reader.readuntil(b"id: 1\n\n")
    await reader.readuntil(b": keep-alive\n")
    await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
    answer = await read_to_end(reader)
    writer.close()
    assert b'"status":"Canceled"' in answer
    assert answer.endswith(b"\r\n0\r\n\r\n")


async def test_a_disconnect_during_a_stream_is_detected_soon(deployment: Deployment) -> None:
    await deployment.http.aclose()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write(authenticated_head(deployment, b"GET /api/events") + b"\r\n")
    await reader.readuntil(b"event: ready")
    await asyncio.sleep(0)
    writer.close()
    await wait_for_no_connections(deployment)


async def test_a_truncated_request_is_not_executed(deployment: Deployment) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(deployment))
    writer.write(b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write(
        authenticated_head(deployment, b"POST /api/jobs", b"Content-Length: %d\r\n\r\n" % (len(ORDER) + 1)) + ORDER
    )
    writer.write_eof()
    assert (await read_to_end(reader)).endswith(b"pong")
    writer.close()
    assert (await deployment.http.get("/api/jobs")).json()["jobs"] == []
