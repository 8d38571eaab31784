"""A plain EventSource on a page of another origin, with a Link and without pollcast.js."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page, Request

from tests.browser.conftest import Open, PacedClock
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

LISTEN = """(link) => {
  window.seen = [];
  window.source = new EventSource(link);
  source.onmessage = ({ data, lastEventId }) => seen.push({ ...JSON.parse(data), id: lastEventId });
}"""


async def seen_to_the_end(page: Page) -> list[dict[str, Any]]:
    # A stopping server asks its clients to reconnect within five seconds, and may still be down at the first try.
    await page.wait_for_function("seen.at(-1)?.status === 'Completed'", timeout=20_000)
    events: list[dict[str, Any]] = await page.evaluate("seen")
    return events


async def test_eventsource_reads_to_completed_and_stops_after_one_more_request(
    deployment: Deployment, open_page: Open, elsewhere: str, asked: list[Request]
) -> None:
    clock: PacedClock = deployment.clock
    clock.run(0)
    job = await deployment.submit("gaga-1", prompt="Hello")
    page = await open_page(elsewhere)
    await page.evaluate(LISTEN, job["links"]["events"])
    await clock.step_until(page, "seen.length > 1")  # The stream of an ended job has a much longer retry.
    clock.run(30)
    events = await seen_to_the_end(page)
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["status"] == "Processing started"
    await page.wait_for_function("source.readyState === EventSource.CLOSED")
    await asyncio.sleep(0.5)  # Time for a third request, which must not come.
    answers = [await request.response() for request in asked if "/events" in request.url]
    assert [answer.status for answer in answers if answer] == [200, 204]
    assert await page.evaluate("seen.length") == len(events)


async def test_a_source_outlives_a_restart_of_the_server_without_loss_or_repetition(
    deployment: Deployment, open_page: Open, elsewhere: str, asked: list[Request], complaints: list[str]
) -> None:
    clock: PacedClock = deployment.clock
    clock.run(0)
    job = await deployment.submit("gaga-1", prompt="Hello")
    page = await open_page(elsewhere)
    await page.evaluate(LISTEN, job["links"]["events"])
    await clock.step_until(page, "seen.length > 1")
    assert await page.evaluate("seen.at(-1).status") == "Processing"
    await deployment.restart(same_port=True)
    clock.run(30)
    events = await seen_to_the_end(page)
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    assert sum("/events" in request.url for request in asked) > 1
    complaints.clear()  # Chromium logs that a stream broke.
