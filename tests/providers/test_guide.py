"""The adapter of `proxy/docs/adding-a-provider.md` works as the guide says."""

from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

from proxy.core.clock import SystemClock
from proxy.core.job import Order, Status
from proxy.providers.base import Provider
from proxy.upstream.answers import LastAnswers, NotReady
from tests.providers.conftest import KEY
from tests.support.literal import Literal, said, written
from tests.support.root import blocks, page

VIDEO = "https://cdn.acme.example/1.mp4"


@pytest.fixture
async def acme_upstream() -> AsyncIterator[Literal]:
    async with Literal() as upstream:
        yield upstream


@pytest.fixture
async def acme(acme_upstream: Literal) -> AsyncIterator[Provider]:
    (source,) = blocks(page("adding-a-provider"), "python")
    module = ModuleType("acme")
    exec(source, vars(module))  # noqa: S102
    settings = module.AcmeSettings(api_key=KEY, base_url=acme_upstream.origin)
    provider: Provider = module.Acme(settings, SystemClock(), "https://cast.example.com")
    async with provider.upstream:
        yield provider


async def order(acme: Provider, **fields: Any) -> Any:
    inputs: Any = None
    return await acme.prepare(Order(model="acme-video", fields=fields, metadata={}, extra={}), inputs)


async def test_an_order_is_sent_once_and_gives_a_ticket(acme: Provider, acme_upstream: Literal) -> None:
    acme_upstream.on("POST", "/v1/videos", said({"id": 7}))
    ticket = await acme.submit(await order(acme, prompt="Hello"))
    asked = acme_upstream.once("POST", "/v1/videos")
    assert asked.written == written({"prompt": "Hello", "seconds": 5})
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert ticket == {"id": "7"}


async def test_an_unknown_word_is_still_working_and_reported(acme: Provider, acme_upstream: Literal) -> None:
    acme_upstream.on("GET", "/v1/videos/7", said({"state": "dreaming"}))
    update = await acme.check({"id": "7"}, LastAnswers())
    assert (update.status, update.detail, update.unknown_words) == (None, "dreaming", ("dreaming",))


async def test_success_needs_a_result(acme: Provider, acme_upstream: Literal) -> None:
    acme_upstream.on("GET", "/v1/videos/7", said({"state": "done"}))
    with pytest.raises(NotReady):
        await acme.check({"id": "7"}, LastAnswers())
    acme_upstream.on("GET", "/v1/videos/7", said({"state": "done", "url": VIDEO}))
    update = await acme.check({"id": "7"}, LastAnswers())
    assert (update.status, [made.output.url for made in update.outputs]) == (Status.COMPLETED, [VIDEO])


async def test_a_failure_has_the_providers_words(acme: Provider, acme_upstream: Literal) -> None:
    acme_upstream.on("GET", "/v1/videos/7", said({"state": "failed", "error": {"message": "no face was found"}}))
    update = await acme.check({"id": "7"}, LastAnswers())
    assert update.status is Status.ERROR
    assert update.error is not None
    assert "no face was found" in update.error.message
