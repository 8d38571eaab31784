"""Limits of an account: requests, streams, jobs and uploads, and the responses over a limit."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource

from proxy.api.limits import AccountLimits, storage
from proxy.telemetry.metrics import Metrics
from tests.support.deployment import Deployment, events_of
from tests.support.redis_server import RedisServer
from tests.telemetry.test_metrics import scraped

STUCK = {"model": "gaga-1", "prompt": "[stuck]"}


@pytest.fixture
def unstarted(tmp_path: Path) -> Deployment:
    """A deployment whose stuck jobs have no deadline, because its clock skips every wait."""
    return Deployment(tmp_path, provider={"deadline": 1e9})


async def refusal_message(response: httpx.Response) -> str:
    """Check that a response is a 429 with all its parts, and return its message."""
    await response.aread()
    assert response.status_code == 429
    assert response.json()["status"] == "Error"
    assert response.json()["code"] == "rate_limited"
    assert 1 <= int(response.headers["retry-after"]) <= 60
    return str(response.json()["message"])


async def refused_stream(deployment: Deployment, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    """Return the response of an event endpoint that closes at once with the reason and a `retry` line."""
    read = b""
    async with deployment.open(method, path, **options) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            async for chunk in response.aiter_raw():
                read += chunk
    assert re.fullmatch(
        rb": Stream limit exceeded: this account may have \d+ open streams\. Close one first\.\nretry: \d+\n", read
    )
    return response


async def open_streams(deployment: Deployment, path: str, stack: AsyncExitStack, count: int) -> None:
    for _ in range(count):
        await stack.enter_async_context(deployment.open("GET", path))


async def jobs_of(deployment: Deployment) -> int:
    return len((await deployment.http.get("/api/jobs")).json()["jobs"])


# --- requests ---


async def test_a_request_over_the_limit_is_refused_until_the_window_slides(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    unstarted.settings["max_requests"] = 3
    async with unstarted as deployment:
        assert [(await deployment.http.get("/api/account")).status_code for _ in range(3)] == [200] * 3
        assert "3 requests" in await refusal_message(await deployment.http.get("/api/account"))
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 61)
        assert (await deployment.http.get("/api/account")).status_code == 200


async def test_every_response_has_the_remaining_requests(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 3
    async with unstarted as deployment:
        paths = ("/api/account", "/api/jobs/job_unknown", "/api/jobs", "/api/account")
        answers = [await deployment.http.get(path) for path in paths]
        assert [answer.status_code for answer in answers] == [200, 404, 200, 429]
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=3;w=60'}
        told = [re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["ratelimit"]) for answer in answers]
        assert [int(match[1]) for match in told if match] == [2, 1, 0, 0]
        assert all(1 <= int(match[2]) <= 60 for match in told if match)
        assert answers[3].headers["retry-after"] == told[3][2] if told[3] else False


async def test_keys_of_one_account_share_its_limit(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        second, stranger = await deployment.new_key("web"), await deployment.new_key("other")
        assert (await deployment.http.get("/api/account")).status_code == 200
        await refusal_message(await deployment.http.get("/api/account", headers={"Authorization": f"Bearer {second}"}))
        theirs = await deployment.http.get("/api/account", headers={"Authorization": f"Bearer {stranger}"})
        assert theirs.status_code == 200


async def test_streams_links_and_public_endpoints_are_not_counted(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        events = await deployment.generate("gpt-image-2", prompt="[b64]")
        job = events[0]["job"]
        for _ in range(3):
            await deployment.messages("GET", f"/api/jobs/{job}/events")
            assert (await deployment.http.get(events[-1]["url"])).status_code == 200
            assert (await deployment.http.get("/api/models")).status_code == 200
        await refusal_message(await deployment.http.get(f"/api/jobs/{job}/content"))


async def test_a_signature_in_the_query_does_not_bypass_the_limit(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        assert (await deployment.http.get("/api/account")).status_code == 200
        await refusal_message(await deployment.http.get("/api/account?signature=x"))


@pytest.mark.parametrize("query", ["signature", "%73ignature=x", "designature=x"])
async def test_a_query_that_resembles_a_link_is_counted(unstarted: Deployment, query: str) -> None:
    unstarted.settings["max_requests"] = 2
    async with unstarted as deployment:
        job = (await deployment.generate("gpt-image-2", prompt="[b64]"))[0]["job"]
        assert (await deployment.http.get(f"/api/jobs/{job}/content?{query}")).status_code == 200
        await refusal_message(await deployment.http.get(f"/api/jobs/{job}/content?{query}"))


async def test_without_a_limit_there_are_no_headers(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_requests": 0, "max_streams": 0, "max_jobs": 0}
    async with unstarted as deployment:
        assert (await deployment.generate("gaga-1", prompt="Hello"))[-1]["status"] == "Completed"
        assert "ratelimit" not in (await deployment.http.get("/api/account")).headers


@pytest.mark.parametrize("path", ["/api/jobs", "/api/generate"])
async def test_a_repeated_order_is_answered_over_the_request_limit(unstarted: Deployment, path: str) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        order, once = {"model": "suno", "prompt": "A song"}, {"Idempotency-Key": "once"}
        first = await deployment.http.post(path, json=order, headers=once)
        again = await deployment.http.post(path, json=order, headers=once)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (first.status_code, "true")
        assert again.headers["location"] == first.headers["location"]
        await refusal_message(await deployment.http.post(path, json=order, headers={"Idempotency-Key": "new"}))
        await refusal_message(await deployment.http.post(path, json=order))


async def test_a_dry_run_over_the_limit_is_refused(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        ask = ("/api/jobs?dry_run=1", {"model": "suno", "prompt": "A song"}, {"Idempotency-Key": "once"})
        assert (await deployment.http.post(ask[0], json=ask[1], headers=ask[2])).status_code == 200
        await refusal_message(await deployment.http.post(ask[0], json=ask[1], headers=ask[2]))


# --- streams ---


async def test_a_stream_over_the_limit_is_asked_to_retry_later(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 2
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        path = f"/api/jobs/{job['id']}/events"
        async with AsyncExitStack() as stack:
            await open_streams(deployment, path, stack, 2)
            await refused_stream(deployment, path)
            await refused_stream(deployment, "/api/events")
        while (await scraped(deployment))["pollcast_streams"]:
            await asyncio.sleep(0.001)
        async with AsyncExitStack() as stack:
            await open_streams(deployment, path, stack, 2)


async def test_an_order_over_the_stream_limit_makes_no_job(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"/api/jobs/{job['id']}/events", stack, 1)
            assert "1 open streams" in await refusal_message(await deployment.http.post("/api/generate", json=STUCK))
            assert await jobs_of(deployment) == 1
            assert (await deployment.http.post("/api/jobs", json=STUCK)).status_code == 202


async def test_concurrent_orders_do_not_exceed_the_stream_limit(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 3
    async with unstarted as deployment, AsyncExitStack() as stack:

        async def status() -> int:
            response = await stack.enter_async_context(deployment.open("POST", "/api/generate", json=STUCK))
            return response.status_code

        statuses = await asyncio.gather(*(status() for _ in range(10)))
        assert sorted(statuses) == [200] * 3 + [429] * 7
        assert await jobs_of(deployment) == 3


async def test_a_repeated_order_over_the_stream_limit_names_its_job(
    unstarted: Deployment,
) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        once = {"Idempotency-Key": "once"}
        async with deployment.open("POST", "/api/generate", json=STUCK, headers=once) as first:
            again = await refused_stream(deployment, "/api/generate", "POST", json=STUCK, headers=once)
            assert again.headers["location"] == first.headers["location"]
            assert again.headers["idempotency-replayed"] == "true"


async def test_a_waiting_request_counts_as_a_stream(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        path = f"/api/jobs/{job['id']}"
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"{path}/events", stack, 1)
            await refusal_message(await deployment.http.get(f"{path}?after=100&wait=5"))
            assert (await deployment.http.get(path)).status_code == 200


async def test_streams_of_another_account_do_not_count(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        other = {"Authorization": f"Bearer {await deployment.new_key('other', 100)}"}
        job = await deployment.submit(**STUCK)
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"/api/jobs/{job['id']}/events", stack, 1)
            async with deployment.open("POST", "/api/generate", json=STUCK, headers=other) as response:
                assert response.status_code == 200


# --- jobs ---


async def test_an_order_over_the_job_limit_is_refused_without_charge(unstarted: Deployment) -> None:
    unstarted.settings["max_jobs"] = 1
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        before = await deployment.balance()
        for path in ("/api/jobs", "/api/generate"):
            assert "1 unfinished jobs" in await refusal_message(await deployment.http.post(path, json=STUCK))
        assert (await deployment.balance(), await jobs_of(deployment)) == (before, 1)
        await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
        await deployment.ended(job["id"])
        await deployment.submit(**STUCK)


async def test_a_repeated_order_is_answered_over_the_job_limit(unstarted: Deployment) -> None:
    unstarted.settings["max_jobs"] = 1
    async with unstarted as deployment:
        once = {"Idempotency-Key": "once"}
        first = await deployment.http.post("/api/jobs", json=STUCK, headers=once)
        again = await deployment.http.post("/api/jobs", json=STUCK, headers=once)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


async def test_refusals_are_counted_by_limit(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "max_streams": 1, "max_requests": 3}
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        await refusal_message(await deployment.http.post("/api/jobs", json=STUCK))
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"/api/jobs/{job['id']}/events", stack, 1)
            await refused_stream(deployment, "/api/events")
        await deployment.http.get("/api/account")
        await refusal_message(await deployment.http.get("/api/account"))
        told = await scraped(deployment)
        counted = {
            limit: told[f'pollcast_refused_total{{limit="{limit}"}}'] for limit in ("jobs", "streams", "requests")
        }
        assert counted == {"jobs": 1, "streams": 1, "requests": 1}


# --- the backlog ---


async def test_an_order_over_the_job_limit_waits_in_the_backlog(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 2}
    async with unstarted as deployment:
        first = await deployment.submit(**STUCK)
        second, third = [await deployment.submit("gaga-1", prompt="Hello") for _ in range(2)]
        assert [job["detail"] for job in (second, third)] == [f"Waiting: number {n} in line" for n in (1, 2)]
        assert "1 unfinished jobs and 2 more" in await refusal_message(
            await deployment.http.post("/api/jobs", json=STUCK)
        )
        assert await deployment.balance() == 1000 - 3 * 20
        assert deployment.simulator.calls["gaga.submit"] <= 1
        assert (await scraped(deployment))["pollcast_queued_total"] == 2
        await deployment.http.post(f"/api/jobs/{first['id']}/cancel")
        assert [(await deployment.ended(job["id"]))["status"] for job in (second, third)] == ["Completed", "Completed"]


async def test_a_stream_shows_the_backlog_positions_and_then_the_progress(
    unstarted: Deployment,
) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 9}
    async with unstarted as deployment:
        first = await deployment.submit(**STUCK)
        await deployment.submit("gaga-1", prompt="Hello")
        last = await deployment.submit("gaga-1", prompt="Hello")
        await deployment.http.post(f"/api/jobs/{first['id']}/cancel")
        events = events_of(await deployment.messages("GET", f"/api/jobs/{last['id']}/events"))
    waited = ["Waiting: number 2 in line", "Waiting: number 1 in line", "Under way"]
    assert [event.get("detail") for event in events][:4] == [None, *waited]
    assert [event["status"] for event in events][:4] == ["Processing started"] + ["Processing"] * 3
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["status"] == "Completed"
    assert "Pending" in [event.get("detail") for event in events]


async def test_the_stream_of_a_backlogged_order_begins_at_once(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 9}
    async with unstarted as deployment:
        first = await deployment.submit(**STUCK)
        async with deployment.open("POST", "/api/generate", json={"model": "suno", "prompt": "A song"}) as response:
            messages = EventSource(response).aiter_sse()
            events = [json.loads((await anext(messages)).data) for _ in range(2)]
            assert [event.get("detail") for event in events] == [None, "Waiting: number 1 in line"]
            await deployment.http.post(f"/api/jobs/{first['id']}/cancel")
            *_, final = [json.loads(message.data) async for message in messages]
            assert final["status"] == "Completed"


async def test_a_cancel_in_the_backlog_refunds_everything(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 9}
    async with unstarted as deployment:
        await deployment.submit(**STUCK)
        second, third = [await deployment.submit("gaga-1", prompt="Hello") for _ in range(2)]
        assert (await deployment.http.post(f"/api/jobs/{second['id']}/cancel")).status_code == 202
        ended = await deployment.ended(second["id"])
        assert (ended["status"], ended["refunded"]) == ("Canceled", 20)
        while (await deployment.http.get(f"/api/jobs/{third['id']}")).json()["detail"] != "Waiting: number 1 in line":
            await asyncio.sleep(0.001)
        assert await deployment.balance() == 1000 - 2 * 20
        assert deployment.simulator.calls["gaga.submit"] == 1


async def test_a_job_may_wait_longer_than_its_provider_s_deadline(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 9}
    unstarted.provider = {"deadline": 900}
    async with unstarted as deployment:
        jobs = [await deployment.submit(**STUCK) for _ in range(3)]
        last = await deployment.submit("gaga-1", prompt="Hello")
        assert [(await deployment.ended(job["id"]))["code"] for job in jobs] == ["deadline_exceeded"] * 3
        ended = await deployment.ended(last["id"])
        assert ended["status"] == "Completed"
        assert deployment.clock.now() - datetime.fromisoformat(last["created_at"]).timestamp() > 2 * 900


async def test_a_backlog_survives_a_restart_with_the_new_limit(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 9}
    async with unstarted as deployment:
        await deployment.submit(**STUCK)
        jobs = [await deployment.submit("gaga-1", prompt="Hello") for _ in range(2)]
        await deployment.restart()
        assert [(await deployment.http.get(f"/api/jobs/{job['id']}")).json()["detail"] for job in jobs] == [
            f"Waiting: number {n} in line" for n in (1, 2)
        ]
        deployment.settings |= {"max_jobs": 2, "queue": 0}
        await deployment.restart()
        assert [(await deployment.ended(job["id"]))["status"] for job in jobs] == ["Completed", "Completed"]


async def test_a_backlog_does_not_delay_other_accounts(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 9}
    async with unstarted as deployment:
        await deployment.submit(**STUCK)
        await deployment.submit(**STUCK)
        other = {"Authorization": f"Bearer {await deployment.new_key('other', 100)}"}
        path = "/api/generate"
        messages = await deployment.messages("POST", path, json={"model": "gaga-1", "prompt": "Hello"}, headers=other)
        assert events_of(messages)[-1]["status"] == "Completed"


# --- several nodes ---


async def test_nodes_on_one_redis_count_requests_together(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with storage(server.url) as here, storage(server.url) as there:
            nodes = [AccountLimits(each, {}, Metrics(), requests=2, streams=0, jobs=0) for each in (here, there)]
            found = [await node.count("acct_1") for node in (*nodes, *nodes)]
        assert [counted.refusal is None for counted in found] == [True, True, False, False]
        assert [counted.headers["RateLimit"][:14] for counted in found] == [f'"requests";r={n}' for n in (1, 0, 0, 0)]


async def test_requests_are_served_uncounted_while_redis_is_unavailable(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with storage(server.url) as counts:
            limits = AccountLimits(counts, {}, Metrics(), requests=1, streams=0, jobs=0)
            assert (await limits.count("acct_1")).headers
            server.kill()
            found = await limits.count("acct_1")
            assert (found.refusal, found.headers) == (None, {})


# --- uploads ---


async def test_concurrent_uploads_are_limited_by_account(unstarted: Deployment) -> None:
    unstarted.settings["max_uploads"] = 1
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    over, begun = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + Deployment.media("image")
        begun.set()
        await over.wait()
        yield b"\r\n--x--\r\n"

    async with unstarted as deployment:
        uploading = asyncio.create_task(deployment.http.post("/api/assets", content=slowly(), headers=headers))
        await begun.wait()
        url = {"url": "https://example.com/cat.png"}
        while (answer := await deployment.http.post("/api/assets", json={})).status_code == 422:
            await asyncio.sleep(0.01)  # the first one is not at its body yet
        assert "uploads in progress" in await refusal_message(answer)
        assert "uploads in progress" in await refusal_message(await deployment.http.post("/api/assets", json=url))
        other = {"Authorization": f"Bearer {await deployment.new_key('other')}"}
        assert (await deployment.http.post("/api/assets", json={}, headers=other)).status_code == 422
        over.set()
        assert (await uploading).status_code == 201
        assert (await deployment.http.post("/api/assets", json={})).status_code == 422
