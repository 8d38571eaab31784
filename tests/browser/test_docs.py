"""The page at `/docs`, on a screen and with a keyboard."""

import asyncio

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Open
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_nothing_is_wider_than_the_screen(deployment: Deployment, open_page: Open) -> None:
    page = await open_page(f"{deployment.origin}/docs")
    for width in (320, 390, 700, 1280):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_all_of_it_is_its_main_part(deployment: Deployment, open_page: Open) -> None:
    page = await open_page(f"{deployment.origin}/docs")
    await expect(page.get_by_role("main").get_by_role("heading", level=1)).to_be_visible()
    assert await page.evaluate("document.body.children.length") == 1


async def test_a_wide_example_can_be_scrolled_with_the_keyboard(deployment: Deployment, open_page: Open) -> None:
    page = await open_page(f"{deployment.origin}/docs")
    await page.set_viewport_size({"width": 320, "height": 800})
    examples = page.locator("pre")
    wide = await examples.evaluate_all("(all) => all.findIndex((e) => e.scrollWidth > e.clientWidth)")
    # Chromium makes scrolling elements focusable. Other browsers need a tabindex.
    assert await examples.evaluate_all("(all) => all.every((e) => e.tabIndex === 0)")
    await examples.nth(wide).focus()
    await page.keyboard.press("ArrowRight")
    async with asyncio.timeout(10):  # The page's content security policy forbids Playwright's wait inside the page.
        while not await examples.nth(wide).evaluate("(e) => e.scrollLeft"):
            await asyncio.sleep(0.02)
