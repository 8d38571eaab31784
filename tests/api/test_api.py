"""The endpoints of `proxy/docs/api.md`, and the invalid requests that they refuse."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import httpx
import orjson
import pytest

from proxy.store import open_store
from proxy.store.sqlite.store import SqliteTimes
from tests.support.deployment import NO_AUTHORITIES, Deployment


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Check the form of an error response, and return its body."""
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["status"] == "Error"
    assert body["message"]
    assert set(body) <= {"status", "message", "code", "errors"}
    assert "Traceback" not in response.text
    return body


def fields_of(response: httpx.Response) -> list[str]:
    assert response.status_code == 422, response.text
    body = error_of(response)
    assert body["code"] == "invalid_request"
    return [fault["field"] for fault in body["errors"]]


# --- without a key ---


async def test_ping_returns_pong(deployment: Deployment) -> None:
    response = await deployment.http.get("/api/ping", headers={"Authorization": ""})
    assert (response.status_code, response.text) == (200, "pong")


@pytest.mark.parametrize("path", ["/api/ping", "/api/jobs", "/nowhere", "/docs", "/", "/pollcast.js", "/openapi.json"])
async def test_responses_disable_content_sniffing(deployment: Deployment, path: str) -> None:
    assert (await deployment.http.get(path)).headers["x-content-type-options"] == "nosniff"


async def test_streams_disable_content_sniffing(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    for accept in ("*/*", "text/plain"):
        response = await deployment.http.get(f"/api/jobs/{job}/events", headers={"Accept": accept})
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_health_and_readiness_need_no_key(deployment: Deployment) -> None:
    for path in ("/healthz", "/readyz"):
        response = await deployment.http.get(path, headers={"Authorization": ""})
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/generate"),
        ("POST", "/api/jobs"),
        ("GET", "/api/jobs"),
        ("GET", "/api/jobs/job_x"),
        ("GET", "/api/jobs/job_x/events"),
        ("GET", "/api/jobs/job_x/content"),
        ("POST", "/api/assets"),
        ("GET", "/api/account"),
        ("GET", "/api/account/ledger"),
    ],
)
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer unknown", "Basic d2ViOndlYg==", "Bearer \u00e9"])
async def test_a_missing_or_unknown_key_is_401(deployment: Deployment, method: str, path: str, header: str) -> None:
    response = await deployment.http.request(method, path, headers=[(b"Authorization", header.encode("latin-1"))])
    assert response.status_code == 401
    assert error_of(response)["code"] == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/api", "/api/job", "/api/jobs/", "/api/jobs/x/y", "/favicon.ico", "/%00", "/..%2f"])
async def test_an_unknown_path_is_404_in_json(deployment: Deployment, path: str) -> None:
    response = await deployment.http.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/api/generate", "POST"), ("PUT", "/api/jobs", "GET, HEAD, POST"), ("POST", "/api/ping", "GET, HEAD")],
)
async def test_an_unknown_method_is_405_with_the_allowed_ones(
    deployment: Deployment, method: str, path: str, allowed: str
) -> None:
    response = await deployment.http.request(method, path)
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"
    assert sorted(response.headers["allow"].split(", ")) == sorted(allowed.split(", "))


