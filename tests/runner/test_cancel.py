"""A client's cancel at each stage of a job, and the deletion of jobs (proxy/docs/api.md)."""

import asyncio
import os
from collections.abc import Mapping, Sequence

import httpx
import pytest
from aiohttp import web

from proxy.core.clock import SystemClock
from proxy.core.job import Job
from proxy.runner.services import RunnerTimes
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import Claim, QueueRoom
from tests.runner.test_runner import wait_for_calls
from tests.support.deployment import Deployment
from tests.support.site import Site


async def cancel(deployment: Deployment, job: str) -> httpx.Response:
    return await deployment.http.post(f"/api/jobs/{job}/cancel")


async def test_a_cancel_request_may_be_repeated(unstarted: Deployment) -> None:
    unstarted.provider["poll_interval"] = 1000
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.submit", "timeout")
        job = await deployment.submit("gaga-1", prompt="Hello")
        await wait_for_calls(deployment, "gaga.submit")
        for _ in range(3):
            answer = await cancel(deployment, job["id"])
            assert (answer.status_code, answer.json()["id"]) == (202, job["id"])


async def test_a_cancel_before_the_submit_sends_nothing_and_refunds_all(deployment: Deployment) -> None:
    image = await deployment.asset()
    deployment.simulator.fault("gaga.upload", "timeout")
    job = await deployment.submit("gaga-1", prompt="Hello", image=image)
    await wait_for_calls(deployment, "gaga.upload")
    await cancel(deployment, job["id"])
    ended = await deployment.ended(job["id"])
    assert (ended["status"], ended["refunded"]) == ("Canceled", 20)
    assert "20 tokens are given back" in ended["message"]
    assert deployment.simulator.calls["gaga.submit"] == 0
    assert await deployment.balance() == 1000


async def test_a_cancel_during_the_rate_limit_sends_nothing_even_after_a_restart(unstarted: Deployment) -> None:
    unstarted.clock = SystemClock()
    unstarted.providers["Gaga"] = {"rate": 0.01}
    async with unstarted as deployment:
        job = await deployment.submit("gaga-1", prompt="Hello", image=await deployment.asset())
        for uploads in (1, 2):
            await wait_for_calls(deployment, "gaga.upload", uploads)
            await asyncio.sleep(0.1)  # the rate limit lets it out in a hundred seconds
            if uploads == 1:
                await deployment.restart()
        await cancel(deployment, job["id"])
        ended = await deployment.ended(job["id"])
        assert (ended["status"], ended["refunded"]) == ("Canceled", 20)
        assert deployment.simulator.calls["gaga.submit"] == 0


async def test_a_cancel_of_an_order_that_waits_for_room_sends_nothing(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"concurrency": 1}
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.submit", "timeout")
        await deployment.submit("gaga-1", prompt="first")
        await wait_for_calls(deployment, "gaga.submit")
        waiting = await deployment.submit("gaga-1", prompt="second")
        await cancel(deployment, waiting["id"])
        assert (await deployment.ended(waiting["id"]))["refunded"] == 20
        assert deployment.simulator.calls["gaga.submit"] == 1


async def test_a_cancel_of_an_order_that_was_not_taken_refunds_all(unstarted: Deployment) -> None:
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.submit", "429", retry_after=100)
        job = await deployment.submit("gaga-1", prompt="Hello")
        await wait_for_calls(deployment, "gaga.submit", 2)
        await cancel(deployment, job["id"])
        ended = await deployment.ended(job["id"])
        assert (ended["status"], ended["refunded"]) == ("Canceled", 20)


