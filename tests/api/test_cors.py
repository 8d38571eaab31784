"""CORS: allowed and refused origins, their log lines, and the patterns of POLLCAST_CORS_ORIGINS."""

import logging
import re

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from proxy.api.cors import Cors
from proxy.core.origins import Origins, normalize
from tests.support.deployment import Deployment

HEADERS = (
    "authorization, content-type, last-event-id, idempotency-key, range, x-request-id, x-requested-with, traceparent, "
    "tracestate, baggage, sentry-trace"
)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("*", "*"),
        ("null", "null"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80/", "http://app.example.com"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("https://B\u00fccher.example", "https://xn--bcher-kva.example"),
        ("https://fa\u00df.example:8443", "https://xn--fa-hia.example:8443"),
        ("https://*.B\u00fccher.example", "https://*.xn--bcher-kva.example"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("http://192.168.0.7:5173", "http://192.168.0.7:5173"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("moz-extension://1b2c-3d", "moz-extension://1b2c-3d"),
        ("safari-web-extension://1B2C-3D", "safari-web-extension://1b2c-3d"),
    ],
)
def test_an_origin_is_normalized_to_the_browsers_form(written: str, sent: str) -> None:
    assert normalize(written) == sent


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("app.example.com", "scheme and a host"),
        ("*.example.com", "scheme and a host"),
        ("https://app.example.com/path", "no path"),
        ("https://app.example.com?a=b", "no path"),
        ("https://a.example https://b.example", "is not an origin"),
        ("https://*", "subdomains"),
        ("https://app.*.com", "subdomains"),
        ("https://*app.example.com", "subdomains"),
        ("http://localhost:*", "subdomains"),
        ("https://me:secret@app.example.com/", "user name"),
        ("ftp://app.example.com", "the scheme is neither"),
        ("htps://app.example.com", "the scheme is neither"),
        ("file:///home/me", "write null"),
        ("https://app.example.com:99999", "port is not valid"),
        ("https://app..example.com", "host or the port"),
        ("https://127.1", "host or the port"),
        ("https://[::1", "host or the port"),
    ],
)
def test_an_origin_that_cannot_match_is_refused_with_the_reason(written: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        normalize(written)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("origin", ["https://a.example.com", "https://a.b.example.com"])
def test_a_leading_wildcard_matches_subdomains_of_any_depth(origin: str) -> None:
    assert origin in Origins(["https://*.example.com"])


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.com",
        "https://evilexample.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://a.example.com.evil.example",
        "https://.example.com",
        "https://evil.example/.example.com",
        "https://evil.example:80.example.com",
        "https://@.example.com",
        "null",
    ],
)
def test_a_leading_wildcard_matches_nothing_else(origin: str) -> None:
    assert origin not in Origins(["https://*.example.com"])


async def test_configured_origins_are_reflected_and_others_are_not(unstarted: Deployment) -> None:
    listed = "HTTPS://App.example.com:443/, https://*.shop.example, null, capacitor://localhost, moz-extension://1b"
    unstarted.settings["cors_origins"] = listed
    allowed = [
        *("https://app.example.com", "https://a.b.shop.example", "null", "capacitor://localhost"),
        *("moz-extension://1b", "moz-extension://1B"),
    ]
    async with unstarted as deployment:
        for origin in allowed:
            for path in ("/api/models", "/nowhere"):
                response = await deployment.http.get(path, headers={"Origin": origin})
                assert response.headers["access-control-allow-origin"] == origin
                assert "Origin" in response.headers["vary"]
        for origin in ("https://shop.example", "https://app.example.com:8443", "http://app.example.com"):
            response = await deployment.http.get("/api/models", headers={"Origin": origin})
            assert "access-control-allow-origin" not in response.headers
            assert "Origin" in response.headers["vary"]
        assert "Origin" in (await deployment.http.get("/api/models")).headers["vary"]


