"""Several nodes on one real Redis: each one serves the jobs, keys and assets of the others."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from httpx_sse import EventSource

from proxy.core import errors, keys
from proxy.core.clock import SystemClock
from proxy.core.settings import BadSetting
from proxy.runner.services import RunnerTimes
from proxy.simulator import Simulator
from proxy.store import open_store
from proxy.upstream.breaker import Breaker, OutcomeExchange
from proxy.upstream.rate_limit import RateLimiter
from tests.support.deployment import NO_AUTHORITIES, Deployment, JumpClock, events_of
from tests.support.outcomes import failed, sending_for
from tests.support.redis_server import SAFE, FaultyProxy, RedisServer, flush, shared_server, tls_options

Nodes = tuple[Deployment, Deployment]
_SPEED = 20.0
PASSWORD = "hush/hush%"


def node(folder: Path, **options: object) -> Deployment:
    """Return a node on the Redis of this test process, with real time and fast providers."""
    values = {"poll_interval": 0.05, **options}
    deployment = Deployment(folder, SystemClock(), provider=values, store_url=shared_server().url)
    deployment.simulator = Simulator(speed=_SPEED)
    return deployment


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    """Two nodes with one store, one blob storage, and the providers of the first node."""
    flush(shared_server())
    async with node(tmp_path) as a, node(tmp_path, base_url=a.simulator.origin) as b:
        yield a, b


async def start_endless_job_at_a(nodes: Nodes) -> str:
    """Order a job that never ends, wait until the first node runs it, and return its id."""
    a, _ = nodes
    job = str((await a.submit("gaga-1", prompt="[stuck] Hello"))["id"])
    async with a.open("GET", f"/api/jobs/{job}/events") as response:
        async for message in EventSource(response).aiter_sse():
            if message.json()["status"] == "Processing":
                break
    return job


async def start_slow_job(deployment: Deployment) -> str:
    """Order a slow job, wait until it runs, and return its id. Its polls return nothing new for a while."""
    job = str((await deployment.submit("gaga-1", prompt="[slow] Hello"))["id"])
    async with deployment.open("GET", f"/api/jobs/{job}/events") as response:
        async for message in EventSource(response).aiter_sse():
            if message.json().get("detail") == "Running":
                break
    return job


async def test_an_order_at_one_node_is_streamed_by_the_other(nodes: Nodes) -> None:
    a, b = nodes
    job = await a.submit("gaga-1", prompt="Hello")
    streams = await asyncio.gather(*(each.messages("GET", f"/api/jobs/{job['id']}/events") for each in nodes))
    assert [message.data for message in streams[0]] == [message.data for message in streams[1]]
    assert events_of(streams[1])[-1]["status"] == "Completed"
    assert a.simulator.submits["gaga"] == 1
    assert await b.balance() == 1980


async def test_a_stream_resumes_at_another_node_without_gap_or_repetition(nodes: Nodes) -> None:
    a, b = nodes
    seen = []
    async with a.open("POST", "/api/generate", json={"model": "gaga-1", "prompt": "[slow] Hello"}) as response:
        async for message in EventSource(response).aiter_sse():
            seen.append(message)
            if len(seen) == 2:
                break
    job = events_of(seen)[0]["job"]
    seen += await b.messages("GET", f"/api/jobs/{job}/events", last=seen[-1].id)
    assert [int(message.id) for message in seen] == list(range(1, len(seen) + 1))
    assert events_of(seen)[-1]["status"] == "Completed"


async def test_an_account_feed_carries_the_events_of_both_nodes(nodes: Nodes) -> None:
    a, b = nodes
    for asked, watched in ((a, b), (b, a)):
        async with watched.open("GET", "/api/events") as response:
            messages = EventSource(response).aiter_sse()
            assert (await anext(messages)).event == "ready"
            job = await asked.submit("gaga-1", prompt="Hello")
            events = []
            async for message in messages:
                events.append(message.json())
                if events[-1]["status"] == "Completed":
                    break
            assert {event["job"] for event in events} == {job["id"]}
            assert [event["n"] for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize("at", [0, 1])
async def test_a_cancel_at_any_node_reaches_the_job(nodes: Nodes, at: int) -> None:
    job = await start_endless_job_at_a(nodes)
    assert (await nodes[at].http.post(f"/api/jobs/{job}/cancel")).status_code == 202
    assert (await nodes[at].ended(job))["status"] == "Canceled"


async def test_an_account_has_one_limit_and_backlog_over_all_nodes(tmp_path: Path) -> None:
    flush(shared_server())
    a = node(tmp_path)
    a.settings |= {"max_jobs": 1, "queue": 2}
    async with a, node(tmp_path, base_url=a.simulator.origin) as b:
        b.settings |= a.settings
        await b.restart()
        first = await a.submit("gaga-1", prompt="[stuck] Hello")
        second, third = await b.submit("gaga-1", prompt="Hello"), await a.submit("gaga-1", prompt="Hello")
        assert [job["detail"] for job in (second, third)] == [f"Waiting: number {n} in line" for n in (1, 2)]
        order = {"model": "gaga-1", "prompt": "Hello"}
        assert [(await each.http.post("/api/jobs", json=order)).status_code for each in (a, b)] == [429, 429]
        await b.http.post(f"/api/jobs/{first['id']}/cancel")
        streams = await asyncio.gather(*(each.messages("GET", f"/api/jobs/{third['id']}/events") for each in (a, b)))
        assert [message.data for message in streams[0]] == [message.data for message in streams[1]]
        waited = ["Waiting: number 2 in line", "Waiting: number 1 in line", "Under way"]
        assert [event.get("detail") for event in events_of(streams[0])][1:4] == waited
        assert events_of(streams[0])[-1]["status"] == "Completed"


async def test_a_node_that_reclaims_a_lost_job_runs_it_once(tmp_path: Path) -> None:
    server = shared_server()
    flush(server)
    async with node(tmp_path) as deployment, asyncio.timeout(60):
        job = await start_slow_job(deployment)
        with server.client as client:  # as if another node had claimed and released it
            before = int(client.hincrby(f"pollcast:work:{job}", "epoch", 1))
            client.zadd("pollcast:free", {job: 0})
            while int(client.hget(f"pollcast:work:{job}", "epoch")) == before:
                await asyncio.sleep(0.01)
        events = events_of(await deployment.messages("GET", f"/api/jobs/{job}/events"))
        assert [event["n"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["status"] == "Completed"
        for _ in range(3):
            assert (await deployment.generate("suno", prompt="Hello"))[-1]["status"] == "Completed"


async def test_a_job_whose_end_redis_lost_is_resumed(tmp_path: Path) -> None:
    (files := tmp_path / "redis").mkdir()
    with RedisServer(files) as server:
        deployment = node(tmp_path)
        deployment.store_url = server.url
        async with deployment, asyncio.timeout(60):
            job = await start_slow_job(deployment)
            shutil.copytree(files, kept := tmp_path / "kept")
            assert (await deployment.http.get(f"/api/jobs/{job}")).json()["status"] == "Processing"
            assert (await deployment.ended(job))["status"] == "Completed"
            server.kill()
            shutil.rmtree(files)
            kept.rename(files)
            await asyncio.to_thread(server.start)
            while (await deployment.http.get(f"/api/jobs/{job}")).json().get("status") != "Completed":
                await asyncio.sleep(0.05)
            assert await deployment.balance() == 980


async def test_the_metric_of_waiting_jobs_is_absent_while_redis_is_away(
    tmp_path: Path,
) -> None:
    server = shared_server()
    flush(server)
    async with FaultyProxy(server) as faulty_proxy, asyncio.timeout(60):
        deployment = node(tmp_path, concurrency=1)
        deployment.runner_times = RunnerTimes(queue_count=0.01)
        deployment.store_url = faulty_proxy.url
        async with deployment:
            for _ in range(2):
                await deployment.submit("gaga-1", prompt="[stuck]")
            waiting = 'pollcast_jobs_waiting{queue="Gaga"} 1.0'
            while waiting not in (await deployment.http.get("/metrics")).text:
                await asyncio.sleep(0.01)
            faulty_proxy.disconnect()
            while "pollcast_jobs_waiting{" in (await deployment.http.get("/metrics")).text:
                await asyncio.sleep(0.01)
            faulty_proxy.reconnect()
            while waiting not in (await deployment.http.get("/metrics")).text:
                await asyncio.sleep(0.01)


async def test_a_job_deleted_at_one_node_is_404_at_the_other(nodes: Nodes) -> None:
    a, b = nodes
    job = (await a.submit("gaga-1", prompt="Hello"))["id"]
    assert (await b.ended(job))["status"] == "Completed"
    assert (await a.http.delete(f"/api/jobs/{job}")).status_code == 204

    async def wait_until_deleted() -> None:
        while (await b.http.get(f"/api/jobs/{job}/events")).status_code != 404:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait_until_deleted(), 2)


async def test_links_and_assets_of_one_node_work_at_the_other(nodes: Nodes) -> None:
    a, b = nodes
    asset = await a.asset()
    link = (await a.generate("gpt-image-2", prompt="[b64] Hello"))[-1]["outputs"][0]["url"]
    assert (await b.http.get(f"/api/assets/{asset}/content")).content == a.media("image")
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as without_key:
        response = await without_key.get(link.replace(a.origin, b.origin))
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("image/")


async def test_a_key_revoked_by_another_process_is_refused_by_both_nodes(nodes: Nodes) -> None:
    a, b = nodes
    key = await a.new_key("other")
    headers = {"Authorization": f"Bearer {key}"}
    assert [(await each.http.get("/api/account", headers=headers)).status_code for each in nodes] == [200, 200]
    async with open_store(a.store_url, a.clock) as store:
        found = await store.key(keys.digest(key))
        assert found
        await store.revoke_key(found.id)

    async def wait_until_refused() -> None:
        while [(await each.http.get("/api/account", headers=headers)).status_code for each in (a, b)] != [401, 401]:
            await asyncio.sleep(0.05)

    await asyncio.wait_for(wait_until_refused(), 2)


@pytest.mark.usefixtures("nodes")
async def test_a_node_with_another_blob_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"^POLLCAST_ASSETS: [^\n]+$"):
        async with node(tmp_path / "elsewhere"):
            pass
    assert not list((tmp_path / "elsewhere/assets").iterdir())


async def test_a_restarted_node_leaves_one_marker_blob(nodes: Nodes, tmp_path: Path) -> None:
    await nodes[1].restart()
    assert len(list((tmp_path / "assets").glob("cluster_*"))) == 1


# --- a Redis behind TLS ---


@pytest.fixture
def behind_tls(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis with TLS, user and password. It does not contain the server's certificate."""
    options = tls_options(tmp_path)
    with RedisServer(tmp_path, *SAFE, *options) as server:
        with server.client as client:
            client.acl_setuser("pollcast", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
        yield f"rediss://pollcast:{quote(PASSWORD, safe='')}@127.0.0.1:{options[1]}/0"


async def test_a_node_works_over_tls_without_logging_the_password(
    behind_tls: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Deployment(tmp_path, store_url=f"{behind_tls}?ssl_ca_certs={tmp_path}/made.pem") as deployment:
        assert (await deployment.generate("gaga-1", prompt="Hello"))[-1]["status"] == "Completed"
        assert (await deployment.http.get("/api/account")).headers["RateLimit"]  # request limits use this Redis as well
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("", "certificate verify failed"),
        ("?ssl_ca_certs=/nowhere.pem", "A file named .*ssl_ca_certs.*: .*No such file"),
        ("?ssl_cert_reqs=perhaps", "not the URL of a Redis .*perhaps"),
    ],
)
async def test_a_redis_with_an_unverified_certificate_is_refused(behind_tls: str, options: str, why: str) -> None:
    with pytest.raises((errors.Unavailable, ValueError), match=why) as refusal:
        async with open_store(behind_tls + options, SystemClock()):
            pass
    assert "hush" not in str(refusal.value)


