"""Requests to providers through an HTTP proxy, and the User-Agent of all requests."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr
from yarl import URL

from proxy.app import Pollcast
from proxy.cli.check import check_all
from proxy.core import errors
from proxy.core.clock import SystemClock
from proxy.core.settings import BadSetting, Settings, load, proxy_secrets, through
from proxy.providers.gaga import Gaga, GagaSettings
from proxy.upstream.answers import NotTaken, Transient
from proxy.upstream.classify import Dialect
from proxy.upstream.client import Upstream
from proxy.upstream.requests import Request
from proxy.upstream.sessions import USER_AGENT
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes
from tests.support.deployment import Deployment, JumpClock
from tests.support.forward_proxy import ForwardProxy
from tests.support.fronts import certificate, trusting
from tests.support.registry import REGISTRY
from tests.support.site import Rerouted, Site
from tests.upstream.test_upstream import CREDENTIAL, KEY, reply

ORDER = Request("/v1/x", json={"prompt": "A cat"})
TUNNEL_REFUSALS = [
    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nNope",
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    b"",
    b"SSH-2.0-OpenSSH_9.2\r\n",
]


@asynccontextmanager
async def client_behind(origin: str, proxy: str, times: UpstreamTimes = DEFAULT_TIMES) -> AsyncIterator[Upstream]:
    dialect = Dialect(CREDENTIAL, proxy_secrets=["secret"])
    async with Upstream(origin, dialect, JumpClock(), rate=50, proxy=URL(proxy), times=times) as upstream:
        yield upstream


@asynccontextmanager
async def secure_site(folder: Path) -> AsyncIterator[int]:
    """Serve a provider on https that answers every request with a ticket. Yield its port."""
    made, key = certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return web.json_response({"id": 1})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_plain_requests_go_through_the_proxy_in_absolute_form() -> None:
    async with (
        Site(reply(200, {"id": 1})) as site,
        ForwardProxy() as proxy,
        client_behind(site.url, proxy.url) as upstream,
    ):
        assert (await upstream.submit(ORDER)).object() == {"id": 1}
        await upstream.get("/v1/x/1")
        assert proxy.targets() == [f"{site.url}/v1/x", f"{site.url}/v1/x/1"]
        assert [asked.headers["Authorization"] for asked in site.asked] == [f"Bearer {KEY}"] * 2
        assert {asked.headers["User-Agent"] for asked in site.asked} == {USER_AGENT}


async def test_https_goes_through_a_tunnel_that_sees_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with secure_site(tmp_path) as port, ForwardProxy("user:pass word") as proxy:
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting(tmp_path))
        through_it = f"http://user:pass%20word@127.0.0.1:{proxy.port}"
        async with client_behind(f"https://127.0.0.1:{port}", through_it) as upstream:
            assert (await upstream.submit(ORDER)).object() == {"id": 1}
            assert (await upstream.get("/v1/x/1")).object() == {"id": 1}
        assert proxy.targets() == [f"127.0.0.1:{port}"] * 2
        for head in proxy.heads:
            assert KEY.encode() not in head
            assert f"User-Agent: {USER_AGENT}".encode() in head


@pytest.mark.parametrize("refusal", TUNNEL_REFUSALS)
async def test_with_a_refused_tunnel_nothing_was_sent(refusal: bytes) -> None:
    async with ForwardProxy(refusal=refusal) as proxy, client_behind("https://127.0.0.1:1", proxy.url) as upstream:
        with pytest.raises(NotTaken) as caught:
            await upstream.submit(ORDER)
    assert isinstance(caught.value.error, errors.UpstreamUnreachable)


async def test_a_proxy_that_never_answers_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client_behind(
        "https://127.0.0.1:1", f"http://127.0.0.1:{port}", UpstreamTimes(connect_in_all=0.2)
    ) as upstream:
        with pytest.raises(NotTaken):
            await upstream.submit(ORDER)
    server.close()


async def test_with_an_unreachable_proxy_nothing_was_sent() -> None:
    async with ForwardProxy() as proxy:
        gone = proxy.url
    for origin in ("http://127.0.0.1:1", "https://127.0.0.1:1"):
        async with client_behind(origin, gone) as upstream:
            with pytest.raises(NotTaken, match="its proxy takes no connection"):
                await upstream.submit(ORDER)


async def test_a_plain_407_comes_from_the_proxy_and_is_transient() -> None:
    async with ForwardProxy("user:other") as proxy, client_behind("http://127.0.0.1:1", proxy.url) as upstream:
        with pytest.raises(NotTaken, match="407"):
            await upstream.submit(ORDER)
        with pytest.raises(Transient, match="407"):
            await upstream.get("/v1/x/1")


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"504 Gateway Timeout"])
async def test_a_proxys_own_gateway_error_leaves_the_outcome_open(status: bytes) -> None:
    refusal = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    async with ForwardProxy(refusal=refusal) as proxy, client_behind("http://127.0.0.1:1", proxy.url) as upstream:
        with pytest.raises(errors.OutcomeUnknown):
            await upstream.submit(ORDER)


async def test_only_results_on_the_origin_use_the_proxy() -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(Site(reply(200, b"bytes")))
        proxy = await stack.enter_async_context(ForwardProxy())
        upstream = await stack.enter_async_context(client_behind(site.url, proxy.url))
        fetcher = await stack.enter_async_context(Rerouted(site))
        for url in (f"{site.url}/content", "https://cdn.example.com/video"):
            async with fetcher.open(url, own=upstream.without_credential) as remote:
                assert remote.status == 200
        assert proxy.targets() == [f"{site.url}/content"]
        assert [asked.path for asked in site.asked] == ["/content", "/video"]
        assert {asked.headers["User-Agent"] for asked in site.asked} == {USER_AGENT}


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with (
        Site(reply(200, {"id": 1})) as site,
        Upstream(site.url, Dialect(CREDENTIAL), JumpClock(), rate=50) as upstream,
    ):
        assert (await upstream.submit(ORDER)).object() == {"id": 1}


async def test_a_job_runs_through_the_installations_proxy(unstarted: Deployment) -> None:
    async with ForwardProxy("user:pass-word") as proxy:
        unstarted.settings["upstream_proxy"] = f"http://user:pass-word@127.0.0.1:{proxy.port}"
        async with unstarted as deployment:
            image = await deployment.asset("image")
            assert (await deployment.generate("gaga-1", prompt="x", image=image))[-1]["status"] == "Completed"
            assert "pass-word" in deployment.app.secrets
        assert len(proxy.heads) >= 3  # the upload, the order and a poll


async def test_check_asks_providers_through_the_proxy(tmp_path: Path) -> None:
    async with Site(reply(404, {"detail": "not there"})) as site, ForwardProxy() as proxy:
        settings = load(
            Settings, store=f"sqlite:///{tmp_path}/s.db", assets=str(tmp_path / "a"), upstream_proxy=proxy.url
        )
        gaga = load(GagaSettings, base_url=site.url, api_key="sk-1")
        found = [finding async for finding in check_all(settings, [(Gaga, gaga)], SystemClock())]
        assert found[-1].works
        assert proxy.targets() == [f"{site.url}/v1/assets/1"]


BAD_PROXIES = [
    "proxy.example.com:3128",
    "https://user:hunter22@proxy.example.com",
    "socks5://user:hunter22@proxy.example.com",
    "http://user:hunter22@:3128",
    "http://user:hunter22@proxy.example.com:0",
    "http://user:hunter22@proxy.example.com:99999",
    "http://user:hunter22@proxy.example.com/path",
    "http://user:hunter22@proxy.example.com?a=b",
    "http://user:hunt er22@proxy.example.com",
    "http://[::1",
]


@pytest.mark.parametrize("value", BAD_PROXIES)
@pytest.mark.parametrize(("name", "kind"), [("POLLCAST_UPSTREAM_PROXY", Settings), ("GAGA_PROXY", GagaSettings)])
def test_a_bad_proxy_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Settings] | type[GagaSettings], value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"^{name}: must be the URL of an HTTP proxy") as caught:
        load(kind)
    assert "hunter" not in str(caught.value)


def test_a_providers_own_proxy_wins_over_the_installations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLCAST_UPSTREAM_PROXY", "http://one.example.com:3128")
    monkeypatch.setenv("GAGA_PROXY", "http://two.example.com:3128")
    settings = load(Settings)
    proxies = {kind.name: through(load(kind.settings_type), settings).proxy for kind in REGISTRY.providers}
    assert proxies.pop("Gaga") == SecretStr("http://two.example.com:3128")
    assert set(proxies.values()) == {SecretStr("http://one.example.com:3128")}


def test_a_proxys_credentials_are_secret_in_every_form() -> None:
    secrets = proxy_secrets(SecretStr("http://user:p%40ss@proxy.example.com:3128"))
    assert {"user:p%40ss", "p%40ss", "p@ss", "dXNlcjpwQHNz"} <= set(secrets)
    assert proxy_secrets(SecretStr("http://proxy.example.com:3128")) == []


def test_the_application_masks_a_proxys_password() -> None:
    settings = load(Settings, upstream_proxy="http://user:hunter22@proxy.example.com")
    assert "hunter22" in Pollcast(settings).secrets
    assert "hunter22" not in repr(settings)
