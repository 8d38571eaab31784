"""The ping endpoint: `pong`, and streams of timed marks."""

import asyncio
from itertools import pairwise

import orjson
import pytest
from httpx_sse import EventSource

from proxy.core.clock import SystemClock
from tests.api.test_api import error_of, fields_of
from tests.support.deployment import Deployment, events_of

NO_KEY = {"Authorization": ""}


async def test_ping_returns_pong_with_any_other_query(deployment: Deployment) -> None:
    assert (await deployment.http.get("/api/ping?_=1795234567", headers=NO_KEY)).text == "pong"


async def test_marks_are_numbered_and_timed_and_need_no_key(deployment: Deployment) -> None:
    messages = await deployment.messages("GET", "/api/ping?marks=3&gap=1000", headers=NO_KEY)
    marks = events_of(messages)
    assert [(mark["mark"], mark["of"], mark["heartbeat"]) for mark in marks] == [(1, 3, 4), (2, 3, 4), (3, 3, 4)]
    assert [message.id for message in messages] == ["1", "2", "3"]
    assert all(mark["at"].endswith("Z") for mark in marks)


async def test_marks_have_the_headers_of_a_stream(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    names = ("content-type", "cache-control", "x-accel-buffering")
    async with (
        deployment.open("GET", "/api/ping?marks=1") as marks,
        deployment.open("GET", f"/api/jobs/{job}/events") as events,
    ):
        assert [marks.headers[name] for name in names] == [events.headers[name] for name in names]
        assert "content-length" not in marks.headers
    assert (await deployment.http.head("/api/ping?marks=20&gap=3000")).headers["content-type"] == "text/event-stream"


async def test_a_gap_is_filled_with_heartbeats_and_silence_is_not(deployment: Deployment) -> None:
    raw = (await deployment.http.get("/api/ping?marks=3&gap=9000&silence=60")).content
    first, second, third, rest = raw.split(b"\n\n")
    assert first.startswith(b"retry: 2000\ndata: ")
    assert second.startswith(b": keep-alive\n: keep-alive\ndata: ")
    assert third.startswith(b"data: ")
    assert rest == b""


async def test_marks_are_sent_on_time(unstarted: Deployment) -> None:
    unstarted.clock = SystemClock()
    now = asyncio.get_running_loop().time
    async with unstarted as deployment, deployment.open("GET", "/api/ping?marks=4&gap=200") as response:
        came = [now() async for _ in EventSource(response).aiter_sse()]
    assert all(0.15 < later - earlier < 1 for earlier, later in pairwise(came))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("marks=0", "marks"),
        ("gap=100", "marks"),
        ("silence=1", "marks"),
        ("marks=21", "marks"),
        ("marks=", "marks"),
        ("marks=x", "marks"),
        ("marks=2&gap=-1", "gap"),
        ("marks=2&gap=15001", "gap"),
        ("marks=2&gap=0.5", "gap"),
        ("marks=2&silence=91", "silence"),
        ("marks=2&silence=nan", "silence"),
        ("marks=2&silence=inf", "silence"),
        ("marks=20&gap=15000", "marks"),
        ("marks=3&gap=10000&silence=80", "marks"),
        ("marks=2&gaps=1", "gaps"),
    ],
)
async def test_an_invalid_plan_is_refused_by_parameter(deployment: Deployment, query: str, field: str) -> None:
    assert fields_of(await deployment.http.get(f"/api/ping?{query}")) == [field]


async def test_at_most_32_streams_of_marks_are_open(unstarted: Deployment) -> None:
    unstarted.clock = SystemClock()
    async with unstarted as deployment, asyncio.TaskGroup() as group:
        opened = asyncio.Semaphore(0)

        async def ask() -> None:
            async with deployment.open("GET", "/api/ping?marks=2&gap=15000") as response:
                chunks = response.aiter_bytes()  # keep a reference: garbage collection closes the response
                await anext(chunks)
                opened.release()
                await asyncio.Event().wait()

        tasks = [group.create_task(ask()) for _ in range(32)]
        for _ in tasks:
            await opened.acquire()
        refused = await deployment.http.get("/api/ping?marks=1")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"] == "10"
        assert (await deployment.http.get("/api/ping")).text == "pong"
        for task in tasks:
            task.cancel()
        while (await deployment.http.get("/api/ping?marks=1")).status_code != 200:
            await asyncio.sleep(0.01)


async def test_a_mark_is_one_line_of_json(deployment: Deployment) -> None:
    raw = (await deployment.http.get("/api/ping?marks=1")).content
    assert orjson.loads(raw.split(b"data: ")[1].split(b"\n")[0])["mark"] == 1
