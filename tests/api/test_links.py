"""Links over HTTP: signing, refused paths, and the endpoints that a Link opens."""

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from proxy.store import open_store
from tests.api.test_api import error_of, fields_of
from tests.support.deployment import NO_AUTHORITIES, Deployment

HOUR = 3600


async def make_link(deployment: Deployment, path: str, **body: Any) -> httpx.Response:
    return await deployment.http.post("/api/links", json={"path": path, **body})


async def link_to(deployment: Deployment, path: str, **body: Any) -> str:
    answer = await make_link(deployment, path, **body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


async def open_without_key(url: str, method: str = "GET", **options: Any) -> httpx.Response:
    """Request a URL without a key."""
    async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
        return await stranger.request(method, url, **options)


async def finish_job(deployment: Deployment) -> str:
    """Create a finished job whose content is stored."""
    return str((await deployment.generate("gpt-5.4-mini", prompt="Why stream?"))[0]["job"])


# --- allowed ---


async def test_a_new_link_has_an_expiry(deployment: Deployment) -> None:
    answer = await make_link(deployment, f"/api/assets/{await deployment.asset()}/content")
    assert answer.status_code == 201
    assert set(answer.json()) == {"url", "expires_at"}
    assert answer.json()["url"].startswith(f"{deployment.origin}/api/assets/asset_")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("ttl", "end"), [(None, HOUR), (1, 1), (7 * 86400, 7 * 86400)])
async def test_a_link_lasts_an_hour_or_the_requested_time(deployment: Deployment, ttl: int | None, end: int) -> None:
    before = deployment.clock.now()
    answer = await make_link(
        deployment, f"/api/assets/{await deployment.asset()}/content", **({"ttl": ttl} if ttl else {})
    )
    expires = int(dict(parse_qsl(urlsplit(answer.json()["url"]).query))["expires"])
    assert end <= expires - before <= end + 2
    from datetime import datetime

    assert datetime.fromisoformat(answer.json()["expires_at"]).timestamp() == expires


async def test_events_content_and_assets_open_without_a_key(deployment: Deployment) -> None:
    job, asset = await finish_job(deployment), await deployment.asset()
    for path in (f"/api/jobs/{job}/events", f"/api/jobs/{job}/content", f"/api/jobs/{job}/content/0"):
        assert (await open_without_key(await link_to(deployment, path))).status_code == 200
    assert (
        await open_without_key(await link_to(deployment, f"/api/assets/{asset}/content"))
    ).content == deployment.media("image")


async def test_head_is_answered(deployment: Deployment) -> None:
    job, asset = await finish_job(deployment), await deployment.asset()
    for path in (f"/api/jobs/{job}/events", f"/api/jobs/{job}/content", f"/api/assets/{asset}/content"):
        answer = await open_without_key(await link_to(deployment, path), "HEAD")
        assert (answer.status_code, answer.content) == (200, b"")


async def test_the_jobs_in_the_query_are_signed(deployment: Deployment) -> None:
    url = urlsplit(await link_to(deployment, "/api/events?jobs=job_1,job_2"))
    assert url.path == "/api/events"
    assert dict(parse_qsl(url.query))["jobs"] == "job_1,job_2"


async def test_a_link_s_feed_has_only_the_signed_jobs(deployment: Deployment) -> None:
    job, other = await finish_job(deployment), await finish_job(deployment)
    url = await link_to(deployment, f"/api/events?jobs={job}")
    async with (
        httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger,
        stranger.stream("GET", url) as response,
    ):
        seen = ""
        async for line in response.aiter_lines():
            seen += line
            if line == "event: ready":
                break
    assert job in seen
    assert other not in seen
    await expect_unauthorized(url.replace(job, other))
    await expect_unauthorized(f"{url}&jobs={other}")


async def test_a_reconnecting_event_source_may_append_its_last_event_id(deployment: Deployment) -> None:
    job = await finish_job(deployment)
    url = await link_to(deployment, f"/api/jobs/{job}/events")
    number = (await deployment.http.get(f"/api/jobs/{job}")).json()["event"]
    assert (await open_without_key(f"{url}&lastEventId={number}")).status_code == 204


async def test_a_last_event_id_in_the_path_is_not_signed(deployment: Deployment) -> None:
    job = await finish_job(deployment)
    url = await link_to(deployment, f"/api/jobs/{job}/events?lastEventId=1")
    assert b"id: 1\n" not in (await open_without_key(url)).content
    assert b"id: 1\n" in (await open_without_key(url.replace("lastEventId=1", "lastEventId=0"))).content


# --- not allowed ---


async def expect_unauthorized(url: str, method: str = "GET") -> None:
    answer = await open_without_key(url, method)
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "unauthorized"


async def test_another_path_does_not_open(deployment: Deployment) -> None:
    job, other = await finish_job(deployment), await finish_job(deployment)
    url = await link_to(deployment, f"/api/jobs/{job}/events")
    await expect_unauthorized(url.replace(job, other))
    await expect_unauthorized(url.replace("/events", "/content"))


async def test_an_altered_or_widened_query_does_not_open(deployment: Deployment) -> None:
    job = await finish_job(deployment)
    url = urlsplit(await link_to(deployment, f"/api/jobs/{job}/events?jobs={job}"))
    pairs = parse_qsl(url.query)
    for query in (
        [*pairs, ("jobs", "job_2")],
        [*pairs, ("status", "Error")],
        [pair for pair in pairs if pair[0] != "jobs"],
        [(name, "9999999999" if name == "expires" else value) for name, value in pairs],
        [(name, value[:-1] + "x" if name == "signature" else value) for name, value in pairs],
    ):
        await expect_unauthorized(url._replace(query=urlencode(query)).geturl())


