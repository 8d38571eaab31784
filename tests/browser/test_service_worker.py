"""A page whose service worker passes requests through, and which never closes its EventSource."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from tests.browser.conftest import Open
from tests.support.deployment import Deployment
from tests.support.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = "<!doctype html><link rel=icon href=data:,><title>A page with a service worker</title>"
WORKER = """
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => event.respondWith(fetch(event.request)));
"""
CONTROLLED = """async () => {
  await navigator.serviceWorker.register("/worker.js");
  if (!navigator.serviceWorker.controller) {
    await new Promise((done) => navigator.serviceWorker.addEventListener("controllerchange", done, { once: true }));
  }
}"""
LISTEN = """(link) => {
  window.seen = [];
  window.source = new EventSource(link);
  source.onmessage = ({ data }) => seen.push(JSON.parse(data).n);
}"""


async def _answer(request: web.Request) -> web.StreamResponse:
    if request.path == "/worker.js":
        return web.Response(text=WORKER, content_type="text/javascript")
    if request.path == "/two-seconds":
        return web.Response(text='retry: 2000\ndata: {"n": 1}\nid: 1\n\n', content_type="text/event-stream")
    return web.Response(text=PAGE, content_type="text/html")


@pytest_asyncio.fixture(loop_scope="session")
async def site() -> AsyncIterator[Site]:
    async with Site(_answer) as site:
        yield site


async def test_a_finished_job_is_not_replayed_every_two_seconds(
    deployment: Deployment, open_page: Open, site: Site
) -> None:
    """The control is a stream with Pollcast's usual `retry`. It is read three times, the finished job once."""
    job = await deployment.ended((await deployment.submit("suno", prompt="A song"))["id"])
    page = await open_page(site.url)
    await page.evaluate(CONTROLLED)
    await page.evaluate(LISTEN, job["links"]["events"])
    await page.wait_for_function(f"seen.length === {job['event']}")
    await page.evaluate("window.control = new EventSource('/two-seconds'), control.came = 0")
    await page.evaluate("control.onmessage = () => { control.came += 1; }")
    await page.wait_for_function("control.came >= 3")
    assert await page.evaluate("seen.length") == job["event"]
    await page.evaluate("control.close(), source.close()")


async def test_a_reconnect_looks_like_a_first_request(open_page: Open, site: Site) -> None:
    """So no answer can stop the reconnects: a reload, or another viewer, sends the same request."""
    page = await open_page(site.url)
    await page.evaluate(CONTROLLED)
    await page.evaluate("window.control = new EventSource('/two-seconds'), control.came = 0")
    await page.evaluate("control.onmessage = () => { control.came += 1; }")
    while len(asked := [dict(request.headers) for request in site.asked if request.path == "/two-seconds"]) < 2:
        await asyncio.sleep(0.02)
    await page.evaluate("control.close()")
    first, second = asked[:2]
    assert first == second
    assert "Last-Event-ID" not in second


async def test_every_other_viewer_gets_the_whole_replay(deployment: Deployment, open_page: Open, site: Site) -> None:
    """A remount (for example by React's StrictMode), a second tab and a reload, all behind the service worker."""
    job = await deployment.ended((await deployment.submit("suno", prompt="A song"))["id"])
    link, everything = job["links"]["events"], list(range(1, job["event"] + 1))
    page = await open_page(site.url)
    await page.evaluate(CONTROLLED)
    await page.evaluate(LISTEN, link)
    await page.evaluate("source.close()")
    await page.evaluate(LISTEN, link)
    await page.wait_for_function(f"seen.length === {len(everything)}")
    other = await open_page(site.url)
    await other.evaluate(CONTROLLED)
    await other.evaluate(LISTEN, link)
    await other.wait_for_function(f"seen.length === {len(everything)}")
    await page.reload()
    await page.evaluate(LISTEN, link)
    await page.wait_for_function(f"seen.length === {len(everything)}")
    for viewer in (page, other):
        assert await viewer.evaluate("seen") == everything
