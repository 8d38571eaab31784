"""Fixtures: a real Chromium for each worker, a deployment with a paced clock, and checks of the pages' consoles."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Route,
    async_playwright,
    expect,
)

from tests.support.deployment import Deployment
from tests.support.site import Site

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
PATIENCE = 15_000
"""Timeout for an action of a page, in milliseconds. It has a reserve for busy machines."""
STEP = 0.1
"""Simulated seconds between two checks of a page. A job takes at least fifty such steps."""

expect.set_options(timeout=PATIENCE)

Open = Callable[[str], Awaitable[Page]]


class PacedClock:
    """Clock that runs at a multiple of real time. A test can change the pace; 0 stops all timers."""

    def __init__(self, pace: float) -> None:
        self._at, self._since, self._pace = time.time(), time.monotonic(), pace

    def now(self) -> float:
        return self._at + (time.monotonic() - self._since) * self._pace

    def monotonic(self) -> float:
        return self.now()

    def run(self, pace: float) -> None:
        self._at, self._since, self._pace = self.now(), time.monotonic(), pace

    async def step_until(self, page: Page, condition: str) -> None:
        """Advance the time in small steps until a condition holds in the page, then stop it.

        At a steady pace, a job could end before a page on a busy machine has received its events.
        """
        self.run(0)
        async with asyncio.timeout(PATIENCE / 1000):
            while not await page.evaluate(condition):
                self._at += STEP
                await asyncio.sleep(0.01)

    async def sleep(self, seconds: float) -> None:
        due = self.now() + seconds
        while self.now() < due:
            await asyncio.sleep(0.005)


def _without(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI is set: these tests must run.")
    pytest.skip(f"{what}.")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        _without("There is no Chromium on this machine")
    async with async_playwright() as playwright:
        try:
            running = await playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        except Error as error:
            _without(f"{found} does not start: {error.message.splitlines()[0]}")
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="session")
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """A deployment at thirty times real speed, open to every origin."""
    async with Deployment(tmp_path, clock=PacedClock(30), settings={"cors_origins": ["*"]}) as deployment:
        yield deployment


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere() -> AsyncIterator[str]:
    """URL of an empty page on another origin."""

    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(
            text="<!doctype html><link rel=icon href=data:,><title>Elsewhere</title>", content_type="text/html"
        )

    async with Site(page) as site:
        yield site.url


@pytest.fixture
def complaints() -> list[str]:
    """Errors in the consoles of the pages. A test removes those that it expects."""
    return []


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser, complaints: list[str]) -> AsyncIterator[BrowserContext]:
    """A visitor with separate storage and clipboard. At the end, no page may have written an error to its console."""

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE)
    context.on("console", heard)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    await context.close()
    assert complaints == []


async def lose_first_answer(context: BrowserContext) -> asyncio.Event:
    """Drop the answer to the first order. The returned event is set when the server has sent it."""
    given = asyncio.Event()

    async def first(route: Route) -> None:
        if route.request.method == "POST" and not given.is_set():
            await route.fetch()
            given.set()
        else:
            await route.continue_()

    await context.route("**/api/jobs", first)
    return given


@pytest.fixture
def asked(context: BrowserContext) -> list[Request]:
    """Record the requests of the visitor's pages."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)

    context.on("request", note)
    return requests


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(context: BrowserContext) -> Open:
    async def open_(url: str) -> Page:
        page = await context.new_page()
        await page.goto(url)
        return page

    return open_