async def test_an_expired_link_does_not_open(deployment: Deployment) -> None:
    url = await link_to(deployment, f"/api/assets/{await deployment.asset()}/content", ttl=60)
    deployment.clock.at += 61
    await expect_unauthorized(url)


async def test_a_link_is_invalid_once_its_key_is_revoked(deployment: Deployment) -> None:
    url = await link_to(deployment, f"/api/assets/{await deployment.asset()}/content")
    async with open_store(deployment.store_url, deployment.clock) as store:
        await store.revoke_key((await store.keys())[0].id)
    await expect_unauthorized(url)


async def test_a_link_allows_only_reading(deployment: Deployment) -> None:
    asset, job = await deployment.asset(), await finish_job(deployment)
    link = urlsplit(await link_to(deployment, f"/api/assets/{asset}/content"))
    await expect_unauthorized(link._replace(path=f"/api/assets/{asset}").geturl(), "DELETE")
    await expect_unauthorized(link._replace(path=f"/api/jobs/{job}").geturl(), "DELETE")
    await expect_unauthorized(link._replace(path="/api/links").geturl(), "POST")
    assert (await open_without_key(link.geturl(), "POST")).status_code == 405


async def test_a_link_cannot_be_made_with_a_link(deployment: Deployment) -> None:
    url = await link_to(deployment, f"/api/assets/{await deployment.asset()}/content")
    async with httpx.AsyncClient(base_url=deployment.origin, trust_env=False, verify=NO_AUTHORITIES) as stranger:
        body = {"path": "/api/events"}
        assert (await stranger.post("/api/links", json=body)).status_code == 401
        assert (await stranger.post(f"/api/links?{urlsplit(url).query}", json=body)).status_code == 401


# --- refused requests ---


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/api/account",
        "/api/jobs",
        "/api/jobs/job_1",
        "/api/jobs/job_1/cancel",
        "/api/assets/asset_1",
        "/api/events/",
        "/api//events",
        "//api/events",
        "/api/jobs/../events",
        "/api/jobs/./events",
        "/api/jobs/job_1/content/x",
        "/api/jobs/job_1/content/-1",
        "/api/jobs/job_1/content/1234567890",
        "/api/jobs/job%5F1/events",
        "/api/jobs/job_1%2Fevents",
        "/api/%65vents",
        "/api/events#ready",
        "/api/events?jobs=a#b",
        "/api/events?jobs=a b",
        "/api/events?jobs=é",
        "/api/events\n",
        "/api/events;jobs=a",
        "\\api\\events",
        "api/events",
        "https://cast.example.com/api/events",
        "//evil.example.com/api/events",
        "/api/events?key=key_1",
        "/api/events?expires=9999999999",
        "/api/events?jobs=a&signature=",
        "/api/events?sign%61ture=x",
        "/api/events?jobs=" + "a" * 8000,
    ],
)
async def test_a_path_that_links_cannot_open_is_refused_by_field(deployment: Deployment, path: str) -> None:
    assert fields_of(await make_link(deployment, path)) == ["path"]


async def test_an_absolute_url_of_this_server_is_refused(deployment: Deployment) -> None:
    assert fields_of(await make_link(deployment, f"{deployment.origin}/api/events")) == ["path"]


@pytest.mark.parametrize("ttl", [0, -1, 7 * 86400 + 1, 1.5, True, False, "60", "", [60], {"seconds": 60}, 10**30])
async def test_an_invalid_ttl_is_refused(deployment: Deployment, ttl: object) -> None:
    assert fields_of(await make_link(deployment, "/api/events", ttl=ttl)) == ["ttl"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["path"]),
        ({"path": None}, ["path"]),
        ({"path": 7}, ["path"]),
        ({"path": ["/api/events"]}, ["path"]),
        ({"path": "/api/events", "expires": 7}, ["expires"]),
        ({"path": "/api/events", "TTL": 7}, ["TTL"]),
        ({"url": "/api/events", "ttl": "x"}, ["path", "ttl", "url"]),
    ],
)
async def test_an_invalid_request_is_refused_by_field(deployment: Deployment, body: Any, fields: list[str]) -> None:
    assert sorted(fields_of(await deployment.http.post("/api/links", json=body))) == fields


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b"path=/api/events", 400), (b"[]", 422), (b'"x"', 422)])
async def test_a_body_that_is_not_a_json_object_is_refused(deployment: Deployment, body: bytes, status: int) -> None:
    answer = await deployment.http.post("/api/links", content=body)
    assert answer.status_code == status
    assert error_of(answer)["message"]


async def test_null_means_absent(deployment: Deployment) -> None:
    assert (await make_link(deployment, "/api/events", ttl=None)).status_code == 201


@pytest.mark.parametrize("path", ["/api/jobs/job_1/events", "/api/jobs/job_1/content", "/api/assets/asset_1/content"])
async def test_an_unknown_job_or_asset_is_not_found(deployment: Deployment, path: str) -> None:
    answer = await make_link(deployment, path)
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


async def test_another_account_s_job_and_asset_are_not_found(deployment: Deployment) -> None:
    job, asset = await finish_job(deployment), await deployment.asset()
    deployment.http.headers["Authorization"] = f"Bearer {await deployment.new_key('other')}"
    for path in (f"/api/jobs/{job}/events", f"/api/jobs/{job}/content/0", f"/api/assets/{asset}/content"):
        assert (await make_link(deployment, path)).status_code == 404