async def preflight(deployment: Deployment, origin: str, headers: str, method: str = "POST") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return await deployment.http.options("/api/generate", headers=asked)


async def test_a_preflight_allows_the_documented_headers(unstarted: Deployment) -> None:
    unstarted.settings["cors_origins"] = "https://app.example.com"
    async with unstarted as deployment:
        response = await preflight(deployment, "https://app.example.com", HEADERS)
        assert response.status_code == 200
        assert set(HEADERS.split(", ")) <= set(response.headers["access-control-allow-headers"].lower().split(", "))
        refused = await preflight(deployment, "https://app.example.com", "x-something-else")
        assert refused.status_code == 400
        assert "POLLCAST_CORS_ORIGINS" not in refused.text


@pytest.mark.parametrize("listed", ["", "https://app.example.com"])
async def test_a_refused_preflight_names_the_setting(unstarted: Deployment, listed: str) -> None:
    unstarted.settings["cors_origins"] = listed
    async with unstarted as deployment:
        response = await preflight(deployment, "https://evil.example.com", "authorization")
        assert (response.status_code, response.json()["code"]) == (400, "bad_request")
        assert "POLLCAST_CORS_ORIGINS" in response.json()["message"]
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("listed", ["", "https://app.example.com"])
async def test_each_refused_origin_is_logged_once(
    unstarted: Deployment, listed: str, caplog: pytest.LogCaptureFixture
) -> None:
    unstarted.settings["cors_origins"] = listed
    async with unstarted as deployment:
        for origin in ("https://one.example", "https://two.example", "https://one.example"):
            await deployment.http.get("/api/models", headers={"Origin": origin})
            await preflight(deployment, origin, "authorization")
    messages = [record.getMessage() for record in caplog.records if record.name == "proxy.api.cors"]
    assert len(messages) == 2
    assert "https://one.example" in messages[0]
    assert "POLLCAST_CORS_ORIGINS" in messages[0]


async def test_same_origin_pages_and_public_files_are_not_logged(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    order = {"model": "suno", "prompt": "A song"}
    assert (
        await deployment.http.post("/api/jobs", json=order, headers={"Origin": deployment.origin})
    ).status_code == 202
    same = {"Origin": "https://front.example", "Sec-Fetch-Site": "same-origin"}
    assert (await deployment.http.get("/api/models", headers=same)).status_code == 200
    script = await deployment.http.get("/pollcast.js", headers={"Origin": "https://any.example"})
    assert script.headers["access-control-allow-origin"] == "*"
    assert not [record for record in caplog.records if record.name == "proxy.api.cors"]


async def test_many_origins_fill_neither_the_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    caplog.set_level(logging.WARNING)

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def nothing(*_: object) -> None:
        return

    cors = Cors(app, Origins([]), "http://127.0.0.1:8000", lambda: now[0])

    async def ask(origin: bytes) -> None:
        scope = {"type": "http", "method": "GET", "headers": [(b"origin", origin)]}
        await cors(scope, nothing, nothing)  # type: ignore[arg-type]

    for number in range(1000):
        await ask(b"https://\x1b[2J%d\n.example" % number + b"x" * 10_000)
    assert len(caplog.records) == 100
    assert all(record.getMessage().isprintable() and len(record.getMessage()) < 400 for record in caplog.records)
    now[0] = 3601
    await ask(b"https://again.example")
    assert "https://again.example" in caplog.records[-1].getMessage()


async def test_an_internal_error_carries_the_headers(unstarted: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(*_: object) -> None:
        raise RuntimeError("broken")

    unstarted.settings["cors_origins"] = "https://app.example.com"
    async with unstarted as deployment:
        monkeypatch.setattr("proxy.api.catalogue.Catalogue.as_json", breaks)
        response = await deployment.http.get("/api/models", headers={"Origin": "https://app.example.com"})
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.headers["access-control-allow-origin"] == "https://app.example.com"