async def test_a_cancel_during_a_submit_waits_for_it_and_refunds_nothing(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.submit", "slow", seconds=30, times=1)
    job = await deployment.submit("gaga-1", prompt="[stuck] Hello")
    await wait_for_calls(deployment, "gaga.submit")
    await cancel(deployment, job["id"])
    ended = await deployment.ended(job["id"])
    assert (ended["status"], ended["refunded"]) == ("Canceled", 0)
    assert "not given back" in ended["message"]
    assert deployment.simulator.submits["gaga"] == 1
    assert await deployment.balance() == 980


async def test_a_submit_that_fails_during_a_cancel_ends_the_job_in_error(unstarted: Deployment) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def refuse(_: web.Request) -> web.Response:
        asked.set()
        await may_answer.wait()
        return web.json_response({"detail": "Invalid parameter"}, status=422)

    async with Site(refuse) as site:
        unstarted.providers["Gaga"] = {"base_url": site.url}
        async with unstarted as deployment:
            job = await deployment.submit("gaga-1", prompt="Hello")
            await asked.wait()
            await cancel(deployment, job["id"])
            may_answer.set()
            ended = await deployment.ended(job["id"])
            assert (ended["code"], ended["refunded"]) == ("upstream_rejected", 20)


async def test_a_cancel_after_the_submit_stops_the_polls_and_refunds_nothing(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck] Hello")
    await wait_for_calls(deployment, "gaga.check")
    await cancel(deployment, job["id"])
    ended = await deployment.ended(job["id"])
    assert (ended["status"], ended["refunded"]) == ("Canceled", 0)
    polls = deployment.simulator.calls["gaga.check"]
    await asyncio.sleep(0.02)
    assert deployment.simulator.calls["gaga.check"] == polls
    assert await deployment.balance() == 980


async def test_a_cancel_ends_the_reading_of_a_stream(deployment: Deployment) -> None:
    job = await deployment.submit("suno", prompt="[stuck] song")
    while (await deployment.http.get(f"/api/jobs/{job['id']}")).json()["event"] < 2:
        await asyncio.sleep(0.001)
    await cancel(deployment, job["id"])
    ended = await deployment.ended(job["id"])
    assert (ended["status"], ended["refunded"]) == ("Canceled", 0)


async def test_a_cancel_ends_the_wait_for_a_stream_s_first_event(unstarted: Deployment) -> None:
    opened, may_end = asyncio.Event(), asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        opened.set()
        await may_end.wait()
        return response

    async with Site(silent) as site:
        unstarted.provider = {"base_url": site.url, "api_key": "k"}
        async with unstarted as deployment:
            job = await deployment.submit("suno", prompt="song")
            await opened.wait()
            await cancel(deployment, job["id"])
            ended = await deployment.ended(job["id"])
            assert (ended["status"], ended["refunded"]) == ("Canceled", 0)
        may_end.set()


async def test_a_cancel_before_a_restart_takes_effect_after_it(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "timeout")
    job = await deployment.submit("gaga-1", prompt="[stuck] Hello")
    await wait_for_calls(deployment, "gaga.check")
    await deployment.stop()
    from proxy.store import open_store

    async with open_store(deployment.store_url, deployment.clock) as store:
        account = (await store.accounts())[0].id
        await store.request_cancel(account, job["id"])
    await deployment.start()
    assert (await deployment.ended(job["id"]))["status"] == "Canceled"


async def test_a_canceled_order_cut_off_by_a_stop_has_an_unknown_outcome(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.submit", "timeout")
    job = await deployment.submit("gaga-1", prompt="Hello")
    await wait_for_calls(deployment, "gaga.submit")
    await cancel(deployment, job["id"])
    await deployment.restart()
    ended = await deployment.ended(job["id"])
    assert (ended["code"], ended["refunded"]) == ("outcome_unknown", 20)


async def test_a_late_cancel_is_409_and_one_of_another_account_404(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    answer = await cancel(deployment, job)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    other = {"Authorization": f"Bearer {await deployment.new_key('other')}"}
    assert (await deployment.http.post(f"/api/jobs/{job}/cancel", headers=other)).status_code == 404


async def test_a_canceled_bulk_job_keeps_its_finished_outputs(deployment: Deployment) -> None:
    items = [{"unique_id": "a", "names": "A"}, {"unique_id": "b", "names": "[stuck]"}]
    job = await deployment.submit("ganai-bulk", items=items)
    while "outputs" not in (await deployment.http.get(f"/api/jobs/{job['id']}")).json():
        await asyncio.sleep(0.001)
    await cancel(deployment, job["id"])
    ended = await deployment.ended(job["id"])
    assert (ended["status"], ended["refunded"]) == ("Canceled", 0)
    assert [output["unique_id"] for output in ended["outputs"]] == ["a"]


# --- deletion and retention ---


async def test_a_deleted_job_is_gone_with_its_events_and_outputs(deployment: Deployment) -> None:
    events = await deployment.generate("gpt-image-2", prompt="[b64] cat")
    job, link = events[0]["job"], events[-1]["url"]
    assert (await deployment.http.delete(f"/api/jobs/{job}")).status_code == 204
    for path in (f"/api/jobs/{job}", f"/api/jobs/{job}/events", link):
        assert (await deployment.http.get(path)).status_code == 404
    assert (await deployment.http.delete(f"/api/jobs/{job}")).status_code == 404
    assert not list((deployment.folder / "assets" / "outputs").rglob("0"))
    assert await deployment.balance() == 995


async def test_a_running_job_cannot_be_deleted(deployment: Deployment) -> None:
    job = await deployment.submit("gpt-5.4-mini", prompt="[stuck]")
    answer = await deployment.http.delete(f"/api/jobs/{job['id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_a_deleted_job_s_idempotency_key_makes_no_new_job(deployment: Deployment) -> None:
    order = {"json": {"model": "suno", "prompt": "song"}, "headers": {"Idempotency-Key": "one"}}
    job = (await deployment.http.post("/api/jobs", **order)).json()["id"]  # type: ignore[arg-type]
    await deployment.ended(job)
    await deployment.http.delete(f"/api/jobs/{job}")
    answer = await deployment.http.post("/api/jobs", **order)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert await deployment.balance() == 990


async def test_a_replayed_order_may_name_a_deleted_asset(deployment: Deployment) -> None:
    image = await deployment.asset()
    order = {"json": {"model": "gaga-1", "prompt": "Hello", "image": image}, "headers": {"Idempotency-Key": "one"}}
    job = (await deployment.http.post("/api/jobs", **order)).json()["id"]  # type: ignore[arg-type]
    await deployment.ended(job)
    assert (await deployment.http.delete(f"/api/assets/{image}")).status_code == 204
    again = await deployment.http.post("/api/jobs", **order)  # type: ignore[arg-type]
    assert (again.status_code, again.json()["id"]) == (202, job)


async def test_fifty_concurrent_identical_orders_make_one_job_and_one_charge(deployment: Deployment) -> None:
    order = {"json": {"model": "gaga-1", "prompt": "Hello"}, "headers": {"Idempotency-Key": "one"}}
    answers = await asyncio.gather(*(deployment.http.post("/api/jobs", **order) for _ in range(50)))  # type: ignore[arg-type]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    await deployment.ended(answers[0].json()["id"])
    assert deployment.simulator.submits["gaga"] == 1
    assert await deployment.balance() == 980


@pytest.mark.parametrize("retention", [3600])
async def test_retention_deletes_old_jobs_and_assets_and_keeps_the_ledger(
    unstarted: Deployment, retention: float
) -> None:
    unstarted.runner_times = RunnerTimes(sweep=0.01)
    unstarted.settings["retention"] = retention
    async with unstarted as deployment:
        old = (await deployment.generate("gpt-image-2", prompt="[b64] cat"))[0]["job"]
        asset = await deployment.asset()
        deployment.simulator.fault("gaga.submit", "timeout")
        held = await deployment.asset()
        running = await deployment.submit("gaga-1", prompt="Hello", image=held)
        await wait_for_calls(deployment, "gaga.submit")
        deployment.clock.at += retention + 1
        while (await deployment.http.get(f"/api/jobs/{old}")).status_code != 404:
            await asyncio.sleep(0.005)
        while (await deployment.http.get(f"/api/assets/{asset}")).status_code != 404:
            await asyncio.sleep(0.005)
        assert (await deployment.http.get(f"/api/jobs/{running['id']}")).status_code == 200
        assert (await deployment.http.get(f"/api/assets/{held}")).status_code == 200
        # `os.walk` passes over folders that disappear meanwhile; `rglob` does not.
        while [file for _, _, files in os.walk(deployment.folder / "assets" / "assets") for file in files] != [held]:
            await asyncio.sleep(0.005)
        assert await deployment.balance() == 975


async def test_a_cancel_between_a_claim_and_its_reply_takes_effect(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = SqliteStore.claim

    async def slowly(store: SqliteStore, node: str, rooms: Mapping[str, QueueRoom], limit: int) -> Sequence[Claim]:
        claims = await claim(store, node, rooms, limit)
        for job in [claimed.job for claimed in claims]:
            changes = store.changes()
            await store.request_cancel(job.account, job.id)
            await anext(changes)
            await asyncio.sleep(0)  # the runner has received the change too
        return claims

    monkeypatch.setattr(SqliteStore, "claim", slowly)
    async with unstarted as deployment:
        ended = await deployment.ended((await deployment.submit("gaga-1", prompt="[stuck]"))["id"])
        assert (ended["status"], ended["refunded"]) == ("Canceled", 20)
        assert deployment.simulator.calls["gaga.submit"] == 0


@pytest.mark.parametrize(("write", "submits"), [("record_intent", 0), ("withdraw_intent", 1)])
async def test_a_cancel_during_a_write_before_the_ticket_refunds_all(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch, write: str, submits: int
) -> None:
    original = getattr(SqliteStore, write)

    async def cancel_during(store: SqliteStore, claim: Claim, *request: bytes | None) -> Job:
        changes = store.changes()
        await store.request_cancel(claim.job.account, claim.job.id)
        await anext(changes)
        await asyncio.sleep(0)  # the runner has received the change too
        job: Job = await original(store, claim, *request)
        return job

    monkeypatch.setattr(SqliteStore, write, cancel_during)
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.submit", "503", times=1)
        ended = await deployment.ended((await deployment.submit("gaga-1", prompt="[stuck]"))["id"])
        assert (ended["status"], ended["refunded"]) == ("Canceled", 20)
        assert deployment.simulator.calls["gaga.submit"] == submits
