"""Secrets never appear in logs, errors, events or pages, after valid and invalid requests of every kind."""

import io
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from aiohttp import web

from proxy.app import Pollcast
from proxy.core.settings import Settings, load
from proxy.providers.registry import ProviderKind
from proxy.simulator import PROMPT_FAULTS
from proxy.store.sqlite.store import SqliteStore
from proxy.telemetry.logs import ConsoleFormatter, JsonFormatter, Mask
from tests.cli.test_check import findings
from tests.support.deployment import Deployment
from tests.support.registry import REGISTRY, short
from tests.support.site import Site

PLANTED = "planted"
LINKS = "the-secret-of-links-planted-too"


KEYS = {short(kind): f"sk-{short(kind)}-{PLANTED}" for kind in REGISTRY.providers}


@pytest.fixture
def log() -> Iterator[dict[str, io.StringIO]]:
    """The log in both formats at every level, with a mask that knows no secret."""
    root, level = logging.getLogger(), logging.getLogger().level
    streams = {}
    handlers: list[logging.Handler] = []
    for form in (JsonFormatter, ConsoleFormatter):
        streams[form.__name__] = io.StringIO()
        handlers.append(logging.StreamHandler(streams[form.__name__]))
        handlers[-1].setFormatter(form(Mask()))
        handlers[-1].addFilter(lambda record: not record.name.startswith("http"))  # the tests' own client
        root.addHandler(handlers[-1])
    root.setLevel(logging.DEBUG)
    yield streams
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


class Told:
    """Everything that was answered."""

    def __init__(self) -> None:
        self.text = ""

    async def hear(self, response: httpx.Response) -> None:
        self.text += f"\n{response.status_code} {response.headers}\n"
        if "event-stream" not in response.headers.get("content-type", ""):
            self.text += (await response.aread()).decode(errors="replace")


@pytest.fixture
async def planted(unstarted: Deployment) -> AsyncIterator[Deployment]:
    unstarted.settings = {"secret": LINKS}
    unstarted.providers = {kind.name: {"api_key": KEYS[short(kind)]} for kind in REGISTRY.providers}
    unstarted.simulator.keys.update(KEYS)
    async with unstarted as deployment:
        yield deployment


async def everything(deployment: Deployment, told: Told) -> None:
    """Every endpoint, every fault that a prompt can ask for, refusals of each kind, and Links good and bad."""
    deployment.http.event_hooks["response"] = [told.hear]
    for word in PROMPT_FAULTS:
        if word == "[stuck]":
            continue
        for order in orders(word):
            told.text += str(await deployment.generate(**order))
    job = (await deployment.generate("gpt-5.4-mini", prompt="Why stream?"))[0]["job"]
    shown = (await deployment.http.get(f"/api/jobs/{job}")).json()
    for link in (shown["links"]["events"], shown["links"]["content"], shown["url"]):
        for bad in (link, link + "x", re.sub(r"expires=\d+", "expires=1", link)):
            await deployment.http.get(bad, headers={"Authorization": ""})
    wish = {"path": f"/api/jobs/{job}/content", "ttl": 1}
    await deployment.http.get((await deployment.http.post("/api/links", json=wish)).json()["url"])
    await deployment.asset("image")
    for path in PATHS:
        await deployment.http.get(path)
    for path in (f"/api/jobs/{job}x", f"/api/jobs?key={deployment.key}"):
        await deployment.http.get(path)
    await deployment.http.get("/api/jobs", headers={"Authorization": f"Bearer {deployment.key}x"})
    await deployment.http.post("/api/jobs?dry_run=1", json={"model": "gaga-1", "prompt": "Hello"})
    deployment.http.event_hooks["response"] = []
    # The answer may quote the client's own key; the log may not.
    await deployment.http.post("/api/jobs", json={"model": deployment.key})
    await deployment.http.get(f"/api/jobs/{deployment.key}")


PATHS = [
    *("/", "/docs", "/openapi.json", "/pollcast.js", "/api/models", "/metrics", "/readyz", "/nowhere"),
    *("/api/account", "/api/account/ledger", "/api/jobs", "/api/ping?marks=2&gap=1"),
]


def orders(word: str) -> list[dict[str, Any]]:
    return [
        {"model": "gaga-1", "prompt": word},
        {"model": "gpt-image-2", "prompt": word},
        {"model": "grok-imagine-video", "prompt": word},
        {"model": "suno", "prompt": word},
        {"model": "ganai-bulk", "items": [{"unique_id": "a", "tag": word}, {"unique_id": "b"}]},
        {"model": "heygen-v1", "prompt": word, "avatar_id": "Anna"},
    ]


@pytest.mark.timeout(120)
async def test_no_secret_reaches_a_log_an_error_or_a_page(planted: Deployment, log: dict[str, io.StringIO]) -> None:
    told = Told()
    await everything(planted, told)
    signatures = set(re.findall(r"signature=([\w-]{20,})", told.text))
    assert signatures
    logged = "".join(stream.getvalue() for stream in log.values())
    assert '"message":"request"' in logged
    for secret in (planted.key, LINKS, *KEYS.values()):
        assert secret not in told.text
        assert secret not in logged
    for signature in signatures:
        assert signature not in logged


@pytest.mark.parametrize("model", ["gaga-1", "gpt-image-2", "suno", "ganai-bulk", "heygen-v1"])
async def test_a_provider_s_error_that_contains_our_key_is_masked(
    planted: Deployment, log: dict[str, io.StringIO], model: str
) -> None:
    async def tell(request: web.Request) -> web.Response:
        return web.json_response({"code": 1, "message": f"What is {dict(request.headers)}?"}, status=400)

    async with Site(tell) as site:
        for settings in planted.providers.values():
            settings["base_url"] = site.url
        await planted.restart()
        order = next(order for order in orders("Hello") if order["model"] == model)
        final = (await planted.generate(**order))[-1]
    assert final["status"] == "Error"
    assert "What is" in final["message"]
    for text in (str(final), *(stream.getvalue() for stream in log.values())):
        assert PLANTED not in text


async def test_an_internal_error_reveals_no_secret_of_the_request(
    planted: Deployment, log: dict[str, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"Bearer {planted.key}")

    monkeypatch.setattr(SqliteStore, "jobs", broken)
    response = await planted.http.get("/api/jobs")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    logged = "".join(stream.getvalue() for stream in log.values())
    assert "RuntimeError" in logged
    assert planted.key not in logged + response.text


@pytest.mark.parametrize("metrics", ["", "public", "off", "a-token-planted"])
def test_the_app_lists_the_operator_s_secrets(metrics: str) -> None:
    providers = {kind.name: load(kind.settings_type, api_key=KEYS[short(kind)]) for kind in REGISTRY.providers}
    app = Pollcast(load(Settings, secret="one,two", metrics=metrics), providers)
    token = [metrics] if PLANTED in metrics else []
    assert sorted(app.secrets) == sorted(["one", "two", *KEYS.values(), *token])


@pytest.mark.parametrize("kind", REGISTRY.providers, ids=lambda kind: kind.name)
async def test_the_check_quotes_no_key(kind: ProviderKind) -> None:
    async def tell(request: web.Request) -> web.Response:
        return web.json_response({"message": f"What is {dict(request.headers)}?"}, status=401)

    async with Site(tell) as site:
        found = await findings(kind, base_url=site.url, api_key=f"sk-{PLANTED}")
    assert "What is" in str(found[kind.name])
    assert PLANTED not in " ".join(map(str, found.values()))
