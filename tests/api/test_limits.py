"""What one account may take, and how it is told that this is all."""

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
    """A world whose jobs that are stuck stay so: its clock runs through an hour in no time."""
    return Deployment(tmp_path, provider={"deadline": 1e9})


async def refused(response: httpx.Response) -> str:
    """The message of an answer that is a refusal, once it is one in all parts."""
    await response.aread()
    assert response.status_code == 429
    assert response.json()["status"] == "Error"
    assert response.json()["code"] == "rate_limited"
    assert 1 <= int(response.headers["retry-after"]) <= 60
    return str(response.json()["message"])


async def turned_away(deployment: Deployment, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    """The answer of an event endpoint that breaks off at once, with the reason and when to come back."""
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


async def test_one_request_too_many_is_refused_until_the_window_has_moved_on(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    unstarted.settings["max_requests"] = 3
    async with unstarted as deployment:
        assert [(await deployment.http.get("/api/account")).status_code for _ in range(3)] == [200] * 3
        assert "3 requests" in await refused(await deployment.http.get("/api/account"))
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 61)
        assert (await deployment.http.get("/api/account")).status_code == 200


async def test_every_answer_says_how_many_requests_are_left_refusals_too(unstarted: Deployment) -> None:
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


async def test_the_keys_of_an_account_share_its_limit_and_no_other_account_feels_it(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        second, stranger = await deployment.new_key("web"), await deployment.new_key("other")
        assert (await deployment.http.get("/api/account")).status_code == 200
        await refused(await deployment.http.get("/api/account", headers={"Authorization": f"Bearer {second}"}))
        theirs = await deployment.http.get("/api/account", headers={"Authorization": f"Bearer {stranger}"})
        assert theirs.status_code == 200


async def test_neither_streams_nor_links_nor_what_anyone_may_ask_are_counted(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        events = await deployment.generate("gpt-image-2", prompt="[b64]")
        job = events[0]["job"]
        for _ in range(3):
            await deployment.messages("GET", f"/api/jobs/{job}/events")
            assert (await deployment.http.get(events[-1]["url"])).status_code == 200
            assert (await deployment.http.get("/api/models")).status_code == 200
        await refused(await deployment.http.get(f"/api/jobs/{job}/content"))


async def test_a_signature_in_the_query_does_not_lead_round_the_limit(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        assert (await deployment.http.get("/api/account")).status_code == 200
        await refused(await deployment.http.get("/api/account?signature=x"))


@pytest.mark.parametrize("query", ["signature", "%73ignature=x", "designature=x"])
async def test_what_is_no_link_but_looks_like_one_is_counted_with_its_key(unstarted: Deployment, query: str) -> None:
    unstarted.settings["max_requests"] = 2
    async with unstarted as deployment:
        job = (await deployment.generate("gpt-image-2", prompt="[b64]"))[0]["job"]
        assert (await deployment.http.get(f"/api/jobs/{job}/content?{query}")).status_code == 200
        await refused(await deployment.http.get(f"/api/jobs/{job}/content?{query}"))


async def test_without_a_limit_nothing_is_said_of_one(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_requests": 0, "max_streams": 0, "max_jobs": 0}
    async with unstarted as deployment:
        assert (await deployment.generate("gaga-1", prompt="Hello"))[-1]["status"] == "Completed"
        assert "ratelimit" not in (await deployment.http.get("/api/account")).headers


@pytest.mark.parametrize("path", ["/api/jobs", "/api/generate"])
async def test_an_order_that_was_taken_is_repeated_however_many_requests_there_were(
    unstarted: Deployment, path: str
) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        order, once = {"model": "suno", "prompt": "A song"}, {"Idempotency-Key": "once"}
        first = await deployment.http.post(path, json=order, headers=once)
        again = await deployment.http.post(path, json=order, headers=once)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (first.status_code, "true")
        assert again.headers["location"] == first.headers["location"]
        await refused(await deployment.http.post(path, json=order, headers={"Idempotency-Key": "new"}))
        await refused(await deployment.http.post(path, json=order))


async def test_a_dry_run_is_no_order_that_may_be_repeated(unstarted: Deployment) -> None:
    unstarted.settings["max_requests"] = 1
    async with unstarted as deployment:
        ask = ("/api/jobs?dry_run=1", {"model": "suno", "prompt": "A song"}, {"Idempotency-Key": "once"})
        assert (await deployment.http.post(ask[0], json=ask[1], headers=ask[2])).status_code == 200
        await refused(await deployment.http.post(ask[0], json=ask[1], headers=ask[2]))


# --- streams ---


async def test_streams_up_to_the_limit_are_open_and_one_over_it_is_told_to_come_back(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 2
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        path = f"/api/jobs/{job['id']}/events"
        async with AsyncExitStack() as stack:
            await open_streams(deployment, path, stack, 2)
            await turned_away(deployment, path)
            await turned_away(deployment, "/api/events")
        while (await scraped(deployment))["pollcast_streams"]:
            await asyncio.sleep(0.001)
        async with AsyncExitStack() as stack:
            await open_streams(deployment, path, stack, 2)


async def test_an_order_with_a_stream_too_many_is_refused_before_there_is_a_job(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"/api/jobs/{job['id']}/events", stack, 1)
            assert "1 open streams" in await refused(await deployment.http.post("/api/generate", json=STUCK))
            assert await jobs_of(deployment) == 1
            assert (await deployment.http.post("/api/jobs", json=STUCK)).status_code == 202


async def test_of_many_orders_at_once_no_more_get_a_stream_than_may_be_open(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 3
    async with unstarted as deployment, AsyncExitStack() as stack:

        async def status() -> int:
            response = await stack.enter_async_context(deployment.open("POST", "/api/generate", json=STUCK))
            return response.status_code

        statuses = await asyncio.gather(*(status() for _ in range(10)))
        assert sorted(statuses) == [200] * 3 + [429] * 7
        assert await jobs_of(deployment) == 3


async def test_a_repeated_order_with_a_stream_too_many_names_its_job_and_is_told_to_come_back(
    unstarted: Deployment,
) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        once = {"Idempotency-Key": "once"}
        async with deployment.open("POST", "/api/generate", json=STUCK, headers=once) as first:
            again = await turned_away(deployment, "/api/generate", "POST", json=STUCK, headers=once)
            assert again.headers["location"] == first.headers["location"]
            assert again.headers["idempotency-replayed"] == "true"


async def test_a_request_that_waits_counts_as_a_stream_while_it_does(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        path = f"/api/jobs/{job['id']}"
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"{path}/events", stack, 1)
            await refused(await deployment.http.get(f"{path}?after=100&wait=5"))
            assert (await deployment.http.get(path)).status_code == 200


async def test_another_account_s_streams_take_no_room(unstarted: Deployment) -> None:
    unstarted.settings["max_streams"] = 1
    async with unstarted as deployment:
        other = {"Authorization": f"Bearer {await deployment.new_key('other', 100)}"}
        job = await deployment.submit(**STUCK)
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"/api/jobs/{job['id']}/events", stack, 1)
            async with deployment.open("POST", "/api/generate", json=STUCK, headers=other) as response:
                assert response.status_code == 200


# --- jobs ---


async def test_one_unfinished_job_too_many_is_refused_and_not_paid_for(unstarted: Deployment) -> None:
    unstarted.settings["max_jobs"] = 1
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        before = await deployment.balance()
        for path in ("/api/jobs", "/api/generate"):
            assert "1 unfinished jobs" in await refused(await deployment.http.post(path, json=STUCK))
        assert (await deployment.balance(), await jobs_of(deployment)) == (before, 1)
        await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
        await deployment.ended(job["id"])
        await deployment.submit(**STUCK)


async def test_an_order_that_was_taken_is_repeated_however_many_jobs_there_are(unstarted: Deployment) -> None:
    unstarted.settings["max_jobs"] = 1
    async with unstarted as deployment:
        once = {"Idempotency-Key": "once"}
        first = await deployment.http.post("/api/jobs", json=STUCK, headers=once)
        again = await deployment.http.post("/api/jobs", json=STUCK, headers=once)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


async def test_what_is_refused_is_counted_by_its_limit(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "max_streams": 1, "max_requests": 3}
    async with unstarted as deployment:
        job = await deployment.submit(**STUCK)
        await refused(await deployment.http.post("/api/jobs", json=STUCK))
        async with AsyncExitStack() as stack:
            await open_streams(deployment, f"/api/jobs/{job['id']}/events", stack, 1)
            await turned_away(deployment, "/api/events")
        await deployment.http.get("/api/account")
        await refused(await deployment.http.get("/api/account"))
        told = await scraped(deployment)
        counted = {
            limit: told[f'pollcast_refused_total{{limit="{limit}"}}'] for limit in ("jobs", "streams", "requests")
        }
        assert counted == {"jobs": 1, "streams": 1, "requests": 1}


# --- the line ---


async def test_an_order_over_the_limit_of_jobs_waits_in_line_where_it_may(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 2}
    async with unstarted as deployment:
        first = await deployment.submit(**STUCK)
        second, third = [await deployment.submit("gaga-1", prompt="Hello") for _ in range(2)]
        assert [job["detail"] for job in (second, third)] == [f"Waiting: number {n} in line" for n in (1, 2)]
        assert "1 unfinished jobs and 2 more" in await refused(await deployment.http.post("/api/jobs", json=STUCK))
        assert await deployment.balance() == 1000 - 3 * 20
        assert deployment.simulator.calls["gaga.submit"] <= 1
        assert (await scraped(deployment))["pollcast_queued_total"] == 2
        await deployment.http.post(f"/api/jobs/{first['id']}/cancel")
        assert [(await deployment.ended(job["id"]))["status"] for job in (second, third)] == ["Completed", "Completed"]


async def test_a_stream_shows_the_places_in_line_then_that_it_is_under_way_then_the_provider_s_words(
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


async def test_a_stream_of_an_order_in_line_begins_at_once(unstarted: Deployment) -> None:
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


async def test_a_cancel_in_line_ends_the_job_and_gives_everything_back(unstarted: Deployment) -> None:
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


async def test_a_job_may_stand_in_line_for_longer_than_its_provider_s_deadline(unstarted: Deployment) -> None:
    unstarted.settings |= {"max_jobs": 1, "queue": 9}
    unstarted.provider = {"deadline": 900}
    async with unstarted as deployment:
        jobs = [await deployment.submit(**STUCK) for _ in range(3)]
        last = await deployment.submit("gaga-1", prompt="Hello")
        assert [(await deployment.ended(job["id"]))["code"] for job in jobs] == ["deadline_exceeded"] * 3
        ended = await deployment.ended(last["id"])
        assert ended["status"] == "Completed"
        assert deployment.clock.now() - datetime.fromisoformat(last["created_at"]).timestamp() > 2 * 900


async def test_a_line_is_there_after_a_restart_and_goes_by_the_limit_that_holds_then(unstarted: Deployment) -> None:
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


async def test_an_account_in_line_does_not_hold_up_another(unstarted: Deployment) -> None:
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


async def test_while_redis_is_away_requests_pass_uncounted(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with storage(server.url) as counts:
            limits = AccountLimits(counts, {}, Metrics(), requests=1, streams=0, jobs=0)
            assert (await limits.count("acct_1")).headers
            server.kill()
            found = await limits.count("acct_1")
            assert (found.refusal, found.headers) == (None, {})


# --- uploads ---


async def test_uploads_under_way_are_counted_by_account(unstarted: Deployment) -> None:
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
        assert "uploads in progress" in await refused(answer)
        assert "uploads in progress" in await refused(await deployment.http.post("/api/assets", json=url))
        other = {"Authorization": f"Bearer {await deployment.new_key('other')}"}
        assert (await deployment.http.post("/api/assets", json={}, headers=other)).status_code == 422
        over.set()
        assert (await uploading).status_code == 201
        assert (await deployment.http.post("/api/assets", json={})).status_code == 422
