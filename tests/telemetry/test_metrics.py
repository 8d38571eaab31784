"""Metrics for Prometheus, and access to them."""

import asyncio
import re

import pytest

from proxy.runner.services import RunnerTimes
from tests.runner.test_runner import wait_for_calls
from tests.support.deployment import Deployment


async def scraped(deployment: Deployment) -> dict[str, float]:
    answer = await deployment.http.get("/metrics", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_a_finished_job_counts_its_duration_submit_and_polls(deployment: Deployment) -> None:
    await deployment.generate("gaga-1", prompt="Hello")
    told = await scraped(deployment)
    assert told['pollcast_jobs_ended_total{code="",model="gaga-1",status="Completed"}'] == 1
    assert told['pollcast_job_seconds_count{model="gaga-1"}'] == 1
    assert told['pollcast_submits_total{outcome="taken",provider="Gaga"}'] == 1
    polls = sum(value for name, value in told.items() if name.startswith("pollcast_polls_total"))
    assert polls == deployment.simulator.calls["gaga.check"]
    assert told['pollcast_upstream_seconds_count{call="submit",provider="Gaga"}'] == 1
    assert told["pollcast_delivery_lag_seconds_count"] > 0
    assert told['pollcast_store_seconds_count{call="append"}'] > 0


async def test_an_interrupted_poll_has_its_own_outcome(unstarted: Deployment) -> None:
    unstarted.provider = {"deadline": 1e9}
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.check", "timeout", after=2)
        job = await deployment.submit("gaga-1", prompt="[stuck]")
        await wait_for_calls(deployment, "gaga.check", 3)
        await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
        await deployment.ended(job["id"])
        assert (await scraped(deployment))['pollcast_polls_total{outcome="interrupted",provider="Gaga"}'] == 1


async def test_a_failure_is_counted_by_its_code_with_the_tokens_given_back(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.submit", "401")
    await deployment.generate("gaga-1", prompt="Hello")
    told = await scraped(deployment)
    assert told['pollcast_jobs_ended_total{code="upstream_auth",model="gaga-1",status="Error"}'] == 1
    assert told['pollcast_refunded_tokens_total{model="gaga-1"}'] == 20
    assert told['pollcast_submits_total{outcome="upstream_auth",provider="Gaga"}'] == 1


@pytest.mark.parametrize(("fault", "outcome"), [(None, "taken"), ("401", "upstream_auth"), ("drop", "outcome_unknown")])
async def test_an_order_whose_answer_is_a_stream_is_counted_as_sent_too(
    deployment: Deployment, fault: str | None, outcome: str
) -> None:
    if fault:
        deployment.simulator.fault("ainow.generate", fault)
    await deployment.generate("suno", prompt="song")
    told = await scraped(deployment)
    sent = {name: value for name, value in told.items() if name.startswith("pollcast_submits_total")}
    assert sent == {f'pollcast_submits_total{{outcome="{outcome}",provider="AI-Now"}}': 1}


async def test_the_wait_for_the_rate_limit_is_measured(unstarted: Deployment) -> None:
    unstarted.provider = {"rate": 4}
    async with unstarted as deployment, asyncio.timeout(10):
        for _ in range(4):
            await deployment.submit("gaga-1", prompt="Hello")
        name = 'pollcast_upstream_seconds_count{call="turn",provider="Gaga"}'
        while not (await scraped(deployment)).get(name):
            await asyncio.sleep(0.01)


async def test_open_streams_and_running_jobs_have_their_current_number(unstarted: Deployment) -> None:
    unstarted.provider = {"deadline": 1e9}
    async with unstarted as deployment:
        job = await deployment.submit("gaga-1", prompt="[stuck]")
        await wait_for_calls(deployment, "gaga.check")
        async with deployment.open("GET", f"/api/jobs/{job['id']}/events") as response:
            await anext(response.aiter_raw())
            told = await scraped(deployment)
            assert told["pollcast_streams"] == 1
            assert sum(value for name, value in told.items() if name.startswith("pollcast_jobs{")) == 1


async def test_waiting_jobs_are_counted_by_queue(
    unstarted: Deployment,
) -> None:
    unstarted.runner_times = RunnerTimes(queue_count=0.01)
    unstarted.provider = {"concurrency": 1, "deadline": 1e9}
    unstarted.settings |= {"max_jobs": 3, "queue": 10}
    async with unstarted as deployment, asyncio.timeout(10):
        for _ in range(5):
            await deployment.submit("gaga-1", prompt="[stuck]")
        wanted = {'pollcast_jobs_waiting{queue="Gaga"}': 2, 'pollcast_jobs_waiting{queue="line"}': 2}
        while not wanted.items() <= (await scraped(deployment)).items():
            await asyncio.sleep(0.01)


async def test_an_undocumented_status_word_raises_its_metric(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "unknown status")
    await deployment.generate("gaga-1", prompt="Hello")
    told = await scraped(deployment)
    assert [value for name, value in told.items() if name.startswith("pollcast_unknown_words_total")]


async def test_an_open_circuit_breaker_is_in_the_metrics(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "500", times=20)
    jobs = [await deployment.submit("gaga-1", prompt=prompt) for prompt in ("one", "two")]
    while 'pollcast_breaker_open{provider="Gaga"} 1.0' not in (await deployment.http.get("/metrics")).text:
        await asyncio.sleep(0)
    for job in jobs:
        await deployment.http.post(f"/api/jobs/{job['id']}/cancel")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
async def test_metrics_are_refused_to_clients_behind_a_proxy(deployment: Deployment, header: str) -> None:
    answer = await deployment.http.get("/metrics", headers={header: "127.0.0.1"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_metrics_can_be_public_off_or_behind_a_token(unstarted: Deployment) -> None:
    expected = {"public": [200, 200, 200], "off": [404, 404, 404], "s3cret": [401, 401, 200]}
    async with unstarted as deployment:
        for value, statuses in expected.items():
            deployment.settings["metrics"] = value
            await deployment.restart()
            keys = ("", f"Bearer {deployment.key}", "Bearer s3cret")
            headers = [{"Authorization": key, "X-Forwarded-For": "1.2.3.4"} for key in keys]
            assert [(await deployment.http.get("/metrics", headers=each)).status_code for each in headers] == statuses


async def test_label_values_come_from_closed_sets(deployment: Deployment) -> None:
    await deployment.http.post("/api/jobs", json={"model": "made up", "prompt": "x"})
    await deployment.generate("suno", prompt="song", metadata={"who": "anyone"})
    text = (await deployment.http.get("/metrics")).text
    assert "made up" not in text
    assert "anyone" not in text
    assert not re.search(r"job_[0-9A-Z]{26}|acct_|key_", text)
