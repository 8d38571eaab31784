"""What holds for every model, whoever makes it: over the simulator, from the order to the opened file."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from httpx_sse import EventSource

from proxy.core.job import Kind
from tests.providers.conftest import KEY, fresh_account, pointed
from tests.support.deployment import NO_AUTHORITIES, Deployment, JumpClock
from tests.support.examples import AUDIO, IMAGE, PROMPT, Way, examples_of, filled, small_order, ways
from tests.support.literal import Literal, ended, page, said, streamed
from tests.support.registry import REGISTRY, short

pytestmark = pytest.mark.asyncio(loop_scope="module")

TYPES = {Kind.VIDEO: "video/mp4", Kind.AUDIO: "audio/mpeg", Kind.IMAGE: "image/png", Kind.TEXT: "text/plain"}
each_model = pytest.mark.parametrize("model", REGISTRY.models)

WAYS = {way.model: way for way in ways()}
"""One model of each way to order."""
POLLED = {name: way for name, way in WAYS.items() if way.polled}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
each_polled_way = pytest.mark.parametrize("way", POLLED.values(), ids=POLLED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    folder = tmp_path_factory.mktemp("simulated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # no .env here
        async with Deployment(folder) as deployment:
            yield deployment


@pytest_asyncio.fixture(loop_scope="module")
async def deployment(simulated: Deployment) -> Deployment:
    await fresh_account(simulated)
    return simulated


async def small(deployment: Deployment, model: str, prompt: str = "Hello") -> dict[str, Any]:
    """A small order that the model takes."""
    order = small_order(model)
    kinds = {ref: kind for ref, kind in ((IMAGE, "image"), (AUDIO, "audio")) if ref in str(order)}
    assets = {ref: await deployment.asset(kind) for ref, kind in kinds.items()}
    return dict(filled(order, {PROMPT: prompt} | assets))


async def ordered(deployment: Deployment, model: str, prompt: str = "Hello") -> list[dict[str, Any]]:
    return await deployment.generate(**await small(deployment, model, prompt))


async def test_every_model_has_a_small_order() -> None:
    assert {model for kind in REGISTRY.providers for model in examples_of(kind).orders} == set(REGISTRY.models)


# --- it works ---


@each_model
async def test_it_is_in_the_catalogue_and_can_be_ordered(deployment: Deployment, model: str) -> None:
    listed = {entry["id"]: entry for entry in (await deployment.http.get("/api/models")).json()["models"]}
    described = (await deployment.http.get("/openapi.json")).json()["components"]["schemas"]
    assert (listed[model]["provider"], listed[model]["available"]) == (REGISTRY.provider_of(model).name, True)
    assert f"order-{model}" in described


@each_model
async def test_it_completes_with_a_url_that_opens_without_a_key_and_plays(deployment: Deployment, model: str) -> None:
    final = ended(await ordered(deployment, model))
    assert final["status"] == "Completed"
    assert final["url"] == final["outputs"][0]["url"]
    answer = await deployment.http.get(final["url"], headers={"Authorization": ""})
    kind = REGISTRY.models[model].kind
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, TYPES[kind])
    assert answer.content == (final["text"].encode() if kind is Kind.TEXT else deployment.media(kind))


@each_model
async def test_its_content_leads_to_the_same_bytes(deployment: Deployment, model: str) -> None:
    job = ended(await ordered(deployment, model))["job"]
    answer = await deployment.http.get(f"/api/jobs/{job}/content", follow_redirects=True)
    kind = REGISTRY.models[model].kind
    assert answer.status_code == 200
    assert kind is Kind.TEXT or answer.content == deployment.media(kind)


async def test_results_are_behind_our_own_links_where_the_operator_relays(unstarted: Deployment) -> None:
    unstarted.settings = {"results": "relay"}
    async with unstarted:
        for model in REGISTRY.models:
            url = ended(await ordered(unstarted, model))["url"]
            answer = await unstarted.http.get(url, headers={"Authorization": ""})
            assert url.startswith(unstarted.origin)
            assert answer.status_code == 200
            assert answer.headers["Content-Type"].split(";")[0] == TYPES[REGISTRY.models[model].kind]


@each_model
async def test_it_is_submitted_once_and_charged_its_price_once(deployment: Deployment, model: str) -> None:
    before = deployment.simulator.submits.total()
    job = ended(await ordered(deployment, model))["job"]
    assert deployment.simulator.submits.total() - before == 1
    entries = (await deployment.http.get("/api/account/ledger")).json()["entries"]
    assert [(entry["cause"], entry["tokens"], entry["job"]) for entry in entries][:-1] == [
        ("charge", -REGISTRY.models[model].tokens, job)
    ]
    assert await deployment.balance() == 1000 - REGISTRY.models[model].tokens


@each_model
async def test_its_failure_is_an_error_with_the_providers_words_and_a_full_refund(
    deployment: Deployment, model: str
) -> None:
    final = ended(await ordered(deployment, model, "x [fail]"))
    assert (final["status"], final["code"]) == ("Error", "upstream_failed")
    assert examples_of(REGISTRY.provider_of(model)).failure in final["message"]
    assert final["refunded"] == REGISTRY.models[model].tokens
    assert await deployment.balance() == 1000


@each_model
@pytest.mark.parametrize("word", ["[unknown]", "[flaky]", "[429]"])
async def test_it_lives_through_what_passes(deployment: Deployment, model: str, word: str) -> None:
    before = deployment.simulator.submits.total()
    assert ended(await ordered(deployment, model, f"Hello {word}"))["status"] == "Completed"
    assert deployment.simulator.submits.total() - before == 1


@each_model
@pytest.mark.parametrize(
    ("word", "code"),
    [("[reject]", "upstream_rejected"), ("[credits]", "upstream_credits"), ("[500]", "upstream_failed")],
)
async def test_its_refusal_is_told_apart_and_refunded(deployment: Deployment, model: str, word: str, code: str) -> None:
    final = ended(await ordered(deployment, model, f"Hello {word}"))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", code, REGISTRY.models[model].tokens)


async def test_a_provider_that_cannot_be_reached_is_said_to_be_so(unstarted: Deployment) -> None:
    unstarted.provider = {"base_url": "http://127.0.0.1:9", "deadline": 40}
    async with unstarted:
        codes = {}
        for model in REGISTRY.models:
            unstarted.clock.at += 120
            codes[model] = ended(await ordered(unstarted, model)).get("code")
        assert codes == dict.fromkeys(REGISTRY.models, "upstream_unreachable")
        assert await unstarted.balance() == 1000


BROKEN = ["malformed", "empty", "wrong types", "html", "502 html", "drop", "cut", "reset", "redirect", "unfinished"]
KNOWN = {"upstream_failed", "upstream_rejected", "outcome_unknown", "interrupted"}


@each_way
@pytest.mark.parametrize("kind", BROKEN)
async def test_an_answer_that_is_broken_ends_a_job_at_worst_and_is_never_asked_for_twice(
    deployment: Deployment, way: Way, kind: str
) -> None:
    simulator = deployment.simulator
    before = simulator.calls[way.operation]
    simulator.fault(way.operation, kind)
    try:
        final = ended(await ordered(deployment, way.model))
    finally:
        simulator.clear_faults()
    assert final["status"] == "Completed" or final["code"] in KNOWN
    assert simulator.calls[way.operation] - before == 1
    assert await deployment.balance() == 1000 - REGISTRY.models[way.model].tokens + final.get("refunded", 0)


@each_polled_way
async def test_a_job_lives_through_every_broken_poll(deployment: Deployment, way: Way) -> None:
    simulator = deployment.simulator
    check = way.operation.replace("submit", "check")
    kinds = ["401", "403", "404", "429", "500", "503", "unknown status", *BROKEN]
    for kind in kinds:
        simulator.fault(check, kind, times=1)
    try:
        final = ended(await ordered(deployment, way.model))
    finally:
        simulator.clear_faults()
    assert final["status"] == "Completed"


# --- it keeps the operator's key to itself ---


async def everything_shown(deployment: Deployment, events: list[dict[str, Any]]) -> str:
    job = await deployment.http.get(f"/api/jobs/{events[0]['job']}")
    content = await deployment.http.get(f"/api/jobs/{events[0]['job']}/content")
    headers = "\n".join(f"{name}: {value}" for name, value in content.headers.items())
    return "\n".join([json.dumps(events), job.text, content.text, headers])


async def test_no_key_is_shown_by_any_model_however_it_ends(unstarted: Deployment) -> None:
    keys = {name: f"planted-{name}-Zq7" for name in unstarted.simulator.keys}
    unstarted.simulator.keys.update(keys)
    for kind in REGISTRY.providers:
        unstarted.providers[kind.name] = {"api_key": keys[short(kind)]}
    async with unstarted:
        shown = [
            await everything_shown(unstarted, await ordered(unstarted, model, prompt))
            for model in REGISTRY.models
            for prompt in ("Hello", "[fail]", "[reject]")
        ]
        assert unstarted.simulator.submits.total() == 2 * len(REGISTRY.models)
    assert "planted" not in "\n".join(shown)


LEAK = f"Your key {KEY} (Authorization: Bearer {KEY}) is in trouble"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def telltale(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Literal]]:
    """A provider that repeats the key it was sent."""
    folder = tmp_path_factory.mktemp("telltale")
    async with Literal() as upstream:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            async with pointed(Deployment(folder), upstream) as deployment:
                yield deployment, upstream


@each_way
@pytest.mark.parametrize("status", [200, 400, 401, 402, 418, 422, 500, 503])
async def test_a_refusal_that_repeats_the_key_is_shown_without_it(
    telltale: tuple[Deployment, Literal], way: Way, status: int
) -> None:
    deployment, upstream = telltale
    await fresh_account(deployment)
    upstream.on("POST", way.submit, said({"status": "Error", "code": 7, "message": LEAK}, status))
    events = await deployment.generate(**way.order)
    assert ended(events)["status"] == "Error"
    assert KEY not in await everything_shown(deployment, events)


@each_way
async def test_a_failure_that_repeats_the_key_is_shown_without_it(
    telltale: tuple[Deployment, Literal], way: Way
) -> None:
    deployment, upstream = telltale
    await fresh_account(deployment)
    refused, failed = said({"message": LEAK, "error": LEAK}, 401), way.failure(LEAK)
    stream = streamed(b"data: %b\n\n" % json.dumps(failed).encode())
    upstream.on("POST", way.submit, said(way.receipt) if way.polled else stream)
    upstream.on("GET", way.poll, refused, refused, said(failed))
    events = await deployment.generate(**way.order)
    assert ended(events)["code"] == "upstream_failed"
    assert "is in trouble" in ended(events)["message"]
    assert KEY not in await everything_shown(deployment, events)


WITH_URL = {name: way for name, way in WAYS.items() if REGISTRY.models[name].kind is not Kind.TEXT}


@pytest.mark.parametrize("way", WITH_URL.values(), ids=WITH_URL)
@pytest.mark.parametrize("url", ["http://[no url", "javascript:alert(1)", "file:///etc/passwd"])
async def test_a_url_that_nobody_can_open_is_the_providers_fault(
    telltale: tuple[Deployment, Literal], way: Way, url: str
) -> None:
    deployment, upstream = telltale
    await fresh_account(deployment)
    documents = {way.submit: way.receipt, **way.documents(url)}
    receipt = documents.pop(way.submit)
    upstream.on("POST", way.submit, said(receipt) if way.polled else streamed(way.stream(url)))
    for path, document in documents.items():
        upstream.on("GET", path, said(document))
    final = ended(await deployment.generate(**way.order))
    if final["status"] == "Completed":  # some providers have another call for the bytes, which needs no URL of theirs
        assert final["url"].startswith(deployment.origin)
    else:
        assert final.get("code") in {"upstream_failed", "upstream_protocol", "deadline_exceeded"}


# --- odd answers to polls ---

ODD_POLLS = {
    "no status": said({"code": 100, "data": {}}),
    "null status": said({"status": None, "gen_status": None, "code": 100, "data": {"status": None}}),
    "an error": said({"error": {"message": "The lighthouse is closed"}}),
    "402": said({"message": "The lighthouse is closed"}, 402),
    "418": said({"message": "The lighthouse is closed"}, 418),
    "a page": page(200),
    "a page not found": page(404),
}


MAY_BE_LATE = {name: way for name, way in WAYS.items() if way.late}


@pytest.mark.parametrize("way", MAY_BE_LATE.values(), ids=MAY_BE_LATE)
@pytest.mark.parametrize("odd", [*ODD_POLLS, "no result"])
async def test_an_odd_answer_to_a_poll_is_lived_through_and_shown(
    telltale: tuple[Deployment, Literal], way: Way, odd: str
) -> None:
    deployment, upstream = telltale
    await fresh_account(deployment)
    upstream.clear()
    upstream.on("POST", way.submit, said(way.receipt))
    for path, late in way.late.items():
        document = said(way.documents("https://cdn.example.com/a.mp4")[path])
        early = ODD_POLLS.get(odd, said(late)) if path == way.poll or odd == "no result" else document
        upstream.on("GET", path, *[early] * 12, document)
    events = await deployment.generate(**way.order)
    assert ended(events)["status"] == "Completed", events
    told = json.dumps(events)
    assert odd not in {"an error", "402", "418"} or "The lighthouse is closed" in told
    is_list = isinstance(way.receipt, list)  # one item's trouble is not shown as the order's
    assert odd != "no result" or is_list or " yet" in told


# --- it asks no more for a hundred than for one ---


class HeldClock(JumpClock):
    """Nobody sleeps before the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.gate.wait()
        await super().sleep(seconds)