async def test_an_output_number_of_thousands_of_digits_is_404(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    for n in ("9" * 5000, "-1", "x"):
        response = await deployment.http.get(f"/api/jobs/{job}/content/{n}")
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")


async def raw(deployment: Deployment, request: bytes) -> bytes:
    """Send these bytes, and return all bytes of the response until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rsplit(":", 1)[1]))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("request_line", [b"GET /caf\xc3\xa9 HTTP/1.1", b"NONSENSE", b"BREW /api/ping HTTP/1.1"])
async def test_malformed_http_is_400_in_json(deployment: Deployment, request_line: bytes) -> None:
    answer = await raw(deployment, request_line + b"\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/json" in head
    assert orjson.loads(body)["code"] == "bad_request"


async def test_a_request_that_offers_http2_keeps_its_body(deployment: Deployment) -> None:
    body = orjson.dumps(GAGA)
    answer = await raw(
        deployment,
        b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAB\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
        % (deployment.key.encode(), len(body), body),
    )
    assert answer.startswith(b"HTTP/1.1 202 ")


# --- refused orders: 4xx, no job, no charge ---

GAGA = {"model": "gaga-1", "prompt": "Hello"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"prompt=Hello", 400, "bad_request"),
        (b'{"model": "gaga-1"', 400, "bad_request"),
        (b'{"model": "gaga-1", "prompt": "\xff"}', 400, "bad_request"),
        (b'{"model": "gaga-1", "prompt": NaN}', 400, "bad_request"),
        (b"[" * 2000, 400, "bad_request"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b"{}", 422, "invalid_request"),
        (b'{"model": 7}', 422, "invalid_request"),
        (b'{"model": "sora"}', 422, "unknown_model"),
        (b'{"model": "gaga-1", "prompt": "' + b"x" * (2 << 20) + b'"}', 413, "too_large"),
    ],
)
@pytest.mark.parametrize("path", ["/api/generate", "/api/jobs"])
async def test_a_body_that_is_not_an_order_is_refused(
    deployment: Deployment, path: str, body: bytes, status: int, code: str
) -> None:
    response = await deployment.http.post(path, content=body)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    await nothing_happened(deployment)


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"model": "gaga-1"}, "prompt"),
        ({"model": "gaga-1", "prompt": ""}, "prompt"),
        ({"model": "gaga-1", "prompt": " \n "}, "prompt"),
        ({"model": "gaga-1", "prompt": 7}, "prompt"),
        ({"model": "gaga-1", "prompt": None}, "prompt"),
        ({**GAGA, "promt": "x"}, "promt"),
        ({**GAGA, "style": "4"}, "style"),
        ({**GAGA, "duration": "10"}, "duration"),
        ({**GAGA, "duration": True}, "duration"),
        ({**GAGA, "duration": 0}, "duration"),
        ({**GAGA, "aspect_ratio": "wide"}, "aspect_ratio"),
        ({**GAGA, "metadata": {"a": 1}}, "metadata.a"),
        ({**GAGA, "metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({**GAGA, "extra": {"chunks": []}}, "extra.chunks"),
        ({**GAGA, "chunks": [{"prompt": "x"}]}, "prompt"),
        ({"model": "gaga-1", "chunks": []}, "chunks"),
        ({"model": "gaga-1", "chunks": [{"prompt": "x", "length": 2}]}, "chunks.0.length"),
        ({"model": "avatar-h1", "prompt": "smile"}, "image"),
        ({"model": "suno", "prompt": "song", "style": "1"}, "style"),
        ({"model": "pika", "prompt": "lake", "style": "8"}, "style"),
        ({"model": "pika", "prompt": "lake", "style": 4}, "style"),
        ({"model": "run", "prompt": "lake", "style": "Anime"}, "style"),
        ({"model": "grok-imagine-video", "prompt": "x", "extra": {"nested": {}}}, "extra.nested"),
        ({"model": "gpt-5.4-mini"}, "prompt"),
        ({"model": "gpt-5.4-mini", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ({"model": "heygen-v1", "prompt": "x"}, "avatar_id"),
        ({"model": "heygen-v1", "prompt": "x", "avatar_id": "a", "talking_photo_id": "b"}, "avatar_id"),
        ({"model": "heygen-v1", "prompt": "x", "avatar_id": "a", "background": "#12"}, "background"),
        ({"model": "heygen-v1", "clips": [{"prompt": "x"}]}, "clips.0.avatar_id"),
        ({"model": "ganai-bulk", "items": []}, "items"),
        ({"model": "ganai-bulk", "items": [{"names": "x"}]}, "items.0.unique_id"),
        ({"model": "ganai-bulk", "items": [{"unique_id": "a"}, {"unique_id": "a"}]}, "items.1.unique_id"),
        ({"model": "ganai-bulk", "items": [{"unique_id": "a"}], "extra": {"x": 1}}, "extra"),
        ({**GAGA, "image": "asset_01J0000000000000000000000"}, "image"),
        ({**GAGA, "image": "cat.png"}, "image"),
        ({**GAGA, "image": "http://example.com/cat.png"}, "image"),
        ({**GAGA, "image": "https://a..b.com/cat.png"}, "image"),
        ({**GAGA, "audio": f"https://{'a' * 64}.com/cat.mp3"}, "audio"),
        ({**GAGA, "image": "https://127.0.0.1/cat.png"}, "image"),
        ({**GAGA, "image": "https://localhost/cat.png"}, "image"),
        ({**GAGA, "image": "https://[::ffff:10.0.0.1]/cat.png"}, "image"),
        ({**GAGA, "image": "https://2130706433/cat.png"}, "image"),
        ({**GAGA, "image": "https://169.254.169.254/latest/meta-data"}, "image"),
        ({"model": "grok-imagine-video", "prompt": "x", "images": ["https://10.1.2.3/a.png"]}, "images.0"),
        ({"model": "grok-imagine-video", "prompt": "x", "images": ["https://a\0b.com/a.png"]}, "images.0"),
    ],
)
async def test_an_invalid_order_is_refused_by_field(deployment: Deployment, order: dict[str, Any], field: str) -> None:
    assert field in fields_of(await deployment.http.post("/api/jobs", json=order))
    await nothing_happened(deployment)


async def test_a_refused_style_lists_the_available_ones(deployment: Deployment) -> None:
    response = await deployment.http.post("/api/jobs", json={"model": "pika", "prompt": "lake", "style": "8"})
    assert "4 (Watercolor)" in error_of(response)["message"]


async def test_the_error_of_a_blank_prompt_says_so(deployment: Deployment) -> None:
    response = await deployment.http.post("/api/jobs", json={"model": "gaga-1", "prompt": " "})
    assert error_of(response)["message"] == "prompt: must not be blank"


async def test_another_accounts_asset_does_not_exist(deployment: Deployment) -> None:
    other = await deployment.new_key("other")
    files = {"file": ("a.png", deployment.media("image"), "image/png")}
    asset = (
        await deployment.http.post("/api/assets", files=files, headers={"Authorization": f"Bearer {other}"})
    ).json()
    assert fields_of(await deployment.http.post("/api/jobs", json={**GAGA, "image": asset["id"]})) == ["image"]
    for path in (f"/api/assets/{asset['id']}", f"/api/assets/{asset['id']}/content"):
        assert (await deployment.http.get(path)).status_code == 404
    await nothing_happened(deployment)


async def test_an_asset_of_the_wrong_kind_is_refused(deployment: Deployment) -> None:
    audio = await deployment.asset("audio")
    response = await deployment.http.post("/api/jobs", json={**GAGA, "image": audio})
    assert fields_of(response) == ["image"]
    assert "audio/mpeg" in error_of(response)["message"]
    await nothing_happened(deployment)


async def nothing_happened(deployment: Deployment) -> None:
    assert (await deployment.http.get("/api/jobs")).json() == {"jobs": [], "next": None}
    assert await deployment.balance() == 1000
    assert not deployment.simulator.submits


async def test_an_empty_account_is_418_with_price_and_balance(deployment: Deployment) -> None:
    poor = await deployment.new_key("poor", 19)
    response = await deployment.http.post("/api/generate", json=GAGA, headers={"Authorization": f"Bearer {poor}"})
    assert response.status_code == 418
    error = error_of(response)
    assert error["code"] == "insufficient_tokens"
    assert "20" in error["message"]
    assert "19" in error["message"]
    assert not deployment.simulator.submits


async def test_a_provider_without_a_key_is_503_and_its_models_are_unavailable(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"api_key": ""}
    async with unstarted as deployment:
        response = await deployment.http.post("/api/jobs", json=GAGA)
        assert (response.status_code, error_of(response)["code"]) == (503, "provider_unavailable")
        models = (await deployment.http.get("/api/models")).json()["models"]
        assert {model["id"] for model in models if not model["available"]} == {"gaga-1", "avatar-h1", "avatar-h1-pro"}
        await nothing_happened(deployment)


async def test_gan_ai_without_a_project_names_the_missing_field(unstarted: Deployment) -> None:
    unstarted.providers["Gan.ai"] = {"project_id": ""}
    async with unstarted as deployment:
        order = {"model": "ganai-bulk", "items": [{"unique_id": "a"}]}
        assert fields_of(await deployment.http.post("/api/jobs", json=order)) == ["project_id"]
        assert (await deployment.http.post("/api/jobs", json={**order, "project_id": "p"})).status_code == 202


async def test_an_asset_for_heygen_needs_a_public_url(unstarted: Deployment) -> None:
    unstarted.providers["HeyGen"] = {"base_url": "https://api.heygen.com"}
    async with unstarted as deployment:
        order = {"model": "heygen-v1", "avatar_id": "a", "audio": await deployment.asset("audio")}
        response = await deployment.http.post("/api/jobs", json=order)
        assert fields_of(response) == ["audio"]
        assert "POLLCAST_PUBLIC_URL" in error_of(response)["message"]


# --- accepted orders ---


async def test_a_new_job_is_202_with_its_location_and_links(deployment: Deployment) -> None:
    response = await deployment.http.post("/api/jobs", json={**GAGA, "metadata": {"user": "7"}})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/jobs/{job['id']}"
    assert (job["model"], job["status"], job["event"]) == ("gaga-1", "Processing started", 1)
    assert (job["tokens"], job["refunded"], job["metadata"]) == (20, 0, {"user": "7"})
    assert job["order"]["prompt"] == "Hello"
    assert job["links"]["self"] == f"{deployment.origin}/api/jobs/{job['id']}"
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        assert (await stranger.get(job["links"]["events"])).text.startswith("retry: 2000\ndata: ")


async def test_an_order_is_read_as_json_with_any_content_type(deployment: Deployment) -> None:
    body = orjson.dumps(GAGA)
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"):
        response = await deployment.http.post("/api/jobs", content=body, headers={"Content-Type": content_type})
        assert response.status_code == 202


async def test_null_and_an_empty_style_mean_absent(deployment: Deployment) -> None:
    events = await deployment.generate("suno", prompt="song", style="", metadata=None, extra=None)
    assert events[-1]["status"] == "Completed"


async def test_metadata_is_returned_in_the_job_and_its_final_event(deployment: Deployment) -> None:
    events = await deployment.generate("gaga-1", prompt="Hello", metadata={"user": "7"})
    assert events[-1]["metadata"] == {"user": "7"}
    assert "metadata" not in events[0]


async def test_extra_is_sent_to_the_provider_with_the_model_s_fields(deployment: Deployment) -> None:
    await deployment.http.post("/api/jobs", json={**GAGA, "extra": {"watermark": False}})
    while not deployment.simulator.calls["gaga.submit"]:
        await deployment.clock.sleep(0)
    submit = next(request for request in deployment.simulator.requests if request.operation == "gaga.submit")
    assert isinstance(submit.body, dict)
    assert submit.body["watermark"] is False


async def test_jobs_are_listed_newest_first_in_pages(deployment: Deployment) -> None:
    made = [(await deployment.submit("suno", prompt=str(n)))["id"] for n in range(5)]
    first = (await deployment.http.get("/api/jobs", params={"limit": 2})).json()
    second = (await deployment.http.get("/api/jobs", params={"limit": 2, "before": first["next"]})).json()
    last = (await deployment.http.get("/api/jobs", params={"limit": 2, "before": second["next"]})).json()
    listed = [job["id"] for page in (first, second, last) for job in page["jobs"]]
    assert listed == made[::-1]
    assert last["next"] is None


async def test_jobs_are_filtered_by_status_and_model(deployment: Deployment) -> None:
    await deployment.generate("suno", prompt="song")
    await deployment.generate("gaga-1", prompt="[fail]")
    failed = (await deployment.http.get("/api/jobs", params={"status": "Error"})).json()["jobs"]
    songs = (await deployment.http.get("/api/jobs", params={"model": "suno"})).json()["jobs"]
    assert [job["model"] for job in failed] == ["gaga-1"]
    assert [job["status"] for job in songs] == ["Completed"]


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "201"}, {"limit": "x"}, {"status": "done"}])
async def test_an_invalid_query_is_refused_by_parameter(deployment: Deployment, query: dict[str, str]) -> None:
    assert fields_of(await deployment.http.get("/api/jobs", params=query)) == list(query)


async def test_another_accounts_job_does_not_exist(deployment: Deployment) -> None:
    job = await deployment.submit("gaga-1", prompt="Hello")
    other = {"Authorization": f"Bearer {await deployment.new_key('other')}"}
    for path in ("", "/events", "/content"):
        response = await deployment.http.get(f"/api/jobs/{job['id']}{path}", headers=other)
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
    assert (await deployment.http.get("/api/jobs", headers=other)).json()["jobs"] == []


async def test_a_completed_job_shows_its_url_and_outputs(deployment: Deployment) -> None:
    job = await deployment.ended((await deployment.submit("gaga-1", prompt="Hello"))["id"])
    assert job["status"] == "Completed"
    assert job["url"] == job["outputs"][0]["url"]
    assert job["outputs"][0]["type"] == "video/mp4"


async def test_a_failed_job_shows_the_reason_and_the_refund(deployment: Deployment) -> None:
    job = await deployment.ended((await deployment.submit("gaga-1", prompt="[fail]"))["id"])
    assert (job["status"], job["code"], job["tokens"], job["refunded"]) == ("Error", "upstream_failed", 20, 20)
    assert job["message"]
    assert "url" not in job


# --- Idempotency-Key ---


async def test_the_same_key_and_body_return_one_job_charged_once(deployment: Deployment) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = await deployment.http.post("/api/jobs", json={"model": "gaga-1", "prompt": "Hello"}, headers=headers)
    again = await deployment.http.post("/api/jobs", json={"prompt": "Hello", "model": "gaga-1"}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert await deployment.balance() == 980


async def test_the_same_key_with_another_body_is_422(deployment: Deployment) -> None:
    headers = {"Idempotency-Key": "order-1"}
    await deployment.http.post("/api/jobs", json=GAGA, headers=headers)
    response = await deployment.http.post("/api/jobs", json={**GAGA, "seed": 7}, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (422, "idempotency_conflict")


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_invalid_idempotency_key_is_400(deployment: Deployment, key: str) -> None:
    response = await deployment.http.post("/api/jobs", json=GAGA, headers={"Idempotency-Key": key})
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_request")


# --- the account ---


async def test_the_account_has_a_name_and_a_balance(deployment: Deployment) -> None:
    assert (await deployment.http.get("/api/account")).json() == {"name": "web", "tokens": 1000}


async def test_an_empty_filter_is_ignored(deployment: Deployment) -> None:
    job = await deployment.submit("suno", prompt="song")
    page = (await deployment.http.get("/api/jobs", params={"status": "", "model": "", "before": ""})).json()
    assert [found["id"] for found in page["jobs"]] == [job["id"]]


async def test_the_ledger_has_the_cause_of_each_entry(deployment: Deployment) -> None:
    events = await deployment.generate("gaga-1", prompt="[fail]")
    entries = (await deployment.http.get("/api/account/ledger")).json()["entries"]
    assert [(entry["cause"], entry["tokens"]) for entry in entries] == [
        ("refund", 20),
        ("charge", -20),
        ("grant", 1000),
    ]
    assert [entry["job"] for entry in entries] == [events[0]["job"], events[0]["job"], None]
    assert all(entry["id"] and entry["at"].endswith("Z") for entry in entries)


async def test_a_revoked_key_is_refused_at_once(deployment: Deployment) -> None:
    async with open_store(deployment.store_url, deployment.clock) as store:
        await store.revoke_key((await store.keys())[0].id)
    assert (await deployment.http.get("/api/account")).status_code == 401


# --- the catalogue ---


async def test_the_catalogue_has_every_model_with_its_price(deployment: Deployment) -> None:
    models = (await deployment.http.get("/api/models", headers={"Authorization": ""})).json()["models"]
    assert {model["id"]: model["tokens"] for model in models} == {
        "gaga-1": 20,
        "avatar-h1": 20,
        "avatar-h1-pro": 30,
        "grok-imagine-video": 30,
        "gpt-image-2": 5,
        "image2": 5,
        "gpt-5.4-mini": 1,
        "suno": 10,
        "luma": 30,
        "pika": 10,
        "run": 30,
        "ganai-bulk": 10,
        "heygen-v1": 20,
        "heygen-v3": 20,
    }
    for model in models:
        assert set(model) - {"retired_on"} == {
            "id", "provider", "kind", "tokens", "available", "note", "typical_seconds", "fields", "styles",
        }  # fmt: skip
        assert model.get("retired_on") == ("2026-10-31" if model["id"] == "heygen-v1" else None)
        assert model["available"] is True
        assert len(model["typical_seconds"]) == 2


async def test_the_catalogue_names_styles_and_describes_fields(deployment: Deployment) -> None:
    models = {model["id"]: model for model in (await deployment.http.get("/api/models")).json()["models"]}
    assert {"value": "7", "name": "Black & White"} in models["pika"]["styles"]
    assert len(models["pika"]["styles"]) == 7
    assert len(models["run"]["styles"]) == 25
    assert models["pika"]["fields"]["properties"]["style"]["enum"] == ["1", "2", "3", "4", "5", "6", "7"]
    assert models["suno"]["fields"]["required"] == ["prompt"]
    assert models["suno"]["fields"]["additionalProperties"] is False
    assert "style" not in models["suno"]["fields"]["properties"]


async def test_prices_are_settings(unstarted: Deployment) -> None:
    unstarted.settings["tokens"] = {"gaga-1": 7, "ganai-bulk": 2}
    async with unstarted as deployment:
        assert (await deployment.submit("gaga-1", prompt="Hello"))["tokens"] == 7
        items = [{"unique_id": str(n)} for n in range(3)]
        assert (await deployment.submit("ganai-bulk", items=items))["tokens"] == 6


async def test_prices_depend_on_the_ordered_units(deployment: Deployment) -> None:
    assert (await deployment.submit("gpt-image-2", prompt="cat", n=3))["tokens"] == 15
    assert (await deployment.submit("heygen-v1", prompt="hi", avatar_id="a"))["tokens"] == 20
    assert (await deployment.submit("heygen-v1", prompt="hi", avatar_id="a", test=True))["tokens"] == 0


# --- CORS ---


async def test_configured_origins_may_read_responses_and_errors(unstarted: Deployment) -> None:
    unstarted.settings["cors_origins"] = "https://app.example.com"
    async with unstarted as deployment:
        own = {"Origin": "https://app.example.com"}
        for path in ("/api/models", "/nowhere"):
            response = await deployment.http.get(path, headers=own)
            assert response.headers["access-control-allow-origin"] == "https://app.example.com"
            assert "location" in response.headers["access-control-expose-headers"].lower()
        response = await deployment.http.get("/api/models", headers={"Origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in response.headers


async def test_a_preflight_allows_the_clients_headers(unstarted: Deployment) -> None:
    unstarted.settings["cors_origins"] = "*"
    async with unstarted as deployment:
        response = await deployment.http.options(
            "/api/generate",
            headers={
                "Origin": "https://app.example.com",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, last-event-id",
            },
        )
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers


async def test_a_preflight_from_another_origin_is_refused_in_json(unstarted: Deployment) -> None:
    unstarted.settings["cors_origins"] = "https://app.example.com"
    async with unstarted as deployment:
        headers = {"Origin": "https://evil.example.com", "Access-Control-Request-Method": "POST"}
        response = await deployment.http.options("/api/generate", headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (400, "bad_request")


# --- an unavailable store ---


@contextmanager
def write_lock(deployment: Deployment) -> Iterator[None]:
    """Hold the store's write lock, as another process would."""
    with closing(sqlite3.connect(deployment.folder / "pollcast.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_an_order_that_cannot_be_recorded_is_503_without_a_job(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.app.open_store", partial(open_store, sqlite_times=SqliteTimes(busy=0.05)))
    async with unstarted as deployment:
        with write_lock(deployment):
            for path in ("/api/jobs", "/api/generate"):
                response = await deployment.http.post(path, json=GAGA)
                assert (response.status_code, error_of(response)["code"]) == (503, "unavailable")
            assert (await deployment.http.get("/readyz")).status_code == 503
            assert (await deployment.http.get("/healthz")).status_code == 200
        assert (await deployment.http.get("/readyz")).status_code == 200
        await nothing_happened(deployment)


async def test_a_running_job_waits_for_the_store_and_loses_nothing(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.app.open_store", partial(open_store, sqlite_times=SqliteTimes(busy=0.05)))
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.submit", "slow", seconds=1, times=1)
        job = await deployment.submit("gaga-1", prompt="Hello")
        while not deployment.simulator.calls["gaga.submit"]:
            await asyncio.sleep(0.001)
        with write_lock(deployment):
            await asyncio.sleep(0.2)
        assert (await deployment.ended(job["id"]))["status"] == "Completed"
        assert deployment.simulator.submits["gaga"] == 1
        assert await deployment.balance() == 980


# --- a byte order mark ---


async def test_a_json_body_with_a_byte_order_mark_is_read(deployment: Deployment) -> None:
    for path, body in (
        ("/api/jobs", b'{"model": "suno", "prompt": "song"}'),
        ("/api/generate", b'{"model": "suno", "prompt": "song"}'),
        ("/api/links", b'{"path": "/api/events"}'),
        ("/api/assets", b'{"url": "http://127.0.0.1/"}'),
    ):
        plain = await deployment.http.post(path, content=body)
        marked = await deployment.http.post(path, content=b"\xef\xbb\xbf" + body)
        assert marked.status_code == plain.status_code
        assert plain.status_code != 400
