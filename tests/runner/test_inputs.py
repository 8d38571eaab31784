"""Inputs by URL: fetched once, checked, and sent in the form that the provider takes."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.support.deployment import Deployment
from tests.support.site import Rerouted, Site

PICTURE = Deployment.media("image")


async def internet(request: web.Request) -> web.StreamResponse:
    """Serve a few files, all with the type text/plain."""
    found = {"/cat.png": PICTURE, "/page.png": b"<html>", "/long.png": PICTURE + bytes(1 << 20)}.get(request.path)
    return web.Response(status=404) if found is None else web.Response(body=found, content_type="text/plain")


@pytest.fixture
async def online(unstarted: Deployment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployment]:
    async with Site(internet) as site:
        monkeypatch.setattr("proxy.app.Fetcher", lambda times: Rerouted(site, times))
        unstarted.settings["asset_limit"] = 1 << 20
        async with unstarted:
            yield unstarted


async def test_an_asset_from_a_url_has_the_type_of_its_bytes(online: Deployment) -> None:
    answer = await online.http.post("/api/assets", json={"url": "https://example.com/cat.png"})
    assert answer.status_code == 201
    assert (answer.json()["type"], answer.json()["size"]) == ("image/png", len(PICTURE))
    assert (await online.http.get(answer.json()["url"])).content == PICTURE


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("page.png", 415, "unsupported_type"),
        ("gone.png", 422, "invalid_request"),
        ("long.png", 413, "too_large"),
    ],
)
async def test_an_asset_url_that_cannot_be_used_is_refused_with_the_reason(
    online: Deployment, path: str, status: int, code: str
) -> None:
    answer = await online.http.post("/api/assets", json={"url": f"https://example.com/{path}"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_url_is_fetched_and_uploaded_for_gaga(online: Deployment) -> None:
    events = await online.generate("gaga-1", prompt="Hello", image="https://example.com/cat.png")
    assert events[-1]["status"] == "Completed"
    upload = next(request for request in online.simulator.requests if request.operation == "gaga.upload")
    assert [(part.body, part.content_type) for part in upload.parts] == [(PICTURE, "image/png")]


async def test_a_url_is_fetched_and_sent_inline_for_gaia(online: Deployment) -> None:
    events = await online.generate("grok-imagine-video", prompt="rain", images=["https://example.com/cat.png"])
    assert events[-1]["status"] == "Completed"
    submit = next(request for request in online.simulator.requests if request.operation == "gaia.submit")
    assert [part.body for part in submit.parts if part.name == "input_reference[]"] == [PICTURE]


async def test_a_url_is_sent_unchanged_to_heygen(online: Deployment) -> None:
    await online.generate("heygen-v1", prompt="hi", avatar_id="a", background="https://example.com/cat.png")
    submit = next(request for request in online.simulator.requests if request.operation == "heygen.submit")
    assert isinstance(submit.body, dict)
    assert submit.body["background"] == "https://example.com/cat.png"


@pytest.mark.parametrize("path", ["page.png", "gone.png", "long.png"])
async def test_an_unusable_url_ends_the_job_refunded_with_nothing_sent(online: Deployment, path: str) -> None:
    final = (await online.generate("gaga-1", prompt="Hello", image=f"https://example.com/{path}"))[-1]
    assert (final["code"], final["refunded"]) == ("upstream_rejected", 20)
    assert "Nothing was sent" in final["message"]
    assert online.simulator.calls["gaga.submit"] == 0


# --- the size of an order's inputs ---


@pytest.fixture
async def small(unstarted: Deployment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Deployment, Site]]:
    """A deployment whose orders may have inputs of three and a half pictures."""
    async with Site(internet) as site:
        monkeypatch.setattr("proxy.app.Fetcher", lambda times: Rerouted(site, times))
        unstarted.settings["asset_limit"] = len(PICTURE) * 7 // 2
        async with unstarted:
            yield unstarted, site


async def test_an_order_whose_assets_exceed_the_limit_together_is_refused(small: tuple[Deployment, Site]) -> None:
    deployment, _ = small
    asset = await deployment.asset()
    order = {"model": "gpt-image-2", "prompt": "x", "images": [asset] * 4}
    for query in ({}, {"dry_run": "1"}):
        answer = await deployment.http.post("/api/jobs", json=order, params=query)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "images.3")
    assert (await deployment.generate("gpt-image-2", prompt="x", images=[asset] * 3))[-1]["status"] == "Completed"


async def test_urls_count_toward_the_limit_while_they_are_read(small: tuple[Deployment, Site]) -> None:
    deployment, _ = small
    images = [f"https://example.com/cat.png?{n}" for n in range(4)]
    final = (await deployment.generate("grok-imagine-video", prompt="x", images=images))[-1]
    assert (final["code"], final["refunded"]) == ("upstream_rejected", 30)
    assert "together" in final["message"]
    assert deployment.simulator.calls["gaia.submit"] == 0


async def test_a_repeated_url_is_read_once_and_sent_twice(small: tuple[Deployment, Site]) -> None:
    deployment, site = small
    await deployment.generate("grok-imagine-video", prompt="x", images=["https://example.com/cat.png"] * 3)
    assert len(site.asked) == 1
    submit = next(request for request in deployment.simulator.requests if request.operation == "gaia.submit")
    assert [part.body for part in submit.parts if part.name == "input_reference[]"] == [PICTURE] * 3
