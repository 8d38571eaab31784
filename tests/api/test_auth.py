"""Keys that are revoked while streams that they, or their Links, have opened are being read."""

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
from proxy.store.base import FeedSlice
from proxy.store.sqlite.store import SqliteStore
from tests.support.deployment import NO_AUTHORITIES, Deployment


@pytest.fixture
def unstarted(tmp_path: Path) -> Deployment:
    """A deployment that checks the keys of open streams every 10 ms, two keys at a time."""
    return Deployment(tmp_path, api_times=ApiTimes(revocation_interval=0.01, key_batch=2))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of keys that the store is asked about."""
    asked: list[str] = []
    usual = SqliteStore.active_keys

    async def counted(store: SqliteStore, ids: Collection[str]) -> set[str]:
        asked.extend(ids)
        return await usual(store, ids)

    monkeypatch.setattr(SqliteStore, "active_keys", counted)
    return asked


async def more(asked: list[str]) -> None:
    """Wait until a look has begun and ended."""
    wanted = len(asked) + 2
    async with asyncio.timeout(5):
        while len(asked) < wanted:
            await asyncio.sleep(0.001)


async def revoke(deployment: Deployment) -> None:
    """Do what `keys revoke` does beside the server."""
    async with open_store(deployment.store_url, deployment.clock) as store:
        key = await store.key(keys.digest(deployment.key))
        assert key
        await store.revoke_key(key.id)


async def link_to(deployment: Deployment, path: str) -> str:
    return str((await deployment.http.post("/api/links", json={"path": path})).json()["url"])


@asynccontextmanager
async def reading(response: httpx.Response) -> AsyncIterator[None]:
    """A stream that was begun before the body, and is broken off after it."""
    chunks = response.aiter_raw()
    await anext(chunks)
    yield
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        async with asyncio.timeout(5):
            async for _ in chunks:
                pass


@pytest.mark.parametrize("accepted", ["text/event-stream", "text/plain"])
@pytest.mark.parametrize("path", ["/api/events", "/api/jobs/{job}/events"])
async def test_a_stream_is_broken_off_when_its_key_is_revoked(deployment: Deployment, path: str, accepted: str) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    opened = deployment.open("GET", path.format(job=job["id"]), headers={"Accept": accepted})
    async with opened as response, reading(response):
        await revoke(deployment)


async def test_the_stream_of_an_order_is_broken_off_when_its_key_is_revoked(deployment: Deployment) -> None:
    opened = deployment.open("POST", "/api/generate", json={"model": "gaga-1", "prompt": "[stuck]"})
    async with opened as response, reading(response):
        await revoke(deployment)


@pytest.mark.parametrize("path", ["/api/events", "/api/jobs/{job}/events"])
async def test_a_stream_is_broken_off_when_the_key_that_made_its_link_is_revoked(
    deployment: Deployment, path: str
) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    link = await link_to(deployment, path.format(job=job["id"]))
    async with (
        httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger,
        stranger.stream("GET", link) as response,
        reading(response),
    ):
        await revoke(deployment)


async def test_who_comes_back_after_its_key_was_revoked_is_refused(deployment: Deployment) -> None:
    async with deployment.open("GET", "/api/events") as response, reading(response):
        await revoke(deployment)
    assert (await deployment.http.get("/api/events")).status_code == 401


async def test_a_request_that_waits_is_refused_when_its_key_is_revoked(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="[stuck]")
    path = f"/api/jobs/{job['id']}?after=100&wait=60"
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(deployment.http.get(path))
        while "pollcast_streams 1.0" not in (await deployment.http.get("/metrics")).text:
            await asyncio.sleep(0)
        await revoke(deployment)
    assert waiting.result().status_code == 401


async def test_the_job_of_a_revoked_key_goes_on(deployment: Deployment) -> None:
    other = {"Authorization": f"Bearer {await deployment.new_key('web')}"}
    opened = deployment.open("POST", "/api/generate", json={"model": "gaga-1", "prompt": "[stuck]"})
    async with opened as response, reading(response):
        await revoke(deployment)
    shown = await deployment.http.get(response.headers["Location"], headers=other)
    assert shown.json()["status"] in {"Processing started", "Processing"}


async def test_the_streams_of_the_account_s_other_keys_go_on(deployment: Deployment) -> None:
    other = await deployment.new_key("web")
    headers = {"Authorization": f"Bearer {other}"}
    async with deployment.open("GET", "/api/events", headers=headers) as going_on:
        chunks = going_on.aiter_raw()
        await anext(chunks)
        async with deployment.open("GET", "/api/events") as response, reading(response):
            await revoke(deployment)
        job = (
            await deployment.http.post("/api/jobs", json={"model": "suno", "prompt": "song"}, headers=headers)
        ).json()
        assert job["id"].encode() in await anext(chunks)


async def test_a_store_that_is_away_ends_no_stream(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def away(_: SqliteStore, ids: Collection[str]) -> set[str]:
        asked.extend(ids)
        raise Unavailable("The store is away.")

    monkeypatch.setattr(SqliteStore, "active_keys", away)
    async with deployment.open("GET", "/api/events") as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        await more(asked)
        job = await deployment.submit("suno", prompt="song")
        assert job["id"].encode() in await anext(chunks)


async def test_a_stream_whose_key_is_revoked_while_it_catches_up_is_broken_off(
    deployment: Deployment, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, told = asyncio.Event(), asyncio.Event()
    usual = SqliteStore.snapshot

    async def slow(store: SqliteStore, account: str, jobs: Collection[str] | None = None) -> FeedSlice:
        began.set()
        await told.wait()
        return await usual(store, account, jobs)

    async def read() -> None:
        async with deployment.open("GET", "/api/events") as response, reading(response):
            pass

    monkeypatch.setattr(SqliteStore, "snapshot", slow)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        await began.wait()
        await revoke(deployment)
        await more(asked)
        told.set()


async def test_a_key_is_asked_about_once_in_each_look_however_many_streams_it_has(
    deployment: Deployment, asked: list[str]
) -> None:
    others = [await deployment.new_key("web") for _ in range(4)]
    async with AsyncExitStack() as stack:
        for key in (deployment.key, *others) * 3:
            headers = {"Authorization": f"Bearer {key}"}
            await stack.enter_async_context(deployment.open("GET", "/api/events", headers=headers))
        while len(set(asked[-5:])) < 5:
            await asyncio.sleep(0.001)
        del asked[:]
        while len(asked) < 20:
            await asyncio.sleep(0.001)
        assert set(Counter(asked[:20]).values()) == {4}


async def test_no_key_is_asked_about_once_its_streams_are_closed(deployment: Deployment, asked: list[str]) -> None:
    async with deployment.open("GET", "/api/events"):
        await more(asked)
    async with asyncio.timeout(5):
        while "pollcast_streams 0.0" not in (await deployment.http.get("/metrics")).text:
            await asyncio.sleep(0.001)
    del asked[:]
    await asyncio.sleep(0.05)  # some looks
    assert asked == []
