"""Job streams on the wire (see `proxy/docs/api.md`), byte for byte, over a real port."""

import asyncio
import re
import socket
import traceback
from typing import Any

import httpx
import orjson
import pytest
from httpx_sse import EventSource, ServerSentEvent

from proxy.core import sse
from proxy.serving.protocol import Http
from proxy.streams.times import StreamTimes
from tests.support.deployment import NO_AUTHORITIES, Deployment, events_of

FRAME = re.compile(
    rb'data: \{"status":"[A-Za-z ]+","job":"job_[0-9A-Z]{26}","model":"gaga-1","n":(\d+),'
    rb'"at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z".*\}\nid: (\d+)\n\n'
)

STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
}


async def bytes_of(
    deployment: Deployment, method: str, path: str, last: str | None = None, body: object = None
) -> bytes:
    async with deployment.open(method, path, last=last, json=body) as response:
        assert response.status_code == 200
        return await response.aread()


async def finished_job(deployment: Deployment) -> str:
    return str((await deployment.generate("gaga-1", prompt="Hello"))[0]["job"])


# --- frames ---


async def test_a_stream_is_one_retry_line_and_then_frames(deployment: Deployment) -> None:
    raw = await bytes_of(deployment, "POST", "/api/generate", body={"model": "gaga-1", "prompt": "Hello"})
    head, frames = raw[: len(b"retry: 2000\n")], raw[len(b"retry: 2000\n") :]
    assert head == b"retry: 2000\n"
    numbers = [(int(n), int(i)) for n, i in FRAME.findall(frames)]
    assert numbers == [(n, n) for n in range(1, len(numbers) + 1)]
    assert FRAME.sub(b"", frames) == b""


async def test_a_stream_begins_with_started_and_ends_with_its_final_event(deployment: Deployment) -> None:
    events = await deployment.generate("gaga-1", prompt="Hello")
    statuses = [event["status"] for event in events]
    assert statuses[0] == "Processing started"
    assert statuses[-1] == "Completed"
    assert set(statuses[1:-1]) == {"Processing"}


async def test_streams_carry_the_headers_that_keep_proxies_from_buffering(deployment: Deployment) -> None:
    job = await finished_job(deployment)
    async with deployment.open("GET", f"/api/jobs/{job}/events") as response:
        assert {name: response.headers[name] for name in STREAM_HEADERS} == STREAM_HEADERS
        assert response.headers.get("connection", "keep-alive") == "keep-alive"
        assert "content-length" not in response.headers


async def test_generate_returns_its_job_in_location(deployment: Deployment) -> None:
    async with deployment.open("POST", "/api/generate", json={"model": "suno", "prompt": "song"}) as response:
        events = events_of([message async for message in EventSource(response).aiter_sse()])
    assert response.headers["location"] == f"/api/jobs/{events[0]['job']}"


async def test_head_on_a_stream_answers_its_headers_at_once(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    response = await deployment.http.head(f"/api/jobs/{job['id']}/events")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.content == b""


async def test_text_cannot_forge_a_frame_at_any_unicode_line_end(
    deployment: Deployment,
) -> None:
    evil = "a\rb\nc\r\nid: 99\n\ndata: {}\u2028d\u0085e\x00f\u2029"
    order = {"model": "suno", "prompt": "song", "metadata": {"evil": evil}}
    raw = await bytes_of(deployment, "POST", "/api/generate", body=order)
    lines = raw.decode().splitlines()
    assert {line.partition(":")[0] for line in lines} == {"retry", "data", "id", ""}
    final = [orjson.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")][-1]
    assert final["metadata"] == {"evil": evil}


# --- heartbeats ---


async def test_an_idle_stream_has_keep_alive_comments_only_between_frames(unstarted: Deployment) -> None:
    unstarted.settings["heartbeat"] = 0.02
    async with unstarted as deployment:
        deployment.simulator.fault("gaia.chat", "timeout")
        job = await deployment.submit("gpt-5.4-mini", prompt="Hello")
        read = b""
        async with deployment.open("GET", f"/api/jobs/{job['id']}/events") as response:
            async for chunk in response.aiter_raw():
                read += chunk
                if read.count(b": keep-alive\n") == 3:
                    break
    assert re.fullmatch(rb"retry: 2000\ndata: .*\nid: 1\n\n(: keep-alive\n){3}", read)


# --- replay and resume ---


async def test_a_finished_job_is_replayed_from_its_first_event(deployment: Deployment) -> None:
    job = await finished_job(deployment)
    first = await bytes_of(deployment, "GET", f"/api/jobs/{job}/events")
    again = await bytes_of(deployment, "GET", f"/api/jobs/{job}/events")
    assert first == again
    assert len(FRAME.findall(first)) >= 3


async def test_a_stream_resumes_after_last_event_id(deployment: Deployment) -> None:
    job = await finished_job(deployment)
    everything = await deployment.messages("GET", f"/api/jobs/{job}/events")
    for last in range(1, len(everything)):
        rest = await deployment.messages("GET", f"/api/jobs/{job}/events", last=str(last))
        assert bare(rest) == bare(everything[last:])
        rest = await deployment.messages("GET", f"/api/jobs/{job}/events?lastEventId={last}")
        assert bare(rest) == bare(everything[last:])


def bare(messages: list[ServerSentEvent]) -> list[tuple[str, str]]:
    """Return id and data of messages. `retry` is omitted, because clients add it to a connection's first message."""
    return [(message.id, message.data) for message in messages]


async def test_a_client_that_has_the_final_event_gets_204(deployment: Deployment) -> None:
    job = await finished_job(deployment)
    last = (await deployment.messages("GET", f"/api/jobs/{job}/events"))[-1].id
    response = await deployment.http.get(f"/api/jobs/{job}/events", headers={"Last-Event-ID": last})
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "999", "0", "٣", "9" * 40])
async def test_an_invalid_last_event_id_is_answered_from_event_1(deployment: Deployment, last: str) -> None:
    job = await finished_job(deployment)
    headers = [(b"Last-Event-ID", last.encode())]
    async with deployment.http.stream("GET", f"/api/jobs/{job}/events", headers=headers) as response:
        messages = [message async for message in EventSource(response).aiter_sse()]
    assert messages[0].id == "1"
    assert events_of(messages)[-1]["status"] == "Completed"