# --- state of the providers, shared by the nodes ---


async def test_two_nodes_never_get_the_same_rate_limit_slot() -> None:
    flush(shared_server())
    clock = JumpClock()
    async with open_store(shared_server().url, clock) as a, open_store(shared_server().url, clock) as b:
        assert a.shared
        assert b.shared
        firsts = [await store.shared.reserve_slots("Gaga", 2, 0.5) for store in (a, b) * 3 if store.shared]
        other = await a.shared.reserve_slots("Gaia", 1, 0.5)
    assert [round(first - firsts[0], 3) for first in firsts] == [0, 1, 2, 3, 4, 5]
    assert other == pytest.approx(firsts[0])


async def test_the_rate_limit_of_a_provider_covers_all_nodes() -> None:
    flush(shared_server())
    clock = SystemClock()
    async with open_store(shared_server().url, clock) as a, open_store(shared_server().url, clock) as b:
        assert a.shared
        assert b.shared
        nodes = [
            RateLimiter(clock, 100, reserve=partial(shared.reserve_slots, "Gaga")) for shared in (a.shared, b.shared)
        ]
        started = clock.now()
        await asyncio.gather(*(limiter.acquire() for limiter in nodes for _ in range(40)))
        elapsed = clock.now() - started
    assert elapsed >= 0.65  # eighty slots, of which those of a tenth of a second are granted immediately


