"""Revoked keys: the streams opened with them, or with their Links, are closed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from proxy.api.times import ApiTimes
from proxy.core import keys
from proxy.core.errors import Unavailable
from proxy.store import open_store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import FeedSlice
from tests.support.deployment import NO_AUTHORITIES, Deployment


@pytest.fixture
def unstarted(tmp_path: Path) -> Deployment:
    """A deployment that checks the keys of open streams every 10 ms, two keys at a time."""
    return Deployment(tmp_path, api_times=ApiTimes(revocation_interval=0.01, key_batch=2))


@pytest.fixture
def checked_ids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the ids of the keys that the store checks."""
    checked_ids: list[str] = []
    original = SqliteStore.active_keys

    async def record_ids(store: SqliteStore, ids: Collection[str]) -> set[str]:
        checked_ids.extend(ids)
        return await original(store, ids)

    monkeypatch.setattr(SqliteStore, "active_keys", record_ids)
    return checked_ids


async def wait_for_check(checked_ids: list[str]) -> None:
    """Wait until a check of the keys has begun and ended."""
    wanted = len(checked_ids) + 2
    async with asyncio.timeout(5):
        while len(checked_ids) < wanted:
            await asyncio.sleep(0.001)


async def revoke(deployment: Deployment) -> None:
    """Revoke the key in the store, as the command `keys revoke` does."""
    async with open_store(deployment.store_url, deployment.clock) as store:
        key = await store.key(keys.digest(deployment.key))
        assert key
        await store.revoke_key(key.id)


async def link_to(deployment: Deployment, path: str) -> str:
    return str((await deployment.http.post("/api/links", json={"path": path})).json()["url"])


@asynccontextmanager
async def reading(response: httpx.Response) -> AsyncIterator[None]:
    """Read a stream: its first chunk before the body, and its abrupt end after the body."""
    chunks = response.aiter_raw()
    await anext(chunks)
    yield
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        async with asyncio.timeout(5):
            async for _ in chunks:
                pass


@pytest.mark.parametrize("accepted", ["text/event-stream", "text/plain"])
@pytest.mark.parametrize("path", ["/api/events", "/api/jobs/{job}/events"])
async def test_a_stream_is_closed_when_its_key_is_revoked(deployment: Deployment, path: str, accepted: str) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    opened = deployment.open("GET", path.format(job=job["id"]), headers={"Accept": accepted})
    async with opened as response, reading(response):
        await revoke(deployment)


async def test_an_order_s_stream_is_closed_when_its_key_is_revoked(deployment: Deployment) -> None:
    opened = deployment.open("POST", "/api/generate", json={"model": "gaga-1", "prompt": "[stuck]"})
    async with opened as response, reading(response):
        await revoke(deployment)


@pytest.mark.parametrize("path", ["/api/events", "/api/jobs/{job}/events"])
async def test_a_link_s_stream_is_closed_when_its_key_is_revoked(deployment: Deployment, path: str) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    link = await link_to(deployment, path.format(job=job["id"]))
    async with (
        httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger,
        stranger.stream("GET", link) as response,
        reading(response),
    ):
        await revoke(deployment)


async def test_a_client_that_reconnects_with_a_revoked_key_is_refused(deployment: Deployment) -> None:
    async with deployment.open("GET", "/api/events") as response, reading(response):
        await revoke(deployment)
    assert (await deployment.http.get("/api/events")).status_code == 401


async def test_a_waiting_request_is_refused_when_its_key_is_revoked(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    path = f"/api/jobs/{job['id']}?after=100&wait=60"
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(deployment.http.get(path))
        while "pollcast_streams 1.0" not in (await deployment.http.get("/metrics")).text:
            await asyncio.sleep(0)
        await revoke(deployment)
    assert waiting.result().status_code == 401


async def test_the_job_of_a_revoked_key_continues(deployment: Deployment) -> None:
    other = {"Authorization": f"Bearer {await deployment.new_key('web')}"}
    opened = deployment.open("POST", "/api/generate", json={"model": "gaga-1", "prompt": "[stuck]"})
    async with opened as response, reading(response):
        await revoke(deployment)
    shown = await deployment.http.get(response.headers["Location"], headers=other)
    assert shown.json()["status"] in {"Processing started", "Processing"}


async def test_streams_of_the_account_s_other_keys_stay_open(deployment: Deployment) -> None:
    other = await deployment.new_key("web")
    headers = {"Authorization": f"Bearer {other}"}
    async with deployment.open("GET", "/api/events", headers=headers) as other_stream:
        chunks = other_stream.aiter_raw()
        await anext(chunks)
        async with deployment.open("GET", "/api/events") as response, reading(response):
            await revoke(deployment)
        job = (
            await deployment.http.post("/api/jobs", json={"model": "suno", "prompt": "song"}, headers=headers)
        ).json()
        assert job["id"].encode() in await anext(chunks)


async def test_streams_stay_open_while_the_store_is_unavailable(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked_ids: list[str] = []

    async def away(_: SqliteStore, ids: Collection[str]) -> set[str]:
        checked_ids.extend(ids)
        raise Unavailable("The store is away.")

    monkeypatch.setattr(SqliteStore, "active_keys", away)
    async with deployment.open("GET", "/api/events") as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        await wait_for_check(checked_ids)
        job = await deployment.submit("suno", prompt="song")
        assert job["id"].encode() in await anext(chunks)


async def test_a_stream_is_closed_when_its_key_is_revoked_during_catch_up(
    deployment: Deployment, checked_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, released = asyncio.Event(), asyncio.Event()
    original = SqliteStore.snapshot

    async def slow(store: SqliteStore, account: str, jobs: Collection[str] | None = None) -> FeedSlice:
        began.set()
        await released.wait()
        return await original(store, account, jobs)

    async def read() -> None:
        async with deployment.open("GET", "/api/events") as response, reading(response):
            pass

    monkeypatch.setattr(SqliteStore, "snapshot", slow)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        await began.wait()
        await revoke(deployment)
        await wait_for_check(checked_ids)
        released.set()


async def test_a_key_with_many_streams_is_checked_once_per_interval(
    deployment: Deployment, checked_ids: list[str]
) -> None:
    others = [await deployment.new_key("web") for _ in range(4)]
    async with AsyncExitStack() as stack:
        for key in (deployment.key, *others) * 3:
            headers = {"Authorization": f"Bearer {key}"}
            await stack.enter_async_context(deployment.open("GET", "/api/events", headers=headers))
        while len(set(checked_ids[-5:])) < 5:
            await asyncio.sleep(0.001)
        del checked_ids[:]
        while len(checked_ids) < 20:
            await asyncio.sleep(0.001)
        assert set(Counter(checked_ids[:20]).values()) == {4}


async def test_a_key_without_open_streams_is_not_checked(deployment: Deployment, checked_ids: list[str]) -> None:
    async with deployment.open("GET", "/api/events"):
        await wait_for_check(checked_ids)
    async with asyncio.timeout(5):
        while "pollcast_streams 0.0" not in (await deployment.http.get("/metrics")).text:
            await asyncio.sleep(0.001)
    del checked_ids[:]
    await asyncio.sleep(0.05)  # some looks
    assert checked_ids == []
