"""Dry runs, compared with the request that the provider receives for the same order."""

from typing import Any

import httpx
import pytest

from proxy.simulator import Received, default_keys
from tests.api.test_api import GAGA, error_of, fields_of, nothing_happened
from tests.support.deployment import Deployment
from tests.support.examples import AUDIO, IMAGE, PROMPT, examples_of, filled, small_order
from tests.support.registry import REGISTRY

ORDERS: list[dict[str, Any]] = [
    *map(small_order, REGISTRY.models),
    *(dict(order) for kind in REGISTRY.providers for order in examples_of(kind).further_orders),
]


async def dry(deployment: Deployment, order: dict[str, Any], value: str = "1") -> httpx.Response:
    return await deployment.http.post("/api/jobs", json=order, params={"dry_run": value})


async def with_values(deployment: Deployment, order: dict[str, Any]) -> dict[str, Any]:
    """Return the order with a prompt and the ids of real assets."""
    assets = {IMAGE: await deployment.asset("image"), AUDIO: await deployment.asset("audio")}
    return dict(filled(order, assets | {PROMPT: "Hello"}))


def alike(shown: Any, sent: Any) -> bool:
    """Compare the shown request with the sent one, except for placeholders."""
    if isinstance(shown, dict) and isinstance(sent, dict):
        return shown.keys() == sent.keys() and all(alike(shown[name], sent[name]) for name in shown)
    if isinstance(shown, list) and isinstance(sent, list):
        return len(shown) == len(sent) and all(map(alike, shown, sent))
    if isinstance(shown, str) and shown.startswith("<upload of asset_"):
        return str(sent).isdigit()
    if isinstance(shown, str) and shown.startswith("<Link to "):
        return str(sent).startswith(shown.removeprefix("<Link to ").removesuffix(">") + "?key=")
    if isinstance(shown, str) and shown.startswith("data:"):
        head, _, placeholder = shown.partition("<file ")
        return bool(placeholder) and str(sent).startswith(head) and len(str(sent)) > len(head)
    return type(shown) is type(sent) and bool(shown == sent)


def form_of(received: Received) -> list[dict[str, str]]:
    """Return the multipart form as a dry run shows it."""
    return [
        {
            "name": part.name,
            "value": part.text if part.filename is None else f"<file {part.filename}, {len(part.body)} bytes>",
        }
        for part in received.parts
    ]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order["model"])
async def test_it_shows_the_request_that_the_order_sends(deployment: Deployment, order: dict[str, Any]) -> None:
    order = await with_values(deployment, order)
    answer = await dry(deployment, order)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert not deployment.simulator.calls
    await nothing_happened(deployment)

    job = await deployment.submit(**order)
    await deployment.ended(job["id"])
    paid = {operation.name for operation in deployment.simulator.operations if operation.role.is_paid}
    (submit,) = [request for request in deployment.simulator.requests if request.operation in paid]
    assert (shown["provider"], shown["tokens"]) == (REGISTRY.provider_of(order["model"]).name, job["tokens"])
    request = shown["request"]
    assert (request["method"], request["url"]) == (submit.method, deployment.simulator.origin + submit.path)
    assert request["query"] == submit.query
    assert submit.headers["Content-Type"].startswith(request["headers"]["Content-Type"])
    if "form" in request:
        assert request["form"] == form_of(submit)
    else:
        assert alike(request["json"], submit.body), (request["json"], submit.body)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order["model"])
async def test_it_shows_no_credential(deployment: Deployment, order: dict[str, Any]) -> None:
    order = await with_values(deployment, order)
    text = (await dry(deployment, order)).text
    assert "authorization" not in text.lower()
    assert "api-key" not in text.lower()
    for secret in (*default_keys().values(), deployment.key, "signature="):
        assert secret not in text


async def test_uploads_and_files_are_shown_as_placeholders(deployment: Deployment) -> None:
    image = await deployment.asset("image")
    size = len(deployment.media("image"))
    gaga = (await dry(deployment, {**GAGA, "image": image})).json()["request"]
    assert gaga["json"]["source"]["content"] == f"<upload of {image}>"
    video = (await dry(deployment, {"model": "grok-imagine-video", "prompt": "x", "images": [image]})).json()["request"]
    assert video["form"][-1] == {"name": "input_reference[]", "value": f"<file {image}.png, {size} bytes>"}
    picture = (await dry(deployment, {"model": "image2", "prompt": "x", "images": [image]})).json()["request"]
    assert picture["json"]["image"] == f"data:image/png;base64,<file {image}.png, {size} bytes>"
    spoken = {"model": "heygen-v1", "prompt": "Hello", "avatar_id": "Anna", "background": image}
    heygen = (await dry(deployment, spoken)).json()["request"]
    assert heygen["json"]["background"] == f"<Link to {deployment.origin}/api/assets/{image}/content>"