async def test_a_node_limits_its_own_rate_while_redis_is_away() -> None:
    clock = JumpClock()
    asked = []

    async def away(number: int, gap: float) -> float:
        asked.append((number, gap))
        raise errors.Unavailable("The store cannot serve now.")

    limiter = RateLimiter(clock, 2, reserve=away)
    started = clock.now()
    for _ in range(4):
        await limiter.acquire()
    assert clock.now() - started == pytest.approx(1.4)
    assert asked == [(1, 0.5)]


class ClockSetBack(JumpClock):
    """A clock that is set back by two hours when `ahead` becomes 0. Its monotonic time is unaffected."""

    ahead = 7200.0

    def now(self) -> float:
        return self.at + self.ahead


async def test_a_clock_set_back_blocks_no_provider() -> None:
    clock = ClockSetBack()
    limiter, breaker = RateLimiter(clock, 2), Breaker(clock)
    await limiter.acquire()
    for n in range(5):
        failed(breaker, f"job-{n}")
    clock.ahead = 0
    started = clock.at
    await limiter.acquire()
    await limiter.acquire()
    assert clock.at - started <= 1
    assert breaker.wait <= 10


async def test_circuit_breakers_of_two_nodes_open_and_close_together() -> None:
    flush(shared_server())
    clock = JumpClock()
    async with open_store(shared_server().url, clock) as store:
        assert store.shared
        a, b = Breaker(clock), Breaker(clock)
        exchanges = [OutcomeExchange({"Gaga": breaker}, store.shared) for breaker in (a, b)]
        for breaker in (a, b):
            breaker.share("Gaga", store.shared)

        async def exchange_outcomes() -> None:
            for exchange in (*exchanges, *exchanges):
                await exchange.once()

        for breaker, jobs in ((a, ("1", "2", "3")), (b, ("4", "5"))):
            for job in jobs:
                failed(breaker, job)
        assert a.wait == b.wait == 0
        await exchange_outcomes()
        assert 0 < a.wait <= 9
        assert a.wait == pytest.approx(b.wait, abs=1)
        clock.at += 9
        with sending_for("6"):
            assert [await breaker.hold() for breaker in (a, b)] == [0, 1]  # one trial over both nodes
            a.record_success()
        await exchange_outcomes()
        with sending_for("7"):
            assert [await breaker.hold() for breaker in (a, b)] == [0, 0]


async def test_a_breaker_opens_at_both_nodes_for_failures_at_one(
    nodes: Nodes,
) -> None:
    a, _ = nodes
    a.simulator.fault("gaga.check", "500", times=50)
    for prompt in ("one", "two"):
        await a.submit("gaga-1", prompt=prompt)

    async def breakers_open() -> None:
        for each in nodes:
            while 'pollcast_breaker_open{provider="Gaga"} 1.0' not in (await each.http.get("/metrics")).text:
                await asyncio.sleep(0.05)

    await asyncio.wait_for(breakers_open(), 10)
    order = {"model": "gaga-1", "prompt": "Hello"}
    assert [(await each.http.post("/api/jobs", json=order)).status_code for each in nodes] == [503, 503]