async def test_a_reconnecting_client_misses_and_repeats_no_event(deployment: Deployment) -> None:
    job = await deployment.submit("gpt-5.4-mini", prompt="A long answer")
    seen: list[str] = []
    while True:
        last = seen[-1] if seen else None
        async with deployment.open("GET", f"/api/jobs/{job['id']}/events", last=last) as response:
            if response.status_code == 204:
                break
            async for message in EventSource(response).aiter_sse():
                seen.append(message.id)
                break  # the client leaves after each event
    assert seen == [str(n) for n in range(1, len(seen) + 1)]
    assert len(seen) > 3


async def test_a_job_continues_after_its_client_disconnects(deployment: Deployment) -> None:
    async with deployment.open("POST", "/api/generate", json={"model": "suno", "prompt": "song"}) as response:
        job = response.headers["location"].rsplit("/", 1)[1]
    assert (await deployment.ended(job))["status"] == "Completed"


async def test_a_hundred_subscribers_see_the_same_bytes_without_more_polls(deployment: Deployment) -> None:
    await deployment.generate("gaga-1", prompt="Hello")
    alone = deployment.simulator.calls["gaga.check"]
    deployment.simulator.calls.clear()
    job = await deployment.submit("gaga-1", prompt="Hello")
    path = f"/api/jobs/{job['id']}/events"
    limits = httpx.Limits(max_connections=200)
    headers = dict(deployment.http.headers)
    async with httpx.AsyncClient(
        base_url=deployment.origin, headers=headers, limits=limits, trust_env=False, verify=NO_AUTHORITIES
    ) as many:
        answers = await asyncio.gather(*(many.get(path, timeout=20) for _ in range(100)))
    # A subscriber that connects after the end also gets a longer reconnection time.
    bodies = {re.sub(rb": keep-alive\n|retry: 60000\n", b"", answer.content) for answer in answers}
    assert len(bodies) == 1
    assert deployment.simulator.calls["gaga.check"] <= alone + 1  # the pace is jittered


@pytest.mark.parametrize("last", [{"headers": {"Last-Event-ID": "2"}}, {"params": {"lastEventId": "2"}}])
async def test_a_reconnecting_post_without_idempotency_key_creates_no_job(
    deployment: Deployment, last: dict[str, Any]
) -> None:
    response = await deployment.http.post("/api/generate", json={"model": "gaga-1", "prompt": "Hello"}, **last)
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert (await deployment.http.get("/api/jobs")).json()["jobs"] == []


EMPTY = pytest.mark.parametrize("last", [{"headers": {"Last-Event-ID": ""}}, {"params": {"lastEventId": ""}}])


@EMPTY
async def test_an_empty_last_event_id_on_a_post_means_none(deployment: Deployment, last: dict[str, Any]) -> None:
    events = events_of(
        await deployment.messages("POST", "/api/generate", json={"model": "suno", "prompt": "song"}, **last)
    )
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))