async def test_a_url_is_not_fetched(deployment: Deployment) -> None:
    url = "https://192.0.2.1.example/cat.png"
    gaga = (await dry(deployment, {**GAGA, "image": url})).json()["request"]
    assert gaga["json"]["source"]["content"] == f"<upload of {url}>"
    video = (await dry(deployment, {"model": "grok-imagine-video", "prompt": "x", "images": [url]})).json()["request"]
    assert video["form"][-1] == {"name": "input_reference[]", "value": f"<file from {url}>"}


# --- checks ---


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"model": "gaga-1"}, "prompt"),
        ({**GAGA, "promt": "x"}, "promt"),
        ({**GAGA, "image": "asset_01J0000000000000000000000"}, "image"),
        ({**GAGA, "image": "https://127.0.0.1/cat.png"}, "image"),
        ({**GAGA, "image": "https://a..b.com/cat.png"}, "image"),
    ],
)
async def test_an_invalid_order_is_refused_by_field(deployment: Deployment, order: dict[str, Any], field: str) -> None:
    assert fields_of(await dry(deployment, order)) == [field]


async def test_it_requires_a_key(deployment: Deployment) -> None:
    answer = await deployment.http.post("/api/jobs?dry_run=1", json=GAGA, headers={"Authorization": ""})
    assert answer.status_code == 401


async def test_another_account_s_asset_is_not_shown(deployment: Deployment) -> None:
    image = await deployment.asset("image")
    deployment.http.headers["Authorization"] = f"Bearer {await deployment.new_key('other')}"
    assert fields_of(await dry(deployment, {**GAGA, "image": image})) == ["image"]


async def test_it_works_without_a_provider_key_and_without_tokens(unstarted: Deployment) -> None:
    unstarted.provider = {"api_key": ""}
    async with unstarted as deployment:
        deployment.http.headers["Authorization"] = f"Bearer {await deployment.new_key('poor')}"
        answer = await dry(deployment, GAGA)
        assert (answer.status_code, answer.json()["tokens"]) == (200, 20)


async def test_it_does_not_use_up_the_idempotency_key(deployment: Deployment) -> None:
    key = {"Idempotency-Key": "order-1"}
    assert (await deployment.http.post("/api/jobs?dry_run=1", json=GAGA, headers=key)).status_code == 200
    order = {**GAGA, "prompt": "Another"}
    assert (await deployment.http.post("/api/jobs", json=order, headers=key)).status_code == 202
    assert (await deployment.http.post("/api/jobs?dry_run=1", json=GAGA, headers=key)).status_code == 200


# --- the query ---


async def test_an_invalid_idempotency_key_is_refused(deployment: Deployment) -> None:
    headers = {"Idempotency-Key": "x" * 256}
    response = await deployment.http.post("/api/jobs", json=GAGA, params={"dry_run": "1"}, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_request")


@pytest.mark.parametrize("value", ["1", "true", "True"])
async def test_yes_is_1_or_true(deployment: Deployment, value: str) -> None:
    assert (await dry(deployment, GAGA, value)).status_code == 200
    await nothing_happened(deployment)


@pytest.mark.parametrize("value", ["0", "false", "FALSE"])
async def test_no_is_0_or_false_and_sends_the_order(deployment: Deployment, value: str) -> None:
    assert (await dry(deployment, GAGA, value)).status_code == 202


@pytest.mark.parametrize("query", ["dry_run=", "dry_run", "dry_run=yes", "dry_run=2", "dry_run=1&dry_run=0"])
@pytest.mark.parametrize("path", ["/api/jobs", "/api/generate"])
async def test_any_other_value_is_refused_without_a_job(deployment: Deployment, path: str, query: str) -> None:
    assert fields_of(await deployment.http.post(f"{path}?{query}", json=GAGA)) == ["dry_run"]
    await nothing_happened(deployment)


async def test_generate_refuses_dry_runs(deployment: Deployment) -> None:
    answer = await deployment.http.post("/api/generate?dry_run=1", json=GAGA)
    assert fields_of(answer) == ["dry_run"]
    assert "/api/jobs" in error_of(answer)["message"]
    await nothing_happened(deployment)


async def test_generate_accepts_dry_run_0(deployment: Deployment) -> None:
    messages = await deployment.messages("POST", "/api/generate?dry_run=0", json=GAGA)
    assert messages