async def watched(http: httpx.AsyncClient, path: str, watching: asyncio.Semaphore) -> list[str]:
    async with http.stream("GET", path) as response:
        seen: list[str] = []
        async for message in EventSource(response).aiter_sse():
            if not seen:
                watching.release()
            seen.append(message.data)
        return seen


async def calls_for(folder: Path, model: str, subscribers: int) -> Counter[str]:
    """What the provider was asked while so many watched one job from its start to its end."""
    random.seed(7)  # the poll loop's jitter
    clock = HeldClock()
    async with Deployment(folder, clock=clock) as deployment:
        job = await deployment.submit(**await small(deployment, model))
        watching = asyncio.Semaphore(0)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES, timeout=20, limits=limits) as http:
            watchers = [
                asyncio.create_task(watched(http, job["links"]["events"], watching)) for _ in range(subscribers)
            ]
            for _ in watchers:
                await watching.acquire()
            clock.gate.set()
            seen = await asyncio.gather(*watchers)
        assert json.loads(seen[0][-1])["status"] == "Completed"
        assert all(one == seen[0] for one in seen)
        return Counter(deployment.simulator.calls)


@pytest.mark.parametrize("model", [examples_of(kind).ways[0].model for kind in REGISTRY.providers])
async def test_a_hundred_subscribers_make_no_more_calls_than_one(tmp_path: Path, model: str) -> None:
    one, hundred = tmp_path / "one", tmp_path / "hundred"
    one.mkdir()
    hundred.mkdir()
    assert await calls_for(hundred, model, 100) == await calls_for(one, model, 1)
