"""Tests of `doctor` with servers behind real proxies, both misconfigured and correctly configured."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from proxy.cli.probe import Examination, NoAnswer, ProxyFinding
from proxy.core.clock import SystemClock
from tests.cli.test_cli import command
from tests.support.deployment import Deployment
from tests.support.fronts import documented_nginx, plain_nginx
from tests.support.site import Site

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def real(unstarted: Deployment) -> AsyncIterator[Deployment]:
    """A world on real time, whose heartbeats come every second."""
    unstarted.clock = SystemClock()
    unstarted.settings["heartbeat"] = 1
    async with unstarted:
        yield unstarted


async def found(url: str, *, idle: float = 0.1, **more: Any) -> list[ProxyFinding]:
    return [finding async for finding in Examination(url, idle=idle, gap=0.2, **more).findings()]


async def troubles(url: str, *, idle: float = 0.1, **more: Any) -> list[ProxyFinding]:
    return [finding for finding in await found(url, idle=idle, **more) if not finding.is_good]


async def test_a_server_without_a_proxy_has_no_problem(real: Deployment) -> None:
    findings = await found(real.origin, idle=3, silence=1, key=real.key)
    assert [finding.text for finding in findings if not finding.is_good] == []
    text = "\n".join(finding.text for finding in findings)
    for said in (
        "HTTP/1.1",
        "one by one",
        "not compressed",
        "stayed open for 3 s",
        "key is accepted",
        "Links lead to this URL",
    ):
        assert said in text


async def test_nginx_with_its_defaults_has_no_problem(real: Deployment, tmp_path: Path) -> None:
    with plain_nginx(tmp_path / "nginx", real.origin) as front:
        assert await troubles(front, idle=3) == []


async def test_the_documented_nginx_is_well_and_offers_http_2(
    real: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with documented_nginx(tmp_path / "nginx", real.origin) as front:
        made = tmp_path / "nginx" / "made.pem"
        trusting = ssl.create_default_context(cafile=made)
        monkeypatch.setenv("SSL_CERT_FILE", str(made))
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
        findings = await found(front)
        assert all(finding.is_good for finding in findings)
        assert "HTTP/2 is offered" in findings[0].text


@asynccontextmanager
async def hoarding(origin: str) -> AsyncIterator[str]:
    """Proxy that forwards a response only when it is complete."""

    async def whole(request: web.Request) -> web.StreamResponse:
        async with ClientSession() as session, session.get(origin + request.path_qs) as answer:
            headers = {
                name: answer.headers[name] for name in ("Content-Type", "Cache-Control") if name in answer.headers
            }
            return web.Response(body=await answer.read(), headers=headers)

    async with Site(whole) as site:
        yield site.url


async def test_a_buffering_proxy_is_detected_by_marks_that_arrive_together(real: Deployment) -> None:
    async with hoarding(real.origin) as front:
        (trouble,) = await troubles(front)
        lump = r"6 marks sent 0\.2 s apart arrived together, the last one 1\.\d s after the request: a proxy buffers"
        assert re.fullmatch(lump, trouble.text)
        assert [line.split(":")[0] for line in trouble.fixes] == ["nginx", "Caddy", "Cloudflare"]
        assert "proxy_buffering off;" in trouble.fixes[0]


async def test_delayed_heartbeats_are_reported(real: Deployment) -> None:
    async with hoarding(real.origin) as front:
        texts = [trouble.text for trouble in await troubles(front, idle=3)]
        assert any(text.startswith("heartbeats were delayed: no byte arrived for 3") for text in texts)


GZIP = "proxy_http_version 1.1; gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;"
HOARD = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"


async def test_an_nginx_that_compresses_and_buffers_is_reported(real: Deployment, tmp_path: Path) -> None:
    with plain_nginx(tmp_path / "nginx", real.origin, location=GZIP + HOARD) as front:
        (trouble,) = await troubles(front)
        assert "compressed (gzip)" in trouble.text
        assert re.search(r"arrived together, the last one 1\.\d s after", trouble.text)
        assert [line.split(":")[0] for line in trouble.fixes] == ["nginx"]
        assert "gzip off;" in trouble.fixes[0]


async def test_an_nginx_that_only_compresses_is_reported(real: Deployment, tmp_path: Path) -> None:
    with plain_nginx(tmp_path / "nginx", real.origin, location=GZIP) as front:
        (trouble,) = await troubles(front)
        assert "compressed (gzip)" in trouble.text
        assert "one by one" in trouble.text


async def test_an_nginx_that_only_ignores_the_stream_s_headers_is_harmless(real: Deployment, tmp_path: Path) -> None:
    with plain_nginx(tmp_path / "nginx", real.origin, location=HOARD) as front:
        assert await troubles(front) == []


async def test_a_proxy_that_cuts_idle_streams_is_reported_with_its_timeout(real: Deployment, tmp_path: Path) -> None:
    real.settings["heartbeat"] = 4
    await real.restart()
    impatient = "proxy_http_version 1.1; proxy_read_timeout 1s;"
    with plain_nginx(tmp_path / "nginx", real.origin, location=impatient) as front:
        (trouble,) = await troubles(front, idle=2)
        assert re.fullmatch(r"the stream was cut after 1\.\d s without a byte: a timeout", trouble.text)
        assert trouble.fixes[0].startswith("nginx: proxy_read_timeout")
        assert trouble.fixes[1].startswith("Pollcast: POLLCAST_HEARTBEAT")


async def test_a_time_out_that_heartbeats_hide_is_found_by_silence(real: Deployment, tmp_path: Path) -> None:
    impatient = "proxy_http_version 1.1; proxy_read_timeout 2s;"
    with plain_nginx(tmp_path / "nginx", real.origin, location=impatient) as front:
        assert await troubles(front, idle=3) == []
        (trouble,) = await troubles(front, silence=3)
        assert re.search(r"cut after 2\.\d s", trouble.text)


async def test_a_proxy_that_changes_stream_headers_is_reported(real: Deployment, tmp_path: Path) -> None:
    wrong = "proxy_hide_header Cache-Control; add_header Cache-Control public;"
    with plain_nginx(tmp_path / "nginx", real.origin, location=wrong) as front:
        (trouble,) = await troubles(front)
        assert "'public', without no-store, no-transform" in trouble.text


async def test_a_key_removed_by_a_proxy_is_reported(real: Deployment, tmp_path: Path) -> None:
    assert "refused" in (await troubles(real.origin, key="nobody"))[0].text
    with plain_nginx(tmp_path / "nginx", real.origin, location='proxy_set_header Authorization "";') as front:
        assert "removes the Authorization header" in (await troubles(front, key=real.key))[0].text


async def test_links_to_another_address_are_reported(real: Deployment, tmp_path: Path) -> None:
    with plain_nginx(tmp_path / "nginx", real.origin) as front:
        (trouble,) = await troubles(front, key=real.key)
        assert trouble.text == f"Links lead to {real.origin}, not to {front}"
        assert trouble.fixes == (f"Pollcast: POLLCAST_PUBLIC_URL={front}",)


@pytest.mark.parametrize("url", ["cast.example.com", "ftp://cast.example.com", "http://127.0.0.1:1", "http://[", ""])
async def test_an_unreachable_server_is_reported_in_one_line(url: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        await found(url)
    assert "\n" not in str(caught.value)


async def test_another_kind_of_server_is_no_pollcast(real: Deployment) -> None:
    with pytest.raises(NoAnswer, match="Is this a Pollcast server"):
        await found(f"{real.origin}/elsewhere")


async def test_the_exit_status_is_0_only_without_findings(real: Deployment, tmp_path: Path) -> None:
    well = await asyncio.to_thread(command, "doctor", real.origin, "--idle", "0.5")
    assert (well.returncode, well.stderr) == (0, "")
    assert all(line.startswith("ok ") for line in well.stdout.splitlines())
    with plain_nginx(tmp_path / "nginx", real.origin, location=GZIP + HOARD) as front:
        ill = await asyncio.to_thread(command, "doctor", front, "--idle", "0.5")
    assert ill.returncode == 1
    assert "PROBLEM  a stream is compressed (gzip)" in ill.stdout
    assert "nginx: gzip off;" in ill.stdout
    gone = await asyncio.to_thread(command, "doctor", "http://127.0.0.1:1")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith("Error: http://127.0.0.1:1 cannot be reached")
