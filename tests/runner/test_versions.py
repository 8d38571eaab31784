"""A job continues with the version of its provider's file that it began with."""

from collections.abc import AsyncIterator

import pytest

from proxy.providers.declared import DeclaredKind
from proxy.providers.declared_files import dump_texts, load_texts
from proxy.providers.registry import Registry
from proxy.store import open_store
from tests.support.deployment import Deployment
from tests.support.literal import Literal, said
from tests.support.provider_file import KEY, parse, short

FIRST = short()
SECOND = short(poll='path = "/states/{id}"\nstatus = "status"\nwords = { over = "done" }')
WORKING, DONE = said({"status": "working"}), said({"status": "ready", "url": "https://files.example/1.mp4"})


@pytest.fixture
async def upstream() -> AsyncIterator[Literal]:
    async with Literal() as upstream:
        upstream.on("POST", "/jobs", said({"id": "1"}))
        upstream.on("GET", "/jobs/1", WORKING)
        yield upstream


@pytest.fixture
async def deployment(unstarted: Deployment, upstream: Literal) -> AsyncIterator[Deployment]:
    unstarted.registry = registry_of(FIRST)
    unstarted.provider = {"base_url": upstream.origin, "api_key": KEY, "rate": 10_000}
    async with unstarted:
        yield unstarted


def registry_of(*texts: str) -> Registry:
    return Registry(tuple(DeclaredKind(parse(text)) for text in texts))


async def begin(deployment: Deployment, upstream: Literal) -> str:
    """Order a job and return its id, once it is polled."""
    job = await deployment.submit("short/one", prompt="A cat")
    while not upstream.asked("GET", "/jobs/1"):
        await deployment.http.get(f"/api/jobs/{job['id']}", params={"after": 1, "wait": 1})
    return str(job["id"])


async def test_a_job_continues_with_its_file_after_the_file_has_changed(
    deployment: Deployment, upstream: Literal
) -> None:
    job = await begin(deployment, upstream)
    await deployment.stop()
    deployment.registry = registry_of(SECOND)
    upstream.on("GET", "/jobs/1", DONE)
    await deployment.start()
    assert (await deployment.ended(job))["status"] == "Completed"
    assert not upstream.asked("GET", "/states/1")


async def test_a_new_job_runs_with_the_changed_file(deployment: Deployment, upstream: Literal) -> None:
    await begin(deployment, upstream)
    await deployment.stop()
    deployment.registry = registry_of(SECOND)
    upstream.on("GET", "/states/1", said({"status": "over", "url": "https://files.example/1.mp4"}))
    await deployment.start()
    later = await deployment.submit("short/one", prompt="A dog")
    assert (await deployment.ended(later["id"]))["status"] == "Completed"
    assert upstream.asked("GET", "/states/1")


async def test_a_job_continues_after_its_file_is_removed(
    deployment: Deployment, upstream: Literal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await begin(deployment, upstream)
    await deployment.stop()
    deployment.registry = Registry(())
    monkeypatch.setenv("SHORT_API_KEY", KEY)
    monkeypatch.setenv("SHORT_BASE_URL", upstream.origin)
    upstream.on("GET", "/jobs/1", DONE)
    await deployment.start()
    assert (await deployment.ended(job))["status"] == "Completed"


async def test_an_order_is_admitted_with_the_version_of_its_file(deployment: Deployment, upstream: Literal) -> None:
    await begin(deployment, upstream)
    await deployment.stop()
    (kind,) = deployment.registry.providers
    async with open_store(deployment.store_url, deployment.clock) as store:
        claims = await store.claim("another-node", {}, 10)
        assert [claim.version for claim in claims] == [kind.version]
        assert await store.value(kind.version) is not None
    await deployment.start()


def test_the_kept_texts_are_read_to_the_same_version() -> None:
    kind = DeclaredKind(parse(FIRST))
    assert load_texts(dump_texts(kind)).version == kind.version
    assert DeclaredKind(parse(SECOND)).version != kind.version