@EMPTY
async def test_an_empty_last_event_id_on_a_get_means_none(deployment: Deployment, last: dict[str, Any]) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    assert events_of(await deployment.messages("GET", f"/api/jobs/{job}/events", **last))[0]["n"] == 1
    async with deployment.open("GET", "/api/events", **last) as response:
        first = await anext(EventSource(response).aiter_sse())
    assert first.event == "ready"


async def test_an_empty_header_does_not_hide_the_query(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    path = f"/api/jobs/{job}/events?lastEventId=1"
    assert events_of(await deployment.messages("GET", path, last=""))[0]["n"] == 2


async def test_a_reconnecting_post_resumes_after_its_last_event(deployment: Deployment) -> None:
    options = {"json": {"model": "suno", "prompt": "song"}, "headers": {"Idempotency-Key": "one"}}
    everything = await deployment.messages("POST", "/api/generate", **options)
    rest = await deployment.messages("POST", "/api/generate", last="2", **options)
    assert bare(rest) == bare(everything[2:])
    assert deployment.simulator.submits["ainow"] == 1


async def test_the_stream_of_an_ended_job_has_a_longer_retry(deployment: Deployment) -> None:
    """A browser that lost the last id, as behind a service worker, then reconnects once a minute."""
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    for last in (None, "1"):
        whole = await bytes_of(deployment, "GET", f"/api/jobs/{job}/events", last)
        assert whole.startswith(b"retry: 2000\ndata: ")
        assert whole.endswith(b"\n\nretry: 60000\n")


async def test_a_stream_open_at_the_final_event_has_no_longer_retry(deployment: Deployment) -> None:
    whole = await bytes_of(deployment, "POST", "/api/generate", body={"model": "suno", "prompt": "song"})
    assert whole.count(b"retry: ") == 1


# --- Links ---


async def test_a_link_opens_the_stream_without_a_key(deployment: Deployment) -> None:
    job = await deployment.submit("suno", prompt="song")
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        text = (await stranger.get(job["links"]["events"])).text
    assert '"status":"Completed"' in text


async def test_a_link_resumes_after_an_appended_last_event_id(deployment: Deployment) -> None:
    job = await deployment.submit("suno", prompt="song")
    everything = await deployment.messages("GET", f"/api/jobs/{job['id']}/events")
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        answer = await stranger.get(job["links"]["events"] + "&lastEventId=2")
        assert f"id: {len(everything)}" in answer.text
        assert "id: 2\n" not in answer.text


async def test_an_altered_or_misused_link_is_401(deployment: Deployment) -> None:
    one, other = await deployment.submit("suno", prompt="one"), await deployment.submit("suno", prompt="other")
    link = one["links"]["events"]
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        for wrong in (
            # The last character is kept, because a part of its bits is unused.
            link[:-2] + ("A" if link[-2] != "A" else "B") + link[-1],
            link.replace(one["id"], other["id"]),
            link.replace("/events", "/content"),
            link.replace("expires=", "expires=9"),
            link + "&jobs=all",
            re.sub(r"signature=.*", "signature=", link),
        ):
            answer = await stranger.get(wrong)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), wrong


async def test_links_are_valid_while_their_secret_is_listed(unstarted: Deployment) -> None:
    unstarted.settings = {"secret": "old"}
    async with unstarted as deployment:
        link = (await deployment.submit("suno", prompt="one"))["links"]["events"]
        for secret, status in (("new,old", 200), ("new", 401)):
            deployment.settings = {"secret": secret}
            await deployment.restart()
            path = link.removeprefix(link.split("/api/")[0])
            response = await deployment.http.get(path, headers={"Authorization": ""})
            assert (secret, response.status_code) == (secret, status)


async def test_a_link_expires(deployment: Deployment) -> None:
    job = await deployment.submit("suno", prompt="song")
    await deployment.ended(job["id"])
    deployment.clock.at += 8 * 86400
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        assert (await stranger.get(job["links"]["events"])).status_code == 401


async def test_a_link_is_invalid_after_its_key_is_revoked(deployment: Deployment) -> None:
    from proxy.store import open_store

    job = await deployment.submit("suno", prompt="song")
    async with open_store(deployment.store_url, deployment.clock) as store:
        await store.revoke_key((await store.keys())[0].id)
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        assert (await stranger.get(job["links"]["events"])).status_code == 401


# --- the end ---


