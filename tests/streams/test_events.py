"""The feed of an account on the wire, plain lines for a terminal, and long polling."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from httpx_sse import EventSource, ServerSentEvent

from proxy.core.links import Links
from proxy.store import open_store
from proxy.streams.stream import line
from proxy.streams.times import StreamTimes
from tests.support.deployment import NO_AUTHORITIES, Deployment


@asynccontextmanager
async def feed(
    deployment: Deployment, query: str = "", last: str | None = None
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    async with deployment.open("GET", f"/api/events{query}", last=last) as response:
        assert response.status_code == 200
        yield EventSource(response).aiter_sse()


async def up_to(messages: AsyncIterator[ServerSentEvent], last: str) -> list[ServerSentEvent]:
    """Return the messages up to the first whose name or status is `last`."""
    seen = []
    async with asyncio.timeout(10):
        async for message in messages:
            seen.append(message)
            if last in {message.event, orjson.loads(message.data).get("status")}:
                break
    return seen


def events_in(messages: list[ServerSentEvent]) -> list[tuple[str, int]]:
    events = [orjson.loads(message.data) for message in messages if message.event == "message"]
    return [(event["job"], event["n"]) for event in events]


async def stuck(deployment: Deployment, count: int = 1) -> list[str]:
    """Submit jobs that never end, and return their ids."""
    return [(await deployment.submit("gaga-1", prompt="[stuck]"))["id"] for _ in range(count)]


# --- GET /api/events ---


async def test_the_feed_of_an_account_without_jobs_is_ready_at_once(deployment: Deployment) -> None:
    async with feed(deployment) as messages:
        (ready,) = await up_to(messages, "ready")
    assert (ready.event, ready.data) == ("ready", "{}")
    assert ready.id.isdigit()


async def test_the_feed_begins_with_every_unfinished_job_and_then_ready(
    deployment: Deployment,
) -> None:
    jobs = await stuck(deployment, 3)
    await deployment.generate("suno", prompt="over")
    async with feed(deployment) as messages:
        seen = await up_to(messages, "ready")
    assert sorted(job for job, _ in events_in(seen)) == sorted(jobs)
    positions = [int(message.id) for message in seen]
    assert positions == sorted(positions)
    assert seen[-1].event == "ready"


async def test_jobs_that_start_later_appear_in_the_same_stream(deployment: Deployment) -> None:
    async with feed(deployment) as messages:
        await up_to(messages, "ready")
        jobs = [(await deployment.submit("suno", prompt="song"))["id"] for _ in range(30)]
        seen: list[ServerSentEvent] = []
        for _ in jobs:
            seen += await up_to(messages, "Completed")
    for job in jobs:
        numbers = [n for other, n in events_in(seen) if other == job]
        assert numbers == list(range(1, len(numbers) + 1))
    positions = [int(message.id) for message in seen]
    assert positions == list(range(positions[0], positions[0] + len(positions)))


async def test_a_feed_resumes_after_its_last_event_id(deployment: Deployment) -> None:
    async with feed(deployment) as messages:
        head = (await up_to(messages, "ready"))[-1].id
    first, second = await deployment.generate("suno", prompt="one"), await deployment.generate("suno", prompt="two")
    async with feed(deployment, last=head) as messages:
        seen = await up_to(messages, "Completed") + await up_to(messages, "Completed")
    assert events_in(seen) == [(event["job"], event["n"]) for event in first + second]


@pytest.mark.parametrize("last", ["1", "x", "9" * 18, "99999999999999999999", "-1"])
async def test_an_unknown_last_event_id_gets_a_reset(deployment: Deployment, last: str) -> None:
    (job,) = await stuck(deployment)
    async with feed(deployment, last=last) as messages:
        seen = await up_to(messages, "ready")
    assert seen[0].event == "reset"
    assert [name for name, _ in events_in(seen)] == [job]


async def test_a_position_of_another_account_gets_a_reset(deployment: Deployment) -> None:
    key = await deployment.new_key("other")
    headers = {"Authorization": f"Bearer {key}"}
    async with deployment.open("GET", "/api/events", headers=headers) as response:
        theirs = (await up_to(EventSource(response).aiter_sse(), "ready"))[-1].id
    async with feed(deployment, last=theirs) as messages:
        assert (await up_to(messages, "ready"))[0].event == "reset"


async def test_a_position_below_a_deleted_job_gets_a_reset(deployment: Deployment) -> None:
    async with feed(deployment) as messages:
        head = (await up_to(messages, "ready"))[-1].id
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    await deployment.http.delete(f"/api/jobs/{job}")
    async with feed(deployment, last=head) as messages:
        seen = await up_to(messages, "ready")
    assert [message.event for message in seen] == ["reset", "ready"]


async def test_a_feed_of_named_jobs_skips_unknown_names(deployment: Deployment) -> None:
    over = (await deployment.generate("suno", prompt="over"))[0]["job"]
    (running, other_job) = await stuck(deployment, 2)
    async with feed(deployment, f"?jobs={over},{running},job_unknown") as messages:
        seen = await up_to(messages, "ready")
        await deployment.http.post(f"/api/jobs/{other_job}/cancel")
        await deployment.http.post(f"/api/jobs/{running}/cancel")
        seen += await up_to(messages, "Canceled")
    assert {job for job, _ in events_in(seen)} == {over, running}


async def test_the_feed_omits_streamed_text(deployment: Deployment) -> None:
    async with feed(deployment) as messages:
        await up_to(messages, "ready")
        events = await deployment.generate("gpt-5.4-mini", prompt="Tell me")
        seen = await up_to(messages, "Completed")
    wanted = [event["n"] for event in events if "delta" not in event]
    assert [n for _, n in events_in(seen)] == wanted


async def test_an_account_sees_only_its_own_jobs(deployment: Deployment) -> None:
    (job,) = await stuck(deployment)
    headers = {"Authorization": f"Bearer {await deployment.new_key('other')}"}
    for query in ("", f"?jobs={job}"):
        async with deployment.open("GET", f"/api/events{query}", headers=headers) as response:
            assert events_in(await up_to(EventSource(response).aiter_sse(), "ready")) == []


async def test_a_feed_breaks_off_when_its_link_expires(deployment: Deployment) -> None:
    # As POST /api/links does, with a shorter lifetime.
    async with open_store(deployment.store_url, deployment.clock) as store:
        links = Links([await store.secret("links")], deployment.origin, deployment.clock, ttl=0.2)
        link = links.sign("/api/events", (await store.keys())[0].id)
    async with (
        httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger,
        stranger.stream("GET", link) as response,
    ):
        read = b""
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            async for chunk in response.aiter_raw():
                read += chunk
    assert b"event: ready" in read


async def test_the_feed_survives_a_restart_of_the_server(deployment: Deployment) -> None:
    async with feed(deployment) as messages:
        head = (await up_to(messages, "ready"))[-1].id
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    await deployment.restart()
    async with feed(deployment, last=head) as messages:
        assert {name for name, _ in events_in(await up_to(messages, "Completed"))} == {job}


# --- plain lines ---


async def lines(deployment: Deployment, method: str, path: str, **options: Any) -> list[str]:
    headers = {"Accept": "text/plain", **options.pop("headers", {})}
    async with deployment.open(method, path, headers=headers, **options) as response:
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        return (await response.aread()).decode().splitlines()


async def test_a_terminal_reads_a_line_per_event_and_finally_the_url(deployment: Deployment) -> None:
    read = await lines(deployment, "POST", "/api/generate", json={"model": "grok-imagine-video", "prompt": "Rain"})
    assert re.fullmatch(r"Processing started: job job_[0-9A-Z]{26} \(grok-imagine-video\)", read[0])
    assert any(re.fullmatch(r"Processing: in_progress: \d+ %", row) for row in read)
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        assert (await stranger.get(read[-1])).status_code == 200


async def test_a_reconnecting_terminal_reads_the_job_id_first(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    read = await lines(deployment, "GET", f"/api/jobs/{job}/events", headers={"Last-Event-ID": "2"})
    assert read[0] == f"Job {job}"
    assert read[-1].startswith("http")


async def test_the_last_line_of_a_failure_begins_with_error(deployment: Deployment) -> None:
    read = await lines(deployment, "POST", "/api/generate", json={"model": "gaga-1", "prompt": "[fail]"})
    assert read[-1].startswith("Error: ")


async def test_the_last_line_of_a_cancellation_begins_with_canceled(deployment: Deployment) -> None:
    (job,) = await stuck(deployment)
    await deployment.http.post(f"/api/jobs/{job}/cancel")
    assert (await lines(deployment, "GET", f"/api/jobs/{job}/events"))[-1].startswith("Canceled: ")


@pytest.mark.parametrize(
    "evil", ["a\nError: forged", "a\r\nhttps://evil", "\x1b[2J", "\u2028https://evil", "\u202eevil"]
)
def test_a_providers_text_cannot_add_lines_or_control_characters(evil: str) -> None:
    for event in ({"status": "Processing", "detail": evil}, {"status": "Error", "message": evil}):
        written = line(event)
        assert written.isprintable()
        assert written.startswith(("Processing: ", "Error: "))


async def test_an_idle_terminal_reads_its_last_line_again(
    unstarted: Deployment,
) -> None:
    unstarted.stream_times = StreamTimes(line_repeat=0.02)
    async with unstarted as deployment:
        deployment.simulator.fault("gaia.chat", "timeout")
        job = await deployment.submit("gpt-5.4-mini", prompt="Hello")
        async with deployment.open(
            "GET", f"/api/jobs/{job['id']}/events", headers={"Accept": "text/plain"}
        ) as response:
            read = []
            async for row in response.aiter_lines():
                read.append(row)
                if len(read) == 3:
                    break
    assert read == [f"Processing started: job {job['id']} (gpt-5.4-mini)"] * 3


async def test_a_reconnecting_terminal_of_an_idle_job_reads_the_job_again(
    unstarted: Deployment,
) -> None:
    unstarted.stream_times = StreamTimes(line_repeat=0.02)
    async with unstarted as deployment:
        deployment.simulator.fault("gaia.chat", "timeout")
        job = await deployment.submit("gpt-5.4-mini", prompt="Hello")
        headers = {"Accept": "text/plain"}
        async with deployment.open("GET", f"/api/jobs/{job['id']}/events", headers=headers, last="1") as response:
            rows = response.aiter_lines()
            async with asyncio.timeout(5):
                assert [await anext(rows) for _ in range(3)] == [f"Job {job['id']}"] * 3


# --- wait ---


async def test_waiting_returns_at_the_next_event(deployment: Deployment) -> None:
    deployment.simulator.fault("gaia.chat", "slow", seconds=1)
    job = await deployment.submit("gpt-5.4-mini", prompt="Hello")
    answer = (await deployment.http.get(f"/api/jobs/{job['id']}", params={"after": 1, "wait": 20})).json()
    assert answer["event"] > 1


async def test_waiting_returns_at_once_for_newer_events_or_an_ended_job(
    deployment: Deployment,
) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    for after in ("1", "999"):
        async with asyncio.timeout(5):
            answer = await deployment.http.get(f"/api/jobs/{job}", params={"after": after, "wait": 60})
        assert answer.json()["status"] == "Completed"


async def test_waiting_ends_with_its_time_and_with_the_server(deployment: Deployment) -> None:
    deployment.simulator.fault("gaia.chat", "timeout")
    job = await deployment.submit("gpt-5.4-mini", prompt="Hello")
    path = f"/api/jobs/{job['id']}"
    assert (await deployment.http.get(path, params={"after": 1, "wait": 1})).json()["event"] == 1
    waiting = asyncio.create_task(deployment.http.get(path, params={"after": 1, "wait": 60}))
    await asyncio.sleep(0.1)
    deployment.app.stop_streams()
    async with asyncio.timeout(5):
        assert (await waiting).json()["event"] == 1


@pytest.mark.parametrize("query", ["wait=61", "wait=x", "wait=-1", "wait=1.5", "after=-1&wait=1", "after=x"])
async def test_an_invalid_wait_is_refused_by_field_name(deployment: Deployment, query: str) -> None:
    (job,) = await stuck(deployment)
    answer = await deployment.http.get(f"/api/jobs/{job}?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in {"wait", "after"}
