"""The OpenAPI document: valid, complete, and correct about real responses."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from httpx_sse import EventSource
from openapi_spec_validator import validate
from starlette.routing import Route

from proxy.api import orders
from proxy.api.openapi import document, page
from proxy.api.openapi.calls import CALLS
from proxy.api.openapi.shapes import codes
from proxy.core.clock import SystemClock
from proxy.core.errors import BadRequest, InvalidRequest, JobError, MethodNotAllowed, PollcastError, RequestError
from tests.api.test_orders import FULL, MINIMAL, MISSING, TWO_FORMS
from tests.support.deployment import Deployment, events_of
from tests.support.registry import REGISTRY

SERVER = "https://cast.example.com"
BULK: dict[str, Any] = {"items": [{"unique_id": "a"}, {"unique_id": "b", "tag": "[fail]"}]}


def without_additional_fields(schema: Any) -> Any:
    """Return the schemas without additional fields."""
    if isinstance(schema, list):
        return [without_additional_fields(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {name: without_additional_fields(inner) for name, inner in schema.items()}
    if isinstance(schema.get("properties"), dict) and "oneOf" not in schema and schema.get("type") == "object":
        shut.setdefault("additionalProperties", False)
    return shut


def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    """Return a schema of the document without additional fields."""
    whole = without_additional_fields(document(SERVER, REGISTRY)["components"])
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": whole}, validate_formats=True
    )


# --- the document itself ---


def test_the_document_is_valid_openapi() -> None:
    validate(document(SERVER, REGISTRY))


def sub_schemas(schema: Any) -> Iterator[Any]:
    """Yield every schema of the components, and the schemas in it."""
    yield schema
    if not isinstance(schema, dict):
        return
    for name in ("properties", "dependentSchemas", "patternProperties"):
        for inner in schema.get(name, {}).values():
            yield from sub_schemas(inner)
    for name in ("oneOf", "anyOf", "allOf", "prefixItems"):
        for inner in schema.get(name, []):
            yield from sub_schemas(inner)
    for name in ("items", "not", "if", "then", "else", "propertyNames", "contentSchema"):
        if name in schema:
            yield from sub_schemas(schema[name])


ALL_SCHEMAS = document(SERVER, REGISTRY)["components"]["schemas"]
SCHEMAS = [inner for schema in ALL_SCHEMAS.values() for inner in sub_schemas(schema)]


def test_no_schema_is_a_boolean() -> None:
    """openapi-python-client refuses a document with a boolean schema."""
    assert len(SCHEMAS) > 200
    assert all(isinstance(schema, dict) for schema in SCHEMAS)


def test_defaults_are_only_in_descriptions() -> None:
    """openapi-typescript makes fields with defaults required."""
    assert not [schema for schema in SCHEMAS if "default" in schema]
    resolution = document(SERVER, REGISTRY)["components"]["schemas"]["order-gaga-1"]["properties"]["resolution"]
    assert resolution["description"] == 'Default: `"720p"`.'
    assert "resolution" not in document(SERVER, REGISTRY)["components"]["schemas"]["order-gaga-1"]["required"]


def test_an_upload_is_described_only_as_a_form() -> None:
    """@hey-api/openapi-ts prefers a JSON body if one is described."""
    content = document(SERVER, REGISTRY)["paths"]["/api/assets"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data"]
    assert content["multipart/form-data"]["schema"]["properties"]["file"]["format"] == "binary"


def test_an_order_has_properties_without_alternatives() -> None:
    """openapi-python-client drops properties next to alternatives."""
    orders_ = {name: schema for name, schema in ALL_SCHEMAS.items() if "order-" in name}
    assert len(orders_) == len(REGISTRY.models)
    assert all("properties" in schema and not {"oneOf", "anyOf", "allOf"} & set(schema) for schema in orders_.values())


async def test_every_counted_response_has_the_described_headers(deployment: Deployment) -> None:
    for path, status in (("/api/account", 200), ("/api/jobs", 200), ("/api/jobs/job_1", 404)):
        response = await deployment.http.get(path)
        template = path.replace("job_1", "{job}")
        described = document(SERVER, REGISTRY)["paths"][template]["get"]["responses"][str(status)]["headers"]
        assert response.status_code == status
        for name in ("RateLimit", "RateLimit-Policy"):
            assert name in response.headers
            assert name in described


async def test_the_document_and_the_routes_have_the_same_operations(deployment: Deployment) -> None:
    def calls(route: Route) -> Iterator[tuple[str, str]]:
        return ((method, route.path) for method in (route.methods or ()) if method != "HEAD")

    # The files of the playground's page and the reference pages are not part of the API.
    routes = [route for route in deployment.app.routes if not route.path.startswith(("/playground/", "/docs/"))]
    served = {call for route in routes for call in calls(route)}
    assert {(call.method.upper(), call.path) for call in CALLS} == served


async def test_the_document_is_served_unchanged(deployment: Deployment) -> None:
    response = await deployment.http.get("/openapi.json", headers={"Authorization": ""})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == document(deployment.origin, REGISTRY)


def test_every_described_parameter_and_header_is_used() -> None:
    text = orjson.dumps(document(SERVER, REGISTRY)).decode()
    for kind in ("parameters", "headers", "schemas"):
        for name in document(SERVER, REGISTRY)["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, name


def test_every_request_error_is_described() -> None:
    described = {kind for call in CALLS for kind in call.errors}
    # 405 is the response to methods that are not described.
    assert set(RequestError.__subclasses__()) - described == {MethodNotAllowed}


def test_a_failed_event_has_one_of_the_codes_of_the_error_tree() -> None:
    failed = document(SERVER, REGISTRY)["components"]["schemas"]["Failed"]["properties"]["code"]
    assert failed["enum"] == codes(JobError)
    assert set(failed["enum"]) < set(codes(PollcastError))


# --- orders: the schema and the parser agree ---


@pytest.mark.parametrize(("model", "fields"), [*MINIMAL.items(), *FULL])
def test_an_accepted_order_fits_its_schema(model: str, fields: dict[str, Any]) -> None:
    validator("Order").validate({"model": model, **fields})


@pytest.mark.parametrize(("model", "fields"), [case[:2] for case in (*MISSING, *TWO_FORMS)])
def test_a_refused_order_does_not_fit_its_schema(model: str, fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, BadRequest)):
        orders.parse(orjson.dumps({"model": model, **fields}), REGISTRY.models)
    assert not validator("Order").is_valid({"model": model, **fields})


@pytest.mark.parametrize("model", REGISTRY.models)
def test_extra_excludes_the_fields_that_pollcast_sets(model: str) -> None:
    order = {"model": model, **MINIMAL[model]}
    assert validator("Order").is_valid(order | {"extra": {"other": 1}}) is (REGISTRY.models[model].extra != "refused")
    for name in REGISTRY.models[model].reserved:
        assert not validator("Order").is_valid(order | {"extra": {name: 1}}), name


# --- events and jobs ---


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("gaga-1", {"prompt": "Hello"}),
        ("gaga-1", {"prompt": "[cancel]"}),
        ("gpt-image-2", {"prompt": "[b64]", "metadata": {"order": "4711"}}),
        ("gpt-5.4-mini", {"prompt": "Why stream?"}),
        ("suno", {"prompt": "[fail]"}),
        ("ganai-bulk", BULK),
        ("heygen-v1", {"prompt": "Hello", "avatar_id": "Anna"}),
    ],
)
async def test_every_event_and_the_job_are_as_described(
    deployment: Deployment, model: str, fields: dict[str, Any]
) -> None:
    messages = await deployment.messages("POST", "/api/generate", json={"model": model, **fields})
    for event in events_of(messages):
        validator("Event").validate(event)
    job = await deployment.ended(events_of(messages)[0]["job"])
    validator("Job").validate(job)


async def test_an_unfinished_job_with_an_estimate_is_as_described(deployment: Deployment) -> None:
    for _ in range(10):
        await deployment.generate("gaga-1", prompt="Hello")
    job = await deployment.submit("gaga-1", prompt="[slow]")
    seen = {"eta"} & set(job)
    while job["status"] in {"Processing started", "Processing"}:
        validator("Job").validate(job)
        seen |= {"eta", "polled_at"} & set(job)
        job = (await deployment.http.get(f"/api/jobs/{job['id']}")).json()
    assert seen == {"eta", "polled_at"}


async def test_every_message_of_an_account_s_feed_is_as_described(deployment: Deployment) -> None:
    await deployment.submit("suno", prompt="[stuck]")
    async with deployment.open("GET", "/api/events", last="1") as response:
        assert response.headers["content-type"] == "text/event-stream"
        async for message in EventSource(response).aiter_sse():
            told = {"data": message.data, "event": message.event} | ({"id": message.id} if message.id else {})
            validator("AccountMessage").validate(told)
            if message.event == "message":
                validator("Event").validate(message.json())
            if message.event == "ready":
                break


@pytest.mark.parametrize(("header", "status"), [("", 401), ("Bearer unknown", 401)])
async def test_an_account_s_feed_is_refused_as_described(deployment: Deployment, header: str, status: int) -> None:
    response = await deployment.http.get("/api/events", headers={"Authorization": header})
    assert response.status_code == status
    assert str(status) in document(SERVER, REGISTRY)["paths"]["/api/events"]["get"]["responses"]
    validator("Error").validate(response.json())


# --- the page ---


async def test_the_page_has_every_operation_and_schema(deployment: Deployment) -> None:
    response = await deployment.http.get("/docs", headers={"Authorization": ""})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    for call in CALLS:
        assert f"id='{call.name}'" in response.text
        assert f"<code>{call.path}</code>" in response.text
    for name in document(deployment.origin, REGISTRY)["components"]["schemas"]:
        assert f"id='schema-{name}'" in response.text


async def test_the_page_has_no_scripts_and_no_external_resources(deployment: Deployment) -> None:
    response = await deployment.http.get("/docs")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "<script" not in response.text
    assert not re.findall(r"(?:src|href)='(?!#|/|docs/)", response.text)


def test_every_link_of_the_page_has_a_target() -> None:
    text = page.page(SERVER, REGISTRY).decode()
    assert set(re.findall(r"href='#([^']+)'", text)) <= set(re.findall(r"id='([^']+)'", text))


def test_the_server_s_name_is_escaped() -> None:
    assert b"<b>" not in page.page("https://x/<b>", REGISTRY)


# --- thousands of generated requests ---

NOT_CHECKED = "positive_data_acceptance,negative_data_rejection"
"""Checks of schemathesis that do not apply: a valid order may use an unknown asset, and null means absent."""
ENOUGH = 5000
"""Minimum number of generated requests of the wide run."""
ENDLESS = "/api/events"
"""Its stream has no end, so a generator that reads whole responses would wait forever."""


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncIterator[Deployment]:
    """A deployment in real time, with providers that finish at once."""
    deployment = Deployment(tmp_path, SystemClock(), provider={"poll_interval": 0.02, "rate": 10_000})
    deployment.simulator.state.speed = 1000
    deployment.simulator.gaia.lives = float("inf")
    async with deployment:
        deployment.key = await deployment.new_key("fuzz", 1 << 40)
        await deployment.restart()
        yield deployment


async def document_with_ids(deployment: Deployment) -> dict[str, Any]:
    """Return the document without additional fields, and with existing ids as values of parameters."""
    ordered: list[tuple[str, dict[str, Any]]] = [
        ("gaga-1", {"prompt": "Hello"}),
        ("grok-imagine-video", {"prompt": "Rain"}),
        ("gpt-image-2", {"prompt": "[b64]"}),
        ("gpt-5.4-mini", {"prompt": "Why stream?"}),
        ("suno", {"prompt": "[fail]"}),
        ("ganai-bulk", BULK),
    ]
    finished = [(await deployment.generate(model, **fields))[0]["job"] for model, fields in ordered]
    running = [(await deployment.submit("gaga-1", prompt=f"[stuck] {n}"))["id"] for n in range(5)]
    deleted = [(await deployment.generate("suno", prompt="A song"))[0]["job"] for _ in range(5)]
    assets = [await deployment.asset(kind) for kind in ("image", "audio", "video")]
    whole: dict[str, Any] = deepcopy(without_additional_fields(document(deployment.origin, REGISTRY)))
    for path in (ENDLESS,):
        del whole["paths"][path]
    parameters = whole["components"]["parameters"]
    known = whole["paths"]["/api/jobs/{job}"]["get"]["parameters"]
    known.remove({"$ref": "#/components/parameters/wait"})  # a generator that waits makes nothing
    parameters["job"]["schema"] = one_of(finished + running)
    parameters["asset"]["schema"] = one_of(assets)
    whole["paths"]["/api/jobs/{job}"]["delete"]["parameters"] = [
        parameters["job"] | {"schema": one_of(deleted + running)}
    ]
    whole["paths"]["/api/assets/{asset}"]["delete"]["parameters"] = [
        parameters["asset"] | {"schema": one_of([await deployment.asset() for _ in range(3)])}
    ]
    for order in whole["components"]["schemas"].values():
        for name in ("image", "audio"):
            if order.get("title") in REGISTRY.models and name in order["properties"]:
                order["properties"][name] = one_of(assets)
    return whole


def one_of(known: list[str]) -> dict[str, Any]:
    """Use these values in valid requests. The generator also makes invalid ones."""
    return {"type": "string", "enum": known}


@pytest.fixture
async def place(busy: Deployment, tmp_path: Path) -> Path:
    """Write the document to a file, with existing ids of jobs and assets."""
    place = tmp_path / "openapi.json"
    place.write_bytes(orjson.dumps(await document_with_ids(busy)))
    return place


@pytest.mark.timeout(120)
async def test_a_hundred_generated_requests_get_described_responses(busy: Deployment, place: Path) -> None:
    assert await run_schemathesis(busy, place, "fuzzing", seed=1, examples=2) > 50


@pytest.mark.wide
@pytest.mark.timeout(480)
async def test_five_thousand_generated_requests_get_described_responses(busy: Deployment, place: Path) -> None:
    total = await run_schemathesis(busy, place, "coverage,fuzzing,stateful", seed=1)
    for seed in range(2, 5):
        if total >= ENOUGH:
            break
        total += await run_schemathesis(busy, place, "fuzzing", seed)
    assert total >= ENOUGH


async def run_schemathesis(deployment: Deployment, place: Path, phases: str, seed: int, examples: int = 120) -> int:
    """Check the responses to generated requests against the document, and return the number of requests."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("run", place, f"--url={deployment.origin}", f"--header=Authorization: Bearer {deployment.key}"),
        *("--checks=all", f"--exclude-checks={NOT_CHECKED}", f"--phases={phases}", f"--seed={seed}"),
        *(f"--max-examples={examples}", "--generation-database=none", "--request-timeout=10"),
        *("--continue-on-failure", "--warnings=off", "--no-color"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output[-20_000:]
    counted = re.search(r"(\d+) generated, ", output)
    assert counted is not None, output[-20_000:]
    return int(counted[1])