async def test_a_stream_without_final_event_ends_without_the_last_chunk(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    async with deployment.open("GET", f"/api/jobs/{job['id']}/events") as response:
        chunks = response.aiter_raw()
        assert (await anext(chunks)).startswith(b"retry: 2000\n")
        deployment.app.stop_streams()
        rest = b""
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            async for chunk in chunks:
                rest += chunk
        # A random time, so that the clients of a stopping server do not all reconnect at once.
        assert re.search(rb"retry: \d{3,4}\n$", rest)


async def test_a_finished_stream_ends_cleanly_and_keeps_its_connection(deployment: Deployment) -> None:
    job = await finished_job(deployment)
    async with httpx.AsyncClient(
        base_url=deployment.origin,
        headers=dict(deployment.http.headers),
        trust_env=False,
        verify=NO_AUTHORITIES,
        limits=httpx.Limits(max_connections=1),
    ) as one:
        for _ in range(3):
            assert (await one.get(f"/api/jobs/{job}/events")).status_code == 200


async def test_a_stopping_server_makes_new_stream_clients_reconnect(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    deployment.app.stop_streams()
    async with deployment.open("GET", f"/api/jobs/{job['id']}/events") as response:
        assert response.status_code == 200
        read = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async for chunk in response.aiter_raw():
                read += chunk
    assert re.fullmatch(rb": [^\n]+\nretry: \d+\n", read)


async def test_a_failed_background_task_breaks_off_streams_and_is_reported(
    unstarted: Deployment, dies: asyncio.Event
) -> None:
    async with unstarted as deployment:
        job = await deployment.submit("gaga-1", prompt="[stuck]")
        async with deployment.open("GET", f"/api/jobs/{job['id']}/events") as response:
            dies.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
        with pytest.raises(BaseExceptionGroup) as raised:
            await deployment.stop()
        assert "The work broke." in "".join(traceback.format_exception(raised.value))
        dies.clear()
        await deployment.start()


async def test_disconnected_clients_leave_no_tasks(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    path = f"/api/jobs/{job['id']}/events"

    async def visit() -> None:
        async with deployment.open("GET", path) as response:
            await anext(response.aiter_raw())

    await visit()
    await asyncio.sleep(0.05)
    before = len(asyncio.all_tasks())
    for _ in range(10):
        await asyncio.gather(*(visit() for _ in range(20)))
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)


async def test_a_client_that_reads_nothing_is_dropped_and_blocks_no_other(
    unstarted: Deployment,
) -> None:
    unstarted.stream_times = StreamTimes(write_timeout=0.1)
    async with unstarted as deployment:
        final = await deployment.generate("suno", prompt="song", metadata={str(n): "x" * 512 for n in range(16)})
        path = f"/api/jobs/{final[0]['job']}/events"
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        stalled.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stalled, ("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1])))
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {deployment.key}\r\n\r\n"
        # Pipelined a thousand times: far more than the buffers of both ends hold.
        sending = asyncio.ensure_future(loop.sock_sendall(stalled, request.encode() * 1000))
        assert len(await deployment.messages("GET", path)) == len(final)
        async with asyncio.timeout(10):
            while len(deployment.connections) > 1:  # the test's own client keeps one
                await asyncio.sleep(0.01)
        stalled.close()
        await asyncio.gather(sending, return_exceptions=True)


async def test_nothing_is_pushed_to_a_closed_connection(deployment: Deployment) -> None:
    async with deployment.open("GET", "/api/events") as response:
        await anext(response.aiter_raw())
        (connection,) = deployment.connections
        assert isinstance(connection, Http)
        assert connection.push(sse.chunk(sse.HEARTBEAT)) is True
        connection.abort()
        assert connection.push(sse.chunk(sse.HEARTBEAT)) is False


async def test_a_disconnect_before_the_stream_begins_is_no_error(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))
    key = deployment.key.encode()
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + b"\r\n\r\n")
    writer.close()
    assert (await deployment.http.get("/api/account")).status_code == 200
    await deployment.stop()
    assert "Exception" not in caplog.text
    await deployment.start()


async def test_a_stream_ends_normally_with_a_request_queued_during_its_start(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    rest = b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + deployment.key.encode() + b"\r\n"
    others = set(deployment.connections)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))
    writer.write(f"GET /api/jobs/{job['id']}/events".encode() + rest + b"\r\n")
    await reader.readuntil(b"id: 1\n\n")
    (connection,) = set(deployment.connections) - others
    assert isinstance(connection, Http)
    connection.hold()
    writer.write(b"GET /api/ping" + rest + b"Connection: close\r\n\r\n")
    async with asyncio.timeout(5):
        while not connection.pipeline:
            await asyncio.sleep(0.001)
    connection.release()
    await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
    assert b"0\r\n\r\nHTTP/1.1 200 OK\r\n" in await reader.read()
    writer.close()
